"""Discrete actions as probabilities: a column for each action, in order."""

import numpy as np

from minari_obd.errors import DataError

__all__ = ["check_probabilities", "chosen", "one_hot"]

_MOST_NUMBER = 2**31
_MOST_OFF = 1e-3
_MOST_ACTIONS = 10_000


def one_hot(actions: np.ndarray, count: int, first: int, name: str) -> np.ndarray:
    """Return numbered actions as certain ones.

    Args:
        actions: numbers of actions, shape (N,) or (N, 1).
        count: n, how many actions there are.
        first: number of the first one.
        name: of the dataset, for errors.

    Returns:
        Shape (N, n), float32: 1 in the action's column, 0 elsewhere.

    Raises:
        DataError: several numbers a step, or one that is no action; or too many actions.
    """
    if count > _MOST_ACTIONS:
        raise DataError(
            f"'{name}' has {count:,} discrete actions, and pairs hold a probability for each; at most "
            f"{_MOST_ACTIONS:,} are supported, so group them."
        )
    is_one = actions.ndim == 1 or actions.shape[1:] == (1,)
    if not is_one or actions.dtype.kind not in "iu":
        advice = "Give them as integers, as actions.astype(int) does"
        if not is_one:
            advice = "Several at once (MultiDiscrete) are not supported; number their combinations. Of one-hot rows or "
            advice += "probabilities, give the numbers, as actions.argmax(axis=1) does"
        raise DataError(
            f"'{name}' has {actions.dtype} of shape {actions.shape} for discrete actions; expected one whole number a "
            f"step. {advice}."
        )
    columns = actions.reshape(-1).astype(np.int64) - first
    bad = np.flatnonzero((columns < 0) | (columns >= count))
    if len(bad):
        raise DataError(
            f"'{name}' has the action {columns[bad[0]] + first} at step {bad[0]}; actions are from {first} to "
            f"{first + count - 1}."
        )
    return np.eye(count, dtype=np.float32)[columns]


def chosen(probabilities: np.ndarray, first: int) -> np.ndarray:
    """Return the number of the likeliest action, the first of equals: shape (...,) for probabilities (..., n)."""
    return np.argmax(probabilities, axis=-1) + first


def check_probabilities(what: str, actions: np.ndarray, first: int) -> None:
    """Make sure that actions (N, n) are probabilities, and that ``first`` can be the number of an action.

    Raises:
        DataError: a row has a negative number, or a sum other than 1; or the number is too large.
    """
    if abs(first) >= _MOST_NUMBER:
        raise DataError(f"{what} are numbered from beyond {_MOST_NUMBER:,}; that is no action of an environment.")
    if actions.ndim != 2 or (actions < -_MOST_OFF).any() or (np.abs(actions.sum(axis=-1) - 1.0) > _MOST_OFF).any():
        raise DataError(
            f"{what} are discrete, so each row holds the probabilities of the actions; some are negative, or do not "
            "sum to 1."
        )
