"""Diagnostics of a bench's distilled datasets, made once and stored with its results."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from minari_obd.distilled.loading import load_dataset
from minari_obd.errors import FormatError
from minari_obd.experiments.cell import CellResult
from minari_obd.experiments.kept import kept_teacher
from minari_obd.inspection.diagnosis import diagnose
from minari_obd.settings.parsing import NOT_OURS
from minari_obd.storage.cache import read_kept
from minari_obd.support.progress import progress_bar

__all__ = ["HEAD", "diagnose_sets", "diagnostics_rows"]

HEAD = [
    "pairs of",
    "error, held-out states",
    "error, teacher's trajectories",
    "error, own trajectories",
    "coverage",
    "distance to real states",
    "copies",
    "initial rows told (AUC)",
]


def diagnose_sets(folder: Path, results: Iterable[CellResult], *, progress: bool = True) -> None:
    """Diagnose every distilled dataset that has no ``diagnostics/<set_key>.json`` yet.

    Raises:
        MinariObdError: as in :func:`minari_obd.inspection.diagnosis.diagnose`.
    """
    keys = list(dict.fromkeys(result.set_key for result in results if result.set_key is not None))
    missing = [key for key in keys if read_kept(_file(folder, key), _fields) is None]
    with progress_bar(len(missing), "diagnosing", unit="set", show=progress and bool(missing)) as bar:
        for key in missing:
            pairs = load_dataset(folder / "sets" / key)
            diagnose(pairs, teacher=kept_teacher(folder, pairs), out=_file(folder, key))
            bar.update()


def diagnostics_rows(folder: Path, results: Iterable[CellResult]) -> list[list[str]]:
    """Return a row for each result whose dataset was diagnosed, in the columns of :data:`HEAD`.

    Raises:
        FormatError: a file is damaged.
    """
    rows = []
    for result in results:
        if result.set_key is None or not (file := _file(folder, result.set_key)).is_file():
            continue
        rows.append([f"{result.method}, {result.size}", *_fields(file)])
    return rows


def _fields(file: Path) -> list[str]:
    """What a row says of a diagnosis."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        near, coverage, initial = (found[name] for name in ("nearness", "coverage", "initial_membership"))
        errors = ("offline_error_to_teacher", "error_on_teacher_trajectories", "error_on_own_trajectories")
        return [
            *(_mean(found[name] and found[name]["mean"], 3) for name in errors),
            _mean(coverage and coverage["coverage"], 2),
            _number(near["relative_distance"], 1),
            f"{100 * near['copies']:.0f}%",
            _mean(initial and initial["by_distance"], 2),
        ]
    except NOT_OURS as error:
        raise FormatError(
            f"'{file}' is not a diagnosis ({error}); make the report with --diagnose, which makes it again."
        ) from error


def _file(folder: Path, key: str) -> Path:
    return folder / "diagnostics" / f"{key}.json"


def _mean(estimate: dict[str, Any] | None, digits: int) -> str:
    if estimate is None:
        return "-"
    mean, low, high = (f"{estimate[name]:.{digits}f}" for name in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
