"""Rollouts: many episodes in lockstep, with one policy call per step, spread over the available cores."""

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
from minari_obd.errors import DataError, MinariObdError, SettingError
from minari_obd.support.devices import cpu_threads

__all__ = ["Batch", "Visits", "roll_out", "visit", "worker_count"]

_WORTH_A_PROCESS = 4
"""Batches per process that make up for the time it takes to start."""


_QUEUE = 10_000
"""Maximum number of batches whose numbers fit into a pipe at once."""


@dataclass(frozen=True)
class Batch:
    """Episodes that run in lockstep, with one policy call per step.

    Ten or twenty are better than a hundred: the simulators' memory and the policy's weights then stay in the cache.
    """

    seeds: Sequence[int]
    """A reset seed for each episode."""
    policy: BatchPolicy
    """``policy(observations (B, S) raw, episodes (B,)) -> actions (B, A) raw``."""


def worker_count(batches: int, workers: int | None = None) -> int:
    """Return how many processes run the batches: one per available core, or a single one for little work.

    Processes are forked, like torch's data loaders, because any other start costs more time than it saves. Forking is
    safe only on Linux, so other systems use a single process.
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
    """Run batches of episodes and return the results of each batch.

    A batch runs in one process from start to end, with torch on one thread. Any number of processes therefore gives the
    same bytes.

    Args:
        env_id: a plain registered id.
        batches: the episodes.
        workers: number of processes; if not given, see :func:`worker_count`.
        progress: called with the number of episodes of each batch that ends.

    Raises:
        NotFoundError, DataError: as in :func:`make_environment`.
        DataError: as :func:`run_episodes`.
        MinariObdError: an environment or a policy failed in another process.
    """
    make_environment(env_id).close()  # raises here if the environment cannot be used
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
    """What a policy saw and did in B episodes, T steps in total."""

    observations: np.ndarray
    """Shape (T, S), float32, raw units."""
    actions: np.ndarray
    """Shape (T, A), raw units."""
    returns: np.ndarray
    """Undiscounted return of each episode, shape (B,)."""


def visit(env_id: str, seeds: Sequence[int], act: Callable[[np.ndarray], np.ndarray]) -> Visits:
    """Run one episode per reset seed, in lockstep and in this process, and keep every step.

    Args:
        env_id: a plain registered id.
        seeds: a reset seed for each episode.
        act: maps raw observations (B, S), float32, to raw actions (B, A).

    Raises:
        NotFoundError, DataError: as in :func:`make_environment`.
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
    """Run the batches with these numbers one after the other, in the same environments."""
    environments = []
    for number in numbers:
        batch = batches[number]
        environments += [make_environment(env_id) for _ in range(len(batch.seeds) - len(environments))]
        yield number, run_episodes(environments[: len(batch.seeds)], batch.seeds, batch.policy)
    for environment in environments:
        environment.close()


@contextmanager
def _forked(env_id: str, batches: Sequence[Batch], count: int) -> Iterator[list[Connection]]:
    """Start processes that take batches from one queue. None outlives the block."""
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
                warnings.simplefilter("ignore", DeprecationWarning)  # about forking with threads; see worker_count
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
    """Body of a process: run batches until the queue is empty. Results are sent as bytes; nothing is pickled."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles interrupts
    try:
        with cpu_threads(1):
            numbers = (int.from_bytes(word, "little") for word in iter(lambda: os.read(queue, 4), b""))
            for number, episodes in _run(env_id, batches, numbers):
                results.send_bytes(json.dumps({"batch": number}).encode())
                results.send_bytes(np.stack(episodes, dtype=np.float64).tobytes())
    except (DataError, SettingError) as error:  # which the parent raises again
        results.send_bytes(json.dumps({"error": str(error), "kind": type(error).__name__}).encode())
    except Exception as error:  # environments and policies may raise anything; the parent raises it by name
        results.send_bytes(json.dumps({"error": f"{type(error).__name__}: {error}"[:500]}).encode())
    signal.pause()  # until the parent kills it: exiting here would look like a failure


def _receive(connection: Connection, env_id: str) -> tuple[int, Episodes]:
    try:
        said = json.loads(connection.recv_bytes())
        if "kind" in said:
            raise {"DataError": DataError, "SettingError": SettingError}[said["kind"]](said["error"])
        if "error" in said:
            raise MinariObdError(f"Running episodes in '{env_id}' failed: {said['error']}.")
        values = np.frombuffer(connection.recv_bytes(), dtype=np.float64).reshape(3, -1)
    except (EOFError, OSError) as error:
        raise MinariObdError(
            f"A process that ran episodes in '{env_id}' ended before they did, perhaps because memory ran out; "
            "try again with workers=1."
        ) from error
    return said["batch"], Episodes(values[0].copy(), values[1].astype(np.int64), values[2].copy())
