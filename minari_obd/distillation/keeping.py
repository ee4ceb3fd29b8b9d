"""Keeping: a result never takes another one's place unless the user says so, and keeps its evaluation."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.distilled.folder import METADATA_FILE, load_folder
from minari_obd.errors import MinariObdError, SettingError
from minari_obd.settings.recipe import Recipe, recorded_recipe
from minari_obd.sources.data import OfflineData
from minari_obd.version import __version__

__all__ = ["check_same_run", "kept_recipe", "with_kept_evaluation"]

_SHOWN = 3


def kept_recipe(recipe: Recipe, teacher: Any) -> Recipe:
    """Return the recipe as it is kept with its result: a teacher from the Hub is named by its commit."""
    origin = getattr(teacher, "origin", None)
    return recipe if origin is None else replace(recipe, teacher=replace(recipe.teacher, algorithm=origin))


def check_same_run(folder: Path, recipe: Recipe, data: OfflineData) -> None:
    """Make sure that a folder holds no distilled dataset, or one that this very run made.

    Args:
        folder: where the result will be saved.
        recipe: the run's, as :func:`kept_recipe` gives it.
        data: its source.

    Raises:
        SettingError: it holds another run's result. The first differences are named.
    """
    if not (folder / METADATA_FILE).is_file():
        return
    try:
        there = load_folder(folder).provenance
        before = recorded_recipe(there.recipe, str(folder)).deciding()
    except MinariObdError as error:
        raise _refusal(folder, f"a distilled dataset that cannot be read ({error})") from error
    now = recipe.deciding()
    kept = {**before, "source content": there.source_sha256[:12], "package version": there.package_version}
    wanted = {**now, "source content": data.content_sha256[:12], "package version": __version__}
    found = _differences(kept, wanted)
    if found:
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise _refusal(folder, f"the result of another run ({'; '.join(found[:_SHOWN])}{more})")


def _refusal(folder: Path, what: str) -> SettingError:
    return SettingError(
        f"'{folder}' holds {what}; give another folder (--out), or replace that one (--overwrite, overwrite=True)."
    )


def _differences(before: dict[str, Any], now: dict[str, Any], place: str = "") -> list[str]:
    """Return each setting that differs, as a phrase. The number of threads is measured anew in each run."""
    found = []
    for name in sorted({*before, *now} - {"threads"}):
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differences(old, new, f"{place}{name}.")
        elif old != new:
            found.append(f"{place}{name} is {old} there and {new} here")
    return found


def with_kept_evaluation(dataset: DistilledDataset, folder: Path) -> DistilledDataset:
    """Return the dataset with the evaluation of the same pairs in ``folder``, if there is one."""
    if dataset.evaluation is not None or not (folder / METADATA_FILE).is_file():
        return dataset
    try:
        there = load_folder(folder)
    except MinariObdError:  # replaced, as the user said
        return dataset
    same = there.content_sha256 == dataset.content_sha256 and there.evaluation is not None
    return replace(dataset, evaluation=there.evaluation) if same else dataset
