"""What a folder of experiments keeps: distilled sets and teachers, which are used again and not made again."""

from pathlib import Path

from minari_obd.distillation.distillation import run
from minari_obd.distillation.preparation import prepare
from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.distilled.loading import load_dataset
from minari_obd.experiments.grid import Cell
from minari_obd.inspection.origins import if_its_own
from minari_obd.settings.recipe import Recipe, parse_recipe
from minari_obd.sources.data import OfflineData
from minari_obd.teachers.frozen import FrozenTeacher
from minari_obd.teachers.loading import load_teacher
from minari_obd.version import __version__

__all__ = ["kept_pairs", "kept_teacher"]


def kept_pairs(recipe: Recipe, data: OfflineData, folder: Path, progress: bool) -> DistilledDataset:
    """Return the pairs that a recipe makes from data; they are read from ``sets/*`` of a folder, or made there.

    Raises:
        MinariObdError: as :func:`minari_obd.distill`.
    """
    place = folder / "sets" / Cell(recipe, "distilled").key(data.content_sha256, __version__)
    if (place / "obd.json").is_file():
        return load_dataset(place)
    return run(prepare(recipe, data, out=place, progress=progress)).dataset


def kept_teacher(folder: Path, pairs: DistilledDataset) -> FrozenTeacher | None:
    """Return the teacher of a set: the one in ``teachers/*`` of a folder, or the one that its recipe names.

    None if neither is there, or if it is not the teacher that the set was made by.

    Raises:
        FormatError: the recipe in the provenance, or the teacher, cannot be read.
    """
    provenance = pairs.provenance
    recipe = parse_recipe(provenance.recipe, "the recipe in the provenance")
    kept = folder / "teachers" / Cell(recipe, "teacher").key(provenance.source_sha256, provenance.package_version)
    if not kept.is_dir():
        kept = Path(recipe.teacher.algorithm)  # one that was brought is where its user keeps it
        if not (kept / "teacher.safetensors").is_file():
            return None
    return if_its_own(pairs, load_teacher(kept))
