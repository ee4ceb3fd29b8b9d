"""How much faster episodes run in lockstep than one environment at a time with a policy call a step.

    python benchmarks/rollouts.py [--env HalfCheetah-v5] [--students 10] [--episodes 10]

Ratios of one run: the same students, the same environments and starts. How far the mean returns differ is printed.
"""

import argparse
import os
import time
from dataclasses import replace

import numpy as np
import torch

from minari_obd.cloning.policy import Policy
from minari_obd.environments.episodes import run_episodes
from minari_obd.environments.making import make_environment
from minari_obd.evaluation.evaluation import evaluate
from minari_obd.settings.protocols import StudentProtocol
from minari_obd.sources.scaling import Normaliser
from minari_obd.students.networks import make_student, student_generators
from minari_obd.support.streams import Stream


def random_students(count: int, env_id: str) -> Policy:
    """Untrained students: what they do does not matter here, what they cost does."""
    environment = make_environment(env_id)
    space = environment.action_space
    states, actions = int(np.prod(environment.observation_space.shape or (1,))), int(np.prod(space.shape or (1,)))
    protocol = StudentProtocol()
    parameters = make_student(protocol).initialise(states, actions, student_generators(count, 0, Stream.CLONES))
    normaliser = Normaliser(np.zeros(states), np.ones(states))
    return Policy(parameters, protocol, normaliser, -np.ones(actions), np.ones(actions), env_id)


def one_at_a_time(students: Policy, episodes: int) -> np.ndarray:
    """The loop that most scripts have."""
    env_id = str(students.env_id)
    environment = make_environment(env_id)
    starts = Stream.EPISODES.seeds(episodes, 0)
    returns = np.zeros((students.students, episodes))
    for i in range(students.students):
        alone = replace(students, parameters=[p[i : i + 1] for p in students.parameters])
        for j, start in enumerate(starts):
            returns[i, j] = run_episodes([environment], [start], lambda rows, _: alone(rows)).returns[0]  # noqa: B023  # called at once
    return returns


def main() -> None:
    """Time both and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="HalfCheetah-v5")
    parser.add_argument("--students", type=int, default=10)
    parser.add_argument("--episodes", type=int, default=10)
    settings = parser.parse_args()
    torch.set_num_threads(1)
    students = random_students(settings.students, settings.env)
    print(f"{settings.students} students x {settings.episodes} episodes of {settings.env}")
    begun = time.perf_counter()
    expected = one_at_a_time(students, settings.episodes)
    base = time.perf_counter() - begun
    print(f"one at a time, a policy call a step: {base:6.1f} s")
    for workers in range(1, (os.cpu_count() or 1) + 1):
        begun = time.perf_counter()
        report = evaluate(students, episodes=settings.episodes, workers=workers)
        seconds = time.perf_counter() - begun
        # A chaotic simulator magnifies the rounding of another batch shape, so whole returns agree only roughly.
        gap = np.abs(report.returns.mean() - expected.mean()) / max(expected.std(), 1e-9)
        print(
            f"lockstep, {workers} process(es):            {seconds:6.1f} s   {base / seconds:4.1f} times   "
            f"{report.environment_steps / seconds:,.0f} steps/s   mean return off by {gap:.3f} standard deviations"
        )


if __name__ == "__main__":
    main()
