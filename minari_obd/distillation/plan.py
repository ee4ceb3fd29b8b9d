"""The plan: what a run will do and how long that takes here, said before it starts."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from rich.console import Console

from minari_obd.distillation.preparation import Prepared
from minari_obd.dynamics.fitting import LEAST_SUCCESSORS
from minari_obd.environments.making import check_environment
from minari_obd.errors import MinariObdError
from minari_obd.registry import TEACHERS
from minari_obd.sources.data import OfflineData
from minari_obd.sources.transitions import successor_count
from minari_obd.support.precision import has_fast_bfloat16
from minari_obd.targets.targets import Selection
from minari_obd.teachers.calibration import Calibration
from minari_obd.teachers.frozen import FrozenTeacher
from minari_obd.teachers.plugins import PluginTraining
from minari_obd.teachers.run import TeacherRun

__all__ = ["print_dynamics", "print_gap_fault", "print_plan", "print_values", "print_weights"]

_LONG_SECONDS = 600.0
_FEW = 0.01
"""Effective fraction of the data's states below which their weights are concentrated on hardly any."""


def print_plan(prepared: Prepared) -> None:
    """Print to standard error what will be done and, from a short measurement here, how long it will take."""
    recipe = prepared.recipe
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"[bold]Plan[/bold]: {recipe.size} pairs by {recipe.method} from", end=" ")
    console.print(repr(prepared.data), markup=False)
    _print_doubts(prepared.data, console)
    if isinstance(prepared.teacher, TeacherRun):
        training = prepared.teacher
        # Said before it is timed, which takes a while itself.
        console.print(f"  teacher      {training.algorithm.name}, {training.steps:,} updates:", end=" ")
        seconds = training.estimate_seconds()
        console.print(f"about {_duration(seconds)}" if seconds else "trained before, loaded")
        if seconds > _LONG_SECONDS:
            is_least = training.algorithm.name == "td3_bc" or prepared.data.is_discrete
            faster = "" if is_least else "--teacher.algorithm td3_bc, or "
            text = f"it is kept, and never trained twice; a weaker one takes less: {faster}--teacher.steps N"
            console.print(f"               {text}", markup=False)
    elif isinstance(prepared.teacher, PluginTraining):
        package = TEACHERS.package(prepared.teacher.name)
        console.print(f"  teacher      {prepared.teacher.name}, trained by {package}", markup=False)
    elif recipe.teacher.algorithm == "bundled" and isinstance(prepared.teacher, FrozenTeacher):
        details = prepared.teacher.details
        console.print(f"  teacher      bundled: {details['algorithm']}, score {details['score']:.1f}")
    elif prepared.teacher is not None:
        console.print("  teacher      given")
    if prepared.density is not None:
        console.print(f"  density      {prepared.density!r}", markup=False)
    if prepared.dynamics is not None:
        seconds, settings = prepared.dynamics.estimate_seconds(), prepared.dynamics.settings
        how = f"at most about {_duration(seconds)}" if seconds else "fitted before, loaded"
        console.print(f"  dynamics     {settings.members} networks, {settings.updates:,} updates: {how}")
    elif not isinstance(prepared.method, Selection) and recipe.student_share:
        few = f"{successor_count(prepared.data)} steps with a known next state; {LEAST_SUCCESSORS} are needed"
        console.print(f"  dynamics     left out: {few}", style="yellow", markup=False)
    if not isinstance(prepared.method, Selection):
        sizes = prepared.data.observations.shape[1], prepared.data.actions.shape[1]
        is_visited, settings = prepared.dynamics is not None, recipe.distillation
        seconds = prepared.loop.estimate_seconds(*sizes, recipe.size, is_visited=is_visited)
        count = settings.steps_through_kernels(recipe.size, recipe.student, is_visited=is_visited)
        alone = settings.steps_through_kernels(recipe.size, recipe.student, is_visited=False)
        other = "" if alone == count else f" ({alone:,} without student states)"
        parts = [f"{count:,} steps through kernels{other}"] if settings.initial == "kernel" else []
        if count := settings.outer_steps(recipe.student):
            how = "" if recipe.student.is_solved else f" through {recipe.student.steps} steps of cloning"
            parts.append(f"at most {count:,} outer steps{how}")
        where = f"on {torch.get_num_threads()} thread(s){'' if prepared.dynamics is None else ', without the rollouts'}"
        console.print(f"  distillation {', then '.join(parts)}: about {_duration(seconds)} {where}")
        loop = prepared.loop
        if loop.precision == "bfloat16" and loop.device.type == "cpu" and not has_fast_bfloat16():
            slow = "products in bfloat16 are not faster than in float32 here; precision 'auto' takes the faster ones"
            console.print(f"  precision    {slow}", style="yellow")


def _print_doubts(data: OfflineData, console: Console) -> None:
    """Print which observations never change, or hardly, and why pairs could not be evaluated here, if that is so."""
    frozen = np.flatnonzero(data.normaliser.frozen)
    size = data.observations.shape[1]
    if len(frozen):
        text = f"{len(frozen)} of {size} never change in the data (dimensions {_some(frozen)}, from 0) beyond rounding"
        console.print(f"  observations {text}", style="yellow", markup=False)
    faint = np.flatnonzero(data.normaliser.faint)
    if len(faint):
        text = f"{len(faint)} of {size} vary by less than 0.001 (dimensions {_some(faint)}, from 0), so students"
        console.print(f"  observations {text} hardly see them; give smaller units", style="yellow", markup=False)
    try:
        check_environment(data.env_id, (data.observations.shape[1], data.actions.shape[1]), f"'{data.dataset_id}'")
    except MinariObdError as error:
        console.print(f"  environment  nothing can be evaluated as it is. {error}", style="yellow", markup=False)


def _some(numbers: np.ndarray) -> str:
    return ", ".join(map(str, numbers[:10])) + (", ..." if len(numbers) > 10 else "")


def print_values(calibration: Calibration) -> None:
    """Print how a teacher's values lie beside the data's returns, in red if they are not to be trusted."""
    style = "red" if calibration.problem else None
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"  values       {calibration}", style=style)


def print_weights(details: Mapping[str, Any]) -> None:
    """Print, if that is so, that the weights of the states rest on very few of them."""
    fraction = details.get("effective_fraction")
    if fraction is not None and fraction < _FEW:
        text = f"  weights      of {fraction:.2%} of the states (effectively), so pairs may miss most of the data"
        Console(stderr=True, highlight=False, soft_wrap=True).print(text, style="yellow", markup=False)


def print_gap_fault(cause: str) -> None:
    """Print why the squared error is used in place of the value gap."""
    text = f"  value gap    left out, since {cause}"
    Console(stderr=True, highlight=False, soft_wrap=True).print(text, style="red", markup=False)


def print_dynamics(unexplained: float, fault: str | None) -> None:
    """Print how well the ensemble predicts, in red, with the cause, if it is left out."""
    text = f"  dynamics     {1.0 - unexplained:.1%} of the variance of held-out next states predicted"
    if fault:
        text += f"; {fault}, so the data's states are used alone"
    Console(stderr=True, highlight=False, soft_wrap=True).print(text, style="red" if fault else None)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
