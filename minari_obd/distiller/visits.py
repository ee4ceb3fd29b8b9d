"""Visits: the states that students of the present pairs go to, gathered while the pairs are distilled."""

from collections.abc import Sequence

import torch
from torch import Tensor

from minari_obd.distiller.checkpoint import OuterState
from minari_obd.distiller.data import OuterData
from minari_obd.distiller.step import draw_students
from minari_obd.settings.protocols import StudentProtocol
from minari_obd.students.networks import make_student
from minari_obd.students.training import train_students
from minari_obd.support.streams import Stream

__all__ = ["gather_visits", "visits_of"]

_STUDENTS = 4


def gather_visits(state: OuterState, work: Sequence[OuterData], protocol: StudentProtocol) -> None:
    """Clone students from the present pairs, follow them, and keep where they went, if it is time to do so.

    The kept states are part of ``state``: the last ``rounds`` of them, shape (R, V, S), and the wanted actions.
    """
    if work[0].visited is None or state.step % work[0].visited.settings.interval:
        return
    found = [_follow(state, each, run, protocol) for run, each in enumerate(work)]
    new = [torch.stack(parts) for parts in zip(*found, strict=True)]
    most = work[0].visited.settings.rounds * new[0].shape[1]
    if state.visits:
        new = [torch.cat([before, now], dim=1)[:, -most:] for before, now in zip(state.visits, new, strict=True)]
    state.visits = new


def visits_of(state: OuterState, run: int) -> list[Tensor]:
    """Return the states that one run's students visited and the wanted actions; nothing if there are none."""
    return [each[run] for each in state.visits]


def _follow(state: OuterState, data: OuterData, run: int, protocol: StudentProtocol) -> tuple[Tensor, Tensor]:
    pairs = [p[run] for p in state.tensors.pairs]
    student, key = make_student(protocol), (Stream.VISITORS, state.step)
    sizes = pairs[0].shape[1], pairs[1].shape[1]
    initial = draw_students(protocol, sizes, _STUDENTS, [data.seed], key, pairs[0].device)
    with torch.no_grad():
        trained = train_students(student, initial, pairs[0], pairs[1], protocol)
    assert data.visited is not None
    return data.visited.visit(lambda states: student.apply(trained, states), _STUDENTS, data.seed, state.step)
