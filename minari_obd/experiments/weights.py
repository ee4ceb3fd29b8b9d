"""Pictures of the weights with which a bench's pairs were distilled, drawn once and stored with its results."""

from collections.abc import Iterable
from pathlib import Path

from minari_obd.densities.picture import draw_weights
from minari_obd.distillation.distillation import build_targets, fit_density
from minari_obd.distillation.preparation import prepare
from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.distilled.loading import load_dataset
from minari_obd.experiments.cell import CellResult
from minari_obd.experiments.kept import kept_teacher
from minari_obd.experiments.page import figure_of
from minari_obd.registry import OBJECTIVES
from minari_obd.settings.recipe import recorded_recipe
from minari_obd.sources.loading import load_offline_data
from minari_obd.storage.files import write_bytes
from minari_obd.support.progress import progress_bar
from minari_obd.targets.targets import Selection

__all__ = ["draw_sets_weights", "weights_figures"]

_EVEN = b""  # stored instead of a picture, to record that there is nothing to draw


def draw_sets_weights(folder: Path, results: Iterable[CellResult], *, progress: bool = True) -> None:
    """Draw the weights of every distilled dataset that has no ``weights/<set_key>.png`` yet.

    The weights are recomputed from the recipe, the source and the teacher that the bench stores. Sets whose method
    weights all states equally, or whose teacher was not stored, get an empty file.

    Raises:
        MinariObdError: as in :func:`load_offline_data` and in the method's own weighting.
    """
    keys = list(dict.fromkeys(result.set_key for result in results if result.set_key is not None))
    missing = [key for key in keys if not _file(folder, key).is_file()]
    with progress_bar(len(missing), "weights", unit="set", show=progress and bool(missing)) as bar:
        for key in missing:
            picture = _picture(folder, load_dataset(folder / "sets" / key))
            write_bytes(_file(folder, key), picture)
            bar.update()


def weights_figures(folder: Path, results: Iterable[CellResult]) -> str:
    """Return the existing pictures as HTML, one for each of the results' sets with unequal weights."""
    figures = []
    for result in results:
        if result.set_key is None or not (file := _file(folder, result.set_key)).is_file():
            continue
        if picture := file.read_bytes():
            figures.append(figure_of(picture, f"{result.dataset}: {result.method}, seed {result.seed}", "weights"))
    return f'<div class="figures">{"".join(figures)}</div>' if figures else ""


def _picture(folder: Path, pairs: DistilledDataset) -> bytes:
    recipe = recorded_recipe(pairs.provenance.recipe, "the recipe in the provenance")
    data = load_offline_data(recipe.source, download=False, progress=False)
    teacher, needs_teacher = kept_teacher(folder, pairs), OBJECTIVES.get(recipe.method).needs_teacher
    if needs_teacher and teacher is None:
        return _EVEN
    prepared = prepare(recipe, data, teacher, progress=False)
    if isinstance(prepared.method, Selection):
        return _EVEN
    targets = build_targets(prepared, teacher if needs_teacher else None, fit_density(prepared))
    if targets.weights.min() == targets.weights.max():
        return _EVEN
    return draw_weights(targets.states, targets.weights / targets.weights.mean())


def _file(folder: Path, key: str) -> Path:
    return folder / "weights" / f"{key}.png"
