"""The tables of a bench, in the form of the papers' Table 1, and its raw results as parquet."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from minari_obd.experiments.cell import CellResult
from minari_obd.scores.estimates import Estimate, estimate_mean, estimate_mean_over_tasks, probability_of_improvement
from minari_obd.scores.published import published_score
from minari_obd.scores.references import ReferenceScores
from minari_obd.storage.files import replacing, write_text
from minari_obd.support.tables import markdown_table

__all__ = ["BenchTable", "Line", "write_results"]

_ORDER = ("random", "kmeans", "kmeans++", "dbc", "pbc", "av_pbc", "sdw", "opw", "vgd")


_NAMES = {"whole_data": "behavioural cloning, whole data", "teacher": "(the teacher)"}


PUBLISHED_NOTE = (
    "The papers' numbers are for other data (D4RL's MuJoCo v2), 256 pairs and a Cal-QL teacher. They are shown for "
    "orientation only: rows of the two tables cannot be compared."
)


OWN = "own"
"""Column of the protocol for which the pairs were made."""


@dataclass(frozen=True)
class Line:
    """A line of a table: what students were cloned from, and their scores."""

    method: str
    size: int | None
    values: list[Estimate | None]
    """One value per column; None where there is no result."""

    @property
    def name(self) -> str:
        """Readable name of the method."""
        return _NAMES.get(self.method, self.method)


class BenchTable:
    """Methods and sizes in rows, datasets in columns, and a mean over seeds with its interval in each field."""

    def __init__(self, results: Sequence[CellResult]) -> None:
        ordered = sorted(results, key=lambda result: _rank(result.method))
        self.results = ordered
        self.datasets = list(dict.fromkeys(result.dataset for result in results))
        self.groups = list(dict.fromkeys((result.method, result.size) for result in ordered))
        self.protocols = list(dict.fromkeys(result.protocol for result in ordered if result.protocol))
        scales: dict[str, set[ReferenceScores | None]] = {}
        for result in results:
            scales.setdefault(result.dataset, set()).add(result.report.reference)
        self._scored = {name for name, found in scales.items() if len(found) == 1 and None not in found}
        self.has_mean = len(self.datasets) == 1 or self._scored == set(self.datasets)
        """Whether a mean over datasets means anything. Returns of different environments have no common scale."""

    def unit(self, dataset: str) -> str:
        """Return what a dataset's column holds: ``score`` if all of its results are on one scale, else ``return``."""
        return "score" if dataset in self._scored else "return"

    def columns(self) -> list[tuple[str, str]]:
        """Return the name and the unit of each column of the main table."""
        named = [(name, self.unit(name)) for name in self.datasets]
        return [*named, ("mean", self.unit(self.datasets[0]))] if self.has_mean else named

    def _values(self, result: CellResult) -> np.ndarray:
        """Return scores (students, episodes), or returns where that is the column's unit."""
        return result.report.scores if result.dataset in self._scored else result.report.returns

    def of(self, method: str, size: int | None, dataset: str, protocol: str | None = None) -> list[CellResult]:
        """Return the results of a field, one for each seed."""
        wanted = (method, size, dataset, protocol)
        return [each for each in self.results if (each.method, each.size, each.dataset, each.protocol) == wanted]

    def estimate(self, method: str, size: int | None, dataset: str, protocol: str | None = None) -> Estimate | None:
        """Return the mean score (or return) of a field, or None if it has no result.

        The interval resamples seeds, because a seed's students share their pairs and teacher. With a single seed, it
        resamples the seed's students (or a teacher's episodes).
        """
        scores = [self._values(result) for result in self.of(method, size, dataset, protocol)]
        if not scores:
            return None
        return estimate_mean(scores[0] if len(scores) == 1 else np.stack([np.atleast_1d(s.mean()) for s in scores]))

    def mean(self, method: str, size: int | None, protocol: str | None = None) -> Estimate | None:
        """Return the mean over all datasets, with a stratified interval: seeds are resampled within each dataset.

        It is None if a field is empty, or if the columns have no common scale.
        """
        if not self.has_mean:
            return None
        fields = [self.of(method, size, dataset, protocol) for dataset in self.datasets]
        if not all(fields):
            return None
        return estimate_mean_over_tasks([np.array([self._values(r).mean() for r in field]) for field in fields])

    def lines(self) -> list[Line]:
        """Return the main table: a column for each dataset, then their mean, if it has one."""
        found = []
        for method, size in self.groups:
            means = [self.mean(method, size)] if self.has_mean else []
            found.append(Line(method, size, [*(self.estimate(method, size, d) for d in self.datasets), *means]))
        return found

    def protocol_columns(self, dataset: str | None = None) -> list[Line]:
        """Return the table of other students: a column for the pairs' own protocol, then one for each other protocol.

        Args:
            dataset: the dataset of the scores; if not given, they are means over all datasets.
        """
        found = []
        for method, size in self.groups:
            columns = [None, *self.protocols]
            values = [
                self.mean(method, size, p) if dataset is None else self.estimate(method, size, dataset, p)
                for p in columns
            ]
            if any(value is not None for value in values[1:]):
                found.append(Line(method, size, values))
        return found

    def of_protocols(self) -> list[tuple[str | None, str]]:
        """Return the dataset and the title of each table of other students: one of means, or one for each dataset."""
        if self.has_mean:
            return [(None, f"mean {self.unit(self.datasets[0])} over datasets")]
        return [(name, f"{name}, {self.unit(name)}") for name in self.datasets]

    def published(self) -> list[Line]:
        """Return the papers' scores of the same methods, on data of the same name."""
        found = []
        for method in dict.fromkeys(method for method, _ in self.groups):
            scores = [published_score(name, method) for name in self.datasets]
            if any(score is not None for score in scores):
                found.append(Line(method, None, [None if s is None else Estimate(s, s, s) for s in scores]))
        return found

    def improvement(self, ours: tuple[str, int | None], theirs: tuple[str, int | None]) -> float | None:
        """Return the probability that a student of ours beats one of theirs, averaged over the datasets with both.

        Students of all seeds are pooled.
        """
        shares = []
        for dataset in self.datasets:
            both = [[r.report.returns.mean(axis=1) for r in self.of(*group, dataset)] for group in (ours, theirs)]
            if not all(both):
                continue
            first, second = (np.concatenate(each)[:, None] for each in both)
            shares.append(probability_of_improvement(first, second).mean)
        return float(np.mean(shares)) if shares else None

    def to_markdown(self) -> str:
        """Return the tables, with the papers' own numbers below ours."""
        titles = [f"`{name}`, {unit}" if name in self.datasets else f"{name} {unit}" for name, unit in self.columns()]
        head = ["students cloned from", "pairs", *titles]
        parts = [markdown_table(head, [_texts(line) for line in self.lines()])]
        for dataset, title in self.of_protocols():
            if others := self.protocol_columns(dataset):
                head = [title, "pairs", OWN, *self.protocols]
                parts += [
                    "Other students, cloned from the same pairs:",
                    markdown_table(head, [_texts(line) for line in others]),
                ]
        if published := self.published():
            head = ["published", *(f"D4RL's of `{name}`" for name in self.datasets)]
            rows = [[line.name, *("-" if v is None else f"{v.mean:.1f}" for v in line.values)] for line in published]
            parts += [PUBLISHED_NOTE, markdown_table(head, rows)]
        return "\n\n".join(parts) + "\n"


def _rank(method: str) -> int:
    """Return a method's position in a table: the papers' methods in their order, then others, then the baselines.

    A variant, ``sdw (NAME)``, stands with its method.
    """
    known, method = (*_ORDER, None, *_NAMES), method.split(" (")[0]
    return known.index(method) if method in known else len(_ORDER)


def _texts(line: Line) -> list[str]:
    return [line.name, str(line.size or "-"), *map(text_of, line.values)]


def text_of(estimate: Estimate | None) -> str:
    """Format a field of a table."""
    return "-" if estimate is None else f"{estimate.mean:.1f} ({estimate.low:.1f} to {estimate.high:.1f})"


def write_results(results: Sequence[CellResult], folder: Path) -> None:
    """Write ``results.parquet``, with one row per episode, and ``table.md``."""
    rows: dict[str, list[Any]] = {name: [] for name in _COLUMNS.names}
    for result in results:
        report = result.report
        scores = None if report.reference is None else report.scores
        fixed = {name: getattr(result, name) for name in _OF_RESULT}
        fixed |= {"env_id": report.env_id, "ensemble": report.ensemble}
        for (student, episode), value in np.ndenumerate(report.returns):
            row = {**fixed, "student": student, "episode": episode, "return": float(value)}
            row["score"] = None if scores is None else float(scores[student, episode])
            for name in rows:
                rows[name].append(row[name])
    with replacing(folder / "results.parquet") as temporary:
        pq.write_table(pa.table(rows, schema=_COLUMNS), temporary)
    write_text(folder / "table.md", BenchTable(results).to_markdown())


_OF_RESULT = {
    "key": pa.string(),
    "dataset": pa.string(),
    "method": pa.string(),
    "size": pa.int64(),
    "seed": pa.int64(),
    "protocol": pa.string(),
    "made_seconds": pa.float64(),
    "cloned_seconds": pa.float64(),
    "offline_loss": pa.float64(),
}


_COLUMNS = pa.schema(
    {
        **_OF_RESULT,
        "env_id": pa.string(),
        "ensemble": pa.int64(),
        "student": pa.int64(),
        "episode": pa.int64(),
        "return": pa.float64(),
        "score": pa.float64(),
    }
)
