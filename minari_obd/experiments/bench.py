"""Bench: runs the cells of a grid that have no result yet, in this process, in others, or on a Ray cluster."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

from minari_obd.errors import MinariObdError
from minari_obd.experiments.cell import CellResult, Task, check_cell, note_tasks, run_task
from minari_obd.experiments.grid import Cell, Grid, load_grid
from minari_obd.experiments.processes import ProcessRunner
from minari_obd.experiments.ray import RayRunner
from minari_obd.experiments.status import StatusBoard, running
from minari_obd.settings.checks import check_positive
from minari_obd.sources.loading import load_offline_data
from minari_obd.storage.cache import read_kept
from minari_obd.storage.files import check_no_artefact, check_writable, write_text
from minari_obd.support.interrupts import interrupted_by_termination
from minari_obd.support.progress import progress_bar
from minari_obd.version import __version__

__all__ = ["Runner", "run_grid"]


def run_grid(
    grid: Grid | str | Path, out: str | Path, *, jobs: int = 1, ray: bool = False, progress: bool = True
) -> list[CellResult]:
    """Run every cell that has no result in ``out``, and return the results of all cells in the grid's order.

    Each result is a separate file, named after everything that decides it. A run that was killed therefore continues
    where it stopped, and a grid that grows keeps its results. A damaged result is set aside, with a warning, and made
    again.

    Args:
        grid: the grid, or its TOML file.
        out: a folder: ``cells/*.json`` for results, ``grid.json`` for the names of this grid's, ``status.json``
            for how far they are, ``sets/*`` for distilled datasets, ``logs/*`` of processes.
        jobs: processes to run at a time; with 1, cells run in this process. The results are the same for any number.
        ray: spread the cells over the running Ray cluster, one core per cell; ``jobs`` is then ignored.
        progress: show bars.

    Raises:
        NotFoundError, FormatError: the grid's file, a dataset, a method or a protocol is missing or malformed.
        SettingError: ``jobs`` is not positive, ``out`` cannot be written, or there is no cluster.
        MissingExtraError: Ray is needed but not installed.
        DataError: a cell asks for more pairs than its dataset has steps, or the like.
        MinariObdError: a cell failed. All other cells that can run are finished first.
    """
    check_positive("bench", jobs=jobs)
    grid = grid if isinstance(grid, Grid) else load_grid(grid)
    folder = Path(out)
    check_no_artefact(folder)
    check_writable(folder / "cells" / "x")
    # Load each source once here: datasets are then built before processes need them, and their content names results.
    cells = grid.cells()
    sources = {name: _check(name, cells, folder, progress) for name in grid.datasets}
    tasks = [_task(cell, *sources[cell.recipe.source]) for cell in cells]
    note_tasks(tasks, folder)
    missing = {task.key: task for task in tasks if not task.result_file(folder).is_file()}
    board = StatusBoard(folder, {task.key: task for task in tasks}, missing)
    done = len(tasks) - len(missing)
    with running(folder), progress_bar(len(tasks), "bench", unit="cell", show=progress, done=done) as bar:
        if ray and missing:
            failed = _run_by(RayRunner(folder), missing, board, bar)
        elif jobs > 1:
            failed = _run_by(ProcessRunner(folder, jobs), missing, board, bar)
        else:
            failed = _run_here(folder, missing, board, bar)
    if failed:
        raise MinariObdError(
            f"{len(failed)} of {len(missing)} cell(s) failed, first {failed[0].rstrip('.')}; run the command again to "
            "repeat only the failed ones."
        )
    return [_read(task, folder) for task in tasks]


def _read(task: Task, folder: Path) -> CellResult:
    """Read a result, and rewrite it if its row has a new name: names do not decide results."""
    result = CellResult.read(task.result_file(folder))
    if result.method == task.cell.method:
        return result
    result = replace(result, method=task.cell.method)
    write_text(task.result_file(folder), json.dumps(result.to_json(), indent=1) + "\n")
    return result


def _check(source: str, cells: Iterable[Cell], folder: Path, progress: bool) -> tuple[str, dict[str, bool]]:
    """Check the cells of a source that have no result yet, each for one seed.

    Returns:
        The hash of its content, and what kind of data it is, on which names of results depend.
    """
    data = load_offline_data(source, progress=progress)
    kind = {"is_discrete": data.is_discrete, "may_choose": data.may_choose}
    tasks = [_task(cell, data.content_sha256, kind) for cell in cells if cell.recipe.source == source]
    missing = [task.cell for task in tasks if read_kept(task.result_file(folder), CellResult.read) is None]
    for cell in {json.dumps(asdict(replace(c, recipe=replace(c.recipe, seed=0)))): c for c in missing}.values():
        check_cell(cell, data)
    return data.content_sha256, kind


def _task(cell: Cell, source_sha256: str, kind: Mapping[str, bool]) -> Task:
    cell = replace(cell, recipe=cell.recipe.suited(**kind))

    def key(each: Cell) -> str:
        return each.key(source_sha256, __version__)

    return Task(cell, key(cell), key(replace(cell, protocol=None)), key(Cell(cell.recipe, "teacher")), source_sha256)


def _run_here(folder: Path, missing: dict[str, Task], board: StatusBoard, bar: Any) -> list[str]:
    """Run cells one after the other, and return the failures."""
    failed = []
    for task in missing.values():
        bar.set_postfix_str(task.cell.label)
        board.begin(task.key)
        problem = None
        try:
            run_task(task, folder)
        except MinariObdError as error:
            problem = f"{type(error).__name__}: {error}"
            failed.append(f"{task.cell.label}: {problem}")
        board.end(task.key, problem)
        bar.update()
    return failed


class Runner(Protocol):
    """Something that runs cells in parallel."""

    @property
    def slots(self) -> float:
        """Number of cells to run at a time."""
        ...

    def start(self, task: Task) -> None:
        """Start a cell."""
        ...

    def finished(self) -> dict[str, str | None]:
        """Wait briefly, and return the keys of cells that have ended since, with their error or None."""
        ...

    def stop(self) -> None:
        """Stop the cells that are still running. The next run continues them from their checkpoints."""
        ...


def _run_by(runner: Runner, missing: dict[str, Task], board: StatusBoard, bar: Any) -> list[str]:
    """Run cells in parallel, each after the cells that it needs, and return the failures."""
    waiting, started, failed = dict(missing), dict[str, Task](), list[str]()
    with interrupted_by_termination():
        try:
            while waiting or started:
                for key, task in list(waiting.items()):
                    unfinished = (each.cell for each in (*started.values(), *waiting.values()))
                    if len(started) < runner.slots and not _waits(task.cell, unfinished):
                        started[key] = waiting.pop(key)
                        runner.start(task)
                        board.begin(key)
                for key, problem in runner.finished().items():
                    label = started.pop(key).cell.label
                    board.end(key, problem)
                    if problem is not None:
                        failed.append(f"{label}: {problem}")
                    bar.update()
        finally:
            runner.stop()
    return failed


def _waits(cell: Cell, others: Iterable[Cell]) -> bool:
    """Return whether the teacher or pairs that a cell needs are not made yet. They are made once, for all cells."""

    def same(other: Cell) -> bool:
        return all(getattr(other.recipe, name) == getattr(cell.recipe, name) for name in ("source", "seed", "teacher"))

    if cell.protocol is not None:
        return replace(cell, protocol=None) in others
    return cell.needs_teacher() and any(other.kind == "teacher" and same(other) for other in others)
