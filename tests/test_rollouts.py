"""Rollouts across processes: the same bytes for every number of them, and no process left behind."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import numpy as np
import pytest
from conftest import RuleTeacher, make_pairs

import minari_obd
from minari_obd.errors import MinariObdError
from minari_obd.rollouts import roll_out, worker_count

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
        return np.where(np.isin(running, [3])[:, None], 1.0, 0.0) * np.ones((len(rows), 2))

    with pytest.raises(MinariObdError, match="another process failed: RuntimeError: the floor gave way"):
        roll_out(crumbling, [4, 5, 6, 7], jump, workers=2)
    assert children() == []


def test_an_interrupt_leaves_no_process(crumbling: str) -> None:
    def interrupt(rows: np.ndarray, running: np.ndarray) -> np.ndarray:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        roll_out(crumbling, range(4), interrupt, workers=2)
    assert children() == []


def children() -> list[str]:
    listed = subprocess.run(["ps", "--ppid", str(os.getpid()), "-o", "args="], capture_output=True, text=True)
    return [line for line in listed.stdout.splitlines() if "rollout_worker" in line]


def test_what_another_process_cannot_make_is_stepped_here() -> None:
    assert worker_count("Hopper-v5", 100, 3) == 3
    assert worker_count("Hopper-v5", 2, 3) == 2
    assert worker_count("Hopper-v5", 10) == 1  # not worth a process
    gym.register("Local-v0", cast(Any, lambda: gym.make("Hopper-v5").unwrapped))
    try:
        assert worker_count("Local-v0", 100, 3) == 1
        teacher = RuleTeacher()
        with pytest.raises(ValueError, match=r"broadcast|shape|Action"):  # the rule is not for Hopper
            minari_obd.evaluate(teacher, env="Local-v0", episodes=1, workers=2)
    finally:
        del gym.registry["Local-v0"]


def test_a_script_without_a_main_guard_is_not_run_again() -> None:
    Path("script.py").write_text(
        "from minari_obd.rollouts import roll_out\n"
        "import numpy as np\n"
        "print('once')\n"
        "act = lambda rows, running: np.zeros((len(rows), 3), np.float32)\n"
        "print(len(roll_out('Hopper-v5', range(4), act, workers=2).returns))\n"
    )
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["once", "4"]
