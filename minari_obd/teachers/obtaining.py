"""Obtaining a run's teacher: brought by the caller, loaded from where it is kept, bundled or trained."""

import time
from dataclasses import dataclass, replace

from minari_obd.errors import NotFoundError, SettingError, did_you_mean
from minari_obd.registry import TEACHERS
from minari_obd.settings.recipe import Recipe
from minari_obd.sources.data import OfflineData
from minari_obd.support.devices import choose_device
from minari_obd.support.tracking import Track
from minari_obd.teachers.algorithms import Algorithm, episodes_for
from minari_obd.teachers.bundled import bundled_teacher
from minari_obd.teachers.freezing import CONFIDENCE, at_confidence
from minari_obd.teachers.frozen import FrozenTeacher
from minari_obd.teachers.loading import load_teacher
from minari_obd.teachers.plugins import PluginTraining
from minari_obd.teachers.protocol import Teacher
from minari_obd.teachers.run import TeacherRun

__all__ = ["ObtainedTeacher", "obtain_teacher", "plan_teacher"]


@dataclass(frozen=True)
class ObtainedTeacher:
    """A teacher that is there."""

    teacher: Teacher | None
    """None where none is needed."""
    seconds: float = 0.0
    """Wall time of its training; zero if there was nothing to train."""


def plan_teacher(
    recipe: Recipe, data: OfflineData, given: Teacher | None = None
) -> Teacher | TeacherRun | PluginTraining:
    """Return the teacher, or the training that will make it. Nothing takes long here.

    Args:
        recipe: names the teacher: an algorithm, ``bundled``, ``auto``, or whatever :func:`load_teacher` takes.
        data: the offline dataset.
        given: the caller's own teacher, which wins over the recipe.

    Raises:
        NotFoundError: the recipe's name is neither an algorithm nor a saved teacher, or the source has no bundled one.
        DataError: the teacher was trained on observations of another size.
        SettingError, MissingExtraError: as :meth:`TeacherRun.of`.
    """
    settings = recipe.resolved().teacher
    if given is None and settings.algorithm in TEACHERS.names():
        found = TEACHERS.get(settings.algorithm)
        data = episodes_for(found, data, settings.best_episodes)
        if not isinstance(found, Algorithm):
            _refuse_confidence(settings.confidence)
            return PluginTraining(settings.algorithm, found, data, settings.steps, recipe.seed, settings.options)
        chosen = settings.options, settings.average, settings.precision, settings.confidence
        device = choose_device(recipe.device)
        return TeacherRun.of(data, settings.algorithm, settings.steps, recipe.seed, device, *chosen)
    if given is None and settings.algorithm == "bundled":
        given = bundled_teacher(recipe.source)
    elif given is None:
        try:
            given = load_teacher(settings.algorithm)
        except NotFoundError as error:
            known = did_you_mean(settings.algorithm, [*TEACHERS.names(), "auto", "bundled"])
            raise NotFoundError(f"{error} Nor is it an algorithm; {known}") from None
    if isinstance(given, FrozenTeacher):
        given.act(data.observations[:1])  # raises if it was trained on something else
        if given.is_discrete != data.is_discrete:
            kinds = ["discrete" if each.is_discrete else "continuous" for each in (given, data)]
            raise SettingError(
                f"The teacher's actions are {kinds[0]}, and those of '{data.dataset_id}' are {kinds[1]}; give a "
                "teacher that was trained on such data."
            )
        confidence = settings.confidence
        if given.choice is not None and "temperature" not in given.details:  # DQN's, which knows none
            confidence = confidence or CONFIDENCE
        if confidence is not None:  # the recipe, which is kept, names both, so the origin stays
            given = replace(at_confidence(given, data, confidence), origin=given.origin)
    else:
        _refuse_confidence(settings.confidence)
    return given


def _refuse_confidence(confidence: float | None) -> None:
    if confidence is not None:
        raise SettingError(
            f"teacher.confidence is {confidence}, but this teacher gives probabilities of its own; leave it out."
        )


def obtain_teacher(
    planned: Teacher | TeacherRun | PluginTraining | None, *, progress: bool = True, track: Track | None = None
) -> ObtainedTeacher:
    """Return the planned teacher; train it, unless this very training was done before.

    Args:
        planned: what :func:`plan_teacher` gave.
        progress: show a bar.
        track: who is told how d3rlpy's training goes.

    Raises:
        MinariObdError: the training diverged.
    """
    if isinstance(planned, PluginTraining):
        started = time.perf_counter()
        return ObtainedTeacher(planned.train(), time.perf_counter() - started)
    if not isinstance(planned, TeacherRun):
        return ObtainedTeacher(planned)
    was_cached, started = planned.is_cached, time.perf_counter()
    teacher = planned.train(progress=progress, track=track)
    return ObtainedTeacher(teacher, 0.0 if was_cached else time.perf_counter() - started)
