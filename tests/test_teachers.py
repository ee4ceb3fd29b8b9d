"""Teachers: aligned transitions, a task with a known answer, exact copies of what d3rlpy trained."""

import json
import logging
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import structlog
import torch
from conftest import make_arrays
from safetensors import safe_open
from safetensors.torch import save_file

import minari_obd
from minari_obd.errors import DataError, FormatError, MinariObdError, MissingExtraError, NotFoundError, SettingError
from minari_obd.settings.recipe import Recipe, load_recipe
from minari_obd.settings.sections import TeacherRecipe
from minari_obd.sources.data import OfflineData
from minari_obd.sources.loading import load_offline_data
from minari_obd.sources.transitions import transitions
from minari_obd.support import precision as products
from minari_obd.support.precision import has_rounded_products
from minari_obd.teachers import run as d3rlpy_teacher
from minari_obd.teachers.algorithms import target_rate
from minari_obd.teachers.averaging import ActorAverage
from minari_obd.teachers.frozen import FrozenTeacher
from minari_obd.teachers.loading import load_teacher
from minari_obd.teachers.networks import apply_layers, layers_of
from minari_obd.teachers.obtaining import plan_teacher
from minari_obd.teachers.protocol import Teacher
from minari_obd.teachers.run import TeacherRun
from minari_obd.teachers.training import train_teacher

RECIPES = Path(__file__).parents[1] / "recipes" / "teachers"
LENGTHS = [4, 1, 7, 2]
PRECISIONS = ["float32", "bfloat16"]
ALGORITHMS = ["bc", "td3_bc", "rebrac", "iql", "cql", "calql"]


def test_transitions_stay_aligned_over_unequal_episodes() -> None:
    data = load_offline_data(make_arrays(LENGTHS))
    table = transitions(data, gamma=0.5)
    raw = {name: data.normaliser.denormalise(table[name])[:, 0] for name in ("observations", "next_observations")}
    steps = np.concatenate([1000 * e + np.arange(n) for e, n in enumerate(LENGTHS)])
    np.testing.assert_allclose(raw["observations"], steps, atol=1e-2)
    np.testing.assert_allclose(raw["next_observations"], steps + 1, atol=1e-2)
    np.testing.assert_array_equal(table["terminals"][:, 0], data.terminations)
    np.testing.assert_allclose(table["actions"], data.scaled_actions())
    inside = ~(data.terminations | data.truncations)
    np.testing.assert_array_equal(table["next_actions"][inside], table["actions"][np.flatnonzero(inside) + 1])
    # The return to go is a sum within the episode: r_t + 0.5 r_{t+1} + ...
    row = 5
    expected = sum(0.5**k * data.rewards[row + k] for k in range(7))
    assert table["returns_to_go"][row, 0] == pytest.approx(expected, rel=1e-5)
    assert table["returns_to_go"][4, 0] == pytest.approx(data.rewards[4])


def test_truncated_steps_without_successor_are_left_out() -> None:
    arrays = make_arrays(LENGTHS)
    del arrays["next_observations"]
    table = transitions(load_offline_data(arrays), gamma=0.99)
    assert len(table["rewards"]) == 12  # two of four episodes are truncated
    one = {name: value[:1] for name, value in make_arrays([4]).items() if name != "next_observations"}
    with pytest.raises(DataError, match="no step with a known successor"):
        transitions(load_offline_data(one), gamma=0.99)


def test_without_d3rlpy_nothing_is_trained_and_it_is_said_before_the_data_is_read(
    small_data: OfflineData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "d3rlpy", None)  # as if it were not installed
    remedy = r"run `pip install 'minari-obd\[distill\]'`"
    with pytest.raises(MissingExtraError, match=remedy):
        train_teacher(small_data, "iql", steps=3, progress=False)
    with pytest.raises(MissingExtraError, match=remedy):
        minari_obd.distill("lab/not-there-v0", "sdw", progress=False)
    with pytest.raises(MissingExtraError, match=remedy):
        minari_obd.distill(small_data, "pbc", size=8, progress=False)
    assert len(minari_obd.distill(small_data, "random", size=8, progress=False)) == 8


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_trains_freezes_and_comes_back(algorithm: str, small_data: OfflineData) -> None:
    teacher = train_teacher(small_data, algorithm, steps=3, progress=False)
    actions = teacher.act(small_data.observations)
    values = teacher.value(small_data.observations, actions)
    assert isinstance(teacher, Teacher)
    assert actions.shape == small_data.actions.shape
    assert values.shape == (600,)
    assert (actions >= small_data.action_low).all()
    assert (actions <= small_data.action_high).all()
    again = load_teacher(teacher.save("saved"))
    np.testing.assert_array_equal(again.act(small_data.observations), actions)
    np.testing.assert_array_equal(again.value(small_data.observations, actions), values)
    assert again.sha256 == teacher.sha256
    assert again.details["algorithm"] == algorithm
    share = again.details.get("best_episodes", 1.0)
    assert (share < 1.0) == (algorithm == "bc")
    assert again.details["data_sha256"] == small_data.best_episodes(share).content_sha256


def test_training_is_cached_by_data_and_settings(small_data: OfflineData, monkeypatch: pytest.MonkeyPatch) -> None:
    first = train_teacher(small_data, "td3_bc", steps=3, progress=False)
    cpu = torch.device("cpu")
    assert TeacherRun.of(small_data, "td3_bc", 3, 0, cpu).is_cached
    for other in (
        TeacherRun.of(small_data, "td3_bc", 4, 0, cpu),
        TeacherRun.of(small_data, "td3_bc", 3, 1, cpu),
        TeacherRun.of(small_data, "iql", 3, 0, cpu),
        TeacherRun.of(load_offline_data(make_arrays(LENGTHS)), "td3_bc", 3, 0, cpu),
    ):
        assert not other.is_cached
    monkeypatch.setattr(TeacherRun, "_create", lambda self: pytest.fail("trained twice"))
    assert train_teacher(small_data, "td3_bc", steps=3, progress=False).sha256 == first.sha256


def planned(data: OfflineData, algorithm: str, **settings) -> TeacherRun:
    found = plan_teacher(Recipe("lab/arrays-v0", teacher=TeacherRecipe(algorithm, steps=3, **settings)), data)
    assert isinstance(found, TeacherRun)
    return found


def test_a_teacher_of_the_best_episodes_says_so_and_has_a_name_of_its_own(small_data: OfflineData) -> None:
    run, best = planned(small_data, "td3_bc", best_episodes=0.5), small_data.best_episodes(0.5)
    assert len(best) == 300
    assert run.data.content_sha256 == best.content_sha256
    made = run.train(progress=False)
    assert made.details["best_episodes"] == 0.5
    given = (best, None), (small_data, 0.5)
    for data, share in given:
        again = train_teacher(data, "td3_bc", steps=3, best_episodes=share, progress=False)
        assert again.sha256 == made.sha256
    for data in (small_data, best):
        assert planned(data, "td3_bc").data is data  # all of them


def test_by_default_the_best_quarter_is_cloned_and_critics_say_what_the_clone_is_worth(small_data: OfflineData) -> None:
    run, best = planned(small_data, "auto"), small_data.best_episodes(0.25)
    assert run.algorithm.options["alpha"] == 0.0
    assert run.data.content_sha256 == best.content_sha256
    assert planned(best, "auto").data is best  # not a quarter of the quarter
    assert planned(small_data, "auto", best_episodes=1.0).data is small_data
    teacher = train_teacher(small_data, steps=300, progress=False)
    actions = teacher.action_scale.scale(teacher.act(best.observations))
    assert np.square(actions - best.scaled_actions()).mean() < 0.5 * np.square(best.scaled_actions()).mean()
    assert np.ptp(teacher.value(best.observations, best.actions)) > 0.0


def test_names_of_results_by_all_episodes_stay(small_data: OfflineData) -> None:
    recipe = Recipe("lab/arrays-v0", teacher=TeacherRecipe("td3_bc", best_episodes=0.5))
    assert recipe.deciding()["teacher"]["best_episodes"] == 0.5
    assert "best_episodes" not in Recipe("lab/arrays-v0").deciding()["teacher"]
    assert "best_episodes" not in TeacherRun.of(small_data, "td3_bc", 3, 0, torch.device("cpu"))._details()
    with pytest.raises(SettingError, match=r"best_episodes is 0; it must be above 0"):
        TeacherRecipe(best_episodes=0)


def test_the_same_seed_trains_the_same_teacher_and_leaves_the_world_as_it_was(
    small_data: OfflineData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    logging_before = structlog.get_config()["wrapper_class"]
    hashes = []
    for cache in ("a", "b"):
        monkeypatch.setenv("MINARI_OBD_CACHE", str(tmp_path / cache))
        torch.manual_seed(5)
        hashes.append(train_teacher(small_data, "td3_bc", steps=3, progress=False).sha256)
        assert torch.equal(torch.rand(3), expected)
    assert hashes[0] == hashes[1]
    assert structlog.get_config()["wrapper_class"] is logging_before
    assert not Path("d3rlpy_logs").exists()
    assert logging.getLogger().level == logging.WARNING


def test_the_precision_of_products_is_the_processors_and_names_the_training(
    small_data: OfflineData, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    exact = train_teacher(small_data, "calql", steps=3, precision="float32", progress=False)
    assert "precision" not in exact.details
    for rounds, wanted in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(products, "has_rounded_products", lambda *_, rounds=rounds: rounds)
        monkeypatch.setattr(products, "has_fast_bfloat16", lambda other=not rounds: other)  # of distillers only
        run = TeacherRun.of(small_data, "calql", 3, 0, cpu)
        assert run.precision == wanted
        assert run.is_cached == (wanted == "float32")
        assert TeacherRun.of(small_data, "calql", 3, 0, cuda).precision == "float32"
        assert TeacherRun.of(small_data, "td3_bc", 3, 0, cpu).precision == "float32"  # nothing to gain there
    for precision, message in (("bfloat16", "no products in bfloat16"), ("tf32", "device 'cpu'; it has 'auto'")):
        with pytest.raises(SettingError, match=message):
            train_teacher(small_data, "calql", steps=3, precision=precision, progress=False)


def test_a_teacher_is_trained_in_the_precision_that_it_records(small_data: OfflineData) -> None:
    """On any machine: what is recorded as bfloat16 differs from float32, and what cannot be bfloat16 is refused."""
    exact = train_teacher(small_data, "td3_bc", steps=20, precision="float32", progress=False)
    if not has_rounded_products("bfloat16", torch.device("cpu")):
        with pytest.raises(SettingError, match="Use precision 'auto' or 'float32'"):
            train_teacher(small_data, "td3_bc", steps=20, precision="bfloat16", progress=False)
        return
    rounded = train_teacher(small_data, "td3_bc", steps=20, precision="bfloat16", progress=False)
    assert rounded.details["precision"] == "bfloat16"
    acts = [teacher.act(small_data.observations) for teacher in (exact, rounded)]
    assert 1e-6 < np.abs(acts[0] - acts[1]).max() < 0.05


def test_a_teacher_finds_the_known_best_action() -> None:
    """One-step episodes with reward -(a - s/2)^2 and uniform actions: the best action is s/2, whatever the data did."""
    rng = np.random.default_rng(0)
    states = rng.uniform(-1, 1, size=(4_000, 1))
    actions = rng.uniform(-1, 1, size=(4_000, 1))
    data = load_offline_data(
        {
            "observations": states,
            "actions": actions,
            "rewards": -((actions - 0.5 * states)[:, 0] ** 2),
            "terminations": np.ones(4_000, dtype=bool),
            "truncations": np.zeros(4_000, dtype=bool),
        }
    )
    teacher = train_teacher(data, "iql", steps=600, progress=False)
    test = np.linspace(-0.9, 0.9, 50)[:, None]
    best = 0.5 * test
    chosen = teacher.act(test)
    # Behavioural cloning of uniform actions would answer 0 everywhere.
    assert np.abs(chosen - best).mean() < 0.5 * np.abs(best).mean()
    values = teacher.value(test, best) - teacher.value(test, -best)
    assert (values[np.abs(test[:, 0]) > 0.5] > 0).all()


def test_bad_requests_are_named(small_data: OfflineData) -> None:
    with pytest.raises(NotFoundError, match="did you mean 'iql'"):
        train_teacher(small_data, "iqll", progress=False)
    with pytest.raises(NotFoundError, match="There is no teacher at"):
        load_teacher("nowhere")
    Path("text.safetensors").write_text("no")
    with pytest.raises(FormatError, match="is not a teacher"):
        load_teacher("text.safetensors")
    save_file({"x": torch.zeros(1)}, "other.safetensors")
    with pytest.raises(FormatError, match="is not a teacher"):
        load_teacher("other.safetensors")


def test_a_damaged_teacher_is_named(small_data: OfflineData) -> None:
    teacher = train_teacher(small_data, "td3_bc", steps=1, progress=False)
    broken = [(w.clone(), b.clone()) for w, b in teacher.actor]
    broken[0][0][0, 0] = float("nan")
    fields = {**vars(teacher)}
    fields.pop("sha256", None)
    with pytest.raises(DataError, match="weights that are not finite"):
        FrozenTeacher(**{**fields, "actor": broken})
    with pytest.raises(DataError, match="does not map 3 inputs to 2 outputs"):
        FrozenTeacher(**{**fields, "actor": teacher.actor[1:]})
    with pytest.raises(DataError, match=r"takes observations \(B, 3\)"):
        teacher.act(np.zeros((4, 2)))


def test_divergence_is_noticed(small_data: OfflineData) -> None:
    run = TeacherRun.of(small_data, "td3_bc", 3, 0, torch.device("cpu"))
    batches = run._batches

    def poisoned(algo, rng, **kwargs):
        for batch in batches(algo, rng, **kwargs):
            batch.rewards[:] = float("nan")
            yield batch

    object.__setattr__(run, "_batches", poisoned)
    with pytest.raises(MinariObdError, match="diverged at update 1"):
        run.train(progress=False)
    assert not run.is_cached


@pytest.mark.parametrize(("algorithm", "average"), [("td3_bc", 0.6), ("calql", 0.0)])
def test_an_interrupted_training_ends_as_one_that_was_not(
    algorithm: str, average: float, small_data: OfflineData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(d3rlpy_teacher, "_LOOK_EVERY", 4)
    run = TeacherRun.of(small_data, algorithm, 14, 3, torch.device("cpu"), average=average)
    whole = run.train(progress=False)
    log = (run.cache_folder / "training.csv").read_text()
    assert [line.split(",")[0] for line in log.splitlines()] == ["update", "4", "8", "12", "14"]
    shutil.rmtree(run.cache_folder)
    batches = TeacherRun._batches

    def cut(self: TeacherRun, algo, rng, **kwargs):
        for number, batch in enumerate(batches(self, algo, rng, **kwargs)):
            if number == 9:
                signal.raise_signal(signal.SIGINT)  # noted; the update is finished first
            yield batch

    with monkeypatch.context() as context:
        context.setattr(TeacherRun, "_batches", cut)
        with pytest.raises(KeyboardInterrupt):
            run.train(progress=False)
    assert run.checkpoint.is_file()
    assert not run.is_cached
    torch.rand(3)  # what happens in between is of no account
    resumed = run.train(progress=False)
    assert resumed.sha256 == whole.sha256
    assert (run.cache_folder / "training.csv").read_text() == log
    assert resumed.details == whole.details  # of an averaged one, the losses that chose it
    assert not run.checkpoint.exists()


def test_options_reach_the_algorithm_and_name_the_training(small_data: OfflineData) -> None:
    plain = train_teacher(small_data, "td3_bc", steps=3, progress=False)
    other = train_teacher(small_data, "td3_bc", steps=3, options={"alpha": 0.1, "tau": 1}, progress=False)
    assert other.sha256 != plain.sha256
    assert other.details["options"] == {"alpha": 0.1, "tau": 1}
    for options, message in (
        ({"alhpa": 0.1}, "did you mean 'alpha'"),
        ({"actor_encoder_factory": "x"}, "no 'actor_encoder_factory'"),
        ({"alpha": "much"}, "takes a float"),
        ({"n_critics": 2.5}, "takes a int"),
    ):
        with pytest.raises(SettingError, match=message):
            train_teacher(small_data, "td3_bc", steps=3, options=options, progress=False)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_authors_settings_are_d3rlpys(path: Path, small_data: OfflineData) -> None:
    teacher = load_recipe(path).teacher
    run = TeacherRun.of(small_data, teacher.algorithm, teacher.steps, 0, torch.device("cpu"), teacher.options)
    assert teacher.algorithm == path.stem
    assert teacher.steps == 1_000_000
    algo = run._create()
    assert all(getattr(algo.config, name) == value for name, value in teacher.options.items())
    assert algo.config.tau == 0.005  # a million updates need no faster targets


def test_targets_are_as_fast_as_the_budget_asks(small_data: OfflineData) -> None:
    """A chain in which only the end is rewarded: how far the value has come back after so many updates."""
    for updates, gamma in ((20_000, 0.99), (40_000, 0.99), (4_000, 0.9)):
        tau, value, target = target_rate(updates, gamma), 0.0, 0.0
        for _ in range(updates):
            value = 1.0 + gamma * target  # learned at once
            target += tau * (value - target)
        assert value * (1.0 - gamma) == pytest.approx(1.0 - np.exp(-4.0), abs=0.003)
    assert target_rate(1_000_000, 0.99) == target_rate(10**9, 0.9) == 0.005
    assert target_rate(3, 0.99) == target_rate(3, 1.0) == 0.05
    cpu = torch.device("cpu")
    of = TeacherRun.of(small_data, "iql", None, 0, cpu)
    assert of.algorithm.options["tau"] == of._create().config.tau == 0.02
    assert TeacherRun.of(small_data, "iql", None, 0, cpu, {"gamma": 0.9}).algorithm.options["tau"] == 0.005
    assert TeacherRun.of(small_data, "iql", None, 0, cpu, {"tau": 0.3}).algorithm.options["tau"] == 0.3


def test_rebrac_has_its_authors_networks(small_data: OfflineData) -> None:
    teacher = train_teacher(small_data, "rebrac", steps=2, progress=False)
    assert [[len(layer) for layer in layers] for layers in (teacher.actor, *teacher.critics)] == [
        [2, 2, 2, 2],
        [4, 4, 4, 2],
        [4, 4, 4, 2],
    ]
    assert {len(layer[1]) for layers in (teacher.actor, *teacher.critics) for layer in layers[:-1]} == {256}


def test_layer_norms_follow_the_activation_and_are_saved(small_data: OfflineData) -> None:
    torch.manual_seed(0)
    sizes, norm = (5, 8, 6), torch.nn.LayerNorm
    model = torch.nn.Sequential(
        *(torch.nn.Linear(5, 8), torch.nn.ReLU(), norm(8)),
        *(torch.nn.Linear(8, 6), torch.nn.ReLU(), norm(6)),
        torch.nn.Linear(6, 1),
    )
    for part in model:
        if isinstance(part, norm):
            torch.nn.init.normal_(part.weight)
            torch.nn.init.normal_(part.bias)
    critic = layers_of(model)
    assert [tuple(layer[0].shape) for layer in critic] == [*zip(sizes[1:], sizes[:-1], strict=True), (1, 6)]
    inputs = torch.randn(20, 5)
    with torch.no_grad():
        torch.testing.assert_close(apply_layers(critic, inputs, "relu"), model(inputs))

    plain = train_teacher(small_data, "td3_bc", steps=1, progress=False)
    fields = {name: value for name, value in vars(plain).items() if name != "sha256"}
    teacher = FrozenTeacher(**{**fields, "critics": [critic, plain.critics[0]]})
    again = load_teacher(teacher.save("normed"))
    states, actions = small_data.observations, small_data.actions
    np.testing.assert_array_equal(again.value(states, actions), teacher.value(states, actions))
    assert again.sha256 == teacher.sha256
    # Versions that know no layer norm read all but these.
    for folder, number in ((plain.save("plain"), 2), (Path("normed"), 3)):
        with safe_open(folder / "teacher.safetensors", framework="pt") as file:
            assert json.loads(file.metadata()["minari_obd_teacher"])["format"] == number
    for damaged in ([critic[0][:3], *critic[1:]], [*critic[:-1], (*critic[-1], *critic[-1])]):
        with pytest.raises(DataError, match="does not map 5 inputs to 1 outputs"):
            FrozenTeacher(**{**fields, "critics": [damaged]})


def test_an_averaged_actor_is_the_mean_of_the_last_updates(
    small_data: OfflineData, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[torch.Tensor]] = []
    note = ActorAverage.note

    def watch(self: ActorAverage, step: int) -> None:
        seen.append([tensor for layer in layers_of(self._algo.impl.policy) for tensor in layer])
        note(self, step)

    monkeypatch.setattr(ActorAverage, "note", watch)
    run = TeacherRun.of(small_data, "td3_bc", 10, 0, torch.device("cpu"), average=0.4)
    kept = run.train(progress=False)
    other = load_teacher(run.cache_folder / "other")
    both = {teacher.details["actor"]: teacher for teacher in (kept, other)}
    assert both.keys() == {"last", "average"}
    losses = kept.details["actor_losses"]
    assert losses[kept.details["actor"]] < losses[other.details["actor"]]
    assert "4,096 transitions" in kept.details["actor_chosen_by"]
    last, mean = ([t for layer in both[name].actor for t in layer] for name in ("last", "average"))
    for i, (one, average) in enumerate(zip(last, mean, strict=True)):
        torch.testing.assert_close(one, seen[-1][i], rtol=0, atol=0)
        torch.testing.assert_close(average, torch.stack([each[i] for each in seen[6:]]).mean(0))
    monkeypatch.undo()
    plain = train_teacher(small_data, "td3_bc", steps=10, progress=False)
    assert plain.sha256 == both["last"].sha256  # an average changes nothing of the training
    assert "actor" not in plain.details
    with pytest.raises(SettingError, match=r"from 0 to 1; got 1\.5"):
        train_teacher(small_data, "td3_bc", steps=1, average=1.5, progress=False)


def test_the_choice_of_an_actor_leaves_everything_as_it_was(small_data: OfflineData) -> None:
    """SAC-like learners move a temperature when they are asked for their loss."""
    run = TeacherRun.of(small_data, "cql", 1, 0, torch.device("cpu"))
    algo = run._create()
    average = ActorAverage(algo, 1)
    for step, batch in zip(range(1, 4), run._batches(algo, np.random.default_rng(0)), strict=False):
        algo.impl.update(batch, step)
        average.note(step)
    batch = next(run._batches(algo, np.random.default_rng(1), 64))
    modules = [m for m in vars(algo.impl.modules).values() if isinstance(m, torch.nn.Module)]
    before = [{k: v.clone() for k, v in module.state_dict().items()} for module in modules]
    losses = average.losses(batch, 0)
    assert losses == average.losses(batch, 0)
    for module, state in zip(modules, before, strict=True):
        for name, value in module.state_dict().items():
            assert torch.equal(value, state[name]), name
