"""Environments: made from plain registered ids only, and stepped in lockstep with one policy call a step."""

import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from minari_obd.errors import DataError, MinariObdError, NotFoundError, did_you_mean

__all__ = ["BatchPolicy", "Episodes", "Step", "check_environment_id", "is_flat", "make_environment", "run_episodes"]

_PLAIN_ID = re.compile(r"(?:[\w-]{1,64}/)?[\w.-]{1,64}-v\d{1,4}")


class Step(NamedTuple):
    """What one environment answered to one action; observations are raw, before and after it."""

    observation: np.ndarray
    action: np.ndarray
    reward: float
    terminated: bool
    truncated: bool
    next_observation: np.ndarray


class Episodes(NamedTuple):
    """What became of B episodes."""

    returns: np.ndarray
    """Undiscounted returns, shape (B,), float64."""
    lengths: np.ndarray
    """Environment steps, shape (B,)."""


BatchPolicy = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""``policy(observations (B, S) raw, episodes (B,)) -> actions (B, A) raw``; ``episodes`` says whose rows they are."""


def check_environment_id(env_id: str) -> str:
    """Return ``env_id`` if it is a plain id of Gymnasium's registry.

    An id may come from downloaded metadata. Gymnasium imports whatever module stands before a colon,
    so an id with one is refused: nothing that was read is ever executed.

    Raises:
        NotFoundError: malformed, or not registered.
    """
    if not isinstance(env_id, str) or not _PLAIN_ID.fullmatch(env_id):
        raise NotFoundError(f"{env_id!r} is not a plain environment id such as 'Hopper-v5'.")
    if env_id not in gym.registry:
        raise NotFoundError(
            f"The environment '{env_id}' is not registered with Gymnasium; import the package that brings it first, or "
            + did_you_mean(env_id, [name for name in gym.registry if name.split("-")[0][:3] == env_id[:3]])
        )
    return env_id


def make_environment(env_id: str, *, picture_size: int | None = None) -> gym.Env:
    """Make an environment with continuous actions from a plain registered id.

    Args:
        env_id: the id.
        picture_size: width and height of what its ``render`` returns; if not given, it does not render.

    Raises:
        NotFoundError: the id is not registered.
        DataError: its actions are discrete.
    """
    check_environment_id(env_id)
    _quieten_mujoco()
    try:
        rendered = {"render_mode": "rgb_array", "width": picture_size, "height": picture_size}
        environment = gym.make(env_id, **(rendered if picture_size else {}))
    except Exception as error:  # a constructor may raise anything, a missing simulator's ImportError above all
        raise MinariObdError(f"The environment '{env_id}' cannot be made: {error}") from error
    space = environment.action_space
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
        raise DataError(f"'{env_id}' has {space} for actions; only continuous vectors (a Box of one axis) work yet.")
    return environment


def _quieten_mujoco() -> None:
    """Turn MuJoCo's warnings into Python's: by default it writes them to a file in the working directory."""
    try:
        import mujoco
    except ImportError:
        return

    def warn(message: Any) -> None:
        text = message.decode() if isinstance(message, bytes) else str(message)
        # MuJoCo 4 says this of Gymnasium's own half_cheetah.xml at every start; a user can do nothing about it.
        if "settotalmass" not in text:
            warnings.warn(f"MuJoCo: {text}", RuntimeWarning, stacklevel=2)

    mujoco.set_mju_user_warning(warn)  # pyright: ignore[reportAttributeAccessIssue]  # missing in its stubs


def run_episodes(
    environments: Sequence[gym.Env],
    seeds: Sequence[int],
    policy: BatchPolicy,
    record: Callable[[int, Step], None] | None = None,
) -> Episodes:
    """Run one episode in each environment, all of them in lockstep.

    An environment that has finished drops out of the batch; nothing is reset or masked, so an episode
    is the same whatever the others do.

    Args:
        environments: B environments of one kind.
        seeds: a reset seed for each.
        policy: called once a step with the rows still running.
        record: called with the episode's number and each of its steps.

    """
    flatten = _flattener(environments[0])
    observations = [flatten(env.reset(seed=int(seed))[0]) for env, seed in zip(environments, seeds, strict=True)]
    returns, lengths = np.zeros(len(environments)), np.zeros(len(environments), dtype=np.int64)
    running = list(range(len(environments)))
    while len(running):
        actions = policy(np.stack([observations[i] for i in running]), np.asarray(running))
        still = []
        for i, action in zip(running, actions, strict=True):
            following, reward, terminated, truncated, _ = environments[i].step(action)
            following = flatten(following)
            returns[i] += float(reward)
            lengths[i] += 1
            if record is not None:
                record(i, Step(observations[i], action, float(reward), terminated, truncated, following))
            observations[i] = following
            if not (terminated or truncated):
                still.append(i)
        running = still
    return Episodes(returns, lengths)


def is_flat(space: gym.Space) -> bool:
    """Whether observations are vectors already."""
    return isinstance(space, gym.spaces.Box) and len(space.shape) == 1


def _flattener(environment: gym.Env) -> Callable[[Any], np.ndarray]:
    space = environment.observation_space
    if is_flat(space):
        return np.asarray
    return lambda observation: np.asarray(gym.spaces.flatten(space, observation))
