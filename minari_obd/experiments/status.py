"""Status: what a bench says of its cells while it runs, in two files that anyone may read."""

import json
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from minari_obd.errors import FormatError
from minari_obd.experiments.cell import Task
from minari_obd.settings.parsing import NOT_OURS
from minari_obd.storage.files import write_text

__all__ = ["CellStatus", "StatusBoard", "is_running", "read_status", "running"]

_STATUS_FILE, _LOCK_FILE = "status.json", "running.lock"
_TRIES, _PAUSE = 10, 0.02  # a watcher holds the lock for less than a millisecond


@dataclass(frozen=True)
class CellStatus:
    """What became of a cell so far."""

    label: str
    kind: str
    """Cells of one kind take about equally long."""
    began: float | None = None
    """Unix time; None if it was not started."""
    ended: float | None = None
    """Unix time; None if it has not ended."""
    problem: str | None = None
    """Why it failed."""


class StatusBoard:
    """Keeps a bench's status file up to date."""

    def __init__(self, folder: Path, tasks: Mapping[str, Task], missing: Mapping[str, Task]) -> None:
        """Note every cell of the grid. How long finished cells took is kept from earlier runs.

        Args:
            folder: the bench's.
            tasks: all cells by their keys.
            missing: those that have no result.
        """
        try:
            before = read_status(folder)
        except FormatError:  # it is written anew
            before = {}
        self._path, self._cells = folder / _STATUS_FILE, dict[str, CellStatus]()
        for key, task in tasks.items():
            known = None if key in missing else before.get(key)
            cell = task.cell
            kind = f"{cell.recipe.source}, {cell.method}, {cell.size}, {cell.protocol}"
            self._cells[key] = replace(known, label=cell.label) if known else CellStatus(cell.label, kind)
        self._write()

    def begin(self, key: str) -> None:
        """Note that a cell was started."""
        self._cells[key] = replace(self._cells[key], began=time.time())
        self._write()

    def end(self, key: str, problem: str | None) -> None:
        """Note that a cell has ended, and why it failed if it did."""
        self._cells[key] = replace(self._cells[key], ended=time.time(), problem=problem)
        self._write()

    def _write(self) -> None:
        cells = {key: asdict(cell) for key, cell in self._cells.items()}
        write_text(self._path, json.dumps({"cells": cells}, indent=1) + "\n")


def read_status(folder: Path) -> dict[str, CellStatus]:
    """Read the status of each cell by its key; nothing if the folder has none, as those of version 0.1.0.

    Raises:
        FormatError: the file is damaged.
    """
    path = folder / _STATUS_FILE
    if not path.is_file():
        return {}
    try:
        cells: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["cells"]
        return {key: CellStatus(**values) for key, values in cells.items()}
    except NOT_OURS as error:
        raise FormatError(f"'{path}' is damaged ({error}); run the bench again, which writes it anew.") from error


@contextmanager
def running(folder: Path) -> Iterator[None]:
    """Hold a lock within, by which :func:`is_running` knows. The system lets go of it, however the process ends."""
    with (folder / _LOCK_FILE).open("w") as file:
        for _ in range(_TRIES):
            try:
                _lock(file, shared=False)
            except (BlockingIOError, PermissionError):
                time.sleep(_PAUSE)
                continue
            except OSError:  # a file system without locks
                pass
            break
        else:  # grids may share a folder
            warnings.warn(
                f"Another bench runs in '{folder}'; cells that both of them have are made twice, and `watch` shows "
                "this one alone. End one of them if both are of one grid.",
                stacklevel=4,
            )
        yield


def is_running(folder: Path) -> bool:
    """Whether a process runs a bench in the folder. A process does not see its own bench."""
    try:
        with (folder / _LOCK_FILE).open("r") as file:
            _lock(file, shared=True)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _lock(file: Any, *, shared: bool) -> None:
    """Lock a file for this process alone: unlike with flock, what it forks does not hold the lock after its end."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    fcntl.lockf(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
