"""Checks of behaviours: before the first step, and of every action before an environment takes it."""

from collections.abc import Sequence
from dataclasses import dataclass

import gymnasium as gym
import numpy as np

from minari_obd.errors import DataError, SettingError
from minari_obd.sources.arrays import NO_BOUND
from minari_obd.sources.behaviours import Behaviour, CategoricalMLP, GaussianMLP, RandomBehaviour

__all__ = ["CheckedBehaviour", "check_behaviour"]


def check_behaviour(name: str, behaviour: Behaviour, env_id: str, sizes: tuple[int, int]) -> None:
    """Refuse policies of another environment, and random actions without bounds, before the first step."""
    if isinstance(behaviour, GaussianMLP | CategoricalMLP) and (behaviour.inputs, behaviour.outputs) != sizes:
        raise SettingError(
            f"The policy '{name}' maps {behaviour.inputs} observations to {behaviour.outputs} actions, but "
            f"'{env_id}' has {sizes[0]} and {sizes[1]}; choose a policy that was trained there."
        )
    if not isinstance(behaviour, RandomBehaviour) or isinstance(behaviour.action_space, gym.spaces.Discrete):
        return
    space = behaviour.action_space
    if not (space.is_bounded() and max(-space.low.min(), space.high.max()) < NO_BOUND):
        raise SettingError(
            f"The actions of '{env_id}' have no bounds, so they cannot be drawn uniformly; use another policy."
        )


@dataclass
class CheckedBehaviour:
    """A behaviour whose actions are looked at before the environments take them."""

    behaviour: Behaviour
    name: str
    space: gym.Space
    outside: int = 0
    """Actions so far that lay outside the bounds."""

    def act(self, observations: np.ndarray, generators: Sequence[np.random.Generator]) -> np.ndarray:
        """Return the behaviour's actions, shape (B, A).

        Raises:
            SettingError: they have another shape than the environment's, or are not its discrete ones.
            DataError: one is not finite.
        """
        actions, space = np.asarray(self.behaviour.act(observations, generators)), self.space
        if actions.shape[:1] != (len(observations),):
            raise SettingError(
                f"The policy '{self.name}' gave shape {actions.shape} for {len(observations)} observations; its act "
                "takes a batch of them and returns one action for each."
            )
        if actions.shape != (len(observations), *(space.shape or ())):
            raise SettingError(
                f"The policy '{self.name}' gave actions of shape {actions.shape[1:]}, but the environment takes "
                f"{space.shape}; choose a policy that was made for it."
            )
        if not np.isfinite(actions).all():
            raise DataError(f"The policy '{self.name}' gave an action that is not finite, so nothing was stored.")
        if isinstance(space, gym.spaces.Discrete):
            numbers = actions.astype(np.int64)
            if (numbers != actions).any() or not all(space.contains(number) for number in numbers):
                raise SettingError(f"The policy '{self.name}' gave actions {actions}; the environment takes {space}.")
            return numbers
        assert isinstance(space, gym.spaces.Box)
        tolerance = 1e-5 * np.abs(actions)
        self.outside += int(((actions < space.low - tolerance) | (actions > space.high + tolerance)).any(axis=1).sum())
        return actions
