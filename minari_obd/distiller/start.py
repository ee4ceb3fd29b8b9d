"""Where an outer loop begins: the first pairs of every run."""

import math
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import torch

from minari_obd.distiller.checkpoint import OuterState, Record, write_checkpoint
from minari_obd.distiller.data import OuterData, initial_rows
from minari_obd.distiller.kernel import KernelStart
from minari_obd.distiller.looks import cost_scale, held_out_losses
from minari_obd.distiller.step import OuterTensors
from minari_obd.settings.protocols import StudentProtocol
from minari_obd.settings.sections import DistillationRecipe
from minari_obd.support.interrupts import interrupted_by_termination
from minari_obd.support.precision import matmul_precision
from minari_obd.support.tracking import Track, named

__all__ = ["start"]


def start(
    work: Sequence[OuterData],
    size: int,
    protocol: StudentProtocol,
    settings: DistillationRecipe,
    *,
    checkpoint: Path | None,
    progress: bool,
    track: Track | None = None,
) -> OuterState:
    """Begin at states of the targets with the actions that are wanted there, or where the kernel takes these pairs.

    Of the pairs on the kernel's way, its beginning included, those are taken from which the protocol's own students
    learn most, by the held-out loss. Where no outer steps follow, these looks are the run's history.

    Args:
        work: the runs' targets.
        size: pairs of each.
        protocol: the students that are differentiated through.
        settings: of the outer loop.
        checkpoint: a file to write, once the kernel has done its part.
        progress: show a bar for the kernel.
        track: who is told the looks on the kernel's way, if no outer steps follow.

    Raises:
        KeyboardInterrupt: it was interrupted, at once. Nothing of the kernel's way is kept.
    """
    found, records = [], [Record() for _ in work]
    for each in work:
        chosen = initial_rows(each.tensors[0].cpu().numpy(), each.training, size, each.seed, settings.initial)
        rows = torch.from_numpy(chosen).to(each.rows.device)
        found.append([tensor[rows] for tensor in each.tensors[:2]])
    pairs = [torch.stack(parts) for parts in zip(*found, strict=True)]
    scale = torch.zeros(len(work), device=pairs[0].device)
    if work[0].cost is not None:
        scale = cost_scale(pairs, work, protocol, settings)
    if settings.initial == "kernel":
        with interrupted_by_termination(), matmul_precision("float32"):
            for run, each in enumerate(work):
                best, first = math.inf, (pairs[0][run].clone(), pairs[1][run].clone())
                moved = KernelStart(protocol, settings).candidates(*first, each, float(scale[run]), progress=progress)
                for step, candidate in chain([(0, first)], moved):
                    shown = [part[None] for part in candidate]
                    (loss,) = held_out_losses(shown, [each], protocol, settings, scale[run : run + 1])
                    if loss < best:
                        best, records[run].kernel_step = loss, step
                        pairs[0][run], pairs[1][run] = candidate
                    if not settings.outer_steps(protocol):
                        records[run].best_step, records[run].best_loss = records[run].kernel_step, best
                        records[run].history.append(
                            {"step": step, **({"held_out": loss} if math.isfinite(loss) else {})}
                        )
                        if track is not None and not run:
                            named(track, "distillation", step, {"held_out": loss, "best_held_out": best})
    tensors = OuterTensors.start(*pairs)
    tensors.cost_scale = scale
    state = OuterState(tensors, [p.clone() for p in tensors.pairs], records)
    if checkpoint is not None and settings.initial == "kernel":
        write_checkpoint(checkpoint, state)
    return state
