"""Selection: baselines that pick real pairs instead of distilling them."""

from dataclasses import dataclass

import numpy as np

from minari_obd.sources.data import OfflineData
from minari_obd.support.libraries import check_installed
from minari_obd.support.streams import Stream
from minari_obd.targets.clustering import central_rows
from minari_obd.targets.targets import Selection

__all__ = ["KMeansPairs", "RandomPairs"]


@dataclass(frozen=True)
class RandomPairs(Selection):
    """Steps drawn uniformly without replacement."""

    def select(self, data: OfflineData, size: int, seed: int) -> np.ndarray:
        """Return row numbers, shape (size,)."""
        return Stream.REAL_PAIRS.generator(seed).choice(len(data), size, replace=False)


@dataclass(frozen=True)
class KMeansPairs(Selection):
    """The step nearest to each centre of k-means on the normalised states (scikit-learn's MiniBatchKMeans)."""

    def __post_init__(self) -> None:
        check_installed("sklearn", "distill")

    def select(self, data: OfflineData, size: int, seed: int) -> np.ndarray:
        """Return row numbers, shape (size,), all different."""
        return central_rows(data.normaliser.normalise(data.observations), size, seed)
