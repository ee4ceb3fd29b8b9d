"""Report: a bench's results as one self-contained HTML page, with its figures as PNGs beside it."""

import html
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.distilled.loading import load_dataset
from minari_obd.errors import MinariObdError, NotFoundError
from minari_obd.experiments.cell import CellResult, load_results
from minari_obd.experiments.demo import write_demos
from minari_obd.experiments.densities import errors_by_method, measure_sets, read_sets
from minari_obd.experiments.diagnostics import HEAD, diagnose_sets, diagnostics_rows
from minari_obd.experiments.figures import (
    draw_deciles,
    draw_frames,
    draw_learning,
    draw_projection,
    draw_protocols,
    draw_sizes,
    draw_training,
)
from minari_obd.experiments.frames import render_pairs
from minari_obd.experiments.page import PAGE, fields_of, figure_of, table_of
from minari_obd.experiments.table import OWN, BenchTable
from minari_obd.experiments.tables import costs_table, improvement_table, published_table, scores_table
from minari_obd.experiments.teachers import read_logs
from minari_obd.experiments.weights import draw_sets_weights, weights_figures
from minari_obd.sources.loading import load_offline_data
from minari_obd.storage.files import write_bytes, write_text
from minari_obd.storage.minari_datasets import has_local_dataset
from minari_obd.support.progress import progress_bar

__all__ = ["write_report"]

_SECTIONS = 14


def write_report(
    results: str | Path,
    *,
    command: str | None = None,
    diagnose: bool = False,
    demo: bool = False,
    progress: bool = True,
) -> Path:
    """Write ``report.html`` and ``figures/*.png`` into a bench's folder, and return the page's path.

    If a figure cannot be drawn here (the source is not on this machine, there is no OpenGL), a sentence says why.

    Args:
        results: the folder that ``bench`` wrote.
        command: the command that made the results, to show on the page.
        diagnose: diagnose the first seed's datasets (about ten seconds each), draw their weights, and measure errors by
            density for every seed (seconds each). Earlier measurements are kept, and shown in any case. The sources
            must be on this machine.
        demo: also write a page for each dataset that plays an episode of a student beside its teacher.
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
            f"There are no results in '{folder}'; make some with `minari-obd bench GRID.toml --out {folder}`."
        )
    page = _Page(folder, found)
    if diagnose:
        diagnose_sets(folder, page.first_sets(), progress=progress)
        measure_sets(folder, page.largest_sets(), progress=progress)
        draw_sets_weights(folder, page.first_sets(), progress=progress)
    if demo:
        page.demos = write_demos(folder, page.first_sets())
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
        self.demos: dict[str, str] = {}
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
        """Yield titles and bodies. A section with an empty body is left out."""
        yield "Scores", scores_table(self.table)
        yield "What the policies do", self.played()
        yield "The papers' own numbers, on other data", published_table(self.table)
        yield "How often one method beats another", improvement_table(self.table)
        yield "Other students, cloned from the same pairs", self.protocols()
        yield "Scores against the number of pairs", self.each(lambda d: draw_sizes(self.table, d), "sizes")
        yield "Distillation", self.each(self.learning, "learning")
        yield "What explains the scores", self.diagnostics()
        yield "Errors at rare and common states", self.deciles()
        yield "Where the weights lie", self.weights()
        yield "How the teachers were trained", self.training()
        yield "What a policy costs", costs_table(self.table)
        yield "Where the pairs lie", self.each(self.projection, "pairs")
        yield "Distilled states, and one step from them", self.each(self.frames, "frames")

    def played(self) -> str:
        """Return where an episode can be watched."""
        lines = [f"<li><code>{html.escape(dataset)}</code>: {what}</li>" for dataset, what in self.demos.items()]
        return f"<ul>{''.join(lines)}</ul>" if lines else ""

    def protocols(self) -> str:
        """Return the scores of other architectures, optimisers and ensembles."""
        if not self.table.protocols:
            return ""
        note = (
            "<p>The pairs were made for one student, here <i>own</i>; the others are cloned from "
            "the same pairs: other depths, a residual network, other optimisers, an ensemble that acts by its mean "
            "action.</p>"
        )
        tables = ""
        for dataset, title in self.table.of_protocols():
            lines = self.table.protocol_columns(dataset)
            tables += table_of([title, "pairs", OWN, *self.table.protocols], [fields_of(line) for line in lines])
        return note + tables + self.each(lambda d: draw_protocols(self.table, d), "students")

    def diagnostics(self) -> str:
        """Return the pairs' diagnostics, with a table for each dataset."""
        tables = []
        for dataset in self.table.datasets:
            if rows := diagnostics_rows(self.folder, self.first_sets(dataset)):
                tables.append(f"<h3><code>{html.escape(dataset)}</code></h3>" + table_of(HEAD, rows))
        note = (
            "<p>For the first seed's pairs. Errors: mean squared difference to the teacher's actions, on [-1, 1], with "
            "the interval over students; on held-out states, along the teacher's own trajectories, and where the "
            "students themselves go. Coverage of held-out states (Naeem et al. 2020). Distance of a pair to the "
            "nearest real state, in units of that between real states (median), and exact copies of real states. "
            "Initial rows: how well the distance to the pairs tells the real rows from which they started from "
            "held-out ones; chance is 0.5.</p>"
        )
        return note + "".join(tables) if tables else ""

    def deciles(self) -> str:
        """Return the errors by density of the states."""

        def draw(dataset: str) -> bytes | None:
            found = errors_by_method(read_sets(self.folder, self.largest_sets(dataset)))
            return draw_deciles(found) if found else None

        note = (
            "<p>Held-out states in order of density, by the same k-nearest-neighbour estimate for all methods. The "
            "first tenth are the rarest. Mean squared difference between the students' actions and the wanted ones, "
            "on [-1, 1]. Lines are means over seeds, and bands are 95% intervals over seeds (over students if there "
            "is only one seed).</p>"
        )
        figures = self.each(draw, "deciles")
        return note + figures if figures else ""

    def weights(self) -> str:
        """Return pictures of the states that the methods emphasise."""
        note = (
            "<p>The states for which pairs were distilled, over their first two principal components: their number, "
            "and the mean weight that the method gives them, red where it is above 1. For the first seed. Methods "
            "that weight all states equally are left out.</p>"
        )
        figures = weights_figures(self.folder, self.first_sets())
        return note + figures if figures else ""

    def training(self) -> str:
        """Return values and losses from the teachers' training."""

        def draw(dataset: str) -> bytes | None:
            logs = read_logs(self.folder, [each for each in self.results if each.dataset == dataset])
            return draw_training(logs) if logs else None

        note = (
            "<p>One line per teacher. Mean value: the critics' values of its own actions at states of the data, which "
            "should settle during training. Losses are those of single updates, under the algorithm's own names.</p>"
        )
        figures = self.each(draw, "training")
        return note + figures if figures else ""

    def each(self, draw: Callable[[str], bytes | None], name: str) -> str:
        """Return a figure for each dataset, or the reason why it cannot be drawn."""
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
            figures.append(figure_of(picture, dataset, name))
        return f'<div class="figures">{"".join(figures)}</div>' if figures else ""

    def learning(self, dataset: str) -> bytes | None:
        """Draw the held-out losses of the largest sets."""
        histories: dict[str, list[list[dict[str, float]]]] = {}
        for result in self.largest_sets(dataset):
            if history := self.load(result).provenance.history:
                histories.setdefault(result.method, []).append(history)
        return draw_learning(histories) if histories else None

    def projection(self, dataset: str) -> bytes | None:
        """Draw the pairs over their source."""
        sets = {result.method: self.load(result) for result in self.first_sets(dataset)}
        if not sets:
            return None
        if not has_local_dataset(dataset):
            raise NotFoundError("the source is not on this machine and cannot be drawn.")
        return draw_projection(load_offline_data(dataset, download=False, progress=False), sets)

    def frames(self, dataset: str) -> bytes | None:
        """Draw states and successors of one set: SDW's if it was run, otherwise the last method's."""
        sets = list(self.first_sets(dataset))
        chosen = next((r for r in sets if r.method == "sdw"), sets[-1] if sets else None)
        return None if chosen is None else draw_frames(render_pairs(self.load(chosen)))

    def first_sets(self, dataset: str | None = None) -> Iterator[CellResult]:
        """Yield the first seed's largest set of each method, on all datasets if none is named."""
        taken = set()
        for result in self.largest_sets(dataset):
            if (group := (result.dataset, result.method)) not in taken:
                taken.add(group)
                yield result

    def largest_sets(self, dataset: str | None = None) -> Iterator[CellResult]:
        """Yield every seed's largest set of each method, on all datasets if none is named."""
        for name in self.table.datasets if dataset is None else [dataset]:
            for method, size in self.table.groups:
                if size is not None and size == self.sizes[0]:
                    yield from self.table.of(method, size, name)

    def load(self, result: CellResult) -> DistilledDataset:
        """Load the pairs of a result."""
        if result.set_key is None:
            raise NotFoundError("the distilled dataset is not stored with its result.")
        return load_dataset(self.folder / "sets" / result.set_key)

    def facts(self) -> str:
        """Return what was run, and with which versions."""
        report = self.results[0].report
        versions: dict[str, set[str]] = {}
        for result in self.results:
            for name, version in result.report.versions.items():
                versions.setdefault(name, set()).add(version)
        seeds = ", ".join(map(str, sorted({result.seed for result in self.results})))
        rows: dict[str, Any] = {
            "results": f"{len(self.results)} cells, seeds {seeds}",
            "evaluated by": f"{report.returns.shape[0]} x {report.returns.shape[1]} episodes per cell",
            "episodes": f"{sum(r.report.returns.size for r in self.results):,}",
            "environment steps": f"{sum(r.report.environment_steps for r in self.results):,}",
            **{name: " and ".join(sorted(each)) for name, each in versions.items()},
            "raw results": "results.parquet: every return",
        }
        return table_of(["", ""], [[name, str(value)] for name, value in rows.items()])
