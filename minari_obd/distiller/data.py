"""What one run of the outer loop is about: targets on the device, those held out, and the batches."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from minari_obd.settings.sections import DistillationRecipe
from minari_obd.support.streams import Stream
from minari_obd.targets.clustering import central_rows
from minari_obd.targets.targets import ActionCost, Targets

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
        initial: ``kmeans`` or ``random``, as of :class:`~minari_obd.settings.sections.DistillationRecipe`.
    """
    if initial == "kmeans":
        return training[central_rows(states[training], size, seed)]
    return Stream.INITIAL_PAIRS.generator(seed).choice(training, size, replace=False)


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
    """The same for the held-out states, or an even choice of them."""
    cost: ActionCost | None
    """What students' actions cost beside their squared error."""

    @classmethod
    def of(cls, targets: Targets, settings: DistillationRecipe, seed: int, device: torch.device) -> "OuterData":
        """Split the targets, and put them on the device."""
        training, held_out = split_rows(len(targets), settings, seed)
        held_out = torch.from_numpy(held_out[:: max(1, len(held_out) // _HELD_OUT_STATES)]).to(device)
        tensors = [torch.tensor(a, device=device) for a in (targets.states, targets.actions, targets.weights)]
        judged = [tensor[held_out] for tensor in tensors]
        cost = None if targets.cost is None else targets.cost.to(device)
        return cls(seed, training, torch.from_numpy(training).to(device), tensors, judged, cost)

    def batch(self, size: int, step: int) -> list[Tensor]:
        """Draw the states of an outer step."""
        chosen = Stream.BATCHES.generator(self.seed, step).integers(len(self.training), size=size)
        rows = self.rows[torch.from_numpy(chosen).to(self.rows.device, non_blocking=True)]
        return [tensor[rows] for tensor in self.tensors]
