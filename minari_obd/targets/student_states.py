"""Student states: where students would go in the learned dynamics, and what the teacher would do there."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from minari_obd.dynamics.ensemble import DynamicsEnsemble
from minari_obd.dynamics.rollouts import roll_out
from minari_obd.settings.sections import StudentStatesRecipe
from minari_obd.sources.data import OfflineData
from minari_obd.support.streams import Stream
from minari_obd.targets.targets import Policies
from minari_obd.teachers.protocol import Teacher, bounded_actions

__all__ = ["StudentStates"]

_LANES = 50  # rollouts at once for each policy
_FOLLOWED = 200  # episodes of the teacher at once
_STARTS = 4_096
_STEPS = 200
_STATES = 4_096  # kept of each round


@dataclass(frozen=True, eq=False)
class StudentStates:
    """States that policies visit in the ensemble, with the teacher's actions there.

    Theorem 2 of 2410.22728 takes errors at the states of the student, not at those of the data. The rollouts start
    half at the data's episode starts and half in states of the data, drawn by weight. Noise on the students' actions
    makes them leave their way and shows how the teacher comes back (as DART, Laskey et al. 2017, 1703.09327); labels
    have no noise. Of discrete actions, the likeliest is taken, or, in a share ``noise`` of the steps, any one.
    """

    ensemble: DynamicsEnsemble
    data: OfflineData
    teacher: Teacher
    settings: StudentStatesRecipe
    seed: int
    weights: np.ndarray | None = None
    """Weights of the data's states, shape (N,), to start in proportion to; equal if not given."""

    @cached_property
    def starts(self) -> Tensor:
        """Normalised states to start at, shape (N, S)."""
        rng, firsts = Stream.VISITS.generator(self.seed), self.data.episode_starts
        weights = np.ones(len(self.data)) if self.weights is None else np.asarray(self.weights, np.float64)
        anywhere = rng.choice(len(self.data), _STARTS, p=weights / weights.sum())
        rows = np.concatenate([firsts[rng.integers(len(firsts), size=_STARTS)], anywhere])
        states = self.data.normaliser.normalise(self.data.observations[rows])
        return torch.from_numpy(states).to(self.ensemble.low.device)

    @cached_property
    def held_out(self) -> tuple[Tensor, Tensor]:
        """States that the teacher itself visits, with the same noise, to judge pairs on."""
        generator = torch.Generator().manual_seed(Stream.VISITS.seed(self.seed))
        return self._rolled(lambda states: self._wanted(states[0])[None], 1, generator)

    @cached_property
    def lost(self) -> float:
        """Share of the teacher's own episodes in the ensemble, without noise, that leave what the ensemble knows.

        They start where the data's episodes start. Where the ensemble cannot follow the teacher, what it says of
        students that imitate the teacher means nothing.
        """
        rolled = roll_out(
            self.ensemble,
            lambda states: self._wanted(states[0])[None],
            self.starts[:_STARTS],
            policy_count=1,
            lanes=_FOLLOWED,
            steps=self.settings.horizon,
            horizon=self.settings.horizon,
            noise=0.0,
            generator=torch.Generator().manual_seed(Stream.VISITS.seed(self.seed)),
        )
        return rolled.lost

    def visit(self, policies: Policies, count: int, seed: int, step: int) -> tuple[Tensor, Tensor]:
        """Follow ``count`` policies, and return 4,096 of the states that they visit with the teacher's actions."""
        return self._rolled(policies, count, torch.Generator().manual_seed(Stream.VISITS.seed(seed, step)))

    def to(self, device: torch.device) -> "StudentStates":
        """Return the same on a device."""
        return replace(self, ensemble=self.ensemble.to(device))

    def _rolled(self, policies: Policies, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        is_discrete = self.data.is_discrete
        rolled = roll_out(
            self.ensemble,
            _certain(policies, self.settings.noise, generator) if is_discrete else policies,
            self.starts,
            policy_count=count,
            lanes=_LANES,
            steps=max(_STEPS, self.settings.horizon),
            horizon=self.settings.horizon,
            noise=0.0 if is_discrete else self.settings.noise,
            generator=generator,
        )
        states = rolled.states.flatten(0, 2)
        states = states[torch.randint(len(states), (_STATES,), generator=generator).to(states.device)]
        return states, self._wanted(states)

    def _wanted(self, states: Tensor) -> Tensor:
        """The teacher's actions (B, A) on [-1, 1] in normalised states (B, S)."""
        raw = self.data.normaliser.denormalise(states.cpu().numpy())
        actions = bounded_actions(self.teacher, raw, self.data.action_low, self.data.action_high)
        return torch.from_numpy(self.data.action_scale.scale(actions).astype(np.float32)).to(states.device)


def _certain(policies: Policies, noise: float, generator: torch.Generator) -> Policies:
    """Policies that take one discrete action: the likeliest, or in a share ``noise`` of the steps any one."""

    def act(states: Tensor) -> Tensor:
        scores = policies(states)
        taken = scores.argmax(-1)
        any_one = torch.randint(scores.shape[-1], taken.shape, generator=generator)
        is_random = torch.rand(taken.shape, generator=generator) < noise
        is_random, any_one = (each.to(taken.device, non_blocking=True) for each in (is_random, any_one))
        taken = torch.where(is_random, any_one, taken)
        return 2.0 * torch.nn.functional.one_hot(taken, scores.shape[-1]).to(scores) - 1.0

    return act
