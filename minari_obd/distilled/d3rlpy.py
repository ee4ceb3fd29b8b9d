"""Distilled pairs as d3rlpy's MDPDataset."""

from contextlib import redirect_stdout
from io import StringIO
from typing import TYPE_CHECKING

import numpy as np

from minari_obd.distilled.contents import Contents
from minari_obd.support.discrete import chosen
from minari_obd.support.libraries import import_d3rlpy

if TYPE_CHECKING:
    from d3rlpy.dataset import MDPDataset

__all__ = ["to_d3rlpy"]


def to_d3rlpy(dataset: Contents) -> "MDPDataset":
    """Return M one-step episodes in raw units, so that d3rlpy sees M transitions.

    Without simulated transitions every episode terminates with zero reward: enough for behavioural cloning (``BC``),
    and nothing for learners of values. With them, an episode that did not terminate takes two rows, the second
    holding its successor and a timeout, because d3rlpy drops the last transition of an episode that times out.

    Raises:
        MissingExtraError: d3rlpy is not installed.
    """
    d3rlpy = import_d3rlpy()
    given = dataset.transitions
    # Two rows a pair, of which the second is kept where there is a successor.
    observations = np.repeat(dataset.observations, 2, axis=0)
    # Of discrete actions, d3rlpy has numbers from 0 up.
    taken = chosen(dataset.actions, 0)[:, None] if dataset.is_discrete else dataset.actions
    actions = np.repeat(taken, 2, axis=0)
    rewards = np.zeros(len(observations), np.float32)
    terminals = np.zeros(len(observations), np.float32)
    timeouts = np.zeros(len(observations), np.float32)
    terminals[::2] = 1.0 if given is None else given.terminations
    if given is not None:
        observations[1::2] = given.next_observations
        rewards[::2] = given.rewards
    timeouts[1::2] = 1.0
    keep = np.ones(len(observations), bool)
    keep[1::2] = terminals[::2] == 0
    with redirect_stdout(StringIO()):  # it tells of the signatures that it has found
        return d3rlpy.dataset.MDPDataset(
            observations=observations[keep],
            actions=actions[keep],
            rewards=rewards[keep],
            terminals=terminals[keep],
            timeouts=timeouts[keep],
            # d3rlpy takes whole-numbered actions for discrete ones otherwise.
            action_space=d3rlpy.ActionSpace.DISCRETE if dataset.is_discrete else d3rlpy.ActionSpace.CONTINUOUS,
            action_size=dataset.actions.shape[1],
        )
