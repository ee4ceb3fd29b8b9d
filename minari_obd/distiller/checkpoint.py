"""Checkpoints of the outer loop and of its start: all that a resume needs, in one safetensors file."""

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minari_obd.distiller.kernel import KernelState
from minari_obd.distiller.step import OuterTensors
from minari_obd.storage.tensors import read_tensors, reading, write_tensors

__all__ = ["OuterState", "Record", "StartState", "read_checkpoint", "write_checkpoint"]

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
class Clock:
    """How long a run has taken, whatever interrupted it."""

    earlier: float = 0.0
    """Seconds until its last checkpoint was read."""
    since: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Seconds in all."""
        return self.earlier + time.monotonic() - self.since


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
    clock: Clock = field(default_factory=Clock)


@dataclass
class StartState:
    """Everything that changes before the outer steps begin, while a kernel moves the pairs of one run after another."""

    pairs: list[Tensor]
    """The best so far: states (R, M, S) and actions (R, M, A)."""
    cost_scale: Tensor
    """See :class:`OuterTensors`."""
    records: list[Record]
    run: int = 0
    """Whose pairs are moved now."""
    best_loss: float = float("inf")
    """Of that run's looks."""
    kernel: KernelState | None = None
    """How far they are; None before their first step."""
    threads: int = field(default_factory=torch.get_num_threads)
    """Of the CPU: bits depend on it."""
    clock: Clock = field(default_factory=Clock)


def write_checkpoint(path: Path, state: OuterState | StartState) -> None:
    """Write the state to a file."""
    numbers: dict[str, Any] = {"threads": state.threads, "seconds": state.clock.seconds}
    numbers["records"] = [asdict(each) for each in state.records]
    if isinstance(state, OuterState):
        named = {"best": state.best, "visits": state.visits}
        write_tensors(path, state.tensors.named() | _numbered(named), {**numbers, "step": state.step}, _KEY)
        return
    numbers |= {"run": state.run, "best_loss": state.best_loss}
    named, kernel = {"pairs": state.pairs}, state.kernel
    if kernel is not None:
        named |= {"kernel": kernel.pairs, "moments": kernel.moments, "visits": kernel.visits}
        numbers["kernel_step"] = kernel.step
    write_tensors(path, {"cost_scale": state.cost_scale} | _numbered(named), numbers, _KEY)


def _numbered(lists: dict[str, list[Tensor]]) -> dict[str, Tensor]:
    return {f"{name}/{i}": each for name, tensors in lists.items() for i, each in enumerate(tensors)}


def read_checkpoint(path: Path, device: torch.device) -> OuterState | StartState:
    """Read what :func:`write_checkpoint` wrote.

    Raises:
        FormatError: the file is damaged.
    """
    with reading(f"The checkpoint '{path}' is damaged"):
        numbers, tensors = read_tensors(path, _KEY)
        found: dict[str, Any] = {name: tensor.to(device) for name, tensor in tensors.items()}

        def pop(name: str, count: int = 2) -> list[Tensor]:
            return [found.pop(f"{name}/{i}") for i in range(count)]

        visits = pop("visits") if "visits/0" in found else []
        records = [Record(**each) for each in numbers["records"]]
        clock = Clock(earlier=numbers.get("seconds", 0.0))
        if "run" in numbers:  # of the start
            known = {name: numbers[name] for name in ("run", "best_loss", "threads")}
            if "kernel_step" in numbers:
                known["kernel"] = KernelState(pop("kernel"), pop("moments", 4), visits, numbers["kernel_step"])
            return StartState(pop("pairs"), found.pop("cost_scale"), records, **known, clock=clock)
        best = pop("best")
        lists = {name: pop(name) for name in ("pairs", "first", "second", "average")}
        found.setdefault("cost_scale", torch.zeros(len(best[0]), device=device))  # of a run before there were costs
        tensors = OuterTensors(**lists, **found)
        return OuterState(tensors, best, records, numbers["step"], visits, numbers["threads"], clock)
