"""Calibration: whether a teacher's values say what the data's own returns say."""

import math
from dataclasses import asdict, dataclass

import numpy as np
from scipy.stats import spearmanr

from minari_obd.sources.data import OfflineData
from minari_obd.sources.transitions import discounted_returns
from minari_obd.teachers.protocol import Teacher, valued

__all__ = ["Calibration", "calibrate"]

_NEGLECTED = 0.05
"""Share of a return that may lie beyond the end of what was recorded."""


_MOST = 20_000


@dataclass(frozen=True)
class Calibration:
    """Values q(s, a) of the data's own actions beside the discounted returns that followed them.

    A teacher better than the data values its actions higher than what the data then did, so values above returns are no
    error by themselves. Values beyond every return there is, or in no order with them, are.
    """

    states: int
    """Steps compared; none if no return is known to its end."""
    mean_value: float
    """Mean of q(s, a)."""
    mean_return: float
    """Mean discounted return."""
    highest_return: float
    lowest_return: float
    rank_correlation: float
    """Spearman's, between values and returns."""

    @property
    def problem(self) -> str | None:
        """Why the values are not to be trusted, as a clause; None if nothing speaks against them."""
        if not self.states:
            return None
        if not math.isfinite(self.mean_value):
            return "they are not finite"
        span = self.highest_return - self.lowest_return
        where = "above" if self.mean_value > self.highest_return + span else "below"
        if where == "above" or self.mean_value < self.lowest_return - span:
            limit = self.highest_return if where == "above" else self.lowest_return
            return f"their mean, {self.mean_value:.3g}, is far {where} every return in the data ({limit:.3g})"
        if self.rank_correlation < 0.0:
            return f"they fall where returns rise (rank correlation {self.rank_correlation:.2f})"
        return None

    def __str__(self) -> str:
        if not self.states:
            return "no return in the data is known to its end, so the values cannot be checked"
        text = (
            f"mean {self.mean_value:.3g}, discounted returns of the data {self.mean_return:.3g}, "
            f"rank correlation {self.rank_correlation:.2f}"
        )
        return text if self.problem is None else f"{text}; not to be trusted: {self.problem}"

    def to_json(self) -> dict[str, float | None]:
        """The figures as JSON values; None where there are none."""
        return {name: value if math.isfinite(value) else None for name, value in asdict(self).items()}


def calibrate(teacher: Teacher, data: OfflineData, *, gamma: float = 0.99) -> Calibration:
    """Compare a teacher's values with the discounted returns in the data.

    Steps count whose episode ended in a terminal state, or went on for so long that what is missing of the return is
    discounted to 5%. Of more than 20,000 such steps, every n-th is taken.

    Args:
        teacher: whose ``value`` is asked.
        data: the offline dataset.
        gamma: the discount that the values are of.
    """
    returns = discounted_returns(data, gamma)
    lengths = np.diff([*data.episode_starts, len(data)])
    ends = np.repeat(data.episode_starts + lengths, lengths)
    far = math.ceil(math.log(_NEGLECTED) / math.log(gamma))
    known = np.flatnonzero(data.terminations[ends - 1] | (ends - np.arange(len(data)) >= far))
    known = known[:: 1 + len(known) // _MOST]
    if len(known) < 2:
        return Calibration(0, *(math.nan,) * 5)
    values = valued(teacher, data.observations[known], data.actions[known])
    wanted = returns[known]
    is_flat = np.ptp(values) == 0 or np.ptp(wanted) == 0 or not np.isfinite(values).all()
    correlation = 0.0 if is_flat else float(np.asarray(spearmanr(values, wanted))[0])
    spread = float(wanted.max()), float(wanted.min())
    return Calibration(len(known), float(values.mean()), float(wanted.mean()), *spread, correlation)
