"""Bench: run the cells of a grid that have no result yet, and put all results into one table."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import minari_obd
from minari_obd.cloning import clone
from minari_obd.devices import cpu_threads
from minari_obd.distillation import Distillation
from minari_obd.errors import FormatError, MinariObdError, check_writable
from minari_obd.evaluation import EvaluationReport, evaluate
from minari_obd.grid import Cell, Grid, load_grid
from minari_obd.offline import load_offline_data
from minari_obd.progress import progress_bar
from minari_obd.protocol import check_positive, protocol_by_name
from minari_obd.statistics import ReferenceScores

__all__ = ["CellResult", "run_grid"]

_PAUSE = 0.2  # seconds between two looks at the processes


@dataclass(frozen=True)
class CellResult:
    """What a cell gave; one JSON file."""

    key: str
    dataset: str
    method: str
    size: int | None
    seed: int
    report: EvaluationReport
    made_seconds: float
    """To make what students are cloned from; for the teacher, to train it, zero if it was there."""
    cloned_seconds: float
    """To clone one student."""
    offline_loss: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values, every return among them."""
        kept = {name: value for name, value in vars(self).items() if name != "report"}
        return {**kept, "report": self.report.to_json(), "version": minari_obd.__version__}

    @classmethod
    def read(cls, path: Path) -> "CellResult":
        """Read what :meth:`to_json` gave.

        Raises:
            FormatError: the file is damaged.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            report = values.pop("report")
            given = report["reference_scores"]
            values.pop("version")
            return cls(
                report=EvaluationReport(
                    returns=np.array(report["returns"], dtype=np.float64),
                    env_id=report["env_id"],
                    seed=report["seed"],
                    reference=None if given is None else ReferenceScores(**given),
                    seconds=report["seconds"],
                    versions=report["versions"],
                    environment_steps=report["environment_steps"],
                ),
                **values,
            )
        except (ValueError, KeyError, TypeError) as error:
            raise FormatError(f"'{path}' is no result of a cell ({error}); delete it, and it is made again.") from error


def run_grid(grid: Grid | str | Path, out: str | Path, *, jobs: int = 1, progress: bool = True) -> list[CellResult]:
    """Run every cell that has no result in ``out``, and return the results of all, in the grid's order.

    Each result is a file of its own, named after everything that decides it, so a run that was killed goes on where it
    was, and a grid that grows keeps what it has.

    Args:
        grid: the grid, or its TOML file.
        out: a folder: ``cells/*.json`` for results, ``sets/*`` for distilled datasets, ``logs/*`` of processes.
        jobs: processes at a time; one is this process itself. The results are the same for every number.
        progress: show bars.

    Raises:
        NotFoundError, FormatError: the grid's file, a dataset or a method.
        SettingError: ``jobs`` is not positive, or ``out`` cannot be written.
        MinariObdError: a cell failed; the others that can be are finished first.
    """
    check_positive("bench", jobs=jobs)
    grid = grid if isinstance(grid, Grid) else load_grid(grid)
    folder = Path(out)
    check_writable(folder / "cells" / "x")
    # Loaded here once, so that datasets are built before processes need them, and results are named after content.
    sources = {name: load_offline_data(name, progress=progress).content_sha256 for name in grid.datasets}
    cells = {cell.key(sources[cell.recipe.source], minari_obd.__version__): cell for cell in grid.cells()}
    missing = {key: cell for key, cell in cells.items() if not _file(folder, key).is_file()}
    with progress_bar(len(cells), "bench", unit="cell", show=progress) as bar:
        bar.update(len(cells) - len(missing))
        failed = _run_here(missing, folder, bar) if jobs == 1 else _run_in_processes(missing, folder, jobs, bar)
    if failed:
        raise MinariObdError(
            f"{len(failed)} of {len(missing)} cell(s) failed, first {failed[0]}; given again, the command runs them "
            "once more, and no others."
        )
    return [CellResult.read(_file(folder, key)) for key in cells]


def _file(folder: Path, key: str) -> Path:
    return folder / "cells" / f"{key}.json"


def run_cell(cell: Cell, key: str, folder: Path, *, workers: int | None = None) -> None:
    """Run one cell and write its result, whole or not at all."""
    recipe = cell.recipe
    data = load_offline_data(recipe.source, progress=False)
    judged = {"episodes": recipe.evaluation.episodes, "seed": recipe.seed, "workers": workers}
    students = recipe.evaluation.students
    loss, distilled = None, None
    with cpu_threads(recipe.threads):
        begun = time.perf_counter()
        if cell.kind == "teacher":
            run = Distillation(replace(recipe, method="pbc"), source=data, progress=False)
            subject, made, cloned = run.teacher, run.teacher_seconds, 0.0
            # As many episodes as all students have together, so that its interval is as telling as theirs.
            judged |= {"env": data.env_id, "students": 1, "episodes": students * recipe.evaluation.episodes}
        else:
            protocol = replace(protocol_by_name("whole_data"), steps=recipe.evaluation.whole_data_steps)
            if cell.kind == "distilled":
                run = Distillation(recipe, source=data, progress=False)
                if run.needs_teacher:
                    _ = run.teacher
                    begun = time.perf_counter()
                distilled, protocol = run.run(folder / "sets" / key), None
                loss = distilled.provenance.offline_loss
            made = time.perf_counter() - begun if distilled is not None else 0.0
            begun = time.perf_counter()
            subject = clone(distilled or data, students=students, protocol=protocol, seed=recipe.seed)
            cloned = (time.perf_counter() - begun) / students
        report = evaluate(subject, **judged)
    if distilled is not None:
        distilled.with_evaluation(report).save(folder / "sets" / key)
    result = CellResult(
        key, recipe.source, cell.method, cell.size, recipe.seed, report, round(made, 3), round(cloned, 4), loss
    )
    path = check_writable(_file(folder, key))
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(result.to_json(), indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


_CHILD = """
import json, sys
from pathlib import Path
from minari_obd.bench import run_cell
from minari_obd.errors import MinariObdError
from minari_obd.grid import Cell
from minari_obd.recipe import parse_recipe
task = json.loads(sys.stdin.read())
try:
    run_cell(Cell(parse_recipe(task["recipe"], "the cell"), task["kind"]), task["key"], Path(task["folder"]), workers=1)
except MinariObdError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def _run_here(missing: dict[str, Cell], folder: Path, bar: Any) -> list[str]:
    """Run cells one after the other, and return what failed."""
    failed = []
    for key, cell in missing.items():
        bar.set_postfix_str(cell.label)
        try:
            run_cell(cell, key, folder)
        except MinariObdError as error:
            failed.append(f"{cell.label}: {type(error).__name__}: {error}")
        bar.update()
    return failed


def _run_in_processes(missing: dict[str, Cell], folder: Path, jobs: int, bar: Any) -> list[str]:
    """Run cells in processes of their own, none before its teacher is there, and return what failed."""
    waiting = list(missing.items())
    running: dict[str, subprocess.Popen[bytes]] = {}
    failed: list[str] = []
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    with _ended(running):
        while waiting or running:
            for key, cell in list(waiting):
                unfinished = [missing[other] for other in (*running, *dict(waiting))]
                if len(running) < jobs and not _waits(cell, unfinished):
                    waiting.remove((key, cell))
                    running[key] = _start(cell, key, folder)
            time.sleep(_PAUSE)
            for key in [key for key, process in running.items() if process.poll() is not None]:
                if running.pop(key).returncode != 0:
                    failed.append(f"{missing[key].label}: {_last_line(folder, key)}")
                bar.update()
    return failed


def _waits(cell: Cell, others: Iterable[Cell]) -> bool:
    """Whether the teacher that a cell needs is still to come: trained once, it is there for all."""

    def same(other: Cell) -> bool:
        return all(getattr(other.recipe, name) == getattr(cell.recipe, name) for name in ("source", "seed", "teacher"))

    return cell.needs_teacher() and any(other.kind == "teacher" and same(other) for other in others)


def _start(cell: Cell, key: str, folder: Path) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with (folder / "logs" / f"{key}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _CHILD], stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment
        )
    task = {"recipe": asdict(cell.recipe), "kind": cell.kind, "key": key, "folder": str(folder.resolve())}
    assert process.stdin is not None
    process.stdin.write(json.dumps(task).encode())
    process.stdin.close()
    return process


def _last_line(folder: Path, key: str) -> str:
    lines = (folder / "logs" / f"{key}.log").read_text(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "it ended without a word"


@contextmanager
def _ended(running: "dict[str, subprocess.Popen[bytes]]") -> Iterator[None]:
    """End the processes with the block, whatever ends it; they go on from their checkpoints another time."""
    try:
        yield
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()
