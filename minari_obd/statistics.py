"""Statistics: normalised scores, and means with the interval that belongs to them."""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from minari_obd.errors import NotFoundError

__all__ = ["REFERENCE_SCORES", "Estimate", "ReferenceScores", "estimate_mean", "interquartile_mean", "reference_scores"]


@dataclass(frozen=True)
class ReferenceScores:
    """The two returns that a normalised score is measured between."""

    random: float
    """Mean undiscounted return of uniformly random actions."""
    expert: float
    """Mean undiscounted return of the reference expert."""
    source: str
    """Where the two numbers come from."""

    def normalise(self, returns: np.ndarray) -> np.ndarray:
        """Score = 100 (R - random) / (expert - random), elementwise (D4RL, Fu et al. 2020, arXiv 2004.07219)."""
        return 100.0 * (np.asarray(returns, dtype=np.float64) - self.random) / (self.expert - self.random)


_D4RL = "D4RL infos.py (Fu et al. 2020), MuJoCo v2 tasks with a horizon of 1,000 steps"
# Minari's mujoco/* datasets carry no reference scores, so the package brings D4RL's.
# They were measured in the -v2 environments and are used for their successors by convention.
REFERENCE_SCORES = {
    "HalfCheetah": ReferenceScores(-280.178953, 12135.0, _D4RL),
    "Hopper": ReferenceScores(-20.272305, 3234.3, _D4RL),
    "Walker2d": ReferenceScores(1.629008, 4592.3, _D4RL),
    "Ant": ReferenceScores(-325.6, 3879.7, _D4RL),
}


def reference_scores(env_id: str) -> ReferenceScores:
    """Return the reference scores of a Gymnasium id such as ``Hopper-v5``.

    Raises:
        NotFoundError: the table has none for this environment.
    """
    name = env_id.rsplit("-v", 1)[0]
    if name not in REFERENCE_SCORES:
        raise NotFoundError(
            f"There are no reference scores for '{env_id}' (known: {', '.join(REFERENCE_SCORES)}); "
            "use the returns themselves, or give reference scores with the dataset."
        )
    return REFERENCE_SCORES[name]


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95% interval, in the units of what was averaged."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.1f} [{self.low:.1f}, {self.high:.1f}]"


def estimate_mean(values: np.ndarray, *, seed: int = 0) -> Estimate:
    """Mean over a (students, episodes) matrix with a 95% bootstrap interval.

    Episodes of one student are not independent samples of the method, so whole students are resampled:
    their means already hold the spread of their episodes. With a single student (a teacher, say) its
    episodes are all there is, and they are resampled instead.

    Args:
        values: returns or scores, shape (students, episodes).
        seed: seed of the 10,000 resamples.
    """
    values = np.asarray(values, dtype=np.float64)
    units = values.mean(axis=1) if len(values) > 1 else values[0]
    mean = float(units.mean())
    if len(units) < 2 or np.ptp(units) == 0:
        return Estimate(mean, mean, mean)
    interval = stats.bootstrap(
        (units,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(seed)
    ).confidence_interval
    return Estimate(mean, float(interval.low), float(interval.high))


def interquartile_mean(values: np.ndarray) -> float:
    """Mean of the middle half of all entries (Agarwal et al. 2021, arXiv 2108.13264)."""
    return float(stats.trim_mean(np.asarray(values, dtype=np.float64).reshape(-1), 0.25))
