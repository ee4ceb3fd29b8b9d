"""Checkpoints of the outer loop: all that a resume needs, in one safetensors file."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minari_obd.distiller.step import OuterTensors
from minari_obd.storage.tensors import read_tensors, reading, write_tensors

__all__ = ["OuterState", "Record", "read_checkpoint", "write_checkpoint"]

_KEY = "state"


@dataclass
class Record:
    """What is known of one run at its looks."""

    best_step: int = 0
    best_loss: float = float("inf")
    rate_factor: float = 1.0
    kernel_step: int = 0
    """Step of the kernel start that the pairs began from; 0 where none of its steps was better than its beginning."""
    history: list[dict[str, float]] = field(default_factory=list)
    reason: str | None = None
    """Why it stopped; None while it goes on."""
    has_diverged: bool = False
    """Whether it stopped because its gradients could not be used."""


@dataclass
class OuterState:
    """Everything that changes. Random numbers are drawn from (seed, step), so it holds no generator."""

    tensors: OuterTensors
    best: list[Tensor]
    """States and actions with the lowest held-out loss, shapes (R, M, S) and (R, M, A)."""
    records: list[Record]
    step: int = 0
    visits: list[Tensor] = field(default_factory=list)
    """States that students visited (R, V, S) and the wanted actions (R, V, A); none where they are not asked for."""
    threads: int = field(default_factory=torch.get_num_threads)
    """Of the CPU: bits depend on it."""


def write_checkpoint(path: Path, state: OuterState) -> None:
    """Write the state to a file."""
    tensors = state.tensors.named() | {f"best/{i}": each for i, each in enumerate(state.best)}
    tensors |= {f"visits/{i}": each for i, each in enumerate(state.visits)}
    numbers = {"step": state.step, "threads": state.threads, "records": [asdict(each) for each in state.records]}
    write_tensors(path, tensors, numbers, _KEY)


def read_checkpoint(path: Path, device: torch.device) -> OuterState:
    """Read what :func:`write_checkpoint` wrote.

    Raises:
        FormatError: the file is damaged.
    """
    with reading(f"The checkpoint '{path}' is damaged"):
        numbers, tensors = read_tensors(path, _KEY)
        found: dict[str, Any] = {name: tensor.to(device) for name, tensor in tensors.items()}
        best = [found.pop(f"best/{i}") for i in (0, 1)]
        visits = [found.pop(f"visits/{i}") for i in (0, 1) if f"visits/{i}" in found]
        lists = {name: [found.pop(f"{name}/{i}") for i in (0, 1)] for name in ("pairs", "first", "second", "average")}
        found.setdefault("cost_scale", torch.zeros(len(best[0]), device=device))  # of a run before there were costs
        records = [Record(**each) for each in numbers["records"]]
        return OuterState(OuterTensors(**lists, **found), best, records, numbers["step"], visits, numbers["threads"])
