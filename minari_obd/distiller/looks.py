"""Looks at the held-out states, by the same students each time, and what is told of a run."""

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

__all__ = ["cost_scale", "held_out_losses", "tell_look", "tell_step"]

_STUDENTS = 2
_DRAWS = 4


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
