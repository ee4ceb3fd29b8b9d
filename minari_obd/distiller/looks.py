"""Looks at the held-out states, by the same students each time, and what is told of a run."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from minari_obd.distiller.checkpoint import OuterState
from minari_obd.distiller.data import OuterData
from minari_obd.distiller.step import OuterPlan, cloned_losses, cloned_terms, draw_students
from minari_obd.errors import DataError
from minari_obd.settings.protocols import StudentProtocol
from minari_obd.settings.sections import DistillationRecipe
from minari_obd.support.precision import matmul_precision
from minari_obd.support.streams import Stream
from minari_obd.support.tracking import Track, named

__all__ = ["cost_scale", "held_out_losses", "look", "tell_look", "tell_step"]

_STUDENTS = 2
_DRAWS = 4
_DRIFT = 1.25


def held_out_losses(
    pairs: Sequence[Tensor],
    work: Sequence[OuterData],
    protocol: StudentProtocol,
    settings: DistillationRecipe,
    scale: Tensor,
) -> list[float]:
    """Judge the pairs of each run by the protocol's own students, and by some with drawn settings."""
    protocols, found = [protocol], []
    if settings.draws:
        protocols += [settings.draws.draw(protocol, Stream.JUDGING_PROTOCOLS, i) for i in range(_DRAWS)]
    for i, each in enumerate(protocols):
        judged, initial, plan = _inputs(pairs, work, each, settings, i)
        with matmul_precision("float32"):
            found.append(cloned_losses(pairs, judged, initial, plan, differentiable=False, cost_scale=scale))
    return torch.stack(found).mean(dim=0).tolist()


def look(
    state: OuterState,
    work: Sequence[OuterData],
    protocol: StudentProtocol,
    settings: DistillationRecipe,
    track: Track | None,
) -> str:
    """Measure the held-out loss, keep the pairs if they are the best of their run, and return what the bar shows.

    If they are much worse than the best, go back to those, at half the rate.
    """
    tensors = state.tensors
    pairs = tensors.average if settings.average else tensors.pairs
    losses = held_out_losses(pairs, work, protocol, settings, tensors.cost_scale)
    for run, (record, loss) in enumerate(zip(state.records, losses, strict=True)):
        if record.reason or (record.history and record.history[-1]["step"] == state.step):
            continue  # it has stopped and only keeps others company; or a resumed run looks where it looked before
        row = {"step": state.step, "held_out": loss, "rate_factor": record.rate_factor}
        if state.step == 0 and settings.initial == "kernel":
            row["kernel_step"] = record.kernel_step
        for name in ("training", "gradient_norm", "skipped"):
            row[name] = float(getattr(tensors, name)[run])
        record.history.append({name: value for name, value in row.items() if math.isfinite(value)})
        # Students of the kernel's pairs err more where they go, so a later look that is nearly as good counts more.
        is_first = state.step > 0 and record.best_step == 0 and record.kernel_step > 0
        if loss < record.best_loss or (is_first and loss <= _DRIFT * record.best_loss):
            record.best_loss, record.best_step = loss, state.step
            for mine, now in zip(state.best, pairs, strict=True):
                mine[run] = now[run]
        elif not loss <= _DRIFT * record.best_loss:
            # The pairs have come to where the students' own training is unstable; from there they rarely return.
            tensors.restart(run, [p[run] for p in state.best])
            record.rate_factor *= 0.5
        if state.step - record.best_step >= settings.patience * settings.evaluate_every:
            record.reason = (
                f"The held-out loss had not improved since step {record.best_step}, {settings.patience} looks ago."
            )
    tell_look(track, state)
    return "best=" + " ".join(f"{record.best_loss:.4f}@{record.best_step}" for record in state.records)


def cost_scale(
    pairs: Sequence[Tensor], work: Sequence[OuterData], protocol: StudentProtocol, settings: DistillationRecipe
) -> Tensor:
    """Return what makes the cost as large as the squared error at these pairs, shape (R,).

    So the outer learning rate means the same with a cost as without.

    Raises:
        DataError: the cost is zero or not finite, so the critics say nothing about these actions.
    """
    judged, initial, plan = _inputs(pairs, work, protocol, settings, 0)
    with matmul_precision("float32"):
        squared, cost = cloned_terms(pairs, judged, initial, plan, differentiable=False)
    assert cost is not None
    scale = squared / cost
    if not (scale.isfinite() & (scale > 0)).all():
        raise DataError(
            f"The teacher's critics value the students' actions as highly as the teacher's own (mean gap "
            f"{cost.tolist()}), so they say nothing about errors; use distillation.objective 'squared', or train the "
            "teacher longer."
        )
    return scale


def tell_look(track: Track | None, state: OuterState) -> None:
    """Tell the first run's last look: its held-out loss, the best so far, and what the loop made of them."""
    if track is None:
        return
    record = state.records[0]
    kept = {name: record.history[-1][name] for name in ("held_out", "rate_factor") if name in record.history[-1]}
    named(track, "distillation", state.step, {**kept, "best_held_out": record.best_loss})


def tell_step(track: Track | None, state: OuterState, data: OuterData, size: int) -> None:
    """Tell the first run's last step: the loss on its batch, the gradient, and the share of students' states.

    Args:
        track: who listens, if anyone.
        state: after the step.
        data: the first run's.
        size: states of the batch.
    """
    if track is None:
        return
    values = {name: float(getattr(state.tensors, name)[0]) for name in ("training", "gradient_norm", "skipped")}
    visits = [] if not state.visits else [state.visits[0][0]]
    named(track, "distillation", state.step, {**values, "student_share": data.visit_count(size, visits) / size})


def _inputs(
    pairs: Sequence[Tensor],
    work: Sequence[OuterData],
    protocol: StudentProtocol,
    settings: DistillationRecipe,
    number: int,
) -> tuple[list[Tensor], list[Tensor], OuterPlan]:
    """Return held-out states with their targets, the initial parameters of the ``number``-th students, and the plan."""
    judged = [torch.stack(parts) for parts in zip(*(each.judged for each in work), strict=True)]
    count, key = (1, (Stream.JUDGING_STUDENTS, number)) if number else (_STUDENTS, (Stream.STUDENTS, 0))
    sizes, seeds = (pairs[0].shape[2], pairs[1].shape[2]), [each.seed for each in work]
    initial = draw_students(protocol, sizes, count, seeds, key, pairs[0].device)
    return judged, initial, OuterPlan(settings, protocol, cost=work[0].cost)
