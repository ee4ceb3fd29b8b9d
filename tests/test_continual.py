"""Continual learning: known answers, the metrics' definitions, references that are clones, and resuming to the bit."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import make_pairs

import minari_obd
from minari_obd.cli.application import main
from minari_obd.continual import learning as continual_learning
from minari_obd.continual.recipe import load_continual, run_continual
from minari_obd.continual.report import ContinualReport, ContinualTask, backward_transfer, continual_table, forgetting
from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.errors import DataError, FormatError, NotFoundError, SettingError
from minari_obd.scores.references import ReferenceScores
from minari_obd.settings.protocols import StudentProtocol
from minari_obd.sources.benchmark import BENCHMARK
from minari_obd.sources.scaling import Normaliser

RECIPES = Path(__file__).parents[1] / "recipes" / "continual"
SIDES = {"lab/Left-v0": -1.0, "lab/Right-v0": 1.0}
STUDENT = StudentProtocol(depth=1, width=32, steps=300, optimiser="adam", learning_rate=3e-3)
REFERENCE = ReferenceScores(-0.5, 0.0, "uniform actions are about so far off, and a perfect one is not")


class Side(gym.Env):
    """One-step episodes with the observation (x, side) and the reward -(action - side x / 2)^2."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float64)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, side: float) -> None:
        self.side = side

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.state = np.array([self.np_random.uniform(-1.0, 1.0), self.side])
        return self.state, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        return self.state, -float((action[0] - self.side * self.state[0] / 2) ** 2), True, False, {}


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    for name, side in SIDES.items():
        gym.register(name, f"{__name__}:Side", kwargs={"side": side})
    yield
    for name in SIDES:
        del gym.registry[name]


def pairs_of(env_id: str, *, seed: int = 0, size: int = 24) -> DistilledDataset:
    """Pairs of the best policy."""
    x = np.random.default_rng(seed).uniform(-1, 1, size)
    observations = np.stack([x, np.full(size, SIDES[env_id])], axis=1)
    return replace(
        make_pairs(seed, env_id=env_id, size=size, shape=(2, 1)),
        observations=observations,
        actions=SIDES[env_id] * x[:, None] / 2,
        normaliser=Normaliser.fit(observations),
        action_low=np.array([-1.0]),
        action_high=np.array([1.0]),
        protocol=STUDENT,
        reference=REFERENCE,
    )


@pytest.fixture
def tasks() -> list[DistilledDataset]:
    return [pairs_of("lab/Left-v0"), pairs_of("lab/Right-v0", seed=1)]


def learn(tasks: list[DistilledDataset], strategy: Any = "rehearsal", **given: Any) -> ContinualReport:
    return minari_obd.learn_continually(tasks, strategy, **{"students": 3, "episodes": 20, "progress": False, **given})


def outcome(report: ContinualReport) -> str:
    parameters = [p.numpy().tobytes().hex() for policy in report.policies for p in policy.parameters]
    return json.dumps([{**report.to_json(), "seconds": 0.0}, parameters])


def test_the_metrics_are_their_definitions() -> None:
    """Three tasks, the last row being what is left in the end."""
    scores = np.array([[50.0, 0.0, 5.0], [30.0, 60.0, 0.0], [20.0, 70.0, 40.0]])
    assert forgetting(scores) == pytest.approx(((50 - 20) + (60 - 70)) / 2)
    assert backward_transfer(scores) == pytest.approx(((20 - 50) + (70 - 60)) / 2)
    late = np.array([[50.0, 0.0, 5.0], [80.0, 60.0, 0.0], [20.0, 70.0, 40.0]])  # best at another stage than its own
    assert forgetting(late) == pytest.approx(((80 - 20) + (60 - 70)) / 2)
    assert backward_transfer(late) == pytest.approx(((20 - 50) + (70 - 60)) / 2)
    both = np.stack([scores, late], axis=-1)
    np.testing.assert_allclose(forgetting(both), [forgetting(scores), forgetting(late)])


def test_without_rehearsal_the_first_task_is_forgotten_and_with_it_not(tasks: list[DistilledDataset]) -> None:
    naive, rehearsed = learn(tasks, "none"), learn(tasks, "rehearsal")
    for report in (naive, rehearsed):
        assert report.unit == "score"
        assert report.matrix[0][0].mean > 97.0  # learned
        assert report.matrix[1][1].mean > 97.0
        assert report.matrix[0][1].mean < 80.0  # not yet
    assert naive.matrix[0][0] == rehearsed.matrix[0][0]
    assert naive.forgetting is not None
    assert rehearsed.forgetting is not None
    assert naive.forgetting.low > 5.0
    assert rehearsed.forgetting.high < 2.0
    assert naive.backward_transfer is not None
    assert naive.backward_transfer.mean == pytest.approx(-naive.forgetting.mean)  # two tasks: the same but for the sign
    assert rehearsed.average.low > naive.average.high
    assert naive.stage_pairs == (24, 24)
    assert rehearsed.stage_pairs == (24, 48)


def test_the_references_are_clones(tasks: list[DistilledDataset]) -> None:
    """Joint training ends as the clone of the union, and `single` has each task's own clone, to the bit."""
    given: Any = {"episodes": 20, "seed": 4}
    joint, single = (learn(tasks, strategy, seed=4) for strategy in ("joint", "single"))
    union = minari_obd.clone(tasks, students=3, seed=4)
    for j, task in enumerate(tasks):
        own = minari_obd.clone(task, students=3, seed=4)
        assert single.returns[j, j].tobytes() == minari_obd.evaluate(own, **given).returns.tobytes()
        judged = minari_obd.evaluate(union, env=task.env_id, **given)
        assert joint.returns[1, j].tobytes() == judged.returns.tobytes()
    assert joint.returns[0].tobytes() == single.returns[0].tobytes()
    assert single.forgetting is None
    assert single.policies[0].parameters[0].numpy().tobytes() != single.policies[1].parameters[0].numpy().tobytes()
    assert [each.mean for each in single.final] == [single.matrix[0][0].mean, single.matrix[1][1].mean]
    assert single.average.mean == pytest.approx(np.mean([each.mean for each in single.final]))


def test_a_stage_goes_on_from_the_last_one(tasks: list[DistilledDataset]) -> None:
    """The same task twice, by plain gradient descent, is one training of twice the length."""
    protocol = StudentProtocol(depth=1, width=8, steps=6)
    same = [tasks[0], tasks[0]]
    report = learn(same, "none", protocol=protocol, students=2)
    long = minari_obd.clone(tasks[0], students=2, protocol=replace(protocol, steps=12))
    for ours, theirs in zip(report.policies[1].parameters, long.parameters, strict=True):
        assert ours.numpy().tobytes() == theirs.numpy().tobytes()
    first = minari_obd.clone(tasks[0], students=2, protocol=protocol)
    again = minari_obd.clone(tasks[0], start=first)
    assert again.parameters[0].numpy().tobytes() == long.parameters[0].numpy().tobytes()
    assert (report.returns[:, 0] == report.returns[:, 1]).all()  # one environment, one evaluation


def test_all_stages_see_states_through_the_joint_normaliser(tasks: list[DistilledDataset]) -> None:
    report = learn(tasks)
    joint = Normaliser.join([each.normaliser for each in tasks], [24, 24])
    assert report.policies[1].normaliser.mean.tobytes() == joint.mean.tobytes()
    assert abs(float(joint.mean[1])) < 1e-6
    assert [each.env_id for each in report.policies] == list(SIDES)


def test_with_own_normalisers_a_task_s_pairs_are_seen_as_they_were_made(tasks: list[DistilledDataset]) -> None:
    """The first stage is the clone of the first task, to the bit, and a policy is saved as it acts in its task."""
    report = learn(tasks, normaliser="own", out="made")
    first = minari_obd.evaluate(minari_obd.clone(tasks[0], students=3), episodes=20)
    assert report.returns[0, 0].tobytes() == first.returns.tobytes()
    for j, task in enumerate(tasks):
        policy = minari_obd.load_policy(f"made/task-{j + 1}.safetensors")
        assert policy.normaliser.mean.tobytes() == task.normaliser.mean.tobytes()
        assert policy.reference == REFERENCE
        assert minari_obd.evaluate(policy, episodes=20).returns.tobytes() == report.returns[1, j].tobytes()
    # Nothing tells the two sides apart any more, so that one policy cannot serve both.
    assert report.average.high < 90.0


def test_old_tasks_can_be_rehearsed_from_other_pairs(tasks: list[DistilledDataset]) -> None:
    memory = [pairs_of("lab/Left-v0", seed=7, size=5), pairs_of("lab/Right-v0", seed=8, size=5)]
    own, other = learn(tasks), learn(tasks, memory=memory)
    assert other.stage_pairs == (24, 29)
    assert other.returns[0].tobytes() == own.returns[0].tobytes()
    assert other.returns[1].tobytes() != own.returns[1].tobytes()
    assert outcome(learn(tasks, memory=tasks)) == outcome(own)


def test_minibatches_are_drawn_anew_at_each_stage(tasks: list[DistilledDataset]) -> None:
    protocol = StudentProtocol(depth=1, width=8, steps=5, batch_size=4)
    same = [tasks[0], tasks[0]]
    report = learn(same, "none", protocol=protocol, students=1)
    first = minari_obd.clone(tasks[0], protocol=protocol)
    repeated = minari_obd.clone(tasks[0], start=first)
    assert report.policies[1].parameters[0].numpy().tobytes() != repeated.parameters[0].numpy().tobytes()
    assert outcome(learn(same, "none", protocol=protocol, students=1)) == outcome(report)


def test_returns_stand_in_where_a_task_has_no_reference_scores(tasks: list[DistilledDataset]) -> None:
    report = learn([tasks[0], replace(tasks[1], reference=None)], students=1)
    assert report.unit == "return"
    np.testing.assert_array_equal(report.values, report.returns)
    assert report.matrix[0][0].low < report.matrix[0][0].mean  # a single student: its episodes are resampled
    assert "rehearsal: return" in report.to_markdown()


@pytest.mark.parametrize("strategy", ["rehearsal", "joint"])
def test_stopped_and_called_again_it_ends_with_the_same_bits(
    tasks: list[DistilledDataset], strategy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = learn(tasks, strategy)
    calls = []

    def stopped(*given: Any, **named: Any) -> Any:
        calls.append(named)
        if len(calls) == 3:  # within the second stage
            raise KeyboardInterrupt
        return minari_obd.evaluate(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(continual_learning, "evaluate", stopped)
        with pytest.raises(KeyboardInterrupt):
            learn(tasks, strategy, out="made")
    assert sorted(path.name for path in Path("made").iterdir()) == ["stage-1.json", "stage-1.safetensors"]
    written = Path("made/stage-1.json").stat().st_mtime_ns
    with pytest.raises(SettingError, match="holds stages of another run"):
        learn(tasks, strategy, out="made", seed=1)
    report = learn(tasks, strategy, out="made")
    assert outcome(report) == outcome(whole)
    assert Path("made/stage-1.json").stat().st_mtime_ns == written
    assert ContinualReport.read("made").to_json() == report.to_json()
    assert Path("made/report.md").read_text() == report.to_markdown()
    with pytest.raises(SettingError, match="holds a report already"):
        learn(tasks, strategy, out="made")
    with pytest.raises(SettingError, match=r"It holds a distilled dataset, for load_dataset\. Give"):
        learn(tasks, strategy, out=tasks[0].save("set"))


@pytest.mark.parametrize("name", ["stage-1.json", "stage-2.json", "stage-2.safetensors"])
def test_damaged_stages_are_set_aside_and_run_again(tasks: list[DistilledDataset], name: str) -> None:
    whole = learn(tasks, out="made")
    Path("made/report.json").unlink()
    path = Path("made") / name
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.warns(UserWarning, match=f"set aside as '{name}.damaged'"):
        assert outcome(learn(tasks, out="made")) == outcome(whole)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda t: {"tasks": []}, DataError, "no task to learn"),
        (lambda t: {"tasks": t[:1]}, DataError, "make no sequence"),
        (lambda t: {"strategy": "rehersal"}, SettingError, "did you mean 'rehearsal'"),
        (lambda t: {"normaliser": "jiont"}, SettingError, "did you mean 'joint'"),
        (lambda t: {"students": 0}, SettingError, "students is 0"),
        (lambda t: {"seed": -1}, SettingError, "seed is -1"),
        (lambda t: {"protocol": "pape"}, NotFoundError, "did you mean 'paper'"),
        (lambda t: {"tasks": [t[0], make_pairs()]}, DataError, "only sets that agree in both"),
        (lambda t: {"tasks": [t[0], replace(t[1], env_id=None)]}, SettingError, "Task 2, .* names no environment"),
        (lambda t: {"tasks": [t[0], replace(t[1], env_id="Nothing-v0")]}, NotFoundError, "not registered"),
        (lambda t: {"tasks": [t[0], replace(t[1], env_id="Hopper-v5")]}, SettingError, "environment has 11 and 3"),
        (lambda t: {"memory": t[:1]}, SettingError, "one dataset for each task"),
        (lambda t: {"memory": t[::-1]}, SettingError, "one dataset for each task"),
        (lambda t: {"memory": t, "strategy": "none"}, SettingError, "rehearses nothing"),
    ],
)
def test_what_makes_no_sense_leaves_nothing(
    tasks: list[DistilledDataset], change: Any, error: Any, message: str
) -> None:
    given = {"tasks": tasks, "strategy": "rehearsal", **change(tasks)}
    with pytest.raises(error, match=message):
        learn(given.pop("tasks"), given.pop("strategy"), out="made", **given)
    assert not Path("made").exists()


def test_a_clone_starts_only_from_a_policy_of_its_shape(tasks: list[DistilledDataset]) -> None:
    policy = minari_obd.clone(tasks[0], students=2)
    with pytest.raises(DataError, match="start from a policy of their shape"):
        minari_obd.clone(make_pairs(), start=policy)
    with pytest.raises(SettingError, match="leave both to the policy"):
        minari_obd.clone(tasks[1], start=policy, protocol="paper")
    with pytest.raises(SettingError, match="leave both to the policy"):
        minari_obd.clone(tasks[1], start=policy, students=3)
    assert minari_obd.clone(tasks[1], start=policy, students=2).env_id == "lab/Right-v0"


def make_report(**changes: Any) -> ContinualReport:
    tasks = tuple(ContinualTask(f"lab/{name}-v0", "Hopper-v5", 8, ReferenceScores(0.0, 100.0, "x")) for name in "ab")
    returns = np.random.default_rng(0).normal(50, 5, (2, 2, 4, 3))
    fields: dict[str, Any] = {
        "strategy": "none",
        "normaliser": "joint",
        "seed": 0,
        "stage_pairs": (8, 8),
        "protocol": STUDENT,
    }
    return ContinualReport(**{"tasks": tasks, "returns": returns, **fields, **changes})


def test_a_report_survives_save_and_read() -> None:
    report = make_report(label="a | b", versions={"torch": "2"}, seconds=1.5)
    report.save("made")
    assert ContinualReport.read("made").to_json() == report.to_json()
    assert "a / b: score" in report.to_markdown()
    values = json.loads(Path("made/report.json").read_text())
    assert np.array(values["returns"]).shape == (2, 2, 4, 3)
    assert values["forgetting"].keys() == {"mean", "low", "high"}
    for change, text in (({"format": 2}, "reads up to 1"), ({"returns": [[1.0]]}, r"is damaged at returns\.0")):
        Path("made/report.json").write_text(json.dumps({**values, **change}))
        with pytest.raises(FormatError, match=text):
            ContinualReport.read("made")
    with pytest.raises(NotFoundError, match="no report in 'nowhere'"):
        ContinualReport.read("nowhere")
    for wrong in ({"returns": np.zeros((2, 3, 1, 1))}, {"stage_pairs": (8,)}, {"returns": np.zeros((2, 2, 0, 1))}):
        with pytest.raises(DataError):
            make_report(**wrong)


def test_a_table_has_a_line_for_each_run() -> None:
    first, second = make_report(label="x"), make_report(label="y", strategy="single")
    lines = continual_table([first, second]).splitlines()
    assert lines[0].startswith("| score in the end | 1: lab/a-v0 (Hopper-v5) | 2: lab/b-v0 (Hopper-v5) | average |")
    assert lines[2].startswith(f"| x | {first.matrix[1][0]} | {first.matrix[1][1]} | {first.average} |")
    assert lines[3].startswith(f"| y | {second.matrix[0][0]} | {second.matrix[1][1]} |")
    assert lines[3].endswith("| - | - |")
    for wrong in ([], [first, make_report(tasks=first.tasks[::-1])]):
        with pytest.raises(DataError, match="of the same tasks"):
            continual_table(wrong)


RECIPE = """
tasks = ["obd-bench/hopper/medium-v0", "obd-bench/hopper/medium-replay-v0"]
students = 2
episodes = 1
[recipe]
method = "dbc"
size = 16
student = {depth = 1, width = 16, steps = 10}
distillation = {kernel_steps = 5, steps = 2, batch_size = 64}
"""


def test_a_recipe_runs_what_has_no_report(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("medium", "medium-replay"):
        BENCHMARK[f"obd-bench/hopper/{name}-v0"].build(steps=650, progress=False)
    Path("small.toml").write_text(RECIPE)
    Path("smaller.toml").write_text('arms = ["joint"]\n' + RECIPE)
    main(["continual", "smaller.toml", "--out", "made"])
    assert "| joint training |" in capsys.readouterr().out
    (kept,) = Path("made/runs").glob("*/report.json")
    written = kept.stat().st_mtime_ns
    reports = run_continual("small.toml", "made", progress=False)
    assert kept.stat().st_mtime_ns == written
    labels = [
        "no rehearsal",
        "rehearsal of the pairs",
        "rehearsal of random pairs",
        "joint training",
        "one policy a task",
    ]
    assert [each.label for each in reports] == labels
    assert len(list(Path("made/runs").iterdir())) == 5
    assert len(list(Path("made/sets").iterdir())) == 4
    assert Path("made/table.md").read_text() == continual_table(reports)
    assert [each["label"] for each in json.loads(Path("made/report.json").read_text())] == labels
    own, other = reports[1], reports[2]
    assert own.returns[0].tobytes() == other.returns[0].tobytes()
    assert own.returns[1].tobytes() != other.returns[1].tobytes()


def test_a_recipe_takes_distilled_datasets(tasks: list[DistilledDataset]) -> None:
    for name, each in zip("ab", tasks, strict=True):
        each.save(name)
        replace(each, provenance=replace(each.provenance, method="random")).save(f"random-{name}")
    sets = 'tasks = ["a", "b"]\nstudents = 1\nepisodes = 2\n'
    Path("sets.toml").write_text(sets)
    whole = run_continual("sets.toml", "made", progress=False)
    assert len(whole) == 4  # no random pairs
    damaged = next(Path("made/runs").glob("*/report.json"))
    damaged.write_text("{")
    with pytest.warns(UserWarning, match=r"is not JSON.*set aside as 'report\.json\.damaged', and its work begins"):
        again = run_continual("sets.toml", "made", progress=False)
    assert [each.returns.tobytes() for each in again] == [each.returns.tobytes() for each in whole]
    Path("sets.toml").write_text(sets + 'random = ["random-a", "random-b"]\narms = ["random rehearsal"]')
    assert run_continual("sets.toml", "made", progress=False)[0].label == "rehearsal of random pairs"
    Path("sets.toml").write_text(sets + 'random = ["random-a", "b"]')
    with pytest.raises(FormatError, match="'b' was made by 'sdw'"):
        run_continual("sets.toml", "made", progress=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('tasks = ["a"]', "a sequence has two or more"),
        ('tasks = ["a", "b"]\narms = ["nune"]', "arms.0"),
        ('tasks = ["a", "b"]\narms = []', "each once"),
        ('tasks = ["a", "b"]\narms = ["random rehearsal"]', "needs pairs"),
        ('tasks = ["a", "b"]\nrandom = ["c"]', "one for each"),
        ('tasks = ["a", "b"]\nrandom = ["c", "d"]\n[recipe]', "leave `random` out"),
        ('tasks = ["a", "b"]\nseed = -1', "The seed is -1"),
        ('tasks = ["a", "b"]\nstudents = 0', "continual.students"),
        ('tasks = ["a", "b"]\nprotocol = "pape"', "did you mean 'paper'"),
        ('tasks = ["a", "b"]\n[recipe]\nseed = 3', "stands beside it"),
        ('tasks = ["a", "b"]\n[recipe]\nmethd = "dbc"', "did you mean 'method'"),
        ('tasks = ["a", "b"]\nsteps = 3', "steps"),
        ("tasks = ", "is not TOML"),
    ],
)
def test_wrong_recipes_are_named(text: str, message: str) -> None:
    Path("bad.toml").write_text(text)
    with pytest.raises((FormatError, NotFoundError), match=message):
        load_continual("bad.toml")


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_recipes_are_of_two_tasks(path: Path) -> None:
    recipe = load_continual(path)
    assert len(recipe.tasks) == 2
    assert {recipe.pairs_recipe(task).source for task in recipe.tasks} == set(recipe.tasks)
