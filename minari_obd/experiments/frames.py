"""Frames: MuJoCo pictures of distilled states and of their successors.

Drawing needs an OpenGL context that works without a display, and a failing driver may end the whole process. So a
child process draws: with ``MUJOCO_GL`` if it is set, otherwise with ``egl``, or with ``osmesa`` if that fails.
"""

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.errors import MinariObdError
from minari_obd.support.children import child_of

__all__ = ["Frames", "render_pairs"]

_WAIT = 300  # seconds for one process


@dataclass(frozen=True)
class Frames:
    """Pictures of some pairs."""

    rows: np.ndarray
    """Row numbers of the pairs, shape (F,)."""
    states: np.ndarray
    """Pictures of their states, shape (F, H, W, 3), uint8."""
    successors: np.ndarray
    """Pictures of the states after one step of their actions, same shape and type."""


def render_pairs(dataset: DistilledDataset, *, count: int = 8, picture_size: int = 240) -> Frames:
    """Draw pairs spread over the first principal component of the states, and one step from each.

    Pairs whose observations are not states of the environment are left out.

    Args:
        dataset: the pairs.
        count: F, the maximum number of pairs.
        picture_size: H and W, pixels.

    Raises:
        SettingError, NotFoundError, DataError: as in :meth:`DistilledDataset.with_transitions`.
        MinariObdError: this machine cannot draw. The message says why.
    """
    kept = dataset.with_transitions(drop=True)
    states = kept.normalised()[0]
    along = np.linalg.svd(states - states.mean(axis=0), full_matrices=False)[0][:, 0]
    rows = np.argsort(along)[np.linspace(0, len(along) - 1, min(count, len(along))).round().astype(int)]
    task = {
        "env_id": kept.env_id,
        "observations": kept.observations[rows].tolist(),
        "actions": kept.actions[rows].tolist(),
        "picture_size": picture_size,
    }
    given = os.environ.get("MUJOCO_GL")
    problem = ""
    for backend in [given] if given else ["egl", "osmesa"]:
        try:
            pictures = _drawn_by(backend, task)
        except MinariObdError as error:
            problem = f"{backend}: {error}"
        else:
            return Frames(rows, pictures[:, 0], pictures[:, 1])
    raise MinariObdError(
        f"MuJoCo cannot draw here ({problem}); install a software renderer (Debian's libosmesa6) and set "
        "MUJOCO_GL=osmesa, or use a machine with EGL."
    )


def _drawn_by(backend: str, task: dict[str, Any]) -> np.ndarray:
    """Draw in a child process, shape (F, 2, H, W, 3).

    Raises:
        MinariObdError: the process failed. The message is the last line that it wrote.
    """
    with tempfile.TemporaryDirectory(prefix="minari-obd-") as name:
        file = Path(name) / "frames.npy"
        arguments, environment = child_of("minari_obd.experiments.drawing", str(file), variables={"MUJOCO_GL": backend})
        try:
            done = subprocess.run(
                arguments,
                env=environment,
                input=json.dumps(task).encode(),
                capture_output=True,
                timeout=_WAIT,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise MinariObdError(f"no picture after {_WAIT} s") from error
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise MinariObdError(said[-1][:200] if said else "it ended without a message")
        return np.load(file, allow_pickle=False)
