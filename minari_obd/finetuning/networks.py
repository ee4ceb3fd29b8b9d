"""Networks of the learner that Stable-Baselines3 lacks: a fixed normaliser, critics with layer normalisation."""

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.td3.policies import TD3Policy
from torch import Tensor, nn

__all__ = ["NormalisedCritic", "NormalisedPolicy", "Standardise"]


class Standardise(BaseFeaturesExtractor):
    """The pairs' normaliser as a fixed first layer: s = (observation - mean) / scale.

    Folded into the weights it would be equal up to rounding only, and a rounding error in a simulator grows to
    another return.
    """

    def __init__(self, observation_space: gym.Space, mean: np.ndarray, scale: np.ndarray) -> None:
        super().__init__(observation_space, mean.size)
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("scale", torch.tensor(scale))

    def forward(self, observations: Tensor) -> Tensor:
        """Normalise raw observations (B, S)."""
        return (observations - self.mean) / self.scale  # pyright: ignore[reportOperatorIssue]  # buffers are tensors


class NormalisedCritic(ContinuousCritic):
    """Critics with layer normalisation after each hidden layer's affine map (Ball et al. 2023, arXiv 2302.02948)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for network in self.q_networks:
            assert isinstance(network, nn.Sequential)
            affine = [(i, layer) for i, layer in enumerate(network) if isinstance(layer, nn.Linear)]
            for i, layer in reversed(affine[:-1]):
                network.insert(i + 1, nn.LayerNorm(layer.out_features))


class NormalisedPolicy(TD3Policy):
    """TD3's networks with :class:`NormalisedCritic`."""

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> NormalisedCritic:
        """Return critics for this policy's spaces."""
        arguments = self._update_features_extractor(self.critic_kwargs, features_extractor)
        return NormalisedCritic(**arguments).to(self.device)
