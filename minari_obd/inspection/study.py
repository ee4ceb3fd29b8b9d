"""One running diagnosis: students, teacher, pairs and rows of the source, and their measurements."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from minari_obd.cloning.cloning import clone
from minari_obd.cloning.policy import Policy
from minari_obd.densities.base import Density
from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.distiller.data import Split, initial_rows, split_rows
from minari_obd.environments.making import make_environment
from minari_obd.environments.rollouts import Visits, visit
from minari_obd.errors import DataError, MinariObdError
from minari_obd.evaluation.subjects import check_fit
from minari_obd.inspection.density_errors import ErrorByDensity
from minari_obd.inspection.diagnostics import ActionError, Diagnostics, Membership
from minari_obd.inspection.neighbours import NEIGHBOURS, Coverage, Nearness, nearest_distances
from minari_obd.inspection.origins import cached_teacher, load_source
from minari_obd.registry import DENSITIES, OBJECTIVES
from minari_obd.scores.estimates import Estimate, estimate_auc, estimate_mean, quartiles
from minari_obd.settings.recipe import Recipe, recorded_recipe
from minari_obd.sources.data import OfflineData
from minari_obd.students.networks import make_student
from minari_obd.students.training import mean_squared_error
from minari_obd.support.progress import progress_bar
from minari_obd.support.streams import Stream
from minari_obd.targets.targets import Selection
from minari_obd.teachers.loading import load_teacher
from minari_obd.teachers.protocol import Teacher, bounded_actions

__all__ = ["Rows", "Study"]

_FARTHEST = 1e6


_ROWS_AT_ONCE = 4_096


class Rows(NamedTuple):
    """Rows of the source, by their role in making the pairs."""

    split: Split
    initial: np.ndarray
    drawn: np.ndarray
    """Training rows that every method's recipe with this seed draws, shape (T,)."""


class _HeldOut(NamedTuple):
    """Students' errors at held-out states."""

    errors: np.ndarray
    """Squared errors, averaged over action dimensions, shape (E, T)."""
    wanted: np.ndarray
    """Actions with which the students are compared, on [-1, 1], shape (T, A)."""


@dataclass
class Study:
    """One diagnosis. Each of its parts is a method."""

    dataset: DistilledDataset
    data: OfflineData
    rows: Rows
    pairs: np.ndarray
    """States of the pairs in z-scores, shape (M, S)."""
    teacher: Teacher | None
    policy: Policy
    density: Density | str
    """Not fitted yet."""
    seed: int
    progress: bool

    @classmethod
    def of(
        cls,
        dataset: DistilledDataset,
        source: Any,
        *,
        teacher: Teacher | str | Path | None,
        students: int,
        density: Density | str,
        seed: int,
        progress: bool,
    ) -> "Study":
        """Find source, teacher and rows, and clone the students. Arguments and errors are those of ``diagnose``."""
        if isinstance(density, str):
            DENSITIES.check(density)
        data = load_source(dataset, source, progress=progress)
        if isinstance(teacher, str | Path):
            teacher = load_teacher(teacher)
        teacher = cached_teacher(dataset, data) if teacher is None else teacher
        rows, pairs = _rows(dataset, data), _pairs(dataset, data)
        policy = clone(dataset, students=students, seed=seed, progress=progress)
        return cls(dataset, data, rows, pairs, teacher, policy, density, seed, progress)

    def report(self, episodes: int) -> Diagnostics:
        """Measure everything that can be measured on this machine."""
        dataset, split, notes = self.dataset, self.rows.split, []
        held_out = self.data.observations[split.held_out]
        where = self.pairs, self.states[split.training], self.states[split.held_out], self.seed
        offline = self.action_error(held_out, self.actions[split.held_out])
        to_teacher = on_teacher = on_own = student_score = teacher_score = coverage = by_density = None
        if self.teacher is None:
            notes.append("No teacher was given or found, and none is trained here; name a saved one with --teacher.")
        else:
            to_teacher = _summary(list(self.held_out.errors), self.held_out.wanted)
        if self.can_roll_out(notes):
            visits = self.visits(episodes)
            student_score = self.score(visits[: self.policy.students])
            if self.teacher is not None:
                teachers = visits.pop()
                teacher_score = self.score([teachers])
                on_teacher = self.action_error(teachers.observations, self.teacher_actions(teachers.observations))
                wanted = [self.teacher_actions(each.observations) for each in visits]
                given = [self.scaled(each.actions) for each in visits]
                errors = [np.square(g - w).mean(axis=1) for g, w in zip(given, wanted, strict=True)]
                on_own = _summary(errors, np.concatenate(wanted))
        if min(len(dataset), len(split.held_out)) > NEIGHBOURS:
            coverage = Coverage.of(*where)
        else:
            notes.append(f"Coverage needs more than {NEIGHBOURS} pairs and held-out states.")
        try:
            by_density = self.error_by_density()
        except MinariObdError as reason:
            notes.append(f"There are no errors by density: {reason}")
        initial = None
        if len(self.rows.initial) > 1:
            initial = self.membership(self.rows.initial, split.held_out)
        else:
            notes.append("There is no membership test of initial rows: too few of the pairs' initial rows were found.")
        count = min(len(split.training), len(split.held_out))
        some = Stream.MEMBERSHIP.generator(self.seed).choice(split.training, count, replace=False)
        return Diagnostics(
            source=dataset.provenance.source,
            method=dataset.provenance.method,
            pairs=len(dataset),
            students=self.policy.students,
            episodes=episodes,
            seed=self.seed,
            offline_error=offline,
            offline_error_to_teacher=to_teacher,
            error_on_teacher_trajectories=on_teacher,
            error_on_own_trajectories=on_own,
            is_scored=dataset.reference is not None,
            student_score=student_score,
            teacher_score=teacher_score,
            coverage=coverage,
            nearness=Nearness.of(*where),
            membership=self.membership(some, split.held_out),
            initial_membership=initial,
            error_by_density=by_density,
            notes=tuple(notes),
        )

    def error_by_density(self) -> ErrorByDensity:
        """Return errors at held-out states by decile of density, against the teacher's actions, or else the data's."""
        # Always the same fit: neither the set's own method nor the students' seed affects it.
        density = DENSITIES.get(self.density)() if isinstance(self.density, str) else self.density
        fitted = density.fit(self.states[self.rows.drawn], seed=0)
        known = fitted.log_prob(self.states[self.rows.split.held_out])
        against = "data" if self.teacher is None else "teacher"
        return ErrorByDensity.of(*self.held_out, known, estimator=repr(density), against=against)

    @cached_property
    def held_out(self) -> _HeldOut:
        """Students' errors at held-out states, against the teacher's actions, or the data's without a teacher."""
        rows = self.rows.split.held_out
        observations = self.data.observations[rows]
        wanted = self.actions[rows] if self.teacher is None else self.teacher_actions(observations)
        return _HeldOut(self.errors(observations, wanted), wanted)

    @cached_property
    def states(self) -> np.ndarray:
        """States of the source in z-scores, shape (N, S)."""
        return self.data.normaliser.normalise(self.data.observations)

    @cached_property
    def actions(self) -> np.ndarray:
        """Actions of the source on [-1, 1], shape (N, A)."""
        return self.data.scaled_actions()

    def scaled(self, actions: np.ndarray) -> np.ndarray:
        """Convert raw actions (B, A) to [-1, 1]."""
        return self.dataset.action_scale.scale(actions).astype(np.float32)

    def teacher_actions(self, observations: np.ndarray) -> np.ndarray:
        """Return the teacher's actions at raw observations (B, S), on [-1, 1], shape (B, A)."""
        assert self.teacher is not None
        low, high = self.dataset.action_low, self.dataset.action_high
        return self.scaled(bounded_actions(self.teacher, observations, low, high))

    @torch.no_grad()
    def errors(self, observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Return students' squared errors at raw observations (B, S), against actions on [-1, 1], shape (E, B)."""
        student = make_student(self.policy.protocol)
        states = torch.from_numpy(self.policy.normaliser.normalise(observations))
        parts = zip(states.split(_ROWS_AT_ONCE), torch.tensor(actions).split(_ROWS_AT_ONCE), strict=True)
        found = [mean_squared_error(student, self.policy.parameters, *part) for part in parts]
        return torch.cat(found, dim=1).numpy()

    def action_error(self, observations: np.ndarray, actions: np.ndarray) -> ActionError:
        """Return a summary of :meth:`errors`."""
        return _summary(list(self.errors(observations, actions)), actions)

    def can_roll_out(self, notes: list[str]) -> bool:
        """Return whether there is an environment that fits. If not, add a note that says why."""
        if self.dataset.env_id is None:
            notes.append("There are no rollouts: the dataset names no environment.")
            return False
        try:
            environment = make_environment(self.dataset.env_id)
            check_fit(self.policy, environment)
            environment.close()
        except MinariObdError as reason:
            notes.append(f"There are no rollouts: {reason}")
            return False
        return True

    def visits(self, episodes: int) -> list[Visits]:
        """Roll out each student, and finally the teacher if there is one."""
        assert self.dataset.env_id is not None
        starts = Stream.EPISODES.seeds(episodes, self.seed)
        alone = [
            replace(self.policy, parameters=[p[i : i + 1] for p in self.policy.parameters])
            for i in range(self.policy.students)
        ]
        actors: list[Any] = [lambda observations, one=each: one.act_each(observations)[0] for each in alone]
        actors += [] if self.teacher is None else [self.teacher.act]
        found = []
        with progress_bar(len(actors) * episodes, "rolling out", unit="episode", show=self.progress) as bar:
            for act in actors:
                found.append(visit(self.dataset.env_id, starts.tolist(), act))
                bar.update(episodes)
        return found

    def score(self, visits: Sequence[Visits]) -> Estimate:
        """Return the mean score of students, or of the teacher alone."""
        values, reference = np.stack([each.returns for each in visits]), self.dataset.reference
        return estimate_mean(values if reference is None else reference.normalise(values))

    def membership(self, members: np.ndarray, others: np.ndarray) -> Membership:
        """Measure how well an observer can tell rows that were used from others."""
        both = [members, others]
        distances = [nearest_distances(self.states[rows], self.pairs, 1)[:, 0] for rows in both]
        losses = [self.errors(self.data.observations[rows], self.actions[rows]).mean(axis=0) for rows in both]
        by_distance, by_loss = (estimate_auc(-inside, -outside) for inside, outside in (distances, losses))
        return Membership(by_distance, by_loss, len(members), len(others))


def _rows(dataset: DistilledDataset, data: OfflineData) -> Rows:
    """Repeat the recipe's draws: the held-out rows, and the rows from which the pairs started."""
    provenance = dataset.provenance
    recipe: Recipe = recorded_recipe(provenance.recipe, "the recipe in the provenance")
    if (recipe.method, recipe.seed) != (provenance.method, provenance.seed):
        raise DataError("The recipe in the provenance does not match the dataset; check it with `minari-obd verify`.")
    split = split_rows(len(data), recipe.distillation, recipe.seed)
    drawn = split.training
    if recipe.method in OBJECTIVES.names() and issubclass(OBJECTIVES.get(recipe.method), Selection):
        # Selected pairs are rows and are found by their bytes. Apart from them, a selection uses no rows.
        pairs = {s.tobytes() + a.tobytes() for s, a in zip(dataset.observations, dataset.actions, strict=True)}
        steps = zip(data.observations, data.actions, strict=True)
        initial = np.flatnonzero([s.tobytes() + a.tobytes() in pairs for s, a in steps])
        split = Split(np.union1d(split.training, initial), np.setdiff1d(split.held_out, initial))
    elif recipe.size <= len(split.training):
        states = data.normaliser.normalise(data.observations)
        initial = initial_rows(states, split.training, recipe.size, recipe.seed, recipe.distillation.initial)
    else:
        raise DataError(f"The recipe starts {recipe.size} pairs at {len(split.training)} states, so it was never run.")
    if min(len(split.training), len(split.held_out)) < 2:
        raise DataError(f"'{data.dataset_id}' is too small: {len(data)} steps leave fewer than two on a side.")
    return Rows(split, initial, drawn)


def _pairs(dataset: DistilledDataset, data: OfflineData) -> np.ndarray:
    """States of the pairs in z-scores of the source, shape (M, S)."""
    ours, theirs = ((each.observations.shape[1], each.actions.shape[1]) for each in (dataset, data))
    if ours != theirs:
        raise DataError(
            f"The pairs have (observation, action) sizes {ours}, but their source has {theirs}; the dataset is damaged."
        )
    with np.errstate(over="ignore"):
        states = data.normaliser.normalise(dataset.observations)
    if not np.abs(states).max() < _FARTHEST:
        raise DataError("Some pairs lie a million standard deviations from their source, so nothing can be measured.")
    return states


def _summary(errors: Sequence[np.ndarray], wanted: np.ndarray) -> ActionError:
    """Summarise errors, one array per student, against wanted actions (T, A)."""
    each, everything = np.array([[e.mean(dtype=np.float64)] for e in errors]), np.concatenate(errors)
    if not np.isfinite(everything).all():
        raise DataError("The students' actions, or those they are compared with, are not finite; a training diverged.")
    constant = float(wanted.astype(np.float64).var(axis=0).mean())
    return ActionError(estimate_mean(each), quartiles(everything), constant, len(wanted))
