"""Diagnostics: what explains a distilled dataset's score, and what its pairs reveal about single rows."""

from pathlib import Path
from typing import Any

from minari_obd.densities.base import Density
from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.inspection.density_errors import ErrorByDensity
from minari_obd.inspection.diagnostics import Diagnostics, check_report
from minari_obd.inspection.study import Study
from minari_obd.settings.checks import check_instance, whole_number
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
    """Measure what a score does not show: where students err, and where the pairs lie in their source.

    Only the students are trained. What needs a teacher or an environment that is not available is None, and the
    ``notes`` say why.

    Args:
        dataset: the distilled dataset.
        source: the offline dataset that it was made from, as for :func:`load_offline_data`. If not given, the Minari
            dataset that the provenance names, if it is on this machine.
        teacher: the teacher to compare students with, or the folder of a saved one. If not given, the recipe's, if
            this machine has trained it before.
        students: number of students to clone; the same ones that :func:`evaluate` clones with this seed.
        episodes: episodes per student, and of the teacher, from the starts of :func:`evaluate`.
        density: the estimator that orders held-out states for the errors by density: ``knn``, ``maf``, ``gmm``, or an
            instance with its settings. The default is the same for every set, no matter how its weights were made, so
            sets can be compared.
        seed: seed of students, starts and draws of rows. The split into training and held-out rows is the recipe's.
        out: a JSON file to write. It is checked before any work.
        progress: show bars.

    Raises:
        NotFoundError: the source is not on this machine, or the estimator is unknown.
        DataError: the pairs were made from another source, or students, pairs or teacher are unusable.
        FormatError: the recipe in the provenance cannot be read.
        SettingError: counts or seed make no sense, or the output path cannot be written.
    """
    check_instance("diagnose", dataset, DistilledDataset)
    students, episodes = whole_number("students", students, 1), whole_number("episodes", episodes, 1)
    seed = whole_number("seed", seed, 0)
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
    """Measure students' action error at rare and common held-out states. This is only that part of :func:`diagnose`.

    Nothing is rolled out, so it takes seconds and needs no environment. All arguments and errors are those of
    :func:`diagnose`, but this raises where ``notes`` would say why there are no errors by density.

    Raises:
        DataError: also if there are fewer than ten held-out states, or too few training states for the estimator.
        MissingExtraError: the estimator needs a package that is not installed.
    """
    students, seed = whole_number("students", students, 1), whole_number("seed", seed, 0)
    study = Study.of(dataset, source, teacher=teacher, students=students, density=density, seed=seed, progress=progress)
    return study.error_by_density()
