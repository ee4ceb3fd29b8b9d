"""FrozenTeacher: a teacher that can be saved and published, stored as safetensors with a JSON header."""

import hashlib
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from minari_obd.errors import FormatError
from minari_obd.sources.scaling import Normaliser
from minari_obd.storage.hub import Holding, publish
from minari_obd.storage.tensors import read_tensors, reading, write_tensors
from minari_obd.support.licences import check_license
from minari_obd.teachers.actor_critic import ActorCritic
from minari_obd.teachers.card import TEACHER_FILE, algorithm_of, teacher_card
from minari_obd.teachers.networks import has_norms, layers_below, named_tensors
from minari_obd.teachers.protocol import Teacher

__all__ = ["TEACHER", "FrozenTeacher", "describe_teacher", "read_teacher"]

_CARD_FILE = "README.md"
_FORMAT = 3
_KEY = "minari_obd_teacher"

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
        check_license(license)
        with tempfile.TemporaryDirectory() as scratch:
            folder = self.save(scratch)
            (folder / _CARD_FILE).write_text(teacher_card(self, repo_id, license), encoding="utf-8")
            files = {name: folder / name for name in TEACHER.written}
            title = f"Teacher by {algorithm_of(self)}"
            return publish(TEACHER, files, repo_id, title, private=private, revision=revision, token=token)


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
