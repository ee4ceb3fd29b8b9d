"""Distillation: from an offline dataset to a distilled one, by way of teacher, density, targets and outer loop."""

import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from minari_obd.densities.base import Density
from minari_obd.distillation.assembly import assemble_distilled, assemble_selected
from minari_obd.distillation.keeping import with_kept_evaluation
from minari_obd.distillation.plan import print_dynamics, print_gap_fault, print_plan, print_values, print_weights
from minari_obd.distillation.preparation import Prepared, prepare, recipe_of
from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.distiller.result import DivergedError, OuterResult
from minari_obd.dynamics.ensemble import MOST_UNEXPLAINED
from minari_obd.settings.recipe import Recipe
from minari_obd.support.devices import cache_root, cpu_threads
from minari_obd.support.tracking import Track, TrackerName, tracking
from minari_obd.targets.student_states import StudentStates
from minari_obd.targets.targets import Selection, TargetInputs, Targets
from minari_obd.targets.value_gap import ValueGap, check_critics, find_fault
from minari_obd.teachers.calibration import calibrate
from minari_obd.teachers.frozen import FrozenTeacher, describe_teacher
from minari_obd.teachers.obtaining import ObtainedTeacher, obtain_teacher
from minari_obd.teachers.protocol import Teacher
from minari_obd.version import __version__

__all__ = ["Outcome", "add_student_states", "build_targets", "distill", "fit_density", "run"]

_MOST_LOST = 0.75
"""Share of the teacher's episodes in an ensemble that may leave what it knows. Of HalfCheetah medium's 56% do, and its
students' states make students better; of Hopper medium's 96% do, and they do harm."""


@dataclass(frozen=True)
class Outcome:
    """What a run gave."""

    dataset: DistilledDataset
    taught: ObtainedTeacher
    """The teacher, and how long its training took."""
    seconds: float
    """Wall time to make the pairs, without the teacher's training; of a resumed one, with the steps before."""


def distill(
    source: Any = None,
    method: str | None = None,
    *,
    size: int | Sequence[int] | None = None,
    teacher: str | Path | Teacher | None = None,
    seed: int | None = None,
    device: str | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    recipe: Recipe | None = None,
    progress: bool = True,
    track: TrackerName | Track | None = None,
) -> DistilledDataset:
    """Distil an offline dataset into a few hundred (state, action) pairs.

    Args:
        source: what :func:`load_offline_data` takes, such as a Minari id.
        method: ``random``, ``kmeans``, ``dbc``, ``pbc``, ``av_pbc``, ``sdw``, ``opw`` or ``vgd`` (the default).
        size: how many pairs; 256 by default. Of several sizes, such as ``[16, 64, 256]``, the largest is made, and its
            first 16 and first 64 pairs make sets of their own (:meth:`DistilledDataset.first`).
        teacher: an algorithm to train, ``bundled`` for the one that comes with the package, what :func:`load_teacher`
            takes (a folder, a file, or a Hugging Face repository ``organisation/name``), or any object with ``act`` and
            ``value`` in raw units, which is tried on eight states before long work. By default, the bundled one if the
            source has one, and ``bc`` otherwise, or ``discrete_cql`` for discrete actions.
        seed: seed of every random number; 0 by default.
        device: ``cpu``, ``cuda`` or ``auto`` (the default).
        out: a folder to save the result in. It is checked before any long work.
        overwrite: let the result take the place of another run's in that folder.
        recipe: all other settings. The arguments above win over it where they are given.
        progress: print the plan and show progress bars.
        track: who is told how the training of the teacher and the distillation go, while they do: a function of
            ``(step, values)``, or ``tensorboard``, ``wandb`` or ``trackio``. It changes no bit of the result.

    Raises:
        NotFoundError: an unknown dataset, method or teacher.
        DataError: the data cannot be used, or has fewer steps than pairs were asked for.
        SettingError: settings that make no sense, or a folder that cannot be written or
            holds another run's result.
        MissingExtraError: d3rlpy, scikit-learn or zuko is needed and not installed.
        DivergedError: the pairs' gradient could not be used many times in a row. Its ``dataset`` holds the best pairs.
    """
    recipe = recipe_of(recipe, source, method=method, size=size, teacher=teacher, seed=seed, device=device)
    brought = None if isinstance(teacher, str | Path) else teacher
    told: dict[str, Any] = {"progress": progress, "track": track}
    return run(prepare(recipe, source, brought, out=out, overwrite=overwrite, **told)).dataset


def run(prepared: Prepared) -> Outcome:
    """Carry out a prepared run: teacher, density, targets, pairs, dataset; save it if the run says where.

    Raises:
        MinariObdError: as :func:`distill`.
    """
    name = prepared.recipe.name
    with cpu_threads(prepared.recipe.threads), tracking(prepared.track, name, prepared.out) as track:
        if prepared.progress:
            print_plan(prepared)
        taught = obtain_teacher(prepared.teacher, progress=prepared.progress, track=track)
        begun, checkpoint, earlier = time.perf_counter(), None, 0.0
        if isinstance(prepared.method, Selection):
            rows = prepared.method.select(prepared.data, prepared.recipe.size, prepared.recipe.seed)
            dataset = assemble_selected(prepared, rows)
        else:
            density = fit_density(prepared)
            targets = build_targets(prepared, taught.teacher, density)
            targets = add_student_states(prepared, taught.teacher, targets)
            checkpoint = _checkpoint(prepared, taught.teacher, targets)
            result = _distil(prepared, taught.teacher, targets, checkpoint, track)
            earlier = result.earlier_seconds
            dataset = assemble_distilled(prepared, taught.teacher, targets, result)
        if prepared.out is not None:
            dataset = with_kept_evaluation(dataset, prepared.out)
            dataset.save(prepared.out)
        if checkpoint is not None:  # until here an interrupt loses nothing
            checkpoint.unlink(missing_ok=True)
        return Outcome(dataset, taught, earlier + time.perf_counter() - begun)


def fit_density(prepared: Prepared) -> Density | None:
    """Fit the density of the data's normalised states; None if the method needs none."""
    if prepared.density is None:
        return None
    states = prepared.data.normaliser.normalise(prepared.data.observations)
    return prepared.density.fit(states, seed=prepared.recipe.seed)


def build_targets(prepared: Prepared, teacher: Teacher | None, density: Density | None) -> Targets:
    """Return what students should do, state by state; with values, also how these lie beside the data's returns."""
    method, data = prepared.method, prepared.data
    assert not isinstance(method, Selection), "a selection has no targets"
    targets = method.targets(TargetInputs(data, teacher, density))
    if prepared.progress:
        print_weights(targets.details)
    objective = prepared.recipe.distillation.objective
    asks = objective == "value_gap" or (objective == "auto" and method.is_by_value)
    is_own = teacher is not None and not isinstance(teacher, FrozenTeacher)
    if asks and is_own and objective == "auto":  # its values would be asked for nothing, and it may have none
        asks = False
        if prepared.progress:
            print_gap_fault(f"a {type(teacher).__name__} has no critics that are networks")
    if teacher is None or not (asks or "mean_value" in targets.details):
        return targets
    calibration = calibrate(teacher, data)
    details = {**targets.details, "value_calibration": calibration.to_json()}
    if prepared.progress:
        print_values(calibration)
    if asks:
        fault = None if objective == "value_gap" else find_fault(check_critics(teacher), data, calibration)
        cost = None if fault else ValueGap.of(teacher, data)
        targets, details = replace(targets, cost=cost), {**details, "gap_fault": fault}
        if fault and prepared.progress:
            print_gap_fault(f"the critics are not to be trusted: {fault}")
    return replace(targets, details=details)


def add_student_states(prepared: Prepared, teacher: Teacher | None, targets: Targets) -> Targets:
    """Return the targets with the states that students visit in the learned dynamics, if the run asks for them.

    An ensemble that predicts next states hardly better than their mean is not used, nor, unless the recipe asks for the
    states, one that the teacher itself mostly leaves; the plan and the details say so.
    """
    if prepared.dynamics is None or teacher is None:
        return targets
    assert not isinstance(prepared.method, Selection)
    recipe = prepared.recipe
    ensemble = prepared.dynamics.fit(progress=prepared.progress)
    settings = replace(recipe.student_states, share=recipe.student_share)
    visited = StudentStates(ensemble, prepared.data, teacher, settings, recipe.seed, targets.weights)
    fault = None
    if ensemble.unexplained > MOST_UNEXPLAINED:
        fault = "that is too little to say where students go"
    elif visited.lost > _MOST_LOST and recipe.student_states.share is None:
        fault = f"but of the teacher's own episodes, {visited.lost:.0%} go where the data says nothing"
    if prepared.progress:
        print_dynamics(ensemble.unexplained, fault)
    details = {**targets.details, "dynamics": {**ensemble.details, "lost": visited.lost, "is_used": fault is None}}
    return replace(targets, details=details, visited=None if fault else visited)


def _distil(
    prepared: Prepared, teacher: Teacher | None, targets: Targets, checkpoint: Path, track: Track | None
) -> OuterResult:
    """Run the outer loop. If it diverges, its best pairs are saved as a distilled dataset."""
    recipe = prepared.recipe
    try:
        told = {"checkpoint": checkpoint, "progress": prepared.progress, "track": track}
        return prepared.loop.run(targets, recipe.size, seed=recipe.seed, **told)
    except DivergedError as error:
        error.dataset = assemble_distilled(prepared, teacher, targets, error.best[0])
        if prepared.out is not None and math.isfinite(error.best[0].offline_loss):
            error.add_note(f"The best pairs so far were saved in '{error.dataset.save(prepared.out)}'.")
        raise


def _checkpoint(prepared: Prepared, teacher: Teacher | None, targets: Targets) -> Path:
    """Return a file named after everything that decides the result, so that only the same run resumes from it."""
    recipe = {key: value for key, value in prepared.recipe.deciding().items() if key not in ("evaluation", "threads")}
    said = None if teacher is None else describe_teacher(teacher)
    machine = [prepared.loop.device.type, prepared.loop.precision]  # what `auto` means here
    identity = [recipe, prepared.data.content_sha256, said, __version__, machine]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
    if prepared.is_teacher_brought:  # a caller's own object is known only by what it does
        for array in (targets.actions, targets.weights):
            digest.update(array.tobytes())
    return cache_root() / "checkpoints" / f"{digest.hexdigest()[:32]}.safetensors"
