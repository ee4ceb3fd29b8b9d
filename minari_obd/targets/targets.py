"""Targets: what a cloned student should do in each state."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from minari_obd.densities.base import Density
from minari_obd.errors import DataError, SettingError
from minari_obd.settings.recipe import Recipe
from minari_obd.settings.sections import StudentStatesRecipe
from minari_obd.sources.data import OfflineData
from minari_obd.teachers.protocol import Teacher, bounded_actions, valued

__all__ = ["ActionCost", "Objective", "Policies", "Selection", "TargetInputs", "Targets", "VisitedStates"]

Policies = Callable[[Tensor], Tensor]
"""E policies at once: normalised states (E, B, S) to actions (E, B, A) on [-1, 1]."""


class ActionCost(Protocol):
    """What students' actions cost, differentiable by them. It is all that the distiller sees of a critic."""

    def __call__(self, states: Tensor, actions: Tensor, wanted: Tensor) -> Tensor:
        """Return the costs (E, B) of actions (E, B, A) in normalised states, where ``wanted`` actions cost nothing."""
        ...

    def to(self, device: torch.device) -> "ActionCost":
        """Return the same on a device."""
        ...


class VisitedStates(Protocol):
    """Where students go. It is all that the distiller sees of dynamics."""

    settings: StudentStatesRecipe

    @property
    def held_out(self) -> tuple[Tensor, Tensor]:
        """States (B, S) to judge pairs on, the same all the time, and the actions (B, A) that are wanted there."""
        ...

    def visit(self, policies: Policies, count: int, seed: int, step: int) -> tuple[Tensor, Tensor]:
        """Return states (B, S) that ``count`` policies visit, always as many, and the wanted actions (B, A)."""
        ...

    def to(self, device: torch.device) -> "VisitedStates":
        """Return the same on a device."""
        ...


@dataclass(frozen=True)
class Targets:
    """What a cloned student should do in each state. The distiller sees nothing else."""

    states: np.ndarray
    """Normalised states, shape (N, S), float32."""
    actions: np.ndarray
    """Actions on [-1, 1], shape (N, A), float32."""
    weights: np.ndarray
    """Weight of each state's squared error, shape (N,), float32, non-negative. The mean is 1 unless weights are raw."""
    details: dict[str, Any]
    """How the weights were made, as JSON values for the provenance."""
    is_raw: bool = False
    """Whether the weights keep the scale of the values from which they were made."""
    cost: "ActionCost | None" = None
    """What a student's action costs beside its squared error; None for the squared error alone."""
    visited: "VisitedStates | None" = None
    """Where students go; None for the data's states alone."""

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
                f"Targets need one action and one weight per state; got shapes {self.states.shape}, "
                f"{self.actions.shape} and {self.weights.shape}."
            )
        mean = float(self.weights.mean(dtype=np.float64))
        if (self.weights < 0).any() or not mean > 0.0 or not (self.is_raw or abs(mean - 1.0) <= 1e-3):
            raise DataError("Target weights must not be negative and must have mean 1, or, if raw, a mean above 0.")

    def __len__(self) -> int:
        return len(self.states)


@dataclass(frozen=True)
class TargetInputs:
    """Inputs from which targets are built. All of them are frozen before distillation starts."""

    data: OfflineData
    given_teacher: Teacher | None = None
    """The teacher, or None if the objective needs none."""
    given_density: Density | None = None
    """The fitted density of the normalised states, or None if the objective needs none."""

    @property
    def teacher(self) -> Teacher:
        """The teacher.

        Raises:
            SettingError: there is none.
        """
        if self.given_teacher is None:
            raise SettingError("These targets need a teacher; give one as TargetInputs(data, teacher).")
        return self.given_teacher

    @property
    def density(self) -> Density:
        """The density.

        Raises:
            SettingError: there is none.
        """
        if self.given_density is None:
            raise SettingError("These targets need a fitted density; give one as TargetInputs(data, teacher, density).")
        return self.given_density

    @cached_property
    def states(self) -> np.ndarray:
        """Normalised states, shape (N, S)."""
        return self.data.normaliser.normalise(self.data.observations)

    @cached_property
    def teacher_actions(self) -> np.ndarray:
        """The teacher's action in every state, in raw units and within the bounds, shape (N, A)."""
        return bounded_actions(self.teacher, self.data.observations, self.data.action_low, self.data.action_high)

    @cached_property
    def scaled_teacher_actions(self) -> np.ndarray:
        """The teacher's action in every state, on [-1, 1], shape (N, A)."""
        return self.data.action_scale.scale(self.teacher_actions)

    @cached_property
    def teacher_values(self) -> np.ndarray:
        """The teacher's values of its own actions, shape (N,), float64.

        Raises:
            DataError: the teacher returned something else.
        """
        return valued(self.teacher, self.data.observations, self.teacher_actions)


class Objective:
    """A way to build targets. Its flags say what it needs besides the data.

    Subclasses are frozen dataclasses whose fields are their settings.
    """

    needs_teacher: ClassVar[bool] = False
    needs_density: ClassVar[bool] = False
    is_by_value: ClassVar[bool] = False
    """Whether ``distillation.objective = "auto"`` means the value gap."""
    student_share: ClassVar[float] = 0.0
    """Share of student states where ``student_states.share`` is not given."""

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        """Make the objective from the settings that it reads from a recipe; by default none."""
        return cls()

    @property
    def weighs_by_value(self) -> bool:
        """Whether the teacher's values make the weights; by default they do not."""
        return False

    def check(self, data: OfflineData) -> None:
        """Refuse data whose teacher could not serve this method, before one is trained. By default, none is.

        Raises:
            DataError: it says what to use instead.
        """

    def targets(self, given: TargetInputs) -> Targets:
        """Build the targets for every state of the data."""
        raise NotImplementedError


class Selection:
    """A baseline that picks real pairs instead of distilling. It needs neither teacher nor density."""

    needs_teacher: ClassVar[bool] = False
    needs_density: ClassVar[bool] = False

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        """Make the selection from the settings that it reads from a recipe; by default none."""
        return cls()

    def select(self, data: OfflineData, size: int, seed: int) -> np.ndarray:
        """Return the rows of ``size`` different steps, shape (size,)."""
        raise NotImplementedError
