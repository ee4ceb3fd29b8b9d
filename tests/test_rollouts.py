"""Rollouts across processes: the same bytes for every number of them, and no process left behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import make_pairs
from threadpoolctl import threadpool_info, threadpool_limits

import minari_obd
from minari_obd.environments.episodes import BatchPolicy, Episodes
from minari_obd.environments.rollouts import Batch, worker_count
from minari_obd.environments.rollouts import roll_out as roll_out_batches
from minari_obd.errors import MinariObdError, NotFoundError
from minari_obd.sources.collecting import collect
from minari_obd.support.devices import cpu_threads

CRUMBLING = """
import gymnasium as gym, numpy as np

class Crumbling(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (3,))
    action_space = gym.spaces.Box(-1, 1, (2,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        print("loud environments print")
        self.left = 2 + int(seed or 0) % 4
        return np.full(3, self.left, np.float32), {}

    def step(self, action):
        self.left -= 1
        if action[0] > 0.5:
            raise RuntimeError("the floor gave way")
        return np.full(3, self.left, np.float32), 1.0, self.left == 0, False, {}
"""


@pytest.fixture
def crumbling(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An environment of the user's own module, registered by name."""
    Path("crumbling.py").write_text(CRUMBLING)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    gym.register("Crumbling-v0", "crumbling:Crumbling", disable_env_checker=True)
    yield "Crumbling-v0"
    del gym.registry["Crumbling-v0"]


def roll_out(env_id: str, seeds: Sequence[int], policy: BatchPolicy, *, workers: int) -> Episodes:
    """Batches of two episodes, put together again."""
    batches = [Batch(seeds[i : i + 2], policy) for i in range(0, len(seeds), 2)]
    found = roll_out_batches(env_id, batches, workers=workers)
    return Episodes(*(np.concatenate(values) for values in zip(*found, strict=True)))


def hop(rows: np.ndarray, running: np.ndarray) -> np.ndarray:
    return np.tanh(rows[:, :3] + rows[:, 5:8]).astype(np.float32)


def test_every_number_of_workers_gives_the_same_bytes() -> None:
    episodes = [roll_out("Hopper-v5", range(7), hop, workers=workers) for workers in (1, 2, 3, 9)]
    assert len(set(episodes[0].lengths)) > 1  # some end while others go on
    for other in episodes[1:]:
        assert other.returns.tobytes() == episodes[0].returns.tobytes()
        assert other.lengths.tolist() == episodes[0].lengths.tolist()


def test_a_report_is_the_same_for_every_number_of_workers() -> None:
    pairs = make_pairs(shape=(11, 3))
    reports = [minari_obd.evaluate(pairs, students=3, episodes=4, workers=workers) for workers in (1, 2)]
    assert reports[0].returns.tobytes() == reports[1].returns.tobytes()
    assert reports[0].environment_steps == reports[1].environment_steps > 12


def test_the_users_own_environments_are_stepped_elsewhere_too(crumbling: str) -> None:
    def stay(rows: np.ndarray, running: np.ndarray) -> np.ndarray:
        return np.zeros((len(rows), 2), np.float32)

    episodes = roll_out(crumbling, [4, 5, 6, 7], stay, workers=2)
    assert episodes.returns.tolist() == episodes.lengths.tolist() == [2, 3, 4, 5]


def test_one_that_fails_is_named_and_none_is_left(crumbling: str) -> None:
    def jump(rows: np.ndarray, running: np.ndarray) -> np.ndarray:
        return np.where(rows[:, :1] == 5, 1.0, 0.0) * np.ones((len(rows), 2))

    with pytest.raises(MinariObdError, match="failed: RuntimeError: the floor gave way"):
        roll_out(crumbling, [4, 5, 6, 7], jump, workers=2)
    assert children() == []


def test_an_interrupt_leaves_no_process() -> None:
    """Ctrl-C at a terminal reaches every process; the one that started the others ends them."""
    command = [sys.executable, "-c", ENDLESS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as begun:
        assert begun.stdout is not None
        workers = [int(begun.stdout.readline()) for _ in range(2)]
        os.killpg(begun.pid, signal.SIGINT)
        assert begun.wait(timeout=20) != 0
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


ENDLESS = """
import os, signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts tests in the background ignores it
from minari_obd.environments.rollouts import Batch, roll_out

def act(rows, running):
    print(os.getpid(), flush=True)
    time.sleep(60)

roll_out("Hopper-v5", [Batch([1], act), Batch([2], act)], workers=2)
"""


def children() -> list[str]:
    listed = subprocess.run(["ps", "--ppid", str(os.getpid()), "-o", "args="], capture_output=True, text=True)
    return [line for line in listed.stdout.splitlines() if "defunct" not in line and not line.startswith("ps ")]


def test_a_process_that_is_killed_is_said() -> None:
    def die(rows: np.ndarray, running: np.ndarray) -> np.ndarray:
        os.kill(os.getpid(), 9)
        raise AssertionError

    with pytest.raises(MinariObdError, match="ended before they did"):
        roll_out("Hopper-v5", range(4), die, workers=2)
    assert children() == []


def test_what_is_wrong_with_the_environment_is_said_before_a_process_starts() -> None:
    with pytest.raises(NotFoundError, match="is not registered"):
        roll_out("Hoper-v5", range(4), hop, workers=2)


def test_environments_that_are_registered_as_objects_work_too() -> None:
    gym.register("Local-v0", cast(Any, lambda: gym.make("Hopper-v5").unwrapped), max_episode_steps=50)
    try:
        assert roll_out("Local-v0", range(4), hop, workers=2).lengths.max() <= 50
    finally:
        del gym.registry["Local-v0"]


def test_as_many_processes_as_there_is_work_for() -> None:
    assert worker_count(1) == worker_count(3) == worker_count(9, 1) == 1
    assert worker_count(2, 3) == 2
    assert 1 <= worker_count(100) <= (os.cpu_count() or 1)


def test_torch_keeps_its_threads() -> None:
    before = torch.get_num_threads()
    roll_out("Hopper-v5", range(2), hop, workers=1)
    assert torch.get_num_threads() == before


def test_a_script_without_a_main_guard_is_not_run_again() -> None:
    Path("script.py").write_text(
        "from minari_obd.environments.rollouts import Batch, roll_out\n"
        "import numpy as np\n"
        "print('once')\n"
        "act = lambda rows, running: np.zeros((len(rows), 3), np.float32)\n"
        "print(len(roll_out('Hopper-v5', [Batch([1, 2], act), Batch([3], act)], workers=2)))\n"
    )
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["once", "2"]


def test_numpy_s_blas_has_one_thread_while_work_is_done_and_gets_its_own_back() -> None:
    def threads() -> set[int]:
        return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}

    with threadpool_limits(2, user_api="blas"):
        before, seen = threads(), []
        with cpu_threads(2) as count:
            assert count == 2
            assert threads() == {1}
        collect("lab/p-v0", "Pendulum-v1", lambda _: seen.append(threads()) or np.zeros(1), steps=5, progress=False)
        roll_out_batches(
            "Pendulum-v1", [Batch([0], lambda rows, _: seen.append(threads()) or np.zeros((len(rows), 1)))]
        )
        assert set(map(frozenset, seen)) == {frozenset({1})}
        assert threads() == before
