"""Tempered weights, which favour rare or good states, with a given effective sample fraction."""

from dataclasses import dataclass
from typing import cast

import numpy as np
from scipy.optimize import brentq

from minari_obd.errors import DataError

__all__ = [
    "CLIP_PERCENTILES",
    "TemperedWeights",
    "effective_sample_fraction",
    "tempered_exponential",
    "tempered_reciprocal",
]

CLIP_PERCENTILES = (0.1, 99.9)
"""Log-densities or values beyond these percentiles of their own distribution are clipped to them."""


@dataclass(frozen=True)
class TemperedWeights:
    """Weights tempered to an effective sample fraction."""

    weights: np.ndarray
    """Shape (N,), mean 1."""
    alpha: float
    """Exponent of the tempering: weights are proportional to density^-alpha or exp(alpha value)."""
    effective_fraction: float
    """Achieved (sum w)^2 / (N sum w^2)."""
    clip: tuple[float, float]
    """Log-densities in nats, or values, at the clip percentiles."""


def effective_sample_fraction(weights: np.ndarray) -> float:
    """Return the effective sample fraction (sum w)^2 / (N sum w^2) of weights (N,).

    It is 1 if all weights are equal, and 1 / N if one has all the weight.
    """
    return float(weights.mean(dtype=np.float64) ** 2 / np.mean(np.square(weights, dtype=np.float64)))


def tempered_reciprocal(log_density: np.ndarray, effective_fraction: float) -> TemperedWeights:
    """Return weights d^-alpha with mean 1 and a given effective sample fraction.

    The plain reciprocal (alpha = 1) is unusable: log-densities of MuJoCo states spread over tens of nats, so a handful
    of states would take all the weight. Log-densities are clipped to their 0.1 and 99.9 percentiles, then the equation
    is solved for alpha in [0, 1]. If even alpha = 1 leaves a larger fraction than requested, alpha is 1.

    Args:
        log_density: shape (N,), nats.
        effective_fraction: (sum w)^2 / (N sum w^2) to reach, between 0 and 1.

    Raises:
        DataError: a log-density is not finite.
    """
    if not np.isfinite(log_density).all():
        raise DataError("The density estimate is not finite for some states; try another estimator.")
    clipped, clip = _clipped(log_density)
    return _tempered(-clipped, clip, effective_fraction, 1.0)


def tempered_exponential(values: np.ndarray, effective_fraction: float) -> TemperedWeights:
    """Return weights exp(alpha v) with mean 1 and a given effective sample fraction.

    Values are clipped to their 0.1 and 99.9 percentiles, then the equation is solved for alpha. Shifted or scaled
    values give the same weights, and equal values give equal weights. If a larger share of states than the fraction has
    the highest value, these states share all the weight.

    Args:
        values: v, shape (N,), finite.
        effective_fraction: (sum w)^2 / (N sum w^2) to reach, between 0 and 1.
    """
    clipped, clip = _clipped(values)
    if clip[0] == clip[1]:
        return TemperedWeights(np.ones(len(values)), 0.0, 1.0, clip)
    most = 1.0 / (clip[1] - clip[0])
    for _ in range(40):  # doubles, because the lowest values may be far from all others
        if _fraction(clipped, most) < effective_fraction:
            break
        most *= 2.0
    return _tempered(clipped, clip, effective_fraction, most)


def _clipped(values: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    low, high = (float(each) for each in np.percentile(values, CLIP_PERCENTILES))
    return np.clip(values.astype(np.float64), low, high), (low, high)


def _weights(logits: np.ndarray, alpha: float) -> np.ndarray:
    w = np.exp(alpha * (logits - logits.max()))
    return w / w.mean()


def _fraction(logits: np.ndarray, alpha: float) -> float:
    return effective_sample_fraction(_weights(logits, alpha))


def _tempered(logits: np.ndarray, clip: tuple[float, float], effective_fraction: float, most: float) -> TemperedWeights:
    """Return weights exp(alpha logits), with alpha from 0 to ``most``."""
    # The fraction falls monotonically with alpha, from 1 at alpha = 0.
    alpha = most
    if _fraction(logits, alpha) < effective_fraction:
        alpha = float(cast(float, brentq(lambda a: _fraction(logits, a) - effective_fraction, 0.0, most)))
    return TemperedWeights(_weights(logits, alpha), alpha, _fraction(logits, alpha), clip)
