"""What value gap and student states add to a distillation: seconds an outer step, and as ratios.

python benchmarks/value_gap.py [--steps 20] [--updates 100]

Sizes are HalfCheetah's; data, critics and dynamics are made up, as times do not depend on what they know. One process,
one run: figures are comparable with one another and with nothing else. Each is the least of several laps.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch

from minari_obd.distiller.loop import OuterLoop
from minari_obd.dynamics.fitting import DynamicsRun
from minari_obd.settings.protocols import ADAM_STUDENT
from minari_obd.settings.sections import DistillationRecipe, StudentStatesRecipe
from minari_obd.sources.data import OfflineData
from minari_obd.sources.loading import load_offline_data
from minari_obd.targets.student_states import StudentStates
from minari_obd.targets.targets import Targets
from minari_obd.targets.value_gap import ValueGap
from minari_obd.teachers.frozen import FrozenTeacher
from minari_obd.teachers.networks import Layers

STATE, ACTION, WIDTH, LAPS = 17, 6, 256, 3


def network(generator: torch.Generator, inputs: int, outputs: int) -> Layers:
    """Two hidden layers of 256."""
    sizes = [inputs, WIDTH, WIDTH, outputs]
    return [(torch.randn(o, i, generator=generator) / i**0.5, torch.zeros(o)) for i, o in pairwise(sizes)]


def made_up(rows: int) -> tuple[OfflineData, FrozenTeacher]:
    """Data of episodes of 1,000 steps, and a teacher with two critics."""
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    states = rng.normal(size=(rows, STATE)).astype(np.float32)
    arrays = {
        "observations": states,
        "actions": rng.uniform(-1, 1, (rows, ACTION)).astype(np.float32),
        "rewards": rng.normal(size=rows),
        "terminations": np.zeros(rows, bool),
        "truncations": np.arange(rows) % 1_000 == 999,
        "next_observations": np.roll(states, -1, axis=0),
    }
    data = load_offline_data(arrays, progress=False)
    critics = [network(generator, STATE + ACTION, 1) for _ in range(2)]
    actor = network(generator, STATE, ACTION)
    return data, FrozenTeacher(actor, critics, data.normaliser, data.action_low, data.action_high)


def least(lap: Callable[[], object]) -> float:
    """Seconds of the shortest lap."""
    times = []
    for _ in range(LAPS):
        begun = time.perf_counter()
        lap()
        times.append(time.perf_counter() - begun)
    return min(times)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="outer steps of a lap")
    parser.add_argument("--updates", type=int, default=50, help="updates of the ensemble that are timed")
    given = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device("cpu")
    data, teacher = made_up(20_000)
    states = data.normaliser.normalise(data.observations)
    plain = Targets(states, teacher.act(data.observations), np.ones(len(states)), {})
    run = DynamicsRun(data, 0, device, replace(DynamicsRun(data, 0, device).settings, updates=10))
    ensemble = run.fit(progress=False)
    visited = StudentStates(ensemble, data, teacher, StudentStatesRecipe(share=0.5), 0)
    kinds = {
        "squared error": plain,
        "value gap": replace(plain, cost=ValueGap.of(teacher, data)),
        "student states": replace(plain, visited=visited),
        "both": replace(plain, cost=ValueGap.of(teacher, data), visited=visited),
    }
    loop = OuterLoop(ADAM_STUDENT, DistillationRecipe(steps=given.steps, evaluate_every=10**6), device)
    base = 0.0
    for name, targets in kinds.items():
        took = least(lambda targets=targets: loop.run(targets, 256, seed=0, progress=False)) / given.steps
        base = base or took
        print(f"{name:15} {took:6.3f} s an outer step, {took / base:5.2f} of the squared error's")
    whole = DynamicsRun(data, 1, device)
    fit = whole.estimate_seconds(given.updates)
    print(f"ensemble        {fit:6.0f} s for {whole.settings.updates:,} updates: {fit / base:.0f} outer steps")


if __name__ == "__main__":
    main()
