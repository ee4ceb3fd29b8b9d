"""Minibatches of a teacher's training: transitions of the data and, of model-based algorithms, imagined ones."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minari_obd.dynamics.ensemble import DynamicsEnsemble
from minari_obd.support.streams import Stream
from minari_obd.teachers.algorithms import Imagination

__all__ = ["Imagined", "minibatches"]


class Imagined(torch.nn.Module):
    """Transitions that an actor made in the dynamics ensemble.

    A ring of rows, as a buffer of a module, so that it is a part of the training's checkpoint.
    """

    table: Tensor

    def __init__(
        self,
        algo: Any,
        ensemble: DynamicsEnsemble,
        starts: Tensor,
        action_size: int,
        settings: Imagination,
        seed: int,
    ) -> None:
        """Begin with an empty ring.

        Args:
            algo: d3rlpy's SAC, whose actor acts and whose target critics say what follows is worth.
            ensemble: the dynamics.
            starts: normalised states of the data to start at, shape (N, S).
            action_size: A.
            settings: of the rollouts.
            seed: of starts, members and the actor's noise.
        """
        super().__init__()
        self._algo, self._ensemble, self._starts = algo, ensemble, starts
        self._settings, self._seed = settings, seed
        self.step = 0
        """Updates that minibatches were drawn for."""
        self._sizes = {"observations": starts.shape[1], "actions": action_size, "rewards": 1}
        self._sizes |= {"next_observations": starts.shape[1], "terminals": 1}
        self._made = settings.horizon * settings.rollouts
        rows = settings.kept * self._made
        self.register_buffer("table", torch.zeros(rows, sum(self._sizes.values()), device=starts.device))

    @property
    def real_share(self) -> float:
        """Share of a minibatch that comes from the data."""
        return self._settings.real_share

    def draw(self, count: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """Draw so many transitions for the next update, after new rollouts if it is time for them."""
        number, place = divmod(self.step, self._settings.refresh)
        if place == 0:
            begin = number % self._settings.kept * self._made
            self.table[begin : begin + self._made] = self._roll_out(number)
        self.step += 1
        filled = min(number + 1, self._settings.kept) * self._made
        rows = torch.from_numpy(rng.integers(filled, size=count)).to(self.table.device)
        parts = self.table[rows].split(list(self._sizes.values()), dim=1)
        return dict(zip(self._sizes, parts, strict=True))

    @torch.no_grad()
    def _roll_out(self, number: int) -> Tensor:
        """Follow the actor for a few steps, shape (horizon x rollouts, columns). An ended rollout starts again."""
        count, impl = self._settings.rollouts, self._algo.impl
        generator = torch.Generator().manual_seed(Stream.IMAGINATION.seed(self._seed, number))
        device, each = self._starts.device, torch.arange(count, device=self._starts.device)

        def drawn(below: int) -> Tensor:
            return torch.randint(below, (count,), generator=generator).to(device, non_blocking=True)

        states, made = self._starts[drawn(len(self._starts))], []
        for _ in range(self._settings.horizon):
            policy = impl.policy(states)
            noise = torch.randn(policy.mu.shape, generator=generator).to(device, non_blocking=True)
            actions = torch.tanh(policy.mu + policy.logstd.exp() * noise)
            found = self._ensemble.opinions(states, actions)
            member = drawn(self._ensemble.members)
            following, reward, end = (part[member, each] for part in (found.states, found.rewards, found.ends))
            is_end = (end > 0.5)[:, None]
            rewards = reward[:, None] - self._settings.penalty * self._doubt(found.states)[:, None]
            made.append(torch.cat([states, actions, rewards, following, is_end.float()], dim=1))
            states = torch.where(is_end, self._starts[drawn(len(self._starts))], following)
        return torch.cat(made)

    def _doubt(self, following: Tensor) -> Tensor:
        """Standard deviation over the members of the discounted value of their next states (K, B, S); shape (B,)."""
        impl, states = self._algo.impl, following.flatten(0, 1)
        actions = impl.policy(states).squashed_mu
        values = torch.stack([critic(states, actions).q_value for critic in impl.modules.targ_q_funcs])
        return self._algo.config.gamma * values.amin(0).reshape(following.shape[:2]).std(0)


def minibatches(
    columns: Mapping[str, Tensor], count: int, rng: np.random.Generator, device: str, imagined: Imagined | None = None
) -> Iterator[Any]:
    """Draw minibatches with replacement, without end; d3rlpy's own sampler takes as long as an update.

    Args:
        columns: transitions of the data on the device, as :func:`minari_obd.sources.transitions.transitions` has them.
        count: of a minibatch.
        rng: generator of rows.
        device: as d3rlpy names it.
        imagined: where the rest of a minibatch comes from, if not all of it is the data's.
    """
    from d3rlpy.torch_utility import TorchMiniBatch

    where = columns["rewards"].device
    real = count if imagined is None else round(imagined.real_share * count)
    ones = torch.ones(count, 1, device=where)
    # What imagined transitions lack is for algorithms that learn from data alone.
    lacking = {name: torch.zeros(count - real, column.shape[1], device=where) for name, column in columns.items()}
    while True:
        rows = torch.from_numpy(rng.integers(len(columns["rewards"]), size=real)).to(where)
        batch: dict[str, Any] = {name: column[rows] for name, column in columns.items()}
        if imagined is not None:
            more = lacking | imagined.draw(count - real, rng)
            batch = {name: torch.cat([part, more[name]]) for name, part in batch.items()}
        yield TorchMiniBatch(**batch, intervals=ones, device=device)
