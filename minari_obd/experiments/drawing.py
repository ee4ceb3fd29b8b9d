"""Drawing of states by MuJoCo, run as ``python -m minari_obd.experiments.drawing FILE``.

It runs in a separate process, because a failing graphics driver may end the whole process.
"""

import json
import sys
from typing import Any

import numpy as np

from minari_obd.environments.making import make_environment
from minari_obd.environments.states import hidden_positions
from minari_obd.support.modules import import_named

__all__ = ["draw"]


def main() -> None:
    """Read the arguments of :func:`draw` as JSON from standard input, and write its pictures to the named file."""
    import_named()
    np.save(sys.argv[1], draw(**json.load(sys.stdin)))


def draw(env_id: str, observations: list[list[float]], actions: list[list[float]], picture_size: int) -> np.ndarray:
    """Draw F states and their successors in this process.

    Args:
        env_id: a MuJoCo environment of Gymnasium.
        observations: the states, F lists of S numbers, raw units.
        actions: one action per state, F lists of A numbers.
        picture_size: H and W, pixels.

    Returns:
        Shape (F, 2, H, W, 3), uint8.
    """
    made: Any = make_environment(env_id, picture_size=picture_size)
    environment = made.unwrapped
    hidden = hidden_positions(environment, env_id)
    pictures = []
    for observation, action in zip(observations, actions, strict=True):
        state = np.concatenate([environment.init_qpos[:hidden], observation])
        environment.reset(seed=0)
        environment.set_state(state[: environment.model.nq], state[environment.model.nq :])
        before = environment.render()
        environment.step(np.asarray(action))
        pictures.append([before, environment.render()])
    made.close()
    return np.array(pictures, dtype=np.uint8)


if __name__ == "__main__":
    main()
