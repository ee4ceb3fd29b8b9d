"""Simulation: one real step of the environment from each pair, where its state can be set from an observation."""

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from minari_obd.distilled import DistilledDataset, Transitions
from minari_obd.environments import make_environment
from minari_obd.errors import DataError, SettingError

__all__ = ["hidden_positions", "with_transitions"]

# Gymnasium's MuJoCo tasks whose observation is (qpos, qvel) without the first positions, on which neither dynamics
# nor rewards depend. The others observe contact forces, angles' sines or goals, from which no state can be set.
_HIDDEN_POSITIONS = {"HalfCheetah": 1, "Hopper": 1, "InvertedPendulum": 0, "Swimmer": 2, "Walker2d": 1}
_SHOWN = 10


@dataclass(frozen=True)
class _Answer:
    """What became of one pair."""

    reward: float = 0.0
    next_observation: np.ndarray | None = None
    terminated: bool = False
    problem: str | None = None
    """Why no step could be simulated."""


def with_transitions(dataset: DistilledDataset, *, drop: bool = False) -> DistilledDataset:
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
            _step(environment, hidden, observation, action)
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


def hidden_positions(environment: Any, env_id: str) -> int:
    """How many leading positions the observation leaves out."""
    name = env_id.rsplit("-v", 1)[0]
    if name not in _HIDDEN_POSITIONS or not type(environment).__module__.startswith("gymnasium.envs.mujoco."):
        raise DataError(
            f"No step can be simulated from an observation of '{env_id}': it does not tell the environment's whole "
            f"state. This works in {', '.join(_HIDDEN_POSITIONS)}."
        )
    return _HIDDEN_POSITIONS[name]


def _show(environment: Any, positions: np.ndarray, velocities: np.ndarray) -> np.ndarray:
    """Put the environment into a state, and return what it shows of it."""
    environment.reset(seed=0)  # forgets the step before: contacts, the solver's warm start and the clock
    environment.set_state(positions, velocities)
    return environment._get_obs()


def _step(environment: Any, hidden: int, observation: np.ndarray, action: np.ndarray) -> _Answer:
    state = np.concatenate([environment.init_qpos[:hidden], observation.astype(np.float64)])
    positions, velocities = state[: environment.model.nq], state[environment.model.nq :]
    faster = _show(environment, positions, 1.001 * velocities)  # looks the same where the environment clips velocities
    seen = _show(environment, positions, velocities)
    if not np.allclose(seen, observation, rtol=1e-5, atol=1e-5):
        worst = int(np.abs(seen - observation).argmax())
        return _Answer(
            problem=f"no state has such an observation (dimension {worst} is {observation[worst]:.4g}, and the "
            f"environment shows {seen[worst]:.4g})"
        )
    clipped = np.flatnonzero((seen == faster) & (observation != 0))
    clipped = clipped[clipped >= len(observation) - len(velocities)]
    if len(clipped):
        return _Answer(
            problem=f"many states have such an observation (dimension {clipped[0]}, {observation[clipped[0]]:.4g}, is "
            "as fast as the environment shows)"
        )
    following, reward, terminated, _, _ = environment.step(action)
    # A breakdown (bad position, velocity or acceleration) makes MuJoCo start anew, and the step is then a lie.
    broken = any(warning.number for warning in environment.data.warning)
    if broken or not (np.isfinite(following).all() and np.isfinite(reward)):
        return _Answer(problem="the simulator breaks down there")
    return _Answer(float(reward), np.asarray(following, np.float32), bool(terminated))
