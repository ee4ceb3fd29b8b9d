"""Infinitely wide students: cloning by kernel regression, in closed form."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from minari_obd.errors import DataError
from minari_obd.students.networks import squash
from minari_obd.support.streams import Stream

__all__ = ["Kernel", "KernelStudent", "SoftmaxKernelStudent", "latent", "regression", "student_kernel"]

FURTHEST = 3.0
"""Largest output before tanh that is taught. The action changes by less than 0.005 beyond it."""
_RIDGES = 1e-4, 0.03
"""Of the kernel's mean diagonal. The larger, the shorter the cloning."""
_BIASES = 0.02, 1.0
"""Share of the biases in a kernel. Without them, an action at the mean state could not be learned."""
_CLOSEST = 1e-5
_MOST_PAIRS = 8_192


@dataclass(frozen=True)
class Kernel:
    """What an infinitely wide student is."""

    depth: int
    """Hidden layers."""
    bias: float = 0.1
    """Share of the biases, beta."""
    ridge: float = 1e-3
    """Of the regression, as a share of the kernel's mean diagonal."""
    is_tangent: bool = True
    """Whether all layers learn; only the last one otherwise."""

    @classmethod
    def draw(cls, most: int, seed: int, *key: int) -> Self:
        """Draw one of up to ``most`` hidden layers. The same ``key`` gives the same one."""
        rng = Stream.KERNELS.generator(seed, *key)
        bias, ridge = (float(np.exp(rng.uniform(*np.log(each)))) for each in (_BIASES, _RIDGES))
        return cls(int(rng.integers(1, most + 1)), bias, ridge, bool(rng.random() < 0.5))


def student_kernel(first: Tensor, second: Tensor, student: Kernel) -> Tensor:
    r"""Kernel of infinitely wide ReLU networks with zero biases at the start, like a wide MLP student.

    With $c_l = Σ_l / n$, $n = ‖x‖ ‖x'‖ / S$ and $θ_l = \arccos c_l$ (Jacot et al. 2018, 1806.07572; Cho and Saul 2009):

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


def coefficients(centres: Tensor, outputs: Tensor, student: Kernel) -> Tensor:
    """Return what K(s, centres) is multiplied with to say what a student says, shape (M, A).

    It is kernel ridge regression, in double precision, of outputs (M, A) at centres (M, S).
    """
    kernel = student_kernel(centres, centres, student).double()
    ridge = student.ridge * kernel.diagonal().mean()
    identity = torch.eye(len(kernel), dtype=kernel.dtype, device=kernel.device)
    return torch.linalg.solve(kernel + ridge * identity, outputs.double()).to(outputs.dtype)


def regression(centres: Tensor, outputs: Tensor, states: Tensor, student: Kernel) -> Tensor:
    """Return what a student that was cloned from pairs says, before tanh or softmax.

    Args:
        centres: the pairs' states, shape (M, S).
        outputs: what it is taught there, shape (M, A).
        states: where it is asked, shape (B, S).
        student: the network.

    Returns:
        Shape (B, A).
    """
    return student_kernel(states, centres, student) @ coefficients(centres, outputs, student)


def latent(actions: Tensor, output: str, most: float = math.tanh(FURTHEST)) -> Tensor:
    """Return outputs before tanh or softmax that give these actions, or near them where they are beyond ``most``."""
    if output == "softmax":
        logits = (0.5 * (actions + 1.0)).clamp(min=0.5 * (1.0 - most)).log()
        return logits - logits.mean(dim=-1, keepdim=True)
    return torch.atanh(actions.clamp(-most, most))


@dataclass(frozen=True)
class KernelStudent:
    """An infinitely wide MLP whose last layer learns. It has a closed form, so it is solved and not trained.

    action = tanh(K(s, S) (K(S, S) + ρ I)^-1 atanh(A)) for pairs (S, A), with the kernel of the last layer. It has no
    random beginning: students of the same pairs are the same.
    """

    depth: int = 2
    """Hidden layers."""
    width: int = 0
    """Not used: every layer is infinitely wide."""
    output: str = "tanh"
    """``tanh``, or ``softmax`` for probabilities p of discrete actions, given as 2 p - 1."""

    @property
    def kernel(self) -> Kernel:
        """The network."""
        return Kernel(self.depth, is_tangent=False)

    def initialise(self, state_size: int, action_size: int, generators: Sequence[torch.Generator]) -> list[Tensor]:
        """Return E students that know no pairs yet: centres (E, 0, S) and coefficients (E, 0, A)."""
        device = generators[0].device
        return [torch.zeros(len(generators), 0, size, device=device) for size in (state_size, action_size)]

    def solve(self, count: int, states: Tensor, actions: Tensor) -> list[Tensor]:
        """Return the parameters of students that were cloned from pairs: centres (E, M, S) and coefficients (E, M, A).

        Args:
            count: how many students, E.
            states: normalised states, shape (M, S), or (E, M, S) if every student has its own.
            actions: actions on [-1, 1], shape (M, A) or (E, M, A).

        Raises:
            DataError: so many pairs that the regression does not fit into memory.
        """
        if states.shape[-2] > _MOST_PAIRS:
            raise DataError(
                f"Infinitely wide students are solved for all {states.shape[-2]:,} pairs at once, and {_MOST_PAIRS:,} "
                "are the most; use another protocol, such as 'whole_data'."
            )
        outputs = latent(actions, self.output)
        if states.dim() == 2:
            found = coefficients(states, outputs, self.kernel)
            return [each.expand(count, -1, -1).contiguous() for each in (states, found)]
        found = [coefficients(*each, self.kernel) for each in zip(states, outputs, strict=True)]
        return [states, torch.stack(found)]

    def apply(self, parameters: Sequence[Tensor], states: Tensor) -> Tensor:
        """Return actions, shape (E, B, A)."""
        centres, weights = parameters
        asked = states if states.dim() == 3 else states.expand(len(centres), -1, -1)
        said = [student_kernel(s, c, self.kernel) @ w for s, c, w in zip(asked, centres, weights, strict=True)]
        return squash(torch.stack(said), self.output)


@dataclass(frozen=True)
class SoftmaxKernelStudent(KernelStudent):
    """The same for discrete actions: a softmax at the output."""

    output: str = "softmax"
