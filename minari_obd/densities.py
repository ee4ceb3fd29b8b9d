"""Densities: how common a state is in the data, and the tempered weights that favour the rare ones."""

from dataclasses import dataclass, field
from typing import Protocol, Self, cast

import numpy as np
from scipy.optimize import brentq
from scipy.special import gammaln

from minari_obd.errors import DataError, check_installed

__all__ = ["Density", "KNearestNeighbours", "ReciprocalWeights", "tempered_reciprocal"]


class Density(Protocol):
    """An estimate of the density of normalised states."""

    def fit(self, states: np.ndarray, *, seed: int = 0) -> Self:
        """Fit to states (N, S)."""
        ...

    def log_prob(self, states: np.ndarray) -> np.ndarray:
        """Log-density of states (B, S) in nats, shape (B,)."""
        ...


@dataclass
class KNearestNeighbours:
    r"""k-nearest-neighbour density: log d(s) = log k - log n - log V_S - S log r_k(s).

    r_k is the distance to the k-th of n reference states and V_S the volume of the unit ball in S dimensions
    (Loftsgaarden & Quesenberry 1965). The references are a random part of the data, so that the cost stays
    linear in the number of states asked about.
    """

    neighbours: int = 10
    """k."""
    references: int = 20_000
    """n, at the most."""
    _index: object = field(default=None, repr=False)
    _count: int = 0

    def __post_init__(self) -> None:
        check_installed("sklearn", "distill")

    def fit(self, states: np.ndarray, *, seed: int = 0) -> "KNearestNeighbours":
        """Keep the references and build the search index.

        Raises:
            DataError: fewer than k + 2 states.
        """
        if len(states) < self.neighbours + 2:
            raise DataError(f"{len(states)} states are too few for a density with {self.neighbours} neighbours.")
        from sklearn.neighbors import NearestNeighbors

        rows = np.random.default_rng([seed, 8]).permutation(len(states))[: self.references]
        # Brute force on matrix products beats trees from about ten dimensions on.
        self._index = NearestNeighbors(algorithm="brute", n_jobs=-1).fit(states[rows].astype(np.float32))
        self._count = len(rows)
        return self

    def log_prob(self, states: np.ndarray) -> np.ndarray:
        """Return log-densities, shape (B,)."""
        assert self._index is not None, "fit first"
        distances, _ = self._index.kneighbors(states.astype(np.float32), self.neighbours + 1)  # pyright: ignore
        # A state that is itself a reference meets itself first; that is no neighbour.
        own = distances[:, 0] < 1e-6
        radius = np.where(own, distances[:, self.neighbours], distances[:, self.neighbours - 1]).astype(np.float64)
        dimensions = states.shape[1]
        log_volume = 0.5 * dimensions * np.log(np.pi) - gammaln(0.5 * dimensions + 1)
        return np.log(self.neighbours / self._count) - log_volume - dimensions * np.log(np.maximum(radius, 1e-12))


@dataclass(frozen=True)
class ReciprocalWeights:
    """Tempered reciprocal densities."""

    weights: np.ndarray
    """Shape (N,), mean 1."""
    alpha: float
    """The temper: weights are proportional to density^-alpha."""
    effective_fraction: float
    """(sum w)^2 / (N sum w^2) that was reached."""


def tempered_reciprocal(log_density: np.ndarray, effective_fraction: float) -> ReciprocalWeights:
    """Weights d^-alpha with mean 1 and a stated effective sample fraction.

    The plain reciprocal (alpha = 1) is unusable: log-densities of MuJoCo states spread over tens of nats, so that a
    handful of states would take all the weight. Log-densities are clipped to their 0.1 and 99.9 percentiles, then
    alpha in [0, 1] is solved for. If even alpha = 1 leaves more than the fraction asked for, it stays 1.

    Args:
        log_density: shape (N,), nats.
        effective_fraction: (sum w)^2 / (N sum w^2) to reach, between 0 and 1.

    Raises:
        DataError: log-densities that are not finite.
    """
    if not np.isfinite(log_density).all():
        raise DataError("The density estimate is not finite for some states; try another estimator.")
    low, high = np.percentile(log_density, [0.1, 99.9])
    clipped = np.clip(log_density.astype(np.float64), low, high)

    def weights(alpha: float) -> np.ndarray:
        w = np.exp(-alpha * (clipped - clipped.min()))
        return w / w.mean()

    def fraction(alpha: float) -> float:
        return float(1.0 / np.mean(weights(alpha) ** 2))

    # More temper, fewer effective states: the fraction falls monotonically from 1 at alpha = 0.
    alpha = 1.0
    if fraction(alpha) < effective_fraction:
        alpha = float(cast(float, brentq(lambda a: fraction(a) - effective_fraction, 0.0, 1.0)))
    return ReciprocalWeights(weights(alpha), alpha, fraction(alpha))
