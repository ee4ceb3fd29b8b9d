"""Estimates: means with their 95% intervals."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy

__all__ = [
    "Estimate",
    "estimate_auc",
    "estimate_difference",
    "estimate_interquartile_mean",
    "estimate_mean",
    "estimate_mean_over_tasks",
    "interquartile_mean",
    "probability_of_improvement",
    "quartiles",
]


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

    Episodes of one student are not independent samples of the method, so whole students are resampled.
    Their means already contain the spread of their episodes. A single student (or a teacher) has only its
    episodes, so these are resampled instead.

    Args:
        values: returns or scores, shape (students, episodes).
        seed: seed of the 10,000 resamples.
    """
    units = _units(values)
    return _interval(float(units.mean()), (units,), np.mean, seed)


def estimate_interquartile_mean(values: np.ndarray, *, seed: int = 0) -> Estimate:
    """Interquartile mean of a (students, episodes) matrix with a 95% bootstrap interval, resampled as for the mean."""
    values = np.asarray(values, dtype=np.float64)
    units = values if len(values) > 1 else values.T

    def statistic(rows: np.ndarray, axis: int) -> np.ndarray:
        drawn = units[rows]  # (..., units, entries)
        return scipy.stats.trim_mean(drawn.reshape(*drawn.shape[:-2], -1), 0.25, axis=-1)

    return _interval(interquartile_mean(values), (np.arange(len(units)),), statistic, seed)


def estimate_mean_over_tasks(tasks: Sequence[np.ndarray], *, seed: int = 0) -> Estimate:
    """Mean over tasks of the mean over runs, with a 95% stratified bootstrap interval (Agarwal et al. 2021).

    Runs are resampled within each task, so every resample contains every task.

    Args:
        tasks: for each task, the scores of its runs, shape (runs,).
        seed: seed of the 10,000 resamples.
    """
    groups = tuple(np.asarray(task, dtype=np.float64) for task in tasks)

    def statistic(*drawn: np.ndarray, axis: int) -> np.ndarray:
        return np.mean([each.mean(axis=axis) for each in drawn], axis=0)

    mean = float(np.mean([group.mean() for group in groups]))
    return _interval(mean, groups, statistic, seed)


def estimate_difference(ours: np.ndarray, theirs: np.ndarray, *, seed: int = 0) -> Estimate:
    """Difference of two means, ours - theirs, with a 95% bootstrap interval that resamples both sides on their own.

    Args:
        ours: returns or scores, shape (students, episodes); resampled as for :func:`estimate_mean`.
        theirs: the same for another method in the same environment.
        seed: seed of the 10,000 resamples.
    """
    first, second = _units(ours), _units(theirs)

    def statistic(x: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
        return x.mean(axis=axis) - y.mean(axis=axis)

    return _interval(float(first.mean() - second.mean()), (first, second), statistic, seed)


def probability_of_improvement(ours: np.ndarray, theirs: np.ndarray, *, seed: int = 0) -> Estimate:
    """Probability that one of our students beats one of theirs; a tie counts half (Agarwal et al. 2021, section 4.3).

    It is the Mann-Whitney U statistic divided by the product of the counts. The interval resamples both sides.

    Args:
        ours: returns or scores, shape (students, episodes).
        theirs: the same for another method in the same environment.
        seed: seed of the 10,000 resamples.
    """
    first, second = (np.asarray(values, dtype=np.float64).mean(axis=1) for values in (ours, theirs))

    def statistic(x: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
        difference = np.moveaxis(x, axis, -1)[..., :, None] - np.moveaxis(y, axis, -1)[..., None, :]
        return (0.5 * (np.sign(difference) + 1.0)).mean(axis=(-2, -1))

    return _interval(float(statistic(first, second, -1)), (first, second), statistic, seed)


def estimate_auc(members: np.ndarray, others: np.ndarray) -> Estimate:
    """Probability that a member scores higher than another; a tie counts half. It is the area under the ROC curve.

    The 95% interval is DeLong's (DeLong et al. 1988), from the variance of each entry's share of wins on either side.

    Args:
        members: scores, shape (m,), at least two.
        others: scores, shape (n,), at least two.
    """
    m, n = len(members), len(others)
    ranks = scipy.stats.rankdata(np.concatenate([members, others]))
    wins = (ranks[:m] - scipy.stats.rankdata(members)) / n
    losses = (ranks[m:] - scipy.stats.rankdata(others)) / m
    area, reach = float(wins.mean()), 1.96 * float(np.sqrt(wins.var(ddof=1) / m + losses.var(ddof=1) / n))
    return Estimate(area, max(0.0, area - reach), min(1.0, area + reach))


def interquartile_mean(values: np.ndarray) -> float:
    """Mean of the middle half of all entries (Agarwal et al. 2021, arXiv 2108.13264)."""
    return float(scipy.stats.trim_mean(np.asarray(values, dtype=np.float64).reshape(-1), 0.25))


def quartiles(values: np.ndarray) -> tuple[float, float, float]:
    """First quartile, median and third quartile of all entries."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
    return low, middle, high


def _units(values: np.ndarray) -> np.ndarray:
    """What is resampled of a (students, episodes) matrix: students' means, or the episodes of one, or of equal ones."""
    values = np.asarray(values, dtype=np.float64)
    return values[0] if (values == values[0]).all() else values.mean(axis=1)


def _interval(value: float, samples: tuple[np.ndarray, ...], statistic: Callable[..., Any], seed: int) -> Estimate:
    """A 95% percentile bootstrap interval, of zero width if there is nothing to resample."""
    if all(len(sample) < 2 or np.ptp(sample) == 0 for sample in samples):
        return Estimate(value, value, value)
    # SciPy needs two observations; a single one (a teacher beside students) is repeated, which resamples to itself.
    samples = tuple(np.repeat(sample, 2) if len(sample) == 1 else sample for sample in samples)
    interval = scipy.stats.bootstrap(
        samples, statistic, n_resamples=10_000, batch=1_000, method="percentile", rng=np.random.default_rng(seed)
    ).confidence_interval
    return Estimate(value, float(interval.low), float(interval.high))
