"""What students of the first pairs err by, and what these pairs cost: k-means starts, one kernel, drawn kernels.

    python benchmarks/kernel_start.py obd-bench/hopper/medium-v0 OUT.jsonl [SEEDS]

Every row is of 256 pairs before the first outer step. `outer_steps` is what they cost, in outer steps of the same run
on one thread. The errors are squared errors on held-out states, weighted as by `vgd`, of two kinds of students: the
narrow ones that the outer loop differentiates through, and the wide ones that are cloned.
"""

import json
import sys
import time
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from minari_obd.distillation.distillation import build_targets
from minari_obd.distillation.preparation import prepare
from minari_obd.distiller.data import OuterData
from minari_obd.distiller.looks import held_out_losses
from minari_obd.distiller.loop import OuterLoop
from minari_obd.distiller.start import start
from minari_obd.settings.protocols import ADAM_STUDENT
from minari_obd.settings.recipe import Recipe
from minari_obd.sources.loading import load_offline_data
from minari_obd.students.kernel import Kernel
from minari_obd.teachers.protocol import Teacher

ONE = Kernel(depth=3, bias=0.1, ridge=1e-3)


def main(source: str, out: Path, seeds: int) -> None:
    """Measure one dataset on one thread."""
    torch.set_num_threads(1)
    data = load_offline_data(source)
    recipe = Recipe(source, student=ADAM_STUDENT)
    sizes, settings = (data.observations.shape[1], data.actions.shape[1], recipe.size), recipe.distillation
    loop = OuterLoop(recipe.student, replace(settings, initial="kmeans"), torch.device("cpu"))
    outer_step = min(loop.estimate_seconds(*sizes) for _ in range(3)) / settings.outer_steps(ADAM_STUDENT)
    for seed in range(seeds):
        recipe = Recipe(source, seed=seed, student=ADAM_STUDENT).resolved()
        prepared = prepare(recipe, data, progress=False)
        assert isinstance(prepared.teacher, Teacher), "this benchmark needs a dataset with a bundled teacher"
        targets, device = build_targets(prepared, prepared.teacher, None), prepared.loop.device
        for kind in ("kmeans", "one kernel", "drawn kernels"):
            settings = replace(recipe.distillation, initial="kmeans" if kind == "kmeans" else "kernel")
            work = [OuterData.of(targets, settings, seed, device)]
            begun = time.perf_counter()
            with patch.object(Kernel, "draw", lambda *_: ONE) if kind == "one kernel" else nullcontext():
                state = start(work, recipe.size, recipe.student, settings, checkpoint=None, progress=False)
            seconds = time.perf_counter() - begun
            row = {
                "source": source,
                "seed": seed,
                "start": kind,
                "seconds": seconds,
                "outer_steps": seconds / outer_step,
            }
            plain = [replace(work[0], cost=None)]
            for name, student in (("narrow", recipe.student), ("wide", recipe.cloned_student)):
                scale = torch.zeros(1, device=device)
                (row[name],) = held_out_losses(state.tensors.pairs, plain, student, settings, scale)
            keep(out, row)
    print(asdict(ONE), "is the one kernel")


def keep(out: Path, row: dict[str, Any]) -> None:
    """Print a row, and append it to a file."""
    print(row, flush=True)
    with out.open("a") as file:
        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 3)
