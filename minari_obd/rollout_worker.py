"""A process that steps environments for another one; arrays and a line of JSON go through its pipes, no pickles."""

import json
import sys
from typing import Any, BinaryIO

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec

from minari_obd.environments import make_environment, run_episodes

__all__ = ["read_array", "serve", "write_array"]


def write_array(stream: BinaryIO, array: np.ndarray) -> None:
    """Send an array of numbers: a line of JSON with type and shape, then its bytes."""
    stream.write(json.dumps([array.dtype.str, array.shape]).encode() + b"\n" + array.tobytes())
    stream.flush()


def read_array(stream: BinaryIO) -> np.ndarray:
    """Receive what :func:`write_array` sent.

    Raises:
        EOFError: the other end is gone.
    """
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise EOFError("the other end of the pipe is gone")
    kind, shape = json.loads(line)
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    content = stream.read(size)
    if len(content) != size:
        raise EOFError("the other end of the pipe is gone")
    return np.frombuffer(content, dtype=kind).reshape(shape)


def serve() -> None:
    """Run episodes whose actions the other end gives.

    Reads a line of JSON: ``spec`` (of the environment, from the other end's registry) and ``seeds``. Then, at every
    step, sends the numbers of the running episodes and their observations, and reads an action for each. When none
    is left: an empty array, the returns and the lengths.
    """
    inbox, outbox = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # what an environment prints must not get between the arrays
    task = json.loads(inbox.readline())
    spec = EnvSpec.from_json(task["spec"])
    gym.registry.setdefault(spec.id, spec)
    environments = [make_environment(spec.id) for _ in task["seeds"]]

    def ask(observations: np.ndarray, running: np.ndarray) -> np.ndarray:
        write_array(outbox, running)
        write_array(outbox, observations)
        return read_array(inbox)

    episodes: Any = run_episodes(environments, task["seeds"], ask)
    write_array(outbox, np.empty(0, dtype=np.int64))
    write_array(outbox, episodes.returns)
    write_array(outbox, episodes.lengths)


if __name__ == "__main__":
    serve()
