"""Fields of observations: which columns of a flat vector hold which part of a dict or tuple, in Gymnasium's order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import gymnasium as gym
import numpy as np

from minari_obd.errors import DataError

__all__ = ["ObservationField", "fields_of_space", "flatten_observation"]


@dataclass(frozen=True)
class ObservationField:
    """A part of an observation, and how it was flattened into columns beside each other."""

    name: str
    """Its keys in the dict (positions in a tuple), joined by ``/``."""
    shape: list[int] = field(default_factory=list)
    """Shape of the part, which is flattened row by row. Empty for a single number."""
    one_hot: int | None = None
    """Number of values of a discrete part, which has a column for each; None for all others."""
    start: int = 0
    """Smallest of the discrete values."""

    @property
    def size(self) -> int:
        """Number of columns."""
        return self.one_hot or prod(self.shape)


def fields_of_space(space: gym.Space, name: str = "") -> list[ObservationField]:
    """Return the fields of a space in the order of :func:`gymnasium.spaces.flatten`."""
    if isinstance(space, gym.spaces.Dict | gym.spaces.Tuple):
        parts = space.items() if isinstance(space, gym.spaces.Dict) else enumerate(space.spaces)
        below = [(f"{name}/{key}" if name else str(key), part) for key, part in parts]
        return [each for key, part in below for each in fields_of_space(part, key)]
    if isinstance(space, gym.spaces.Discrete):
        return [ObservationField(name, [], int(space.n), int(space.start))]
    shape = space.shape if isinstance(space, gym.spaces.Box | gym.spaces.MultiBinary) else None
    return [ObservationField(name, [gym.spaces.flatdim(space)] if shape is None else [int(n) for n in shape])]


def flatten_observation(fields: Sequence[ObservationField], observation: Any) -> np.ndarray:
    """Flatten one observation as the data was, or a batch: a dict (or tuple) of arrays with the batch's axis first.

    Args:
        fields: the parts, in order.
        observation: nested dicts and tuples with a value for every field.

    Returns:
        Shape (S,), or (B, S).

    Raises:
        DataError: a part is missing, has another shape, or a number that its space does not have.
    """
    columns = []
    for each in fields:
        value = observation
        for key in each.name.split("/") if each.name else ():
            if isinstance(value, Mapping) and key in value:
                value = value[key]
            elif isinstance(value, tuple) and key.isdigit() and int(key) < len(value):
                value = value[int(key)]
            else:
                raise DataError(f"The observation has no part '{each.name}'; it needs {_named(fields)}.")
        value, axes = np.asarray(value), len(each.shape)
        if value.ndim not in (axes, axes + 1) or list(value.shape[value.ndim - axes :]) != each.shape:
            raise DataError(f"The part '{each.name}' has shape {value.shape}; expected {tuple(each.shape)} or a batch.")
        if each.one_hot is not None:
            is_each = value[..., None] == each.start + np.arange(each.one_hot)
            if not is_each.any(axis=-1).all():
                last = each.start + each.one_hot - 1
                raise DataError(f"The part '{each.name}' has a value that is no number from {each.start} to {last}.")
            value = is_each
        columns.append(value.reshape(*value.shape[: value.ndim - max(axes, each.one_hot is not None)], each.size))
    if len({value.shape[:-1] for value in columns}) > 1:
        raise DataError("Some parts of the observation are a batch and others are not, or batches differ in length.")
    return np.concatenate(columns, axis=-1).astype(np.float32)


def _named(fields: Sequence[ObservationField]) -> str:
    return ", ".join(f"'{each.name}'" for each in fields)
