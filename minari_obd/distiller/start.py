"""Where an outer loop begins: the first pairs of every run."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from minari_obd.distiller.checkpoint import OuterState, Record, StartState, write_checkpoint
from minari_obd.distiller.data import OuterData, initial_rows
from minari_obd.distiller.kernel import KernelStart
from minari_obd.distiller.looks import cost_scale, held_out_losses
from minari_obd.distiller.step import OuterTensors
from minari_obd.settings.protocols import StudentProtocol
from minari_obd.settings.sections import DistillationRecipe
from minari_obd.support.interrupts import deferred_interrupts
from minari_obd.support.precision import matmul_precision
from minari_obd.support.tracking import Track, named

__all__ = ["start"]

_CHECKPOINT_SECONDS = 60.0


def start(
    work: Sequence[OuterData],
    size: int,
    protocol: StudentProtocol,
    settings: DistillationRecipe,
    begun: StartState | None = None,
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
        begun: how far the kernel was when it was interrupted.
        checkpoint: a file to write, every minute and once the kernel has done its part.
        progress: show a bar for the kernel.
        track: who is told the looks on the kernel's way, if no outer steps follow.

    Raises:
        KeyboardInterrupt: it was interrupted, and ended after a step; how far it was is in the checkpoint.
    """
    state = begun or _begin(work, size, protocol, settings)
    with deferred_interrupts() as is_interrupted, matmul_precision("float32"):
        if settings.initial == "kernel":
            _move(state, work, protocol, settings, checkpoint, progress, track, is_interrupted)
        tensors = OuterTensors.start(*state.pairs)
        tensors.cost_scale = state.cost_scale
        outer = OuterState(tensors, [p.clone() for p in tensors.pairs], state.records, clock=state.clock)
        if checkpoint is not None and settings.initial == "kernel":
            write_checkpoint(checkpoint, outer if state.run == len(work) else state)
        if is_interrupted():
            raise KeyboardInterrupt
    return outer


def _begin(work: Sequence[OuterData], size: int, protocol: StudentProtocol, settings: DistillationRecipe) -> StartState:
    """Return pairs at states of the targets, and what makes a cost as large as their squared errors."""
    found = []
    for each in work:
        chosen = initial_rows(each.tensors[0].cpu().numpy(), each.training, size, each.seed, settings.initial)
        rows = torch.from_numpy(chosen).to(each.rows.device)
        found.append([tensor[rows] for tensor in each.tensors[:2]])
    pairs = [torch.stack(parts) for parts in zip(*found, strict=True)]
    scale = torch.zeros(len(work), device=pairs[0].device)
    if work[0].cost is not None:
        scale = cost_scale(pairs, work, protocol, settings)
    return StartState(pairs, scale, [Record() for _ in work])


def _move(
    state: StartState,
    work: Sequence[OuterData],
    protocol: StudentProtocol,
    settings: DistillationRecipe,
    checkpoint: Path | None,
    progress: bool,
    track: Track | None,
    is_interrupted: Callable[[], bool],
) -> None:
    """Move each run's pairs by the kernel, look at them on the way, and keep the best, until interrupted."""
    kernel, saved = KernelStart(protocol, settings), time.monotonic()

    def look(step: int, candidate: tuple[Tensor, Tensor]) -> None:
        run, record = state.run, state.records[state.run]
        shown, scale = [part[None] for part in candidate], state.cost_scale[run : run + 1]
        (loss,) = held_out_losses(shown, [work[run]], protocol, settings, scale)
        if loss < state.best_loss:
            state.best_loss, record.kernel_step = loss, step
            state.pairs[0][run], state.pairs[1][run] = candidate
        if settings.outer_steps(protocol):
            return
        record.best_step, record.best_loss = record.kernel_step, state.best_loss
        record.history.append({"step": step, **({"held_out": loss} if math.isfinite(loss) else {})})
        if track is not None and not run:
            named(track, "distillation", step, {"held_out": loss, "best_held_out": state.best_loss})

    told = {"progress": progress, "is_interrupted": is_interrupted}
    while state.run < len(work):
        if state.kernel is None:
            first = state.pairs[0][state.run].clone(), state.pairs[1][state.run].clone()
            state.best_loss, state.kernel = math.inf, kernel.begin(*first)
            look(0, first)
        for seen in kernel.candidates(state.kernel, work[state.run], float(state.cost_scale[state.run]), **told):
            look(*seen)
            if checkpoint is not None and time.monotonic() - saved > _CHECKPOINT_SECONDS:
                write_checkpoint(checkpoint, state)
                saved = time.monotonic()
        if is_interrupted():
            return
        state.run, state.kernel = state.run + 1, None
