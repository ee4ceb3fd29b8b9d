"""Tempered reciprocal density: weights that favour rare states, with a stated effective sample fraction."""

from dataclasses import dataclass
from typing import cast

import numpy as np
from scipy.optimize import brentq

from minari_obd.errors import DataError

__all__ = ["CLIP_PERCENTILES", "ReciprocalWeights", "effective_sample_fraction", "tempered_reciprocal"]

CLIP_PERCENTILES = (0.1, 99.9)
"""Log-densities beyond these percentiles of their own count as lying on them."""


@dataclass(frozen=True)
class ReciprocalWeights:
    """Tempered reciprocal densities."""

    weights: np.ndarray
    """Shape (N,), mean 1."""
    alpha: float
    """The temper: weights are proportional to density^-alpha."""
    effective_fraction: float
    """(sum w)^2 / (N sum w^2) that was reached."""
    clip: tuple[float, float]
    """The log-densities at the clip percentiles, nats."""


def effective_sample_fraction(weights: np.ndarray) -> float:
    """Effective sample fraction (sum w)^2 / (N sum w^2) of weights (N,): 1 if all are equal, 1 / N if one has all."""
    return float(weights.mean(dtype=np.float64) ** 2 / np.mean(np.square(weights, dtype=np.float64)))


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
    low, high = (float(each) for each in np.percentile(log_density, CLIP_PERCENTILES))
    clipped = np.clip(log_density.astype(np.float64), low, high)

    def weights(alpha: float) -> np.ndarray:
        w = np.exp(-alpha * (clipped - clipped.min()))
        return w / w.mean()

    def fraction(alpha: float) -> float:
        return effective_sample_fraction(weights(alpha))

    # More temper, fewer effective states: the fraction falls monotonically from 1 at alpha = 0.
    alpha = 1.0
    if fraction(alpha) < effective_fraction:
        alpha = float(cast(float, brentq(lambda a: fraction(a) - effective_fraction, 0.0, 1.0)))
    return ReciprocalWeights(weights(alpha), alpha, fraction(alpha), (low, high))
