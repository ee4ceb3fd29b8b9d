"""Distillation: from an offline dataset to a distilled one, by way of teacher, density, targets and outer loop."""

import hashlib
import json
import math
import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from minari_obd.distillation.assembly import assemble
from minari_obd.distillation.plan import PlannedTeacher, print_plan, print_values
from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.distilled.folder import check_target
from minari_obd.distiller.loop import OuterLoop
from minari_obd.distiller.result import DivergedError, OuterResult
from minari_obd.errors import DataError, NotFoundError, SettingError, did_you_mean
from minari_obd.registry import DENSITIES, OBJECTIVES, STUDENTS, TEACHERS
from minari_obd.settings.recipe import Recipe, source_name
from minari_obd.sources.data import OfflineData
from minari_obd.sources.loading import load_offline_data
from minari_obd.support.devices import cache_root, choose_device, cpu_threads
from minari_obd.targets.targets import Targets
from minari_obd.teachers.calibration import calibrate
from minari_obd.teachers.frozen import FrozenTeacher, describe_teacher
from minari_obd.teachers.loading import load_teacher
from minari_obd.teachers.protocol import Teacher
from minari_obd.version import __version__

__all__ = ["Distillation", "distill"]


def distill(
    source: Any = None,
    method: str | None = None,
    *,
    size: int | None = None,
    teacher: str | Path | Teacher | None = None,
    seed: int | None = None,
    device: str | None = None,
    out: str | Path | None = None,
    recipe: Recipe | None = None,
    progress: bool = True,
) -> DistilledDataset:
    """Distil an offline dataset into a few hundred (state, action) pairs.

    Args:
        source: what :func:`load_offline_data` takes; a Minari id, for instance.
        method: ``random``, ``kmeans``, ``dbc``, ``pbc``, ``av_pbc``, ``sdw`` (the default) or ``opw``.
        size: how many pairs; 256 by default.
        teacher: an algorithm to train (``calql`` by default), what :func:`load_teacher` takes (a folder, a file, or a
            Hugging Face repository ``organisation/name``), or any object with ``act`` and ``value`` in raw units.
        seed: of every random number; 0 by default.
        device: ``cpu``, ``cuda`` or ``auto`` (the default).
        out: a folder to save the result in; it is checked before any long work.
        recipe: all other settings; the arguments above win over it where they are given.
        progress: print the plan and show bars.

    Raises:
        NotFoundError: an unknown dataset, method or teacher.
        DataError: the data cannot be used, or is smaller than the size.
        SettingError: settings that make no sense, or an output path that cannot be written.
        MissingExtraError: d3rlpy, scikit-learn or zuko is needed and not installed.
        DivergedError: the pairs' gradient could not be used many times in a row; its ``dataset`` holds the best pairs.
    """
    given: dict[str, Any] = {"method": method, "size": size, "seed": seed, "device": device}
    given = {key: value for key, value in given.items() if value is not None}
    if source is not None:
        given["source"] = source_name(source)
    elif recipe is None:
        raise SettingError("Give a source to distil from, such as 'obd-bench/halfcheetah/medium-v0', or a recipe.")
    recipe = replace(recipe, **given) if recipe is not None else Recipe(**given)
    if isinstance(teacher, str | Path):
        recipe = replace(recipe, teacher=replace(recipe.teacher, algorithm=str(teacher)))
        teacher = None
    elif teacher is not None:
        if not isinstance(teacher, Teacher):
            raise SettingError(f"A teacher has methods act and value; {type(teacher).__name__} lacks one of them.")
        name = getattr(teacher, "origin", None) or describe_teacher(teacher)["algorithm"]
        recipe = replace(recipe, teacher=replace(recipe.teacher, algorithm=name))
    return Distillation(recipe, source=source, teacher_object=teacher, progress=progress).run(out)


@dataclass
class Distillation:
    """One run of a recipe; every part is made when it is first asked for, and kept."""

    recipe: Recipe
    source: Any = None
    """The data itself, where it is more than a name."""
    teacher_object: Teacher | None = None
    """A teacher that the caller brings."""
    progress: bool = True
    teacher_seconds: float = 0.0
    """Wall time that the teacher's training took; zero if there was nothing to train."""

    def run(self, out: str | Path | None = None) -> DistilledDataset:
        """Check everything that can be checked, print the plan, do the work, save the result."""
        self.check(out)
        with cpu_threads(self.recipe.threads):
            if self.progress:
                self.print_plan()
            if self.is_selection:
                rows = self._method.select(self.data, self.recipe.size, self.recipe.seed)
                dataset = self._dataset(self.data.observations[rows], self.data.actions[rows])
            else:
                dataset = self._distil(out)
        if out is not None:
            dataset.save(out)
        return dataset

    def _distil(self, out: str | Path | None) -> DistilledDataset:
        targets, where = self.targets, {"checkpoint": self._checkpoint(self.targets), "progress": self.progress}
        try:
            result = self._loop.run(targets, self.recipe.size, seed=self.recipe.seed, **where)
        except DivergedError as error:
            error.dataset = self._dataset_of(error.best[0], targets)
            if out is not None and math.isfinite(error.best[0].offline_loss):
                error.add_note(f"The best pairs so far were saved in '{error.dataset.save(out)}'.")
            raise
        return self._dataset_of(result, targets)

    def _dataset_of(self, result: OuterResult, targets: Targets) -> DistilledDataset:
        low, high = self.data.action_low, self.data.action_high
        actions = low + 0.5 * (result.actions + 1.0) * (high - low)
        observations = self.data.normaliser.denormalise(result.states)
        return self._dataset(observations, actions, result, targets)

    def check(self, out: str | Path | None) -> None:
        """Find what would fail after long work before it starts."""
        OBJECTIVES.check(self.recipe.method)
        STUDENTS.check(self.recipe.student.network)
        DENSITIES.check(self.recipe.density.estimator)
        choose_device(self.recipe.device)
        if out is not None:
            check_target(Path(out))
        _ = self._method, self._estimator, self._loop.precision  # each says if it is not to be had here
        if self.needs_teacher:
            self._check_teacher()
        if self.recipe.size > len(self.data):
            raise DataError(
                f"{self.recipe.size} pairs were asked for, but '{self.data.dataset_id}' has only {len(self.data)} "
                "steps; ask for fewer pairs."
            )
        if not self.is_selection:
            self._loop.check_size(len(self.data), self.recipe.size)
            batch = self.recipe.student.batch_size
            if batch is not None and batch < self.recipe.size:
                raise SettingError(
                    f"student.batch_size is {batch}, but distillation trains students on all {self.recipe.size} pairs "
                    "at once; leave it out."
                )

    def _check_teacher(self) -> None:
        teacher = self._given_teacher
        if teacher is None:
            TEACHERS.get(self.recipe.teacher.algorithm)
        if isinstance(teacher, FrozenTeacher):
            teacher.act(self.data.observations[:1])  # says if it was trained on something else

    @cached_property
    def _given_teacher(self) -> Teacher | None:
        """The caller's own teacher, or the one that is saved somewhere; None if it is to be trained."""
        name = self.recipe.teacher.algorithm
        if self.teacher_object is not None or name in TEACHERS.names():
            return self.teacher_object
        try:
            return load_teacher(name)
        except NotFoundError as error:
            raise NotFoundError(f"{error} Nor is it an algorithm; {did_you_mean(name, TEACHERS.names())}") from None

    @cached_property
    def data(self) -> OfflineData:
        """The offline dataset."""
        return load_offline_data(self.recipe.source if self.source is None else self.source, progress=self.progress)

    @cached_property
    def _method(self) -> Any:
        method = OBJECTIVES.get(self.recipe.method)
        # A method that weights takes what decides the weights; the others have no settings.
        settings: dict[str, Any] = {}
        if getattr(method, "needs_density", False):
            density = self.recipe.density
            settings |= {"effective_fraction": density.effective_fraction, "with_values": density.with_values}
        if getattr(method, "needs_values", False):
            settings["values"] = self.recipe.values
        if getattr(method, "needs_on_policy", False):
            settings["on_policy"] = self.recipe.on_policy
        return method(**settings)

    @cached_property
    def _estimator(self) -> Any:
        return DENSITIES.get(self.recipe.density.estimator)() if getattr(self._method, "needs_density", False) else None

    @property
    def is_selection(self) -> bool:
        """Whether the method picks real pairs and distils none."""
        return hasattr(self._method, "select")

    @property
    def needs_teacher(self) -> bool:
        """Whether the method asks for a teacher."""
        return getattr(self._method, "needs_teacher", False)

    @cached_property
    def _loop(self) -> OuterLoop:
        recipe = self.recipe
        return OuterLoop(recipe.student, recipe.distillation, choose_device(recipe.device))

    @cached_property
    def _teacher_run(self) -> Any:
        """The training to be done, or None if the teacher is there already."""
        if self._given_teacher is not None:
            return None
        from minari_obd.teachers.training import TeacherRun  # d3rlpy is an extra, and slow to import

        recipe, device = self.recipe.teacher, choose_device(self.recipe.device)
        chosen = recipe.options, recipe.average, recipe.precision
        return TeacherRun.of(self.data, recipe.algorithm, recipe.steps, self.recipe.seed, device, *chosen)

    @cached_property
    def teacher(self) -> Teacher:
        """The teacher: trained, loaded, or the caller's own."""
        if self._given_teacher is not None:
            return self._given_teacher
        started = time.perf_counter()
        cached = self._teacher_run.is_cached
        teacher = self._teacher_run.train(progress=self.progress)
        self.teacher_seconds = 0.0 if cached else time.perf_counter() - started
        return teacher

    @property
    def teacher_folder(self) -> Path | None:
        """Where the trained teacher is kept, or will be; None for one that is not trained here."""
        return None if self._teacher_run is None else self._teacher_run.cache_folder

    @cached_property
    def targets(self) -> Targets:
        """What students should do, state by state."""
        teacher = self.teacher if self.needs_teacher else None
        density = None
        if self._method.needs_density:
            states = self.data.normaliser.normalise(self.data.observations)
            density = self._estimator.fit(states, seed=self.recipe.seed)
        targets = self._method.targets(self.data, teacher, density)
        if teacher is None or "mean_value" not in targets.details:
            return targets
        calibration = calibrate(teacher, self.data)
        if self.progress:
            print_values(calibration)
        return replace(targets, details={**targets.details, "value_calibration": calibration.to_json()})

    def _checkpoint(self, targets: Targets) -> Path:
        """A file named after everything that decides the result, so that only the same run resumes from it."""
        recipe = {key: value for key, value in self.recipe.to_json().items() if key not in ("evaluation", "threads")}
        teacher = describe_teacher(self.teacher) if self.needs_teacher else None
        machine = [choose_device(self.recipe.device).type, self._loop.precision]  # what `auto` means here
        identity = [recipe, self.data.content_sha256, teacher, __version__, machine]
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
        if self.teacher_object is not None:  # known by what it says alone
            for array in (targets.actions, targets.weights):
                digest.update(array.tobytes())
        return cache_root() / "checkpoints" / f"{digest.hexdigest()[:32]}.safetensors"

    def print_plan(self) -> None:
        """Say what will be done and, from a short measurement here, how long it will take."""
        teacher = None
        if self.needs_teacher:
            run = self._teacher_run
            teacher = PlannedTeacher(None, 0.0) if run is None else PlannedTeacher(run, run.estimate_seconds())
        seconds = None
        if not self.is_selection:
            sizes = self.data.observations.shape[1], self.data.actions.shape[1]
            seconds = self._loop.seconds_per_step(*sizes, self.recipe.size) * self.recipe.distillation.steps
        print_plan(self.recipe, repr(self.data), teacher, self._estimator, seconds)

    def _dataset(
        self,
        observations: np.ndarray,
        actions: np.ndarray,
        result: OuterResult | None = None,
        targets: Targets | None = None,
    ) -> DistilledDataset:
        teacher = self.teacher if self.needs_teacher else None
        precision = self._loop.precision if result is not None else "float32"
        return assemble(observations, actions, self.recipe, self.data, teacher, result, targets, precision)
