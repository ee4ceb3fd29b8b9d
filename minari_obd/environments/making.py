"""Making environments, from plain registered ids only."""

import contextlib
import io
import re
import warnings
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from minari_obd.errors import DataError, MinariObdError, NotFoundError, SettingError, did_you_mean
from minari_obd.support.interrupts import deferred_interrupts
from minari_obd.support.libraries import check_installed

__all__ = [
    "check_environment",
    "check_environment_id",
    "check_no_images",
    "check_sizes",
    "is_flat",
    "is_registered",
    "make_environment",
]

_ROBOTICS = ("PointMaze_", "AntMaze_", "AdroitHand", "FrankaKitchen-", "Fetch", "HandReach", "HandManipulate")
"""What the ids of Gymnasium-Robotics' environments begin with: of all libraries, it alone is imported for an id."""
_BOX2D = ("LunarLander", "BipedalWalker")
_PLAIN_ID = re.compile(r"(?:[\w-]{1,64}/)?[\w.-]{1,64}")


def check_environment_id(env_id: str) -> str:
    """Return ``env_id`` if it is a plain id of Gymnasium's registry.

    An id may come from downloaded metadata. Gymnasium imports the module named before a colon, so ids with a colon are
    refused: nothing that was read is ever executed.

    Raises:
        NotFoundError: the id is malformed or not registered.
        MissingExtraError: as :func:`is_registered`.
    """
    if not isinstance(env_id, str) or not _PLAIN_ID.fullmatch(env_id):
        raise NotFoundError(f"{env_id!r} is not a plain environment id such as 'Hopper-v5'.")
    if not is_registered(env_id):
        alike = [name for name in gym.registry if name[:3].lower() == env_id[:3].lower()]
        raise NotFoundError(
            f"The environment '{env_id}' is not registered with Gymnasium; import the package that registers it "
            "(--import MODULE on the command line)" + (f", or {did_you_mean(env_id, alike)}" if alike else ".")
        )
    return env_id


def is_registered(env_id: str) -> bool:
    """Whether Gymnasium knows an environment; those of Gymnasium-Robotics are registered where it is installed.

    Raises:
        MissingExtraError: it is one of Gymnasium-Robotics', which is not installed.
    """
    if env_id not in gym.registry and env_id.startswith(_ROBOTICS):
        check_installed("gymnasium_robotics", "robotics")
        with contextlib.redirect_stderr(io.StringIO()):  # its notice about the rewards of Adroit
            import gymnasium_robotics

            gym.register_envs(gymnasium_robotics)
    return env_id in gym.registry


def make_environment(env_id: str, *, picture_size: int | None = None, renders: bool = False) -> gym.Env:
    """Make an environment, with continuous or discrete actions, from a plain registered id.

    Args:
        env_id: the id.
        picture_size: width and height of the pictures from MuJoCo's ``render``.
        renders: let it render pictures of its own size. By default it does not render.

    Raises:
        NotFoundError: the id is malformed or not registered.
        MissingExtraError: it needs Gymnasium-Robotics or Box2D, which is not installed.
        MinariObdError: its constructor fails.
        DataError: its actions are neither continuous vectors nor single discrete ones, or its observations are images
            or of no fixed size.
    """
    check_environment_id(env_id)
    if env_id.startswith(_BOX2D):
        check_installed("Box2D", "box2d")
    try:
        _quieten_mujoco()  # imports MuJoCo, which refuses a MUJOCO_GL that it does not know
        settings: dict[str, Any] = {"width": picture_size, "height": picture_size} if picture_size else {}
        if renders or settings:
            settings["render_mode"] = "rgb_array"
        environment = gym.make(env_id, **settings)
    except Exception as error:  # a constructor may raise anything, most often ImportError for a missing simulator
        raise MinariObdError(f"The environment '{env_id}' cannot be made: {error}") from error
    check_no_images(environment.observation_space, env_id)
    if not environment.observation_space.is_np_flattenable:
        raise DataError(
            f"'{env_id}' has {environment.observation_space} for observations, which have no fixed number of columns; "
            "use an environment, or a wrapper, whose observations are arrays, or dicts or tuples of them."
        )
    space = environment.action_space
    is_vector = isinstance(space, gym.spaces.Box) and len(space.shape) == 1 and np.dtype(space.dtype).kind == "f"
    if not (is_vector or isinstance(space, gym.spaces.Discrete)):
        raise DataError(
            f"'{env_id}' has {space} for actions; use an environment with a Box of one axis and of floats, or with one "
            "Discrete."
        )
    return environment


def check_no_images(space: gym.Space, name: str) -> None:
    """Refuse observations that are, or hold, images: bytes with two axes of 32 or more.

    Small grids of numbers, such as MiniGrid's 7 x 7 x 3, are flattened as other arrays are.

    Raises:
        DataError: there is an image among them.
    """
    parts = space.spaces if isinstance(space, gym.spaces.Dict | gym.spaces.Tuple) else ()
    for part in parts.values() if isinstance(parts, Mapping) else parts:
        check_no_images(part, name)
    if isinstance(space, gym.spaces.Box) and space.dtype == np.uint8 and sum(n >= 32 for n in space.shape) > 1:
        raise DataError(
            f"'{name}' has images of shape {space.shape} as observations, and students here are networks for vectors; "
            "use data whose observations are vectors, such as an encoder's features of these images."
        )


def check_environment(env_id: str | None, sizes: tuple[int, int], of: str) -> None:
    """Make sure, before any long work, that policies of these ``sizes`` (S, A) can be evaluated in an environment.

    Args:
        env_id: a plain registered id; None if it is not known.
        sizes: numbers of observations and actions.
        of: what has them, as the subject of a sentence.

    Raises:
        SettingError: the environment is not known, or has other sizes.
        MinariObdError: as :func:`make_environment`.
    """
    if env_id is None:
        raise SettingError(
            f"It is not known what environment {of} belongs to; name one, such as Hopper-v5: --env, or env in a "
            "recipe's evaluation section."
        )
    environment = make_environment(env_id)
    check_sizes(environment, sizes, of)
    environment.close()


def check_sizes(environment: gym.Env, sizes: tuple[int, int], of: str) -> None:
    """The same for an environment that is there."""
    given = gym.spaces.flatdim(environment.observation_space), gym.spaces.flatdim(environment.action_space)
    if given != sizes:
        raise SettingError(
            f"{of} is for {sizes[0]} observations and {sizes[1]} actions, but the environment has {given[0]} and "
            f"{given[1]}; name the environment that it belongs to: --env, or env in a recipe's evaluation section."
        )


def _quieten_mujoco() -> None:
    """Turn MuJoCo's warnings into Python warnings; by default it writes them to a file in the working directory."""
    with deferred_interrupts() as is_interrupted:  # MuJoCo turns an interrupt of its import into an ImportError
        try:
            import mujoco
        except ImportError:
            mujoco = None
    if is_interrupted():
        raise KeyboardInterrupt
    if mujoco is None:
        return

    def warn(message: Any) -> None:
        text = message.decode() if isinstance(message, bytes) else str(message)
        # MuJoCo 4 warns of this in Gymnasium's own half_cheetah.xml at every start; users cannot do anything about it.
        if "settotalmass" not in text:
            warnings.warn(f"MuJoCo: {text}", RuntimeWarning, stacklevel=2)

    mujoco.set_mju_user_warning(warn)  # pyright: ignore[reportAttributeAccessIssue]  # missing in its stubs


def is_flat(space: gym.Space) -> bool:
    """Whether observations are already vectors."""
    return isinstance(space, gym.spaces.Box) and len(space.shape) == 1
