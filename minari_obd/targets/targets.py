"""Targets: what a cloned student should do, state by state."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from minari_obd.densities.base import Density
from minari_obd.errors import DataError
from minari_obd.sources.data import OfflineData
from minari_obd.teachers.protocol import Teacher, bounded_actions

__all__ = ["Objective", "Selection", "Targets", "labelled", "teacher_actions"]


@dataclass(frozen=True)
class Targets:
    """What a cloned student should do, state by state; all that the distiller ever sees."""

    states: np.ndarray
    """Normalised states, shape (N, S), float32."""
    actions: np.ndarray
    """Actions on [-1, 1], shape (N, A), float32."""
    weights: np.ndarray
    """Weight of each state's squared error, shape (N,), float32, not negative; mean 1, but where values are raw."""
    details: dict[str, Any]
    """What the weights were made with, as JSON values for the provenance."""
    is_raw: bool = False
    """Whether the weights keep the scale of the values that they were made with."""

    def __post_init__(self) -> None:
        for name in ("states", "actions", "weights"):
            value = np.array(getattr(self, name), dtype=np.float32)
            if not np.isfinite(value).all():
                raise DataError(f"The targets' {name} are not finite; the teacher or the density has diverged.")
            value.setflags(write=False)
            object.__setattr__(self, name, value)
        count = len(self.states)
        if self.actions.shape[:1] != (count,) or self.weights.shape != (count,):
            raise DataError(
                f"Targets need one action and one weight a state; got {self.states.shape}, {self.actions.shape} and "
                f"{self.weights.shape}."
            )
        mean = float(self.weights.mean(dtype=np.float64))
        if (self.weights < 0).any() or not mean > 0.0 or not (self.is_raw or abs(mean - 1.0) <= 1e-3):
            raise DataError("Target weights must not be negative and must have mean 1, or above 0 where they are raw.")

    def __len__(self) -> int:
        return len(self.states)


class Objective(Protocol):
    """A way to build targets; what it needs besides the data is said by its flags.

    One whose ``needs_values`` is true is made with ``values``, a :class:`~minari_obd.recipe.ValueRecipe`; one that
    needs a density also with ``effective_fraction`` and ``with_values``. One with a true ``needs_on_policy`` is made
    with ``on_policy``, an :class:`~minari_obd.recipe.OnPolicyRecipe`.
    """

    needs_teacher: bool
    needs_density: bool

    def targets(self, data: OfflineData, teacher: Teacher | None, density: Density | None) -> Targets:
        """Build the targets of every state of ``data``."""
        ...


class Selection(Protocol):
    """A way to pick real pairs instead of distilling: a baseline."""

    def select(self, data: OfflineData, size: int, seed: int) -> np.ndarray:
        """Return the rows of ``size`` different steps."""
        ...


def teacher_actions(data: OfflineData, teacher: Teacher | None) -> np.ndarray:
    """The teacher's actions in every state, raw units, within the bounds."""
    assert teacher is not None
    return bounded_actions(teacher, data.observations, data.action_low, data.action_high)


def labelled(data: OfflineData, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Normalised states, and raw actions on [-1, 1]."""
    scaled = 2.0 * (actions - data.action_low) / (data.action_high - data.action_low) - 1.0
    return data.normaliser.normalise(data.observations), scaled
