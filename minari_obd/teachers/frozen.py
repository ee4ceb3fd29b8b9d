"""FrozenTeacher: a teacher that can be saved and published, stored as safetensors with a JSON header."""

import hashlib
import json
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from minari_obd.errors import FormatError, SettingError
from minari_obd.sources.scaling import Normaliser
from minari_obd.storage.files import check_not_pointer
from minari_obd.storage.hub import Holding, publish
from minari_obd.storage.tensors import read_header, read_tensors, reading, write_tensors
from minari_obd.support.licences import check_known_license
from minari_obd.teachers.actor_critic import ActorCritic
from minari_obd.teachers.card import TEACHER_FILE, algorithm_of, teacher_card
from minari_obd.teachers.choice import Choice, fitted_temperature
from minari_obd.teachers.networks import Layers, has_norms, layers_below, named_tensors
from minari_obd.teachers.protocol import Teacher

__all__ = ["KEY", "TEACHER", "FrozenTeacher", "describe_teacher", "read_details", "read_teacher", "write_teacher"]

_CARD_FILE = "README.md"
_FORMAT = 5
KEY = "minari_obd_teacher"
"""Of the header in a teacher's file."""

TEACHER = Holding("teacher", "model", TEACHER_FILE, (TEACHER_FILE,), (TEACHER_FILE, _CARD_FILE))
"""A repository that holds one."""


class FrozenTeacher(ActorCritic):
    """A trained teacher that no longer changes, with all that is known of it."""

    def with_details(self, **details: Any) -> "FrozenTeacher":
        """Return the same teacher, of no ``origin``, with more said of it: ``data``, ``score``, whatever is JSON.

        Raises:
            DataError: a value that JSON cannot hold.
        """
        return replace(self, details={**self.details, **details}, origin=None)

    def save(self, folder: str | Path) -> Path:
        """Write ``teacher.safetensors`` into ``folder`` and return the folder."""
        folder = Path(folder)
        write_teacher(self, folder / TEACHER_FILE)
        return folder

    def halved(self) -> "FrozenTeacher":
        """Return the teacher, of no ``origin``, with its networks' weights rounded to half precision.

        Raises:
            DataError: a weight is too large for half precision.
        """

        def rounded(layers: Layers) -> Layers:
            return [tuple(part.half().float() for part in layer) for layer in layers]

        return replace(self, actor=rounded(self.actor), critics=[*map(rounded, self.critics)], origin=None)

    def with_confidence(self, observations: np.ndarray, confidence: float) -> "FrozenTeacher":
        """Return the teacher of discrete actions, of no ``origin``, at the temperature of a mean highest probability.

        Args:
            observations: what the mean is over, shape (B, S), raw units; a few thousand are enough.
            confidence: the likeliest action's probability, above 1 / n and below 1.

        Raises:
            SettingError: actions are continuous, or no temperature gives such a probability.
        """
        if self.choice is None:
            raise SettingError("The teacher's actions are continuous, so they have no probabilities; leave them as is.")
        if not 1.0 / self.action_low.size < confidence < 1.0:
            raise SettingError(
                f"The likeliest of {self.action_low.size} actions cannot have a mean probability of {confidence}; give "
                f"one above {1.0 / self.action_low.size:.3g} and below 1."
            )
        temperature = fitted_temperature(self.allowed_values(observations), confidence)
        details = {**self.details, "temperature": temperature, "mean_highest_probability": confidence}
        return replace(self, choice=Choice(temperature, self.choice.least), details=details, origin=None)

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
        check_known_license(license)
        with tempfile.TemporaryDirectory() as scratch:
            folder = self.save(scratch)
            (folder / _CARD_FILE).write_text(teacher_card(self, repo_id, license), encoding="utf-8")
            files = {name: folder / name for name in TEACHER.written}
            title = f"Teacher by {algorithm_of(self)}"
            return publish(TEACHER, files, repo_id, title, private=private, revision=revision, token=token)


def write_teacher(teacher: FrozenTeacher, path: Path, *, half_precision: bool = False) -> None:
    """Write a teacher to one file, whole or not at all.

    Args:
        teacher: the teacher.
        path: the file.
        half_precision: write the weights in half precision; the file then holds :meth:`FrozenTeacher.halved`.
    """
    teacher = teacher.halved() if half_precision else teacher
    networks = {"actor": teacher.actor, **{f"critic_{i}": critic for i, critic in enumerate(teacher.critics)}}
    weights = {
        name: tensor for prefix, each in networks.items() for name, tensor in named_tensors(prefix, each).items()
    }
    tensors = {
        **{name: tensor.half() if half_precision else tensor for name, tensor in weights.items()},
        "normaliser/mean": torch.tensor(teacher.normaliser.mean),
        "normaliser/scale": torch.tensor(teacher.normaliser.scale),
        "action_low": torch.tensor(teacher.action_low),
        "action_high": torch.tensor(teacher.action_high),
    }
    normed = any(map(has_norms, networks.values()))
    header = {
        "format": _FORMAT
        if teacher.choice
        else 4
        if half_precision
        else 3
        if normed
        else 2,  # the oldest that holds it
        "critics": len(teacher.critics),
        "value_from": teacher.value_from,
        "activation": teacher.activation,
        "details": teacher.details,
        "sha256": _seal(teacher),
        **({} if teacher.choice is None else {"choice": asdict(teacher.choice)}),
    }
    write_tensors(path, tensors, header, KEY)


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
        check_not_pointer(path)
        header, tensors = read_tensors(path, KEY)
        if header["format"] > _FORMAT:
            raise FormatError(
                f"'{where}' has teacher format {header['format']}, and this version of minari-obd reads up to "
                f"{_FORMAT}; upgrade it with `pip install --upgrade minari-obd`."
            )
        tensors = {name: t.float() if t.dtype == torch.float16 else t for name, t in tensors.items()}
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
            choice=Choice(**header["choice"]) if "choice" in header else None,
        )
        stated = header["sha256"] if header["format"] > 1 else None
    if stated is not None and stated != _seal(teacher):
        raise FormatError(
            f"What is in '{where}' does not match its hash; the copy is damaged or was changed, fetch it again."
        )
    return teacher


def read_details(path: Path) -> dict[str, Any]:
    """Return what a teacher's file says of it, without reading its networks.

    Raises:
        FormatError: not such a file, or damaged.
    """
    with reading(f"'{path}' is not a teacher of this package, or damaged"):
        return dict(read_header(path, KEY)["details"])


def describe_teacher(teacher: Teacher) -> dict[str, Any]:
    """Return what the provenance says of a teacher, as JSON values."""
    if isinstance(teacher, FrozenTeacher):
        origin = {} if teacher.origin is None else {"origin": teacher.origin}
        return {"algorithm": "unknown", **teacher.details, "sha256": teacher.sha256, **origin}
    return {"algorithm": f"{type(teacher).__module__}.{type(teacher).__qualname__}"}
