"""The inner loop as anybody would write it: autograd with create_graph. The engine is tested and timed against it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from minari_obd.settings.protocols import StudentProtocol
from minari_obd.students.networks import Student


def train_plainly(
    student: Student,
    parameters: Sequence[Tensor],
    states: Tensor,
    actions: Tensor,
    protocol: StudentProtocol,
    *,
    weights: Tensor | None = None,
    learning_rates: Tensor | None = None,
    window: int | None = None,
    rows: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """Train E students; the result carries the graph of all steps, or of the last ``window``."""
    current = [p if p.requires_grad else p.detach().requires_grad_() for p in parameters]
    memory = [[torch.zeros_like(p) for p in parameters] for _ in range(2)]
    for t in range(protocol.steps):
        if window is not None and t == protocol.steps - window:
            current = [p.detach().requires_grad_() for p in current]
            memory = [[m.detach() for m in part] for part in memory]
        x, y, w = states, actions, weights
        if rows is not None:
            x, y, w = states[rows[t]], actions[rows[t]], None if weights is None else weights[..., rows[t]]
        errors = (student.apply(current, x) - y).square().mean(dim=-1)
        loss = (errors if w is None else errors * w).mean(dim=-1).sum()
        gradients = torch.autograd.grad(loss, current, create_graph=True)
        rate = protocol.learning_rate
        if learning_rates is not None:
            rate = learning_rates.expand(protocol.steps)[t]
        if protocol.optimiser != "sgd":
            first = [0.9 * m + 0.1 * g for m, g in zip(memory[0], gradients, strict=True)]
            second = [0.999 * s + 0.001 * g * g for s, g in zip(memory[1], gradients, strict=True)]
            memory = [first, second]
            updates = [
                m / (1 - 0.9 ** (t + 1)) / (s / (1 - 0.999 ** (t + 1)) + 1e-16).sqrt()
                for m, s in zip(first, second, strict=True)
            ]
            if protocol.optimiser == "adamw":
                updates = [u + 0.01 * p for u, p in zip(updates, current, strict=True)]
        else:
            updates = [protocol.momentum * v + g for v, g in zip(memory[0], gradients, strict=True)]
            updates = list(gradients) if not protocol.momentum else updates
            memory[0] = updates
        current = [p - rate * u for p, u in zip(current, updates, strict=True)]
    return current
