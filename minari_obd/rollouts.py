"""Rollouts: many episodes in lockstep, one policy call a step, the environments stepped by several processes."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO

import gymnasium as gym
import numpy as np

from minari_obd.environments import BatchPolicy, Episodes, make_environment, run_episodes
from minari_obd.errors import MinariObdError
from minari_obd.rollout_worker import read_array, write_array

__all__ = ["roll_out", "worker_count"]

_WORTH_A_PROCESS = 20
"""Episodes for which starting another process (about a second) pays."""


def worker_count(env_id: str, episodes: int, workers: int | None = None) -> int:
    """Return how many processes step the environments: the cores at hand, fewer for few episodes.

    One, which is the calling process itself, where another could not make the environment: one that was registered
    with a Python object and not by name.
    """
    try:
        gym.spec(env_id).to_json()
    except (TypeError, ValueError, AssertionError):  # what JSON cannot hold
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    most = cores if workers is None else workers
    return max(1, min(most, episodes // _WORTH_A_PROCESS if workers is None else episodes))


def roll_out(env_id: str, seeds: Sequence[int], policy: BatchPolicy, *, workers: int | None = None) -> Episodes:
    """Run one episode for each seed, all of them in lockstep.

    The policy is called in this process, once a step with all running rows, so every number of workers gives the same
    bytes: they only step environments.

    Args:
        env_id: a plain registered id.
        seeds: a reset seed for each episode.
        policy: ``policy(observations (B, S) raw, episodes (B,)) -> actions (B, A) raw``.
        workers: processes; see :func:`worker_count` if not given.

    Raises:
        NotFoundError, DataError: as :func:`make_environment`.
        MinariObdError: a process ended before its episodes did.
    """
    count = worker_count(env_id, len(seeds), workers)
    if count == 1:
        environments = [make_environment(env_id) for _ in seeds]
        episodes = run_episodes(environments, seeds, policy)
        for environment in environments:
            environment.close()
        return episodes
    parts = np.array_split(np.arange(len(seeds)), count)
    with _started(env_id, [[int(seeds[i]) for i in part] for part in parts]) as processes:
        return _lockstep(processes, parts, policy, len(seeds))


@dataclass
class _Worker:
    process: "subprocess.Popen[bytes]"
    errors: IO[bytes]

    def send(self, array: np.ndarray) -> None:
        assert self.process.stdin is not None
        write_array(self.process.stdin, array)  # pyright: ignore[reportArgumentType]  # a binary stream

    def receive(self) -> np.ndarray:
        assert self.process.stdout is not None
        return read_array(self.process.stdout)  # pyright: ignore[reportArgumentType]

    def has_failed(self) -> bool:
        try:
            return self.process.wait(timeout=1.0) != 0  # its pipe ends a moment before it does
        except subprocess.TimeoutExpired:
            return False

    def complaint(self) -> str:
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1][:500] if lines else "no reason was given"


@contextmanager
def _started(env_id: str, seeds: list[list[int]]) -> Iterator[list[_Worker]]:
    """Start a process for each list of seeds; none outlives the block.

    A plain child process and not multiprocessing's: that would run the user's script again, in each of them.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    environment |= {"OMP_NUM_THREADS": "1"}
    workers: list[_Worker] = []
    try:
        for part in seeds:
            errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed below, with the process that writes it
            command = [sys.executable, "-m", "minari_obd.rollout_worker"]
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment
            )
            workers.append(_Worker(process, errors))
            assert process.stdin is not None
            task = {"spec": gym.spec(env_id).to_json(), "seeds": part}
            process.stdin.write(json.dumps(task).encode() + b"\n")
            process.stdin.flush()
        yield workers
    except (ValueError, EOFError, OSError) as error:  # a pipe that ended: its process did
        broken = next((worker for worker in workers if worker.has_failed()), None)
        if broken is None:
            raise
        raise MinariObdError(f"Stepping '{env_id}' in another process failed: {broken.complaint()}.") from error
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.wait()
            for stream in (worker.process.stdin, worker.process.stdout, worker.errors):
                with suppress(OSError):  # a pipe with nobody at its other end
                    _stream_of(stream).close()


def _stream_of(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream


def _lockstep(workers: list[_Worker], parts: list[np.ndarray], policy: BatchPolicy, count: int) -> Episodes:
    returns, lengths = np.zeros(count), np.zeros(count, dtype=np.int64)
    busy = list(range(len(workers)))
    while busy:
        running: list[np.ndarray] = []
        for i in list(busy):
            running.append(workers[i].receive())
            if not len(running[-1]):
                returns[parts[i]], lengths[parts[i]] = workers[i].receive(), workers[i].receive()
                busy.remove(i)
                running.pop()
        if busy:
            observations = np.concatenate([workers[i].receive() for i in busy])
            rows = np.concatenate([parts[i][local] for i, local in zip(busy, running, strict=True)])
            actions = np.asarray(policy(observations, rows))
            for i, share in zip(
                busy, np.split(actions, np.cumsum([len(local) for local in running])[:-1]), strict=True
            ):
                workers[i].send(share)
    return Episodes(returns, lengths)
