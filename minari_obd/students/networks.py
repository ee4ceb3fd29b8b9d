"""Students: policy networks as pure functions of batched parameters, for E students at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from typing import Protocol

import torch
from torch import Tensor

from minari_obd.errors import SettingError
from minari_obd.registry import STUDENTS
from minari_obd.settings.protocols import StudentProtocol

__all__ = [
    "MLP",
    "ModuleStudent",
    "ResidualMLP",
    "SoftmaxMLP",
    "SoftmaxResidualMLP",
    "Student",
    "draws_on_any_device",
    "make_student",
    "squash",
    "student_generators",
]


class Student(Protocol):
    """A stateless policy network, which maps parameters and states to actions."""

    def initialise(self, state_size: int, action_size: int, generators: Sequence[torch.Generator]) -> list[Tensor]:
        """Draw parameters for E students from one generator each. Every tensor has E rows."""
        ...

    def apply(self, parameters: Sequence[Tensor], states: Tensor) -> Tensor:
        """Map normalised states (B, S) or (E, B, S) to actions (E, B, A) on [-1, 1]."""
        ...


@dataclass(frozen=True)
class MLP:
    r"""Multi-layer perceptron: h_l = relu(h_{l-1} W_l + b_l), action = tanh(h_L W_{L+1} + b_{L+1}).

    Weights are orthogonal with gain sqrt 2 in every layer, including the last one, and biases are zero, as in the code
    of Offline Behavior Distillation (arXiv 2410.22728).
    """

    depth: int = 3
    """Hidden layers."""
    width: int = 256
    """Units in each hidden layer."""
    output: str = "tanh"
    """``tanh``; ``identity`` for unbounded actions; ``softmax`` for probabilities p of discrete ones, given as 2 p - 1.
    """

    def initialise(self, state_size: int, action_size: int, generators: Sequence[torch.Generator]) -> list[Tensor]:
        """Return W_1 (E, S, H), b_1 (E, 1, H), W_2 (E, H, H), ... in this order, on the generators' device.

        Each student draws from its own generator. Orthogonal initialisation consumes random numbers in layer order, so
        with a shared generator a student would depend on those before it.
        """
        sizes, device = [state_size, *[self.width] * self.depth, action_size], generators[0].device
        # One by one on the CPU, where results of earlier versions are to keep their bits.
        draw = _orthogonal if device.type == "cpu" else _orthogonal_together
        parameters = []
        for inputs, outputs in pairwise(sizes):
            parameters.append(draw(inputs, outputs, generators))
            parameters.append(torch.zeros(len(generators), 1, outputs, device=device))
        return parameters

    def apply(self, parameters: Sequence[Tensor], states: Tensor) -> Tensor:
        """Return actions, shape (E, B, A)."""
        # baddbmm, because matmul of (B, S) and (E, S, H) returns a transposed view, which is slow to read afterwards.
        features = states if states.dim() == 3 else states.expand(len(parameters[0]), -1, -1)
        for weight, bias in zip(parameters[:-2:2], parameters[1:-2:2], strict=True):
            features = torch.relu(torch.baddbmm(bias, features, weight))
        return squash(torch.baddbmm(parameters[-1], features, parameters[-2]), self.output)


@dataclass(frozen=True)
class ResidualMLP(MLP):
    r"""An MLP with h_l = h_{l-1} + relu(h_{l-1} W_l + b_l) from the second hidden layer on (arXiv 2410.22728)."""

    def apply(self, parameters: Sequence[Tensor], states: Tensor) -> Tensor:
        """Return actions, shape (E, B, A)."""
        features = states if states.dim() == 3 else states.expand(len(parameters[0]), -1, -1)
        for layer, (weight, bias) in enumerate(zip(parameters[:-2:2], parameters[1:-2:2], strict=True)):
            change = torch.relu(torch.baddbmm(bias, features, weight))
            features = features + change if layer else change
        return squash(torch.baddbmm(parameters[-1], features, parameters[-2]), self.output)


@dataclass(frozen=True)
class SoftmaxMLP(MLP):
    """An MLP for discrete actions: a softmax at the output."""

    output: str = "softmax"


@dataclass(frozen=True)
class SoftmaxResidualMLP(ResidualMLP):
    """A residual MLP for discrete actions: a softmax at the output."""

    output: str = "softmax"


@dataclass(frozen=True)
class ModuleStudent:
    """Any torch module as a student. It must be a function of its parameters alone: no buffers, no dropout."""

    make: Callable[[int, int], torch.nn.Module]
    """Takes the state and action sizes and returns a new module that maps (B, S) to (B, A)."""
    action_size: int | None = None
    """A, if it shall be checked; otherwise it is found from the shapes of the parameters."""

    def initialise(self, state_size: int, action_size: int, generators: Sequence[torch.Generator]) -> list[Tensor]:
        """Return the parameters of E new modules, in the order of ``named_parameters``.

        Raises:
            SettingError: the action size is not the student's.
        """
        if self.action_size not in (None, action_size):
            raise SettingError(
                f"This student's actions have {self.action_size} dimensions, but the pairs' have {action_size}; set "
                f"action_size to {action_size}."
            )
        students = []
        for generator in generators:
            with torch.random.fork_rng(devices=[]):  # modules are initialised from the global generator
                torch.default_generator.manual_seed(generator.initial_seed())  # of the CPU alone
                students.append([p.detach() for p in self.make(state_size, action_size).parameters()])
        return [torch.stack(each) for each in zip(*students, strict=True)]

    def apply(self, parameters: Sequence[Tensor], states: Tensor) -> Tensor:
        """Return actions, shape (E, B, A)."""
        count = len(parameters[0])
        states = states if states.dim() == 3 else states.expand(count, -1, -1)
        with torch.device("meta"):  # only the network's structure; its values are the parameters
            module = self.make(states.shape[-1], self._action_size(parameters, states.shape[-1]))
        names = [name for name, _ in module.named_parameters()]
        actions = [
            torch.func.functional_call(
                module, {name: p[e] for name, p in zip(names, parameters, strict=True)}, states[e]
            )
            for e in range(count)
        ]
        return torch.stack(actions)

    def _action_size(self, parameters: Sequence[Tensor], state_size: int) -> int:
        """Return the one A with which a new module has parameters of these shapes."""
        shapes = [p.shape[1:] for p in parameters]
        for size in sorted({int(n) for shape in shapes for n in shape}):
            if [p.shape for p in self.make(state_size, size).parameters()] == shapes:
                return size
        raise SettingError("The parameters are not those of this module; was the student network changed since?")


def squash(output: Tensor, kind: str) -> Tensor:
    """Return the actions of a network's last layer: by ``tanh``, ``softmax`` (2 p - 1) or ``identity``."""
    if kind == "softmax":
        return 2.0 * torch.softmax(output, dim=-1) - 1.0
    return torch.tanh(output) if kind == "tanh" else output


def _orthogonal(inputs: int, outputs: int, generators: Sequence[torch.Generator]) -> Tensor:
    # torch's convention is (out, in), and the transpose of an orthogonal matrix is orthogonal.
    drawn = [torch.nn.init.orthogonal_(torch.empty(outputs, inputs), sqrt(2.0), g).T for g in generators]
    return torch.stack(drawn)


def _orthogonal_together(inputs: int, outputs: int, generators: Sequence[torch.Generator]) -> Tensor:
    """Do the same by one batched factorisation. As in torch, signs make the distribution uniform."""
    shape, device = (max(inputs, outputs), min(inputs, outputs)), generators[0].device
    normal = torch.stack([torch.randn(shape, generator=g, device=device) for g in generators])
    q, r = torch.linalg.qr(normal)
    q = sqrt(2.0) * q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None]
    return (q if inputs >= outputs else q.mT).contiguous()


def make_student(protocol: StudentProtocol) -> Student:
    """Return the network that a protocol names."""
    return STUDENTS.get(protocol.network)(depth=protocol.depth, width=protocol.width)


def draws_on_any_device(student: Student) -> bool:
    """Whether a student's initial parameters come to be where their generators are; others draw on the CPU."""
    return getattr(type(student), "initialise", None) is MLP.initialise


def student_generators(count: int, *key: int, device: str | torch.device = "cpu") -> list[torch.Generator]:
    """Return one generator for each of ``count`` students, independent for every ``key`` (seed, step, ...)."""
    import numpy as np

    seeds = np.random.SeedSequence(list(key)).generate_state(count, np.uint64)
    return [torch.Generator(device).manual_seed(int(seed >> np.uint64(1))) for seed in seeds]
