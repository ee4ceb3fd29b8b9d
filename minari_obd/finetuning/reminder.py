"""The reminder: its weight in the actor's loss, the rule that moves the weight, and the pairs it may draw from."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev

import numpy as np
import torch
from torch import Tensor

from minari_obd.errors import SettingError
from minari_obd.scores.references import ReferenceScores
from minari_obd.settings.finetuning import FinetuningRecipe

__all__ = ["Reminder", "ReminderPairs", "check_reminder_data", "return_floor", "return_scale"]

_RATES = {"guarded": 0.1, "adaptive": 0.05}  # with which the average return follows; Zhao et al.'s for their rule


@dataclass(frozen=True)
class ReminderPairs:
    """The states and actions that the actor is held to with ``bc_states="data"``."""

    observations: Tensor
    """Observations, shape (M, S), raw units."""
    actions: Tensor
    """Actions, shape (M, A), on [-1, 1]."""

    def draw(self, size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return all pairs, or ``size`` of them at random if there are more."""
        if len(self.observations) <= size:
            return self.observations, self.actions
        rows = torch.from_numpy(rng.integers(len(self.observations), size=size))
        return self.observations[rows], self.actions[rows]


@dataclass
class Reminder:
    r"""The reminder's weight w, and the rule by which it follows the returns of the training episodes.

    ``guarded``: the reminder fades unless the learner does worse than the clone, and comes back while it does,

        R_avg <- R_avg + 0.1 (R - R_avg)
        w <- clip(w exp(-T / bc_decay) if R_avg >= R_floor, else w exp(T / bc_recovery), w_0 / 1000, w_0)

    ``adaptive``: the rule of Zhao et al. 2022 (arXiv 2210.13846), as in its authors' code,

        w <- clip(w + w_0 T (-K_P (R* - R_avg) + K_D max(0, R_avg - R)), 0, w_0)
        R_avg <- R_avg + 0.05 (R - R_avg)

    The weight falls with every episode that is no worse than the last ones, more slowly the nearer they are to the
    target, and rises when returns collapse.

    R is an episode's return and T its number of steps. Both rules start after the warm-up, with R_avg at the mean
    return R_0 of the warm-up's episodes. With ``constant`` the weight stays.
    """

    settings: FinetuningRecipe
    pairs: ReminderPairs | None = None
    """Where the actor is reminded; None for the states that the learner visits."""
    scale: ReferenceScores | None = None
    """The returns that count as 0 and 1 (:func:`return_scale`); None for plain returns."""
    weight: float = field(init=False)
    """w; w_0 at the start."""
    average: float = field(default=0.0, init=False)
    """R_avg; it has no meaning before there is an R_floor."""
    floor: float | None = field(default=None, init=False)
    """R_floor (:func:`return_floor`); None before the first episode that ends after the warm-up."""

    def __post_init__(self) -> None:
        self.weight = self.settings.bc_weight

    def after_episode(self, value: float, length: int, *, warm: Sequence[float]) -> None:
        """Move the weight after a training episode that ended after the warm-up.

        Args:
            value: the episode's return.
            length: T, its environment steps.
            warm: returns of the clone, which R_floor and R_0 are computed from the first time: those of the warm-up's
                episodes, or of the first evaluation if no episode ended in the warm-up.
        """
        settings = self.settings
        if settings.bc_weight == 0 or settings.bc_schedule == "constant":
            return
        if self.floor is None:
            found = [self._scaled(each) for each in warm]
            self.floor, self.average = return_floor(found), fmean(found)
        current, before = self._scaled(value), self.average
        self.average += _RATES[settings.bc_schedule] * (current - before)  # equal returns stay equal, to the bit
        if settings.bc_schedule == "guarded":
            change = -length / settings.bc_decay if self.average >= self.floor else length / settings.bc_recovery
            share = self.weight / settings.bc_weight * math.exp(min(change, 7.0))  # e^7 > 1000: all the way up
            self.weight = settings.bc_weight * min(max(share, 1e-3), 1.0)
        else:
            change = -settings.proportional_gain * (settings.target - before)
            change += settings.derivative_gain * max(0.0, before - current)
            self.weight = min(max(self.weight + settings.bc_weight * length * change, 0.0), settings.bc_weight)

    def _scaled(self, value: float) -> float:
        return value if self.scale is None else 0.01 * float(self.scale.normalise(np.array(value)))


def return_floor(returns: Sequence[float]) -> float:
    r"""Return R_floor: ``guarded`` holds a learner back when its average return falls below it.

        R_floor = R_0 - 2 s sqrt(1 / n + 1 / 19)

    with R_0 and s the mean and the standard deviation of the clone's n returns; 1 / 19 is the variance of R_avg,
    0.1 / (2 - 0.1), in units of that of a return. So a learner that is as good as the clone is seldom taken
    for a worse one. The spread of a single return is unknown, and R_floor is that return.
    """
    spread = stdev(returns) if len(returns) > 1 else 0.0
    rate = _RATES["guarded"]
    return fmean(returns) - 2.0 * spread * math.sqrt(1.0 / len(returns) + rate / (2.0 - rate))


def return_scale(
    settings: FinetuningRecipe, env_id: str | None, reference: ReferenceScores | None
) -> ReferenceScores | None:
    """Return the returns that the rule ``adaptive`` counts as 0 and 1; None where no rule needs a scale.

    Raises:
        SettingError: the rule needs a scale, and neither reference scores nor the settings give one.
    """
    if settings.bc_weight == 0 or settings.bc_schedule != "adaptive":
        return None
    expert = settings.expert_return
    if expert is not None:
        return ReferenceScores(0.0 if reference is None else reference.random, expert, "finetuning.expert_return")
    if reference is None:
        raise SettingError(
            f"bc_schedule 'adaptive' needs a scale of returns, and '{env_id}' has no reference scores; set "
            "finetuning.expert_return to an expert's return, or use bc_schedule 'guarded', which needs no scale."
        )
    return reference


def check_reminder_data(settings: FinetuningRecipe) -> None:
    """Make sure that the reminder would use data that is given for it.

    Raises:
        SettingError: there is no reminder, or it is at states that are not the data's.
    """
    if settings.bc_weight == 0 or settings.bc_states == "visited":
        raise SettingError(
            f"There is data to be reminded of, but finetuning.bc_weight is {settings.bc_weight} and bc_states "
            f"'{settings.bc_states}'; set bc_states to 'data' and a weight above 0, or leave out bc_data."
        )
