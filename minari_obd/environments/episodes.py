"""Episodes: run in lockstep, with one policy call a step."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from minari_obd.environments.making import is_flat

__all__ = ["BatchPolicy", "Episodes", "Step", "run_episodes"]


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


def _flattener(environment: gym.Env) -> Callable[[Any], np.ndarray]:
    space = environment.observation_space
    if is_flat(space):
        return np.asarray
    return lambda observation: np.asarray(gym.spaces.flatten(space, observation))
