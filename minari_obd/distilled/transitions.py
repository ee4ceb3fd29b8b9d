"""Simulation: one real step of the environment from each pair, where its state can be set from an observation."""

import warnings
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from minari_obd.distilled.contents import Contents, Transitions
from minari_obd.environments.making import make_environment
from minari_obd.environments.states import hidden_positions, simulate_step
from minari_obd.errors import DataError, SettingError

__all__ = ["with_transitions"]

_SHOWN = 10


_Contents = TypeVar("_Contents", bound=Contents)


def with_transitions(dataset: _Contents, *, drop: bool = False) -> _Contents:
    """Set the environment's state to each pair's observation, take its action, and keep reward and successor.

    The action is taken as it stands, beyond the bounds too: the simulator clips the torque and the reward charges
    for the action itself, as in any other step. Evaluations stay with the dataset unless pairs are left out.

    Args:
        dataset: the pairs.
        drop: leave out pairs whose observation no state has, or in which the simulator breaks down.

    Raises:
        SettingError: the dataset names no environment.
        NotFoundError: its environment is not registered.
        DataError: the environment's state cannot be set from an observation, or (without ``drop``) some pairs are
            no states of it; the sentence names them and says why.
    """
    if dataset.env_id is None:
        raise SettingError("It is not known what environment these pairs belong to, so no step can be simulated.")
    environment: Any = make_environment(dataset.env_id).unwrapped
    hidden = hidden_positions(environment, dataset.env_id)
    positions = environment.model.nq - hidden
    if positions + environment.model.nv != dataset.observations.shape[1]:
        raise DataError(
            f"The pairs have {dataset.observations.shape[1]} observations, but '{dataset.env_id}' has "
            f"{positions + environment.model.nv}; they belong to another version of it."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the simulator's own: they are read from its counters below
        answers = [
            simulate_step(environment, hidden, observation, action)
            for observation, action in zip(dataset.observations, dataset.actions, strict=True)
        ]
    environment.close()
    bad = [i for i, answer in enumerate(answers) if answer.problem]
    if bad and (not drop or len(bad) == len(dataset)):
        advice = "" if drop else "; with_transitions(drop=True) leaves them out"
        named = ", ".join(map(str, bad[:_SHOWN])) + (", ..." if len(bad) > _SHOWN else "")
        raise DataError(
            f"{len(bad)} of {len(dataset)} pairs cannot be simulated in '{dataset.env_id}' (rows {named}): "
            f"{answers[bad[0]].problem}{advice}."
        )
    kept = [answer for answer in answers if not answer.problem]
    rows = np.setdiff1d(np.arange(len(dataset)), bad)
    transitions = Transitions(
        rewards=np.array([answer.reward for answer in kept]),
        next_observations=np.stack([np.asarray(answer.next_observation) for answer in kept]),
        terminations=np.array([answer.terminated for answer in kept]),
    )
    return replace(
        dataset,
        observations=dataset.observations[rows],
        actions=dataset.actions[rows],
        transitions=transitions,
        evaluation=None if bad else dataset.evaluation,  # it was of other pairs
    )
