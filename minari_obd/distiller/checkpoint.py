"""Checkpoints of the outer loop: all that a resume needs, in one safetensors file."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from minari_obd.distiller.graphs import StepGraphs
from minari_obd.distiller.step import OuterTensors

__all__ = ["OuterState", "Record", "read_checkpoint", "write_checkpoint"]


@dataclass
class Record:
    """What is known of one run at its looks."""

    best_step: int = 0
    best_loss: float = float("inf")
    rate_factor: float = 1.0
    history: list[dict[str, float]] = field(default_factory=list)
    reason: str | None = None
    """Why it stopped; None while it goes on."""
    has_diverged: bool = False
    """Whether it stopped because its gradients could not be used."""


@dataclass
class OuterState:
    """Everything that changes. Random numbers are drawn anew from (seed, step), so no generator is part of it."""

    tensors: OuterTensors
    best: list[Tensor]
    """States and actions with the lowest held-out loss, shapes (R, M, S) and (R, M, A)."""
    records: list[Record]
    step: int = 0
    threads: int = field(default_factory=torch.get_num_threads)
    """Of the CPU: bits depend on it."""
    graphs: StepGraphs | None = None
    """Captured outer steps, on CUDA; not part of a checkpoint."""


def write_checkpoint(path: Path, state: OuterState) -> None:
    """Write the state to a temporary file and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = state.tensors.named() | {f"best/{i}": each for i, each in enumerate(state.best)}
    numbers = {"step": state.step, "threads": state.threads, "records": [asdict(each) for each in state.records]}
    temporary = path.with_suffix(f".{os.getpid()}")
    cpu = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    save_file(cpu, temporary, metadata={"state": json.dumps(numbers)})
    temporary.replace(path)


def read_checkpoint(path: Path, device: torch.device) -> OuterState:
    """Read what :func:`write_checkpoint` wrote."""
    with safe_open(path, framework="pt") as file:
        numbers = json.loads(file.metadata()["state"])
        found = {name: file.get_tensor(name).to(device) for name in file.keys()}  # noqa: SIM118  # no iterator of its own
    best = [found.pop(f"best/{i}") for i in (0, 1)]
    lists = {name: [found.pop(f"{name}/{i}") for i in (0, 1)] for name in ("pairs", "first", "second", "average")}
    records = [Record(**each) for each in numbers["records"]]
    return OuterState(OuterTensors(**lists, **found), best, records, numbers["step"], numbers["threads"])
