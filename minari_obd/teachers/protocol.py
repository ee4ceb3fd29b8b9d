"""What a teacher says of states: its actions, checked and within their bounds, and their values."""

from typing import Any, Protocol, runtime_checkable

import numpy as np

from minari_obd.errors import DataError, MinariObdError
from minari_obd.sources.data import OfflineData
from minari_obd.support.discrete import check_probabilities

__all__ = ["Teacher", "acted", "bounded_actions", "check_teacher", "valued"]

_ROWS = 8
"""States that a teacher is tried on."""


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
        DataError: its actions are no numbers, or have another shape.
    """
    actions = acted(teacher, observations)
    if actions.shape != (expected := (len(observations), len(low))):
        raise DataError(
            f"The teacher returned actions of shape {actions.shape} for {len(observations)} states; expected "
            f"{expected}. Its act takes a batch of raw observations and returns an action, or the probabilities of "
            "discrete ones, for each; if it does, it was made for another task."
        )
    return np.clip(actions, low, high)


def acted(teacher: Any, observations: np.ndarray) -> np.ndarray:
    """What a teacher's ``act`` returns for raw observations (B, S), as an array of numbers.

    Raises:
        DataError: it returns something else.
    """
    try:
        found = teacher.act(observations)
    except Exception as error:
        _note(error, f"act was given a batch of observations, an array of shape {observations.shape}.")
        raise
    return _numbers("actions", found)


def valued(teacher: Teacher, observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """A teacher's values (B,), float64, of raw actions (B, A) in raw observations (B, S).

    Raises:
        DataError: its values are no numbers, or have another shape.
    """
    try:
        found = teacher.value(observations, actions)
    except Exception as error:
        shapes = f"{observations.shape} and {actions.shape}"
        _note(error, f"value was given batches of observations and actions, arrays of shapes {shapes}.")
        raise
    values = _numbers("values", found)
    if values.shape != (len(observations),):
        raise DataError(
            f"The teacher returned values of shape {values.shape} for {len(observations)} states; expected one each."
        )
    return values.astype(np.float64)


def check_teacher(teacher: Teacher, data: OfflineData, *, values: bool) -> None:
    """Try a teacher on a few states, so that one that cannot serve is found before any long work.

    Args:
        teacher: somebody's own object.
        data: the offline dataset.
        values: whether its values will be asked for, too.

    Raises:
        DataError: its actions or values are no finite numbers, or of another shape, or no probabilities where actions
            are discrete.
    """
    observations = data.observations[:_ROWS].copy()  # which may be written to, as torch wants it
    actions = bounded_actions(teacher, observations, data.action_low, data.action_high)
    if not np.isfinite(actions).all():
        raise DataError("The teacher returned actions that are not finite; check it, and what it was trained on.")
    if data.first_action is not None:
        check_probabilities("The teacher's actions", acted(teacher, observations), data.first_action)
    if values:
        valued(teacher, observations, actions)


def _note(error: Exception, text: str) -> None:
    """Say what somebody's own code was given; this package's errors, and those with a note, say enough."""
    if not (isinstance(error, MinariObdError) or getattr(error, "__notes__", None)):
        error.add_note(text)


def _numbers(what: str, found: Any) -> np.ndarray:
    try:
        array = np.asarray(found)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged lists; tensors with gradients or on a GPU
        raise DataError(f"The teacher returned {what} that NumPy cannot read: {error}") from error
    if array.dtype.kind not in "biuf":
        raise DataError(f"The teacher returned {str(found)[:60]!r} for {what}; expected an array of numbers.")
    return array
