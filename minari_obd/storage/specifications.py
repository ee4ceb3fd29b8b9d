"""Specifications of environments, as Minari stores them with a dataset."""

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

__all__ = ["bare_ids", "specification"]


def specification(env_id: str | None) -> EnvSpec | None:
    """What Minari stores of an environment; None where that is not JSON, such as a class."""
    try:
        found = None if env_id is None else gym.spec(env_id)
        return None if found is None or found.to_json() is None else found
    except (TypeError, ValueError):
        return None


def bare_ids(**env_ids: str | None) -> dict[str, str]:
    """The same of environments that have no such specification: the id alone, which is all that is ever used."""
    return {key: EnvSpec(id=i).to_json() for key, i in env_ids.items() if i is not None and specification(i) is None}
