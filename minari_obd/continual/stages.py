"""Stages: what each stage of continual learning leaves behind, in two files."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minari_obd.cloning.loading import load_policy
from minari_obd.cloning.policy import Policy
from minari_obd.errors import FormatError, NotFoundError, SettingError
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
    """Read what :func:`write_stage` wrote; None if the stage is not whole.

    Raises:
        SettingError: the stage is from another run.
        FormatError: it is damaged, or its returns have another shape.
    """
    path = folder / f"stage-{number + 1}.json"
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        found, returns = values["key"], np.array(values["returns"], dtype=np.float64)
        rest = {"versions": dict(values["versions"]), "seconds": float(values["seconds"])}
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(f"'{path}' is damaged ({error}); delete it, and the stage is run again.") from error
    if found != key:
        raise SettingError(f"'{folder}' holds stages of another run; give another folder, or delete them.")
    if returns.shape != shape:
        raise FormatError(f"'{path}' has returns of shape {returns.shape}; delete it, and the stage is run again.")
    try:
        policy = load_policy(folder / f"stage-{number + 1}.safetensors")
    except NotFoundError:
        return None
    return Stage(policy, returns, **rest)
