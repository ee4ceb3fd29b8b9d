"""Preparation: a run's settings checked against each other and against the data, before anything takes long."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from minari_obd.densities.base import Density
from minari_obd.distillation.keeping import check_same_run, kept_recipe
from minari_obd.distilled.folder import check_target
from minari_obd.distiller.loop import OuterLoop
from minari_obd.dynamics.fitting import LEAST_SUCCESSORS, DynamicsRun, DynamicsSettings
from minari_obd.environments.making import check_environment, check_environment_id
from minari_obd.errors import DataError, SettingError
from minari_obd.registry import DENSITIES, OBJECTIVES, STUDENTS, TEACHERS
from minari_obd.settings.checks import check_instance
from minari_obd.settings.recipe import Recipe, source_name
from minari_obd.sources.data import OfflineData
from minari_obd.sources.loading import load_offline_data
from minari_obd.sources.transitions import successor_count
from minari_obd.storage.cache import check_cache
from minari_obd.support.devices import choose_device
from minari_obd.support.libraries import check_installed
from minari_obd.support.tracking import Track, TrackerName, check_track
from minari_obd.targets.targets import Objective, Selection
from minari_obd.targets.value_gap import check_critics
from minari_obd.teachers.algorithms import Algorithm
from minari_obd.teachers.bundled import find_bundled_teacher
from minari_obd.teachers.frozen import FrozenTeacher, describe_teacher
from minari_obd.teachers.obtaining import plan_teacher
from minari_obd.teachers.plugins import PluginTraining
from minari_obd.teachers.protocol import Teacher, check_teacher
from minari_obd.teachers.run import TeacherRun

__all__ = ["Prepared", "evaluable", "prepare", "recipe_of"]


@dataclass(frozen=True)
class Prepared:
    """A run that was checked. The data is read; nothing was trained, fitted or written."""

    recipe: Recipe
    data: OfflineData
    method: Objective | Selection
    teacher: Teacher | TeacherRun | PluginTraining | None
    """The teacher, the training that will make it, or None if the method needs none."""
    density: Density | None
    """The estimator, not fitted yet, or None if the method needs none."""
    loop: OuterLoop
    dynamics: DynamicsRun | None = None
    """The fit of the ensemble that says where students go, or None if the run does not ask."""
    is_teacher_brought: bool = False
    """Whether the caller, or another package, brings the teacher, so that no name identifies it."""
    out: Path | None = None
    """Folder to save the result in."""
    progress: bool = True
    """Whether to show bars."""
    track: TrackerName | Track | None = None
    """Who is told how the run goes. It decides nothing."""


def recipe_of(
    recipe: Recipe | None,
    source: Any = None,
    *,
    method: str | None = None,
    size: int | Sequence[int] | None = None,
    teacher: str | Path | Teacher | None = None,
    seed: int | None = None,
    device: str | None = None,
) -> Recipe:
    """Return the recipe with the arguments of :func:`distill`, which win over it where they are given.

    Raises:
        SettingError: neither a source nor a recipe was given, or ``teacher`` lacks ``act`` or ``value``, or is a class.
    """
    if recipe is not None:
        check_instance("The argument recipe", recipe, Recipe)
    given: dict[str, Any] = {"method": method, "size": size, "seed": seed, "device": device}
    given = {key: value for key, value in given.items() if value is not None}
    if source is not None:
        given["source"] = source_name(source)
    elif recipe is None:
        raise SettingError("Give a source to distil from, such as 'obd-bench/halfcheetah/medium-v0', or a recipe.")
    nested: list[int] = []
    if isinstance(size, Sequence) and not isinstance(size, str) and size:
        *nested, given["size"] = sorted(size)
    base = Recipe(given["source"]) if recipe is None else recipe
    if nested:
        given["distillation"] = replace(base.distillation, nested=tuple(nested))
    recipe = replace(base, **given)
    if teacher is None:
        return recipe
    if isinstance(teacher, type):
        raise SettingError(f"The teacher is the class {teacher.__name__}; give an object of it.")
    if isinstance(teacher, str | Path):
        name = str(teacher)
    elif isinstance(teacher, Teacher):
        name = getattr(teacher, "origin", None) or describe_teacher(teacher)["algorithm"]
    else:
        lacking = " and ".join(each for each in ("act", "value") if not hasattr(teacher, each))
        raise SettingError(
            f"A teacher has methods act and value; what was given, a {type(teacher).__name__}, lacks {lacking}. Write "
            "a class that has both; of Stable-Baselines3, give the path of a saved model's zip."
        )
    return replace(recipe, teacher=replace(recipe.teacher, algorithm=name))


def prepare(
    recipe: Recipe,
    source: Any = None,
    teacher: Teacher | None = None,
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    evaluates: bool = False,
    progress: bool = True,
    track: TrackerName | Track | None = None,
) -> Prepared:
    """Read the data, and find whatever would fail after long work before it starts.

    Args:
        recipe: all settings.
        source: the data itself, where it is more than the recipe's name for it.
        teacher: the caller's own teacher.
        out: folder to save the result in.
        overwrite: let the result take the place of another run's.
        evaluates: whether the run evaluates its result, so that it needs an environment.
        progress: show bars.
        track: who is told how the run goes.

    Raises:
        MinariObdError: as :func:`minari_obd.distill`.
    """
    check_track(track)
    OBJECTIVES.check(recipe.method)
    STUDENTS.check(recipe.student.network)
    given, recipe = recipe, recipe.resolved()
    DENSITIES.check(recipe.density.estimator)
    loop = OuterLoop(recipe.student, recipe.distillation, choose_device(recipe.device))
    if out is not None:
        check_target(Path(out))
    method: Objective | Selection = OBJECTIVES.get(recipe.method).of(recipe)
    density: Density | None = DENSITIES.get(recipe.density.estimator)() if method.needs_density else None
    _ = loop.precision  # raises if it does not exist here
    algorithm = recipe.teacher.algorithm
    is_named = method.needs_teacher and teacher is None and algorithm in TEACHERS.names()
    if is_named and isinstance(TEACHERS.get(algorithm), Algorithm):
        check_installed("d3rlpy", "distill")
    if method.needs_teacher and teacher is None and recipe.teacher.algorithm == "bundled":
        find_bundled_teacher(recipe.source)  # raises if there is none
    if not isinstance(method, Selection):
        check_cache()
    if recipe.evaluation.env is not None:
        check_environment_id(recipe.evaluation.env)
    if progress:
        text = f"Reading '{recipe.source}'. The plan, and how long its parts take here, follows."
        Console(stderr=True, highlight=False, soft_wrap=True).print(text, markup=False)
    data = load_offline_data(recipe.source if source is None else source, progress=progress)
    if evaluates or recipe.evaluation.env is not None:
        data = evaluable(data, recipe)
    suited = given.suited(is_discrete=data.is_discrete, may_choose=data.may_choose).resolved()
    recipe = suited if teacher is None else replace(suited, teacher=recipe.teacher)
    STUDENTS.check(recipe.student.network)
    method = OBJECTIVES.get(recipe.method).of(recipe)  # once more, by what the data decides
    loop = replace(loop, protocol=recipe.student)
    planned = plan_teacher(recipe, data, teacher) if method.needs_teacher else None
    if isinstance(method, Objective) and isinstance(planned, TeacherRun):
        method.check(data)
    elif (
        method.needs_teacher
        and isinstance(method, Objective)
        and teacher is not None
        and not isinstance(teacher, FrozenTeacher)
    ):
        check_teacher(teacher, data, values=method.weighs_by_value)
    by_gap = isinstance(method, Objective) and recipe.distillation.objective == "value_gap"
    if by_gap and not isinstance(planned, TeacherRun | PluginTraining):
        check_critics(planned)
    if out is not None and not overwrite:
        check_same_run(Path(out), kept_recipe(recipe, planned), data)
    _check_size(recipe, data, None if isinstance(method, Selection) else loop)
    return Prepared(
        recipe=recipe,
        data=data,
        method=method,
        teacher=planned,
        density=density,
        loop=loop,
        dynamics=_dynamics(recipe, method, data, loop),
        is_teacher_brought=teacher is not None or isinstance(planned, PluginTraining),
        out=None if out is None else Path(out),
        progress=progress,
        track=track,
    )


def evaluable(data: OfflineData, recipe: Recipe) -> OfflineData:
    """Return the data in the environment that the recipe evaluates in: its own, or the one that the recipe names.

    Raises:
        SettingError: the environment is not known, or has observations and actions of other sizes.
        NotFoundError: it is not registered.
        MinariObdError: it cannot be made.
    """
    data = data.in_environment(recipe.evaluation.env)
    check_environment(data.env_id, (data.observations.shape[1], data.actions.shape[1]), f"'{data.dataset_id}'")
    return data


def _dynamics(recipe: Recipe, method: Objective | Selection, data: OfflineData, loop: OuterLoop) -> DynamicsRun | None:
    """Return the fit of the ensemble, if students' states are asked for; None if not."""
    if isinstance(method, Selection):
        return None
    share, settings = recipe.student_share, recipe.student_states
    if not share or (settings.share is None and successor_count(data) < LEAST_SUCCESSORS):
        return None
    if not method.needs_teacher:
        raise SettingError(
            f"student_states.share is {share:g}, but method '{recipe.method}' has no teacher to say what students "
            "should do in the states that they visit; set it to 0, or use method 'pbc'."
        )
    if (count := successor_count(data)) < LEAST_SUCCESSORS:
        raise DataError(
            f"student_states.share is {share:g}, but '{data.dataset_id}' has {count} steps with a known next state, "
            f"and an ensemble needs at least {LEAST_SUCCESSORS}; set it to 0, or give next_observations or more data."
        )
    return DynamicsRun(data, settings.dynamics_seed, loop.device, DynamicsSettings.suited(count))


def _check_size(recipe: Recipe, data: OfflineData, loop: OuterLoop | None) -> None:
    """Make sure that so many pairs can be selected or, with a loop, distilled."""
    if recipe.size > len(data):
        raise DataError(
            f"{recipe.size} pairs were asked for, but '{data.dataset_id}' has only {len(data)} steps; "
            "ask for fewer pairs."
        )
    if loop is None:
        if recipe.distillation.nested:
            raise SettingError(
                f"distillation.nested is {list(recipe.distillation.nested)}, but method '{recipe.method}' takes real "
                "pairs and distils none; make a set of each size instead."
            )
        return
    loop.check_size(len(data), recipe.size)
    batch = recipe.student.batch_size
    if batch is not None and batch < recipe.size:
        raise SettingError(
            f"student.batch_size is {batch}, but distillation trains students on all {recipe.size} pairs at once; "
            "leave it out."
        )
