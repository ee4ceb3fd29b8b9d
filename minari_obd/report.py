"""Report: a bench's results as one HTML page that needs nothing else, and its figures as PNGs beside it."""

import base64
import html
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minari_obd.bench_cell import CellResult, load_results
from minari_obd.bench_table import OWN, PUBLISHED_NOTE, BenchTable, Line, text_of
from minari_obd.distilled import DistilledDataset
from minari_obd.errors import MinariObdError, NotFoundError
from minari_obd.files import write_bytes, write_text
from minari_obd.frames import render_pairs
from minari_obd.loading import load_dataset
from minari_obd.minari_storage import has_local_dataset
from minari_obd.offline import load_offline_data
from minari_obd.progress import progress_bar
from minari_obd.report_diagnostics import HEAD, diagnose_sets, diagnostics_rows
from minari_obd.report_figures import draw_frames, draw_learning, draw_projection, draw_protocols, draw_sizes
from minari_obd.report_page import PAGE

__all__ = ["write_report"]

_SECTIONS = 10


def write_report(
    results: str | Path, *, command: str | None = None, diagnose: bool = False, progress: bool = True
) -> Path:
    """Write ``report.html`` and ``figures/*.png`` into a bench's folder, and return the page's path.

    What cannot be drawn here (a source that is not on this machine, no OpenGL) is said in its place.

    Args:
        results: the folder that ``bench`` wrote.
        command: the command that made the results, to be shown.
        diagnose: diagnose the first seed's datasets that were not yet, some ten seconds each; what was diagnosed is
            shown in any case. Their sources have to be on this machine.
        progress: show a bar.

    Raises:
        NotFoundError: the folder has no results.
        FormatError: a result is damaged.
        MinariObdError: a dataset cannot be diagnosed.
    """
    folder = Path(results)
    found = load_results(folder)
    if not found:
        raise NotFoundError(
            f"There are no results in '{folder}'; `minari-obd bench GRID.toml --out {folder}` makes some."
        )
    page = _Page(folder, found)
    if diagnose:
        diagnose_sets(folder, page.first_sets(), progress=progress)
    path = folder / "report.html"
    with progress_bar(_SECTIONS, "drawing", unit="section", show=progress) as bar:
        text = page.text(command, bar.update)
    write_text(path, text)
    return path


@dataclass
class _Page:
    folder: Path
    results: list[CellResult]

    def __post_init__(self) -> None:
        self.table = BenchTable(self.results)
        self.sizes = sorted({r.size for r in self.results if r.size}, reverse=True)

    def text(self, command: str | None, drawn: Callable[[], object]) -> str:
        """Return the page."""
        sections = []
        for title, body in self.sections():
            drawn()
            if body:
                sections.append(f"<section><h2>{html.escape(title)}</h2>\n{body}</section>")
        names = ", ".join(f"<code>{html.escape(name)}</code>" for name in self.table.datasets)
        made = f"<p>Made by <code>{html.escape(command)}</code></p>" if command else ""
        return PAGE.format(datasets=names, made=made, sections="\n".join(sections), facts=self.facts())

    def sections(self) -> Iterator[tuple[str, str]]:
        """Titles and bodies; an empty body is left out."""
        yield "Scores", self.scores()
        yield "The papers' own numbers, on other data", self.published()
        yield "How often one beats another", self.improvement()
        yield "Other students, cloned from the same pairs", self.protocols()
        yield "Scores against the number of pairs", self.each(lambda d: draw_sizes(self.table, d), "sizes")
        yield "Distillation", self.each(self.learning, "learning")
        yield "What is behind the scores", self.diagnostics()
        yield "What a policy costs", self.costs()
        yield "Where the pairs lie", self.each(self.projection, "pairs")
        yield "Distilled states, and one step from them", self.each(self.frames, "frames")

    def scores(self) -> str:
        """The main table."""
        head = ["students cloned from", "pairs", *self.table.datasets, "mean"]
        note = (
            "<p>Normalised scores: 0 is a random policy and 100 D4RL's expert. Means over seeds, each of all its "
            "students and episodes, with a 95% bootstrap interval over seeds (within each dataset, for the mean over "
            "datasets).</p>"
        )
        return note + _table(head, [_fields(line) for line in self.table.lines()])

    def published(self) -> str:
        """The papers' numbers."""
        rows = [
            [line.name, *("-" if v is None else f"{v.mean:.1f}" for v in line.values)]
            for line in self.table.published()
        ]
        head = ["published", *(f"D4RL's of {name}" for name in self.table.datasets)]
        return f"<p>{html.escape(PUBLISHED_NOTE)}</p>" + _table(head, rows) if rows else ""

    def improvement(self) -> str:
        """Who beats whom, among the sets of the largest size."""
        largest = (None, *self.sizes[:1])
        groups = [(method, size) for method, size in self.table.groups if size in largest]
        rows = []
        for ours in groups:
            shares = [None if ours == theirs else self.table.improvement(ours, theirs) for theirs in groups]
            rows.append([ours[0], *("" if share is None else f"{share:.2f}" for share in shares)])
        note = (
            "<p>Probability that a student of the row returns more than one of the column, ties as half, averaged over "
            "the datasets that have both (Agarwal et al. 2021).</p>"
        )
        return note + _table(["", *(method for method, _ in groups)], rows) if len(groups) > 1 else ""

    def protocols(self) -> str:
        """Other architectures, optimisers, ensembles."""
        lines = self.table.protocol_columns()
        if not lines:
            return ""
        note = (
            "<p>Mean over datasets. The pairs were made for one student, here <i>own</i>; the others are cloned from "
            "the same pairs: other depths, a residual network, other optimisers, an ensemble that acts by its mean "
            "action.</p>"
        )
        table = _table(["pairs of", "pairs", OWN, *self.table.protocols], [_fields(line) for line in lines])
        return note + table + self.each(lambda d: draw_protocols(self.table, d), "students")

    def diagnostics(self) -> str:
        """What was measured of the pairs besides scores, a table for each dataset."""
        tables = []
        for dataset in self.table.datasets:
            if rows := diagnostics_rows(self.folder, self.first_sets(dataset)):
                tables.append(f"<h3><code>{html.escape(dataset)}</code></h3>" + _table(HEAD, rows))
        note = (
            "<p>Of the first seed's pairs. Errors: mean squared difference to the teacher's actions, on [-1, 1], with "
            "the interval over students; on held-out states, along the teacher's own trajectories, and where the "
            "students themselves go. Coverage of held-out states (Naeem et al. 2020). Distance of a pair to the "
            "nearest real state, in units of that between real states (median), and exact copies of real states. "
            "Initial rows: how well the real rows that the pairs began as are told from held-out ones by their "
            "distance to the pairs, 0.5 being chance.</p>"
        )
        return note + "".join(tables) if tables else ""

    def costs(self) -> str:
        """Seconds and steps of a policy, from pairs and from the whole data."""
        rows = []
        for method, size in self.table.groups:
            field = [r for r in self.results if (r.method, r.size, r.protocol) == (method, size, None)]
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
            "<p>Seconds on the machine that made this, medians over datasets and seeds; cells ran beside one another. "
            "Making the pairs does not count training the teacher.</p>"
        )
        head = [
            "students cloned from",
            "pairs",
            "seconds to make them",
            "gradient steps",
            "pairs a step",
            "seconds to clone a student",
        ]
        return note + _table(head, rows)

    def each(self, draw: Callable[[str], bytes | None], name: str) -> str:
        """A figure for each dataset; what went wrong in place of one that cannot be drawn."""
        figures = []
        for dataset in self.table.datasets:
            try:
                picture = draw(dataset)
            except MinariObdError as error:
                figures.append(f"<p class='missing'><code>{html.escape(dataset)}</code>: {html.escape(str(error))}</p>")
                continue
            if picture is None:
                continue
            write_bytes(self.folder / "figures" / f"{name}-{dataset.strip('/').replace('/', '-')}.png", picture)
            source = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
            label = html.escape(dataset)
            caption = f"<figcaption>{label}</figcaption>"
            figures.append(f'<figure><img alt="{name}: {label}" src="{source}">{caption}</figure>')
        return f'<div class="figures">{"".join(figures)}</div>' if figures else ""

    def learning(self, dataset: str) -> bytes | None:
        """Held-out losses of the largest sets."""
        histories: dict[str, list[list[dict[str, float]]]] = {}
        for result in self.results:
            if result.dataset == dataset and result.size == self.sizes[0] and result.protocol is None:
                history = self.load(result).provenance.history
                if history:
                    histories.setdefault(result.method, []).append(history)
        return draw_learning(histories) if histories else None

    def projection(self, dataset: str) -> bytes | None:
        """Pairs over their source."""
        sets = {result.method: self.load(result) for result in self.first_sets(dataset)}
        if not sets:
            return None
        if not has_local_dataset(dataset):
            raise NotFoundError("the source is not on this machine, so it cannot be drawn.")
        return draw_projection(load_offline_data(dataset, download=False, progress=False), sets)

    def frames(self, dataset: str) -> bytes | None:
        """States and successors of one set: the last method's, which is SDW where it was run."""
        sets = list(self.first_sets(dataset))
        chosen = next((r for r in sets if r.method == "sdw"), sets[-1] if sets else None)
        return None if chosen is None else draw_frames(render_pairs(self.load(chosen)))

    def first_sets(self, dataset: str | None = None) -> Iterator[CellResult]:
        """The largest set of each method, of its first seed; on all datasets if none is named."""
        for name in self.table.datasets if dataset is None else [dataset]:
            for method, size in self.table.groups:
                if size is not None and size == self.sizes[0]:
                    yield from self.table.of(method, size, name)[:1]

    def load(self, result: CellResult) -> DistilledDataset:
        """The pairs behind a result."""
        if result.set_key is None:
            raise NotFoundError("the distilled set is not kept with its result.")
        return load_dataset(self.folder / "sets" / result.set_key)

    def facts(self) -> str:
        """What was run, with which versions."""
        report = self.results[0].report
        versions: dict[str, set[str]] = {}
        for result in self.results:
            for name, version in result.report.versions.items():
                versions.setdefault(name, set()).add(version)
        seeds = ", ".join(map(str, sorted({result.seed for result in self.results})))
        rows: dict[str, Any] = {
            "results": f"{len(self.results)} cells, seeds {seeds}",
            "judged by": f"{report.returns.shape[0]} x {report.returns.shape[1]} episodes a cell",
            "episodes": f"{sum(r.report.returns.size for r in self.results):,}",
            "environment steps": f"{sum(r.report.environment_steps for r in self.results):,}",
            **{name: " and ".join(sorted(each)) for name, each in versions.items()},
            "raw results": "results.parquet: every return",
        }
        return _table(["", ""], [[name, str(value)] for name, value in rows.items()])


def _fields(line: Line) -> list[str]:
    return [line.name, str(line.size or "-"), *map(text_of, line.values)]


def _table(head: list[str], rows: list[list[str]]) -> str:
    cells = "".join(f"<th>{html.escape(cell).replace('/', '/<wbr>')}</th>" for cell in head)
    body = ""
    for name, *values in rows:
        fields = "".join(f"<td>{_broken(value)}</td>" for value in values)
        body += f"<tr><th>{html.escape(name)}</th>{fields}</tr>\n"
    return f'<div class="wide"><table><thead><tr>{cells}</tr></thead><tbody>\n{body}</tbody></table></div>\n'


def _broken(cell: str) -> str:
    """An estimate with its interval below it."""
    value, separator, interval = cell.partition(" (")
    return f"{html.escape(value)}<small>{html.escape(interval[:-1])}</small>" if separator else html.escape(cell)
