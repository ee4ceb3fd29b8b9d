"""Reference scores: the returns that count as scores of 0 and 100."""

from dataclasses import dataclass

import numpy as np

from minari_obd.errors import DataError, FormatError, NotFoundError

__all__ = ["REFERENCE_SCORES", "ReferenceScores", "check_returns", "reference_of", "reference_scores"]

_MOST_RETURN = 1e100
"""Sums and squares of larger returns, or scores, are not finite."""


@dataclass(frozen=True)
class ReferenceScores:
    """The two returns that define the scale of a normalised score."""

    random: float
    """Mean undiscounted return of uniformly random actions."""
    expert: float
    """Mean undiscounted return of the reference expert."""
    source: str
    """Origin of the two numbers."""

    def __post_init__(self) -> None:
        if not -np.inf < self.random < self.expert < np.inf:
            raise DataError(
                "Reference scores are two finite returns, and the expert's must be above that of random actions; got "
                f"{self.expert} and {self.random}."
            )

    def normalise(self, returns: np.ndarray) -> np.ndarray:
        """Score = 100 (R - random) / (expert - random), elementwise (D4RL, Fu et al. 2020, arXiv 2004.07219)."""
        return 100.0 * (np.asarray(returns, dtype=np.float64) - self.random) / (self.expert - self.random)


_D4RL = "D4RL infos.py (Fu et al. 2020), MuJoCo v2 tasks with a horizon of 1,000 steps"


_OURS = "measured by minari-obd in Gymnasium's v1 environments, random actions over 2,000 (Acrobot: 200) episodes"


# Minari's mujoco/* datasets have no reference scores, so the package includes D4RL's.
# They were measured in the -v2 environments and are by convention used for their successors.
REFERENCE_SCORES = {
    "HalfCheetah": ReferenceScores(-280.178953, 12135.0, _D4RL),
    "Hopper": ReferenceScores(-20.272305, 3234.3, _D4RL),
    "Walker2d": ReferenceScores(1.629008, 4592.3, _D4RL),
    "Ant": ReferenceScores(-325.6, 3879.7, _D4RL),
    "CartPole": ReferenceScores(22.4, 500.0, f"{_OURS}; the expert's is the most there is"),
    "Acrobot": ReferenceScores(-499.2, -80.7, f"{_OURS}; the expert is PPO after 204,800 steps, over 100 episodes"),
    "LunarLander": ReferenceScores(
        -182.1,
        200.0,
        "measured by minari-obd in LunarLander-v3, random actions over 2,000 episodes; 200 is Gymnasium's "
        "threshold of a solution",
    ),
}


def reference_scores(env_id: str) -> ReferenceScores:
    """Return the reference scores of a Gymnasium id such as ``Hopper-v5``.

    Raises:
        NotFoundError: the table has no scores for this environment.
    """
    name = env_id.rsplit("-v", 1)[0]
    if name not in REFERENCE_SCORES:
        raise NotFoundError(
            f"There are no reference scores for '{env_id}' (known: {', '.join(REFERENCE_SCORES)}); "
            "use the returns, or give reference scores with the dataset."
        )
    return REFERENCE_SCORES[name]


def reference_of(env_id: str | None) -> ReferenceScores | None:
    """The same, or None if the environment is not known or not in the table."""
    return REFERENCE_SCORES.get((env_id or "").rsplit("-v", 1)[0])


def check_returns(returns: np.ndarray, reference: ReferenceScores | None, place: str) -> None:
    """Refuse returns of a file, any shape, that no mean can be taken of, or of whose scores none can be.

    Raises:
        FormatError: some are not finite, or too large. It begins with the ``place``.
    """
    with np.errstate(all="ignore"):
        numbers = returns if reference is None else np.stack([returns, reference.normalise(returns)])
    if not (np.abs(numbers) < _MOST_RETURN).all():  # neither is what is not a number
        raise FormatError(f"{place}: some, or their scores, are beyond {_MOST_RETURN:g}.")
