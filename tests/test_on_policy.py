"""On-policy weighting: the past of a state, closed forms and what they are for."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import RuleTeacher
from scipy import stats

from minari_obd.densities.weights import effective_sample_fraction
from minari_obd.distillation.distillation import build_targets
from minari_obd.distillation.preparation import prepare
from minari_obd.settings.recipe import Recipe
from minari_obd.settings.sections import OnPolicyRecipe
from minari_obd.sources.data import OfflineData
from minari_obd.sources.loading import load_offline_data
from minari_obd.targets.methods import PolicyBehaviouralCloning
from minari_obd.targets.on_policy import OnPolicyWeighting, past_disagreement
from minari_obd.targets.targets import TargetInputs


def episodes(lengths: list[int], actions: np.ndarray, observations: np.ndarray) -> OfflineData:
    """Episodes of a task with two observations and one action from -1 to 1, cut and not ended."""
    ends = np.cumsum(lengths) - 1
    cut = np.isin(np.arange(len(actions)), ends)
    return load_offline_data(
        {
            "observations": observations.astype(np.float32),
            "actions": actions.astype(np.float32),
            "rewards": np.zeros(len(actions), np.float32),
            "terminations": np.zeros(len(actions), bool),
            "truncations": cut,
            "action_low": np.full(1, -1.0),
            "action_high": np.full(1, 1.0),
        }
    )


class Still:
    """A teacher that does nothing."""

    def act(self, states: np.ndarray) -> np.ndarray:
        return np.zeros((len(states), 1), np.float32)

    def value(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        raise AssertionError("no values are needed")


def test_the_past_is_an_average_of_what_came_before_in_the_episode() -> None:
    rng = np.random.default_rng(0)
    lengths, decay = [1, 4, 30], 0.8
    actions = rng.uniform(-1, 1, (35, 1))
    data = episodes(lengths, actions, rng.normal(size=(35, 2)))
    found = past_disagreement(data, np.zeros((35, 1)), decay)
    start = 0
    for length in lengths:
        squares = np.square(data.actions[start : start + length, 0], dtype=np.float64)
        for t in range(length):
            wanted = sum((1 - decay) * decay ** (t - 1 - k) * squares[k] for k in range(t))
            assert found[start + t] == pytest.approx(wanted, abs=1e-6)
        start += length


def test_what_the_teacher_did_itself_weighs_most() -> None:
    """Half of the episodes are the teacher's own, up to little noise; the other half are anyone's, in other places."""
    rng = np.random.default_rng(1)
    own, other = rng.normal(0, 0.05, (2_000, 1)), rng.uniform(-1, 1, (2_000, 1))
    places = np.concatenate([rng.normal(0, 1, (2_000, 2)), rng.normal(5, 1, (2_000, 2))])
    data = episodes([100] * 40, np.concatenate([own, other]), places)
    made = OnPolicyWeighting().targets(TargetInputs(data, Still()))
    assert effective_sample_fraction(made.weights) == pytest.approx(0.5, abs=0.1)
    assert made.details["effective_fraction"] == pytest.approx(effective_sample_fraction(made.weights))
    is_settled = np.arange(4_000) % 100 > 30
    share = made.weights[:2_000][is_settled[:2_000]].sum() / made.weights[is_settled].sum()
    assert share > 0.95
    np.testing.assert_array_equal(made.states, PolicyBehaviouralCloning().targets(TargetInputs(data, Still())).states)
    np.testing.assert_array_equal(made.actions, 0.0)


def test_a_chain_is_weighted_like_its_importance_ratio() -> None:
    """Behaviour and teacher differ in their mean action: weights order states as products of likelihood ratios do."""
    rng = np.random.default_rng(2)
    actions = np.clip(rng.normal(0.3, 0.2, (5_000, 1)), -1, 1)
    data = episodes([10] * 500, actions, rng.normal(size=(5_000, 2)))
    made = OnPolicyWeighting(OnPolicyRecipe(decay=0.95)).targets(TargetInputs(data, Still()))
    # Up to what the behaviour's own likelihood says, which is not known to the weights: the teacher's part alone.
    logarithm = stats.norm.logpdf(data.actions[:, 0].astype(np.float64), scale=0.2).reshape(500, 10)
    before = np.concatenate([np.zeros((500, 1)), np.cumsum(logarithm, axis=1)[:, :-1]], axis=1)
    for t in (1, 5, 9):
        at_t = made.weights.reshape(500, 10)[:, t]
        ranks = [stats.rankdata(each) for each in (at_t, before[:, t])]
        assert np.corrcoef(*ranks)[0, 1] > (0.99 if t == 1 else 0.9)


class Sure:
    """Takes the first of three actions, with a probability of 0.9."""

    def act(self, states: np.ndarray) -> np.ndarray:
        return np.tile([0.9, 0.05, 0.05], (len(states), 1))

    def value(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        return np.zeros(len(states))


def test_discrete_actions_of_a_stochastic_policy_leave_weight_beyond_the_first_steps() -> None:
    """Two actions that differ are far apart, so 0.05 would leave it all to the first steps, which have no past."""
    rng, lengths = np.random.default_rng(2), [200] * 40
    taken = np.where(rng.random(8_000) < np.repeat([0.7, 0.3], 4_000), 0, rng.integers(1, 3, 8_000))
    ends = np.isin(np.arange(8_000), np.cumsum(lengths) - 1)
    arrays = {"observations": rng.normal(0, 1, (8_000, 2)).astype(np.float32), "actions": taken, "action_count": 3}
    data = load_offline_data(
        {**arrays, "rewards": np.zeros(8_000, np.float32), "terminations": ends & False, "truncations": ends}
    )
    assert data.is_discrete
    is_first = np.arange(8_000) % 200 < 10

    def share(temperature: float | None, rows: np.ndarray) -> float:
        made = OnPolicyWeighting(OnPolicyRecipe(temperature=temperature)).targets(TargetInputs(data, Sure()))
        assert made.details["temperature"] == (temperature or 0.5)
        return made.weights[rows].sum() / made.weights.sum()

    assert share(0.05, is_first) > 0.8
    assert share(None, is_first) < 0.2
    assert share(None, np.arange(8_000) < 4_000) > 0.6
    recipe = Recipe("arrays", method="opw", size=8)
    assert prepare(recipe, data, Sure(), progress=False).recipe.on_policy.temperature == 0.5
    assert recipe.resolved().on_policy.temperature == 0.05


def test_data_of_the_teacher_alone_is_weighted_evenly(small_data: OfflineData) -> None:
    teacher = RuleTeacher()
    low, high = small_data.action_low, small_data.action_high
    same = replace(small_data, actions=np.clip(teacher.act(small_data.observations), low, high))
    made = OnPolicyWeighting().targets(TargetInputs(same, teacher))
    np.testing.assert_allclose(made.weights, 1.0, atol=1e-6)


def test_a_recipe_reaches_the_weights(small_data: OfflineData) -> None:
    recipe = Recipe("arrays", method="opw", size=8, on_policy=OnPolicyRecipe(decay=0.5, temperature=0.3))
    prepared = prepare(recipe, small_data, RuleTeacher(), progress=False)
    targets = build_targets(prepared, RuleTeacher(), None)
    assert (targets.details["decay"], targets.details["temperature"]) == (0.5, 0.3)
    past = past_disagreement(small_data, targets.actions, 0.5)
    ratio = targets.weights[1:] / targets.weights[:-1]
    np.testing.assert_allclose(np.log(ratio), (past[:-1] - past[1:]) / 0.3, atol=1e-4)
    assert targets.details["mean_disagreement"] == pytest.approx(past.mean())


def test_data_far_from_the_teacher_keeps_finite_weights(small_data: OfflineData) -> None:
    made = OnPolicyWeighting(OnPolicyRecipe(temperature=1e-4)).targets(TargetInputs(small_data, RuleTeacher()))
    assert np.isfinite(made.weights).all()
    assert made.weights.mean() == pytest.approx(1.0, abs=1e-3)
