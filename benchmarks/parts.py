"""What the parts of a default run cost, as multiples of a step through kernels with squared errors.

    python benchmarks/parts.py [obd-bench/halfcheetah/medium-replay-v0] [--size 256]

One thread, all parts in one process, the least of three measurements each. The dynamics ensemble is fitted if it was
not before.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from minari_obd.cloning.cloning import clone
from minari_obd.distillation.distillation import add_student_states, build_targets, distill
from minari_obd.distillation.preparation import prepare
from minari_obd.distiller.data import OuterData
from minari_obd.distiller.kernel import KernelStart
from minari_obd.distiller.looks import cost_scale, held_out_losses
from minari_obd.evaluation.evaluation import evaluate
from minari_obd.settings.recipe import Recipe
from minari_obd.settings.sections import DistillationRecipe
from minari_obd.support.tables import markdown_table
from minari_obd.teachers.protocol import Teacher


def least(run: Callable[[], object]) -> float:
    """Return the least seconds of three runs."""
    found = []
    for _ in range(3):
        begun = time.perf_counter()
        run()
        found.append(time.perf_counter() - begun)
    return min(found)


def main() -> None:
    """Measure the parts, and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", default="obd-bench/halfcheetah/medium-replay-v0")
    parser.add_argument("--size", type=int, default=256)
    given = parser.parse_args()
    torch.set_num_threads(1)
    recipe = Recipe(given.source, size=given.size, threads=1)
    prepared = prepare(recipe, progress=False)
    teacher = prepared.teacher
    assert isinstance(teacher, Teacher), "this benchmark needs a dataset with a bundled teacher"
    assert prepared.dynamics is not None
    is_new = not prepared.dynamics.is_cached
    targets = build_targets(prepared, teacher, None)
    begun = time.perf_counter()
    full = add_student_states(prepared, teacher, targets)
    fitted = time.perf_counter() - begun
    protocol, settings = prepared.recipe.student, prepared.recipe.distillation
    plain, costly = (
        OuterData.of(each, settings, 0, torch.device("cpu")) for each in (replace(targets, cost=None), full)
    )
    pairs = [tensor[: given.size].clone() for tensor in plain.tensors[:2]]
    shown = [part[None] for part in pairs]
    scale = cost_scale(shown, [costly], protocol, settings)
    start = KernelStart(protocol, settings)
    begin = start.begin(pairs[0], pairs[1]).pairs
    rows = [
        (name, min(start.seconds_per_step(pairs[0], pairs[1], data) for _ in range(3)))
        for name, data in (("a step, squared errors", plain), ("a step, with the value gap", costly))
        if data is plain or full.cost is not None
    ]
    if costly.visited is not None:
        rows.append(("following students once in the ensemble", least(lambda: start._follow(begin, costly, 0, []))))
    look = least(lambda: held_out_losses(shown, [costly], protocol, settings, scale))
    rows.append(("a look at the held-out states", look))
    rows.append(("fitting the ensemble" if is_new else "loading the ensemble, and the teacher in it", fitted))
    few = replace(recipe, distillation=DistillationRecipe(kernel_steps=1))
    made = distill(prepared.data, recipe=few, progress=False)
    rows.append(("cloning", least(lambda: clone(made, students=1))))
    policy = clone(made, students=1)
    rows.append(("one episode of evaluation", least(lambda: evaluate(policy, episodes=1, workers=1))))
    unit = rows[0][1]
    print(markdown_table(["part", "ms", "in steps"], [[n, f"{1e3 * s:.2f}", f"{s / unit:.1f}"] for n, s in rows]))


if __name__ == "__main__":
    main()
