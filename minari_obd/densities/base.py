"""Base of the density estimators: the protocol, the held-out part, and the blur that keeps densities finite."""

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field, is_dataclass
from typing import Any, Protocol, Self

import numpy as np

from minari_obd.errors import DataError, SettingError
from minari_obd.support.streams import Stream

__all__ = ["Density", "Estimator", "Fitted", "Parts", "describe_density"]

_CHUNK = 65_536


class Density(Protocol):
    """An estimate of the density of normalised states."""

    @property
    def held_out_log_likelihood(self) -> float | None:
        """Mean log-density, in nats, of states held out from the fit; None before the fit."""
        ...

    def fit(self, states: np.ndarray, *, seed: int = 0) -> Self:
        """Return an estimate fitted to states (N, S)."""
        ...

    def log_prob(self, states: np.ndarray) -> np.ndarray:
        """Log-density of states (B, S) in nats, shape (B,)."""
        ...


def describe_density(density: Density) -> dict[str, Any]:
    """Return the estimator's settings, its held-out log-likelihood and the choices of its fit, as JSON values."""
    chosen = getattr(density, "chosen", {})
    return {
        "density_estimator": repr(density) if is_dataclass(density) else type(density).__name__,
        "density_held_out_log_likelihood": getattr(density, "held_out_log_likelihood", None),
        **{f"density_{name}": value for name, value in chosen.items()},
    }


@dataclass(frozen=True)
class Parts:
    """States for a fit."""

    training: np.ndarray
    """Shape (T, S), float64."""
    held_out: np.ndarray
    """Shape (H, S), float64, with the blur's noise."""


@dataclass(frozen=True)
class Fitted:
    """Result of a fit."""

    log_density: Callable[[np.ndarray], np.ndarray]
    """Maps states (B, S), float64, to nats (B,)."""
    chosen: dict[str, int | float] = field(default_factory=dict)
    """Settings chosen by the held-out part."""


@dataclass(frozen=True, kw_only=True)
class Estimator:
    """Base of the estimators in this package: :meth:`fit` returns a fitted copy and changes no settings.

    Real states lie on atoms: dimensions that never change, contact flags, positions at a limit. Their density is
    infinite, and a flexible estimator would spend its capacity on approaching it. The estimators therefore fit the
    density of the state *plus Gaussian noise* of standard deviation ``resolution`` in every dimension. It is at most
    S log(1 / (resolution √(2π))) nats. Where the density changes little over that distance, it equals the density.

    A random tenth of the states (at most 10,000) is held out from the fit. The tenth and its noise are the same for
    every estimator, so their held-out log-likelihoods can be compared. In trajectory data, the neighbours in time of
    these states are training states: the number says how well this data is described, not how well other trajectories
    would be. The fit makes its own choices by the same states.
    """

    resolution: float = 0.01
    """Standard deviation of the noise, in z-scores: a hundredth of a dimension's spread does not make a state rare."""
    held_out_log_likelihood: float | None = field(default=None, init=False, repr=False)
    """Mean log-density of the held-out states in nats; None before the fit."""
    chosen: dict[str, int | float] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Settings that the fit chose by the held-out states."""
    _log_density: Callable[[np.ndarray], np.ndarray] | None = field(default=None, init=False, repr=False, compare=False)
    _dimensions: int = field(default=0, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 < self.resolution < np.inf:
            raise SettingError(f"The resolution is {self.resolution}; it must be above 0, such as 0.01.")

    def fit(self, states: np.ndarray, *, seed: int = 0) -> Self:
        """Return a copy fitted to normalised states (N, S).

        Raises:
            DataError: the states are too few, have another shape, or are not finite; or the fit diverged.
        """
        states = np.asarray(states)
        if states.ndim != 2 or not np.isfinite(states).all():
            raise DataError(f"A density is fitted to finite states (N, S); got shape {states.shape}.")
        order = Stream.DENSITY.generator(seed).permutation(len(states))
        apart = min(max(len(states) // 10, 1), 10_000)
        training, held_out = order[:-apart][: self._most], order[-apart:]
        if len(training) < self._least:
            raise DataError(
                f"{len(states)} states are too few for a density: {len(training)} are left for the fit by "
                f"{type(self).__name__}, which needs {self._least}; use more data or a method without density."
            )
        noise = self.resolution * Stream.DENSITY.generator(seed, 1).standard_normal((apart, states.shape[1]))
        parts = Parts(states[training].astype(np.float64), states[held_out] + noise)
        made, fitted = copy(self), self._fit(parts, seed)
        found = {"_log_density": fitted.log_density, "_dimensions": states.shape[1], "chosen": fitted.chosen}
        for name, value in found.items():
            object.__setattr__(made, name, value)
        likelihood = float(made.log_prob(parts.held_out).mean())
        if not np.isfinite(likelihood):
            raise DataError(f"The fit by {type(self).__name__} has diverged; use another estimator, such as 'gmm'.")
        object.__setattr__(made, "held_out_log_likelihood", likelihood)
        return made

    def log_prob(self, states: np.ndarray) -> np.ndarray:
        """Return log-densities of states (B, S) in nats, shape (B,), float64.

        Raises:
            SettingError: the estimator is not fitted.
            DataError: the states have another size.
        """
        if self._log_density is None:
            raise SettingError(f"This {type(self).__name__} is not fitted; use what its fit(states) returns.")
        if states.ndim != 2 or states.shape[1] != self._dimensions:
            raise DataError(f"This density was fitted to states of size {self._dimensions}; got shape {states.shape}.")
        made = np.empty(len(states))
        for start in range(0, len(states), _CHUNK):
            part = slice(start, start + _CHUNK)
            made[part] = self._log_density(states[part].astype(np.float64))
        return made

    @property
    def _most(self) -> int:
        """Maximum number of states that the fit uses."""
        raise NotImplementedError  # each estimator has its own

    @property
    def _least(self) -> int:
        """Minimum number of states that the fit needs."""
        return 2

    def _fit(self, parts: Parts, seed: int) -> Fitted:
        raise NotImplementedError  # each estimator has its own
