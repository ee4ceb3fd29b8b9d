"""Rollouts in the ensemble: where many policies would go, many episodes at once."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from minari_obd.dynamics.ensemble import DynamicsEnsemble

__all__ = ["Rollouts", "roll_out"]

Policies = Callable[[Tensor], Tensor]
"""E policies: normalised states (E, B, S) to actions (E, B, A) on [-1, 1]."""


@dataclass(frozen=True)
class Rollouts:
    """States that E policies visited on L lanes of T steps each. A lane starts again when its episode ends."""

    states: Tensor
    """Normalised, shape (T, E, L, S)."""
    rewards: Tensor
    """Rewards of the steps, shape (T, E, L)."""
    ends: Tensor
    """Whether the lane's episode ended with the step, by a terminal state, the horizon or disagreement, (T, E, L)."""
    losses: Tensor
    """Whether it ended by disagreement, (T, E, L)."""

    @property
    def lost(self) -> float:
        """Share of the episodes that ended where members disagree too much to go on; 0 if none ended."""
        return float(self.losses.sum() / self.ends.sum().clamp(min=1))


@torch.no_grad()
def roll_out(
    ensemble: DynamicsEnsemble,
    policies: Policies,
    starts: Tensor,
    *,
    policy_count: int,
    lanes: int,
    steps: int,
    horizon: int,
    noise: float,
    generator: torch.Generator,
) -> Rollouts:
    """Follow E policies for some steps. Each lane follows one member of the ensemble all the time.

    An episode ends in a predicted terminal state, after ``horizon`` steps, or where members disagree more than on all
    but a thousandth of the data's steps: beyond that, predictions mean nothing.

    Args:
        ensemble: the dynamics, on the device of ``starts``.
        policies: E policies that act at once.
        starts: normalised states to start at, shape (N, S); drawn uniformly.
        policy_count: E.
        lanes: episodes at once for each policy; rounded up to a multiple of the members.
        steps: T.
        horizon: longest episode.
        noise: standard deviation of normal noise on the actions, which are then clipped to [-1, 1].
        generator: of starts and noise, on the CPU.
    """
    members, device = ensemble.members, starts.device
    share = -(-lanes // members)
    lanes = share * members

    def drawn() -> Tensor:
        rows = torch.randint(len(starts), (policy_count, lanes), generator=generator)
        return starts[rows.to(device, non_blocking=True)]

    def grouped(each: Tensor) -> Tensor:  # (E, L, ...) to (K, E L / K, ...)
        split = each.reshape(policy_count, members, share, -1).transpose(0, 1)
        return split.reshape(members, policy_count * share, -1)

    def ungrouped(each: Tensor) -> Tensor:
        split = each.reshape(members, policy_count, share, -1).transpose(0, 1)
        return split.reshape(policy_count, lanes, -1)

    states = drawn()
    # Lanes begin at different ages, so that they do not all start again at once.
    age = torch.randint(horizon, (policy_count, lanes), generator=generator).to(device)
    found: tuple[list[Tensor], ...] = [], [], [], []
    for _ in range(steps):
        actions = policies(states)
        if noise:
            drawn_noise = torch.randn(actions.shape, generator=generator).to(device, non_blocking=True)
            actions = actions + noise * drawn_noise
        predicted = ensemble.step(grouped(states), grouped(actions.clamp(-1.0, 1.0)))
        age = age + 1
        is_lost = ungrouped(predicted.disagreement > ensemble.limit)[..., 0]
        is_terminal = ungrouped(predicted.ends > 0.5)[..., 0]
        is_over = is_lost | is_terminal | (age >= horizon)
        for kept, each in zip(found, (states, ungrouped(predicted.rewards)[..., 0], is_over, is_lost), strict=True):
            kept.append(each)
        states = torch.where(is_over[..., None], drawn(), ungrouped(predicted.states))
        age = torch.where(is_over, 0, age)
    return Rollouts(*(torch.stack(each) for each in found))
