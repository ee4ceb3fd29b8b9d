"""Episodes: run in lockstep, with one policy call per step."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from minari_obd.environments.making import is_flat

__all__ = ["BatchPolicy", "Episodes", "Step", "run_episodes"]


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


BatchPolicy = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""``policy(observations (B, S) raw, episodes (B,)) -> actions (B, A) raw``; ``episodes`` holds each row's episode."""


def run_episodes(
    environments: Sequence[gym.Env],
    seeds: Sequence[int],
    policy: BatchPolicy,
    record: Callable[[int, Step], None] | None = None,
) -> Episodes:
    """Run one episode in each environment, all in lockstep.

    An environment that has finished drops out of the batch. Nothing is reset or masked, so no episode depends on the
    others.

    Args:
        environments: B environments of the same kind.
        seeds: a reset seed for each.
        policy: called once per step with the rows that are still running.
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


def _flattener(environment: gym.Env) -> Callable[[Any], np.ndarray]:
    space = environment.observation_space
    if is_flat(space):
        return np.asarray
    return lambda observation: np.asarray(gym.spaces.flatten(space, observation))
