"""Coverage: a picture of where the pairs lie beside their source, for the card."""

from typing import Any

import numpy as np

from minari_obd.distilled.contents import Contents
from minari_obd.support.figures import default_style, make_figure, png

__all__ = ["draw_coverage"]

_FAINT, _PLAIN, _STRONG = "#d6e4f0", "#9dbcd8", "#1f4e79"


_PAIRS = "#d1495b"


_MOST_DIMENSIONS = 40


@default_style
def draw_coverage(dataset: Contents) -> bytes:
    """Draw every dimension's values in the pairs as dots over the source's range, as a PNG.

    Observations are in z-scores of the source, over its quantiles where they are known; actions over their bounds.
    The same dataset gives the same bytes with the same version of matplotlib.
    """
    with np.errstate(over="ignore"):
        states, actions = (np.clip(np.nan_to_num(v[:, :_MOST_DIMENSIONS]), -1e6, 1e6) for v in dataset.normalised())
    widths = [max(each.shape[1], 5) for each in (states, actions)]
    width, ticks = min(max(6.5, 3.0 + 0.3 * sum(widths)), 14.0), {"length": 0, "labelsize": 8}
    figure, (left, right) = make_figure(width, 3.6, 1, 2, ticks=ticks, width_ratios=widths)
    places = np.arange(states.shape[1])
    if dataset.source_quantiles is not None:
        with np.errstate(over="ignore"):
            quantiles = dataset.normaliser.normalise(dataset.source_quantiles)[:, :_MOST_DIMENSIONS]
        quantiles = np.clip(np.nan_to_num(quantiles), -1e6, 1e6)
        for low, high, colour, label in ((0, 6, _FAINT, "source: all"), (1, 5, _PLAIN, "source: 5% to 95%")):
            left.bar(places, quantiles[high] - quantiles[low], 0.75, quantiles[low], color=colour, label=label)
        left.hlines(quantiles[3], places - 0.375, places + 0.375, color=_STRONG, lw=1.2, label="source: median")
    _dots(left, states, "pairs")
    shown = np.concatenate([states.ravel(), [-3.0, 3.0]])
    left.set(
        title=f"{len(states)} pairs: {_shown('observations', dataset.observations)}",
        xlabel="dimension",
        ylabel="z-score of the source",
    )
    left.set_ylim(float(shown.min()) - 0.5, float(shown.max()) + 0.5)  # a source's rare extremes would flatten the rest
    figure.legend(*left.get_legend_handles_labels(), fontsize=7, frameon=False, ncols=4, loc="outside lower left")
    right.axhspan(-1, 1, color=_FAINT, zorder=0)
    _dots(right, actions, "pairs")
    right.set(title=_shown("actions", dataset.actions), xlabel="dimension (band: bounds)")
    for axes, size in ((left, states.shape[1]), (right, actions.shape[1])):
        axes.set_xlim(-0.6, size - 0.4)
        axes.set_xticks(np.arange(0, size, 1 + size // 20))
    return png(figure)


def _shown(what: str, values: np.ndarray) -> str:
    """A title, which says so if dimensions are left out."""
    size = values.shape[1]
    return what if size <= _MOST_DIMENSIONS else f"{what}, the first {_MOST_DIMENSIONS} of {size} dimensions"


def _dots(axes: Any, values: np.ndarray, label: str) -> None:
    """Dots of a column spread sideways, by a rule and not by chance, so that the picture is the same each time."""
    count, size = values.shape
    sideways = (np.arange(count) * 0.6180339887) % 1.0 - 0.5  # golden ratio: even at any count
    places = np.arange(size)[None, :] + 0.6 * sideways[:, None]
    axes.scatter(places.ravel(), values.ravel(), s=3, color=_PAIRS, alpha=0.55, lw=0, label=label, zorder=3)
