"""Scaling: observations to z-scores, and actions to [-1, 1]."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minari_obd.errors import DataError

__all__ = ["ActionScale", "Normaliser"]

_FROZEN = np.nextafter(np.float32(1.0), np.float32(2.0))


@dataclass(frozen=True)
class Normaliser:
    """z-scores: s = (observation - mean) / scale."""

    mean: np.ndarray
    """Mean observation, shape (S,), float32, in the environment's units."""
    scale: np.ndarray
    """Standard deviation + 1e-3, shape (S,), float32; 1 (and a rounding) where an observation never changes, see
    :attr:`frozen`."""

    @classmethod
    def fit(cls, observations: np.ndarray) -> "Normaliser":
        """Compute mean and scale of observations (N, S)."""
        rows = observations.astype(np.float64)
        return cls(*_mean_and_scale(rows.mean(axis=0), rows.std(axis=0)))

    @classmethod
    def join(cls, parts: "Sequence[Normaliser]", sizes: Sequence[int]) -> "Normaliser":
        """Return the normaliser of the union of several datasets with these numbers of rows.

        mean = sum_i p_i m_i and std^2 = sum_i p_i (std_i^2 + (m_i - mean)^2), with p_i the shares of the rows. This is
        exact up to rounding and does not need the rows. Equal normalisers are returned unchanged.
        """
        first = parts[0]
        if all(np.array_equal(p.mean, first.mean) and np.array_equal(p.scale, first.scale) for p in parts):
            return first
        shares = np.asarray(sizes, dtype=np.float64)[:, None] / np.sum(sizes)
        means = np.stack([part.mean for part in parts]).astype(np.float64)
        deviations = np.stack([np.where(part.frozen, 1e-3, part.scale) for part in parts]).astype(np.float64) - 1e-3
        mean = (shares * means).sum(axis=0)
        deviation = np.sqrt((shares * (deviations**2 + (means - mean) ** 2)).sum(axis=0))
        return cls(*_mean_and_scale(mean, deviation))

    def __post_init__(self) -> None:
        for name in ("mean", "scale"):
            value = np.array(getattr(self, name), dtype=np.float32)
            value.setflags(write=False)
            object.__setattr__(self, name, value)
        if self.mean.ndim != 1 or self.mean.shape != self.scale.shape:
            raise DataError(
                f"A normaliser needs one mean and one scale per dimension; got shapes {self.mean.shape} and "
                f"{self.scale.shape}."
            )
        if not (np.isfinite(self.mean).all() and np.isfinite(self.scale).all() and (self.scale > 0).all()):
            raise DataError("A normaliser needs finite means and finite, positive scales; got other values.")

    @property
    def frozen(self) -> np.ndarray:
        """Which dimensions never changed in the data, shape (S,).

        A policy has learned nothing about them. In units of 1e-3 it would take a small change for a huge one.
        """
        return self.scale == _FROZEN

    @property
    def faint(self) -> np.ndarray:
        """Which dimensions change, but by less than 1e-3, so that their z-scores are nearly all 0; shape (S,)."""
        return (self.scale < 2e-3) & ~self.frozen

    def scale_like(self, other: "Normaliser") -> np.ndarray:
        """Return the scale as ``other`` has it where nothing changes: versions before 0.2 wrote 1e-3 there."""
        is_old = self.frozen & (other.scale == np.float32(1e-3)) if self.scale.shape == other.scale.shape else False
        return np.where(is_old, other.scale, self.scale)

    def normalise(self, observations: np.ndarray) -> np.ndarray:
        """Convert raw observations (..., S) to normalised states."""
        return ((observations - self.mean) / self.scale).astype(np.float32)

    def denormalise(self, states: np.ndarray) -> np.ndarray:
        """Convert normalised states (..., S) to raw observations."""
        return (states * self.scale + self.mean).astype(np.float32)


def _mean_and_scale(mean: np.ndarray, deviation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and scale (S,), float32, of a mean and a standard deviation in float64."""
    scale = (deviation + 1e-3).astype(np.float32)
    is_rounding = deviation <= 2.0**-22 * np.maximum(1.0, np.abs(mean))  # two roundings of float32
    return mean.astype(np.float32), np.where(is_rounding, _FROZEN, scale)


@dataclass(frozen=True, eq=False)
class ActionScale:
    """Conversion between raw actions and actions on [-1, 1], as students and teachers use them.

    Both directions follow NumPy's type promotion: the result is float32 if actions and bounds are.
    """

    low: np.ndarray
    """Lowest raw action, shape (A,)."""
    high: np.ndarray
    """Highest raw action, shape (A,)."""

    def scale(self, actions: np.ndarray) -> np.ndarray:
        """Convert raw actions (..., A) to [-1, 1]."""
        return 2.0 * (actions - self.low) / (self.high - self.low) - 1.0

    def unscale(self, scaled: np.ndarray) -> np.ndarray:
        """Convert actions (..., A) on [-1, 1] to raw ones."""
        return self.low + 0.5 * (scaled + 1.0) * (self.high - self.low)
