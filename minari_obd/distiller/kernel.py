"""Kernel start: pairs that teach infinitely wide students, whose cloning has a closed form."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from minari_obd.distiller.data import OuterData
from minari_obd.distiller.step import joined, jointly
from minari_obd.settings.protocols import SOFTMAX, StudentProtocol
from minari_obd.settings.sections import DistillationRecipe
from minari_obd.students.training import squared_error
from minari_obd.support.progress import progress_bar
from minari_obd.support.streams import Stream

__all__ = ["Kernel", "KernelStart", "regression", "student_kernel"]

_RATE = 0.01
_RIDGES = 1e-4, 0.03
"""Of the kernel's mean diagonal. The larger, the shorter the cloning."""
_BIASES = 0.02, 1.0
"""Share of the biases in a kernel. Without them, an action at the mean state could not be learned."""
_FURTHEST = 3.0
"""Largest output before tanh, which changes by less than 0.005 beyond it."""
_CLOSEST = 1e-5
_SHOWN_EVERY = 50


@dataclass(frozen=True)
class Kernel:
    """What an infinitely wide student is."""

    depth: int
    """Hidden layers."""
    bias: float
    """Share of the biases, beta."""
    ridge: float
    """Of the regression, as a share of the kernel's mean diagonal."""
    is_tangent: bool = True
    """Whether all layers learn; only the last one otherwise."""

    @classmethod
    def draw(cls, most: int, seed: int, step: int) -> Self:
        """Draw one of up to ``most`` hidden layers."""
        rng = Stream.KERNELS.generator(seed, step)
        bias, ridge = (float(np.exp(rng.uniform(*np.log(each)))) for each in (_BIASES, _RIDGES))
        return cls(int(rng.integers(1, most + 1)), bias, ridge, bool(rng.random() < 0.5))


def student_kernel(first: Tensor, second: Tensor, student: Kernel) -> Tensor:
    r"""Kernel of infinitely wide ReLU networks with zero biases at the start, like a wide MLP student.

    With $c_l = Σ_l / n$, $n = |x| |x'| / S$ and $θ_l = \arccos c_l$ (Jacot et al. 2018, 1806.07572; Cho and Saul 2009):

        Σ_0 = <x, x'> / S,    Σ_{l+1} = n (sin θ_l + (π - θ_l) cos θ_l) / π,
        Θ_0 = Σ_0 + β,        Θ_{l+1} = Σ_{l+1} + Θ_l (π - θ_l) / π + β.

    Θ is the neural tangent kernel, of students all of whose layers learn. Σ + β is that of the last layer alone.

    Args:
        first: states, shape (N, S).
        second: states, shape (M, S).
        student: the network.

    Returns:
        Shape (N, M).
    """
    lengths = [(each.square().sum(1) + 1e-12).sqrt() for each in (first, second)]  # the root has no slope at 0
    scale = lengths[0][:, None] * lengths[1] / first.shape[1]
    covariance = first @ second.T / first.shape[1]
    kernel = covariance + student.bias
    for _ in range(student.depth):
        cosine = (covariance / scale).clamp(_CLOSEST - 1.0, 1.0 - _CLOSEST)  # arccos has no slope at 1
        share = 1.0 - torch.acos(cosine) / math.pi
        covariance = scale * ((1.0 - cosine.square()).sqrt() / math.pi + share * cosine)
        if student.is_tangent:
            kernel = covariance + kernel * share + student.bias
    return kernel if student.is_tangent else covariance + student.bias


def regression(centres: Tensor, outputs: Tensor, states: Tensor, student: Kernel) -> Tensor:
    """Return what a student that was cloned from pairs says, before tanh or softmax, by kernel ridge regression.

    Args:
        centres: the pairs' states, shape (M, S).
        outputs: what it is taught there, shape (M, A).
        states: where it is asked, shape (B, S).
        student: the network.

    Returns:
        Shape (B, A).
    """
    kernel = student_kernel(centres, centres, student).double()
    ridge = student.ridge * kernel.diagonal().mean()
    identity = torch.eye(len(kernel), dtype=kernel.dtype, device=kernel.device)
    coefficients = torch.linalg.solve(kernel + ridge * identity, outputs.double())
    return student_kernel(states, centres, student) @ coefficients.float()


@dataclass(frozen=True)
class KernelStart:
    """Gradient descent on pairs through the closed-form cloning of infinitely wide students.

    Gradient flow on the squared error before tanh takes such a student from zero to kernel regression. At 256 pairs, a
    step costs a small part of one through a hundred steps of cloning, so the pairs come far in seconds. The idea is
    that of kernel inducing points (Nguyen et al. 2021, 2011.00050), here with the targets' weights and costs. Real
    students follow a kernel only roughly, so each step draws another one: pairs that teach all of these also teach
    networks.
    """

    protocol: StudentProtocol
    settings: DistillationRecipe

    def candidates(
        self, states: Tensor, actions: Tensor, data: OuterData, scale: float, *, progress: bool
    ) -> Iterator[tuple[int, tuple[Tensor, Tensor]]]:
        """Move pairs, and show them on the way: narrow students do not follow kernels as far as wide ones.

        Args:
            states: normalised states of the pairs, shape (M, S).
            actions: their actions on [-1, 1], shape (M, A).
            data: what students should do. Student states take no part.
            scale: of the cost, where errors have one.
            progress: show a bar.

        Yields:
            Every fiftieth step, and the last, with the states and actions after it.
        """
        pairs = [states.clone().requires_grad_(), self._latent(actions).requires_grad_()]
        adam, last = torch.optim.Adam(pairs, _RATE), self.settings.kernel_steps
        with progress_bar(last, "kernel start", show=progress) as bar:
            for step in range(last):
                self._step(pairs, adam, data, scale, step)
                bar.update()
                if not (step + 1) % _SHOWN_EVERY or step + 1 == last:
                    yield step + 1, (pairs[0].detach().clone(), self._squash(pairs[1].detach()))

    def seconds_per_step(self, states: Tensor, actions: Tensor, data: OuterData) -> float:
        """Measure two steps from such pairs, after one that warms up."""
        pairs = [states.clone().requires_grad_(), self._latent(actions).requires_grad_()]
        adam, begun = torch.optim.Adam(pairs, _RATE), 0.0
        for step in range(3):
            begun = time.perf_counter() if step == 1 else begun
            self._step(pairs, adam, data, 0.0, step)
        float(pairs[0].detach().sum())  # waits for the device
        return (time.perf_counter() - begun) / 2

    def _step(self, pairs: list[Tensor], adam: torch.optim.Optimizer, data: OuterData, scale: float, step: int) -> None:
        """Move the pairs by one step of Adam, at a rate that falls with a cosine."""
        batch = data.batch(self.settings.batch_size, step, stream=Stream.KERNEL_BATCHES)
        student = Kernel.draw(self.protocol.depth, data.seed, step)
        adam.param_groups[0]["lr"] = _RATE * 0.5 * (1.0 + math.cos(math.pi * step / self.settings.kernel_steps))
        adam.zero_grad()
        self._loss(pairs, data, batch, scale, student).backward()
        adam.step()
        if not self._is_softmax:
            with torch.no_grad():
                pairs[1].clamp_(-_FURTHEST, _FURTHEST)

    def _loss(self, pairs: list[Tensor], data: OuterData, batch: list[Tensor], scale: float, student: Kernel) -> Tensor:
        """Return the student's weighted error on a batch, as the outer loop counts it."""
        states, wanted, weights = batch
        found = []
        for size in (*self.settings.nested, len(pairs[0])):
            actions = self._squash(regression(pairs[0][:size], pairs[1][:size], states, student))[None]
            squared = (weights * squared_error(actions, wanted)).mean()
            cost = None if data.cost is None else (weights * data.cost(states, actions, wanted)).mean()
            found.append(joined(squared, cost, scale, self.settings.gap_share))
        return jointly(found)

    @property
    def _is_softmax(self) -> bool:
        return self.protocol.network.startswith(SOFTMAX)

    def _squash(self, outputs: Tensor) -> Tensor:
        return 2.0 * torch.softmax(outputs, dim=-1) - 1.0 if self._is_softmax else torch.tanh(outputs)

    def _latent(self, actions: Tensor) -> Tensor:
        """Return outputs that :meth:`_squash` takes to these actions, or near them where they are at a bound."""
        if self._is_softmax:
            logits = (0.5 * (actions + 1.0)).clamp(min=0.01).log()
            return logits - logits.mean(dim=-1, keepdim=True)
        return torch.atanh(actions.clamp(-0.98, 0.98))
