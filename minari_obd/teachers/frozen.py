"""FrozenTeacher: an actor and its critics as plain torch networks, stored as safetensors with a JSON header."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from minari_obd.errors import DataError, FormatError, NotFoundError, SettingError, check_writable
from minari_obd.offline import Normaliser

__all__ = ["FrozenTeacher", "Layers", "Teacher", "bounded_actions", "describe_teacher", "load_teacher"]

_FILE = "teacher.safetensors"
_FORMAT = 1
_ROWS_AT_ONCE = 16_384

Layers = list[tuple[Tensor, Tensor]]
"""Weight (out, in) and bias (out,) of each layer of a ReLU network."""


@runtime_checkable
class Teacher(Protocol):
    """Anything that acts and values; raw units on both sides."""

    def act(self, states: np.ndarray) -> np.ndarray:
        """Actions (B, A) for raw observations (B, S), the same every time."""
        ...

    def value(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Expected discounted returns (B,) of raw actions (B, A) in raw observations (B, S)."""
        ...


def _forward(layers: Layers, inputs: Tensor) -> Tensor:
    for weight, bias in layers[:-1]:
        inputs = torch.relu(torch.nn.functional.linear(inputs, weight, bias))
    return torch.nn.functional.linear(inputs, *layers[-1])


@dataclass(frozen=True)
class FrozenTeacher:
    """A trained teacher: pi(s) = tanh(actor(s)) and q(s, a), the mean of its critics."""

    actor: Layers
    critics: list[Layers]
    normaliser: Normaliser
    """Of the observations that the networks take."""
    action_low: np.ndarray
    """Lowest action, shape (A,)."""
    action_high: np.ndarray
    """Highest action, shape (A,)."""
    details: dict[str, Any] = field(default_factory=dict)
    """How it was trained, as JSON values."""

    def __post_init__(self) -> None:
        states, actions = self.normaliser.mean.size, np.asarray(self.action_low).size
        sizes = [
            ("actor", self.actor, states, actions),
            *(("critic", critic, states + actions, 1) for critic in self.critics),
        ]
        for name, layers, inputs, outputs in sizes:
            chain = [inputs, *(len(bias) for _, bias in layers)]
            fits = all(w.shape == (o, i) for (w, _), i, o in zip(layers, chain[:-1], chain[1:], strict=True))
            if not layers or not fits or chain[-1] != outputs:
                raise DataError(
                    f"The teacher's {name} does not map {inputs} inputs to {outputs} outputs; "
                    f"its layers have shapes {[tuple(w.shape) for w, _ in layers]}."
                )
            if not all(torch.isfinite(part).all() for layer in layers for part in layer):
                raise DataError(f"The teacher's {name} has weights that are not finite; its training has diverged.")

    def act(self, states: np.ndarray) -> np.ndarray:
        """Greedy actions (B, A) for raw observations (B, S)."""
        scaled = self._batched(lambda s: torch.tanh(_forward(self.actor, s)), self._inputs(states))
        return (self.action_low + 0.5 * (scaled + 1.0) * (self.action_high - self.action_low)).astype(np.float32)

    def value(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Mean of the critics, shape (B,)."""
        scaled = 2.0 * (np.asarray(actions) - self.action_low) / (self.action_high - self.action_low) - 1.0
        inputs = np.concatenate([self._inputs(states), scaled.astype(np.float32)], axis=1)
        return self._batched(lambda x: torch.stack([_forward(c, x)[:, 0] for c in self.critics]).mean(dim=0), inputs)

    @cached_property
    def sha256(self) -> str:
        """Hash of everything that decides an action or a value."""
        digest = hashlib.sha256()
        for array in (self.normaliser.mean, self.normaliser.scale, self.action_low, self.action_high):
            digest.update(np.asarray(array, dtype=np.float32).tobytes())
        for layers in (self.actor, *self.critics):
            for part in (tensor for layer in layers for tensor in layer):
                digest.update(part.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _inputs(self, states: np.ndarray) -> np.ndarray:
        states = np.asarray(states)
        if states.ndim != 2 or states.shape[1] != self.normaliser.mean.size:
            raise DataError(f"The teacher takes observations (B, {self.normaliser.mean.size}); got {states.shape}.")
        return self.normaliser.normalise(states)

    @staticmethod
    @torch.no_grad()
    def _batched(function: Any, inputs: np.ndarray) -> np.ndarray:
        parts = [
            function(torch.from_numpy(inputs[i : i + _ROWS_AT_ONCE])) for i in range(0, len(inputs), _ROWS_AT_ONCE)
        ]
        return torch.cat(parts).numpy()

    def save(self, folder: str | Path) -> Path:
        """Write ``teacher.safetensors`` into ``folder`` and return the folder."""
        folder = Path(folder)
        target = check_writable(folder / _FILE)
        tensors = {
            **_named("actor", self.actor),
            **{name: t for i, c in enumerate(self.critics) for name, t in _named(f"critic_{i}", c).items()},
            "normaliser/mean": torch.tensor(self.normaliser.mean),
            "normaliser/scale": torch.tensor(self.normaliser.scale),
            "action_low": torch.tensor(np.asarray(self.action_low, dtype=np.float32)),
            "action_high": torch.tensor(np.asarray(self.action_high, dtype=np.float32)),
        }
        header = {"format": _FORMAT, "critics": len(self.critics), "details": self.details}
        temporary = target.with_suffix(f".{os.getpid()}")
        save_file(tensors, temporary, metadata={"minari_obd_teacher": json.dumps(header)})
        temporary.replace(target)
        return folder


def _named(prefix: str, layers: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    return {
        f"{prefix}/{i}/{part}": tensor.detach().cpu().contiguous()
        for i, layer in enumerate(layers)
        for part, tensor in zip(("weight", "bias"), layer, strict=True)
    }


def load_teacher(ref: str | Path) -> FrozenTeacher:
    """Load a teacher that :meth:`FrozenTeacher.save` wrote: tensors and JSON, nothing is unpickled.

    Args:
        ref: the folder, or its ``teacher.safetensors``.

    Raises:
        NotFoundError: nothing there.
        FormatError: not such a file, a newer format, or missing tensors.
    """
    path = Path(ref)
    path = path / _FILE if path.is_dir() else path
    if not path.is_file():
        raise NotFoundError(f"There is no teacher at '{ref}'; give a folder that holds {_FILE}.")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["minari_obd_teacher"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no iterator of its own
        if header["format"] > _FORMAT:
            raise FormatError(f"'{path}' has teacher format {header['format']}; this version reads up to {_FORMAT}.")

        def layers(prefix: str) -> Layers:
            count = sum(name.startswith(f"{prefix}/") and name.endswith("/weight") for name in tensors)
            return [(tensors[f"{prefix}/{i}/weight"], tensors[f"{prefix}/{i}/bias"]) for i in range(count)]

        return FrozenTeacher(
            actor=layers("actor"),
            critics=[layers(f"critic_{i}") for i in range(int(header["critics"]))],
            normaliser=Normaliser(tensors["normaliser/mean"].numpy(), tensors["normaliser/scale"].numpy()),
            action_low=tensors["action_low"].numpy(),
            action_high=tensors["action_high"].numpy(),
            details=dict(header["details"]),
        )
    except (SafetensorError, KeyError, TypeError, ValueError, SettingError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"'{path}' is not a teacher of this package: {error}.") from error


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


def describe_teacher(teacher: Teacher) -> dict[str, Any]:
    """Return what the provenance says of a teacher, as JSON values."""
    if isinstance(teacher, FrozenTeacher):
        return {**teacher.details, "sha256": teacher.sha256}
    return {"algorithm": f"{type(teacher).__module__}.{type(teacher).__qualname__}"}
