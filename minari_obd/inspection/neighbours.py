"""Neighbours: where pairs lie among the states of their source, and how close they are to single states."""

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
    """Coverage and precision of the pairs' states, in z-scores, among equally many random held-out states.

    Values are means over draws of held-out states (and of pairs, if there are more pairs), each with the interval that
    contains 95% of the draws.
    """

    coverage: Estimate
    """Share of real states that have a pair nearer than their k-th nearest real neighbour (Naeem et al. 2020,
    arXiv 2002.09797)."""
    precision: Estimate
    """Share of pairs that are nearer to some real state than that state's k-th nearest real neighbour
    (Kynkäänniemi et al. 2019, arXiv 1904.06991)."""
    attainable_coverage: Estimate
    """Coverage of equally many random training states instead of the pairs."""
    attainable_precision: Estimate
    """Precision of these training states."""
    neighbours: int
    """k."""
    states: int
    """Held-out states, and pairs, per draw."""
    draws: int

    @classmethod
    def of(cls, pairs: np.ndarray, training: np.ndarray, held_out: np.ndarray, seed: int) -> "Coverage":
        """Measure normalised states of the pairs (M, S), of training rows and of held-out rows.

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

    Synthetic tables are evaluated by the same measures (Zhao et al. 2021, arXiv 2102.08369): distance to the closest
    record, and nearest-neighbour distance ratio.
    """

    distance: tuple[float, float, float]
    """Quartiles of the pairs' distance to the nearest training state."""
    real_distance: float
    """Median distance of held-out states to the nearest training state."""
    relative_distance: float | None
    """Median distance of the pairs over that of held-out states; None if the latter is zero."""
    ratio: float
    """Median of the pairs' distance ratio, nearest over second nearest. Near 0, a pair sticks to one row. It is 1 if
    both are zero."""
    ratio_low: float
    """5% quantile of the pairs' ratio."""
    real_ratio: float
    """Median ratio of held-out states."""
    real_ratio_low: float
    """5% quantile of the held-out states' ratio."""
    copies: float
    """Share of pairs whose state is a training state, within 0.001 z-scores because float32 rounds."""

    @classmethod
    def of(cls, pairs: np.ndarray, training: np.ndarray, held_out: np.ndarray, seed: int) -> "Nearness":
        """Measure normalised states of the pairs (M, S), of at least two training rows, and of held-out rows."""
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
    """How much of the real states made ones cover, and how many of the made ones lie among real ones."""

    coverage: float
    precision: float


def nearest_distances(points: np.ndarray, references: np.ndarray, count: int) -> np.ndarray:
    """Return Euclidean distances from each point to its nearest references, by brute force.

    Args:
        points: shape (B, S).
        references: shape (N, S).
        count: number of neighbours, at most N.

    Returns:
        Distances in ascending order, shape (B, count), float64.
    """
    rows, known = (torch.from_numpy(np.ascontiguousarray(each, dtype=np.float32)) for each in (points, references))
    lengths = known.square().sum(dim=1)
    found = []
    several = min(count + _SPARE, len(known))
    for part in rows.split(max(1, _ENTRIES_AT_ONCE // (len(known) + several * known.shape[1]))):
        # One matrix product gives squared distances up to a constant per row, but cancels if they are small.
        # So it only proposes a few more neighbours than wanted, whose distances are then measured.
        proposed = torch.addmm(lengths, part, known.T, alpha=-2.0)
        chosen = proposed.topk(several, largest=False).indices
        measured = (known[chosen].double() - part[:, None].double()).norm(dim=-1)
        found.append(measured.sort(dim=1).values[:, :count])
    return torch.cat(found).numpy()


def overlap(real: np.ndarray, made: np.ndarray, neighbours: int) -> Overlap:
    """Coverage and precision by the balls that reach from each real state to its k-th nearest real neighbour.

    Coverage is the share of real states whose ball contains a made one (Naeem et al. 2020, arXiv 2002.09797). For two
    samples of one continuous distribution its expectation is 1 - prod_{i=1..k} (N - i) / (N + M - i). Precision is
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
