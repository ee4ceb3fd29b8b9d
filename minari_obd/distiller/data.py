"""What one run of the outer loop is about: targets on the device, those held out, and the batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from minari_obd.settings.sections import DistillationRecipe
from minari_obd.support.streams import Stream
from minari_obd.targets.clustering import central_rows
from minari_obd.targets.targets import ActionCost, Targets, VisitedStates

__all__ = ["OuterData", "Split", "held_out_count", "initial_rows", "split_rows"]

_HELD_OUT_STATES = 4_096


def held_out_count(count: int, settings: DistillationRecipe) -> int:
    """Return how many of ``count`` states are held out."""
    return max(1, int(settings.held_out * count))


class Split(NamedTuple):
    """Rows of the offline data, each part in order."""

    training: np.ndarray
    held_out: np.ndarray


def split_rows(count: int, settings: DistillationRecipe, seed: int) -> Split:
    """Split ``count`` rows; a twentieth of them, by default, is held out."""
    order = Stream.SPLIT.generator(seed).permutation(count)
    held_out = held_out_count(count, settings)
    return Split(np.sort(order[held_out:]), np.sort(order[:held_out]))


def initial_rows(states: np.ndarray, training: np.ndarray, size: int, seed: int, initial: str) -> np.ndarray:
    """Return the rows that the pairs begin as, shape (size,), all different.

    Args:
        states: all of the data's, normalised, shape (N, S).
        training: the rows to choose from.
        size: how many.
        seed: of the choice.
        initial: ``random`` or, for k-means, ``kmeans`` or ``kernel``, as of
            :class:`~minari_obd.settings.sections.DistillationRecipe`.
    """
    if initial == "random":
        return Stream.INITIAL_PAIRS.generator(seed).choice(training, size, replace=False)
    return training[central_rows(states[training], size, seed)]


@dataclass(frozen=True)
class OuterData:
    """One run's targets on the device."""

    seed: int
    training: np.ndarray
    """Rows to train on."""
    rows: Tensor
    tensors: list[Tensor]
    """States (N, S), actions (N, A), weights (N,)."""
    judged: list[Tensor]
    """The same for the held-out states, or an even choice of them, and for visited states where there are any."""
    cost: ActionCost | None
    """What students' actions cost beside their squared error."""
    visited: VisitedStates | None = None
    """Where students go."""

    @classmethod
    def of(cls, targets: Targets, settings: DistillationRecipe, seed: int, device: torch.device) -> "OuterData":
        """Split the targets, and put them on the device."""
        training, held_out = split_rows(len(targets), settings, seed)
        held_out = torch.from_numpy(held_out[:: max(1, len(held_out) // _HELD_OUT_STATES)]).to(device)
        tensors = [torch.tensor(a, device=device) for a in (targets.states, targets.actions, targets.weights)]
        judged = [tensor[held_out] for tensor in tensors]
        cost = None if targets.cost is None else targets.cost.to(device)
        visited = None if targets.visited is None else targets.visited.to(device)
        if visited is not None:
            share = visited.settings.share or 0.0
            states, wanted = (each[: round(len(judged[0]) * share / (1.0 - share))] for each in visited.held_out)
            judged = [torch.cat(parts) for parts in zip(judged, _unweighted(states, wanted), strict=True)]
        return cls(seed, training, torch.from_numpy(training).to(device), tensors, judged, cost, visited)

    def batch(
        self, size: int, step: int, visits: Sequence[Tensor] = (), stream: Stream = Stream.BATCHES
    ) -> list[Tensor]:
        """Draw the states of an outer step.

        Args:
            size: how many.
            step: the outer step.
            visits: states (V, S) that students visited and wanted actions (V, A), to draw the settings' share from.
            stream: of the random numbers.
        """
        rng = stream.generator(self.seed, step)
        count = self.visit_count(size, visits)
        rows = self.rows[self._drawn(rng, len(self.training), size - count)]
        batch = [tensor[rows] for tensor in self.tensors]
        if not count:
            return batch
        drawn = self._drawn(rng, len(visits[0]), count)
        return [torch.cat(parts) for parts in zip(batch, _unweighted(*(v[drawn] for v in visits)), strict=True)]

    def visit_count(self, size: int, visits: Sequence[Tensor]) -> int:
        """Return how many of a batch's ``size`` states are drawn from those that students visited."""
        return 0 if self.visited is None or not visits else round((self.visited.settings.share or 0.0) * size)

    def _drawn(self, rng: np.random.Generator, total: int, count: int) -> Tensor:
        return torch.from_numpy(rng.integers(total, size=count)).to(self.rows.device, non_blocking=True)


def _unweighted(states: Tensor, wanted: Tensor) -> list[Tensor]:
    """Return states, wanted actions and equal weights, which are 1, the mean of the data's."""
    return [states, wanted, torch.ones(len(states), device=states.device)]
