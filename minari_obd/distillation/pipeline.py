"""Pipeline: a recipe from start to end, with the baselines that its result has to be seen beside."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from minari_obd.distillation.distillation import Outcome, run
from minari_obd.distillation.judging import judge_pairs, judge_teacher
from minari_obd.distillation.preparation import Prepared, prepare
from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.scores.report import Comparison, EvaluationReport
from minari_obd.settings.recipe import Recipe
from minari_obd.sources.data import OfflineData
from minari_obd.storage.files import write_text
from minari_obd.support.devices import cpu_threads
from minari_obd.support.tracking import Track, TrackerName

__all__ = ["Result", "Row", "run_recipe"]


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    pairs: int | None
    """(state, action) pairs that students are cloned from; None for the teacher."""
    report: EvaluationReport
    made: float
    """Seconds to make what students are cloned from (for the teacher: to train it), zero if it was there."""
    cloned: float
    """Seconds to clone one student."""
    is_result: bool = False
    """Whether it is of the pairs that the recipe is about."""


@dataclass(frozen=True)
class Result:
    """What a recipe gave."""

    dataset: DistilledDataset
    rows: list[Row]
    folder: Path

    def to_json(self) -> dict[str, Any]:
        """The table with every return."""
        return {
            row.name: {"pairs": row.pairs, "made_s": row.made, "cloned_s": row.cloned, **row.report.to_json()}
            for row in self.rows
        }

    def table(self) -> Table:
        """The table for the terminal."""
        scored = all(row.report.reference is not None for row in self.rows)
        table = Table(box=SIMPLE_HEAD, title=f"{self.dataset.provenance.source} in {self.dataset.env_id}")
        table.add_column("cloned from")
        titles = ["pairs", "score" if scored else "return", "95% interval", "runs", "made in", "cloned in"]
        says = any(row.report.success is not None for row in self.rows)
        for title in [*titles[:3], *(["success"] if says else []), *titles[3:]]:
            table.add_column(title, justify="right", no_wrap=True)
        for row in self.rows:
            estimate = row.report.score if scored else row.report.mean_return
            students, episodes = row.report.returns.shape
            table.add_row(
                row.name,
                "-" if row.pairs is None else f"{row.pairs:,}",
                f"{estimate.mean:.1f}",
                f"{estimate.low:.1f} - {estimate.high:.1f}",
                *([f"{row.report.success.mean:.1f}%" if row.report.success else "-"] if says else []),
                f"{students}x{episodes}",
                "-" if row.made == 0 else f"{row.made:.0f} s",
                "-" if row.cloned == 0 else f"{row.cloned:.1f} s",
            )
        unit = "score: normalised return, 0 = random, 100 = expert; " if scored else ""
        table.caption = f"{unit}runs: students x episodes; cloned in: seconds for one student"
        return table


def run_recipe(
    recipe: Recipe,
    out: str | Path | None = None,
    *,
    overwrite: bool = False,
    progress: bool = True,
    track: TrackerName | Track | None = None,
) -> Result:
    """Distil, clone, evaluate, and compare with random pairs, the whole dataset and the teacher.

    Leaves the distilled dataset, with its evaluation, in ``out`` and the whole table beside it in ``out.results.json``.

    Args:
        recipe: the run.
        out: the folder to leave; ``out/<source>-<method>-<size>-seed-<seed>`` if not given.
        overwrite: let the result take the place of another run's.
        progress: print the plan, show bars and print the table.
        track: who is told how the run goes, as for :func:`minari_obd.distill`.

    Raises:
        SettingError: there is no environment to evaluate in, or it does not fit the source; or the folder holds another
            run's result.
    """
    with cpu_threads(recipe.threads) as threads:
        recipe = replace(recipe, threads=threads)
        folder = Path("out") / recipe.name if out is None else Path(out)
        told: dict[str, Any] = {"progress": progress, "track": track}
        prepared = prepare(recipe, out=folder, overwrite=overwrite, evaluates=True, **told)
        outcome = run(prepared)  # saved at once, and once more with its evaluation
        rows = _rows(prepared, outcome)
        dataset = _with_evaluation(outcome.dataset, rows)
        dataset.save(folder)
        result = Result(dataset, rows, folder)
        write_text(folder.with_name(f"{folder.name}.results.json"), json.dumps(result.to_json(), indent=1) + "\n")
        if progress:
            Console().print(result.table())
        return result


def _rows(prepared: Prepared, outcome: Outcome) -> list[Row]:
    """Judge the pairs, and beside them random pairs, the whole data and the teacher, in the order of the table."""
    recipe, data, progress = prepared.recipe, prepared.data, prepared.progress

    def row(name: str, pairs: DistilledDataset | OfflineData, made: float = 0.0, *, is_result: bool = False) -> Row:
        if progress:
            Console(stderr=True, highlight=False).print(f"[bold]{name}[/bold]")  # above the bars of their students
        judged = judge_pairs(pairs, recipe, progress=progress)
        return Row(name, len(pairs), judged.report, made, judged.cloned_seconds, is_result)

    rows = []
    if recipe.method != "random":
        picked = run(prepare(replace(recipe, method="random"), data, progress=False)).dataset
        rows.append(row("random pairs", picked))
    rows.append(row(f"{recipe.method} pairs", outcome.dataset, outcome.seconds, is_result=True))
    rows.append(row("whole dataset", data))
    if (teacher := outcome.taught.teacher) is not None:
        if progress:
            Console(stderr=True).print("[bold](teacher)[/bold]")
        report = judge_teacher(teacher, data, recipe, progress=progress)
        rows.append(Row("(teacher)", None, report, outcome.taught.seconds, 0.0))
    return rows


def _with_evaluation(dataset: DistilledDataset, rows: list[Row]) -> DistilledDataset:
    """Return the dataset with its own row's report, and the others beside it."""
    own = next(row for row in rows if row.is_result)
    others = tuple(Comparison.of(row.name, row.pairs, row.report) for row in rows if not row.is_result)
    return dataset.with_evaluation(replace(own.report, comparisons=others))
