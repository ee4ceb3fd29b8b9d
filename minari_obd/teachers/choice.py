"""Choice: how a teacher of discrete actions turns its critics' values into probabilities."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from minari_obd.errors import SettingError

__all__ = ["Choice", "fitted_temperature"]


@dataclass(frozen=True)
class Choice:
    """pi(a | s) = softmax(q(s, a) / temperature), over the actions that the actor finds likely enough, if there is one.

    The likeliest action is the greedy one, whatever the temperature. An actor, as of discrete BCQ (1910.01708), gives
    logits of a policy that imitates the data. Actions count whose probability is above ``least`` times the highest.
    """

    temperature: float
    """In units of the values."""
    least: float = 0.0
    """Least probability, from 0 to below 1, as a share of the likeliest action's; 0 if there is no actor."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0 and 0.0 <= self.least < 1.0):
            raise SettingError(
                "A teacher of discrete actions has a finite temperature above 0 and a least share from 0 to below 1; "
                f"got {self.temperature} and {self.least}."
            )

    def allowed(self, values: Tensor, logits: Tensor | None) -> Tensor:
        """Return the values (B, n), with minus infinity for actions that the actor's logits (B, n) rule out."""
        if logits is None or not self.least:
            return values
        chances = torch.log_softmax(logits, dim=-1)
        kept = chances - chances.amax(dim=-1, keepdim=True) > math.log(self.least)
        return values.masked_fill(~kept, -torch.inf)

    def probabilities(self, values: Tensor, logits: Tensor | None) -> Tensor:
        """Return pi(a | s), shape (B, n), for values (B, n) and the actor's logits (B, n), if it has one."""
        return torch.softmax(self.allowed(values, logits) / self.temperature, dim=-1)


def fitted_temperature(values: np.ndarray, share: float) -> float:
    """Return the temperature at which the likeliest action's probability has the mean ``share``.

    States with a single allowed action do not count; if there are no others, the temperature is 1.
    The size of values says little: in CartPole they are near 100 and differ by 1 between actions. So the temperature is
    found from what it does. It is at most a thousand times, and at least a millionth of, the mean spread of a state's
    values.

    Args:
        values: finite, or minus infinity for actions that are ruled out, shape (B, n).
        share: from 1 / n to 1.
    """
    found = torch.from_numpy(np.asarray(values, dtype=np.float64))
    found = found[found.isfinite().sum(1) > 1]
    if not len(found):
        return 1.0
    gaps = torch.where(found.isfinite(), found.amax(1, keepdim=True) - found, 0.0).amax(1)
    scale = max(float(gaps.mean()), 1e-12)
    low, high = math.log(1e-6 * scale), math.log(1e3 * scale)
    for _ in range(60):
        middle = 0.5 * (low + high)
        mean = float(torch.softmax(found / math.exp(middle), dim=1).amax(1).mean())
        low, high = (middle, high) if mean > share else (low, middle)
    return math.exp(0.5 * (low + high))
