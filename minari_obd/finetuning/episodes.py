"""Episodes that a seed and their actions decide, so that a resumed run can replay the one it was stopped in."""

from typing import Any

import gymnasium as gym
import numpy as np

from minari_obd.environments.episodes import as_flag, as_reward
from minari_obd.environments.making import is_flat
from minari_obd.support.streams import Stream

__all__ = ["SeededEpisodes"]


class SeededEpisodes(gym.Wrapper):
    """An environment whose k-th episode starts from a seed for (seed, k), with observations as float32 vectors.

    An episode is thereby decided by its number and its actions, which are kept until it ends: replayed in a new
    environment they bring back its state, whatever simulator it is.
    """

    def __init__(self, environment: gym.Env, seed: int) -> None:
        if not is_flat(environment.observation_space):
            environment = gym.wrappers.FlattenObservation(environment)
        super().__init__(environment)
        shape = environment.observation_space.shape
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, shape, np.float32)
        self.seed, self.episode = seed, -1
        self.actions: list[np.ndarray] = []
        self.rewards: list[float] = []
        self.ended: list[tuple[int, float]] = []
        """Length and return of the episodes that have ended since the list was last cleared."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Start the next episode, from its own seed."""
        self.episode += 1
        self.actions, self.rewards = [], []
        start = Stream.TRAINING_EPISODES.seed(self.seed, self.episode)
        observation, info = self.env.reset(seed=start)
        return np.asarray(observation, np.float32), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Step the environment, and remember with what.

        Raises:
            DataError: as :func:`as_reward` and :func:`as_flag`.
        """
        self.actions.append(np.array(action, np.float32))
        observation, reward, terminated, truncated, info = self.env.step(action)
        reward, terminated, truncated = as_reward(reward), as_flag(terminated), as_flag(truncated)
        self.rewards.append(reward)
        if terminated or truncated:
            self.ended.append((len(self.rewards), sum(self.rewards)))
        return np.asarray(observation, np.float32), reward, terminated, truncated, info
