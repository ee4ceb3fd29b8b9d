"""Errors by density: how far students are from what they were to do, at rare states and at common ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from minari_obd.errors import DataError
from minari_obd.scores.estimates import Estimate, estimate_mean

__all__ = ["DECILES", "DensityDecile", "ErrorByDensity", "errors_over_sets"]

DECILES = 10
"""Parts that the states are cut into."""


@dataclass(frozen=True)
class DensityDecile:
    """A tenth of the states, of like density."""

    log_density: float
    """Mean over its states, nats, of states in z-scores."""
    error: Estimate
    """Mean squared difference of actions on [-1, 1], over states and action dimensions, then over students; its 95%
    interval resamples students."""
    constant: float
    """What the best constant action would have here: the variance of the wanted actions, averaged over dimensions."""
    states: int


@dataclass(frozen=True)
class ErrorByDensity:
    """Students' action error at held-out states, by decile of the states' density.

    State density weighting (2512.06692) gives rare states more weight: if that is what helps, the error falls in the
    first deciles. The estimator, its fit and the held-out states are the same for all sets of one source, seed and
    held-out share, whatever their own weights were made with, so that sets compare. (A selected row is not held out.)
    """

    estimator: str
    """The density estimator with its settings; it was fitted to training states in z-scores."""
    against: Literal["teacher", "data"]
    """Whose actions were wanted: the teacher's, or the dataset's where no teacher is at hand."""
    deciles: tuple[DensityDecile, ...]
    """From the rarest tenth of the states to the commonest; ten."""

    @classmethod
    def of(
        cls,
        errors: np.ndarray,
        wanted: np.ndarray,
        log_density: np.ndarray,
        *,
        estimator: str,
        against: Literal["teacher", "data"],
    ) -> "ErrorByDensity":
        """Cut the states into deciles and sum their errors up; states of one density are cut in their order.

        Args:
            errors: squared errors of E students at T states, averaged over action dimensions, shape (E, T).
            wanted: actions on [-1, 1], shape (T, A).
            log_density: of the states, nats, shape (T,).
            estimator: its name.
            against: whose actions are wanted.

        Raises:
            DataError: fewer than ten states, or numbers that are not finite.
        """
        if len(log_density) < DECILES:
            raise DataError(f"Deciles of the density take {DECILES} held-out states; there are {len(log_density)}.")
        if not (np.isfinite(errors).all() and np.isfinite(log_density).all()):
            raise DataError("Some errors or densities of held-out states are not finite; a training or a fit diverged.")
        parts = np.array_split(np.argsort(log_density, kind="stable"), DECILES)
        return cls(estimator, against, tuple(_decile(errors[:, p], wanted[p], log_density[p]) for p in parts))

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "ErrorByDensity":
        """Read what ``dataclasses.asdict`` gave.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        deciles = [DensityDecile(**{**each, "error": Estimate(**each["error"])}) for each in values["deciles"]]
        numbers = [(d.log_density, d.error.mean, d.error.low, d.error.high, d.constant, d.states) for d in deciles]
        if len(deciles) != DECILES or not np.isfinite(np.array(numbers, dtype=np.float64)).all():
            raise ValueError(f"not {DECILES} deciles of numbers")
        return cls(str(values["estimator"]), values["against"], tuple(deciles))


def errors_over_sets(sets: Sequence[ErrorByDensity]) -> list[Estimate]:
    """Mean error of each decile over sets, one a seed, with a 95% interval over them; a single one's is over students.

    Seeds are resampled, because a seed's students share their pairs and their teacher.
    """
    if len(sets) == 1:
        return [decile.error for decile in sets[0].deciles]
    means = np.array([[decile.error.mean for decile in each.deciles] for each in sets])
    return [estimate_mean(column[:, None]) for column in means.T]


def _decile(errors: np.ndarray, wanted: np.ndarray, log_density: np.ndarray) -> DensityDecile:
    return DensityDecile(
        log_density=float(log_density.mean(dtype=np.float64)),
        error=estimate_mean(errors.mean(axis=1, dtype=np.float64)[:, None]),
        constant=float(wanted.astype(np.float64).var(axis=0).mean()),
        states=len(log_density),
    )
