"""Densities: known densities, states on atoms, same seed same bits, and what their weights do to a lopsided dataset."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from conftest import RuleTeacher
from scipy import stats
from scipy.optimize import brentq

from minari_obd.densities.base import Density, describe_density
from minari_obd.densities.flow import MaskedAutoregressiveFlow
from minari_obd.densities.mixture import GaussianMixture
from minari_obd.densities.neighbours import KNearestNeighbours
from minari_obd.densities.picture import draw_weights
from minari_obd.densities.weights import tempered_reciprocal
from minari_obd.errors import DataError, SettingError
from minari_obd.sources.loading import load_offline_data
from minari_obd.sources.scaling import Normaliser
from minari_obd.targets.methods import StateDensityWeighting
from minari_obd.targets.targets import TargetInputs

ESTIMATORS: dict[str, Any] = {
    "knn": KNearestNeighbours(neighbours=30),
    "gmm": GaussianMixture(candidates=(1, 4, 16)),
    "maf": MaskedAutoregressiveFlow(width=64, steps=400, batch_size=256, evaluate_every=100),
}
QUICK = ESTIMATORS | {"maf": MaskedAutoregressiveFlow(width=32, steps=20, batch_size=64, evaluate_every=10)}


def normal(mean: list[float], covariance: list[list[float]]) -> Any:
    return stats.multivariate_normal(np.array(mean), np.array(covariance))  # pyright: ignore


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(stats.rankdata(a), stats.rankdata(b))[0, 1])


def correlated(count: int, rng: np.random.Generator) -> np.ndarray:
    return rng.multivariate_normal([0, 0], [[1, 0.8], [0.8, 1]], count)


def correlated_log_density(states: np.ndarray) -> np.ndarray:
    return normal([0.0, 0.0], [[1.0, 0.8], [0.8, 1.0]]).logpdf(states)


CLUSTERS = (
    (0.7, normal([-1.5, 0.0], [[0.2, 0.1], [0.1, 0.3]])),
    (0.3, normal([1.5, 0.5], [[0.4, -0.2], [-0.2, 0.2]])),
)


def clusters(count: int, rng: np.random.Generator) -> np.ndarray:
    first, second = (cluster.rvs(count, random_state=rng) for _, cluster in CLUSTERS)
    return np.where(rng.random((count, 1)) < CLUSTERS[0][0], first, second)


def clusters_log_density(states: np.ndarray) -> np.ndarray:
    return np.logaddexp(*(np.log(share) + cluster.logpdf(states) for share, cluster in CLUSTERS))


def ring(count: int, rng: np.random.Generator) -> np.ndarray:
    angle, radius = rng.uniform(0, 2 * np.pi, count), rng.gamma(50, 0.02, count)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def ring_log_density(states: np.ndarray) -> np.ndarray:
    radius = np.linalg.norm(states, axis=1)
    return stats.gamma.logpdf(radius, 50, scale=0.02) - np.log(2 * np.pi * radius)


@dataclass(frozen=True)
class Known:
    """A density that is known, and how near to it each estimator has to come with 5,000 states."""

    draw: Callable[[int, np.random.Generator], np.ndarray]
    log_density: Callable[[np.ndarray], np.ndarray]
    rank_correlation: dict[str, float]
    divergence: dict[str, float]


KNOWN = {
    "correlated": Known(
        correlated, correlated_log_density, {"knn": 0.9, "gmm": 0.99, "maf": 0.99}, {"gmm": 0.01, "maf": 0.01}
    ),
    "clusters": Known(
        clusters, clusters_log_density, {"knn": 0.93, "gmm": 0.98, "maf": 0.97}, {"gmm": 0.02, "maf": 0.06}
    ),
    "ring": Known(ring, ring_log_density, {"knn": 0.8, "gmm": 0.82, "maf": 0.75}, {"gmm": 0.05, "maf": 0.15}),
}


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("known", KNOWN.values(), ids=list(KNOWN))
def test_known_densities_are_found(name: str, known: Known) -> None:
    density = ESTIMATORS[name].fit(known.draw(5_000, np.random.default_rng(0)))
    fresh = known.draw(5_000, np.random.default_rng(1))
    truth, estimate = known.log_density(fresh), density.log_prob(fresh)
    assert rank_correlation(truth, estimate) > known.rank_correlation[name]
    if name in known.divergence:  # KL(truth || estimate), of which sampling may leave a little less than zero
        assert -0.02 < np.mean(truth - estimate) < known.divergence[name]
    # Held out means measured on states that the fit did not see: fresh ones give the same number.
    assert density.held_out_log_likelihood == pytest.approx(estimate.mean(), abs=0.15)


@pytest.mark.parametrize("name", QUICK)
def test_one_dimension_is_enough(name: str) -> None:
    states = np.random.default_rng(0).normal(size=(2_000, 1))
    estimate = QUICK[name].fit(states).log_prob(states)
    assert abs(np.mean(stats.norm.logpdf(states[:, 0]) - estimate)) < 0.05


def atoms(count: int) -> np.ndarray:
    """Normalised states: constant, two-valued, whole numbers, at a limit half of the time, and a plain one."""
    rng = np.random.default_rng(0)
    raw = [np.full(count, 7.0), rng.random(count) < 0.3, rng.poisson(2, count), np.maximum(rng.normal(size=count), 0)]
    observations = np.stack([*raw, rng.normal(size=count)], axis=1)
    return Normaliser.fit(observations).normalise(observations)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_no_estimator_chases_infinite_density(name: str) -> None:
    states = atoms(4_000)
    density = ESTIMATORS[name].fit(states)
    estimate = density.log_prob(states)
    assert np.isfinite(estimate).all()
    assert np.isfinite(density.log_prob(100 * states)).all()
    if name == "knn":
        return
    # What no blurred density passes.
    bound = states.shape[1] * np.log(1 / (0.01 * np.sqrt(2 * np.pi)))
    assert estimate.max() < bound
    # It is the blur that holds it: where there is next to none, the dimension that never changes alone takes it off.
    sharp, blurred = (replace(QUICK[name], resolution=each).fit(states) for each in (1e-7, 1e-2))
    assert sharp.log_prob(states).mean() - blurred.log_prob(states).mean() > 0.9 * np.log(1e-2 / 1e-7)
    assert density.held_out_log_likelihood == pytest.approx(estimate.mean(), abs=3.0)


@pytest.mark.parametrize("name", ["knn", "gmm"])
def test_atoms_are_as_dense_as_they_are_common(name: str) -> None:
    rng = np.random.default_rng(0)
    states = (rng.random((6_000, 2)) < [0.3, 0.4]).astype(float)
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    density = KNearestNeighbours() if name == "knn" else GaussianMixture(candidates=(4,))
    estimate = density.fit(states).log_prob(corners)
    shares = np.array([0.42, 0.18, 0.28, 0.12])
    np.testing.assert_allclose(estimate - estimate[0], np.log(shares / shares[0]), atol=0.1)


@pytest.mark.parametrize("name", QUICK)
def test_same_seed_same_bits_and_the_fit_leaves_no_traces(name: str) -> None:
    states = clusters(1_000, np.random.default_rng(0)).astype(np.float32)
    torch_before, numpy_before = torch.random.get_rng_state(), np.random.get_state(legacy=False)  # noqa: NPY002
    estimator = QUICK[name]
    first, again, other = (estimator.fit(states, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), torch_before)
    np.testing.assert_equal(np.random.get_state(legacy=False), numpy_before)  # noqa: NPY002
    assert first.log_prob(states).tobytes() == again.log_prob(states).tobytes()
    assert first.held_out_log_likelihood == again.held_out_log_likelihood
    assert not np.array_equal(first.log_prob(states), other.log_prob(states))
    assert estimator.held_out_log_likelihood is None
    with pytest.raises(SettingError, match="is not fitted"):
        estimator.log_prob(states)


def test_the_flow_keeps_its_best_parameters() -> None:
    states = correlated(60, np.random.default_rng(0))
    gaussian = GaussianMixture(candidates=(1,)).fit(states)
    flow = MaskedAutoregressiveFlow(width=64, steps=300, batch_size=64, evaluate_every=10, learning_rate=0.02)
    fitted = flow.fit(states)
    # With 54 states it over-fits; it began as the Gaussian, and nothing worse is ever kept.
    assert fitted.chosen["step"] < 300
    assert fitted.held_out_log_likelihood is not None
    assert gaussian.held_out_log_likelihood is not None
    assert fitted.held_out_log_likelihood > gaussian.held_out_log_likelihood - 0.05


def test_the_mixture_takes_as_many_components_as_there_are() -> None:
    rng = np.random.default_rng(0)
    assert GaussianMixture(candidates=(1, 2, 4)).fit(correlated(3_000, rng)).chosen == {"components": 1}
    assert GaussianMixture(candidates=(1, 2, 4)).fit(clusters(3_000, rng)).chosen == {"components": 2}
    assert GaussianMixture(candidates=(1, 64)).fit(clusters(100, rng)).chosen == {"components": 1}
    # One component is the sample's Gaussian, widened by the blur, and chunks do not show.
    states = rng.normal(size=(70_000, 1))
    one = GaussianMixture(candidates=(1,), rows=500, resolution=0.5).fit(states)
    used = states[np.random.default_rng([0, 8]).permutation(70_000)[:500]]
    truth = stats.norm.logpdf(states[:, 0], used.mean(), np.sqrt(used.var() + 0.25))
    np.testing.assert_allclose(one.log_prob(states), truth, atol=1e-8)


@pytest.mark.parametrize("estimator", QUICK.values(), ids=list(QUICK))
def test_states_that_cannot_be_used_are_named(estimator: Density) -> None:
    with pytest.raises(DataError, match="too few for a density"):
        estimator.fit(np.zeros((2, 2)))
    with pytest.raises(DataError, match="finite states"):
        estimator.fit(np.full((100, 2), np.nan))
    with pytest.raises(DataError, match="was fitted to states of size 2"):
        estimator.fit(clusters(100, np.random.default_rng(0))).log_prob(np.zeros((3, 5)))


@pytest.mark.parametrize("settings", [{"resolution": 0.0}, {"candidates": ()}, {"candidates": (4, 1)}])
def test_settings_that_make_no_sense_are_named(settings: dict) -> None:
    with pytest.raises(SettingError, match=f"The {next(iter(settings))}"):
        GaussianMixture(**settings)


def test_a_density_describes_itself() -> None:
    density = GaussianMixture(candidates=(1,)).fit(correlated(100, np.random.default_rng(0)))
    assert describe_density(density) == {
        "density_estimator": "GaussianMixture(resolution=0.01, candidates=(1,), rows=50000, iterations=100)",
        "density_held_out_log_likelihood": density.held_out_log_likelihood,
        "density_components": 1,
    }

    class Elsewhere:
        held_out_log_likelihood = -2.0

        def fit(self, states: np.ndarray, *, seed: int = 0) -> "Elsewhere":
            return self

        def log_prob(self, states: np.ndarray) -> np.ndarray:
            return np.zeros(len(states))

    assert describe_density(Elsewhere()) == {"density_estimator": "Elsewhere", "density_held_out_log_likelihood": -2.0}


SIZE, NARROW, BROAD, FRACTION = 3, 0.2, 1.0, 0.7


def predicted() -> tuple[float, float]:
    """Alpha and the broad half's share of the weight, for two Gaussians that do not overlap.

    A half of standard deviation σ in S dimensions has density d = N(s; μ, σ² I) / 2, and over its states
    E[d^-α] = c^α v^α (1 - α)^(-S/2) with v = σ^S and c = 2 (2π)^(S/2). So the broad half's share of the weight is
    v₂^α / (v₁^α + v₂^α), and the effective fraction E[w]² / E[w²] of w = d^-α is
    ((1 - 2α) / (1 - α)²)^(S/2) (v₁^α + v₂^α)² / (2 (v₁^2α + v₂^2α)), from which α follows.
    """
    first, second = NARROW**SIZE, BROAD**SIZE

    def fraction(alpha: float) -> float:
        tails = ((1 - 2 * alpha) / (1 - alpha) ** 2) ** (SIZE / 2)
        halves = (first**alpha + second**alpha) ** 2 / (2 * (first ** (2 * alpha) + second ** (2 * alpha)))
        return tails * halves

    alpha = brentq(lambda a: fraction(a) - FRACTION, 0.0, 0.499)
    assert isinstance(alpha, float)
    return alpha, second**alpha / (first**alpha + second**alpha)


@cache
def lopsided():
    """Half of the steps by a narrow policy, half by broad exploration elsewhere."""
    rng = np.random.default_rng(0)
    narrow, broad = (scale * rng.normal(size=(3_000, SIZE)) for scale in (NARROW, BROAD))
    observations = np.concatenate([narrow + np.array([8.0, 0.0, 0.0]), broad])
    count = len(observations)
    return load_offline_data(
        {
            "observations": observations,
            "actions": rng.uniform(-1, 1, (count, 2)),
            "rewards": np.zeros(count),
            "terminations": np.zeros(count, dtype=bool),
            "truncations": np.arange(count) % 100 == 99,
            "next_observations": np.roll(observations, -1, axis=0),
        }
    )


@pytest.mark.parametrize(("name", "tolerance"), [("knn", 0.05), ("gmm", 0.02), ("maf", 0.05)])
def test_the_broad_half_gains_the_weight_that_theory_predicts(name: str, tolerance: float) -> None:
    data = lopsided()
    density = ESTIMATORS[name].fit(data.normaliser.normalise(data.observations))
    method = StateDensityWeighting(effective_fraction=FRACTION, with_values=False)
    made = method.targets(TargetInputs(data, RuleTeacher(), density))
    alpha, share = predicted()
    assert share > 0.65
    assert made.details["alpha"] == pytest.approx(alpha, rel=0.15)
    assert made.weights[3_000:].sum() / made.weights.sum() == pytest.approx(share, abs=tolerance)


def test_the_weights_are_drawn() -> None:
    data = lopsided()
    states = data.normaliser.normalise(data.observations)
    density = GaussianMixture(candidates=(4,)).fit(states)
    weights = tempered_reciprocal(density.log_prob(states), 0.5).weights
    picture = draw_weights(states, weights)
    assert picture.startswith(b"\x89PNG")
    assert picture == draw_weights(states, weights)
    assert picture != draw_weights(states, np.ones(len(states)))
    for odd in (np.zeros((5, 3)), np.arange(6.0)[:, None], np.ones((1, 2))):
        assert draw_weights(odd, np.ones(len(odd))).startswith(b"\x89PNG")
    with pytest.raises(DataError, match="one weight per state"):
        draw_weights(states, np.ones(3))
    with pytest.raises(DataError, match="finite"):
        draw_weights(states, -weights)
