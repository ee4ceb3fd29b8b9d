"""One outer step: the pairs' gradient through cloned students, clipped, and a move along it; no waiting for a GPU."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from minari_obd.settings.protocols import SOFTMAX, StudentProtocol
from minari_obd.settings.sections import DistillationRecipe
from minari_obd.students.networks import draws_on_any_device, make_student, student_generators
from minari_obd.students.training import squared_error, train_students
from minari_obd.targets.targets import ActionCost

__all__ = [
    "OuterPlan",
    "OuterTensors",
    "StepInputs",
    "cloned_losses",
    "cloned_terms",
    "draw_students",
    "joined",
    "jointly",
    "outer_step",
]

_EXPLODED = 100.0
"""A gradient that is this many times longer than usual is not used."""
_LEAST = 1e-12
"""Smallest loss that has a logarithm."""


@dataclass
class OuterTensors:
    """What an outer step changes, in place, for R runs at once: every tensor has R rows."""

    pairs: list[Tensor]
    """Normalised states (R, M, S), and actions (R, M, A)."""
    first: list[Tensor]
    """First moments of the outer optimiser."""
    second: list[Tensor]
    """Second moments."""
    average: list[Tensor]
    """Running average of the pairs."""
    training: Tensor
    """Loss of the last step, shape (R,)."""
    gradient_norm: Tensor
    """Norm of the last gradient before clipping, shape (R,)."""
    usual_norm: Tensor
    """Its running average; NaN before the first step, shape (R,)."""
    skipped: Tensor
    """Steps skipped so far, shape (R,)."""
    skipped_in_a_row: Tensor
    """Of these, the last ones without a break, shape (R,)."""
    most_in_a_row: Tensor
    """The longest row so far, shape (R,)."""
    cost_scale: Tensor
    """What makes the cost as large as the squared error at the start, shape (R,); 0 where there is no cost."""

    @classmethod
    def start(cls, states: Tensor, actions: Tensor) -> "OuterTensors":
        """Begin at given pairs."""
        pairs = [states, actions]
        zeros = torch.zeros(len(states), device=states.device)
        return cls(
            pairs=[p.clone() for p in pairs],
            first=[torch.zeros_like(p) for p in pairs],
            second=[torch.zeros_like(p) for p in pairs],
            average=[p.clone() for p in pairs],
            training=zeros + math.nan,
            gradient_norm=zeros + math.nan,
            usual_norm=zeros + math.nan,
            skipped=zeros.clone(),
            skipped_in_a_row=zeros.clone(),
            most_in_a_row=zeros.clone(),
            cost_scale=zeros.clone(),
        )

    def named(self) -> dict[str, Tensor]:
        """Return every tensor by name, for checkpoints."""
        found: dict[str, Tensor] = {}
        for name, value in vars(self).items():
            found |= {f"{name}/{i}": each for i, each in enumerate(value)} if isinstance(value, list) else {name: value}
        return found

    def restart(self, run: int, pairs: Sequence[Tensor]) -> None:
        """Replace one run's pairs, and forget where they were moving."""
        for mine, given, average, first in zip(self.pairs, pairs, self.average, self.first, strict=True):
            mine[run] = given
            average[run] = given
            first[run] = 0.0


@dataclass
class StepInputs:
    """What differs from step to step."""

    batch: list[Tensor]
    """States (R, B, S), wanted actions (R, B, A) and weights (R, B)."""
    initial: list[Tensor]
    """Initial parameters of R x E students."""
    rates: Tensor
    """Outer learning rate of each run, shape (R,)."""
    corrections: Tensor
    """Adam's corrections of its first and second moments, shape (2,)."""

    def all(self) -> list[Tensor]:
        """Return every tensor, always in the same order."""
        return [*self.batch, *self.initial, self.rates, self.corrections]

    def clone(self) -> "StepInputs":
        """Return a copy that shares nothing."""
        batch, initial = [t.clone() for t in self.batch], [t.clone() for t in self.initial]
        return StepInputs(batch, initial, self.rates.clone(), self.corrections.clone())


@dataclass(frozen=True)
class OuterPlan:
    """What is the same for many steps, and shapes the computation."""

    settings: DistillationRecipe
    protocol: StudentProtocol
    window: int | None = None
    """Last inner steps that are differentiated through."""
    products: torch.dtype | None = None
    cost: ActionCost | None = None
    """What students' actions cost beside their squared error."""


def draw_students(
    protocol: StudentProtocol,
    sizes: tuple[int, int],
    count: int,
    seeds: Sequence[int],
    key: Sequence[int],
    device: torch.device,
) -> list[Tensor]:
    """Draw the initial parameters of ``count`` students for each run, one run after the other.

    Another kind of device draws other students from the same seeds.
    """
    student = make_student(protocol)
    where = device if draws_on_any_device(student) else "cpu"
    generators = [g for seed in seeds for g in student_generators(count, seed, *key, device=where)]
    return [p.to(device, non_blocking=True) for p in student.initialise(*sizes, generators)]


def cloned_losses(
    pairs: Sequence[Tensor],
    batch: Sequence[Tensor],
    initial: Sequence[Tensor],
    plan: OuterPlan,
    *,
    differentiable: bool,
    cost_scale: Tensor | None = None,
) -> Tensor:
    """Weighted error of students cloned from the pairs, averaged over students: shape (R,).

    It is the squared action error or, where the plan has a cost, (1 - l) times it and l times the scaled cost. Where
    the first pairs make sets of their own, it is that of all these sets together.
    """
    found = []
    for size in (*plan.settings.nested, pairs[0].shape[1]):
        first = [each[:, :size] for each in pairs]
        squared, cost = cloned_terms(first, batch, initial, plan, differentiable=differentiable)
        found.append(squared if cost_scale is None else joined(squared, cost, cost_scale, plan.settings.gap_share))
    return jointly(found)


def jointly(losses: Sequence[Tensor]) -> Tensor:
    """Return the geometric mean of the losses of several sets, so that each counts by the ratio it falls by."""
    return losses[0] if len(losses) == 1 else torch.stack(list(losses)).clamp(min=_LEAST).log().mean(dim=0).exp()


def joined(squared: Tensor, cost: Tensor | None, scale: Tensor | float, share: float) -> Tensor:
    """Return what a student is judged by: its squared error or, where errors have a cost, that in a share."""
    return squared if cost is None else (1.0 - share) * squared + share * scale * cost


def cloned_terms(
    pairs: Sequence[Tensor],
    batch: Sequence[Tensor],
    initial: Sequence[Tensor],
    plan: OuterPlan,
    *,
    differentiable: bool,
) -> tuple[Tensor, Tensor | None]:
    """Return the weighted squared action error of students cloned from the pairs, and their cost, if any: (R,) each."""
    runs, count = len(pairs[0]), len(initial[0]) // len(pairs[0])
    student = make_student(plan.protocol)
    shared = [_shared(tensor, runs, count) for tensor in (*pairs, *batch)]
    trained = train_students(
        student,
        initial,
        shared[0],
        shared[1],
        plan.protocol,
        differentiable=differentiable,
        window=plan.window,
        products=plan.products,
    )
    states, wanted, weights = shared[2:]
    actions = student.apply(trained, states)
    squared = (weights * squared_error(actions, wanted)).reshape(runs, -1).mean(dim=1)
    if plan.cost is None:
        return squared, None
    return squared, (weights * plan.cost(states, actions, wanted)).reshape(runs, -1).mean(dim=1)


def outer_step(tensors: OuterTensors, inputs: StepInputs, plan: OuterPlan) -> None:
    """Move the pairs of every run by one step of the outer optimiser, and keep account.

    A gradient that is not finite, or a hundred times longer than usual, moves nothing and is counted. Nothing here
    reads a value back from the device, so that on CUDA the whole step can be captured in a graph.
    """
    settings = plan.settings
    pairs = [p.detach().clone().requires_grad_() for p in tensors.pairs]
    scale = tensors.cost_scale
    losses = cloned_losses(pairs, inputs.batch, inputs.initial, plan, differentiable=True, cost_scale=scale)
    gradients = torch.autograd.grad(losses.sum(), pairs)
    with torch.no_grad():
        norm = sum((g.square().sum(dim=(1, 2)) for g in gradients), torch.zeros_like(inputs.rates)).sqrt()
        # The average starts at the first norm, and takes in at most a multiple of itself, so that one spike cannot
        # raise it much. It knows nothing of the absolute limit: a run of long gradients is not one of exploding ones.
        usual = torch.where(tensors.usual_norm > 0, tensors.usual_norm, norm)
        most = settings.clip_to_average * usual
        limit = most.clamp(max=settings.clip)
        is_good = norm.isfinite() & (norm <= _EXPLODED * usual)
        scale = torch.where(is_good, (limit / (norm + 1e-12)).clamp(max=1.0), 0.0)
        good = is_good[:, None, None]
        for i, gradient in enumerate(gradients):
            clipped = torch.where(good, gradient, 0.0) * scale[:, None, None]
            moved = _optimise(tensors, i, clipped, good, inputs, settings)
            if i == 1 and plan.protocol.network.startswith(SOFTMAX):
                moved = 2.0 * _nearest_probabilities(0.5 * (moved + 1.0)) - 1.0
            tensors.pairs[i].copy_(torch.where(good, moved, tensors.pairs[i]))
            tensors.average[i].mul_(settings.average).add_(tensors.pairs[i], alpha=1.0 - settings.average)
        averaged = 0.9 * usual + 0.1 * torch.minimum(norm, most)
        tensors.usual_norm.copy_(torch.where(averaged.isfinite(), averaged, tensors.usual_norm))
        tensors.training.copy_(losses)
        tensors.gradient_norm.copy_(norm)
        tensors.skipped.add_(~is_good)
        tensors.skipped_in_a_row.copy_(torch.where(is_good, 0.0, tensors.skipped_in_a_row + 1.0))
        tensors.most_in_a_row.copy_(torch.maximum(tensors.most_in_a_row, tensors.skipped_in_a_row))


def _nearest_probabilities(values: Tensor) -> Tensor:
    """Return the probabilities nearest to values (..., n): max(v - t, 0) with the t that makes their sum 1.

    Sorted downwards, the first k values stay above zero (Duchi et al. 2008, Efficient Projections onto the l1-Ball).
    """
    ordered = values.sort(dim=-1, descending=True).values
    counts = torch.arange(1, values.shape[-1] + 1, device=values.device)
    shifts = (ordered.cumsum(-1) - 1.0) / counts
    last = (ordered > shifts).sum(-1, keepdim=True) - 1
    return (values - shifts.gather(-1, last)).clamp(min=0.0)


def _optimise(
    tensors: OuterTensors, i: int, gradient: Tensor, good: Tensor, inputs: StepInputs, settings: DistillationRecipe
) -> Tensor:
    """Update the moments of ``pairs[i]``, where its gradient is good, and return where the pairs go."""
    first, second = tensors.first[i], tensors.second[i]
    rates = inputs.rates[:, None, None]
    if settings.optimiser == "sgd":
        first.copy_(torch.where(good, 0.9 * first + gradient, first))
        return tensors.pairs[i] - rates * first
    first.copy_(torch.where(good, 0.9 * first + 0.1 * gradient, first))
    second.copy_(torch.where(good, 0.999 * second + 0.001 * gradient * gradient, second))
    step = (first * inputs.corrections[0]) / ((second * inputs.corrections[1]).sqrt() + 1e-8)
    return tensors.pairs[i] - rates * step


def _shared(tensor: Tensor, runs: int, count: int) -> Tensor:
    """Give every student its run's rows; students of a single run share them."""
    if runs == 1:
        return tensor[0]
    return tensor if count == 1 else tensor.repeat_interleave(count, dim=0)
