"""Errors by density of a bench's distilled datasets, measured once for each set of each seed and stored with them."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from minari_obd.distilled.loading import load_dataset
from minari_obd.errors import FormatError, NotFoundError
from minari_obd.experiments.cell import CellResult, load_results
from minari_obd.experiments.kept import kept_teacher
from minari_obd.inspection.density_errors import DECILES, ErrorByDensity, errors_over_sets
from minari_obd.inspection.diagnosis import error_by_density
from minari_obd.settings.parsing import NOT_OURS
from minari_obd.storage.cache import read_kept
from minari_obd.storage.files import write_text
from minari_obd.support.progress import progress_bar
from minari_obd.support.tables import markdown_table

__all__ = ["SetErrors", "density_table", "errors_by_density", "errors_by_method", "measure_sets", "read_sets"]


@dataclass(frozen=True)
class SetErrors:
    """Errors by density for one distilled dataset."""

    dataset: str
    """Id of its source."""
    method: str
    """Its row in the bench's table."""
    size: int
    """Number of pairs."""
    seed: int
    errors: ErrorByDensity
    """Errors of five students."""


def errors_by_density(results: str | Path, *, progress: bool = True) -> list[SetErrors]:
    """Measure the errors by density of every distilled dataset in a bench's folder: all methods, sizes and seeds.

    Each is measured once, within seconds, by the defaults of :func:`minari_obd.inspection.diagnosis.error_by_density`,
    and stored as ``error_by_density/<set_key>.json``. :func:`density_table` makes a table from them.

    Args:
        results: the folder that ``bench`` wrote. The sources must be on this machine.
        progress: show a bar.

    Returns:
        One entry per set, in the order of dataset, method, size and seed.

    Raises:
        NotFoundError: the folder has no distilled datasets, or a source is not on this machine.
        FormatError: a result, a set or an earlier measurement is damaged.
        MinariObdError: as in :func:`minari_obd.inspection.diagnosis.error_by_density`.
    """
    folder = Path(results)
    found = [result for result in load_results(folder) if result.set_key is not None and result.protocol is None]
    if not found:
        raise NotFoundError(
            f"There are no distilled datasets in '{folder}'; make them by `minari-obd bench GRID.toml --out {folder}`."
        )
    measure_sets(folder, found, progress=progress)
    return read_sets(folder, found)


def measure_sets(folder: Path, results: Iterable[CellResult], *, progress: bool = True) -> None:
    """Measure the results' distilled datasets that have not been measured yet.

    Raises:
        MinariObdError: as in :func:`errors_by_density`.
    """
    keys = list(dict.fromkeys(result.set_key for result in results if result.set_key is not None))
    missing = [key for key in keys if read_kept(_file(folder, key), _read) is None]
    with progress_bar(len(missing), "errors by density", unit="set", show=progress and bool(missing)) as bar:
        for key in missing:
            pairs = load_dataset(folder / "sets" / key)
            measured = error_by_density(pairs, teacher=kept_teacher(folder, pairs))
            write_text(_file(folder, key), json.dumps(asdict(measured), indent=1, allow_nan=False) + "\n")
            bar.update()


def read_sets(folder: Path, results: Iterable[CellResult]) -> list[SetErrors]:
    """Return the measurements of the results' distilled datasets, in their order.

    Raises:
        FormatError: a file is damaged.
    """
    found = []
    for result in results:
        if result.set_key is None or result.size is None or not (file := _file(folder, result.set_key)).is_file():
            continue
        found.append(SetErrors(result.dataset, result.method, result.size, result.seed, _read(file)))
    return found


def _read(file: Path) -> ErrorByDensity:
    try:
        return ErrorByDensity.from_json(json.loads(file.read_text(encoding="utf-8")))
    except NOT_OURS as error:
        raise FormatError(
            f"'{file}' does not contain errors by density ({error}); make the report with --diagnose, which measures "
            "them again."
        ) from error


def errors_by_method(found: Sequence[SetErrors]) -> dict[str, list[ErrorByDensity]]:
    """Group sets of one dataset and size by method, with one entry per seed.

    Errors to a teacher cannot be compared with errors to the data. If some sets have the former, only these count.
    """
    kinds = {each.errors.against for each in found}
    methods: dict[str, list[ErrorByDensity]] = {}
    for each in found:
        if len(kinds) == 1 or each.errors.against == "teacher":
            methods.setdefault(each.method, []).append(each.errors)
    return methods


def density_table(found: Sequence[SetErrors]) -> str:
    """Return the errors as Markdown: a line for each dataset, size and method, and a column for each decile.

    A field is the mean over seeds and its 95% interval over seeds, or, with a single seed, over students.
    """
    rows = []
    for dataset, size in dict.fromkeys((each.dataset, each.size) for each in found):
        field = [each for each in found if (each.dataset, each.size) == (dataset, size)]
        for method, sets in errors_by_method(field).items():
            means = [f"{e.mean:.3f} ({e.low:.3f} to {e.high:.3f})" for e in errors_over_sets(sets)]
            rows.append([f"`{dataset}`", f"{method}, {size}", sets[0].against, str(len(sets)), *means])
    deciles = [str(number) for number in range(1, DECILES + 1)]
    deciles[0], deciles[-1] = f"{deciles[0]} (rarest)", f"{deciles[-1]} (commonest)"
    return markdown_table(["source", "pairs of", "error to", "seeds", *deciles], rows) + "\n"


def _file(folder: Path, key: str) -> Path:
    return folder / "error_by_density" / f"{key}.json"
