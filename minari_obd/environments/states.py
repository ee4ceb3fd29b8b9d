"""States: put a simulator into the state of an observation and take one step from it."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from minari_obd.errors import DataError

__all__ = ["hidden_positions"]

# Gymnasium's MuJoCo tasks whose observation is (qpos, qvel) without the first positions, on which neither dynamics
# nor rewards depend. Other tasks observe contact forces, sines of angles or goals, from which no state can be set.
_HIDDEN_POSITIONS = {"HalfCheetah": 1, "Hopper": 1, "InvertedPendulum": 0, "Swimmer": 2, "Walker2d": 1}


@dataclass(frozen=True)
class Answer:
    """Result of simulating one pair."""

    reward: float = 0.0
    next_observation: np.ndarray | None = None
    terminated: bool = False
    problem: str | None = None
    """Reason why no step could be simulated."""


def hidden_positions(environment: Any, env_id: str) -> int:
    """Return how many leading positions the observation leaves out.

    Raises:
        DataError: the observation does not determine the environment's state.
    """
    name = env_id.rsplit("-v", 1)[0]
    if name not in _HIDDEN_POSITIONS or not type(environment).__module__.startswith("gymnasium.envs.mujoco."):
        raise DataError(
            f"No step can be simulated from an observation of '{env_id}', because it does not contain the whole state; "
            f"use one of {', '.join(_HIDDEN_POSITIONS)}."
        )
    return _HIDDEN_POSITIONS[name]


def _show(environment: Any, positions: np.ndarray, velocities: np.ndarray) -> np.ndarray:
    """Put the environment into a state and return the observation of it."""
    environment.reset(seed=0)  # clears the previous step: contacts, the solver's warm start and the clock
    environment.set_state(positions, velocities)
    return environment._get_obs()


def simulate_step(environment: Any, hidden: int, observation: np.ndarray, action: np.ndarray) -> Answer:
    state = np.concatenate([environment.init_qpos[:hidden], observation.astype(np.float64)])
    positions, velocities = state[: environment.model.nq], state[environment.model.nq :]
    faster = _show(environment, positions, 1.001 * velocities)  # looks the same if the environment clips velocities
    seen = _show(environment, positions, velocities)
    if not np.allclose(seen, observation, rtol=1e-5, atol=1e-5):
        worst = int(np.abs(seen - observation).argmax())
        return Answer(
            problem=f"no state has this observation (dimension {worst} is {observation[worst]:.4g}, but the "
            f"environment shows {seen[worst]:.4g})"
        )
    clipped = np.flatnonzero((seen == faster) & (observation != 0))
    clipped = clipped[clipped >= len(observation) - len(velocities)]
    if len(clipped):
        return Answer(
            problem=f"many states have this observation (dimension {clipped[0]}, {observation[clipped[0]]:.4g}, is "
            "the highest speed that the environment shows)"
        )
    following, reward, terminated, _, _ = environment.step(action)
    # After a breakdown (bad position, velocity or acceleration) MuJoCo resets itself, and the step is meaningless.
    broken = any(warning.number for warning in environment.data.warning)
    if broken or not (np.isfinite(following).all() and np.isfinite(reward)):
        return Answer(problem="the simulator breaks down there")
    return Answer(float(reward), np.asarray(following, np.float32), bool(terminated))
