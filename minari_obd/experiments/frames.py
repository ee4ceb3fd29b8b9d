"""Frames: MuJoCo pictures of distilled states and of what follows them.

Drawing needs an OpenGL context that works without a display, and a driver that fails may end the whole process; so it
is done in a process of its own, with ``MUJOCO_GL`` as it is set, else with ``egl``, else with ``osmesa``.
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.environments.making import make_environment
from minari_obd.environments.states import hidden_positions
from minari_obd.errors import MinariObdError

__all__ = ["Frames", "render_pairs"]

_WAIT = 300  # seconds for one process


@dataclass(frozen=True)
class Frames:
    """Pictures of some pairs."""

    rows: np.ndarray
    """Which pairs, shape (F,)."""
    states: np.ndarray
    """Their states, shape (F, H, W, 3), uint8."""
    successors: np.ndarray
    """The states after one step of their actions, the same shape."""


def render_pairs(dataset: DistilledDataset, *, count: int = 8, picture_size: int = 240) -> Frames:
    """Draw pairs spread over the first principal component of the states, and one step from each.

    Pairs that are no states of the environment are left out.

    Args:
        dataset: the pairs.
        count: F, how many pairs at the most.
        picture_size: H and W, pixels.

    Raises:
        SettingError, NotFoundError, DataError: as :meth:`DistilledDataset.with_transitions`.
        MinariObdError: nothing could be drawn here; the sentence says why.
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
        with tempfile.TemporaryDirectory(prefix="minari-obd-") as name:
            file = Path(name) / "frames.npy"
            try:
                done = subprocess.run(
                    [sys.executable, "-c", _CHILD, str(file)],
                    input=json.dumps(task).encode(),
                    env={**os.environ, "MUJOCO_GL": backend, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
                    capture_output=True,
                    timeout=_WAIT,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                problem = f"{backend}: no picture after {_WAIT} s"
                continue
            if done.returncode == 0:
                pictures = np.load(file, allow_pickle=False)
                return Frames(rows, pictures[:, 0], pictures[:, 1])
            said = done.stderr.decode(errors="replace").strip().splitlines()
            problem = f"{backend}: {said[-1][:200] if said else 'it ended without a word'}"
    raise MinariObdError(
        f"MuJoCo cannot draw here ({problem}); install a software renderer (Debian's libosmesa6) and set "
        "MUJOCO_GL=osmesa, or use a machine with EGL."
    )


_CHILD = """
import json, sys
import numpy as np
np.save(sys.argv[1], draw(**json.loads(sys.stdin.read())))
"""


def draw(env_id: str, observations: list[list[float]], actions: list[list[float]], picture_size: int) -> np.ndarray:
    """Draw states and successors in this process, shape (F, 2, H, W, 3), uint8."""
    made: Any = make_environment(env_id, picture_size=picture_size)
    environment = made.unwrapped
    hidden = hidden_positions(environment, env_id)
    pictures = []
    for observation, action in zip(observations, actions, strict=True):
        state = np.concatenate([environment.init_qpos[:hidden], observation])
        environment.reset(seed=0)
        environment.set_state(state[: environment.model.nq], state[environment.model.nq :])
        before = environment.render()
        environment.step(np.asarray(action))
        pictures.append([before, environment.render()])
    made.close()
    return np.array(pictures, dtype=np.uint8)
