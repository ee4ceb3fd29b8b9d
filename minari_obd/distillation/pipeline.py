"""Pipeline: a recipe from start to end, with the baselines that its result has to be seen beside."""

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from minari_obd.cloning.cloning import clone
from minari_obd.distillation.distillation import Distillation
from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.errors import SettingError
from minari_obd.evaluation.evaluation import evaluate
from minari_obd.scores.report import EvaluationReport
from minari_obd.settings.protocols import StudentProtocol, protocol_by_name
from minari_obd.settings.recipe import Recipe
from minari_obd.support.devices import cpu_threads

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

    def comparison(self) -> dict[str, Any]:
        """Return the line as JSON values, for the results table of a distilled set's card."""
        report = self.report.to_json()
        kept = {key: report[key] for key in ("students", "episodes", "score", "return")}
        return {"name": self.name, "pairs": self.pairs, **kept}


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
        scored = self.rows[0].report.reference is not None
        table = Table(box=SIMPLE_HEAD, title=f"{self.dataset.provenance.source} in {self.dataset.env_id}")
        table.add_column("cloned from")
        for title in ("pairs", "score" if scored else "return", "95% interval", "runs", "made in", "cloned in"):
            table.add_column(title, justify="right", no_wrap=True)
        for row in self.rows:
            estimate = row.report.score if scored else row.report.mean_return
            students, episodes = row.report.returns.shape
            table.add_row(
                row.name,
                "-" if row.pairs is None else f"{row.pairs:,}",
                f"{estimate.mean:.1f}",
                f"{estimate.low:.1f} - {estimate.high:.1f}",
                f"{students}x{episodes}",
                "-" if row.made == 0 else f"{row.made:.0f} s",
                "-" if row.cloned == 0 else f"{row.cloned:.1f} s",
            )
        unit = "score: normalised return, 0 = random, 100 = expert; " if scored else ""
        table.caption = f"{unit}runs: students x episodes; cloned in: seconds for one student"
        return table


def run_recipe(recipe: Recipe, out: str | Path | None = None, *, progress: bool = True) -> Result:
    """Distil, clone, evaluate, and compare with random pairs, the whole dataset and the teacher.

    Leaves the distilled dataset, with its evaluation, in ``out`` and the whole table beside it in ``out.results.json``.

    Args:
        recipe: the run.
        out: the folder to leave; ``out/<environment>-<method>-<size>`` if not given.
        progress: print the plan, show bars and print the table.

    Raises:
        SettingError: the source names no environment to evaluate in.
    """
    with cpu_threads(recipe.threads) as threads:
        return _run(replace(recipe, threads=threads), out, progress)


def _run(recipe: Recipe, out: str | Path | None, progress: bool) -> Result:
    run = Distillation(recipe, progress=progress)
    run.check(out)
    if run.data.env_id is None:
        raise SettingError(
            f"'{run.data.dataset_id}' names no environment, so nothing can be evaluated; use `minari-obd distill`."
        )
    name = f"obd-{run.data.env_id.rsplit('-v', 1)[0].lower()}-{recipe.method}-{recipe.size}"
    folder = Path(out) if out is not None else Path("out") / name
    run.check(folder)
    started = time.perf_counter()
    dataset = run.run(folder)  # saved at once; saved again with its evaluation in the end
    total = time.perf_counter() - started

    def judge(subject: Any, students: int) -> EvaluationReport:
        judged = recipe.evaluation
        return evaluate(subject, students=students, episodes=judged.episodes, seed=recipe.seed, progress=progress)

    def row(label: str, pairs: Any, made: float, protocol: StudentProtocol | None = None) -> Row:
        begun = time.perf_counter()
        policy = clone(pairs, students=students, protocol=protocol, seed=recipe.seed, progress=progress)
        cloned = (time.perf_counter() - begun) / students
        return Row(label, len(pairs), judge(policy, students), made, cloned)

    students = recipe.evaluation.students
    rows = []
    if recipe.method != "random":
        picked = Distillation(replace(recipe, method="random"), source=run.data, progress=False).run()
        rows.append(row("random pairs", picked, 0.0))
    distilled = row(f"{recipe.method} pairs", dataset, total - run.teacher_seconds)
    rows.append(distilled)
    whole_data = replace(protocol_by_name("whole_data"), steps=recipe.evaluation.whole_data_steps)
    rows.append(row("whole dataset", run.data, 0.0, whole_data))
    if run.needs_teacher:
        # As many episodes as all students have together, so that its interval is as telling as theirs.
        report = evaluate(
            run.teacher,
            env=run.data.env_id,
            students=1,
            episodes=students * recipe.evaluation.episodes,
            seed=recipe.seed,
            progress=progress,
        )
        rows.append(Row("(teacher)", None, report, run.teacher_seconds, 0.0))
    others = [each.comparison() for each in rows if each is not distilled]
    dataset = replace(dataset, evaluation={**distilled.report.to_json(), "comparisons": others})
    dataset.save(folder)
    result = Result(dataset, rows, folder)
    summary = folder.with_name(f"{folder.name}.results.json")
    summary.write_text(json.dumps(result.to_json(), indent=1) + "\n", encoding="utf-8")
    if progress:
        Console().print(result.table())
    return result
