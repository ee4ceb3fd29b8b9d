"""Evaluation: known answers, the same bytes for a seed, statistics that agree with closed forms."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import gymnasium as gym
import numpy as np
import pytest
from conftest import RuleTeacher, make_pairs
from scipy import stats

import minari_obd
from minari_obd.environments.episodes import run_episodes
from minari_obd.environments.making import check_environment_id, make_environment
from minari_obd.errors import DataError, NotFoundError, SettingError
from minari_obd.evaluation import evaluation
from minari_obd.scores.estimates import (
    estimate_interquartile_mean,
    estimate_mean,
    estimate_mean_over_tasks,
    interquartile_mean,
    probability_of_improvement,
)
from minari_obd.scores.references import REFERENCE_SCORES, reference_scores
from minari_obd.scores.report import EvaluationReport
from minari_obd.settings.protocols import EvaluationProtocol, StudentProtocol


class Countdown(gym.Env):
    """Rewards each step with its action's first number; ends after as many steps as its seed says (2 to 5)."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (3,))
    action_space = gym.spaces.Box(-2.0, 4.0, (2,))

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        super().reset(seed=seed)
        self.left = self.length = 2 + int(seed or 0) % 4
        return self._observe(), {}

    def step(self, action: np.ndarray):
        assert self.left > 0, "stepped after its end"
        self.left -= 1
        return self._observe(), float(action[0]), self.left == 0, False, {}

    def _observe(self) -> np.ndarray:
        return np.array([self.left, self.length, 1.0], dtype=np.float32)


@pytest.fixture(autouse=True)
def countdown() -> Iterator[None]:
    gym.register("Countdown-v0", cast(Any, Countdown), max_episode_steps=50, disable_env_checker=True)
    yield
    del gym.registry["Countdown-v0"]


def test_known_returns_come_out_exactly() -> None:
    """With reward = observation 0 before the step, an episode of n steps returns n + (n-1) + ... + 1."""

    class Echo(RuleTeacher):
        def act(self, states: np.ndarray) -> np.ndarray:
            return np.stack([states[:, 0], states[:, 1]], axis=1)

    report = minari_obd.evaluate(Echo(), env="Countdown-v0", episodes=12)
    seeds = np.random.SeedSequence([0, 7]).generate_state(12)
    lengths = 2 + (seeds % 4).astype(int)
    np.testing.assert_array_equal(report.returns, [lengths * (lengths + 1) / 2])
    with pytest.raises(DataError, match="no reference scores"):
        _ = report.scores


def test_functions_and_what_predicts_are_evaluated_as_policies_are() -> None:
    policy = replace(minari_obd.clone(make_pairs()), env_id="Countdown-v0")
    expected = minari_obd.evaluate(policy, episodes=3).returns

    class Model:
        """As Stable-Baselines3's models are: no call, no act."""

        def predict(self, observation: np.ndarray, deterministic: bool = False) -> tuple[np.ndarray, None]:
            assert deterministic
            return policy(observation), None

    for subject in (policy.__call__, Model()):
        report = minari_obd.evaluate(subject, env="Countdown-v0", episodes=3)
        np.testing.assert_allclose(report.returns, expected, rtol=1e-5)
    for wrong, error, message in (
        (lambda _: np.zeros(3), SettingError, r"an action of shape \(3,\); the environment has \(2,\)"),
        (lambda _: 0.0, DataError, "must return one action"),
        ("Hopper", SettingError, "'Hopper' is a name; load it first"),
    ):
        with pytest.raises(error, match=message):
            minari_obd.evaluate(wrong, env="Countdown-v0", episodes=1)


def test_lockstep_equals_one_after_the_other() -> None:
    lockstep = [make_environment("Hopper-v5") for _ in range(5)]

    def policy(rows: np.ndarray, running: np.ndarray) -> np.ndarray:
        return np.tanh(rows[:, :3] + rows[:, 5:8]).astype(np.float32)

    together = run_episodes(lockstep, range(5), policy).returns
    alone = [run_episodes(lockstep[:1], [seed], policy).returns[0] for seed in range(5)]
    np.testing.assert_array_equal(together, alone)


def test_a_set_is_cloned_and_judged_in_its_own_environment() -> None:
    pairs = make_pairs(shape=(11, 3))
    report = minari_obd.evaluate(pairs, students=3, episodes=2, seed=4)
    again = minari_obd.evaluate(pairs, students=3, episodes=2, seed=4)
    policy = minari_obd.evaluate(minari_obd.clone(pairs, students=3, seed=4), episodes=2, seed=4)
    assert report.returns.shape == (3, 2)
    assert report.returns.tobytes() == again.returns.tobytes() == policy.returns.tobytes()
    assert report.env_id == "Hopper-v5"
    np.testing.assert_allclose(report.scores, report.returns)  # the set's own reference scores are 0 and 100
    values = json.loads(json.dumps(report.to_json(), allow_nan=False))
    np.testing.assert_array_equal(values["returns"], report.returns)
    assert values["versions"]["gymnasium"] == gym.__version__
    assert "3 students x 2 episodes in Hopper-v5" in repr(report)


def test_a_protocol_says_who_is_judged_and_how_often() -> None:
    pairs = make_pairs(shape=(11, 3))
    fast = minari_obd.evaluate(pairs, protocol="fast")
    assert fast.returns.shape == (4, 5)
    assert fast.protocol == pairs.protocol
    assert minari_obd.evaluate(pairs, protocol="fast", students=1, episodes=2).returns.shape == (1, 2)
    adamw = minari_obd.evaluate(pairs, protocol="adamw", students=1, episodes=1)
    assert adamw.protocol == StudentProtocol(optimiser="adamw", learning_rate=1e-3)
    with pytest.raises(NotFoundError, match="did you mean 'residual'"):
        minari_obd.evaluate(pairs, protocol="residul")
    for report in (fast, adamw):
        again = EvaluationReport.from_json(json.loads(json.dumps(report.to_json())))
        assert again.to_json() == report.to_json()


def test_an_ensemble_acts_by_the_mean_of_its_students() -> None:
    pairs = make_pairs(shape=(11, 3))
    judged = minari_obd.evaluate(pairs, protocol=EvaluationProtocol(students=2, episodes=3, ensemble=3), seed=1)
    policy = minari_obd.clone(pairs, students=6, seed=1)
    for number in range(2):
        own = slice(3 * number, 3 * number + 3)
        together = replace(policy, parameters=[p[own] for p in policy.parameters])  # called, it acts by the mean

        class Mean(RuleTeacher):
            def act(self, states: np.ndarray, together: minari_obd.Policy = together) -> np.ndarray:
                return together(states)

        alone = minari_obd.evaluate(Mean(), env="Hopper-v5", episodes=3, seed=1).returns[0]
        np.testing.assert_allclose(judged.returns[number], alone, rtol=1e-3)
    assert "2 ensembles of 3 students x 3 episodes" in repr(judged)
    assert "2 ensembles of 3 students x 3 episodes" in judged.to_markdown()
    apart = minari_obd.evaluate(policy, episodes=3, seed=1).returns
    assert not np.allclose(judged.returns, apart.reshape(2, 3, 3).mean(axis=1))  # mean action, not mean return
    with pytest.raises(SettingError, match="6 students cannot be divided into ensembles of 4"):
        minari_obd.evaluate(policy, protocol=EvaluationProtocol(ensemble=4))


def test_all_students_face_the_same_starts() -> None:
    pairs = make_pairs(shape=(11, 3))
    policy = minari_obd.clone(pairs, students=1)
    twice = replace(policy, parameters=[p.repeat(2, 1, 1) for p in policy.parameters])
    returns = minari_obd.evaluate(twice, episodes=3).returns
    np.testing.assert_allclose(returns[0], returns[1], rtol=1e-4)
    assert len(set(returns[0])) == 3


def test_unusable_requests_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = make_pairs(env_id=None)
    with pytest.raises(SettingError, match="environment of this subject is not known"):
        minari_obd.evaluate(pairs)
    with monkeypatch.context() as patch:  # it is said before the students are cloned
        patch.setattr(evaluation, "clone", lambda *_, **__: pytest.fail("cloning had begun"))
        with pytest.raises(SettingError, match="is for 3 observations and 2 actions, but the environment has 11 and 3"):
            minari_obd.evaluate(pairs, env="Hopper-v5")
    with pytest.raises(SettingError, match="episodes is 0; it must be at least 1"):
        minari_obd.evaluate(pairs, env="Hopper-v5", episodes=0)
    with pytest.raises(NotFoundError, match="did you mean 'Hopper-v5'"):
        minari_obd.evaluate(pairs, env="Hoper-v5")


@pytest.mark.parametrize(
    "env_id", ["os:Hopper-v5", "evil.module:Env-v0", "Hopper-v5\n", "../Hopper-v5", "", "x" * 500 + "-v0"]
)
def test_an_id_is_never_code(env_id: str) -> None:
    with pytest.raises(NotFoundError, match="is not a plain environment id"):
        check_environment_id(env_id)


def test_scores_are_d4rls() -> None:
    assert reference_scores("HalfCheetah-v5").normalise(np.array([-280.178953, 12135.0, 4530.0])) == pytest.approx(
        [0, 100, 38.7439], abs=1e-3
    )
    measured = {"Ant", "CartPole", "Acrobot", "LunarLander"}
    assert set(REFERENCE_SCORES) == {"HalfCheetah", "Hopper", "Walker2d"} | measured
    with pytest.raises(NotFoundError, match="no reference scores for 'Pendulum-v1'"):
        reference_scores("Pendulum-v1")


def test_students_that_are_all_the_same_are_one() -> None:
    """Infinitely wide students of one set are, and their number says nothing about the spread."""
    one = np.random.default_rng(0).normal(size=(1, 10))
    assert estimate_mean(np.repeat(one, 5, axis=0)) == estimate_mean(one)
    assert estimate_mean(one).low < estimate_mean(one).high


def test_intervals_cover_as_stated() -> None:
    """The bootstrap over students covers the true mean about as often as it says; few students make it a bit narrow."""
    rng = np.random.default_rng(0)
    inside = 0
    for trial in range(200):
        students = rng.normal(5.0, 2.0, size=(20, 1))
        estimate = estimate_mean(students + rng.normal(0, 1.0, size=(20, 10)), seed=trial)
        inside += estimate.low <= 5.0 <= estimate.high
    assert 0.88 <= inside / 200 <= 0.98


def test_one_student_is_resampled_by_episode() -> None:
    values = np.random.default_rng(0).normal(size=(1, 400))
    estimate = estimate_mean(values)
    half = 1.96 * values.std() / 20
    assert estimate.low == pytest.approx(values.mean() - half, abs=0.02)
    assert estimate.high == pytest.approx(values.mean() + half, abs=0.02)
    single = estimate_mean(np.array([[3.0]]))
    assert single.low == single.mean == single.high == 3.0


def test_interquartile_mean_ignores_outliers() -> None:
    values = np.array([[1.0, 2.0, 3.0, 1e9], [-1e9, 2.0, 2.0, 3.0]])
    assert interquartile_mean(values) == stats.trim_mean(values.reshape(-1), 0.25) == 2.25


def test_the_interval_of_the_interquartile_mean_covers_as_stated() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for trial in range(100):
        estimate = estimate_interquartile_mean(rng.normal(5.0, 2.0, size=(20, 1)) + np.zeros((20, 3)), seed=trial)
        inside += estimate.low <= 5.0 <= estimate.high
    assert 0.85 <= inside / 100 <= 0.99
    values = rng.normal(size=(1, 9))
    assert estimate_interquartile_mean(values).mean == interquartile_mean(values)
    assert estimate_interquartile_mean(np.ones((3, 2))).low == 1.0


def test_the_probability_of_improvement_is_the_mann_whitney_statistic() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(0.5, 1.0, size=(12, 4)), rng.normal(0.0, 1.0, size=(9, 4))
    found = probability_of_improvement(ours, theirs)
    expected = stats.mannwhitneyu(ours.mean(axis=1), theirs.mean(axis=1)).statistic / (12 * 9)
    assert found.mean == pytest.approx(expected)
    assert 0.0 <= found.low < found.mean < found.high <= 1.0
    assert probability_of_improvement(theirs, ours).mean == pytest.approx(1.0 - expected)
    assert probability_of_improvement(np.ones((3, 1)), np.ones((3, 1))).mean == 0.5
    beside_one = probability_of_improvement(ours, np.array([[0.4]]))  # a teacher, say
    assert 0.0 <= beside_one.low <= beside_one.mean <= beside_one.high <= 1.0
    report = EvaluationReport(np.array([[1.0], [2.0]]), "A-v0", 0)
    assert report.probability_of_improvement(report).mean == 0.5
    with pytest.raises(DataError, match="cannot be compared"):
        report.probability_of_improvement(EvaluationReport(np.array([[1.0]]), "B-v0", 0))


def test_the_stratified_interval_keeps_every_task() -> None:
    """Two tasks of very different level: an interval that mixed them would be far wider."""
    rng = np.random.default_rng(0)
    tasks = [rng.normal(0.0, 1.0, 30), rng.normal(1000.0, 1.0, 30)]
    estimate = estimate_mean_over_tasks(tasks)
    assert estimate.mean == pytest.approx(np.mean([task.mean() for task in tasks]))
    assert estimate_mean_over_tasks([tasks[0], tasks[1][:1]]).low > 400  # a task that has one run so far
    half = 1.96 * np.sqrt(sum(task.var() / 30 for task in tasks)) / 2
    assert estimate.high - estimate.low == pytest.approx(2 * half, rel=0.1)


def test_a_report_as_markdown() -> None:
    report = EvaluationReport(np.array([[1.0, 2.0]]), "E-v0", 3, REFERENCE_SCORES["Hopper"])
    text = report.to_markdown()
    assert text.startswith("| E-v0, 1 students x 2 episodes, seed 3 | mean | 95% interval |")
    assert "| return | 1.5 | 1.0 - 2.0 |" in text
    assert "interquartile mean of scores" in text


def test_a_report_needs_no_reference() -> None:
    report = EvaluationReport(np.array([[1.0, 2.0]]), "Countdown-v0", 0)
    assert report.to_json()["score"] is None
    assert "return 1.5" in repr(report)
