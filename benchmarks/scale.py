"""What data of 200,000 and of 2,000,000 steps costs: seconds, peak memory and disk of each part of a run.

    python benchmarks/scale.py [--steps 200000 2000000] [--dataset halfcheetah/medium] [--parts load opw]

Every part runs on one thread in a process of its own. All but the first read the data before they begin, which only the
second counts. Memory is the process's highest resident size. Datasets and the dynamics ensemble go to a temporary
folder.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import torch

from minari_obd.distillation.distillation import build_targets, fit_density
from minari_obd.distillation.preparation import Prepared, prepare
from minari_obd.dynamics.fitting import DynamicsRun, DynamicsSettings
from minari_obd.settings.recipe import Recipe
from minari_obd.settings.sections import DistillationRecipe, TeacherRecipe
from minari_obd.sources.benchmark import BENCHMARK
from minari_obd.sources.data import OfflineData
from minari_obd.sources.loading import load_offline_data
from minari_obd.support.tables import markdown_table
from minari_obd.targets.targets import Targets
from minari_obd.teachers.obtaining import plan_teacher
from minari_obd.teachers.protocol import Teacher
from minari_obd.teachers.run import TeacherRun

CPU = torch.device("cpu")
STEPS = 50  # of the kernel start, at 256 pairs
UPDATES = 200  # of a teacher and of the ensemble


def targets(recipe: Recipe, data: OfflineData) -> tuple[Prepared, Targets]:
    """Make a method's targets: density and weights, the teacher's actions and values."""
    prepared = prepare(recipe, data, progress=False)
    assert isinstance(prepared.teacher, Teacher)
    return prepared, build_targets(prepared, prepared.teacher, fit_density(prepared))


def updates(recipe: Recipe, data: OfflineData) -> None:
    """Prepare minibatches, and make some updates of a teacher."""
    run = plan_teacher(replace(recipe, teacher=TeacherRecipe("td3_bc")), data)
    assert isinstance(run, TeacherRun)
    run.estimate_seconds(UPDATES)


def ensemble(recipe: Recipe, data: OfflineData) -> None:
    """Fit the dynamics ensemble, briefly."""
    DynamicsRun(data, 0, CPU, DynamicsSettings(updates=UPDATES)).fit(progress=False)


def pairs(recipe: Recipe, data: OfflineData) -> None:
    """Make targets, and pairs from them in a few steps."""
    prepared, made = targets(replace(recipe, distillation=DistillationRecipe(kernel_steps=STEPS)), data)
    prepared.loop.run(made, recipe.size, seed=0, progress=False)


def of(method: str) -> Callable[[Recipe, OfflineData], object]:
    """Return what makes a method's targets."""
    return lambda recipe, data: targets(replace(recipe, method=method), data)


PARTS: dict[str, tuple[str, Callable[[Recipe, OfflineData], object]]] = {
    "build": ("collecting and writing", lambda *_: None),
    "load": ("reading", lambda *_: None),
    "updates": (f"{UPDATES} updates of TD3+BC and its minibatches", updates),
    "pbc": ("targets of `pbc`: the teacher's actions", of("pbc")),
    "sdw": ("targets of `sdw`: values and a k-NN density too", of("sdw")),
    "opw": ("targets of `opw`: where the teacher goes", of("opw")),
    "dynamics": (f"{UPDATES} updates of the dynamics ensemble", ensemble),
    "pairs": (f"targets of `opw` and {STEPS} steps through kernels", pairs),
}


def run_part(name: str, dataset: str, steps: int) -> None:
    """Run one part in this process, and print its seconds and the highest memory in MiB."""
    torch.set_num_threads(1)
    begun = time.perf_counter()
    if name == "build":
        BENCHMARK[dataset].build(steps=steps, progress=False)
    else:
        data = load_offline_data(dataset, progress=False)
        begun = begun if name == "load" else time.perf_counter()
        PARTS[name][1](Recipe(dataset, "opw", threads=1), data)
    seconds = time.perf_counter() - begun
    print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))


def main() -> None:
    """Build a dataset of each size, measure the parts, and print them side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[200_000, 2_000_000])
    parser.add_argument("--dataset", default="halfcheetah/medium")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--run", help=argparse.SUPPRESS)
    given = parser.parse_args()
    dataset = f"obd-bench/{given.dataset}-v0"
    if given.run:
        run_part(given.run, dataset, given.steps[0])
        return
    found: dict[int, dict[str, tuple[float, float]]] = {steps: {} for steps in given.steps}
    for steps in given.steps:
        with tempfile.TemporaryDirectory() as folder:
            variables = os.environ | {"MINARI_DATASETS_PATH": f"{folder}/data", "MINARI_OBD_CACHE": f"{folder}/cache"}
            for name in dict.fromkeys(["build", *given.parts]):
                command = [sys.executable, __file__, "--run", name, "--steps", str(steps), "--dataset", given.dataset]
                said = subprocess.run(command, env=variables, stdout=subprocess.PIPE, check=True, text=True).stdout
                found[steps][name] = tuple(json.loads(said.splitlines()[-1]))
                print(f"{steps:,}: {name} {found[steps][name]}", file=sys.stderr, flush=True)
            size = sum(path.stat().st_size for path in Path(folder, "data").rglob("*") if path.is_file())
            print(f"{steps:,} steps take {size / 2**20:,.0f} MiB on disk.")
    rows = []
    for name in given.parts:
        rows.append([PARTS[name][0], *(f"{s:,.1f} s, {m:,.0f} MiB" for s, m in (found[n][name] for n in given.steps))])
        rows[-1] += [f"{found[b][name][0] / found[a][name][0]:.1f}" for a, b in pairwise(given.steps)]
    ratios = [f"times, for {b / a:.0f} times the steps" for a, b in pairwise(given.steps)]
    print(markdown_table(["part", *(f"{steps:,} steps" for steps in given.steps), *ratios], rows))


if __name__ == "__main__":
    main()
