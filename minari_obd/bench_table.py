"""The table of a bench, in the form of the papers' Table 1, and the raw results as parquet."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from minari_obd.bench import CellResult
from minari_obd.published import published_score
from minari_obd.statistics import Estimate, estimate_mean, estimate_mean_over_tasks

__all__ = ["BenchTable", "write_results"]

_NAMES = {"whole_data": "behavioural cloning, whole data", "teacher": "(the teacher)"}


class BenchTable:
    """Methods and sizes down, datasets across; a mean over seeds and its interval in each field."""

    def __init__(self, results: Sequence[CellResult]) -> None:
        self.datasets = list(dict.fromkeys(result.dataset for result in results))
        self.groups: dict[tuple[str, int | None], dict[str, list[CellResult]]] = {}
        ordered = sorted(results, key=lambda result: (result.method in _NAMES, result.method == "teacher"))
        for result in ordered:
            group = self.groups.setdefault((result.method, result.size), {})
            group.setdefault(result.dataset, []).append(result)

    def estimate(self, method: str, size: int | None, dataset: str) -> Estimate | None:
        """Mean score of a field; None if it has no result.

        Seeds are resampled for its interval, because a seed's students share their pairs and their teacher. With a
        single seed its students (a teacher's episodes) are.
        """
        scores = [_scores(result) for result in self.groups.get((method, size), {}).get(dataset, [])]
        if not scores:
            return None
        return estimate_mean(scores[0] if len(scores) == 1 else np.stack([np.atleast_1d(s.mean()) for s in scores]))

    def mean(self, method: str, size: int | None) -> Estimate | None:
        """Mean over all datasets, with a stratified interval: seeds are resampled within each dataset."""
        fields = self.groups[method, size]
        if set(fields) != set(self.datasets):
            return None
        return estimate_mean_over_tasks([np.array([_scores(r).mean() for r in fields[name]]) for name in self.datasets])

    def to_markdown(self) -> str:
        """The table, with the papers' own numbers below each of ours."""
        lines = [
            "| students cloned from | pairs | " + " | ".join(f"`{name}`" for name in self.datasets) + " | mean |",
            "|---|---|" + "---|" * (len(self.datasets) + 1),
        ]
        for method, size in self.groups:
            fields = [self.estimate(method, size, name) for name in self.datasets]
            texts = [_text(each) for each in (*fields, self.mean(method, size))]
            lines.append(f"| {_NAMES.get(method, method)} | {size or '-'} | " + " | ".join(texts) + " |")
        published = self._published()
        return "\n".join(lines) + "\n" + (f"\n{published}" if published else "")

    def _published(self) -> str:
        methods = list(dict.fromkeys(method for method, _ in self.groups))
        rows = []
        for method in methods:
            scores = [published_score(name, method) for name in self.datasets]
            if any(score is not None for score in scores):
                texts = ["-" if score is None else f"{score:.1f}" for score in scores]
                rows.append(f"| {_NAMES.get(method, method)} | " + " | ".join(texts) + " |")
        if not rows:
            return ""
        head = "| published | " + " | ".join(f"D4RL's of `{name}`" for name in self.datasets) + " |"
        note = (
            "The papers' numbers are of other data (D4RL's MuJoCo v2), 256 pairs and a Cal-QL teacher, and stand here "
            "for orientation: no row of one table can be compared with one of the other.\n"
        )
        return "\n".join([note, head, "|---|" + "---|" * len(self.datasets), *rows]) + "\n"


def _scores(result: CellResult) -> np.ndarray:
    """Scores (students, episodes), or returns where the environment has no reference scores."""
    return result.report.returns if result.report.reference is None else result.report.scores


def _text(estimate: Estimate | None) -> str:
    return "-" if estimate is None else f"{estimate.mean:.1f} ({estimate.low:.1f} to {estimate.high:.1f})"


def write_results(results: Sequence[CellResult], folder: Path) -> None:
    """Write ``results.parquet``, one row for each episode, and ``table.md``."""
    rows: dict[str, list[Any]] = {name: [] for name in _COLUMNS.names}
    for result in results:
        report = result.report
        scores = None if report.reference is None else report.scores
        for (student, episode), value in np.ndenumerate(report.returns):
            fixed = {name: getattr(result, name) for name in ("key", "dataset", "method", "size", "seed")}
            fixed |= {name: getattr(result, name) for name in ("made_seconds", "cloned_seconds", "offline_loss")}
            fixed |= {"env_id": report.env_id, "student": student, "episode": episode, "return": float(value)}
            fixed["score"] = None if scores is None else float(scores[student, episode])
            for name in rows:
                rows[name].append(fixed[name])
    temporary = folder / ".results.parquet"
    pq.write_table(pa.table(rows, schema=_COLUMNS), temporary)
    temporary.replace(folder / "results.parquet")
    temporary = folder / ".table.md"
    temporary.write_text(BenchTable(results).to_markdown(), encoding="utf-8")
    temporary.replace(folder / "table.md")


_COLUMNS = pa.schema(
    {
        "key": pa.string(),
        "dataset": pa.string(),
        "method": pa.string(),
        "size": pa.int64(),
        "seed": pa.int64(),
        "env_id": pa.string(),
        "student": pa.int64(),
        "episode": pa.int64(),
        "return": pa.float64(),
        "score": pa.float64(),
        "made_seconds": pa.float64(),
        "cloned_seconds": pa.float64(),
        "offline_loss": pa.float64(),
    }
)
