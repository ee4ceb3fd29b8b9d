"""Figures of a report, each as a PNG, made without pyplot, a display or global state."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.experiments.frames import Frames
from minari_obd.experiments.table import OWN, BenchTable
from minari_obd.inspection.density_errors import DECILES, ErrorByDensity, errors_over_sets
from minari_obd.sources.data import OfflineData
from minari_obd.support.figures import default_style, make_figure, png

__all__ = [
    "draw_deciles",
    "draw_frames",
    "draw_learning",
    "draw_projection",
    "draw_protocols",
    "draw_sizes",
    "draw_training",
]

_COLOURS = {
    "random": "#4a5568",
    "kmeans": "#6c757d",
    "dbc": "#e09f3e",
    "pbc": "#2a9d8f",
    "av_pbc": "#3a6ea5",
    "sdw": "#d1495b",
    "opw": "#6a4c93",
    "vgd": "#0b6e4f",
    "whole_data": "#444444",
    "teacher": "#111111",
}


_OTHERS = (
    *("#7b2cbf", "#588157", "#bc6c25", "#0077b6", "#c9184a", "#8a9a5b", "#b5838d"),
    *("#00838f", "#9c6644", "#5f6caf", "#a3b18a"),
)


_LINES = ("#3a6ea5", "#d1495b", "#2a9d8f", "#e09f3e", "#7b2cbf", "#4a5568", "#bc6c25", "#588157")


_WIDE = 30  # ratio of the largest to the smallest value above which a loss is drawn on a log scale


_SOURCE_POINTS = 4_000


_LEAST_SIZES = 2


_DPI = 150


@default_style
def draw_deciles(methods: Mapping[str, Sequence[ErrorByDensity]]) -> bytes:
    """Draw the action error against the decile of density, with a line for each method and a band for its interval.

    Args:
        methods: for each method, the errors of each seed's distilled dataset, all against the same actions.
    """
    figure, axes = make_figure(5.2, 3.6)
    places, colours = range(1, DECILES + 1), _colours(methods)
    for method, sets in methods.items():
        errors = errors_over_sets(sets)
        axes.plot(places, [each.mean for each in errors], "o-", ms=3, lw=1.5, color=colours[method], label=method)
        band = [each.low for each in errors], [each.high for each in errors]
        axes.fill_between(places, *band, color=colours[method], alpha=0.18, lw=0)
    against = {"teacher": "the teacher's actions", "data": "the data's actions"}
    wanted = against[next(iter(methods.values()))[0].against]
    axes.set_xticks(places)
    axes.set(xlabel="decile of states by density, 1: the rarest", ylabel=f"error to {wanted} (log scale)", yscale="log")
    axes.yaxis.get_minor_locator().set_params(subs=(2, 3, 5))  # every multiple would crowd a phone's screen
    axes.yaxis.set_minor_formatter("{x:.2g}")
    axes.yaxis.set_major_formatter("{x:.2g}")
    axes.tick_params(which="both", labelsize=8)
    axes.legend(fontsize=8, frameon=False, ncols=2)
    return png(figure, _DPI)


@default_style
def draw_training(logs: Mapping[str, Mapping[str, np.ndarray]]) -> bytes:
    """Draw teachers' mean values and losses against updates, with a panel for each and a line for each teacher.

    Args:
        logs: for each teacher, the columns of its log, including ``update``.
    """
    names = dict.fromkeys(name for log in logs.values() for name in log if name != "update")
    shown = sorted(names, key=lambda name: name != "mean_value")
    rows = -(-len(shown) // 2)
    figure, panels = make_figure(5.2, 0.5 + 2.1 * rows, rows, 2)
    drawn = {}
    for name, panel in zip(shown, np.ravel(panels), strict=False):
        values = np.concatenate([log[name] for log in logs.values() if name in log])
        values = values[np.isfinite(values)]
        if len(values) and 0 < _WIDE * values.min() < values.max():
            panel.set_yscale("log")
        for number, (label, log) in enumerate(logs.items()):
            if name in log:
                colour = _LINES[number % len(_LINES)]
                mark = "o-" if np.isfinite(log[name]).sum() == 1 else "-"  # a line of one point shows nothing
                drawn[label] = panel.plot(log["update"], log[name], mark, lw=1.1, ms=3, alpha=0.85, color=colour)[0]
        panel.set_title(name.replace("_", " "), fontsize=9)
        panel.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k" if value else "0")
        panel.locator_params(axis="x", nbins=4)
    for panel in np.ravel(panels)[len(shown) :]:
        panel.set_axis_off()
    figure.supxlabel("update", fontsize=8)
    figure.legend(drawn.values(), drawn, fontsize=8, frameon=False, ncols=3, loc="outside upper center")
    return png(figure, _DPI)


@default_style
def draw_learning(histories: Mapping[str, Sequence[list[dict[str, float]]]]) -> bytes:
    """Draw the held-out loss against outer steps, with a line for each method and a band over its seeds.

    Args:
        histories: for each method, the history of each seed's distillation, as in the provenance.
    """
    figure, axes = make_figure(5.2, 3.4)
    colours = _colours(histories)
    for method, runs in histories.items():
        steps = sorted(set.intersection(*({row["step"] for row in run} for run in runs)))
        losses = np.array([[{r["step"]: r["held_out"] for r in run}[step] for step in steps] for run in runs])
        colour = colours[method]
        axes.plot(steps, losses.mean(axis=0), color=colour, lw=1.6, label=method)
        axes.fill_between(steps, losses.min(axis=0), losses.max(axis=0), color=colour, alpha=0.18, lw=0)
    axes.set(xlabel="outer step", ylabel="held-out loss (log scale)", yscale="log")
    axes.yaxis.set_minor_formatter("{x:.2g}")
    axes.yaxis.set_major_formatter("{x:.2g}")
    axes.tick_params(which="both", labelsize=8)
    axes.legend(fontsize=8, frameon=False, ncols=2)
    return png(figure, _DPI)


@default_style
def draw_protocols(table: BenchTable, dataset: str) -> bytes | None:
    """Draw the scores of other students cloned from the same pairs. Return None if none were evaluated."""
    lines = table.protocol_columns(dataset)
    if not lines:
        return None
    names, colours = [OWN, *table.protocols], _colours(line.method for line in lines)
    figure, axes = make_figure(5.2, 0.9 + 0.13 * len(names) * (1 + len(lines)))
    for number, line in enumerate(lines):
        shift = 0.7 * ((number + 0.5) / len(lines) - 0.5)
        shown = [(place + shift, value) for place, value in enumerate(line.values) if value is not None]
        _errorbars(axes, shown, colours[line.method], f"{line.method}, {line.size}", sideways=True)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel=table.unit(dataset))
    axes.grid(axis="x", lw=0.4, alpha=0.6)
    figure.legend(fontsize=8, frameon=False, ncols=3, loc="outside lower center")  # beside it, not over bars
    return png(figure, _DPI)


@default_style
def draw_sizes(table: BenchTable, dataset: str) -> bytes | None:
    """Draw the scores against the number of pairs. Return None if there are fewer than two sizes."""
    sizes = sorted({size for _, size in table.groups if size})
    if len(sizes) < _LEAST_SIZES:
        return None
    figure, axes = make_figure(5.2, 3.4)
    colours = _colours(method for method, _ in table.groups)
    for method in dict.fromkeys(method for method, size in table.groups if size):
        shown = [(size, value) for size in sizes if (value := table.estimate(method, size, dataset)) is not None]
        _errorbars(axes, shown, colours[method], method, line=True)
    for method in ("whole_data", "teacher"):
        if (value := table.estimate(method, None, dataset)) is not None:
            axes.axhline(value.mean, color=colours[method], lw=1.0, ls=":" if method == "teacher" else "--")
            axes.annotate(method.replace("_", " "), (sizes[0], value.mean), fontsize=7, va="bottom")
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set(xlabel="pairs", ylabel=table.unit(dataset))
    figure.legend(fontsize=8, frameon=False, ncols=3, loc="outside lower center")
    return png(figure, _DPI)


@default_style
def draw_projection(source: OfflineData, sets: Mapping[str, DistilledDataset]) -> bytes:
    """Draw the pairs' states over the source's, on its first two principal components, with a panel for each set."""
    states = source.normaliser.normalise(source.observations)
    middle = states.mean(axis=0)
    # The components are those of all states, by their covariance; only a regular sample of the states is drawn.
    values, vectors = np.linalg.eigh(np.cov((states - middle).T.astype(np.float64)))
    axes_of = vectors[:, ::-1][:, :2]
    share = values[::-1][:2].sum() / values.sum()
    some = (states[:: max(1, len(states) // _SOURCE_POINTS)] - middle) @ axes_of
    columns = min(3, len(sets))
    rows = -(-len(sets) // columns)
    figure, panels = make_figure(2.6 * columns, 2.5 * rows + 0.3, rows, columns)
    colours = _colours(sets)
    low, high = np.percentile(some, [0.2, 99.8], axis=0)
    margin = 0.25 * (high - low)
    for panel, (name, pairs) in zip(np.ravel(panels), sets.items(), strict=False):
        dots = (pairs.normaliser.normalise(pairs.observations) - middle) @ axes_of
        panel.scatter(some[:, 0], some[:, 1], s=1.5, color="#c3cfdc", lw=0, rasterized=True)
        panel.scatter(dots[:, 0], dots[:, 1], s=7, color=colours[name], alpha=0.8, lw=0)
        outside = int(((dots < low - margin) | (dots > high + margin)).any(axis=1).sum())
        panel.set_title(name + (f" ({outside} outside the frame)" if outside else ""), fontsize=9)
        panel.set_xlim(low[0] - margin[0], high[0] + margin[0])
        panel.set_ylim(low[1] - margin[1], high[1] + margin[1])
        panel.set_xticks([])
        panel.set_yticks([])
    for panel in np.ravel(panels)[len(sets) :]:
        panel.set_visible(False)
    figure.supxlabel(
        f"first two principal components of the source's states, {share:.0%} of their variance", fontsize=8
    )
    return png(figure, _DPI)


@default_style
def draw_frames(frames: Frames) -> bytes:
    """Draw states above their successors, with four pairs per row."""
    columns = min(4, len(frames.rows))
    rows = -(-len(frames.rows) // columns)
    figure, panels = make_figure(2.0 * columns, 4.2 * rows, 2 * rows, columns)
    panels = np.reshape(panels, (2 * rows, columns))
    for panel in panels.ravel():
        panel.set_axis_off()
    for number, row in enumerate(frames.rows):
        place = 2 * (number // columns), number % columns
        for below, picture in enumerate((frames.states[number], frames.successors[number])):
            panel = panels[place[0] + below, place[1]]
            panel.imshow(picture)
            panel.set_title(f"pair {row}" if not below else "one step later", fontsize=8, pad=3)
    return png(figure, _DPI)


def _colours(methods: Iterable[str]) -> dict[str, str]:
    """Return a colour for each method: a fixed one, or the next free one for methods without, such as variants."""
    names = list(dict.fromkeys(methods))
    others = [name for name in names if name not in _COLOURS]
    return {name: _COLOURS.get(name) or _OTHERS[others.index(name) % len(_OTHERS)] for name in names}


def _errorbars(
    axes: Any,
    shown: Sequence[tuple[float, Any]],
    colour: str,
    label: str,
    *,
    sideways: bool = False,
    line: bool = False,
) -> None:
    """Draw estimates at their positions, with their intervals."""
    places = [place for place, _ in shown]
    means = [value.mean for _, value in shown]
    errors = [[v.mean - v.low for _, v in shown], [v.high - v.mean for _, v in shown]]
    style = {"fmt": "o-" if line else "o", "ms": 4, "lw": 1.3, "elinewidth": 1.2, "capsize": 2, "color": colour}
    if sideways:
        axes.errorbar(means, places, xerr=errors, label=label, **style)
    else:
        axes.errorbar(places, means, yerr=errors, label=label, **style)
