"""Diagnostics: why a distilled dataset scores what it scores, and what its pairs tell of single rows."""

from pathlib import Path
from typing import Any

from minari_obd.densities.base import Density
from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.errors import SettingError
from minari_obd.inspection.density_errors import ErrorByDensity
from minari_obd.inspection.diagnostics import Diagnostics, check_report
from minari_obd.inspection.study import Study
from minari_obd.teachers.protocol import Teacher

__all__ = ["diagnose", "error_by_density"]


def diagnose(
    dataset: DistilledDataset,
    source: Any = None,
    *,
    teacher: Teacher | str | Path | None = None,
    students: int = 5,
    episodes: int = 5,
    density: Density | str = "knn",
    seed: int = 0,
    out: str | Path | None = None,
    progress: bool = False,
) -> Diagnostics:
    """Measure what a score leaves unsaid: where students err, and where the pairs lie in their source.

    Nothing is trained but the students. What needs a teacher or an environment that is not at hand is None, and the
    ``notes`` say why.

    Args:
        dataset: the distilled dataset.
        source: the offline dataset that it was made from, whatever :func:`load_offline_data` takes. If not given, the
            Minari dataset of the id that the provenance names, where that is on this machine.
        teacher: whom students are compared with: a teacher, or the folder of a saved one. If not given, the one that
            the recipe names, where this machine has trained it before.
        students: how many to clone; those that :func:`evaluate` clones with this seed.
        episodes: of each student, and of the teacher, from the starts of :func:`evaluate`.
        density: the estimator that held-out states are put in order by, for the errors by density: ``knn``, ``maf``,
            ``gmm``, or one with its settings. The default is the same for every set, whatever its own weights were
            made with, so that sets compare.
        seed: of students, starts and draws of rows. The split into training and held-out rows is the recipe's.
        out: a JSON file to write; it is checked before any work.
        progress: show bars.

    Raises:
        NotFoundError: the source is not on this machine, or there is no such estimator.
        DataError: the source is not the one that the pairs were made from; or students, pairs or teacher are unusable.
        FormatError: the recipe in the provenance cannot be read.
        SettingError: counts or a seed that make no sense, or an output path that cannot be written.
    """
    if min(students, episodes) < 1 or seed < 0:
        raise SettingError(
            f"{students} students x {episodes} episodes, seed {seed}: at least one of each is needed, "
            "and a seed from 0 up."
        )
    if out is not None:
        check_report(out)
    study = Study.of(dataset, source, teacher=teacher, students=students, density=density, seed=seed, progress=progress)
    report = study.report(episodes)
    if out is not None:
        report.save(out)
    return report


def error_by_density(
    dataset: DistilledDataset,
    source: Any = None,
    *,
    teacher: Teacher | str | Path | None = None,
    students: int = 5,
    density: Density | str = "knn",
    seed: int = 0,
    progress: bool = False,
) -> ErrorByDensity:
    """Measure students' action error at rare and at common held-out states; of :func:`diagnose`, this part alone.

    Nothing is rolled out, so it takes seconds, and no environment. All arguments and errors are those of
    :func:`diagnose`; where its ``notes`` would say why there are no errors by density, this raises.

    Raises:
        DataError: also, fewer than ten held-out states, or too few training states for the estimator.
        MissingExtraError: the estimator needs something that is not installed.
    """
    if students < 1 or seed < 0:
        raise SettingError(f"{students} students, seed {seed}: at least one is needed, and a seed from 0 up.")
    study = Study.of(dataset, source, teacher=teacher, students=students, density=density, seed=seed, progress=progress)
    return study.error_by_density()
