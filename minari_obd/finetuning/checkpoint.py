"""Checkpoints of fine-tuning: learner, replay buffer and record in one safetensors file."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from minari_obd.errors import FormatError

if TYPE_CHECKING:
    from minari_obd.finetuning.learner import Learner

__all__ = ["RunRecord", "read_checkpoint", "write_checkpoint"]


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
    """Write everything that changes to a temporary file and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors, numbers = learner.state()
    temporary = path.with_suffix(f".{os.getpid()}")
    cpu = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    save_file(cpu, temporary, metadata={"state": json.dumps({"learner": numbers, "record": asdict(record)})})
    temporary.replace(path)


def read_checkpoint(path: Path, learner: "Learner") -> RunRecord:
    """Bring a learner back to what :func:`write_checkpoint` wrote, and return the record.

    Raises:
        FormatError: the file is damaged.
        DataError: as :meth:`Learner.restore`.
    """
    try:
        with safe_open(path, framework="pt") as file:
            state = json.loads(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no iterator of its own
        record = RunRecord(**state["record"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise FormatError(f"The checkpoint '{path}' is damaged ({error}); delete it to start the run anew.") from error
    learner.restore(tensors, state["learner"])
    return record
