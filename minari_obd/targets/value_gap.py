"""The value gap: what a student's action costs, as the teacher's critics see it."""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from minari_obd.errors import SettingError
from minari_obd.sources.data import OfflineData
from minari_obd.targets.on_policy import OnPolicyWeighting
from minari_obd.teachers.calibration import Calibration
from minari_obd.teachers.frozen import FrozenTeacher
from minari_obd.teachers.networks import Layers, apply_layers
from minari_obd.teachers.protocol import Teacher, bounded_actions

__all__ = ["LEAST_AGREEMENT", "ValueGap", "ValueGapDistillation", "agreement", "check_critics", "find_fault"]

LEAST_AGREEMENT = 0.4
"""Least :func:`agreement` of critics that are trusted. Those of 0.58 made students better, those of 0.20 did not."""

_LOOKED_AT = 20_000


@dataclass(frozen=True, eq=False)
class ValueGap:
    """max(0, q(s, pi*(s)) - q(s, a)): how much less the student's action is worth than the teacher's.

    By the performance difference lemma (2410.22728, Theorem 2) the student's loss of return is the mean of
    q(s, pi*(s)) - q(s, pi(s)) over the student's states, divided by 1 - gamma. A squared action error counts all errors
    alike; the gap counts those that cost something. It is clipped at zero, so students gain nothing where a critic
    values other actions than the teacher's more highly, which is often the critic's error.
    """

    critics: list[Layers]
    """Networks of the data's normalised states and of actions on [-1, 1], or with a value for each discrete action."""
    activation: str
    value_from: str
    """Of the critics: ``mean`` or ``min``."""
    is_discrete: bool = False
    """Whether actions are probabilities p, given as 2 p - 1, so that q(s, p) = sum_a p_a q(s, a)."""

    @classmethod
    def of(cls, teacher: Teacher | None, data: OfflineData) -> Self:
        """Take a teacher's critics. Their normaliser and action bounds, if not the data's, go into the first weights.

        Raises:
            SettingError: as :func:`check_critics`.
        """
        teacher = check_critics(teacher)
        ours, theirs = (_affine(each) for each in (data, teacher))
        factor, offset = ours[0] / theirs[0], (ours[1] - theirs[1]) / theirs[0]
        if teacher.is_discrete:
            factor, offset = (each[: len(data.normaliser.mean)] for each in (factor, offset))
        critics = [
            [(weight * factor, bias + weight @ offset, *norm), *rest]
            for (weight, bias, *norm), *rest in teacher.critics
        ]
        return cls(critics, teacher.activation, teacher.value_from, teacher.is_discrete)

    def __call__(self, states: Tensor, actions: Tensor, wanted: Tensor) -> Tensor:
        """Return the gaps of E students, shape (E, B).

        Args:
            states: normalised, shape (B, S) or (E, B, S).
            actions: the students', on [-1, 1], shape (E, B, A); the gaps are differentiable by them.
            wanted: the teacher's, on [-1, 1], shape (B, A) or (E, B, A).
        """
        with torch.no_grad():
            best = self.value(states, wanted)
        return torch.relu(best - self.value(states, actions))

    def value(self, states: Tensor, actions: Tensor) -> Tensor:
        """Return q(s, a), shape (B,) or (E, B)."""
        states = states.expand(*actions.shape[:-1], -1)
        inputs = states if self.is_discrete else torch.cat([states, actions], dim=-1)
        values = torch.stack([apply_layers(critic, inputs, self.activation) for critic in self.critics])
        values = values.mean(0) if self.value_from == "mean" else values.amin(0)
        return (0.5 * (actions + 1.0) * values).sum(-1) if self.is_discrete else values[..., 0]

    def to(self, device: torch.device) -> "ValueGap":
        """Return the same on a device."""
        critics = [[tuple(part.to(device) for part in layer) for layer in critic] for critic in self.critics]
        return ValueGap(critics, self.activation, self.value_from, self.is_discrete)


@dataclass(frozen=True)
class ValueGapDistillation(OnPolicyWeighting):
    """VGD, this package's own: the value gap, in part at the states that students themselves visit.

    L = E_s [ w(s) ((1 - l) ‖pi(s) - pi*(s)‖² + l c max(0, q(s, pi*(s)) - q(s, pi(s)))) ], where three quarters of the
    states are the data's, with the weights of OPW, and the rest are visited by students in a dynamics ensemble, with
    weight 1.
    """

    is_by_value: ClassVar[bool] = True
    student_share: ClassVar[float] = 0.25


def find_fault(teacher: FrozenTeacher, data: OfflineData, calibration: Calibration) -> str | None:
    """Say, as a clause, why a teacher's critics are not to be trusted with the gap; None if nothing speaks against it.

    The gap needs differences between actions, which good values alone do not promise: the critics of CQL and Cal-QL
    are pushed down away from the data by design. See :func:`agreement`.
    """
    if calibration.problem is not None:
        return calibration.problem
    found = agreement(teacher, data)
    if found < LEAST_AGREEMENT:
        return (
            "the differences that they see between actions agree too little with what followed in the data "
            f"(rank correlation {found:.2f}; {LEAST_AGREEMENT:g} is needed)"
        )
    return None


def agreement(teacher: FrozenTeacher, data: OfflineData, gamma: float = 0.99) -> float:
    """Rank correlation between what critics say of the data's actions and what the data says, from -1 to 1.

    Both are differences from the teacher's own action: q_1(s, a) - q_1(s, pi*(s)), and one step later r + gamma q_2(s',
    pi*(s')) - q_2(s, pi*(s)), where q_1 is the first critic and q_2 the last: with the same critic on both sides, its
    errors would agree with themselves. Of more than 20,000 steps, every n-th is taken. 0 if critics are flat, or if no
    step has a known successor.
    """
    rows = np.flatnonzero(~data.truncations[:-1])  # the next row is the successor, or does not matter
    rows = rows[:: 1 + len(rows) // _LOOKED_AT]
    if len(rows) < 2:
        return 0.0
    goes_on = ~data.terminations[rows]
    now, later = data.observations[rows], data.observations[rows + 1]
    best, best_later = (bounded_actions(teacher, each, data.action_low, data.action_high) for each in (now, later))
    first, last = (replace(teacher, critics=[teacher.critics[i]]) for i in (0, -1))
    said = first.value(now, data.actions[rows]) - first.value(now, best)
    followed = data.rewards[rows] + gamma * goes_on * last.value(later, best_later) - last.value(now, best)
    if np.ptp(said) == 0 or np.ptp(followed) == 0 or not np.isfinite([said, followed]).all():
        return 0.0
    return float(np.asarray(spearmanr(said, followed))[0])


def check_critics(teacher: Teacher | None) -> FrozenTeacher:
    """Return the teacher if its values can be differentiated.

    Raises:
        SettingError: there is no teacher, or its values are not networks of this package.
    """
    if isinstance(teacher, FrozenTeacher):
        return teacher
    what = "this method has no teacher" if teacher is None else f"{type(teacher).__name__} has none"
    raise SettingError(
        f"distillation.objective 'value_gap' needs a teacher's critics as networks, but {what}; use objective "
        "'squared', or a teacher that `train_teacher` or `load_teacher` returns."
    )


def _affine(scaled: OfflineData | FrozenTeacher) -> tuple[Tensor, Tensor]:
    """Scales and offsets by which the inputs of a network, states and actions, become raw ones."""
    low, high = (torch.tensor(each, dtype=torch.float32) for each in (scaled.action_low, scaled.action_high))
    mean, scale = (torch.tensor(each) for each in (scaled.normaliser.mean, scaled.normaliser.scale))
    return torch.cat([scale, 0.5 * (high - low)]), torch.cat([mean, 0.5 * (high + low)])
