"""Training state of a teacher: all that a resume needs, in one safetensors file, and the log of how it went."""

import contextlib
import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minari_obd.storage.tensors import read_tensors, reading, write_tensors
from minari_obd.support.streams import Stream
from minari_obd.support.tracking import Track, named

__all__ = [
    "TrainingRecord",
    "contained",
    "d3rlpy_device",
    "generator_of",
    "log_text",
    "look",
    "read_training",
    "write_training",
]

_KEY = "record"


@dataclass
class TrainingRecord:
    """What is known of a training besides its networks."""

    step: int = 0
    """Updates made."""
    rng: dict[str, Any] = field(default_factory=dict)
    """State of the generator of batches."""
    log: list[dict[str, float]] = field(default_factory=list)
    """A row for each look: update, losses, mean value of the actor's actions."""
    threads: int = field(default_factory=torch.get_num_threads)
    """Of the CPU: bits depend on it."""


def look(record: TrainingRecord, losses: Mapping[str, float], value: float, track: Track | None) -> None:
    """Add a row to the log, and tell it to who listens.

    Args:
        record: what gets the row.
        losses: of the last update.
        value: mean value of the actor's actions.
        track: who listens, if anyone.
    """
    row = {**{name: float(loss) for name, loss in losses.items()}, "mean_value": value}
    record.log.append({"update": record.step, **row})
    named(track, "teacher", record.step, row)


@contextlib.contextmanager
def contained(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generator, which d3rlpy draws from, and put it back as it was afterwards."""
    devices = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def write_training(path: Path, modules: Mapping[str, Any], device: torch.device, record: TrainingRecord) -> None:
    """Write networks, optimisers, torch's random state and the record.

    Args:
        path: the file.
        modules: d3rlpy's networks and optimisers by their names.
        device: where they are.
        record: the rest.
    """
    tensors = {"rng/cpu": torch.get_rng_state()}
    if device.type == "cuda":
        tensors["rng/cuda"] = torch.cuda.get_rng_state(device)
    for name, module in modules.items():
        if isinstance(module, torch.nn.Module):
            tensors |= {f"module/{name}/{key}": value for key, value in module.state_dict().items()}
        else:
            for number, values in module.optim.state_dict()["state"].items():
                tensors |= {f"optimiser/{name}/{number}/{key}": value for key, value in values.items()}
    # Clones, since networks may share tensors, which safetensors refuses.
    write_tensors(path, {name: tensor.detach().clone() for name, tensor in tensors.items()}, asdict(record), _KEY)


def read_training(path: Path, modules: Mapping[str, Any], device: torch.device) -> TrainingRecord:
    """Put networks, optimisers and torch's random state back as they were written, and return the record.

    Raises:
        FormatError: the file is damaged.
    """
    with reading(f"The checkpoint '{path}' is damaged"):
        values, tensors = read_tensors(path, _KEY)
        record = TrainingRecord(**values)
    for name, module in modules.items():
        if isinstance(module, torch.nn.Module):
            module.load_state_dict(_below(f"module/{name}/", tensors))
        else:
            state: dict[int, dict[str, Tensor]] = {}
            for place, value in _below(f"optimiser/{name}/", tensors).items():
                number, key = place.split("/")
                state.setdefault(int(number), {})[key] = value
            module.optim.load_state_dict({**module.optim.state_dict(), "state": state})
    torch.set_rng_state(tensors["rng/cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(tensors["rng/cuda"], device)
    return record


def log_text(log: list[dict[str, float]]) -> str:
    """The log as CSV. What an update has no loss of is left empty: TD3's actor moves in every second one."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in log for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(log)
    return text.getvalue()


def generator_of(seed: int, record: TrainingRecord) -> np.random.Generator:
    """Return the generator of batches, where the record left it."""
    rng = Stream.TEACHER.generator(seed)
    if record.rng:
        rng.bit_generator.state = record.rng
    return rng


def d3rlpy_device(device: torch.device) -> str:
    """Return a device as d3rlpy names it."""
    return f"{device.type}:{device.index or 0}"


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
