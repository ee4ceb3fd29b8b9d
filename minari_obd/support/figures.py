"""Figures: Matplotlib without pyplot, so that nothing is global and no display is needed."""

import io
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np

__all__ = ["default_style", "make_figure", "png"]

_P = ParamSpec("_P")
_T = TypeVar("_T")


def default_style(draw: Callable[_P, _T]) -> Callable[_P, _T]:
    """Make a function draw in Matplotlib's default style, whatever the user's own settings are."""

    @wraps(draw)
    def drawn(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        from matplotlib.style import context

        with context("default", after_reset=True):
            return draw(*args, **kwargs)

    return drawn


def make_figure(
    width: float,
    height: float,
    rows: int = 1,
    columns: int = 1,
    *,
    ticks: Mapping[str, Any] | None = None,
    **grid: Any,
) -> tuple[Any, Any]:
    """Return a figure and its axes, which have no frame above and at the right.

    Args:
        width: inches.
        height: inches.
        rows: of axes.
        columns: of axes.
        ticks: as of Matplotlib's ``Axes.tick_params``; small labels if not given.
        grid: as of Matplotlib's ``Figure.subplots``.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, **grid)
    for each in np.ravel(axes):
        each.spines[["top", "right"]].set_visible(False)
        each.tick_params(**({"labelsize": 8} if ticks is None else ticks))
    return figure, axes


def png(figure: Any, dpi: int = 110) -> bytes:
    """Return a figure as a PNG: the same bytes each time with the same version of Matplotlib."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()
