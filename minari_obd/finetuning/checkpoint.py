"""Checkpoints of fine-tuning: learner, replay buffer and record in one safetensors file."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

from minari_obd.finetuning.learner import Learner
from minari_obd.storage.tensors import read_tensors, reading, write_tensors

__all__ = ["RunRecord", "read_checkpoint", "write_checkpoint"]

_KEY = "state"


@dataclass
class RunRecord:
    """What a run has measured so far; the names are those of :class:`FinetuneReport`."""

    steps: list[int] = field(default_factory=list)
    returns: list[list[float]] = field(default_factory=list)
    bc_weights: list[float] = field(default_factory=list)
    training_steps: list[int] = field(default_factory=list)
    training_returns: list[float] = field(default_factory=list)
    seconds: float = 0.0


def write_checkpoint(path: Path, learner: Learner, record: RunRecord) -> None:
    """Write everything that changes to a file."""
    tensors, numbers = learner.state()
    reminder = learner.reminder
    state = {
        "learner": {**numbers, "bc_weight": reminder.weight},
        "record": {**asdict(record), "floor": reminder.floor, "average": reminder.average},
    }
    write_tensors(path, tensors, state, _KEY)


def read_checkpoint(path: Path, learner: Learner) -> RunRecord:
    """Bring a learner back to what :func:`write_checkpoint` wrote, and return the record.

    Raises:
        FormatError: the file is damaged.
        DataError: as :meth:`Learner.restore`.
    """
    with reading(f"The checkpoint '{path}' is damaged"):
        state, tensors = read_tensors(path, _KEY)
        numbers, kept = state["learner"], state["record"]
        weight, floor, average = numbers.pop("bc_weight"), kept.pop("floor"), kept.pop("average")
        record = RunRecord(**kept)
    learner.restore(tensors, numbers)
    learner.reminder.weight, learner.reminder.floor, learner.reminder.average = weight, floor, average
    return record
