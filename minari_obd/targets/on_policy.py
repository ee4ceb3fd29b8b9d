"""On-policy weighting: distil where the teacher would go, judged by how well the data's recent actions match it."""

from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np
from scipy.signal import lfilter

from minari_obd.densities.weights import effective_sample_fraction
from minari_obd.settings.recipe import Recipe
from minari_obd.settings.sections import OnPolicyRecipe
from minari_obd.sources.data import OfflineData
from minari_obd.targets.targets import Objective, TargetInputs, Targets

__all__ = ["OnPolicyWeighting", "past_disagreement"]


def past_disagreement(data: OfflineData, actions: np.ndarray, decay: float) -> np.ndarray:
    r"""Measure how far the actions that led to each state were from the teacher's, shape (N,).

    c_0 = 0 in an episode's first state, where any policy starts, and c_{t+1} = decay c_t + (1 - decay) d_t with
    d_t = ‖a_t - pi*(s_t)‖² / A, both actions on [-1, 1]. For a teacher with Gaussian noise, -c is, up to a factor, the
    logarithm of the importance ratio of a state's recent actions, provided that the data's own noise was uniform.

    Args:
        data: the offline dataset.
        actions: pi*(s), on [-1, 1], shape (N, A).
        decay: factor by which an action's weight falls per step; a state's past spans about 1 / (1 - decay) actions.
    """
    distances = np.square(data.scaled_actions() - actions, dtype=np.float64).mean(axis=1)
    found = np.zeros(len(data))
    for start, stop in zip(data.episode_starts, [*data.episode_starts[1:], len(data)], strict=True):
        found[start + 1 : stop] = lfilter([1.0 - decay], [1.0, -decay], distances[start : stop - 1])
    return found


@dataclass(frozen=True)
class OnPolicyWeighting(Objective):
    """OPW, this package's own: PBC where the teacher would be, L = E_s~D exp(-c(s) / T) ‖pi(s) - pi*(s)‖².

    A cloned student goes where its teacher goes. The data is elsewhere too, and pairs that represent the teacher's
    actions everywhere have little capacity left for where it matters. c is :func:`past_disagreement`. The temperature T
    has its units and is not chosen for an effective sample fraction: data that is close to the teacher everywhere
    keeps more even weights, because c is mostly noise there. The method works with teachers that provide no values.
    """

    on_policy: OnPolicyRecipe = field(default_factory=OnPolicyRecipe)
    needs_teacher: ClassVar[bool] = True

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        """Make it with the recipe's ``on_policy``."""
        return cls(recipe.on_policy)

    def targets(self, given: TargetInputs) -> Targets:
        """Take the teacher's actions, weighted by how the data reached their states."""
        actions = given.scaled_teacher_actions
        temperature = self.on_policy.temperature_for(is_discrete=given.data.is_discrete)
        past = past_disagreement(given.data, actions, self.on_policy.decay)
        # Relative to the minimum, so that data far from the teacher everywhere cannot underflow.
        weights = np.exp((past.min() - past) / temperature)
        details = {
            "decay": self.on_policy.decay,
            "temperature": temperature,
            "mean_disagreement": float(past.mean()),
            "effective_fraction": effective_sample_fraction(weights),
        }
        return Targets(given.states, actions, weights / weights.mean(), details)
