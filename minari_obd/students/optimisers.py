r"""Inner optimisers: SGD with momentum, Adam and AdamW, each with its reverse.

A step takes the parameters theta_t, its memory and the gradient g_t, and returns theta_{t+1} and the next memory. Its
reverse takes the derivatives of an outer loss by theta_{t+1} and by the next memory, and returns those by g_t and by
the previous memory. The derivative by theta_t is that by theta_{t+1}, shrunk by any decay, plus what the gradient's
reverse adds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from minari_obd.settings.protocols import StudentProtocol

__all__ = ["SGD", "Adam", "AdamW", "InnerOptimiser", "optimiser_of"]

Memory = list[list[Tensor]]


Rate = float | Tensor


class InnerOptimiser(Protocol):
    """An update rule that can be reversed."""

    @property
    def decay(self) -> float:
        """Weight decay: besides its update, each step multiplies the parameters by 1 - lr decay."""
        ...

    def start(self, parameters: Sequence[Tensor]) -> Memory:
        """Return the memory before the first step: lists of tensors shaped like the parameters."""
        ...

    def step(
        self, t: int, parameters: Sequence[Tensor], gradients: Sequence[Tensor], memory: Memory, rate: Rate
    ) -> tuple[list[Tensor], Memory]:
        """Return the next parameters and memory. Nothing is changed in place."""
        ...

    def reverse(
        self, t: int, gradients: Sequence[Tensor], after: Memory, rate: Rate, adjoint: Sequence[Tensor], carry: Memory
    ) -> tuple[list[Tensor], Memory, list[Tensor]]:
        """Reverse a step.

        Args:
            t: the step, from 0.
            gradients: g_t.
            after: the memory after the step.
            rate: the step's learning rate.
            adjoint: derivatives by theta_{t+1}.
            carry: derivatives by the memory after the step.

        Returns:
            Derivatives by g_t, derivatives by the memory before the step and, if the rate is a tensor, the update that
            it multiplied.
        """
        ...


@dataclass(frozen=True)
class SGD:
    """v_{t+1} = momentum v_t + g_t; theta_{t+1} = theta_t - lr v_{t+1} (torch's convention)."""

    momentum: float = 0.0
    decay: float = 0.0

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

    Unlike in torch.optim, epsilon is inside the root, because the root has no derivative at exactly zero.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-16
    decay: float = 0.0

    def start(self, parameters: Sequence[Tensor]) -> Memory:
        """See :class:`InnerOptimiser`."""
        return [[torch.zeros_like(p) for p in parameters] for _ in range(2)]

    def step(
        self, t: int, parameters: Sequence[Tensor], gradients: Sequence[Tensor], memory: Memory, rate: Rate
    ) -> tuple[list[Tensor], Memory]:
        """See :class:`InnerOptimiser`."""
        first, second, moved = [], [], []
        for p, g, m, v in zip(parameters, gradients, *memory, strict=True):
            first.append(torch.lerp(m, g, 1 - self.beta1))
            second.append((self.beta2 * v).addcmul_(g, g, value=1 - self.beta2))
            update = first[-1] / self._root(t, second[-1])
            moved.append(_minus(p, update, rate / (1.0 - self.beta1 ** (t + 1))))
        return moved, [first, second]

    def reverse(
        self, t: int, gradients: Sequence[Tensor], after: Memory, rate: Rate, adjoint: Sequence[Tensor], carry: Memory
    ) -> tuple[list[Tensor], Memory, list[Tensor]]:
        """See :class:`InnerOptimiser`."""
        first, second = 1.0 / (1.0 - self.beta1 ** (t + 1)), 1.0 / (1.0 - self.beta2 ** (t + 1))
        wanted, before, updates = [], [[], []], []
        for g, m, v, a, by_first, by_second in zip(gradients, *after, adjoint, *carry, strict=True):
            root = self._root(t, v)
            if isinstance(rate, Tensor):
                updates.append(first * m / root)
            scaled = rate * a  # theta moves by -scaled first m / root
            by_m = torch.addcdiv(by_first, scaled, root, value=-first)
            by_v = torch.addcdiv(by_second, scaled.mul_(m), root * root * root, value=0.5 * first * second)
            wanted.append(((1 - self.beta1) * by_m).addcmul_(g, by_v, value=2 * (1 - self.beta2)))
            before[0].append(by_m.mul_(self.beta1))
            before[1].append(by_v.mul_(self.beta2))
        return wanted, before, updates

    def _root(self, t: int, second: Tensor) -> Tensor:
        return (second / (1.0 - self.beta2 ** (t + 1))).add_(self.epsilon).sqrt_()


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv 1711.05101), by default torch's 0.01.

    theta_{t+1} = (1 - lr decay) theta_t - lr c1 m_{t+1} / sqrt(c2 s_{t+1} + epsilon).
    """

    decay: float = 0.01

    def start(self, parameters: Sequence[Tensor]) -> Memory:
        """See :class:`InnerOptimiser`. The memory also keeps each step's parameters, for the derivative by its rate."""
        return [*super().start(parameters), list(parameters)]

    def step(
        self, t: int, parameters: Sequence[Tensor], gradients: Sequence[Tensor], memory: Memory, rate: Rate
    ) -> tuple[list[Tensor], Memory]:
        """See :class:`InnerOptimiser`."""
        shrunk = [p * (1.0 - rate * self.decay) for p in parameters]
        moved, moments = super().step(t, shrunk, gradients, memory[:2], rate)
        return moved, [*moments, list(parameters)]

    def reverse(
        self, t: int, gradients: Sequence[Tensor], after: Memory, rate: Rate, adjoint: Sequence[Tensor], carry: Memory
    ) -> tuple[list[Tensor], Memory, list[Tensor]]:
        """See :class:`InnerOptimiser`."""
        wanted, before, updates = super().reverse(t, gradients, after[:2], rate, adjoint, carry[:2])
        if updates:
            updates = [u + self.decay * p for u, p in zip(updates, after[2], strict=True)]
        return wanted, [*before, carry[2]], updates


_ADAPTIVE = {"adam": Adam, "adamw": AdamW}


def optimiser_of(protocol: StudentProtocol) -> InnerOptimiser:
    """Return the optimiser that a protocol names."""
    return _ADAPTIVE[protocol.optimiser]() if protocol.optimiser in _ADAPTIVE else SGD(protocol.momentum)


def _minus(tensor: Tensor, update: Tensor, rate: Rate) -> Tensor:
    """Return tensor - rate * update."""
    return tensor - rate * update if isinstance(rate, Tensor) else torch.sub(tensor, update, alpha=rate)
