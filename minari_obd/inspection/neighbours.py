"""Neighbours: where pairs lie among the states of their source, and how near to single ones."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.spatial.distance import cdist

from minari_obd.scores.estimates import Estimate, quartiles
from minari_obd.support.streams import Stream

__all__ = ["NEIGHBOURS", "Coverage", "Nearness", "Overlap", "nearest_distances", "overlap"]

NEIGHBOURS = 5
"""k of :class:`Coverage`."""


_ENTRIES_AT_ONCE = 1 << 22


_SPARE = 6


_DRAWS = 20


_MOST_COMPARED = 2_048


_MOST_MEASURED = 2_000


_COPY = 1e-3


@dataclass(frozen=True)
class Coverage:
    """Coverage and precision of the pairs' states, in z-scores, among as many random held-out states.

    Means over draws of held-out states (and, where there are more pairs than those, of pairs), each with the interval
    that holds 95% of the draws.
    """

    coverage: Estimate
    """Share of real states that have a pair nearer than their k-th nearest real neighbour (Naeem et al. 2020,
    arXiv 2002.09797)."""
    precision: Estimate
    """Share of pairs that are nearer to some real state than that one's k-th nearest real neighbour
    (Kynkäänniemi et al. 2019, arXiv 1904.06991)."""
    attainable_coverage: Estimate
    """The coverage of as many random training states in place of the pairs."""
    attainable_precision: Estimate
    """The precision of these."""
    neighbours: int
    """k."""
    states: int
    """Held-out states, and pairs, a draw."""
    draws: int

    @classmethod
    def of(cls, pairs: np.ndarray, training: np.ndarray, held_out: np.ndarray, seed: int) -> "Coverage":
        """Measure it, for normalised states of the pairs (M, S), training rows and held-out rows.

        There must be more than :data:`NEIGHBOURS` of each.
        """
        rng = Stream.COVERAGE.generator(seed)
        count = min(len(pairs), len(held_out), _MOST_COMPARED)
        made, other = [], []
        for _ in range(_DRAWS):
            real = held_out[rng.choice(len(held_out), count, replace=False)]
            made.append(overlap(real, pairs[rng.permutation(len(pairs))[:count]], NEIGHBOURS))
            other.append(overlap(real, training[rng.choice(len(training), count, replace=False)], NEIGHBOURS))
        ours, theirs = ([_over_draws(column) for column in np.array(each).T] for each in (made, other))
        return cls(*ours, *theirs, neighbours=NEIGHBOURS, states=count, draws=_DRAWS)


@dataclass(frozen=True)
class Nearness:
    """Distances from the pairs' states to training states, in z-scores.

    Synthetic tables are judged by the same (Zhao et al. 2021, arXiv 2102.08369): distance to the closest record,
    and nearest-neighbour distance ratio.
    """

    distance: tuple[float, float, float]
    """Quartiles of a pair's distance to the nearest training state."""
    real_distance: float
    """Median of a held-out state's."""
    relative_distance: float | None
    """Median distance of the pairs over that of held-out states; None if the latter is zero."""
    ratio: float
    """Median of a pair's distance ratio, nearest over second nearest: near 0, a pair clings to one row. 1 where both
    are zero."""
    ratio_low: float
    """5% quantile of it."""
    real_ratio: float
    """Median of a held-out state's ratio."""
    real_ratio_low: float
    """5% quantile of it."""
    copies: float
    """Share of pairs whose state is a training state: within 0.001 z-scores, as float32 rounds."""

    @classmethod
    def of(cls, pairs: np.ndarray, training: np.ndarray, held_out: np.ndarray, seed: int) -> "Nearness":
        """Measure it, for normalised states of the pairs (M, S), two or more training rows, and held-out rows."""
        some = Stream.NEARNESS.generator(seed).permutation(len(held_out))[:_MOST_MEASURED]
        ours, real = (nearest_distances(states, training, 2) for states in (pairs, held_out[some]))
        typical = float(np.median(real[:, 0]))
        ratios = [np.divide(d[:, 0], d[:, 1], out=np.ones(len(d)), where=d[:, 1] > 0) for d in (ours, real)]
        (ratio_low, ratio), (real_low, real_ratio) = (np.quantile(each, [0.05, 0.5]).tolist() for each in ratios)
        return cls(
            distance=quartiles(ours[:, 0]),
            real_distance=typical,
            relative_distance=float(np.median(ours[:, 0])) / typical if typical > 0 else None,
            ratio=ratio,
            ratio_low=ratio_low,
            real_ratio=real_ratio,
            real_ratio_low=real_low,
            copies=float((ours[:, 0] <= _COPY).mean()),
        )


class Overlap(NamedTuple):
    """How far made states cover real ones, and how far they lie among them."""

    coverage: float
    precision: float


def nearest_distances(points: np.ndarray, references: np.ndarray, count: int) -> np.ndarray:
    """Euclidean distances from each point to its nearest references, by brute force.

    Args:
        points: shape (B, S).
        references: shape (N, S).
        count: neighbours wanted, at most N.

    Returns:
        Distances in ascending order, shape (B, count), float64.
    """
    rows, known = (torch.from_numpy(np.ascontiguousarray(each, dtype=np.float32)) for each in (points, references))
    lengths = known.square().sum(dim=1)
    found = []
    several = min(count + _SPARE, len(known))
    for part in rows.split(max(1, _ENTRIES_AT_ONCE // (len(known) + several * known.shape[1]))):
        # One matrix product gives squared distances, but for a constant a row, and cancels where they are small:
        # it only proposes a few neighbours more than wanted, which are then measured.
        proposed = torch.addmm(lengths, part, known.T, alpha=-2.0)
        chosen = proposed.topk(several, largest=False).indices
        measured = (known[chosen].double() - part[:, None].double()).norm(dim=-1)
        found.append(measured.sort(dim=1).values[:, :count])
    return torch.cat(found).numpy()


def overlap(real: np.ndarray, made: np.ndarray, neighbours: int) -> Overlap:
    """Coverage and precision by the balls that reach from each real state to its k-th nearest real neighbour.

    Coverage is the share of real states whose ball holds a made one (Naeem et al. 2020, arXiv 2002.09797); for
    two samples of one continuous distribution its expectation is 1 - prod_{i=1..k} (N - i) / (N + M - i). Precision is
    the share of made states inside any ball (Kynkäänniemi et al. 2019, arXiv 1904.06991).

    Args:
        real: shape (N, S).
        made: shape (M, S).
        neighbours: k, below N.
    """
    radii = nearest_distances(real, real, neighbours + 1)[:, -1]  # the first is the state itself
    inside = cdist(real, made) < radii[:, None]
    return Overlap(float(inside.any(axis=1).mean()), float(inside.any(axis=0).mean()))


def _over_draws(values: np.ndarray) -> Estimate:
    low, high = np.quantile(values, [0.025, 0.975]).tolist()
    return Estimate(float(values.mean()), low, high)
