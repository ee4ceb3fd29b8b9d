"""Grid of fine-tuning: several ways to begin (arms) times seeds, from one TOML file; what has a report is not run."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import minari_obd
from minari_obd.distillation import Distillation
from minari_obd.distilled import DistilledDataset
from minari_obd.errors import SettingError, check_writable
from minari_obd.finetuning import Finetuning
from minari_obd.finetuning_recipe import FinetuningRecipe
from minari_obd.finetuning_report import FinetuneReport, draw_reports, mean_curve, write_text
from minari_obd.folder import load_folder
from minari_obd.grid import Cell, parse_settings
from minari_obd.offline import OfflineData, load_offline_data
from minari_obd.protocol import STRICT, check_positive
from minari_obd.recipe import Recipe, parse_recipe, read_toml

__all__ = ["Arm", "FinetuningGrid", "arms_table", "load_arms", "run_arms"]


@dataclass(frozen=True)
class Arm:
    """One way to begin."""

    pairs: Literal["distilled", "random"] = "distilled"
    """What is cloned: the recipe's pairs, or as many random ones of its source."""
    bc_data: Literal["pairs", "source"] = "pairs"
    """What the actor is reminded of: those pairs, or the whole source."""
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

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    def __post_init__(self) -> None:
        check_positive("grid", steps=self.steps)
        if not self.arms or not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise SettingError(f"A grid needs an arm and seeds, each once; got {list(self.arms)} and {self.seeds}.")

    def settings(self, name: str) -> FinetuningRecipe:
        """Return the settings of an arm.

        Raises:
            FormatError: a wrong key, which is named.
        """
        given = {**self.finetuning, **self.arms[name].finetuning}
        return parse_settings(FinetuningRecipe, given, f"The arm '{name}'")

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
        MinariObdError: as :func:`minari_obd.finetuning.finetune`.
    """
    grid = grid if isinstance(grid, FinetuningGrid) else load_arms(grid)
    if not set(seeds or ()) <= set(grid.seeds):
        raise SettingError(f"The seeds {list(seeds or ())} are not all among the grid's, {grid.seeds}.")
    folder = Path(out)
    check_writable(folder / "runs" / "x")
    recipes = {name: grid.pairs_recipe(arm) for name, arm in grid.arms.items()}
    data = load_offline_data(next(iter(recipes.values())).source, progress=progress)
    pairs = {name: _pairs(recipe, data, folder, progress) for name, recipe in recipes.items()}
    reports = []
    for seed in grid.seeds:
        for name, arm in grid.arms.items():
            reminder = pairs[name] if arm.bc_data == "pairs" else data
            run = Finetuning(pairs[name], data.env_id, grid.steps, seed, grid.settings(name), reminder, name)
            place = folder / "runs" / run.key
            if not (place / "report.json").is_file():
                if seeds is not None and seed not in seeds:
                    continue
                run.run(place, progress=progress)
            reports.append(replace(FinetuneReport.read(place), label=name))
    _write(reports, folder)
    return arms_table(reports)


def _pairs(recipe: Recipe, data: OfflineData, folder: Path, progress: bool) -> DistilledDataset:
    place = folder / "sets" / Cell(recipe, "distilled").key(data.content_sha256, minari_obd.__version__)
    if (place / "obd.json").is_file():
        return load_folder(place)
    return Distillation(recipe, source=data, progress=progress).run(place)


def arms_table(reports: Sequence[FinetuneReport]) -> str:
    """Return the mean over seeds, with its 95% interval, of what is read from each arm's curves, as Markdown."""
    unit = "return" if reports[0].reference is None else "score"
    lines = [f"| arm | seeds | {unit} at the start | at the end | largest drop |", "|---|---|---|---|---|"]
    for label in dict.fromkeys(report.label for report in reports):
        group = [report for report in reports if report.label == label]
        _, estimates = mean_curve(group)
        drop = sum(report.largest_drop for report in group) / len(group)
        lines.append(f"| {label} | {len(group)} | {estimates[0]} | {estimates[-1]} | {drop:.1f} |")
    return "\n".join(lines) + "\n"


def _write(reports: Sequence[FinetuneReport], folder: Path) -> None:
    write_text(folder / "table.md", arms_table(reports))
    temporary = folder / f".curves.{os.getpid()}.png"
    temporary.write_bytes(draw_reports(reports))
    temporary.replace(folder / "curves.png")
