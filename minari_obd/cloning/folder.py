"""The folder of a policy, which is also its repository: weights and config as huggingface_hub's mixin writes them."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from minari_obd.cloning.lineage import Lineage
from minari_obd.distilled.folder import CARD_FILE, EVALUATION_FILE
from minari_obd.distilled.metadata import parse_evaluation
from minari_obd.errors import FormatError
from minari_obd.registry import STUDENTS
from minari_obd.scores.references import ReferenceScores
from minari_obd.scores.report import EvaluationReport
from minari_obd.settings.parsing import STRICT_JSON, read_json, validated
from minari_obd.settings.protocols import SOFTMAX, StudentProtocol
from minari_obd.sources.fields import ObservationField
from minari_obd.storage.files import check_not_pointer, check_replaceable, holds_instead, replacing
from minari_obd.storage.hub import Holding
from minari_obd.storage.tensors import read_plain_tensors, reading, write_plain_tensors

__all__ = [
    "CONFIG_FILE",
    "METADATA_FILE",
    "POLICY",
    "WEIGHTS_FILE",
    "Config",
    "Metadata",
    "Parts",
    "check_target",
    "read",
    "write",
]

CONFIG_FILE, WEIGHTS_FILE, METADATA_FILE = "config.json", "model.safetensors", "obd_policy.json"

_READ = (METADATA_FILE, CONFIG_FILE, WEIGHTS_FILE, EVALUATION_FILE)
_FORMAT = 1
_MOST_NUMBER = 2**31  # of a discrete action

POLICY = Holding("policy", "model", METADATA_FILE, _READ, (*_READ, CARD_FILE))
"""A repository that holds one. ``config.json`` is no marker: most models on the Hub have one."""


@dataclass(frozen=True)
class Config:
    """``config.json``: what it takes to build the network, for readers without this package."""

    observation_size: int
    """S."""
    action_size: int
    """A; of discrete actions, how many there are."""
    students: int
    """E. They act by the mean of their actions, or of their probabilities."""
    network: str
    depth: int
    """Hidden layers."""
    width: int
    """Units in each hidden layer."""
    first_action: int | None
    """Number of the first of discrete actions; null if actions are continuous."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT_JSON


@dataclass(frozen=True)
class Metadata:
    """``obd_policy.json``: what is known of a policy beside its network."""

    format: int
    """Version of this format."""
    weights_sha256: str
    """Of ``model.safetensors``."""
    student: StudentProtocol
    """How the students were trained."""
    env_id: str | None
    """Plain Gymnasium id of the environment, if known."""
    reference_scores: ReferenceScores | None
    observation_fields: list[ObservationField]
    """Which columns hold which part of an observation that is a dict or tuple; empty if it is flat."""
    lineage: Lineage
    """What the policy was made from."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT_JSON


class Parts(NamedTuple):
    """What a folder holds, checked."""

    config: Config
    tensors: dict[str, Tensor]
    """``mean``, ``scale``, ``action_low``, ``action_high``, and ``weights.0`` and so on with E rows each."""
    metadata: Metadata
    evaluation: EvaluationReport | None


def write(
    folder: Path,
    config: Config,
    tensors: Mapping[str, Tensor],
    known: Mapping[str, Any],
    evaluation: EvaluationReport | None,
    card: str,
) -> Path:
    """Write a folder, whole or not at all; an older policy there is replaced.

    Args:
        folder: where.
        config: of the network.
        tensors: of the weights' file.
        known: the metadata's fields but the format and the hash.
        evaluation: the last one, if there was any.
        card: text of the card.

    Raises:
        SettingError: the folder holds something else, or cannot be written.
    """
    folder = check_target(folder)
    with replacing(folder) as building:
        building.mkdir()
        write_plain_tensors(building / WEIGHTS_FILE, tensors)
        metadata = asdict(Metadata(format=_FORMAT, weights_sha256=_sha256(building / WEIGHTS_FILE), **known))
        found = {CONFIG_FILE: asdict(config), METADATA_FILE: metadata}
        if evaluation is not None:
            found[EVALUATION_FILE] = evaluation.to_json()
        for name, values in found.items():
            (building / name).write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        (building / CARD_FILE).write_text(card, encoding="utf-8")
    return folder


def check_target(folder: Path) -> Path:
    """Make sure, before any long work, that a policy may be written to ``folder``.

    Raises:
        SettingError: it is a file, holds something else, or cannot be written.
    """
    return check_replaceable(folder, "the folder of a policy", METADATA_FILE, POLICY.written)


def read(folder: Path, origin: str) -> Parts:
    """Read and check a folder; nothing of it is executed or unpickled.

    Args:
        folder: the folder.
        origin: what it is called in errors.

    Raises:
        FormatError: not a policy, damaged, or of a newer format.
    """
    for name in (METADATA_FILE, CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            said = f"'{origin}' is not a policy, or an incomplete copy of one: it has no {name}."
            raise FormatError(said + (holds_instead(folder) if name == METADATA_FILE else ""))
    values = read_json(folder / METADATA_FILE)
    version = values.get("format") if isinstance(values, dict) else None
    if isinstance(version, int) and version > _FORMAT:
        raise FormatError(
            f"'{origin}' has policy format {version}, and this version of minari-obd reads up to {_FORMAT}; upgrade it "
            "with `pip install --upgrade minari-obd`."
        )
    metadata = validated(Metadata, values, f"{origin}/{METADATA_FILE}")
    config = validated(Config, read_json(folder / CONFIG_FILE), f"{origin}/{CONFIG_FILE}")
    weights = folder / WEIGHTS_FILE
    check_not_pointer(weights)
    digest = _sha256(weights)
    if digest != metadata.weights_sha256:
        raise FormatError(
            f"{WEIGHTS_FILE} in '{origin}' does not match its hash in {METADATA_FILE} (expected "
            f"{metadata.weights_sha256[:12]}..., found {digest[:12]}...); the copy is damaged or was changed, fetch it "
            "again."
        )
    with reading(f"{WEIGHTS_FILE} in '{origin}' cannot be read"):
        tensors = read_plain_tensors(weights)
    problem = _misfit(config, metadata, tensors)
    if problem:
        raise FormatError(f"'{origin}' is damaged: {problem}.")
    file = folder / EVALUATION_FILE
    evaluation = parse_evaluation(read_json(file), f"{origin}/{EVALUATION_FILE}") if file.is_file() else None
    return Parts(config, tensors, metadata, evaluation)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _misfit(config: Config, metadata: Metadata, tensors: dict[str, Tensor]) -> str | None:
    """What does not fit together in a policy, if anything; no memory is taken for what the config only claims."""
    s, a, student, first = config.observation_size, config.action_size, metadata.student, config.first_action
    if (config.network, config.depth, config.width) != (student.network, student.depth, student.width):
        return f"{CONFIG_FILE} and {METADATA_FILE} name different networks"
    if min(s, a, config.students) < 1 or (first is not None and abs(first) >= _MOST_NUMBER):
        return f"{CONFIG_FILE} has sizes that no policy has"
    if config.network in STUDENTS.builtin and config.network.startswith(SOFTMAX) != (first is not None):
        return f"the network '{config.network}' does not go with first_action {first}"
    if metadata.observation_fields and sum(each.size for each in metadata.observation_fields) != s:
        return f"the fields of observations have other than {s} columns together"
    count = sum(name.startswith("weights.") for name in tensors)
    shapes: dict[str, tuple[int, ...] | None] = {"mean": (s,), "scale": (s,), "action_low": (a,), "action_high": (a,)}
    if config.network not in STUDENTS.builtin:  # its package alone knows its shapes
        shapes |= {f"weights.{i}": None for i in range(count)}
    elif student.is_solved:  # the pairs' states, and a row of coefficients for each
        rows = tensors["weights.0"].shape[1] if count == 2 and tensors["weights.0"].dim() == 3 else -1
        shapes |= {f"weights.{i}": (config.students, rows, each) for i, each in enumerate((s, a))}
    elif count != 2 * (config.depth + 1):
        return f"it has {count} weights, and {config.depth} hidden layers have {2 * (config.depth + 1)}"
    else:
        sizes = [s, *[config.width] * config.depth, a]
        for i, (inputs, outputs) in enumerate(pairwise(sizes)):
            shapes[f"weights.{2 * i}"] = (config.students, inputs, outputs)
            shapes[f"weights.{2 * i + 1}"] = (config.students, 1, outputs)
    others = sorted(set(tensors) ^ set(shapes))
    if others or count == 0:
        return f"{WEIGHTS_FILE} has {(others or ['weights.0'])[0][:60]!r} too many or too few"
    for name, shape in shapes.items():
        found, kind = tuple(tensors[name].shape), tensors[name].dtype
        if kind != torch.float32 or (found != shape if shape else found[:1] != (config.students,)):
            expected = shape or f"({config.students}, ...)"
            return f"{name} is {kind} of shape {found}; expected float32 of shape {expected}"
        if not torch.isfinite(tensors[name]).all():
            return f"{name} holds values that are not finite"
    if not (tensors["scale"] > 0).all() or not (tensors["action_low"] < tensors["action_high"]).all():
        return "a scale is not positive, or an action's lower bound is not below its higher one"
    return None
