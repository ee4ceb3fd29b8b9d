"""Training logs of a bench's teachers, which are stored with them."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from minari_obd.errors import FormatError
from minari_obd.experiments.cell import CellResult
from minari_obd.storage.cache import read_kept
from minari_obd.teachers.frozen import describe_teacher
from minari_obd.teachers.loading import load_teacher

__all__ = ["LOG_FILE", "read_logs"]

LOG_FILE = "training.csv"


def read_logs(folder: Path, results: Iterable[CellResult]) -> dict[str, Mapping[str, np.ndarray]]:
    """Read ``teachers/<key>/training.csv`` of each teacher among a bench's results that has one.

    Args:
        folder: the bench's folder.
        results: results of one dataset.

    Returns:
        For each teacher, named by its algorithm and seed, the columns of its log: ``update``, and whatever its
        algorithm logs. An empty field is NaN. A damaged log is set aside, with a warning, and left out.

    Raises:
        FormatError: a teacher is damaged.
    """
    found = {}
    for result in results:
        kept = folder / "teachers" / result.key
        if result.method == "teacher" and (kept / LOG_FILE).is_file():
            log = read_kept(kept / LOG_FILE, _read, then="what is shown lacks it")
            if log is None:
                continue
            name = f"{describe_teacher(load_teacher(kept))['algorithm']}, seed {result.seed}"
            found[name if name not in found else f"{name} ({result.key[:6]})"] = log
    return found


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines(), strict=True))
        log = {name: np.array([float(row[name] or "nan") for row in rows]) for name in rows[0]}
        if not np.isfinite(log["update"]).all():
            raise ValueError("an update has no number")
    except (ValueError, KeyError, TypeError, IndexError, csv.Error) as error:
        raise FormatError(f"'{path}' is not a log of a teacher's training ({str(error)[:200]}).") from error
    return log
