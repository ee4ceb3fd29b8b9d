"""k-nearest-neighbour density."""

from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

from minari_obd.densities.base import Estimator, Fitted, Parts
from minari_obd.support.libraries import check_installed

__all__ = ["KNearestNeighbours"]


@dataclass(frozen=True)
class KNearestNeighbours(Estimator):
    r"""k-nearest-neighbour density: log d(s) = log k - log n - log V_S - S log r_k(s).

    r_k is the distance to the k-th of n reference states and V_S the volume of the unit ball in S dimensions
    (Loftsgaarden & Quesenberry 1965). The references are a random part of the data, so that the cost stays
    linear in the number of states asked about.

    It flattens peaks, takes thin directions for as thick as r_k, and its integral is not 1: go by its ranks, and read
    its held-out log-likelihood as a rough number. Where r_k is below resolution · √S, the
    length of the blur's noise, the references within that length are counted instead: k equal states would otherwise
    be infinitely dense, however many more there are of them.
    """

    neighbours: int = 10
    """k."""
    references: int = 20_000
    """n, at the most."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_installed("sklearn", "distill")

    @property
    def _most(self) -> int:
        return self.references

    @property
    def _least(self) -> int:
        return self.neighbours + 1

    def _fit(self, parts: Parts, seed: int) -> Fitted:
        from sklearn.neighbors import KDTree, NearestNeighbors

        # Brute force on matrix products beats trees from about ten dimensions on.
        index = NearestNeighbors(algorithm="brute", n_jobs=-1).fit(parts.training.astype(np.float32))
        tree = KDTree(parts.training)
        count, dimensions = parts.training.shape
        log_unit_ball = 0.5 * dimensions * np.log(np.pi) - gammaln(0.5 * dimensions + 1)
        shortest = self.resolution * np.sqrt(dimensions)

        def log_density(states: np.ndarray) -> np.ndarray:
            distances, _ = index.kneighbors(states.astype(np.float32), self.neighbours + 1)
            # A state that is itself a reference meets itself first; that is no neighbour.
            own = distances[:, 0] < 1e-6
            radius = np.where(own, distances[:, self.neighbours], distances[:, self.neighbours - 1]).astype(np.float64)
            within = np.full(len(states), float(self.neighbours))
            close = radius < shortest
            if close.any():
                found = tree.query_radius(states[close], shortest, count_only=True) - own[close]
                within[close] = np.maximum(found, self.neighbours)  # k is certain, but for rounding
            volume = log_unit_ball + dimensions * np.log(np.maximum(radius, shortest))
            return np.log(within) - np.log(count) - volume

        return Fitted(log_density)
