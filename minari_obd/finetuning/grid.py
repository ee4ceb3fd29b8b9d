"""Grid of fine-tuning: several ways to begin (arms) times seeds, from one TOML file; what has a report is not run."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from minari_obd.distilled.metadata import parse_evaluation
from minari_obd.errors import SettingError
from minari_obd.evaluation.evaluation import evaluate
from minari_obd.experiments.grid import Cell
from minari_obd.experiments.kept import kept_pairs
from minari_obd.finetuning.arguments import Arguments
from minari_obd.finetuning.reminder import check_reminder_data
from minari_obd.finetuning.report import FinetuneReport, draw_reports, mean_curve
from minari_obd.finetuning.run import finetune
from minari_obd.registry import OBJECTIVES
from minari_obd.scores.estimates import estimate_mean
from minari_obd.scores.report import EvaluationReport
from minari_obd.settings.checks import STRICT, check_positive
from minari_obd.settings.finetuning import FinetuningRecipe
from minari_obd.settings.parsing import parse_settings, read_json, read_toml
from minari_obd.settings.recipe import Recipe, parse_recipe
from minari_obd.sources.data import OfflineData
from minari_obd.sources.loading import load_offline_data
from minari_obd.storage.cache import read_kept
from minari_obd.storage.files import check_no_artefact, check_writable, write_bytes, write_text
from minari_obd.support.tables import markdown_table
from minari_obd.teachers.obtaining import obtain_teacher, plan_teacher
from minari_obd.version import __version__

__all__ = ["Arm", "FinetuningGrid", "arms_table", "load_arms", "run_arms"]


@dataclass(frozen=True)
class Arm:
    """One way to begin."""

    pairs: Literal["distilled", "random"] = "distilled"
    """What is cloned: the recipe's pairs, or as many random ones of its source."""
    bc_data: Literal["pairs", "source"] = "pairs"
    """What the actor is reminded of: those pairs, or the whole source, which needs `bc_states = "data"`."""
    finetuning: dict[str, Any] = field(default_factory=dict)
    """What differs from the grid's own settings of :class:`FinetuningRecipe`."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT


@dataclass(frozen=True)
class FinetuningGrid:
    """Arms to be compared over the same seeds."""

    steps: int
    """Environment steps of each run."""
    recipe: dict[str, Any]
    """How the pairs are made, once for all arms and seeds; as in a recipe."""
    arms: dict[str, Arm]
    """By their names in tables and pictures."""
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    """Of clones, learners and episodes; not of the pairs."""
    finetuning: dict[str, Any] = field(default_factory=dict)
    """Settings of every arm."""
    target: float | None = None
    """Score to be reached; that of the recipe's teacher over 100 episodes if not given."""
    budget: int | None = None
    """Environment steps after which arms are compared besides the end; a quarter of all if not given."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    def __post_init__(self) -> None:
        check_positive("grid", steps=self.steps, budget=self.budget)
        if not self.arms or not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise SettingError(f"A grid needs an arm and seeds, each once; got {list(self.arms)} and {self.seeds}.")

    def settings(self, name: str) -> FinetuningRecipe:
        """Return the settings of an arm.

        Raises:
            FormatError: a wrong key, which is named.
            SettingError: the whole source is to be a reminder that is not used.
        """
        given = {**self.finetuning, **self.arms[name].finetuning}
        found = parse_settings(FinetuningRecipe, given, f"The arm '{name}'")
        if self.arms[name].bc_data == "source":
            try:
                check_reminder_data(found)
            except SettingError as error:
                error.add_note(f"That is the arm '{name}'.")
                raise
        return found

    def pairs_recipe(self, arm: Arm) -> Recipe:
        """Return the recipe of an arm's pairs.

        Raises:
            FormatError: the grid's recipe is none; each wrong key is named.
        """
        method = {"method": "random"} if arm.pairs == "random" else {}
        return parse_recipe({"threads": 1, **self.recipe, **method}, "the grid's recipe")


def load_arms(path: str | Path) -> FinetuningGrid:
    """Read a grid from a TOML file.

    Raises:
        NotFoundError: no such file.
        FormatError: not TOML, or not a grid; a wrong key is named.
        SettingError: an arm whose settings contradict each other.
    """
    grid = parse_settings(FinetuningGrid, read_toml(path, "grid", "recipes/finetune/hopper.toml"), f"'{path}'")
    for name, arm in grid.arms.items():
        grid.settings(name)
        grid.pairs_recipe(arm)
    return grid


def run_arms(
    grid: FinetuningGrid | str | Path, out: str | Path, *, seeds: Sequence[int] | None = None, progress: bool = True
) -> str:
    """Run every arm and seed that has no report in ``out``, and return the table of all that have one.

    Every run has a folder of its own, named after everything that decides it, so a grid that was killed goes on where
    it was and one that grows keeps what it has. All arms of a seed come before the next seed.

    Args:
        grid: the grid, or its TOML file.
        out: a folder: ``runs/*`` with a report each, ``sets/*`` for pairs, ``curves.png`` and ``table.md``.
        seeds: only these of the grid's, so that processes can share the work; all if not given.
        progress: show bars.

    Raises:
        NotFoundError, FormatError: the grid's file.
        SettingError: a seed that the grid has not.
        MinariObdError: as :func:`minari_obd.finetune`.
    """
    grid = grid if isinstance(grid, FinetuningGrid) else load_arms(grid)
    if not set(seeds or ()) <= set(grid.seeds):
        raise SettingError(f"The seeds {list(seeds or ())} are not all among the grid's, {grid.seeds}.")
    folder = Path(out)
    check_no_artefact(folder)
    check_writable(folder / "runs" / "x")
    recipes = {name: grid.pairs_recipe(arm) for name, arm in grid.arms.items()}
    data = load_offline_data(next(iter(recipes.values())).source, progress=progress)
    pairs = {name: kept_pairs(recipe, data, folder, progress) for name, recipe in recipes.items()}
    reports = []
    for seed in grid.seeds:
        for name, arm in grid.arms.items():
            other = data if arm.bc_data == "source" else None
            given: dict[str, Any] = {"steps": grid.steps, "seed": seed, "settings": grid.settings(name)}
            run = Arguments(pairs[name], data.env_id, **given, bc_data=pairs[name] if other is None else other)
            place = folder / "runs" / run.key
            report = read_kept(place / "report.json", lambda path: FinetuneReport.read(path.parent))
            if report is None:
                if seeds is not None and seed not in seeds:
                    continue
                report = finetune(run.ds, run.env_id, **given, bc_data=other, out=place, label=name, progress=progress)
            reports.append(replace(report, label=name))
    target = grid.target
    if target is None:
        target = _teacher_score(next(iter(recipes.values())), data, folder)
    table = arms_table(reports, budget=grid.budget or grid.steps // 4, target=target)
    write_text(folder / "table.md", table)
    write_bytes(folder / "curves.png", draw_reports(reports, target=target))
    return table


def _teacher_score(recipe: Recipe, data: OfflineData, folder: Path) -> float | None:
    """Mean score (return, without reference scores) of the teacher behind the pairs; None if they have none."""
    if not OBJECTIVES.get(recipe.method).needs_teacher:
        return None
    path = folder / f"teacher-{Cell(recipe, 'teacher').key(data.content_sha256, __version__)}.json"
    report = read_kept(path, _read_report)
    if report is None:
        taught = obtain_teacher(plan_teacher(recipe, data), progress=False)
        assert taught.teacher is not None
        report = evaluate(taught.teacher, env=data.env_id, episodes=100, seed=recipe.seed)
        write_text(path, json.dumps(report.to_json(), indent=1) + "\n")
    report = report if data.reference is None else replace(report, reference=data.reference)
    return (report.mean_return if report.reference is None else report.score).mean


def _read_report(path: Path) -> EvaluationReport:
    return parse_evaluation(read_json(path), str(path))


def arms_table(reports: Sequence[FinetuneReport], *, budget: int, target: float | None = None) -> str:
    """Return the mean over seeds, with its 95% interval, of what is read from each arm's curves, as Markdown.

    Args:
        reports: of all arms and seeds.
        budget: environment steps after which they are compared besides the end.
        target: score (return, without reference scores) to be reached first, and from then on; no column without one.
    """
    unit = "return" if reports[0].reference is None else "score"
    names = ["arm", "seeds", f"{unit} at the start", f"after {budget:,} steps", "at the end", "largest drop"]
    if target is not None:
        names += [f"steps to {target:.1f}", "to stay there"]
    rows = []
    for label in dict.fromkeys(report.label for report in reports):
        group = [report for report in reports if report.label == label]
        steps, estimates = mean_curve(group)
        within = estimates[int(np.searchsorted(steps, budget, side="right")) - 1]
        drop = estimate_mean(np.array([[report.largest_drop] for report in group]))
        fields = [label, str(len(group)), *map(str, (estimates[0], within, estimates[-1], drop))]
        if target is not None:
            fields += [_steps_text([each.steps_to(target, stays=stays) for each in group]) for stays in (False, True)]
        rows.append(fields)
    return markdown_table(names, rows) + "\n"


def _steps_text(steps: Sequence[int | None]) -> str:
    """Mean of the seeds that got there, and how many they are."""
    there = [each for each in steps if each is not None]
    if not there:
        return f"never (0 of {len(steps)})"
    return f"{sum(there) / len(there):,.0f} ({len(there)} of {len(steps)})"
