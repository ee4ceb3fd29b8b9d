"""Comparisons: several evaluation reports of one environment, each beside the first."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from minari_obd.errors import DataError, SettingError
from minari_obd.scores.estimates import Estimate, estimate_difference, estimate_mean, probability_of_improvement
from minari_obd.scores.references import ReferenceScores
from minari_obd.scores.report import EvaluationReport
from minari_obd.storage.files import write_bytes
from minari_obd.support.figures import default_style, make_figure, png
from minari_obd.support.tables import markdown_table

__all__ = ["Compared", "ComparisonReport", "one_reference"]

_LEAST = 2
_COLOURS = ("#444444", "#0b6e4f", "#d1495b", "#3a6ea5", "#e09f3e", "#7b2cbf", "#2a9d8f", "#bc6c25")


@dataclass(frozen=True)
class Compared:
    """One line of a comparison."""

    name: str
    mean: Estimate
    """Of the runs' scores, or returns."""
    difference: Estimate | None
    """To the first line's mean; None on the first line."""
    improvement: Estimate | None
    """Probability that a run of this line is better than one of the first; None on the first line."""


@dataclass(frozen=True)
class ComparisonReport:
    """Reports of one environment, each beside the first.

    A run is a student (or an ensemble), by the mean of its episodes. Where every report has a single one, as teachers
    have, its episodes are the runs.
    """

    reports: Mapping[str, EvaluationReport]
    """By name; the first is what the others are compared with."""

    def __post_init__(self) -> None:
        if len(self.reports) < _LEAST:
            raise SettingError(f"A comparison takes at least two reports; got {len(self.reports)}.")
        first, *others = self.reports.items()
        for name, report in others:
            if report.env_id != first[1].env_id:
                raise DataError(
                    f"'{first[0]}' was evaluated in '{first[1].env_id}' and '{name}' in '{report.env_id}'; returns of "
                    "different environments cannot be compared."
                )
        known = one_reference({name: each.reference for name, each in self.reports.items()}, first[1].env_id)
        reports = {name: replace(each, reference=known) for name, each in self.reports.items()}
        object.__setattr__(self, "reports", reports)

    @property
    def env_id(self) -> str:
        """The environment of all."""
        return next(iter(self.reports.values())).env_id

    @property
    def unit(self) -> str:
        """``normalised score``, or ``return`` where there are no reference scores."""
        return "normalised score" if next(iter(self.reports.values())).reference else "return"

    @cached_property
    def scores(self) -> dict[str, np.ndarray]:
        """Of every run, in rliable's form: ``{name: array (runs, tasks)}``, with one task."""
        return {name: values.mean(axis=1, keepdims=True) for name, values in self._matrices.items()}

    @cached_property
    def _matrices(self) -> dict[str, np.ndarray]:
        """Scores or returns, (runs, episodes)."""
        matrices = {name: each.scores if each.reference else each.returns for name, each in self.reports.items()}
        if all(len(values) == 1 for values in matrices.values()):
            return {name: values.T for name, values in matrices.items()}
        return matrices

    @cached_property
    def lines(self) -> tuple[Compared, ...]:
        """Every report beside the first."""
        base = next(iter(self._matrices.values()))
        return tuple(
            Compared(
                name,
                estimate_mean(values),
                estimate_difference(values, base) if number else None,
                probability_of_improvement(values, base) if number else None,
            )
            for number, (name, values) in enumerate(self._matrices.items())
        )

    def to_markdown(self) -> str:
        """Return the table."""
        first = self.lines[0].name
        head = [f"{self.env_id}, {self.unit}", "mean", f"difference to {first}", f"P(better than {first})", "runs"]
        rows = []
        for line in self.lines:
            runs, episodes = self._matrices[line.name].shape
            chance = "-" if line.improvement is None else _shown(line.improvement, ".2f")
            difference = "-" if line.difference is None else _shown(line.difference, "+.1f")
            rows.append([line.name, _shown(line.mean, ".1f"), difference, chance, f"{runs} x {episodes} episodes"])
        return markdown_table(head, rows) + "\n"

    def to_json(self) -> dict[str, Any]:
        """Return JSON values: the lines, and under ``scores`` those of every run in rliable's form."""
        return {
            "env_id": self.env_id,
            "unit": self.unit,
            "lines": [
                {
                    "name": line.name,
                    "mean": vars(line.mean),
                    "difference": None if line.difference is None else vars(line.difference),
                    "improvement": None if line.improvement is None else vars(line.improvement),
                }
                for line in self.lines
            ],
            "scores": {name: values.tolist() for name, values in self.scores.items()},
        }

    @default_style
    def draw(self) -> bytes:
        """Return a PNG: the runs with their means, the differences, and the probabilities of improvement."""
        count = len(self.lines)
        figure, panels = make_figure(8.4, 1.15 + 0.42 * count, 1, 3, sharey=True)
        first = self.lines[0].name
        titles = self.unit, f"difference to {first}", f"probability of improvement\nover {first}"
        for panel, title in zip(panels, titles, strict=True):
            panel.set_xlabel(title, fontsize=8)
            panel.grid(axis="x", lw=0.4, alpha=0.6)
            panel.tick_params(axis="y", length=0)
        panels[1].axvline(0.0, color="#999999", lw=0.8)
        panels[2].axvline(0.5, color="#999999", lw=0.8)
        panels[2].set_xlim(-0.03, 1.03)
        for place, line in enumerate(self.lines):
            colour = _COLOURS[place % len(_COLOURS)]
            runs = self.scores[line.name][:, 0]
            panels[0].plot(runs, np.full(len(runs), place + 0.22), "|", ms=5, mew=0.9, color=colour, alpha=0.55)
            for panel, value in zip(panels, (line.mean, line.difference, line.improvement), strict=True):
                if value is not None:
                    error = [[value.mean - value.low], [value.high - value.mean]]
                    style = {"fmt": "o", "ms": 4.5, "elinewidth": 1.4, "capsize": 2.5, "color": colour}
                    panel.errorbar([value.mean], [place], xerr=error, **style)
        panels[0].set_yticks(range(count), [line.name for line in self.lines], fontsize=8)
        panels[0].set_ylim(count - 0.5, -0.5)
        return png(figure, 150)

    def save_figure(self, path: str | Path) -> Path:
        """Write :meth:`draw`'s picture to a file and return its path.

        Raises:
            SettingError: the path does not end in ``.png``, or cannot be written.
        """
        path = Path(path)
        if path.suffix != ".png":
            raise SettingError(f"'{path}' does not end in .png; name a figure such as comparison.png.")
        write_bytes(path, self.draw())
        return path

    def __repr__(self) -> str:
        return f"ComparisonReport({', '.join(self.reports)} in {self.env_id})"


def one_reference(known: Mapping[str, ReferenceScores | None], env_id: str) -> ReferenceScores | None:
    """Return the reference scores that all who know any agree on.

    Args:
        known: by name.
        env_id: the environment, for the error.

    Raises:
        DataError: they are different ones.
    """
    found = {name: each for name, each in known.items() if each is not None}
    if len({(each.random, each.expert) for each in found.values()}) > 1:
        said = ", ".join(f"'{name}' {each.random:g} to {each.expert:g}" for name, each in found.items())
        raise DataError(
            f"Scores in '{env_id}' would mean different things, as the reference scores differ: {said}; evaluate all "
            "with the same ones."
        )
    return next(iter(found.values()), None)


def _shown(value: Estimate, form: str) -> str:
    return f"{value.mean:{form}} ({value.low:{form}} to {value.high:{form}})"
