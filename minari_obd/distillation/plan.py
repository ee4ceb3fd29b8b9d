"""The plan: what a run will do and how long that takes here, said before it starts."""

from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console

from minari_obd.settings.recipe import Recipe
from minari_obd.teachers.calibration import Calibration

__all__ = ["PlannedTeacher", "print_plan", "print_values"]


@dataclass(frozen=True)
class PlannedTeacher:
    """A teacher that is given, or a training that is to be done."""

    run: Any
    """The :class:`~minari_obd.teachers.d3rlpy_teacher.TeacherRun`, or None if the teacher is there."""
    seconds: float
    """Estimate of the training; zero if it was done before."""


def print_plan(
    recipe: Recipe, data: str, teacher: PlannedTeacher | None, density: Any, distillation_seconds: float | None
) -> None:
    """Print to standard error; parts that the method does not need are None."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"[bold]Plan[/bold]: {recipe.size} pairs by {recipe.method} from", end=" ")
    console.print(data, markup=False)
    if teacher is not None and teacher.run is None:
        console.print("  teacher      given")
    elif teacher is not None:
        what = f"{teacher.run.algorithm.name}, {teacher.run.steps:,} updates"
        how = f"about {_duration(teacher.seconds)}" if teacher.seconds else "trained before, loaded"
        console.print(f"  teacher      {what}: {how}")
    if density is not None:
        console.print(f"  density      {density!r}", markup=False)
    if distillation_seconds is not None:
        console.print(
            f"  distillation at most {recipe.distillation.steps:,} outer steps through {recipe.student.steps} "
            f"steps of cloning: about {_duration(distillation_seconds)} on {torch.get_num_threads()} thread(s)"
        )


def print_values(calibration: Calibration) -> None:
    """Print how a teacher's values lie beside the data's returns, in red if they are not to be trusted."""
    style = "red" if calibration.problem else None
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"  values       {calibration}", style=style)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
