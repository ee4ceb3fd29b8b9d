"""Students: policy networks as pure functions of batched parameters, E students at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from typing import Protocol

import torch
from torch import Tensor

from minari_obd.recipe import StudentProtocol
from minari_obd.registry import STUDENTS

__all__ = ["MLP", "Student", "make_student", "student_generators"]


class Student(Protocol):
    """A policy network without state: parameters in, actions out."""

    def initialise(self, state_size: int, action_size: int, generators: Sequence[torch.Generator]) -> list[Tensor]:
        """Draw parameters for E students, one generator each; every tensor has E rows."""
        ...

    def apply(self, parameters: Sequence[Tensor], states: Tensor) -> Tensor:
        """Map normalised states (B, S) or (E, B, S) to actions (E, B, A) on [-1, 1]."""
        ...


@dataclass(frozen=True)
class MLP:
    r"""Multi-layer perceptron: h_l = relu(h_{l-1} W_l + b_l), action = tanh(h_L W_{L+1} + b_{L+1}).

    Weights are orthogonal with gain sqrt 2 in every layer, the last one included, and biases zero, as in the
    code of Offline Behavior Distillation (arXiv 2410.22728).
    """

    depth: int = 3
    """Hidden layers."""
    width: int = 256
    """Units in each."""

    def initialise(self, state_size: int, action_size: int, generators: Sequence[torch.Generator]) -> list[Tensor]:
        """Return W_1 (E, S, H), b_1 (E, 1, H), W_2 (E, H, H), ... in this order, on the CPU.

        Each student draws from its own generator: orthogonal initialisation consumes random numbers in layer
        order, so a shared one would make a student depend on those before it.
        """
        sizes = [state_size, *[self.width] * self.depth, action_size]
        weights = [
            [_orthogonal(inputs, outputs, generator) for inputs, outputs in pairwise(sizes)] for generator in generators
        ]
        parameters = []
        for layer, outputs in enumerate(sizes[1:]):
            parameters.append(torch.stack([student[layer] for student in weights]))
            parameters.append(torch.zeros(len(generators), 1, outputs))
        return parameters

    def apply(self, parameters: Sequence[Tensor], states: Tensor) -> Tensor:
        """Return actions, shape (E, B, A)."""
        features = states
        for weight, bias in zip(parameters[:-2:2], parameters[1:-2:2], strict=True):
            features = torch.relu(features @ weight + bias)
        return torch.tanh(features @ parameters[-2] + parameters[-1])


def _orthogonal(inputs: int, outputs: int, generator: torch.Generator) -> Tensor:
    # torch's convention is (out, in); the transpose of an orthogonal matrix is orthogonal.
    weight = torch.empty(outputs, inputs)
    return torch.nn.init.orthogonal_(weight, gain=sqrt(2.0), generator=generator).T.contiguous()


def make_student(protocol: StudentProtocol) -> Student:
    """Return the network that a protocol names."""
    return STUDENTS.get(protocol.network)(depth=protocol.depth, width=protocol.width)


def student_generators(count: int, *key: int) -> list[torch.Generator]:
    """Return a generator for each of ``count`` students, independent for every ``key`` (seed, step, ...)."""
    import numpy as np

    seeds = np.random.SeedSequence(list(key)).generate_state(count, np.uint64)
    return [torch.Generator().manual_seed(int(seed >> np.uint64(1))) for seed in seeds]
