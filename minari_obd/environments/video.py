"""Videos: one episode as mp4 or gif, by the pictures that an environment renders."""

import math
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from minari_obd.environments.episodes import BatchPolicy, Step, run_episodes
from minari_obd.environments.making import make_environment
from minari_obd.errors import MinariObdError, SettingError
from minari_obd.storage.files import check_writable_file, write_bytes
from minari_obd.support.devices import cpu_threads
from minari_obd.support.libraries import check_installed

__all__ = ["check_video", "record_episode"]

_MOST_PER_SECOND = {".mp4": 50, ".gif": 25}
"""Pictures per second; of faster environments only every second or third step is shown, at the speed that it has."""


def check_video(path: Path, env_id: str) -> None:
    """Make sure, before any long work, that a video can be made.

    Raises:
        SettingError: neither ``.mp4`` nor ``.gif``, or the folder cannot be written.
        MissingExtraError: what writes such files is not installed.
        MinariObdError: this machine cannot draw the environment. The message says what may help.
    """
    if path.suffix.lower() not in _MOST_PER_SECOND:
        raise SettingError(f"'{path}' is neither .mp4 nor .gif; name a video such as episode.mp4.")
    check_installed("imageio", "video")
    if path.suffix.lower() == ".mp4":
        check_installed("imageio_ffmpeg", "video")
    check_writable_file(path)
    with _drawing(env_id) as environment:
        environment.reset(seed=0)
        _picture(environment, env_id)


def record_episode(path: Path, env_id: str, policy: BatchPolicy, seed: int) -> float:
    """Write one episode as a video, at the environment's own speed, and return its return.

    Args:
        path: an ``.mp4`` or ``.gif`` file.
        env_id: a plain registered id.
        policy: acts; called with one row.
        seed: of the episode's start.

    Raises:
        MinariObdError: as :func:`check_video`.
    """
    suffix = path.suffix.lower()
    with _drawing(env_id) as environment, tempfile.TemporaryDirectory() as scratch:
        rate = float(environment.metadata.get("render_fps") or 30)
        every = math.ceil(rate / _MOST_PER_SECOND[suffix])
        file = Path(scratch) / f"episode{suffix}"
        with _writer(file, rate / every) as writer, cpu_threads(1):
            steps = 0

            def show(_: int, step: Step) -> None:
                nonlocal steps
                if steps % every == 0 or step.terminated or step.truncated:
                    writer.append_data(_picture(environment, env_id))
                steps += 1

            episodes = run_episodes([environment], [seed], policy, show)
        write_bytes(path, file.read_bytes())
    return float(episodes.returns[0])


def _writer(path: Path, rate: float) -> Any:
    """Open a video for writing, with this many pictures per second."""
    import imageio.v2 as imageio

    options: dict[str, Any] = {"duration": 1000 / rate, "loop": 0} if path.suffix == ".gif" else {"fps": rate}
    return imageio.get_writer(path, mode="I", **options)


@contextmanager
def _drawing(env_id: str) -> Iterator[gym.Env]:
    """An environment that renders. Without a display MuJoCo draws by EGL, unless MUJOCO_GL says otherwise."""
    is_headless = sys.platform == "linux" and not any(os.environ.get(each) for each in ("DISPLAY", "WAYLAND_DISPLAY"))
    is_ours = is_headless and "MUJOCO_GL" not in os.environ
    if is_ours:
        os.environ["MUJOCO_GL"] = "egl"
    try:
        environment = make_environment(env_id, renders=True)
        try:
            yield environment
        finally:
            environment.close()
    finally:
        if is_ours:
            os.environ.pop("MUJOCO_GL", None)


def _picture(environment: gym.Env, env_id: str) -> np.ndarray:
    try:
        picture = np.asarray(environment.render())
    except Exception as error:  # drivers and toolkits raise anything
        raise MinariObdError(
            f"'{env_id}' cannot be drawn on this machine ({type(error).__name__}: {str(error)[:200]}). For MuJoCo, set "
            "MUJOCO_GL=egl or, with Debian's libosmesa6, MUJOCO_GL=osmesa before Python starts; other environments "
            "name what they need."
        ) from error
    if picture.ndim != 3 or picture.shape[-1] != 3:
        raise MinariObdError(
            f"'{env_id}' renders arrays of shape {picture.shape}, which are no pictures of red, green and "
            "blue; it cannot be filmed."
        )
    return picture.astype(np.uint8)
