"""Watching: how far a bench is, read from its files."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from minari_obd.errors import NotFoundError, printable
from minari_obd.experiments.cell import CellResult, noted_keys
from minari_obd.experiments.status import CellStatus, is_running, read_status

__all__ = ["BenchProgress", "read_progress", "watch_bench"]

State = Literal["done", "running", "failed", "interrupted", "waiting"]

_SECONDS = 2.0  # between two looks
_SHOWN = 12  # cells of a state
_COLOURS = {"done": "green", "running": "cyan", "failed": "bold red", "interrupted": "yellow", "waiting": "dim"}


@dataclass(frozen=True)
class BenchProgress:
    """How far a bench is."""

    cells: Sequence[tuple[State, CellStatus]]
    is_running: bool
    """Whether a process runs it now."""
    now: float
    """Unix time of the look."""

    def count(self, state: State) -> int:
        """Return how many cells are in a state."""
        return sum(each == state for each, _ in self.cells)

    @property
    def seconds_left(self) -> float | None:
        """Estimate from the cells of the same kind that have ended, or of all kinds; None if none has, or none runs.

        As many cells as run now are taken to run until the end.
        """
        took: dict[str, list[float]] = {}
        for state, cell in self.cells:
            if state == "done" and cell.began is not None and cell.ended is not None:
                took.setdefault(cell.kind, []).append(cell.ended - cell.began)
        everything = [seconds for each in took.values() for seconds in each]
        at_once = self.count("running")
        if not everything or not at_once or not self.is_running:
            return None
        left = 0.0
        for state, cell in self.cells:
            if state in ("running", "waiting"):
                known = took.get(cell.kind, everything)
                so_far = 0.0 if cell.began is None or state == "waiting" else self.now - cell.began
                left += max(0.0, sum(known) / len(known) - so_far)
        return left / at_once

    @property
    def headline(self) -> str:
        """The state of the bench in a line."""
        states: tuple[State, ...] = ("running", "failed", "interrupted", "waiting")
        others = [f", {self.count(state)} {state}" for state in states if self.count(state)]
        counts = f"{self.count('done')} of {len(self.cells)} cells done{''.join(others)}"
        if self.is_running:
            left = self.seconds_left
            return f"{counts}; " + ("time left not known yet" if left is None else f"about {_duration(left)} left")
        if self.count("done") == len(self.cells):
            return f"{counts}; the bench has ended"
        return f"{counts}; no bench runs here now: the same command goes on where it was"

    def render(self) -> RenderableType:
        """The progress for the terminal."""
        table = Table(box=SIMPLE_HEAD, show_edge=False)
        table.add_column("")
        table.add_column("cell", overflow="fold")
        table.add_column("time", justify="right", no_wrap=True)
        for state in ("running", "interrupted", "failed", "done"):
            cells = sorted(
                (cell for each, cell in self.cells if each == state),
                key=lambda c: c.ended or c.began or 0.0,
                reverse=True,
            )
            for cell in cells[:_SHOWN]:
                # Text and not markup: a label holds names that anyone may have chosen.
                label = printable(cell.label + (f": {cell.problem}" if cell.problem else ""))
                table.add_row(Text(state, _COLOURS[state]), Text(label), _time_of(state, cell, self.now))
            if len(cells) > _SHOWN:
                table.add_row("", Text(f"and {len(cells) - _SHOWN} more that are {state}", "dim"), "")
        bar = ProgressBar(total=max(1, len(self.cells)), completed=self.count("done"), width=60)
        return Group(Text(self.headline), bar, table)


def _time_of(state: State, cell: CellStatus, now: float) -> str:
    if cell.began is None or state == "interrupted":
        return ""
    return _duration((now if state == "running" or cell.ended is None else cell.ended) - cell.began)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def read_progress(folder: str | Path) -> BenchProgress:
    """Read how far the bench in a folder is. Nothing is written.

    Raises:
        NotFoundError: the folder is not a bench's.
        FormatError: a file of it is damaged.
    """
    folder = Path(folder)
    alive, keys, status = is_running(folder), noted_keys(folder), read_status(folder)
    if keys is None:  # of version 0.1.0: every cell that is there
        keys = sorted(path.stem for path in (folder / "cells").glob("*.json"))
    if not keys:
        raise NotFoundError(
            f"There is no bench in '{folder}'; give the folder that `minari-obd bench GRID.toml --out` writes."
        )
    cells: list[tuple[State, CellStatus]] = []
    for key in keys:
        result = folder / "cells" / f"{key}.json"
        cell = status.get(key) or _described(key, result)
        if result.is_file():
            state: State = "done"
        elif cell.problem is not None:
            state = "failed"
        elif cell.began is not None:
            state = "running" if alive else "interrupted"
        else:
            state = "waiting"
        cells.append((state, cell))
    return BenchProgress(cells, alive, time.time())


def _described(key: str, result: Path) -> CellStatus:
    """Describe a cell of a bench of an older version, which has no status."""
    if not result.is_file():
        return CellStatus(f"cell {key}", "")
    found = CellResult.read(result)
    pairs = f", {found.size} pairs" if found.size else ""
    return CellStatus(f"{found.dataset}, {found.method}{pairs}, seed {found.seed}", found.method)


def watch_bench(folder: str | Path, *, once: bool = False, console: Console | None = None) -> BenchProgress:
    """Show how far a bench is until no process runs it any more.

    Args:
        folder: the folder that the bench writes.
        once: show it a single time.
        console: where; standard output if not given.

    Returns:
        The last look.

    Raises:
        NotFoundError, FormatError: as :func:`read_progress`.
    """
    console, progress = console or Console(highlight=False), read_progress(folder)
    if once or not progress.is_running:
        console.print(progress.render())
        return progress
    with Live(progress.render(), console=console, auto_refresh=False) as live:
        while progress.is_running:
            time.sleep(_SECONDS)
            progress = read_progress(folder)
            live.update(progress.render(), refresh=True)
    return progress
