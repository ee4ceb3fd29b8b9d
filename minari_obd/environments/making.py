"""Making environments, from plain registered ids only."""

import re
import warnings
from typing import Any

import gymnasium as gym
import numpy as np

from minari_obd.errors import DataError, MinariObdError, NotFoundError, SettingError, did_you_mean

__all__ = ["check_environment", "check_environment_id", "check_sizes", "is_flat", "make_environment"]

_PLAIN_ID = re.compile(r"(?:[\w-]{1,64}/)?[\w.-]{1,64}")


def check_environment_id(env_id: str) -> str:
    """Return ``env_id`` if it is a plain id of Gymnasium's registry.

    An id may come from downloaded metadata. Gymnasium imports the module named before a colon, so ids with a colon are
    refused: nothing that was read is ever executed.

    Raises:
        NotFoundError: the id is malformed or not registered.
    """
    if not isinstance(env_id, str) or not _PLAIN_ID.fullmatch(env_id):
        raise NotFoundError(f"{env_id!r} is not a plain environment id such as 'Hopper-v5'.")
    if env_id not in gym.registry:
        raise NotFoundError(
            f"The environment '{env_id}' is not registered with Gymnasium; import the package that registers it "
            "(--import MODULE on the command line), or "
            + did_you_mean(env_id, [name for name in gym.registry if name[:3].lower() == env_id[:3].lower()])
        )
    return env_id


def make_environment(env_id: str, *, picture_size: int | None = None, renders: bool = False) -> gym.Env:
    """Make an environment, with continuous or discrete actions, from a plain registered id.

    Args:
        env_id: the id.
        picture_size: width and height of the pictures from MuJoCo's ``render``.
        renders: let it render pictures of its own size. By default it does not render.

    Raises:
        NotFoundError: the id is malformed or not registered.
        MinariObdError: its constructor fails.
        DataError: its actions are neither continuous vectors nor single discrete ones.
    """
    check_environment_id(env_id)
    try:
        _quieten_mujoco()  # imports MuJoCo, which refuses a MUJOCO_GL that it does not know
        size = {"width": picture_size, "height": picture_size} if picture_size else {}
        environment = gym.make(env_id, **size, **({"render_mode": "rgb_array"} if renders or size else {}))
    except Exception as error:  # a constructor may raise anything, most often ImportError for a missing simulator
        raise MinariObdError(f"The environment '{env_id}' cannot be made: {error}") from error
    space = environment.action_space
    is_vector = isinstance(space, gym.spaces.Box) and len(space.shape) == 1 and np.dtype(space.dtype).kind == "f"
    if not (is_vector or isinstance(space, gym.spaces.Discrete)):
        raise DataError(
            f"'{env_id}' has {space} for actions; use an environment with a Box of one axis and of floats, or with one "
            "Discrete."
        )
    return environment


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
            f"{given[1]}; name the environment that it belongs to."
        )


def _quieten_mujoco() -> None:
    """Turn MuJoCo's warnings into Python warnings; by default it writes them to a file in the working directory."""
    try:
        import mujoco
    except ImportError:
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
