"""Transitions: offline data in the form that learners need, with the successor of every step."""

import numpy as np

from minari_obd.errors import DataError
from minari_obd.sources.data import OfflineData

__all__ = ["discounted_returns", "successor_count", "transitions"]


def discounted_returns(data: OfflineData, gamma: float) -> np.ndarray:
    """Return the discounted sum of rewards from each step to the end of its episode, shape (N,), float64."""
    ends = data.terminations | data.truncations
    rewards = data.rewards.astype(np.float64)
    returns, running = np.zeros(len(data)), 0.0
    for row in range(len(data) - 1, -1, -1):
        running = rewards[row] + gamma * (0.0 if ends[row] else running)
        returns[row] = running
    return returns


def successor_count(data: OfflineData) -> int:
    """Return how many steps have a known next state: that of the next row, or a recorded final observation."""
    ends = np.flatnonzero(data.terminations | data.truncations)
    is_known = np.isfinite(data.final_observations).all(axis=1) & ~data.terminations[ends]
    return len(data) - len(ends) + int(is_known.sum())


def transitions(data: OfflineData, gamma: float) -> dict[str, np.ndarray]:
    """Return aligned transitions in normalised units. Every column is float32 with rows first.

    The observation after a step is the next row's, except at an episode's end, where it is the recorded final one.
    Truncated steps without a known final observation have no successor and are left out. Terminated steps need none.

    Raises:
        DataError: no step has a known successor.
    """
    observations = data.normaliser.normalise(data.observations)
    actions = data.scaled_actions()
    ends = np.flatnonzero(data.terminations | data.truncations)
    following = np.roll(observations, -1, axis=0)
    final = data.normaliser.normalise(data.final_observations)
    unknown = ~np.isfinite(final).all(axis=1)
    final[unknown] = 0.0
    following[ends] = final
    next_actions = np.roll(actions, -1, axis=0)
    next_actions[ends] = 0.0
    keep = np.ones(len(data), dtype=bool)
    keep[ends[unknown & data.truncations[ends]]] = False
    if not keep.any():
        raise DataError(
            f"'{data.dataset_id}' has no step with a known successor, so nothing "
            "that needs transitions can be learned from it; give "
            "next_observations or longer episodes."
        )
    columns = {
        "observations": observations,
        "actions": actions,
        "rewards": data.rewards[:, None],
        "next_observations": following,
        "next_actions": next_actions,
        "returns_to_go": discounted_returns(data, gamma)[:, None],
        "terminals": data.terminations[:, None],
    }
    return {name: np.ascontiguousarray(column[keep], dtype=np.float32) for name, column in columns.items()}
