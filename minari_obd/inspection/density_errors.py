"""Errors by density: how far students are from the wanted actions at rare states and at common ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from minari_obd.errors import DataError
from minari_obd.scores.estimates import Estimate, estimate_mean

__all__ = ["DECILES", "DensityDecile", "ErrorByDensity", "errors_over_sets"]

DECILES = 10
"""Number of parts into which the states are cut."""


@dataclass(frozen=True)
class DensityDecile:
    """A tenth of the states, of similar density."""

    log_density: float
    """Mean log-density of its states in z-scores, in nats."""
    error: Estimate
    """Mean squared difference of actions on [-1, 1], over states and action dimensions, then over students. Its 95%
    interval resamples students."""
    constant: float
    """Error of the best constant action here: the variance of the wanted actions, averaged over dimensions."""
    states: int


@dataclass(frozen=True)
class ErrorByDensity:
    """Students' action error at held-out states, by decile of the states' density.

    State density weighting (2512.06692) gives rare states more weight. If that is what helps, the error falls in the
    first deciles. All sets of one source, seed and held-out share use the same estimator, fit and held-out states, no
    matter how their own weights were made, so sets can be compared. (A selected row is not held out.)
    """

    estimator: str
    """The density estimator with its settings, fitted to training states in z-scores."""
    against: Literal["teacher", "data"]
    """Whose actions were wanted: the teacher's, or the dataset's if no teacher is available."""
    deciles: tuple[DensityDecile, ...]
    """Ten deciles, from the rarest states to the commonest."""

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
        """Cut the states into deciles and summarise their errors. States of equal density keep their order.

        Args:
            errors: squared errors of E students at T states, averaged over action dimensions, shape (E, T).
            wanted: wanted actions on [-1, 1], shape (T, A).
            log_density: log-densities of the states in nats, shape (T,).
            estimator: the estimator's name.
            against: whose actions are wanted.

        Raises:
            DataError: there are fewer than ten states, or numbers are not finite.
        """
        if len(log_density) < DECILES:
            raise DataError(f"Deciles of the density need {DECILES} held-out states; there are {len(log_density)}.")
        if not (np.isfinite(errors).all() and np.isfinite(log_density).all()):
            raise DataError("Some errors or densities of held-out states are not finite; a training or a fit diverged.")
        parts = np.array_split(np.argsort(log_density, kind="stable"), DECILES)
        return cls(estimator, against, tuple(_decile(errors[:, p], wanted[p], log_density[p]) for p in parts))

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "ErrorByDensity":
        """Read the values of ``dataclasses.asdict``.

        Raises:
            KeyError, TypeError, ValueError: the values have another form.
        """
        deciles = [DensityDecile(**{**each, "error": Estimate(**each["error"])}) for each in values["deciles"]]
        numbers = [(d.log_density, d.error.mean, d.error.low, d.error.high, d.constant, d.states) for d in deciles]
        if len(deciles) != DECILES or not np.isfinite(np.array(numbers, dtype=np.float64)).all():
            raise ValueError(f"not {DECILES} deciles of numbers")
        return cls(str(values["estimator"]), values["against"], tuple(deciles))


def errors_over_sets(sets: Sequence[ErrorByDensity]) -> list[Estimate]:
    """Return the mean error of each decile over sets, one set per seed, with a 95% interval.

    The interval resamples seeds, because a seed's students share their pairs and teacher. With a single set, it
    resamples its students.
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
