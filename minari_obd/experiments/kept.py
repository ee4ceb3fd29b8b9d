"""Distilled datasets and teachers that an experiments folder stores, so that they are made only once."""

from pathlib import Path

from minari_obd.distillation.distillation import run
from minari_obd.distillation.preparation import prepare
from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.distilled.loading import load_dataset
from minari_obd.experiments.grid import Cell
from minari_obd.inspection.origins import if_its_own
from minari_obd.settings.recipe import Recipe, recorded_recipe
from minari_obd.sources.data import OfflineData
from minari_obd.storage.bundled import bundled_teacher_file
from minari_obd.storage.cache import read_kept
from minari_obd.teachers.bundled import bundled_teacher
from minari_obd.teachers.frozen import FrozenTeacher
from minari_obd.teachers.loading import load_teacher
from minari_obd.version import __version__

__all__ = ["kept_pairs", "kept_teacher"]


def kept_pairs(recipe: Recipe, data: OfflineData, folder: Path, progress: bool) -> DistilledDataset:
    """Return the pairs that a recipe makes from data. They are read from a folder's ``sets/*``, or made there.

    Damaged ones are set aside, with a warning, and made again.

    Raises:
        MinariObdError: as in :func:`minari_obd.distill`.
    """
    place = folder / "sets" / Cell(recipe, "distilled").key(data.content_sha256, __version__)
    if (kept := read_kept(place, load_dataset)) is not None:
        return kept
    return run(prepare(recipe, data, out=place, overwrite=True, progress=progress)).dataset


def kept_teacher(folder: Path, pairs: DistilledDataset) -> FrozenTeacher | None:
    """Return the teacher of a distilled dataset: from a folder's ``teachers/*``, or the one that its recipe names.

    The result is None if neither exists, or if the dataset was made by another teacher.

    Raises:
        FormatError: the recipe in the provenance, or the teacher, cannot be read.
    """
    provenance = pairs.provenance
    recipe = recorded_recipe(provenance.recipe, "the recipe in the provenance")
    if recipe.teacher.algorithm == "bundled" and bundled_teacher_file(provenance.source) is not None:
        return if_its_own(pairs, bundled_teacher(provenance.source))
    kept = folder / "teachers" / Cell(recipe, "teacher").key(provenance.source_sha256, provenance.package_version)
    if not kept.is_dir():
        kept = Path(recipe.teacher.algorithm)  # a user's own teacher is where its user keeps it
        if not (kept / "teacher.safetensors").is_file():
            return None
    return if_its_own(pairs, load_teacher(kept))
