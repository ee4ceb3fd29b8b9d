"""What comes out of the outer loop."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from minari_obd.errors import MinariObdError

__all__ = ["DivergedError", "OuterResult"]


@dataclass(frozen=True)
class OuterResult:
    """The pairs that were kept for their held-out loss, and how they came about."""

    states: np.ndarray
    """Normalised states, shape (M, S)."""
    actions: np.ndarray
    """Actions on [-1, 1], shape (M, A)."""
    step: int
    """Outer step that they are from."""
    offline_loss: float
    """Weighted squared action error of fresh students on the held-out states."""
    history: list[dict[str, float]]
    """A row for each look at the held-out loss: step, held_out, training, gradient_norm, rate_factor, skipped. The
    first also has kernel_step, the step of the kernel start that the pairs began from."""
    reason: str
    """Why the run stopped, as a sentence."""
    earlier_seconds: float = 0.0
    """Seconds that it took before it was interrupted."""


class DivergedError(MinariObdError):
    """The pairs' gradient could not be used many times in a row."""

    def __init__(self, message: str, best: list[OuterResult]) -> None:
        super().__init__(message)
        self.best = best
        """The best pairs so far, of each run."""
        self.dataset: Any = None
        """The same as a distilled dataset, if :func:`distill` was what was called."""
