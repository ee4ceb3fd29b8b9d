"""Discrete actions end to end: data, students, policies, evaluation, in real environments."""

from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import make_discrete

from minari_obd.cloning.cloning import clone
from minari_obd.cloning.loading import load_policy
from minari_obd.distillation.distillation import distill
from minari_obd.distilled.loading import load_dataset
from minari_obd.dynamics.fitting import DynamicsSettings
from minari_obd.errors import DataError, MinariObdError, SettingError
from minari_obd.evaluation.evaluation import evaluate
from minari_obd.finetuning.run import finetune
from minari_obd.inspection.origins import cached_teacher
from minari_obd.registry import OBJECTIVES
from minari_obd.settings.protocols import StudentProtocol
from minari_obd.settings.recipe import Recipe
from minari_obd.settings.sections import DistillationRecipe, TeacherRecipe
from minari_obd.sources.benchmark import BENCHMARK
from minari_obd.sources.collecting import collect
from minari_obd.sources.data import OfflineData
from minari_obd.sources.loading import load_offline_data
from minari_obd.storage.minari_datasets import open_local_dataset
from minari_obd.teachers.choice import Choice, fitted_temperature
from minari_obd.teachers.loading import load_teacher
from minari_obd.teachers.networks import layers_of
from minari_obd.teachers.run import TeacherRun
from minari_obd.teachers.training import train_teacher

QUICK = StudentProtocol(depth=1, width=16, steps=30, optimiser="adam", learning_rate=0.01)


class Shifted(gym.ActionWrapper):
    """CartPole whose actions are 3 and 4."""

    metadata = {"render_modes": []}  # noqa: RUF012  # pyright: ignore

    def __init__(self, **kwargs) -> None:
        super().__init__(gym.make("CartPole-v1", **kwargs))
        self.action_space = gym.spaces.Discrete(2, start=3)

    def action(self, action: int) -> int:
        assert self.action_space.contains(action)
        return action - 3


class Several(Shifted):
    """CartPole with two actions at once."""

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self.action_space = gym.spaces.MultiDiscrete([2, 2])


if "Shifted-v0" not in gym.registry:
    gym.register("Shifted-v0", Shifted, max_episode_steps=60)
    gym.register("Several-v0", Several, max_episode_steps=60)


def lean(observation: np.ndarray) -> int:
    """A rule that keeps the pole up for a while: push to where it falls."""
    return 3 + int(observation[2] + 0.5 * observation[3] > 0)


@pytest.fixture
def data() -> OfflineData:
    collect("lab/shifted-v0", "Shifted-v0", lean, steps=600, progress=False)
    return load_offline_data("lab/shifted-v0")


@pytest.mark.parametrize("name", ["cartpole", "acrobot", "lunarlander"])
def test_embedded_datasets_go_from_chance_to_their_medium_policy(name: str) -> None:
    if name == "lunarlander":
        pytest.importorskip("Box2D")
    benchmark = BENCHMARK[f"obd-bench/{name}/medium-replay-v0"]
    assert benchmark.policies[0] == "random"
    assert BENCHMARK[f"obd-bench/{name}/medium-v0"].policies == benchmark.policies[-1:]
    benchmark.build(steps=2_000 * len(benchmark.policies), progress=False)
    stored = open_local_dataset(benchmark.dataset_id)
    assert isinstance(stored.action_space, gym.spaces.Discrete)
    assert stored[0].actions.shape == (len(stored[0].rewards),)
    data = load_offline_data(benchmark.dataset_id)
    assert data.actions.shape == (len(data), stored.action_space.n)
    assert data.reference is not None
    assert data.episode_returns[-3:].mean() > data.episode_returns[:3].mean() + 20
    environment = gym.make(benchmark.env_id)
    environment.reset(seed=int(np.random.default_rng([0, 0, 0]).integers(2**31)))
    observation = environment.step(int(data.actions[0].argmax()))[0]
    np.testing.assert_array_equal(observation, data.observations[1])


def test_policies_of_discrete_actions_are_checked_as_they_are_collected() -> None:
    for wrong, message in (
        (lambda _: 5, r"gave actions .*; the environment takes Discrete"),
        (lambda _: 3.5, r"gave actions .*; the environment takes Discrete"),
        (lambda _: np.zeros(2), r"gave actions of shape \(2,\), but the environment takes \(\)"),
    ):
        with pytest.raises(SettingError, match=message):
            collect("lab/x-v0", "Shifted-v0", wrong, steps=10, progress=False)
    collect("lab/random-v0", "Shifted-v0", "random", steps=100, progress=False)
    found = load_offline_data("lab/random-v0")
    assert found.first_action == 3
    assert 0.2 < found.actions[:, 0].mean() < 0.8
    with pytest.raises(DataError, match="or with one Discrete"):
        collect("lab/x-v0", "Several-v0", "random", steps=10, progress=False)


def test_a_clone_gives_numbers_and_keeps_its_probabilities(data: OfflineData, tmp_path: Path) -> None:
    policy = clone(data, students=2, protocol=QUICK)
    assert policy.protocol.network == "softmax_mlp"
    chances = policy.act_each(data.observations)
    np.testing.assert_allclose(chances.sum(-1), 1.0, atol=1e-5)
    actions = policy(data.observations)
    np.testing.assert_array_equal(actions, 3 + chances.mean(axis=0).argmax(-1))
    assert set(np.unique(actions)) == {3, 4}
    assert np.mean(actions == 3 + data.actions.argmax(-1)) > 0.9
    assert policy(data.observations[0]) == policy.predict(data.observations[0])[0] == actions[0]
    assert "2 discrete actions" in repr(policy)
    again = load_policy(policy.save(tmp_path / "policy.safetensors"))
    np.testing.assert_array_equal(again.act_each(data.observations), chances)
    assert again.first_action == 3
    further = clone(data, start=again, seed=1)
    assert np.mean(further(data.observations) == 3 + data.actions.argmax(-1)) > 0.9


def test_evaluation_takes_the_likeliest_action(data: OfflineData) -> None:
    policy = clone(data, students=2, protocol=QUICK)
    report = evaluate(policy, episodes=3)
    assert report.env_id == "Shifted-v0"
    one = replace(policy, parameters=[p[:1] for p in policy.parameters])
    as_function = evaluate(lambda observation: one(observation), env="Shifted-v0", episodes=3)
    np.testing.assert_array_equal(as_function.returns, report.returns[:1])
    np.testing.assert_array_equal(evaluate(policy, episodes=3, workers=2).returns, report.returns)


@pytest.mark.parametrize(
    ("subject", "message"),
    [
        (lambda _: 0, r"returned the action 0.0; the environment has Discrete\(2, start=3\)"),
        (lambda _: 3.5, r"returned the action 3.5"),
        (lambda _: np.zeros(2), "it must return one action, a whole number"),
    ],
)
def test_functions_must_give_the_number_of_an_action(subject, message: str) -> None:
    with pytest.raises(MinariObdError, match=message):
        evaluate(subject, env="Shifted-v0", episodes=1)


def test_kinds_of_actions_are_not_mixed(data: OfflineData) -> None:
    policy = clone(data, protocol=QUICK)
    with pytest.raises(SettingError, match="are discrete, from 3, and the environment's are discrete, from 0"):
        evaluate(policy, env="CartPole-v1", episodes=1)
    continuous = clone(replace(data, first_action=None), protocol=QUICK)
    assert continuous.protocol.network == "mlp"
    with pytest.raises(SettingError, match="are continuous, and the environment's are discrete"):
        evaluate(continuous, episodes=1)
    with pytest.raises(DataError, match="numbered from 3 and None"):
        clone([data, replace(data, first_action=None)])  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("algorithm", ["discrete_cql", "discrete_bcq"])
def test_teachers_are_frozen_exactly_and_keep_their_temperature(
    algorithm: str, data: OfflineData, tmp_path: Path
) -> None:
    teacher = train_teacher(data, algorithm, steps=20, progress=False)
    chances = teacher.act(data.observations)
    np.testing.assert_allclose(chances.sum(1), 1.0, atol=1e-5)
    assert teacher.choice is not None
    assert teacher.details["temperature"] == teacher.choice.temperature
    undecided = (chances > 0).sum(1) > 1
    assert undecided.any()
    assert chances[undecided].max(1).mean() == pytest.approx(0.9, abs=0.02)
    values = np.stack([teacher.value(data.observations, np.tile(row, (len(data), 1))) for row in np.eye(2)], axis=1)
    np.testing.assert_allclose(teacher.value(data.observations, chances), (chances * values).sum(1), rtol=1e-4)
    again = load_teacher(teacher.save(tmp_path / "teacher"))
    assert again.sha256 == teacher.sha256
    np.testing.assert_array_equal(again.act(data.observations), chances)
    np.testing.assert_array_equal(
        train_teacher(data, algorithm, steps=20, progress=False).act(data.observations), chances
    )
    assert evaluate(teacher, env="Shifted-v0", episodes=2).returns.shape == (1, 2)
    with pytest.raises(SettingError, match="for 4 observations and 2 actions, but the environment has 3 and 1"):
        evaluate(teacher, env="Pendulum-v1", episodes=1)
    warmer = replace(teacher, choice=Choice(10 * teacher.choice.temperature, teacher.choice.least))
    assert warmer.sha256 != teacher.sha256
    np.testing.assert_array_equal(warmer.act(data.observations).argmax(1), chances.argmax(1))


@pytest.mark.parametrize(("updates", "interval"), [(20_000, 50), (1_000_000, 200), (10, 20)])
def test_targets_are_copied_as_often_as_the_budget_asks(updates: int, interval: int, data: OfflineData) -> None:
    for algorithm in ("discrete_cql", "discrete_bcq"):
        run = TeacherRun.of(data, algorithm, updates, 0, torch.device("cpu"))
        algo = run._create()
        assert run.algorithm.options["target_update_interval"] == algo.config.target_update_interval == interval
        assert [[len(layer) for layer in layers_of(each)] for each in algo.impl.q_function] == 2 * [[4, 4, 2]]
    given = TeacherRun.of(data, "discrete_cql", updates, 0, torch.device("cpu"), {"target_update_interval": 7})
    assert given.algorithm.options["target_update_interval"] == 7


def test_soft_labels_have_the_temperature_of_the_recipe(data: OfflineData, tmp_path: Path) -> None:
    recipe = Recipe(
        "lab/shifted-v0",
        "pbc",
        8,
        student=QUICK,
        distillation=DistillationRecipe(kernel_steps=5, steps=2, batch_size=64, evaluate_every=2),
        teacher=TeacherRecipe("discrete_cql", steps=20),
    )
    usual = train_teacher(data, "discrete_cql", steps=20, progress=False)
    for confidence in (0.6, 0.99):
        softer = replace(recipe, teacher=replace(recipe.teacher, confidence=confidence))
        pairs = distill(data, recipe=softer, out=tmp_path / str(confidence), progress=False)
        told = load_dataset(tmp_path / str(confidence)).provenance
        assert told.teacher is not None
        assert told.recipe["teacher"]["confidence"] == told.teacher["mean_highest_probability"] == confidence
        same = train_teacher(data, "discrete_cql", steps=20, confidence=confidence, progress=False)
        assert told.teacher["sha256"] == same.sha256 != usual.sha256
        assert same.act(data.observations).max(1).mean() == pytest.approx(confidence, abs=0.01)
        assert same.choice is not None
        assert told.teacher["temperature"] == same.choice.temperature
        np.testing.assert_array_equal(
            usual.with_confidence(data.observations, confidence).act(data.observations), same.act(data.observations)
        )
        found = cached_teacher(pairs, data)
        assert found is not None
        assert found.sha256 == same.sha256
    brought = distill(data, "pbc", teacher=usual, recipe=softer, progress=False)
    assert brought.provenance.teacher is not None
    assert brought.provenance.teacher["sha256"] == same.sha256
    assert len(list((tmp_path / "cache" / "teachers").iterdir())) == 1
    assert recipe.deciding() == replace(recipe, teacher=replace(recipe.teacher, confidence=None)).deciding()
    assert "confidence" not in recipe.deciding()["teacher"]
    with pytest.raises(SettingError, match=r"teacher.confidence is 1.0"):
        TeacherRecipe("discrete_cql", confidence=1.0)
    even = replace(recipe, teacher=TeacherRecipe("discrete_cql", steps=20, confidence=0.5))
    with pytest.raises(SettingError, match="The likeliest of 2 actions cannot"):
        distill(data, recipe=even, progress=False)
    with pytest.raises(SettingError, match="are continuous; leave it out"):
        train_teacher(replace(data, first_action=None), "iql", steps=2, confidence=0.7, progress=False)


def test_bcq_rules_out_what_the_data_does_not_do() -> None:
    values, logits = torch.tensor([[1.0, 2.0, 9.0]]), torch.log(torch.tensor([[0.6, 0.38, 0.02]]))
    assert Choice(1.0, 0.3).probabilities(values, logits)[0, 2] == 0
    torch.testing.assert_close(Choice(1.0).probabilities(values, logits), torch.softmax(values, 1))
    assert fitted_temperature(np.array([[1.0, -np.inf]]), 0.9) == 1.0
    for wrong in ({"temperature": 0.0}, {"temperature": np.nan}, {"temperature": 1.0, "least": 1.0}):
        with pytest.raises(SettingError, match="a finite temperature above 0"):
            Choice(**wrong)


def test_teachers_are_for_one_kind_of_actions(data: OfflineData) -> None:
    with pytest.raises(SettingError, match=r"is for continuous actions.*use 'discrete_cql' or 'discrete_bcq'"):
        train_teacher(data, "iql", steps=2, progress=False)
    with pytest.raises(SettingError, match=r"is for discrete actions.*use 'bc' or"):
        train_teacher(replace(data, first_action=None), "discrete_cql", steps=2, progress=False)
    with pytest.raises(SettingError, match="has no actor to average"):
        train_teacher(data, "discrete_cql", steps=2, average=0.5, progress=False)
    with pytest.raises(SettingError, match=r"are discrete, and those of .* are continuous; give a"):
        distill(
            replace(data, first_action=None),
            "pbc",
            teacher=train_teacher(data, "discrete_cql", steps=2, progress=False),
            size=4,
            progress=False,
        )


def test_every_method_gives_pairs_whose_actions_are_probabilities(
    data: OfflineData, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = DynamicsSettings(members=2, depth=1, width=16, updates=100)
    monkeypatch.setattr(DynamicsSettings, "suited", lambda _: small)
    recipe = Recipe(
        "lab/shifted-v0",
        student=QUICK,
        distillation=DistillationRecipe(kernel_steps=5, steps=6, batch_size=64, evaluate_every=3),
        teacher=TeacherRecipe(steps=10),
    )
    pairs = None
    for method in OBJECTIVES.builtin:
        out = tmp_path / method
        pairs = distill(data, method, recipe=recipe, size=8, out=out, progress=method == "vgd")
        assert (pairs.is_discrete, pairs.protocol.network) == (True, "softmax_mlp")
        assert (pairs.actions >= 0).all()
        np.testing.assert_allclose(pairs.actions.sum(1), 1.0, atol=1e-5)
        assert clone(pairs)(data.observations[:5]).dtype.kind == "i"
        if pairs.provenance.teacher is not None:
            assert pairs.provenance.teacher["algorithm"] == "discrete_cql"
            assert pairs.provenance.teacher["temperature"] > 0
        again = load_dataset(out)
        assert (again.content_sha256, again.first_action) == (pairs.content_sha256, 3)
        distill(data, method, recipe=recipe, size=8, out=out, progress=False)  # the same run may go there again
    assert pairs is not None
    told = capsys.readouterr().err
    assert "discrete_cql" in told
    assert "value gap    left out" in told or "gap_fault" in str(pairs.provenance.targets)
    assert pairs.provenance.targets["dynamics"]["is_used"] in (True, False)


def test_fine_tuning_refuses_discrete_actions_at_once(data: OfflineData) -> None:
    with pytest.raises(SettingError, match="Fine-tuning is by TD3, which has continuous actions"):
        finetune(data, steps=30_000)


def test_d3rlpy_gets_numbers_of_actions() -> None:
    pairs = make_discrete()
    found = pairs.to_d3rlpy()
    assert found.dataset_info.action_size == 3
    assert found.dataset_info.action_space.name == "DISCRETE"
    np.testing.assert_array_equal(found.episodes[0].actions[0], [pairs.actions[0].argmax()])
    with pytest.raises(DataError, match="No step can be simulated"):
        pairs.with_transitions()


def test_a_brought_teacher_gives_probabilities(data: OfflineData) -> None:
    class Rule:
        def act(self, states: np.ndarray) -> np.ndarray:
            return np.eye(2)[[lean(state) - 3 for state in states]]

        def value(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
            return np.ones(len(states))

    settings = DistillationRecipe(kernel_steps=5, steps=60, learning_rate=0.03, batch_size=128, evaluate_every=10)
    recipe = Recipe("x", student=replace(QUICK, steps=200), distillation=settings)
    pairs = distill(data, "pbc", teacher=Rule(), recipe=recipe, size=32, progress=False)
    policy = clone(pairs, students=3)
    assert np.mean(policy(data.observations) == 3 + data.actions.argmax(-1)) > 0.9
    assert evaluate(Rule(), env="Shifted-v0", episodes=2).returns.mean() > 30
