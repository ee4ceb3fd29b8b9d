"""A small package as another author writes it: an objective, a density, a student, and a teacher of its own kind."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch

from minari_obd.densities.base import Estimator, Fitted, Parts
from minari_obd.sources.data import OfflineData
from minari_obd.students.networks import ModuleStudent
from minari_obd.targets.targets import Objective, TargetInputs, Targets


@dataclass(frozen=True)
class StartWeighting(Objective):
    """The teacher's actions; the first steps of the data count twice as much as the last ones."""

    needs_teacher: ClassVar[bool] = True

    def targets(self, given: TargetInputs) -> Targets:
        weights = np.linspace(2, 1, len(given.data))
        return Targets(given.states, given.scaled_teacher_actions, weights / weights.mean(), details={})


@dataclass(frozen=True, kw_only=True)
class Gaussian(Estimator):
    """One Gaussian with independent dimensions."""

    @property
    def _most(self) -> int:
        return 50_000

    def _fit(self, parts: Parts, seed: int) -> Fitted:
        mean, variance = parts.training.mean(0), parts.training.var(0) + self.resolution**2
        constant = np.log(2 * np.pi * variance).sum()
        return Fitted(lambda states: -0.5 * (((states - mean) ** 2 / variance).sum(1) + constant))


class Linear:
    """Ridge regression of the data's actions; the value of a state is its share of the mean reward."""

    def __init__(self, data: OfflineData, strength: float) -> None:
        self.data = data
        states = self._features(data.observations)
        square = states.T @ states + strength * np.eye(states.shape[1])
        self.weights = np.linalg.solve(square, states.T @ data.actions)

    def _features(self, states: np.ndarray) -> np.ndarray:
        return np.concatenate([self.data.normaliser.normalise(states), np.ones((len(states), 1), np.float32)], axis=1)

    def act(self, states: np.ndarray) -> np.ndarray:
        return self._features(states) @ self.weights

    def value(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        return np.full(len(states), 1.0 + abs(float(self.data.rewards.mean())))


def train_linear(data: OfflineData, *, steps: int | None, seed: int, strength: float = 1.0) -> Linear:
    """A teacher that is not d3rlpy's. It draws nothing and takes no steps."""
    return Linear(data, strength)


def elu_student(depth: int, width: int) -> ModuleStudent:
    """A torch module as a student; its number of actions is not known here."""

    def make(states: int, actions: int) -> torch.nn.Module:
        sizes = [states, *[width] * depth]
        layers: list[Any] = []
        for inputs, outputs in pairwise(sizes):
            layers += [torch.nn.Linear(inputs, outputs), torch.nn.ELU()]
        return torch.nn.Sequential(*layers, torch.nn.Linear(sizes[-1], actions), torch.nn.Tanh())

    return ModuleStudent(make)
