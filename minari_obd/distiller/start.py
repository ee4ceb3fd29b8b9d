"""Where an outer loop begins: the first pairs of every run."""

import math
from collections.abc import Sequence
from itertools import chain

import torch

from minari_obd.distiller.checkpoint import OuterState, Record
from minari_obd.distiller.data import OuterData, initial_rows
from minari_obd.distiller.kernel import KernelStart
from minari_obd.distiller.looks import cost_scale, held_out_losses
from minari_obd.distiller.step import OuterTensors
from minari_obd.settings.protocols import StudentProtocol
from minari_obd.settings.sections import DistillationRecipe

__all__ = ["start"]


def start(
    work: Sequence[OuterData], size: int, protocol: StudentProtocol, settings: DistillationRecipe, *, progress: bool
) -> OuterState:
    """Begin at states of the targets with the actions that are wanted there, or where the kernel takes these pairs.

    Of the pairs on the kernel's way, its beginning included, those are taken from which the protocol's own students
    learn most, by the held-out loss.

    Args:
        work: the runs' targets.
        size: pairs of each.
        protocol: the students that are differentiated through.
        settings: of the outer loop.
        progress: show a bar for the kernel.
    """
    found = []
    for each in work:
        chosen = initial_rows(each.tensors[0].cpu().numpy(), each.training, size, each.seed, settings.initial)
        rows = torch.from_numpy(chosen).to(each.rows.device)
        found.append([tensor[rows] for tensor in each.tensors[:2]])
    pairs = [torch.stack(parts) for parts in zip(*found, strict=True)]
    scale = torch.zeros(len(work), device=pairs[0].device)
    if work[0].cost is not None:
        scale = cost_scale(pairs, work, protocol, settings)
    if settings.initial == "kernel":
        for run, each in enumerate(work):
            best, first = math.inf, (pairs[0][run].clone(), pairs[1][run].clone())
            moved = KernelStart(protocol, settings).candidates(*first, each, float(scale[run]), progress=progress)
            for candidate in chain([first], moved):
                shown = [part[None] for part in candidate]
                (loss,) = held_out_losses(shown, [each], protocol, settings, scale[run : run + 1])
                if loss < best:
                    best, pairs[0][run], pairs[1][run] = loss, *candidate
    tensors = OuterTensors.start(*pairs)
    tensors.cost_scale = scale
    return OuterState(tensors, [p.clone() for p in tensors.pairs], [Record() for _ in work])
