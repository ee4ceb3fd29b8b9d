r"""Inner optimisers: SGD with momentum, and Adam, each with its own reverse.

A step takes parameters theta_t, its memory and the gradient g_t, and gives theta_{t+1} and the next memory. Its reverse
takes the derivatives of an outer loss by theta_{t+1} and by that memory, and gives those by g_t and by the memory
before; theta_t's own is theta_{t+1}'s, plus what the gradient's reverse adds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from minari_obd.protocol import StudentProtocol

__all__ = ["SGD", "Adam", "InnerOptimiser", "optimiser_of"]

Memory = list[list[Tensor]]
Rate = float | Tensor


class InnerOptimiser(Protocol):
    """An update rule that can be reversed."""

    def start(self, parameters: Sequence[Tensor]) -> Memory:
        """Return the memory before the first step: lists of tensors like the parameters."""
        ...

    def step(
        self, t: int, parameters: Sequence[Tensor], gradients: Sequence[Tensor], memory: Memory, rate: Rate
    ) -> tuple[list[Tensor], Memory]:
        """Return the next parameters and memory; nothing is changed in place."""
        ...

    def reverse(
        self, t: int, gradients: Sequence[Tensor], after: Memory, rate: Rate, adjoint: Sequence[Tensor], carry: Memory
    ) -> tuple[list[Tensor], Memory, list[Tensor]]:
        """Reverse a step.

        Args:
            t: the step, from 0.
            gradients: g_t.
            after: the memory that the step gave.
            rate: its learning rate.
            adjoint: derivatives by theta_{t+1}.
            carry: derivatives by the memory that the step gave.

        Returns:
            Derivatives by g_t, by the memory before the step, and the update that the rate multiplied.
        """
        ...


@dataclass(frozen=True)
class SGD:
    """v_{t+1} = momentum v_t + g_t; theta_{t+1} = theta_t - lr v_{t+1} (torch's convention)."""

    momentum: float = 0.0

    def start(self, parameters: Sequence[Tensor]) -> Memory:
        """See :class:`InnerOptimiser`."""
        return [[torch.zeros_like(p) for p in parameters]] if self.momentum else []

    def step(
        self, t: int, parameters: Sequence[Tensor], gradients: Sequence[Tensor], memory: Memory, rate: Rate
    ) -> tuple[list[Tensor], Memory]:
        """See :class:`InnerOptimiser`."""
        velocity = gradients
        if memory:
            velocity = [self.momentum * v + g for v, g in zip(memory[0], gradients, strict=True)]
        moved = [_minus(p, v, rate) for p, v in zip(parameters, velocity, strict=True)]
        return moved, [list(velocity)] if memory else []

    def reverse(
        self, t: int, gradients: Sequence[Tensor], after: Memory, rate: Rate, adjoint: Sequence[Tensor], carry: Memory
    ) -> tuple[list[Tensor], Memory, list[Tensor]]:
        """See :class:`InnerOptimiser`."""
        if not self.momentum:
            return [-rate * a for a in adjoint], [], list(gradients)
        wanted = [_minus(c, a, rate) for c, a in zip(carry[0], adjoint, strict=True)]
        return wanted, [[self.momentum * w for w in wanted]], after[0]


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma & Ba 2015, arXiv 1412.6980) with its usual constants.

    m_{t+1} = b1 m_t + (1 - b1) g_t; s_{t+1} = b2 s_t + (1 - b2) g_t^2;
    theta_{t+1} = theta_t - lr c1 m_{t+1} / sqrt(c2 s_{t+1} + epsilon), with c = 1 / (1 - b^{t+1}).

    Epsilon stands inside the root, unlike in torch.optim: the root of an exact zero has no derivative.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-16

    def start(self, parameters: Sequence[Tensor]) -> Memory:
        """See :class:`InnerOptimiser`."""
        return [[torch.zeros_like(p) for p in parameters] for _ in range(2)]

    def step(
        self, t: int, parameters: Sequence[Tensor], gradients: Sequence[Tensor], memory: Memory, rate: Rate
    ) -> tuple[list[Tensor], Memory]:
        """See :class:`InnerOptimiser`."""
        first = [self.beta1 * m + (1 - self.beta1) * g for m, g in zip(memory[0], gradients, strict=True)]
        second = [self.beta2 * s + (1 - self.beta2) * g * g for s, g in zip(memory[1], gradients, strict=True)]
        updates = [self._update(t, m, s) for m, s in zip(first, second, strict=True)]
        return [_minus(p, u, rate) for p, u in zip(parameters, updates, strict=True)], [first, second]

    def reverse(
        self, t: int, gradients: Sequence[Tensor], after: Memory, rate: Rate, adjoint: Sequence[Tensor], carry: Memory
    ) -> tuple[list[Tensor], Memory, list[Tensor]]:
        """See :class:`InnerOptimiser`."""
        correction = 1.0 / (1.0 - self.beta2 ** (t + 1))
        wanted, before, updates = [], [[], []], []
        for g, m, s, a, by_first, by_second in zip(gradients, *after, adjoint, *carry, strict=True):
            update = self._update(t, m, s)
            by_update = -rate * a
            root = (correction * s + self.epsilon).sqrt()
            by_m = by_first + by_update / (root * (1.0 - self.beta1 ** (t + 1)))
            by_s = by_second - by_update * update * (0.5 * correction) / (root * root)
            wanted.append((1 - self.beta1) * by_m + (2 * (1 - self.beta2)) * g * by_s)
            before[0].append(self.beta1 * by_m)
            before[1].append(self.beta2 * by_s)
            updates.append(update)
        return wanted, before, updates

    def _update(self, t: int, first: Tensor, second: Tensor) -> Tensor:
        root = (second / (1.0 - self.beta2 ** (t + 1)) + self.epsilon).sqrt()
        return first / (1.0 - self.beta1 ** (t + 1)) / root


def optimiser_of(protocol: StudentProtocol) -> InnerOptimiser:
    """Return the optimiser that a protocol names."""
    return Adam() if protocol.optimiser == "adam" else SGD(protocol.momentum)


def _minus(tensor: Tensor, update: Tensor, rate: Rate) -> Tensor:
    """Return tensor - rate * update."""
    return tensor - rate * update if isinstance(rate, Tensor) else torch.sub(tensor, update, alpha=rate)
