"""Report: a bench's results as one HTML page that needs nothing else, and its figures as PNGs beside it."""

import html
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.distilled.loading import load_dataset
from minari_obd.errors import MinariObdError, NotFoundError
from minari_obd.experiments.cell import CellResult, load_results
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

_SECTIONS = 13


def write_report(
    results: str | Path, *, command: str | None = None, diagnose: bool = False, progress: bool = True
) -> Path:
    """Write ``report.html`` and ``figures/*.png`` into a bench's folder, and return the page's path.

    What cannot be drawn here (a source that is not on this machine, no OpenGL) is said in its place.

    Args:
        results: the folder that ``bench`` wrote.
        command: the command that made the results, to be shown.
        diagnose: diagnose the first seed's datasets that were not yet, some ten seconds each, draw their weights, and
            measure the errors by density of every seed's, some seconds each; what was measured is shown in any case.
            Their sources have to be on this machine.
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
        measure_sets(folder, page.largest_sets(), progress=progress)
        draw_sets_weights(folder, page.first_sets(), progress=progress)
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
        yield "Scores", scores_table(self.table)
        yield "The papers' own numbers, on other data", published_table(self.table)
        yield "How often one beats another", improvement_table(self.table)
        yield "Other students, cloned from the same pairs", self.protocols()
        yield "Scores against the number of pairs", self.each(lambda d: draw_sizes(self.table, d), "sizes")
        yield "Distillation", self.each(self.learning, "learning")
        yield "What is behind the scores", self.diagnostics()
        yield "Errors at rare states and at common ones", self.deciles()
        yield "Where the weights lie", self.weights()
        yield "How the teachers were trained", self.training()
        yield "What a policy costs", costs_table(self.table)
        yield "Where the pairs lie", self.each(self.projection, "pairs")
        yield "Distilled states, and one step from them", self.each(self.frames, "frames")

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
        table = table_of(["pairs of", "pairs", OWN, *self.table.protocols], [fields_of(line) for line in lines])
        return note + table + self.each(lambda d: draw_protocols(self.table, d), "students")

    def diagnostics(self) -> str:
        """What was measured of the pairs besides scores, a table for each dataset."""
        tables = []
        for dataset in self.table.datasets:
            if rows := diagnostics_rows(self.folder, self.first_sets(dataset)):
                tables.append(f"<h3><code>{html.escape(dataset)}</code></h3>" + table_of(HEAD, rows))
        note = (
            "<p>Of the first seed's pairs. Errors: mean squared difference to the teacher's actions, on [-1, 1], with "
            "the interval over students; on held-out states, along the teacher's own trajectories, and where the "
            "students themselves go. Coverage of held-out states (Naeem et al. 2020). Distance of a pair to the "
            "nearest real state, in units of that between real states (median), and exact copies of real states. "
            "Initial rows: how well the real rows that the pairs began as are told from held-out ones by their "
            "distance to the pairs, 0.5 being chance.</p>"
        )
        return note + "".join(tables) if tables else ""

    def deciles(self) -> str:
        """Errors by the density of states."""

        def draw(dataset: str) -> bytes | None:
            found = errors_by_method(read_sets(self.folder, self.largest_sets(dataset)))
            return draw_deciles(found) if found else None

        note = (
            "<p>Held-out states in the order of their density, as one k-nearest-neighbour estimate says for all "
            "methods alike: the first tenth are the rarest. Mean squared difference of the students' actions to those "
            "wanted, on [-1, 1]: mean over seeds, and the band its 95% interval over them (over students, where there "
            "is one seed).</p>"
        )
        figures = self.each(draw, "deciles")
        return note + figures if figures else ""

    def weights(self) -> str:
        """What states the methods look at."""
        note = (
            "<p>The states that pairs were distilled for, over their first two principal components: how many there "
            "are, and the mean weight that the method gives them, red where it is above 1. Of the first seed; methods "
            "that weight all states alike are left out.</p>"
        )
        figures = weights_figures(self.folder, self.first_sets())
        return note + figures if figures else ""

    def training(self) -> str:
        """Values and losses of the teachers' trainings."""

        def draw(dataset: str) -> bytes | None:
            logs = read_logs(self.folder, [each for each in self.results if each.dataset == dataset])
            return draw_training(logs) if logs else None

        note = (
            "<p>A line for each teacher. Mean value: what its critics say of its own actions at states of the data, "
            "which its updates should settle. Losses are those of single updates, under the algorithm's own "
            "names.</p>"
        )
        figures = self.each(draw, "training")
        return note + figures if figures else ""

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
            figures.append(figure_of(picture, dataset, name))
        return f'<div class="figures">{"".join(figures)}</div>' if figures else ""

    def learning(self, dataset: str) -> bytes | None:
        """Held-out losses of the largest sets."""
        histories: dict[str, list[list[dict[str, float]]]] = {}
        for result in self.largest_sets(dataset):
            if history := self.load(result).provenance.history:
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
        taken = set()
        for result in self.largest_sets(dataset):
            if (group := (result.dataset, result.method)) not in taken:
                taken.add(group)
                yield result

    def largest_sets(self, dataset: str | None = None) -> Iterator[CellResult]:
        """The largest set of each method, of every seed; on all datasets if none is named."""
        for name in self.table.datasets if dataset is None else [dataset]:
            for method, size in self.table.groups:
                if size is not None and size == self.sizes[0]:
                    yield from self.table.of(method, size, name)

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
        return table_of(["", ""], [[name, str(value)] for name, value in rows.items()])
