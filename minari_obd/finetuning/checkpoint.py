"""Checkpoints of fine-tuning: learner, replay buffer and record in one safetensors file."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from minari_obd.storage.tensors import read_tensors, reading, write_tensors

if TYPE_CHECKING:
    from minari_obd.finetuning.learner import Learner

__all__ = ["RunRecord", "read_checkpoint", "write_checkpoint"]

_KEY = "state"


@dataclass
class RunRecord:
    """What is known of a run so far, beside its learner."""

    steps: list[int] = field(default_factory=list)
    returns: list[list[float]] = field(default_factory=list)
    bc_weights: list[float] = field(default_factory=list)
    training_steps: list[int] = field(default_factory=list)
    training_returns: list[float] = field(default_factory=list)
    floor: float | None = None
    """R_floor, which the reminder's weight goes by; None before the first episode that ends after the warm-up."""
    average: float = 0.0
    """R_avg, the mean return of late; of no meaning without R_floor."""
    seconds: float = 0.0


def write_checkpoint(path: Path, learner: "Learner", record: RunRecord) -> None:
    """Write everything that changes to a file."""
    tensors, numbers = learner.state()
    write_tensors(path, tensors, {"learner": numbers, "record": asdict(record)}, _KEY)


def read_checkpoint(path: Path, learner: "Learner") -> RunRecord:
    """Bring a learner back to what :func:`write_checkpoint` wrote, and return the record.

    Raises:
        FormatError: the file is damaged.
        DataError: as :meth:`Learner.restore`.
    """
    with reading(f"The checkpoint '{path}' is damaged; delete it to start the run anew"):
        state, tensors = read_tensors(path, _KEY)
        record, numbers = RunRecord(**state["record"]), state["learner"]
    learner.restore(tensors, numbers)
    return record
