"""Masked autoregressive flow."""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from minari_obd.densities.base import Estimator, Fitted, Parts
from minari_obd.support.libraries import check_installed
from minari_obd.support.streams import Stream

__all__ = ["MaskedAutoregressiveFlow"]


@dataclass(frozen=True)
class MaskedAutoregressiveFlow(Estimator):
    """Masked autoregressive flow (Papamakarios et al. 2017), as in SDW (2512.06692), by zuko, on the CPU.

    log d(s) = log N(f(s); 0, I) + log abs det ∂f/∂s, where f whitens by the Cholesky factor of the states' covariance
    and then applies autoregressive affine maps. These start as the identity, so d starts as the best Gaussian. Adam
    trains their networks to maximise the likelihood of states with fresh noise (the blur), with a cosine schedule. The
    parameters with the best held-out log-likelihood are kept. Training stops when it has not risen for a while.
    """

    transforms: int = 5
    """Autoregressive maps. They alternate between the ascending and the descending order of dimensions."""
    width: int = 128
    """Units in each of the two hidden layers of a map's network."""
    rows: int = 100_000
    """Maximum number of states used."""
    steps: int = 5_000
    """Maximum number of optimiser steps."""
    batch_size: int = 512
    """States per step."""
    learning_rate: float = 5e-3
    """Initial step size of Adam."""
    evaluate_every: int = 250
    """Steps between evaluations of the held-out states."""
    patience: int = 6
    """Evaluations without improvement after which training stops."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_installed("zuko", "distill")

    @property
    def _most(self) -> int:
        return self.rows

    def _fit(self, parts: Parts, seed: int) -> Fitted:
        whitening = _Whitening.of(parts.training, self.resolution)
        flow = self._new(parts.training.shape[1], seed)
        optimiser = torch.optim.Adam(flow.parameters(), self.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.steps, self.learning_rate / 100)
        rng = Stream.DENSITY.generator(seed, 4)
        held_out = whitening(parts.held_out)
        best, reached, kept, waited = 0, _mean_log_prob(flow, held_out), deepcopy(flow), 0
        for step in range(1, self.steps + 1):
            batch = parts.training[rng.integers(len(parts.training), size=self.batch_size)]
            batch = whitening(batch + self.resolution * rng.standard_normal(batch.shape))
            optimiser.zero_grad()
            (-flow().log_prob(batch).mean()).backward()
            nn.utils.clip_grad_norm_(flow.parameters(), 5.0)
            optimiser.step()
            schedule.step()
            if step % self.evaluate_every == 0 or step == self.steps:
                likelihood, waited = _mean_log_prob(flow, held_out), waited + 1
                if likelihood > reached:  # never true for NaN, so a diverged flow stops here
                    best, reached, kept, waited = step, likelihood, deepcopy(flow), 0
                if waited == self.patience:
                    break

        @torch.no_grad()
        def log_density(states: np.ndarray) -> np.ndarray:
            return kept().log_prob(whitening(states)).double().numpy() + whitening.log_det

        return Fitted(log_density, {"step": best})

    def _new(self, dimensions: int, seed: int) -> nn.Module:
        from zuko.flows import MAF

        with torch.random.fork_rng(devices=[]):  # modules are initialised from the global generator
            torch.manual_seed(Stream.DENSITY.seed(seed, 3))
            flow: Any = MAF(dimensions, transforms=self.transforms, hidden_features=(self.width, self.width))
        for transform in flow.transform.transforms:  # zero last layers: the maps start as the identity
            last = transform.hyper[-1] if dimensions > 1 else transform
            for parameter in last.parameters():
                nn.init.zeros_(parameter)
        return flow


@dataclass(frozen=True)
class _Whitening:
    """x = L⁻¹ (s - mean), where L Lᵀ is the covariance of the blurred states."""

    mean: np.ndarray
    inverse: np.ndarray
    """L⁻¹, shape (S, S)."""

    @classmethod
    def of(cls, states: np.ndarray, resolution: float) -> "_Whitening":
        dimensions = states.shape[1]
        covariance = np.cov(states.T).reshape(dimensions, dimensions) + resolution**2 * np.eye(dimensions)
        return cls(states.mean(axis=0), np.linalg.inv(np.linalg.cholesky(covariance)))

    def __call__(self, states: np.ndarray) -> torch.Tensor:
        return torch.as_tensor((states - self.mean) @ self.inverse.T, dtype=torch.float32)

    @property
    def log_det(self) -> float:
        return float(np.log(np.diag(self.inverse)).sum())


@torch.no_grad()
def _mean_log_prob(flow: nn.Module, states: torch.Tensor) -> float:
    return float(flow().log_prob(states).mean())
