"""The tables of a report that need only a bench's results."""

import html

import numpy as np

from minari_obd.experiments.page import fields_of, table_of
from minari_obd.experiments.table import PUBLISHED_NOTE, BenchTable

__all__ = ["costs_table", "improvement_table", "published_table", "scores_table"]


def scores_table(table: BenchTable) -> str:
    """Return the main table."""
    head = ["students cloned from", "pairs", *(f"{name}, {unit}" for name, unit in table.columns())]
    scores = "A score is a normalised return: 0 is a random policy and 100 is the reference expert. "
    note = (
        f"<p>{scores if any(unit == 'score' for _, unit in table.columns()) else ''}Means over seeds, each over all "
        "its students and episodes, with a 95% bootstrap interval over seeds (for the mean over datasets, within each "
        "dataset).</p>"
    )
    return note + table_of(head, [fields_of(line) for line in table.lines()])


def published_table(table: BenchTable) -> str:
    """Return the papers' numbers."""
    rows = [[line.name, *("-" if v is None else f"{v.mean:.1f}" for v in line.values)] for line in table.published()]
    head = ["published", *(f"D4RL's of {name}" for name in table.datasets)]
    return f"<p>{html.escape(PUBLISHED_NOTE)}</p>" + table_of(head, rows) if rows else ""


def improvement_table(table: BenchTable) -> str:
    """Return how often each method beats each other one, among sets of the largest size."""
    largest = (None, *sorted({size for _, size in table.groups if size}, reverse=True)[:1])
    groups = [(method, size) for method, size in table.groups if size in largest]
    rows = []
    for ours in groups:
        shares = [None if ours == theirs else table.improvement(ours, theirs) for theirs in groups]
        rows.append([ours[0], *("" if share is None else f"{share:.2f}" for share in shares)])
    note = (
        "<p>Probability that a student of the row gets a higher return than one of the column, with a tie counted as "
        "half, averaged over the datasets that have both (Agarwal et al. 2021).</p>"
    )
    return note + table_of(["", *(method for method, _ in groups)], rows) if len(groups) > 1 else ""


def costs_table(table: BenchTable) -> str:
    """Return seconds and steps to clone a policy, from pairs and from the whole data."""
    rows = []
    for method, size in table.groups:
        field = [r for r in table.results if (r.method, r.size, r.protocol) == (method, size, None)]
        protocol = field[0].report.protocol
        if protocol is None:
            continue
        made, cloned = (np.median([getattr(r, name) for r in field]) for name in ("made_seconds", "cloned_seconds"))
        batch = protocol.batch_size or size
        rows.append(
            [
                method,
                str(size or "-"),
                f"{made:.0f}" if size else "-",
                f"{protocol.steps:,}",
                f"{batch}",
                f"{cloned:.2f}",
            ]
        )
    note = (
        "<p>Seconds on the machine that ran the bench, as medians over datasets and seeds. Cells ran in parallel. "
        "Making the pairs does not include training the teacher.</p>"
    )
    head = [
        "students cloned from",
        "pairs",
        "seconds to make them",
        "gradient steps",
        "pairs per step",
        "seconds to clone a student",
    ]
    return note + table_of(head, rows)
