"""Rollouts: many episodes in lockstep, one policy call a step, over the cores that are there."""

import json
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np

from minari_obd.environments.episodes import BatchPolicy, Episodes, Step, run_episodes
from minari_obd.environments.making import make_environment
from minari_obd.errors import MinariObdError
from minari_obd.support.devices import cpu_threads

__all__ = ["Batch", "Visits", "roll_out", "visit", "worker_count"]

_WORTH_A_PROCESS = 4
"""Batches a process that pay for starting it."""


_QUEUE = 10_000
"""Batches whose numbers fit into a pipe at once."""


@dataclass(frozen=True)
class Batch:
    """Episodes that run in lockstep, with one call of their policy a step.

    Ten or twenty of them are better than a hundred: the simulators' memory and the policy's weights stay in the cache.
    """

    seeds: Sequence[int]
    """A reset seed for each episode."""
    policy: BatchPolicy
    """``policy(observations (B, S) raw, episodes (B,)) -> actions (B, A) raw``."""


def worker_count(batches: int, workers: int | None = None) -> int:
    """Return how many processes run the batches: as many as cores are at hand, and one where there is little to do.

    Processes are forked, as torch's data loaders are, since only so does starting one cost less than it gains. That is
    safe on Linux alone, so elsewhere it is always one.
    """
    if sys.platform != "linux" or batches > _QUEUE:
        return 1
    if workers is None:
        workers = min(len(os.sched_getaffinity(0)), 1 + batches // _WORTH_A_PROCESS)
    return max(1, min(workers, batches))


def roll_out(
    env_id: str,
    batches: Sequence[Batch],
    *,
    workers: int | None = None,
    progress: Callable[[int], Any] | None = None,
) -> list[Episodes]:
    """Run batches of episodes, and return what became of each.

    A batch runs in one process from start to end, and torch on one thread, so every number of processes gives the
    same bytes.

    Args:
        env_id: a plain registered id.
        batches: the episodes.
        workers: processes; see :func:`worker_count` if not given.
        progress: called with a number of episodes when these have ended.

    Raises:
        NotFoundError, DataError: as :func:`make_environment`.
        MinariObdError: an environment or a policy failed in another process.
    """
    make_environment(env_id).close()  # what is wrong with the environment is said here
    report = progress or (lambda _: None)
    count = worker_count(len(batches), workers)
    found: dict[int, Episodes] = {}
    if count == 1:
        with cpu_threads(1):
            for number, episodes in _run(env_id, batches, iter(range(len(batches)))):
                found[number] = episodes
                report(len(episodes.returns))
    else:
        with _forked(env_id, batches, count) as connections:
            while len(found) < len(batches):
                for connection in wait(connections):
                    assert isinstance(connection, Connection)
                    number, episodes = _receive(connection, env_id)
                    found[number] = episodes
                    report(len(episodes.returns))
    return [found[number] for number in range(len(batches))]


@dataclass(frozen=True)
class Visits:
    """What a policy saw and did in some episodes, T steps in all."""

    observations: np.ndarray
    """Shape (T, S), float32, raw units."""
    actions: np.ndarray
    """Shape (T, A), raw units."""
    returns: np.ndarray
    """Undiscounted return of each episode, shape (B,)."""


def visit(env_id: str, seeds: Sequence[int], act: Callable[[np.ndarray], np.ndarray]) -> Visits:
    """Run an episode for each reset seed, in lockstep and in this process, and keep every step.

    Args:
        env_id: a plain registered id.
        seeds: a reset seed for each episode.
        act: raw observations (B, S), float32, to raw actions (B, A).

    Raises:
        NotFoundError, DataError: as :func:`make_environment`.
    """
    environments = [make_environment(env_id) for _ in seeds]
    steps: list[Step] = []
    with cpu_threads(1):
        episodes = run_episodes(
            environments,
            seeds,
            lambda observations, _: np.asarray(act(observations.astype(np.float32))),
            lambda _, step: steps.append(step),
        )
    for environment in environments:
        environment.close()
    observations, actions = np.stack([s.observation for s in steps]), np.stack([s.action for s in steps])
    return Visits(observations.astype(np.float32), actions, episodes.returns)


def _run(env_id: str, batches: Sequence[Batch], numbers: Iterator[int]) -> Iterator[tuple[int, Episodes]]:
    """Run some of the batches one after the other, in the same environments."""
    environments = []
    for number in numbers:
        batch = batches[number]
        environments += [make_environment(env_id) for _ in range(len(batch.seeds) - len(environments))]
        yield number, run_episodes(environments[: len(batch.seeds)], batch.seeds, batch.policy)
    for environment in environments:
        environment.close()


@contextmanager
def _forked(env_id: str, batches: Sequence[Batch], count: int) -> Iterator[list[Connection]]:
    """Start processes that take batches from one queue; none outlives the block."""
    context = multiprocessing.get_context("fork")
    queue, filling = os.pipe()
    os.write(filling, b"".join(number.to_bytes(4, "little") for number in range(len(batches))))
    os.close(filling)
    processes, connections = [], []
    try:
        for _ in range(count):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_serve, args=(env_id, batches, queue, theirs), daemon=True)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads; see worker_count
                process.start()
            theirs.close()
            processes.append(process)
            connections.append(ours)
        yield connections
    finally:
        os.close(queue)
        for process in processes:
            process.kill()
            process.join()
        for connection in connections:
            connection.close()


def _serve(env_id: str, batches: Sequence[Batch], queue: int, results: Connection) -> None:
    """What a process does: run batches until the queue is empty, and send numbers as bytes, nothing pickled."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it decides
    try:
        with cpu_threads(1):
            numbers = (int.from_bytes(word, "little") for word in iter(lambda: os.read(queue, 4), b""))
            for number, episodes in _run(env_id, batches, numbers):
                results.send_bytes(json.dumps({"batch": number}).encode())
                results.send_bytes(np.stack([episodes.returns, episodes.lengths.astype(np.float64)]).tobytes())
    except Exception as error:
        results.send_bytes(json.dumps({"error": f"{type(error).__name__}: {error}"[:500]}).encode())
    signal.pause()  # until it is ended: an end of its own would look like a failure


def _receive(connection: Connection, env_id: str) -> tuple[int, Episodes]:
    try:
        said = json.loads(connection.recv_bytes())
        if "error" in said:
            raise MinariObdError(f"Running episodes of '{env_id}' failed: {said['error']}.")
        values = np.frombuffer(connection.recv_bytes(), dtype=np.float64).reshape(2, -1)
    except (EOFError, OSError) as error:
        raise MinariObdError(
            f"A process that ran episodes of '{env_id}' ended before they did, for want of memory perhaps; "
            "try again with workers=1."
        ) from error
    return said["batch"], Episodes(values[0].copy(), values[1].astype(np.int64))
