"""The ensemble: networks that predict the next state, the reward and the end of an episode."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, silu

from minari_obd.storage.tensors import read_tensors, reading, write_tensors

__all__ = ["MOST_UNEXPLAINED", "DynamicsEnsemble", "Prediction", "draw_parameters", "predict"]

MOST_UNEXPLAINED = 0.9
"""Unexplained variance beyond which an ensemble says too little of where a policy would go."""
_KEY = "minari_obd_dynamics"


class Prediction(NamedTuple):
    """What the members predict for the states of K groups."""

    states: Tensor
    """The next states, normalised, shape (K, B, S)."""
    rewards: Tensor
    """Rewards of the step, shape (K, B)."""
    ends: Tensor
    """Probability that the step ends the episode in a terminal state, shape (K, B)."""
    disagreement: Tensor
    """Distance of the next state from the one that another member predicts, shape (K, B)."""


@dataclass(frozen=True, eq=False)
class DynamicsEnsemble:
    """K multi-layer perceptrons f_k with s' = s + scale f_k(s, a), in normalised states and actions on [-1, 1].

    Each hidden layer is silu(norm(W h + b)). The norm bounds what a member can predict, so that errors of long rollouts
    do not explode (2512.04341). Each rollout follows one member.
    """

    parameters: list[Tensor]
    """W_1 (K, S + A, H), b_1 (K, 1, H), ... ; the last layer has S + 2 outputs: changes, reward, logit of the end."""
    offset: Tensor
    """Mean of changes and reward, shape (S + 1,)."""
    scale: Tensor
    """Their standard deviation, shape (S + 1,)."""
    low: Tensor
    """Lowest normalised state to predict, shape (S,)."""
    high: Tensor
    """Highest, shape (S,)."""
    limit: Tensor
    """Disagreement that one in a thousand of the data's steps exceeds, shape ()."""
    details: dict[str, Any] = field(default_factory=dict)
    """How it was fitted, as JSON values."""

    @property
    def members(self) -> int:
        """K."""
        return len(self.parameters[0])

    @property
    def unexplained(self) -> float:
        """Share of the variance of held-out next states that the members' mean leaves unexplained, from 0 to 1."""
        return float(self.details["unexplained"])

    @torch.no_grad()
    def step(self, states: Tensor, actions: Tensor) -> Prediction:
        """Predict one step. Group k of states (K, B, S) and actions (K, B, A) is predicted by member k."""
        inputs = torch.cat([states, actions], dim=-1)
        found = predict(self.parameters, inputs)
        other = predict(self.parameters, inputs.roll(1, 0)).roll(-1, 0)
        return self._outcome(states, found, other)

    @torch.no_grad()
    def opinions(self, states: Tensor, actions: Tensor) -> Prediction:
        """Predict one step of the same states (B, S) and actions (B, A) by every member."""
        found = predict(self.parameters, torch.cat([states, actions], dim=-1).expand(self.members, -1, -1))
        return self._outcome(states, found, found.roll(-1, 0))

    def _outcome(self, states: Tensor, found: Tensor, other: Tensor) -> Prediction:
        """What outputs (K, B, S + 2) of the members mean, beside those of others."""
        size = len(self.low)
        change, reward = (found[..., :-1] * self.scale + self.offset).split([size, 1], dim=-1)
        apart = ((found - other)[..., :size] * self.scale[:size]).norm(dim=-1)
        following = torch.clamp(states + change, self.low, self.high)
        return Prediction(following, reward[..., 0], torch.sigmoid(found[..., -1]), apart)

    def to(self, device: torch.device) -> Self:
        """Return the same on a device."""
        moved = {name: getattr(self, name).to(device) for name in ("offset", "scale", "low", "high", "limit")}
        return replace(self, parameters=[p.to(device) for p in self.parameters], **moved)

    def save(self, path: Path) -> None:
        """Write it to one file."""
        tensors = {f"parameters/{i}": p for i, p in enumerate(self.parameters)}
        tensors |= {name: getattr(self, name) for name in ("offset", "scale", "low", "high", "limit")}
        write_tensors(path, tensors, self.details, _KEY)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            FormatError: the file is damaged.
        """
        with reading(f"'{path}' is not a dynamics ensemble, or damaged"):
            details, tensors = read_tensors(path, _KEY)
            count = sum(name.startswith("parameters/") for name in tensors)
            parameters = [tensors.pop(f"parameters/{i}") for i in range(count)]
            return cls(parameters, details=details, **tensors)


def draw_parameters(sizes: Sequence[int], members: int, generator: torch.Generator) -> list[Tensor]:
    """Draw the initial parameters of the members: normal weights of variance 1 / inputs, and zero biases."""
    parameters = []
    for inputs, outputs in pairwise(sizes):
        parameters.append(torch.randn(members, inputs, outputs, generator=generator) / inputs**0.5)
        parameters.append(torch.zeros(members, 1, outputs))
    return parameters


def predict(parameters: Sequence[Tensor], inputs: Tensor) -> Tensor:
    """Return the networks' outputs (K, B, S + 2), in units of ``scale``, for inputs (K, B, S + A)."""
    features = inputs
    for weight, bias in zip(parameters[:-2:2], parameters[1:-2:2], strict=True):
        features = torch.baddbmm(bias, features, weight)
        features = silu(layer_norm(features, features.shape[-1:]))
    return torch.baddbmm(parameters[-1], features, parameters[-2])
