r"""The gradient of one inner step and its reverse, from which the inner loop's unroll is built.

The reverse of g = grad_theta L(theta, X, Y, w) in a direction V is the derivative of <g, V> with respect to theta and
to the pairs. Since g is itself a gradient, these are the derivatives R{.} of grad_theta L, grad_X L and grad_Y L as
theta moves along V. They take one forward and one backward pass (Pearlmutter 1994, Fast Exact Multiplication by the
Hessian).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from minari_obd.students.networks import Student

__all__ = ["AutogradGradient", "Pairs", "StepGradient", "weighted_loss"]


@dataclass
class Pairs:
    """Training pairs of one step, or the derivatives of an outer loss with respect to them."""

    states: Tensor
    """Shape (B, S), or (E, B, S) if every student has its own."""
    actions: Tensor
    """Shape (B, A) or (E, B, A)."""
    weights: Tensor | None
    """Weight of each pair in the loss, shape (B,) or (E, B); 1 if not given."""

    def tensors(self) -> list[Tensor]:
        """Return the tensors that are given."""
        return [tensor for tensor in (self.states, self.actions, self.weights) if tensor is not None]

    def map(self, function: Callable[[Tensor], Tensor]) -> "Pairs":
        """Apply a function to each tensor."""
        weights = None if self.weights is None else function(self.weights)
        return Pairs(function(self.states), function(self.actions), weights)

    def __getitem__(self, rows: Tensor) -> "Pairs":
        """Return the pairs in ``rows``."""
        weights = None if self.weights is None else self.weights[..., rows]
        return Pairs(self.states[..., rows, :], self.actions[..., rows, :], weights)

    def add(self, other: "Pairs", rows: Tensor | None) -> None:
        """Add derivatives with respect to the pairs in ``rows``. A row may occur more than once."""
        for mine, theirs, dimension in ((self.states, other.states, -2), (self.actions, other.actions, -2)):
            mine.add_(theirs) if rows is None else mine.index_add_(dimension, rows, theirs)
        if self.weights is not None and other.weights is not None:
            self.weights.add_(other.weights) if rows is None else self.weights.index_add_(-1, rows, other.weights)


class StepGradient(Protocol):
    """The gradient of a student's training loss, and its reverse."""

    def gradient(self, parameters: Sequence[Tensor], pairs: Pairs, keep: bool) -> tuple[list[Tensor], Any]:
        """Return the gradient of each of E students' own loss and, with ``keep``, what the reverse needs."""
        ...

    def descend(self, parameters: Sequence[Tensor], pairs: Pairs, keep: bool, rate: float) -> tuple[list[Tensor], Any]:
        """Do the same, but return ``parameters - rate * gradient`` instead of the gradient."""
        ...

    def reverse(self, kept: Any, direction: Sequence[Tensor], adjoint: Sequence[Tensor], scale: float = 1.0) -> Pairs:
        """Add ``scale`` d<gradient, direction>/d parameters to ``adjoint`` in place, and return the pairs' derivatives.

        ``direction`` may be ``adjoint`` itself.
        """
        ...

    def bytes_kept(self, parameters: Sequence[Tensor], count: int) -> int:
        """Return the bytes that the reverse of one step on ``count`` pairs needs."""
        ...


def weighted_loss(errors: Tensor, weights: Tensor | None) -> Tensor:
    """Average squared errors (E, B, A) over action dimensions and weighted pairs: one loss per student, shape (E,)."""
    errors = errors.mean(dim=-1)
    return (errors if weights is None else errors * weights).mean(dim=-1)


@dataclass(frozen=True)
class AutogradGradient:
    """The gradient of any student, by torch's autograd, step by step."""

    student: Student

    def gradient(self, parameters: Sequence[Tensor], pairs: Pairs, keep: bool) -> tuple[list[Tensor], Any]:
        """See :class:`StepGradient`."""
        with torch.enable_grad():
            leaves = [p.detach().requires_grad_() for p in parameters]
            inputs = pairs.map(lambda t: t.detach().requires_grad_(keep))
            errors = (self.student.apply(leaves, inputs.states) - inputs.actions).square()
            # In a sum over students, each student's gradient is that of its own loss.
            loss = weighted_loss(errors, inputs.weights).sum()
            gradients = list(torch.autograd.grad(loss, leaves, create_graph=keep))
        return [g.detach() for g in gradients], (gradients, leaves, inputs) if keep else None

    def descend(self, parameters: Sequence[Tensor], pairs: Pairs, keep: bool, rate: float) -> tuple[list[Tensor], Any]:
        """See :class:`StepGradient`."""
        gradients, kept = self.gradient(parameters, pairs, keep)
        return [torch.sub(p, g, alpha=rate) for p, g in zip(parameters, gradients, strict=True)], kept

    def reverse(self, kept: Any, direction: Sequence[Tensor], adjoint: Sequence[Tensor], scale: float = 1.0) -> Pairs:
        """See :class:`StepGradient`."""
        gradients, leaves, inputs = kept
        wanted = [*leaves, *inputs.tensors()]
        scaled = [scale * d for d in direction]
        found = torch.autograd.grad(
            gradients, wanted, scaled, allow_unused=True, materialize_grads=True, retain_graph=True
        )
        for total, part in zip(adjoint, found[: len(leaves)], strict=True):
            total.add_(part)
        states, actions, *weights = found[len(leaves) :]
        return Pairs(states, actions, weights[0] if weights else None)

    def bytes_kept(self, parameters: Sequence[Tensor], count: int) -> int:
        """See :class:`StepGradient`. This is a guess from the layer sizes, because the network is unknown."""
        units = sum(p.shape[0] * p.shape[-1] for p in parameters)
        return sum(p.numel() * p.element_size() for p in parameters) + 8 * units * count * parameters[0].element_size()
