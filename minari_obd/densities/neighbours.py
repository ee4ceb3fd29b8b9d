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

    r_k is the distance to the k-th nearest of n reference states, and V_S is the volume of the unit ball in S
    dimensions (Loftsgaarden & Quesenberry 1965). The references are a random part of the data, so the cost is linear
    in the number of queried states.

    The estimate flattens peaks, treats thin directions as if they were r_k thick, and does not integrate to 1. Rely on
    its ranks, and take its held-out log-likelihood as approximate. If r_k is below resolution · √S, the length of the
    blur's noise, the references within that length are counted instead. Otherwise k equal states would be infinitely
    dense, no matter how many more there are.
    """

    neighbours: int = 10
    """k."""
    references: int = 20_000
    """Maximum of n."""

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

        # Brute force with matrix products is faster than trees from about ten dimensions.
        index = NearestNeighbors(algorithm="brute", n_jobs=-1).fit(parts.training.astype(np.float32))
        tree = KDTree(parts.training)
        count, dimensions = parts.training.shape
        log_unit_ball = 0.5 * dimensions * np.log(np.pi) - gammaln(0.5 * dimensions + 1)
        shortest = self.resolution * np.sqrt(dimensions)

        def log_density(states: np.ndarray) -> np.ndarray:
            distances, _ = index.kneighbors(states.astype(np.float32), self.neighbours + 1)
            # A state that is itself a reference finds itself first, which does not count as a neighbour.
            own = distances[:, 0] < 1e-6
            radius = np.where(own, distances[:, self.neighbours], distances[:, self.neighbours - 1]).astype(np.float64)
            within = np.full(len(states), float(self.neighbours))
            close = radius < shortest
            if close.any():
                found = tree.query_radius(states[close], shortest, count_only=True) - own[close]
                within[close] = np.maximum(found, self.neighbours)  # at least k, except for rounding
            volume = log_unit_ball + dimensions * np.log(np.maximum(radius, shortest))
            return np.log(within) - np.log(count) - volume

        return Fitted(log_density)
