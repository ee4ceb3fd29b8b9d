"""Bench: run the cells of a grid that have no result yet, here, in processes, or on a Ray cluster."""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from minari_obd.errors import MinariObdError
from minari_obd.experiments.cell import CellResult, Task, run_task
from minari_obd.experiments.grid import Cell, Grid, load_grid
from minari_obd.experiments.processes import ProcessRunner
from minari_obd.experiments.ray import RayRunner
from minari_obd.settings.checks import check_positive
from minari_obd.sources.loading import load_offline_data
from minari_obd.storage.files import check_writable, write_text
from minari_obd.support.interrupts import interrupted_by_termination
from minari_obd.support.progress import progress_bar
from minari_obd.version import __version__

__all__ = ["Runner", "run_grid"]


def run_grid(
    grid: Grid | str | Path, out: str | Path, *, jobs: int = 1, ray: bool = False, progress: bool = True
) -> list[CellResult]:
    """Run every cell that has no result in ``out``, and return the results of all, in the grid's order.

    Each result is a file of its own, named after everything that decides it, so a run that was killed goes on where it
    was, and a grid that grows keeps what it has.

    Args:
        grid: the grid, or its TOML file.
        out: a folder: ``cells/*.json`` for results, ``sets/*`` for distilled datasets, ``logs/*`` of processes.
        jobs: processes at a time; one is this process itself. The results are the same for every number.
        ray: spread the cells over the Ray cluster that runs already, one core for each; ``jobs`` has no say then.
        progress: show bars.

    Raises:
        NotFoundError, FormatError: the grid's file, a dataset, a method or a protocol.
        SettingError: ``jobs`` is not positive, ``out`` cannot be written, or there is no cluster.
        MissingExtraError: Ray is needed and not installed.
        MinariObdError: a cell failed; the others that can be are finished first.
    """
    check_positive("bench", jobs=jobs)
    grid = grid if isinstance(grid, Grid) else load_grid(grid)
    folder = Path(out)
    check_writable(folder / "cells" / "x")
    # Loaded here once, so that datasets are built before processes need them, and results are named after content.
    sources = {name: load_offline_data(name, progress=progress).content_sha256 for name in grid.datasets}
    tasks = [_task(cell, sources[cell.recipe.source]) for cell in grid.cells()]
    missing = {task.key: task for task in tasks if not task.result_file(folder).is_file()}
    with progress_bar(len(tasks), "bench", unit="cell", show=progress) as bar:
        bar.update(len(tasks) - len(missing))
        if ray and missing:
            failed = _run_by(RayRunner(folder), missing, bar)
        elif jobs > 1:
            failed = _run_by(ProcessRunner(folder, jobs), missing, bar)
        else:
            failed = _run_here(folder, missing, bar)
    if failed:
        raise MinariObdError(
            f"{len(failed)} of {len(missing)} cell(s) failed, first {failed[0]}; given again, the command runs them "
            "once more, and no others."
        )
    return [_read(task, folder) for task in tasks]


def _read(task: Task, folder: Path) -> CellResult:
    """Read a result, and write it anew if its row was called otherwise when it was made: a name decides nothing."""
    result = CellResult.read(task.result_file(folder))
    if result.method == task.cell.method:
        return result
    result = replace(result, method=task.cell.method)
    write_text(task.result_file(folder), json.dumps(result.to_json(), indent=1) + "\n")
    return result


def _task(cell: Cell, source_sha256: str) -> Task:
    def key(each: Cell) -> str:
        return each.key(source_sha256, __version__)

    return Task(cell, key(cell), key(replace(cell, protocol=None)), key(Cell(cell.recipe, "teacher")), source_sha256)


def _run_here(folder: Path, missing: dict[str, Task], bar: Any) -> list[str]:
    """Run cells one after the other, and return what failed."""
    failed = []
    for task in missing.values():
        bar.set_postfix_str(task.cell.label)
        try:
            run_task(task, folder)
        except MinariObdError as error:
            failed.append(f"{task.cell.label}: {type(error).__name__}: {error}")
        bar.update()
    return failed


class Runner(Protocol):
    """Something that runs cells beside one another."""

    @property
    def slots(self) -> float:
        """Cells at a time."""
        ...

    def start(self, task: Task) -> None:
        """Start a cell."""
        ...

    def finished(self) -> dict[str, str | None]:
        """Wait a little, and return the keys of cells that have ended since, with what went wrong, or None."""
        ...

    def stop(self) -> None:
        """End what is still running; it goes on from its checkpoint another time."""
        ...


def _run_by(runner: Runner, missing: dict[str, Task], bar: Any) -> list[str]:
    """Run cells beside one another, none before what it needs is there, and return what failed."""
    waiting, running, failed = dict(missing), dict[str, Task](), list[str]()
    with interrupted_by_termination():
        try:
            while waiting or running:
                for key, task in list(waiting.items()):
                    unfinished = (each.cell for each in (*running.values(), *waiting.values()))
                    if len(running) < runner.slots and not _waits(task.cell, unfinished):
                        running[key] = waiting.pop(key)
                        runner.start(task)
                for key, problem in runner.finished().items():
                    label = running.pop(key).cell.label
                    if problem is not None:
                        failed.append(f"{label}: {problem}")
                    bar.update()
        finally:
            runner.stop()
    return failed


def _waits(cell: Cell, others: Iterable[Cell]) -> bool:
    """Whether the teacher or the pairs that a cell needs are still to come: made once, they are there for all."""

    def same(other: Cell) -> bool:
        return all(getattr(other.recipe, name) == getattr(cell.recipe, name) for name in ("source", "seed", "teacher"))

    if cell.protocol is not None:
        return replace(cell, protocol=None) in others
    return cell.needs_teacher() and any(other.kind == "teacher" and same(other) for other in others)
