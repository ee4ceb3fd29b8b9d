"""A picture that shows where the weights of a dataset's states are large."""

import numpy as np

from minari_obd.errors import DataError
from minari_obd.support.figures import default_style, make_figure, png

__all__ = ["draw_weights"]

_COMMON, _RARE = "#1f4e79", "#d1495b"


_LIMIT = 10.0  # mean weights above it share one colour, as do those below its reciprocal


@default_style
def draw_weights(states: np.ndarray, weights: np.ndarray) -> bytes:
    """Draw the number of states and their mean weight over their first two principal components, as a PNG.

    The same states and weights give the same bytes with the same version of matplotlib.

    Args:
        states: normalised states, shape (N, S), such as :attr:`Targets.states`.
        weights: non-negative weights with mean 1, shape (N,), such as :attr:`Targets.weights`.

    Raises:
        DataError: shapes do not match, numbers are not finite, or weights are negative.
    """
    if states.ndim != 2 or not len(states) or weights.shape != (len(states),):
        raise DataError(f"A picture needs one weight per state; got shapes {states.shape} and {weights.shape}.")
    if not (np.isfinite(states).all() and np.isfinite(weights).all() and (weights >= 0).all()):
        raise DataError("A picture needs finite states and finite, non-negative weights; got other values.")
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    places, shares = _principal_components(states)
    ticks = {"length": 0, "labelsize": 8}
    figure, (left, right) = make_figure(9.0, 3.8, 1, 2, ticks=ticks, sharex=True, sharey=True)
    low, high = np.percentile(places, [0.1, 99.9], axis=0)
    margin = 0.05 * (high - low) + 1e-3
    (left_end, bottom), (right_end, top) = low - margin, high + margin
    grid = {"gridsize": 50, "extent": (left_end, right_end, bottom, top), "linewidths": 0.1, "mincnt": 1}
    inside = ((places >= low - margin) & (places <= high + margin)).all(axis=1)  # the few others would stretch the grid
    x, y = places[inside].T
    counts = left.hexbin(x, y, bins="log", cmap=LinearSegmentedColormap.from_list("", ["#e8f0f7", _COMMON]), **grid)
    figure.colorbar(counts, ax=left, label="states")
    colours = LinearSegmentedColormap.from_list("", [_COMMON, "#f2f2f2", _RARE])
    means = right.hexbin(x, y, C=weights[inside], reduce_C_function=np.mean, cmap=colours, **grid)
    shown = np.maximum(np.asarray(means.get_array()), 1e-3)
    means.set_array(shown)
    limit = min(max(2.0, float(np.exp(np.abs(np.log(shown)).max()))), _LIMIT)
    means.set_norm(LogNorm(1 / limit, limit))
    figure.colorbar(means, ax=right, label="mean weight", extend="both" if limit == _LIMIT else "neither")
    for axes, title in ((left, f"{len(places):,} states"), (right, "their weights")):
        axes.set(title=title, xlabel=f"first principal component ({shares[0]:.0%} of the variance)")
    left.set_ylabel(f"second ({shares[1]:.0%})")
    return png(figure)


def _principal_components(states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the coordinates of states (N, S) on the first two axes, shape (N, 2), and their shares of the variance."""
    centred = states - states.mean(axis=0, dtype=np.float64)
    variances, axes = np.linalg.eigh(centred.T @ centred / len(states))
    variances, axes = np.maximum(variances[::-1], 0.0), axes[:, ::-1]
    if len(variances) == 1:
        variances, axes = np.array([variances[0], 0.0]), np.array([[1.0, 0.0]])
    first = axes[:, :2]
    # The sign of an axis is arbitrary; make its largest entry positive.
    first = first * np.sign(first[np.abs(first).argmax(axis=0), [0, 1]] + 1e-300)
    return centred @ first, variances[:2] / max(variances.sum(), 1e-300)
