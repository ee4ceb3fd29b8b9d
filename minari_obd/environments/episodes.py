"""Episodes: run in lockstep, with one policy call per step."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from minari_obd.environments.making import is_flat
from minari_obd.errors import DataError
from minari_obd.support.discrete import chosen

__all__ = ["BatchPolicy", "Episodes", "Step", "as_flag", "as_reward", "run_episodes"]


_MOST_STEPS = 20_000
"""Length at which an episode of an environment without a time limit counts as one that never ends."""


class Step(NamedTuple):
    """One environment's response to one action. The observations before and after it are raw."""

    observation: np.ndarray
    action: np.ndarray
    reward: float
    terminated: bool
    truncated: bool
    next_observation: np.ndarray


class Episodes(NamedTuple):
    """Results of B episodes."""

    returns: np.ndarray
    """Undiscounted returns, shape (B,), float64."""
    lengths: np.ndarray
    """Environment steps, shape (B,)."""
    successes: np.ndarray
    """1 where the environment's infos said ``success`` or ``is_success`` at any step, 0 where they said that it was
    not, NaN where they say neither; shape (B,), float64."""


BatchPolicy = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""``policy(observations (B, S) raw, episodes (B,)) -> actions (B, A) raw``; ``episodes`` holds each row's episode.

Of discrete actions it gives numbers (B,), or probabilities (B, n), of which the environment takes the likeliest."""


def run_episodes(
    environments: Sequence[gym.Env],
    seeds: Sequence[int],
    policy: BatchPolicy,
    record: Callable[[int, Step], None] | None = None,
    is_enough: Callable[[], bool] | None = None,
) -> Episodes:
    """Run one episode in each environment, all in lockstep.

    An environment that has finished drops out of the batch. Nothing is reset or masked, so no episode depends on the
    others.

    Args:
        environments: B environments of the same kind.
        seeds: a reset seed for each.
        policy: called once per step with the rows that are still running.
        record: called with the episode's number and each of its steps.
        is_enough: called after every step; all episodes stop where they are once it is true.

    Raises:
        DataError: an observation or a reward is not finite, or has another shape than it should; a flag is none; or an
            episode without a time limit does not end.
    """
    most = None if is_enough or _has_limit(environments[0]) else _MOST_STEPS
    flatten, taken = _flattener(environments[0]), _taken(environments[0].action_space)
    observations = [flatten(env.reset(seed=int(seed))[0]) for env, seed in zip(environments, seeds, strict=True)]
    returns, lengths = np.zeros(len(environments)), np.zeros(len(environments), dtype=np.int64)
    successes = np.full(len(environments), np.nan)
    running = list(range(len(environments)))
    while len(running):
        rows = np.stack([observations[i] for i in running])
        if not np.isfinite(rows).all():
            raise DataError(
                "The environment gave an observation that is not finite; check it, and the actions it took."
            )
        if most is not None and lengths.max() >= most:
            raise DataError(
                f"An episode has not ended after {most:,} steps, and its environment has no limit; register it with "
                "max_episode_steps."
            )
        actions = policy(rows, np.asarray(running))
        still = []
        for i, action in zip(running, actions, strict=True):
            following, reward, terminated, truncated, info = environments[i].step(taken(action))
            following, reward = flatten(following), as_reward(reward)
            terminated, truncated = as_flag(terminated), as_flag(truncated)
            if following.shape != observations[i].shape:
                raise DataError(
                    f"The environment gave observations of shapes {observations[i].shape} and {following.shape}; check "
                    "it."
                )
            returns[i] += reward
            lengths[i] += 1
            successes[i] = np.fmax(successes[i], _success(info))
            if record is not None:
                record(i, Step(observations[i], action, reward, terminated, truncated, following))
            observations[i] = following
            if not (terminated or truncated):
                still.append(i)
        running = [] if is_enough is not None and is_enough() else still
    return Episodes(returns, lengths, successes)


def _success(info: Any) -> float:
    """Whether a step's info says that the task is done; NaN if it does not say."""
    for name in ("success", "is_success"):
        if isinstance(said := info.get(name), bool | int | float | np.bool_ | np.number):
            return float(bool(said))
    return np.nan


def as_reward(given: Any) -> float:
    """Return an environment's reward as Python's number; some give arrays of one.

    Raises:
        DataError: it is not one finite number.
    """
    if not isinstance(given, float):
        value = np.asarray(given)
        if value.size != 1 or value.dtype.kind not in "biuf":
            raise DataError(f"The environment gave the reward {str(given)[:60]!r}; expected one number.")
        given = float(value.item())
    if not math.isfinite(given):
        raise DataError(
            f"The environment gave a reward that is not finite, {given}; check it, and the actions it took."
        )
    return float(given)


def as_flag(given: Any) -> bool:
    """Return an environment's flag of an episode's end as Python's.

    Raises:
        DataError: it is neither true nor false.
    """
    if isinstance(given, bool):
        return given
    value = np.asarray(given)
    if value.size != 1 or value.dtype.kind not in "biuf" or value.item() not in (0, 1):
        raise DataError(f"The environment gave the flag {str(given)[:60]!r}; expected True or False.")
    return bool(value)


def _taken(space: gym.Space) -> Callable[[np.ndarray], Any]:
    """What an environment takes for a policy's action."""
    if not isinstance(space, gym.spaces.Discrete):
        return lambda action: action
    return lambda action: int(chosen(action, int(space.start)) if np.ndim(action) else action)


def _has_limit(environment: gym.Env) -> bool:
    return environment.spec is not None and environment.spec.max_episode_steps is not None


def _flattener(environment: gym.Env) -> Callable[[Any], np.ndarray]:
    space = environment.observation_space
    if is_flat(space):
        return np.asarray
    return lambda observation: np.asarray(gym.spaces.flatten(space, observation))
