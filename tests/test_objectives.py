"""Objectives and densities: closed forms and known orders."""

from typing import Any

import numpy as np
import pytest
from conftest import RuleTeacher
from scipy import stats

from minari_obd.densities.neighbours import KNearestNeighbours
from minari_obd.densities.weights import effective_sample_fraction, tempered_exponential, tempered_reciprocal
from minari_obd.errors import DataError, NotFoundError, SettingError
from minari_obd.registry import DENSITIES, OBJECTIVES, STUDENTS, TEACHERS
from minari_obd.settings.sections import ValueRecipe
from minari_obd.sources.data import OfflineData
from minari_obd.targets.clustering import central_rows
from minari_obd.targets.methods import ActionValuePolicyBehaviouralCloning, StateDensityWeighting
from minari_obd.targets.targets import TargetInputs, Targets

DISTILLED = ("dbc", "pbc", "av_pbc", "sdw")
SELECTED = ("random", "kmeans")


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(stats.rankdata(a), stats.rankdata(b))[0, 1])


def targets(name: str, data: OfflineData, teacher: RuleTeacher) -> Targets:
    method = OBJECTIVES.get(name)()
    density = KNearestNeighbours().fit(data.normaliser.normalise(data.observations))
    return method.targets(TargetInputs(data, teacher, density))


@pytest.mark.parametrize("name", DISTILLED)
def test_every_objective_gives_valid_targets(name: str, small_data: OfflineData) -> None:
    made = targets(name, small_data, RuleTeacher())
    assert made.states.shape == (600, 3)
    assert made.weights.mean() == pytest.approx(1, abs=1e-4)
    np.testing.assert_array_equal(made.states, small_data.normaliser.normalise(small_data.observations))
    wanted = small_data.actions if name == "dbc" else RuleTeacher().act(small_data.observations)
    np.testing.assert_allclose(made.actions, wanted, atol=1e-6)


def test_constant_values_make_av_pbc_equal_pbc(small_data: OfflineData) -> None:
    av_pbc, pbc = (targets(name, small_data, RuleTeacher(value=7.0)) for name in ("av_pbc", "pbc"))
    for name in ("states", "actions", "weights"):
        np.testing.assert_array_equal(getattr(av_pbc, name), getattr(pbc, name))


def test_av_pbc_weights_are_values_over_their_mean(small_data: OfflineData) -> None:
    values = 3.0 + small_data.observations[:, 0]
    clipped = np.clip(values, 0, None)
    made = targets("av_pbc", small_data, RuleTeacher())
    np.testing.assert_allclose(made.weights, clipped / clipped.mean(), rtol=1e-5)


def test_shift_free_values_do_not_know_of_a_constant_reward(small_data: OfflineData) -> None:
    class Shifted(RuleTeacher):
        def value(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
            return super().value(states, actions) + 500.0

    method = ActionValuePolicyBehaviouralCloning(ValueRecipe("shift_free"))
    here, there = (method.targets(TargetInputs(small_data, teacher(), None)) for teacher in (RuleTeacher, Shifted))
    np.testing.assert_allclose(here.weights, there.weights, atol=1e-4)
    assert here.weights.mean() == pytest.approx(1.0, abs=1e-5)
    values = 3.0 + small_data.observations[:, 0]
    floor = np.percentile(values, 0.1)
    assert here.details["value_floor"] == pytest.approx(floor)
    wanted = np.clip(values - floor, 0, None)
    np.testing.assert_allclose(here.weights, wanted / wanted.mean(), rtol=1e-5)
    scaled = (targets("av_pbc", small_data, teacher()).weights for teacher in (RuleTeacher, Shifted))
    assert not np.allclose(*scaled, atol=0.1)


def test_tempered_values_know_neither_shift_nor_scale(small_data: OfflineData) -> None:
    class Changed(RuleTeacher):
        def value(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
            return 40.0 * super().value(states, actions) - 500.0

    method = ActionValuePolicyBehaviouralCloning(ValueRecipe("tempered", effective_fraction=0.3))
    here, there = (method.targets(TargetInputs(small_data, teacher(), None)) for teacher in (RuleTeacher, Changed))
    np.testing.assert_allclose(here.weights, there.weights, rtol=1e-3)
    assert here.details["value_alpha"] == pytest.approx(40.0 * there.details["value_alpha"])
    for made in (here, there):
        assert effective_sample_fraction(made.weights) == pytest.approx(0.3, abs=1e-4)
        assert made.details["value_effective_fraction"] == pytest.approx(0.3)
        assert made.weights.mean() == pytest.approx(1.0, abs=1e-5)
    values = np.clip(3.0 + small_data.observations[:, 0], *here.details["value_clip"])
    np.testing.assert_allclose(np.log(here.weights), here.details["value_alpha"] * values + _intercept(here), atol=1e-3)


def _intercept(made: Targets) -> float:
    """Logarithm of the weight that value zero would have, from the weight of the highest."""
    return float(np.log(made.weights.max())) - made.details["value_alpha"] * made.details["value_clip"][1]


def test_raw_values_keep_their_scale(small_data: OfflineData) -> None:
    raw = ValueRecipe("raw", beta=0.5)
    made = ActionValuePolicyBehaviouralCloning(raw).targets(TargetInputs(small_data, RuleTeacher(), None))
    wanted = 0.5 * np.clip(3.0 + small_data.observations[:, 0], 0, None)
    np.testing.assert_allclose(made.weights, wanted, rtol=1e-5)
    assert (made.details["value_weights"], made.details["value_beta"]) == ("raw", 0.5)
    density = KNearestNeighbours().fit(small_data.normaliser.normalise(small_data.observations))
    sdw, scaled = (
        StateDensityWeighting(values=recipe).targets(TargetInputs(small_data, RuleTeacher(), density))
        for recipe in (raw, ValueRecipe())
    )
    np.testing.assert_allclose(sdw.weights, scaled.weights * wanted.mean(), rtol=1e-4)


def test_values_below_zero_everywhere_are_refused(small_data: OfflineData) -> None:
    with pytest.raises(DataError, match="or method 'pbc' or 'opw', which need no values"):
        targets("av_pbc", small_data, RuleTeacher(value=-1.0))


def test_sdw_with_constant_values_is_the_tempered_density(small_data: OfflineData) -> None:
    made = targets("sdw", small_data, RuleTeacher(value=1.0))
    states = small_data.normaliser.normalise(small_data.observations)
    log_density = KNearestNeighbours().fit(states).log_prob(states)
    assert rank_correlation(made.weights, -log_density) > 0.999
    assert made.details["density_effective_fraction"] == pytest.approx(0.5, abs=1e-3)
    assert 0 < made.details["alpha"] < 1
    assert made.details["density_estimator"] == "KNearestNeighbours(resolution=0.01, neighbours=10, references=20000)"
    assert made.details["density_held_out_log_likelihood"] < 0
    assert made.details["density_clip_percentiles"] == [0.1, 99.9]
    assert made.details["density_clip"] == pytest.approx(np.percentile(log_density, [0.1, 99.9]))


def test_sdw_is_values_times_rarity_or_rarity_alone(small_data: OfflineData) -> None:
    density = KNearestNeighbours().fit(small_data.normaliser.normalise(small_data.observations))
    alone = StateDensityWeighting(with_values=False).targets(TargetInputs(small_data, RuleTeacher(), density))
    both = StateDensityWeighting().targets(TargetInputs(small_data, RuleTeacher(), density))
    values = targets("av_pbc", small_data, RuleTeacher()).weights
    expected = alone.weights * values / np.mean(alone.weights * values)
    np.testing.assert_allclose(both.weights, expected, rtol=1e-5)
    assert both.details["alpha"] == alone.details["alpha"]
    assert alone.details["effective_fraction"] == pytest.approx(0.5, abs=1e-3)
    assert both.details["effective_fraction"] == pytest.approx(1 / np.mean(both.weights**2), rel=1e-4)
    assert "mean_value" in both.details
    # Values that could not weight anything are not even asked for.
    worthless = StateDensityWeighting(with_values=False).targets(
        TargetInputs(small_data, RuleTeacher(value=-1.0), density)
    )
    np.testing.assert_array_equal(worthless.weights, alone.weights)


def test_a_teacher_of_another_task_is_refused(small_data: OfflineData) -> None:
    class Wrong(RuleTeacher):
        def act(self, states: np.ndarray) -> np.ndarray:
            return np.zeros((len(states), 5))

    with pytest.raises(DataError, match="another task"):
        targets("pbc", small_data, Wrong())


@pytest.mark.parametrize("name", SELECTED)
def test_selections_are_different_rows_and_the_same_for_a_seed(name: str, small_data: OfflineData) -> None:
    method = OBJECTIVES.get(name)()
    rows = method.select(small_data, 40, 3)
    assert len(set(rows)) == 40
    np.testing.assert_array_equal(rows, method.select(small_data, 40, 3))
    assert len(set(method.select(small_data, 600, 0))) == 600


def test_central_rows_are_different_though_states_are_alike() -> None:
    states = np.repeat(np.array([[0, 0], [9, 9], [0, 9]], np.float32), 5, axis=0)
    rows = central_rows(states, 3, 0)
    assert sorted(rows // 5) == [0, 1, 2]  # one of each kind
    assert len(set(central_rows(states, 12, 0))) == 12
    np.testing.assert_array_equal(np.sort(central_rows(states, 15, 0)), np.arange(15))


def test_kmeans_covers_what_random_misses(small_data: OfflineData) -> None:
    states = small_data.normaliser.normalise(small_data.observations)

    def coverage(name: str) -> float:
        rows = OBJECTIVES.get(name)().select(small_data, 30, 0)
        return float(np.linalg.norm(states[:, None] - states[rows], axis=-1).min(axis=1).mean())

    assert coverage("kmeans") < coverage("random")


@pytest.mark.parametrize(
    ("states", "actions", "weights", "message"),
    [
        (np.zeros((3, 2)), np.zeros((2, 1)), np.ones(3), "one action and one weight per state"),
        (np.zeros((3, 2)), np.zeros((3, 1)), np.full(3, 2.0), "mean 1"),
        (np.zeros((3, 2)), np.zeros((3, 1)), np.zeros(3), "mean 1"),
        (np.zeros((3, 2)), np.zeros((3, 1)), np.array([3.0, 1.0, -1.0]), "must not be negative"),
        (np.full((3, 2), np.nan), np.zeros((3, 1)), np.ones(3), "states are not finite"),
    ],
)
def test_targets_refuse_what_they_cannot_mean(states, actions, weights, message) -> None:
    with pytest.raises(DataError, match=message):
        Targets(states, actions, weights, {})


@pytest.mark.parametrize("dimensions", [2, 3, 5])
def test_nearest_neighbours_know_a_gaussian(dimensions: int) -> None:
    rng = np.random.default_rng(0)
    states, fresh = rng.normal(size=(2, 8_000, dimensions)).astype(np.float32)
    density = KNearestNeighbours(neighbours=20).fit(states)
    truth = stats.norm.logpdf(fresh).sum(axis=1)
    estimate = density.log_prob(fresh)
    # The known bias of a k-nearest-neighbour estimate is to flatten peaks, the more the more dimensions there are.
    assert rank_correlation(truth, estimate) > 0.9
    assert abs(np.mean(truth - estimate)) < 0.25 * dimensions
    # Asked about its own references, it must not meet each of them as its own neighbour.
    own = density.log_prob(states)
    assert abs(np.mean(own) - np.mean(estimate)) < 0.2


def test_too_few_states_for_a_density_are_named() -> None:
    with pytest.raises(DataError, match="too few for a density"):
        KNearestNeighbours(neighbours=10).fit(np.zeros((11, 2)))


@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("spread", [3.0, 14.0])
def test_temper_reaches_the_effective_fraction(fraction: float, spread: float) -> None:
    log_density = np.random.default_rng(0).normal(0, spread, size=20_000)
    made = tempered_reciprocal(log_density, fraction)
    assert made.weights.mean() == pytest.approx(1)
    assert 1 / np.mean(made.weights**2) == pytest.approx(fraction, abs=1e-4)
    # For a normal log-density the fraction is exp(-alpha^2 sigma^2), up to the clipped tails.
    assert made.alpha == pytest.approx(np.sqrt(-np.log(fraction)) / spread, rel=0.07)


def test_temper_never_sharpens() -> None:
    assert tempered_reciprocal(np.linspace(0, 0.01, 100), 0.5).alpha == 1.0
    with pytest.raises(DataError, match="not finite"):
        tempered_reciprocal(np.array([0.0, np.inf]), 0.5)


@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.9])
def test_values_are_tempered_to_the_effective_fraction(fraction: float) -> None:
    values = np.random.default_rng(0).normal(300.0, 50.0, size=20_000)
    made = tempered_exponential(values, fraction)
    assert made.weights.mean() == pytest.approx(1)
    assert effective_sample_fraction(made.weights) == pytest.approx(fraction, abs=1e-4)
    # As above: for normal values the fraction is exp(-alpha^2 sigma^2), up to the clipped tails.
    assert made.alpha == pytest.approx(np.sqrt(-np.log(fraction)) / 50.0, rel=0.15)
    # One value far below all others stretches their range and must change nothing else.
    outlier = tempered_exponential(np.append(values, -1e9), fraction)
    np.testing.assert_allclose(outlier.weights[:-1], made.weights, rtol=1e-2)


def test_values_that_are_alike_get_equal_weights() -> None:
    shared = tempered_exponential(np.repeat([1.0, 2.0], 50), 0.2)  # half of them share the highest value
    np.testing.assert_allclose(shared.weights, np.repeat([0.0, 2.0], 50), atol=1e-9)
    np.testing.assert_array_equal(tempered_exponential(np.full(100, 7.0), 0.2).weights, np.ones(100))


@pytest.mark.parametrize(("value", "message"), [(7.0, r"values \(nearly\) all states at 7"), (np.nan, "not finite")])
def test_tempered_values_that_tell_nothing_apart_are_refused(
    value: float, message: str, small_data: OfflineData
) -> None:
    with pytest.raises(DataError, match=message):
        ActionValuePolicyBehaviouralCloning(ValueRecipe("tempered")).targets(
            TargetInputs(small_data, RuleTeacher(value), None)
        )


@pytest.mark.parametrize("weights", ["scaled", "shift_free", "raw"])
def test_values_that_are_not_finite_are_refused(weights: Any, small_data: OfflineData) -> None:
    given = TargetInputs(small_data, RuleTeacher(np.nan), None)
    with pytest.raises(DataError, match="values are not finite"):
        ActionValuePolicyBehaviouralCloning(ValueRecipe(weights)).targets(given)


@pytest.mark.parametrize("registry", [OBJECTIVES, DENSITIES, STUDENTS, TEACHERS], ids=lambda r: r.kind)
def test_every_registered_name_exists(registry) -> None:
    for name in registry.names():
        if registry is not TEACHERS:
            assert registry.get(name) is not None
    with pytest.raises(NotFoundError, match=f"There is no {registry.kind} 'nothing'"):
        registry.get("nothing")


def test_targets_that_lack_what_they_need_say_so(small_data: OfflineData) -> None:
    for name, needed in (("pbc", "a teacher"), ("sdw", "a fitted density")):
        given = TargetInputs(small_data, None if name == "pbc" else RuleTeacher())
        with pytest.raises(SettingError, match=f"need {needed}"):
            OBJECTIVES.get(name)().targets(given)


def test_a_near_name_is_guessed() -> None:
    with pytest.raises(NotFoundError, match="did you mean 'av_pbc'"):
        OBJECTIVES.get("avpbc")
