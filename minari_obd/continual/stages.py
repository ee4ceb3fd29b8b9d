"""Stages: what each stage of continual learning leaves behind, in two files."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from minari_obd.cloning.loading import load_policy
from minari_obd.cloning.policy import Policy
from minari_obd.errors import FormatError, SettingError
from minari_obd.settings.parsing import STRICT_JSON, read_json, validated
from minari_obd.storage.cache import read_kept
from minari_obd.storage.files import write_text

__all__ = ["Stage", "read_stage", "write_stage"]


@dataclass(frozen=True)
class Stage:
    """What a stage leaves behind."""

    policy: Policy
    returns: np.ndarray
    """On each task, shape (K, students, episodes)."""
    versions: dict[str, str]
    """Versions of the packages that decide a return."""
    seconds: float


@dataclass(frozen=True)
class _Stated:
    """A stage's JSON file, field by field."""

    key: str
    returns: list[list[list[float]]]
    versions: dict[str, str]
    seconds: float

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT_JSON


def write_stage(folder: Path, number: int, stage: Stage, key: str) -> None:
    """Write the policy and, last, the returns: a stage with returns is whole.

    Args:
        folder: the run's folder.
        number: from 0.
        stage: what to write.
        key: name of the run, so that no other run reads the stage.
    """
    stage.policy.save(folder / f"stage-{number + 1}.safetensors")
    values = {"key": key, "returns": stage.returns.tolist(), "versions": stage.versions, "seconds": stage.seconds}
    write_text(folder / f"stage-{number + 1}.json", json.dumps(values) + "\n")


def read_stage(folder: Path, number: int, key: str, shape: tuple[int, int, int]) -> Stage | None:
    """Read what :func:`write_stage` wrote; None if the stage is not whole. What is damaged is set aside.

    Raises:
        SettingError: the stage is from another run.
    """
    kept = read_kept(folder / f"stage-{number + 1}.json", lambda path: _read_returns(path, key, shape))
    policy = None if kept is None else read_kept(folder / f"stage-{number + 1}.safetensors", load_policy)
    return None if kept is None or policy is None else Stage(policy, **kept)


def _read_returns(path: Path, key: str, shape: tuple[int, int, int]) -> dict[str, Any]:
    """Everything of a stage but its policy."""
    stated = validated(_Stated, read_json(path), str(path))
    if stated.key != key:
        raise SettingError(f"'{path.parent}' holds stages of another run; give another folder, or delete them.")
    try:
        returns = np.array(stated.returns, dtype=np.float64).reshape(shape)
    except ValueError as error:  # rows of different lengths among them
        raise FormatError(f"'{path}' is damaged at returns: {error}.") from error
    return {"returns": returns, "versions": stated.versions, "seconds": stated.seconds}
