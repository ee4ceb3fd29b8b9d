"""One cell of a bench: run it, and keep its result."""

import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from minari_obd.distillation.distillation import run
from minari_obd.distillation.judging import judge_pairs, judge_teacher
from minari_obd.distillation.preparation import evaluable, prepare
from minari_obd.distilled.loading import load_dataset
from minari_obd.errors import DataError, FormatError, MinariObdError
from minari_obd.evaluation.evaluation import evaluate
from minari_obd.experiments.grid import Cell
from minari_obd.scores.references import check_returns
from minari_obd.scores.report import EvaluationReport
from minari_obd.settings.parsing import NOT_OURS
from minari_obd.settings.protocols import evaluation_protocol_by_name
from minari_obd.settings.recipe import parse_recipe
from minari_obd.sources.data import OfflineData
from minari_obd.sources.loading import load_offline_data
from minari_obd.storage.cache import check_cache, read_kept
from minari_obd.storage.files import replacing, write_text
from minari_obd.support.devices import cpu_threads
from minari_obd.teachers.loading import load_teacher
from minari_obd.teachers.obtaining import obtain_teacher, plan_teacher
from minari_obd.teachers.run import TeacherRun
from minari_obd.version import __version__

__all__ = ["CellResult", "Task", "check_cell", "load_results", "note_tasks", "noted_keys", "run_task"]

_TASKS_FILE = "grid.json"


@dataclass(frozen=True)
class Task:
    """A cell to be run, and what its files are called."""

    cell: Cell
    key: str
    """Of the result: ``cells/<key>.json``."""
    set_key: str
    """Of the distilled dataset, ``sets/<set_key>``: the cell's own, or the one that it judges again."""
    teacher_key: str
    """Of the teacher that the cell is, or needs: ``teachers/<teacher_key>``."""
    source_sha256: str
    """Content that the source must have, wherever the cell is run."""

    def result_file(self, folder: Path) -> Path:
        """Return where the result is, or will be."""
        return folder / "cells" / f"{self.key}.json"

    def to_json(self) -> dict[str, Any]:
        """Return the task as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Task":
        """Read what :meth:`to_json` gave."""
        cell = values["cell"]
        recipe = parse_recipe(cell["recipe"], "the cell")
        return cls(**{**values, "cell": Cell(**{**cell, "recipe": recipe})})


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
    """To clone one student; zero for a teacher, and where the evaluation itself cloned them."""
    offline_loss: float | None = None
    protocol: str | None = None
    """Name of the protocol under which the pairs were judged once more; None for their own."""
    set_key: str | None = None
    """Name of the distilled dataset in ``sets``, if there is one."""

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values, every return among them."""
        kept = {name: value for name, value in vars(self).items() if name != "report"}
        return {**kept, "report": self.report.to_json(), "version": __version__}

    @classmethod
    def read(cls, path: Path) -> "CellResult":
        """Read what :meth:`to_json` gave.

        Raises:
            FormatError: the file is damaged.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            values.pop("version")
            report = EvaluationReport.from_json(values["report"])
            check_returns(report.returns, report.reference, "returns")
            return cls(**{**values, "report": report})
        except (MinariObdError, IsADirectoryError, *NOT_OURS) as error:
            raise FormatError(
                f"'{path}' is not the result of a cell ({error}); run the bench again, which makes it anew."
            ) from error


def note_tasks(tasks: Iterable[Task], folder: Path) -> None:
    """Note which cells the grid has: results of earlier grids stay in the folder and are not of this one."""
    write_text(folder / _TASKS_FILE, json.dumps({"cells": [task.key for task in tasks]}, indent=1) + "\n")


def noted_keys(folder: Path) -> list[str] | None:
    """Return the keys of the last grid's cells; None if none are noted, as in folders of version 0.1.0.

    Raises:
        FormatError: the note is damaged.
    """
    noted = folder / _TASKS_FILE
    if not noted.is_file():
        return None
    try:
        return list(json.loads(noted.read_text(encoding="utf-8"))["cells"])
    except NOT_OURS as error:
        raise FormatError(f"'{noted}' is damaged ({error}); run the bench again, which writes it anew.") from error


def load_results(folder: Path) -> list[CellResult]:
    """Read the results of the last grid in a bench's folder, in the order of dataset, method, size, protocol and seed.

    Raises:
        FormatError: a file is damaged.
    """
    paths, keys = sorted((folder / "cells").glob("*.json")), noted_keys(folder)
    if keys is not None:  # otherwise every cell is shown
        paths = [path for path in paths if path.stem in set(keys)]
    results = [CellResult.read(path) for path in paths]
    return sorted(results, key=lambda r: (r.dataset, r.method, r.size or 0, r.protocol or "", r.seed))


def check_cell(cell: Cell, data: OfflineData) -> None:
    """Find whatever would make a cell fail before any cell starts, as far as it can be known.

    Raises:
        MinariObdError: as :func:`run_task`.
    """
    if cell.kind == "distilled" and cell.protocol is None:
        prepare(cell.recipe, data, evaluates=True, progress=False)
    else:
        evaluable(data, cell.recipe)
    if cell.kind == "teacher":
        plan_teacher(cell.recipe, data)
        check_cache()


def run_task(task: Task, folder: Path, *, workers: int | None = None) -> None:
    """Run a cell and write its result, whole or not at all.

    Raises:
        DataError: the source has not the content that the task is about.
        MinariObdError: whatever the cell's own work may raise.
    """
    cell, recipe = task.cell, task.cell.recipe
    data = load_offline_data(recipe.source, progress=False)
    if data.content_sha256 != task.source_sha256:
        raise DataError(f"'{recipe.source}' has other content here than where the bench was started; copy it over.")
    data = evaluable(data, recipe)
    with cpu_threads(recipe.threads):
        if cell.protocol is not None:
            result = _judge_again(task, data, folder, workers)
        elif cell.kind == "teacher":
            result = _judge_teacher(task, data, folder, workers)
        else:
            result = _judge_pairs(task, data, folder, workers)
    write_text(task.result_file(folder), json.dumps(result.to_json(), indent=1) + "\n")


def _result(task: Task, report: EvaluationReport, made: float = 0.0, cloned: float = 0.0, **known: Any) -> CellResult:
    cell = task.cell
    fixed = (task.key, cell.recipe.source, cell.method, cell.size, cell.recipe.seed, report)
    return CellResult(*fixed, round(made, 3), round(cloned, 4), protocol=cell.protocol, **known)


def _copy(teacher: Path, to: Path) -> None:
    """Copy a teacher's folder that is there, and whole, to where it is not, so that no machine trains it again."""
    if not to.exists() and read_kept(teacher, load_teacher) is not None:
        with replacing(to) as temporary:
            shutil.copytree(teacher, temporary)


def _judge_teacher(task: Task, data: OfflineData, folder: Path, workers: int | None) -> CellResult:
    recipe = task.cell.recipe
    planned, kept = plan_teacher(recipe, data), folder / "teachers" / task.teacher_key
    if isinstance(planned, TeacherRun):
        _copy(kept, planned.cache_folder)
    taught = obtain_teacher(planned, progress=False)
    if isinstance(planned, TeacherRun):
        _copy(planned.cache_folder, kept)
    assert taught.teacher is not None
    report = judge_teacher(taught.teacher, data, recipe, workers=workers)
    return _result(task, report, taught.seconds)


def _judge_pairs(task: Task, data: OfflineData, folder: Path, workers: int | None) -> CellResult:
    recipe = task.cell.recipe
    if task.cell.kind == "whole_data":
        judged = judge_pairs(data, recipe, workers=workers)
        return _result(task, judged.report, 0.0, judged.cloned_seconds)
    prepared = prepare(recipe, data, out=folder / "sets" / task.set_key, overwrite=True, progress=False)
    if isinstance(prepared.teacher, TeacherRun):
        _copy(folder / "teachers" / task.teacher_key, prepared.teacher.cache_folder)
    outcome = run(prepared)
    pairs, judged = outcome.dataset, judge_pairs(outcome.dataset, recipe, workers=workers)
    pairs.with_evaluation(judged.report).save(folder / "sets" / task.set_key)
    known = {"offline_loss": pairs.provenance.offline_loss, "set_key": task.set_key}
    return _result(task, judged.report, outcome.seconds, judged.cloned_seconds, **known)


def _judge_again(task: Task, data: OfflineData, folder: Path, workers: int | None) -> CellResult:
    """Judge pairs that are there already, under another protocol; damaged ones are made again first."""
    pairs = read_kept(folder / "sets" / task.set_key, load_dataset)
    if pairs is None:
        prepared = prepare(task.cell.recipe, data, out=folder / "sets" / task.set_key, overwrite=True, progress=False)
        pairs = run(prepared).dataset
    protocol = evaluation_protocol_by_name(task.cell.protocol)
    report = evaluate(pairs, protocol=protocol, seed=task.cell.recipe.seed, workers=workers)
    return _result(task, report, offline_loss=pairs.provenance.offline_loss, set_key=task.set_key)
