"""Actions of a teacher, checked and within their bounds."""

from typing import Protocol, runtime_checkable

import numpy as np

from minari_obd.errors import DataError

__all__ = ["Teacher", "bounded_actions"]


@runtime_checkable
class Teacher(Protocol):
    """Anything that acts and values; raw units on both sides. Discrete actions are probabilities, (B, n)."""

    def act(self, states: np.ndarray) -> np.ndarray:
        """Actions (B, A) for raw observations (B, S), the same every time."""
        ...

    def value(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Expected discounted returns (B,) of raw actions (B, A) in raw observations (B, S)."""
        ...


def bounded_actions(teacher: Teacher, observations: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """A teacher's actions for raw observations (B, S): raw, within the bounds (A,), shape (B, A).

    Raises:
        DataError: its actions have another shape.
    """
    actions = np.asarray(teacher.act(observations))
    if actions.shape != (expected := (len(observations), len(low))):
        raise DataError(
            f"The teacher returned actions of shape {actions.shape} for {len(observations)} states; expected "
            f"{expected}: it was made for another task."
        )
    return np.clip(actions, low, high)
