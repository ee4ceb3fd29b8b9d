"""Actions of a teacher, checked and within their bounds."""

import numpy as np

from minari_obd.errors import DataError
from minari_obd.teachers.frozen import Teacher

__all__ = ["bounded_actions"]


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
