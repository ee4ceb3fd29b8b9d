"""FrozenTeacher: an actor and its critics as plain torch networks, stored as safetensors with a JSON header."""

import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from minari_obd.errors import DataError, FormatError, SettingError
from minari_obd.sources.scaling import ActionScale, Normaliser
from minari_obd.storage.tensors import read_tensors, reading, write_tensors
from minari_obd.teachers.networks import (
    ACTIVATIONS,
    Layers,
    apply_layers,
    check_layers,
    has_norms,
    layers_below,
    named_tensors,
)
from minari_obd.teachers.protocol import Teacher

__all__ = ["TEACHER_FILE", "FrozenTeacher", "describe_teacher", "read_teacher"]

TEACHER_FILE = "teacher.safetensors"


_FORMAT = 3


_MOST_DETAILS = 64 * 2**10


_ROWS_AT_ONCE = 16_384


@dataclass(frozen=True)
class FrozenTeacher:
    """A trained teacher: pi(s) = tanh(actor(s)) and q(s, a), the mean or the least of its critics.

    Networks take normalised observations and actions on [-1, 1]; ``act`` and ``value`` take and give raw units.
    """

    actor: Layers
    critics: list[Layers]
    normaliser: Normaliser
    """Of the observations that the networks take."""
    action_low: np.ndarray
    """Lowest action, shape (A,), float32."""
    action_high: np.ndarray
    """Highest action, shape (A,), float32."""
    details: dict[str, Any] = field(default_factory=dict)
    """How it was trained, as JSON values."""
    value_from: Literal["mean", "min"] = "mean"
    """Of the critics: their mean, as d3rlpy's ``predict_value``, or the least, as in the targets of TD3 and SAC."""
    activation: str = "relu"
    """Between the layers of every network: ``relu``, ``tanh`` or ``elu``."""
    origin: str | None = None
    """``organisation/name@commit`` of a teacher from the Hub."""

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS or self.value_from not in ("mean", "min"):
            raise SettingError(
                f"A teacher's activation is one of {', '.join(ACTIVATIONS)}, its value from 'mean' or 'min'; "
                f"got {self.activation!r} and {self.value_from!r}."
            )
        for name in ("action_low", "action_high"):
            object.__setattr__(self, name, np.array(getattr(self, name), dtype=np.float32))  # as they are saved
        low, high = self.action_low, self.action_high
        if low.ndim != 1 or low.shape != high.shape or not (np.isfinite([low, high]).all() and (low < high).all()):
            raise DataError(f"A teacher's lowest actions are finite and below its highest; got {low} and {high}.")
        object.__setattr__(self, "details", _as_json(self.details))
        if not self.critics:
            raise DataError("The teacher has no critic, and so no value.")
        states, actions = self.normaliser.mean.size, low.size
        check_layers("actor", self.actor, states, actions)
        for critic in self.critics:
            check_layers("critic", critic, states + actions, 1)

    def act(self, states: np.ndarray) -> np.ndarray:
        """Greedy actions (B, A) for raw observations (B, S)."""
        scaled = self._batched(lambda s: torch.tanh(apply_layers(self.actor, s, self.activation)), self._inputs(states))
        return self.action_scale.unscale(scaled)

    def value(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Values (B,) of raw actions (B, A) in raw observations (B, S)."""
        scaled = self.action_scale.scale(np.asarray(actions)).astype(np.float32)
        inputs = np.concatenate([self._inputs(states), scaled], axis=1)
        reduce = torch.mean if self.value_from == "mean" else torch.amin

        def of_critics(rows: torch.Tensor) -> torch.Tensor:
            return reduce(torch.stack([apply_layers(c, rows, self.activation)[:, 0] for c in self.critics]), 0)

        return self._batched(of_critics, inputs)

    @property
    def action_scale(self) -> ActionScale:
        """Between raw actions and those on [-1, 1]."""
        return ActionScale(self.action_low, self.action_high)

    @cached_property
    def sha256(self) -> str:
        """Hash of everything that decides an action or a value."""
        digest = hashlib.sha256()
        for array in (self.normaliser.mean, self.normaliser.scale, self.action_low, self.action_high):
            digest.update(np.asarray(array, dtype=np.float32).tobytes())
        for layers in (self.actor, *self.critics):
            for part in (tensor for layer in layers for tensor in layer):
                digest.update(part.detach().cpu().contiguous().numpy().tobytes())
        if (self.value_from, self.activation) != ("mean", "relu"):  # all that a teacher of format 1 can be
            digest.update(f"{self.value_from} {self.activation}".encode())
        return digest.hexdigest()

    def with_details(self, **details: Any) -> "FrozenTeacher":
        """Return the same teacher, of no ``origin``, with more said of it: ``data``, ``score``, whatever is JSON.

        Raises:
            DataError: a value that JSON cannot hold.
        """
        return replace(self, details={**self.details, **details}, origin=None)

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
        tensors = {
            **named_tensors("actor", self.actor),
            **{name: t for i, c in enumerate(self.critics) for name, t in named_tensors(f"critic_{i}", c).items()},
            "normaliser/mean": torch.tensor(self.normaliser.mean),
            "normaliser/scale": torch.tensor(self.normaliser.scale),
            "action_low": torch.tensor(self.action_low),
            "action_high": torch.tensor(self.action_high),
        }
        header = {
            # Earlier versions of the package read what has no layer norm.
            "format": _FORMAT if any(map(has_norms, (self.actor, *self.critics))) else 2,
            "critics": len(self.critics),
            "value_from": self.value_from,
            "activation": self.activation,
            "details": self.details,
            "sha256": _seal(self),
        }
        write_tensors(folder / TEACHER_FILE, tensors, header, _KEY)
        return folder

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = False,
        revision: str | None = None,
        license: str | None = None,
        token: str | None = None,
    ) -> str:
        """Publish as a Hugging Face model repository, a file and a card in one commit; return the commit's address.

        Args:
            repo_id: ``organisation/name``; made if it does not exist.
            private: make a new repository private.
            revision: branch to publish on, made if it does not exist; the main one if not given.
            license: the Hub's id of the licence, such as ``cc-by-4.0``.
            token: a Hugging Face token; that of ``hf auth login`` or ``HF_TOKEN`` if not given.

        Raises:
            SettingError: a malformed id or licence, or a repository that holds something else.
            HubError: the server refused, or cannot be reached.
        """
        from minari_obd.teachers.card import push_teacher

        return push_teacher(self, repo_id, private=private, revision=revision, license=license, token=token)


_KEY = "minari_obd_teacher"


def _as_json(details: dict[str, Any]) -> dict[str, Any]:
    """What JSON gives back of the details, so that a saved teacher says what this one does."""
    try:
        text = json.dumps(details, allow_nan=False)
        if len(text) > _MOST_DETAILS or not isinstance(details.get("algorithm", ""), str):
            raise ValueError(f"more than {_MOST_DETAILS // 2**10} KiB, or an algorithm that is no name")
        return json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"A teacher's details are JSON values: {error}.") from error


def _seal(teacher: FrozenTeacher) -> str:
    """Hash of all that a file says: the networks, and the details."""
    details = json.dumps(teacher.details, sort_keys=True)
    return hashlib.sha256(f"{teacher.sha256} {details}".encode()).hexdigest()


def read_teacher(path: Path, *, origin: str | None = None) -> FrozenTeacher:
    """Read a file that :meth:`FrozenTeacher.save` wrote: tensors and JSON, nothing is unpickled.

    Args:
        path: the file.
        origin: ``organisation/name@commit`` of a downloaded one.

    Raises:
        FormatError: not such a file, damaged, or of a newer format.
    """
    where = origin or str(path)
    with reading(f"'{where}' is not a teacher of this package, or damaged"):
        header, tensors = read_tensors(path, _KEY)
        if header["format"] > _FORMAT:
            raise FormatError(
                f"'{where}' has teacher format {header['format']}, and this version of minari-obd reads up to "
                f"{_FORMAT}; upgrade it with `pip install --upgrade minari-obd`."
            )
        teacher = FrozenTeacher(
            actor=layers_below("actor", tensors),
            critics=[layers_below(f"critic_{i}", tensors) for i in range(min(int(header["critics"]), len(tensors)))],
            normaliser=Normaliser(tensors["normaliser/mean"].numpy(), tensors["normaliser/scale"].numpy()),
            action_low=tensors["action_low"].numpy(),
            action_high=tensors["action_high"].numpy(),
            details=dict(header["details"]),
            value_from=header.get("value_from", "mean"),
            activation=header.get("activation", "relu"),
            origin=origin,
        )
        stated = header["sha256"] if header["format"] > 1 else None
    if stated is not None and stated != _seal(teacher):
        raise FormatError(
            f"What is in '{where}' does not match its hash; the copy is damaged or was changed, fetch it again."
        )
    return teacher


def describe_teacher(teacher: Teacher) -> dict[str, Any]:
    """Return what the provenance says of a teacher, as JSON values."""
    if isinstance(teacher, FrozenTeacher):
        origin = {} if teacher.origin is None else {"origin": teacher.origin}
        return {"algorithm": "unknown", **teacher.details, "sha256": teacher.sha256, **origin}
    return {"algorithm": f"{type(teacher).__module__}.{type(teacher).__qualname__}"}
