"""The inner loop: behavioural cloning from pairs, as a differentiable function of the pairs."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from minari_obd.recipe import StudentProtocol
from minari_obd.students import Student

__all__ = ["mean_squared_error", "train_students"]


def mean_squared_error(student: Student, parameters: Sequence[Tensor], states: Tensor, actions: Tensor) -> Tensor:
    """Squared action error of E students, averaged over action dimensions and nothing else: shape (E, B)."""
    return (student.apply(parameters, states) - actions).square().mean(dim=-1)


def train_students(
    student: Student,
    parameters: Sequence[Tensor],
    states: Tensor,
    actions: Tensor,
    protocol: StudentProtocol,
    *,
    differentiable: bool = False,
    batches: Iterator[Tensor] | None = None,
    after_step: Callable[[], object] | None = None,
) -> list[Tensor]:
    """Train E students on the same pairs by gradient descent on the mean squared action error.

    theta_{t+1} = theta_t - lr * grad L(theta_t), with L averaged over pairs and action dimensions, for
    ``protocol.steps`` steps. With ``differentiable`` the result carries the graph of the whole run, so that
    ordinary autograd gives the exact meta-gradient with respect to ``states`` and ``actions``.

    Args:
        student: the network.
        parameters: initial parameters of E students.
        states: normalised states of the pairs, shape (M, S).
        actions: their actions on [-1, 1], shape (M, A).
        protocol: steps, optimiser and its settings.
        differentiable: keep the graph.
        batches: row indices for each step; all rows if not given.
        after_step: called after each step, for a progress bar.

    Returns:
        The trained parameters, in the order of ``parameters``.
    """
    current = [p if p.requires_grad else p.detach().requires_grad_() for p in parameters]
    update = _OPTIMISERS[protocol.optimiser](current, protocol)
    for step in range(protocol.steps):
        rows = None if batches is None else next(batches)
        batch_states, batch_actions = (states, actions) if rows is None else (states[rows], actions[rows])
        # A sum over students of means over pairs: each student's gradient is that of its own loss.
        loss = mean_squared_error(student, current, batch_states, batch_actions).mean(dim=-1).sum()
        gradients = torch.autograd.grad(loss, current, create_graph=differentiable)
        current = update(step, current, gradients)
        if not differentiable:
            current = [p.detach().requires_grad_() for p in current]
        if after_step is not None:
            after_step()
    return current if differentiable else [p.detach() for p in current]


class _SGD:
    """v <- momentum v + g; theta <- theta - lr v (torch's convention)."""

    def __init__(self, parameters: Sequence[Tensor], protocol: StudentProtocol) -> None:
        self.protocol = protocol
        self.velocity: list[Tensor] | None = None

    def __call__(self, step: int, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
        if self.protocol.momentum and self.velocity is not None:
            gradients = [self.protocol.momentum * v + g for v, g in zip(self.velocity, gradients, strict=True)]
        self.velocity = list(gradients)
        return [p - self.protocol.learning_rate * g for p, g in zip(parameters, gradients, strict=True)]


class _Adam:
    """Adam (Kingma & Ba 2015, arXiv 1412.6980) with its usual constants, written out so that it can be differentiated.

    Epsilon stands inside the root, unlike in torch.optim: the root of an exact zero has no derivative.
    """

    def __init__(self, parameters: Sequence[Tensor], protocol: StudentProtocol) -> None:
        self.protocol = protocol
        self.first = [torch.zeros_like(p) for p in parameters]
        self.second = [torch.zeros_like(p) for p in parameters]

    def __call__(self, step: int, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
        beta1, beta2, epsilon = 0.9, 0.999, 1e-16
        self.first = [beta1 * m + (1 - beta1) * g for m, g in zip(self.first, gradients, strict=True)]
        self.second = [beta2 * v + (1 - beta2) * g * g for v, g in zip(self.second, gradients, strict=True)]
        rate = self.protocol.learning_rate / (1 - beta1 ** (step + 1))
        correction = 1.0 / (1 - beta2 ** (step + 1))
        return [
            p - rate * m / (v * correction + epsilon).sqrt()
            for p, m, v in zip(parameters, self.first, self.second, strict=True)
        ]


_OPTIMISERS = {"sgd": _SGD, "adam": _Adam}
