"""The outer loop: moves the pairs so that students cloned from them hit the targets. It knows targets, nothing else."""

import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from minari_obd.errors import DataError, MinariObdError
from minari_obd.inner_loop import mean_squared_error, train_students
from minari_obd.interrupts import deferred_interrupts
from minari_obd.objectives import Targets
from minari_obd.progress import progress_bar
from minari_obd.recipe import DistillationRecipe, StudentProtocol
from minari_obd.students import make_student, student_generators

__all__ = ["OuterLoop", "OuterResult"]

_HELD_OUT_STATES = 4_096
_HELD_OUT_STUDENTS = 2
_CHECKPOINT_SECONDS = 60.0
_MOST_SKIPPED = 20
_DRIFT = 1.25


@dataclass(frozen=True)
class OuterResult:
    """The pairs with the lowest held-out loss, and how they came about."""

    states: np.ndarray
    """Normalised states, shape (M, S)."""
    actions: np.ndarray
    """Actions on [-1, 1], shape (M, A)."""
    step: int
    """Outer step that they are from."""
    offline_loss: float
    """Weighted squared action error of fresh students on the held-out states."""
    history: list[dict[str, float]]
    """A row for each look at the held-out loss: step, held_out, training, gradient_norm, rate_factor."""
    reason: str
    """Why the run stopped, as a sentence."""


@dataclass
class _State:
    """All that a resume needs. Random numbers are drawn anew from (seed, step), so no generator is part of it."""

    pairs: list[Tensor]
    first: list[Tensor]
    second: list[Tensor]
    best: list[Tensor]
    step: int = 0
    best_step: int = 0
    best_loss: float = math.inf
    skipped: int = 0
    threads: int = field(default_factory=torch.get_num_threads)
    training: float = math.nan
    gradient_norm: float = math.nan
    usual_norm: float = math.nan
    rate_factor: float = 1.0
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class OuterLoop:
    """Gradient descent on M pairs through the behavioural cloning of students from them.

    min over (states, actions) of E_theta0 E_b w_b ‖pi_theta_T(states, actions)(s_b) - a_b‖², where theta_T is the
    student that ``protocol`` makes of the pairs from a random theta_0 (2410.22728).
    """

    protocol: StudentProtocol
    settings: DistillationRecipe
    seed: int
    device: torch.device

    def start(self, targets: Targets, size: int) -> _State:
        """Begin at random states of the targets with the actions that are wanted there."""
        training, _ = self.split(len(targets))
        rows = np.random.default_rng([self.seed, 1]).choice(training, size, replace=False)
        pairs = [self._tensor(targets.states[rows]), self._tensor(targets.actions[rows])]
        zeros = [torch.zeros_like(p) for p in pairs]
        return _State(pairs, zeros, [z.clone() for z in zeros], [p.clone() for p in pairs])

    def check_size(self, count: int, size: int) -> None:
        """Make sure that ``size`` pairs can start at different ones of ``count`` states.

        Raises:
            DataError: there are too few states.
        """
        training, held_out = self.split(count)
        if size > len(training):
            raise DataError(
                f"{size} pairs were asked for, but there are only {len(training)} states to distil "
                f"({len(held_out)} of {count} are held out); ask for fewer pairs."
            )

    def split(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows to train on and the rows held out."""
        order = np.random.default_rng([self.seed, 0]).permutation(count)
        held_out = max(1, int(self.settings.held_out * count))
        return np.sort(order[held_out:]), np.sort(order[:held_out])

    def run(self, targets: Targets, size: int, *, checkpoint: Path | None = None, progress: bool = True) -> OuterResult:
        """Distil ``size`` pairs.

        Args:
            targets: what students should do.
            size: how many pairs, fewer than there are states to train on.
            checkpoint: a file that is written every minute and read first if it exists. It must be named after
                all that decides the result, since nothing is compared.
            progress: show a bar.

        Raises:
            DataError: more pairs than states to train on.
            MinariObdError: the gradient was not finite many times in a row.
        """
        self.check_size(len(targets), size)
        training, held_out = self.split(len(targets))
        state = self.start(targets, size)
        if checkpoint is not None and checkpoint.is_file():
            state = _read_checkpoint(checkpoint, self.device)
            torch.set_num_threads(state.threads)  # bits depend on it
        whole = [self._tensor(array) for array in (targets.states, targets.actions, targets.weights)]
        held_out = held_out[:: max(1, len(held_out) // _HELD_OUT_STATES)]
        judged = [tensor[torch.from_numpy(held_out).to(self.device)] for tensor in whole]
        rows = torch.from_numpy(training)
        saved = time.monotonic()
        reason = f"All {self.settings.steps} outer steps were made."
        bar = progress_bar(self.settings.steps, "distilling", show=progress)
        with bar, deferred_interrupts() as is_interrupted:
            bar.update(state.step)
            while state.step < self.settings.steps:
                if state.step % self.settings.evaluate_every == 0:
                    self._look(state, judged)
                    bar.set_postfix(best=f"{state.best_loss:.4f}", at_step=state.best_step)
                    if self._has_stalled(state):
                        reason = (
                            f"The held-out loss had not improved since step {state.best_step}, "
                            f"{self.settings.patience} looks ago."
                        )
                        break
                self._step(state, [tensor[self._batch(rows, state.step)] for tensor in whole])
                bar.update()
                is_due = time.monotonic() - saved > _CHECKPOINT_SECONDS
                if checkpoint is not None and (is_due or is_interrupted()):
                    _write_checkpoint(checkpoint, state)
                    saved = time.monotonic()
                if is_interrupted():
                    raise KeyboardInterrupt
            else:
                self._look(state, judged)
            if is_interrupted():  # during the last look
                if checkpoint is not None:
                    _write_checkpoint(checkpoint, state)
                raise KeyboardInterrupt
        if not math.isfinite(state.best_loss):
            raise MinariObdError(
                "Students cloned from the pairs never had a finite held-out loss; lower student.learning_rate."
            )
        if checkpoint is not None:
            checkpoint.unlink(missing_ok=True)
        states, actions = (p.cpu().numpy() for p in state.best)
        return OuterResult(states, actions, state.best_step, state.best_loss, state.history, reason)

    def seconds_per_step(self, state_size: int, action_size: int, size: int) -> float:
        """Measure one outer step on made-up numbers of the right shape."""
        rows = torch.linspace(-1.0, 1.0, self.settings.batch_size, device=self.device)[:, None]
        batch = [rows.expand(-1, state_size), rows.expand(-1, action_size), torch.ones_like(rows[:, 0])]
        start = torch.linspace(-1.0, 1.0, size, device=self.device)[:, None]
        pairs = [start.expand(-1, width).clone() for width in (state_size, action_size)]
        zeros = [torch.zeros_like(p) for p in pairs]
        state = _State(pairs, zeros, [z.clone() for z in zeros], [p.clone() for p in pairs])
        begun = time.perf_counter()
        self._step(state, batch)
        float(state.pairs[0].sum())  # waits for the device
        return time.perf_counter() - begun

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.tensor(array, device=self.device)

    def _batch(self, rows: Tensor, step: int) -> Tensor:
        chosen = np.random.default_rng([self.seed, 2, step]).integers(len(rows), size=self.settings.batch_size)
        return rows[torch.from_numpy(chosen)].to(self.device)

    def _loss(self, pairs: Sequence[Tensor], judged: Sequence[Tensor], key: int, count: int, grad: bool) -> Tensor:
        """Weighted error on ``judged`` of ``count`` fresh students cloned from the pairs, averaged over students."""
        student = make_student(self.protocol)
        generators = student_generators(count, self.seed, 3, key)
        initial = [p.to(self.device) for p in student.initialise(pairs[0].shape[1], pairs[1].shape[1], generators)]
        trained = train_students(student, initial, pairs[0], pairs[1], self.protocol, differentiable=grad)
        states, actions, weights = judged
        return (weights * mean_squared_error(student, trained, states, actions)).mean()

    def _look(self, state: _State, judged: Sequence[Tensor]) -> None:
        """Measure the held-out loss with the same students each time, and keep the pairs if they are the best.

        If they are much worse than the best, go back to those, at half the rate.
        """
        loss = float(self._loss(state.pairs, judged, 0, _HELD_OUT_STUDENTS, grad=False).detach())
        row: dict[str, float] = {"step": state.step, "held_out": loss}
        if state.step:
            row |= {"training": state.training, "gradient_norm": state.gradient_norm, "rate_factor": state.rate_factor}
        state.history.append({name: value for name, value in row.items() if math.isfinite(value)})
        if loss < state.best_loss:
            state.best_loss, state.best_step = loss, state.step
            state.best = [p.detach().clone() for p in state.pairs]
        elif not loss <= _DRIFT * state.best_loss:
            # The pairs have come to where the students' own training is unstable; from there they rarely return.
            state.pairs = [p.clone() for p in state.best]
            state.first = [torch.zeros_like(p) for p in state.pairs]
            state.rate_factor *= 0.5

    def _has_stalled(self, state: _State) -> bool:
        return state.step - state.best_step >= self.settings.patience * self.settings.evaluate_every

    def _step(self, state: _State, batch: Sequence[Tensor]) -> None:
        pairs = [p.detach().requires_grad_() for p in state.pairs]
        loss = self._loss(pairs, batch, state.step + 1, self.settings.students, grad=True)
        gradients = torch.autograd.grad(loss, pairs)
        norm = torch.sqrt(sum((g.square().sum() for g in gradients), torch.zeros((), device=self.device)))
        state.step += 1
        if not bool(torch.isfinite(norm)):
            state.skipped += 1
            if state.skipped >= _MOST_SKIPPED:
                raise MinariObdError(
                    f"The pairs' gradient was not finite {_MOST_SKIPPED} times in a row, up to step {state.step}; "
                    "lower distillation.learning_rate, student.learning_rate or student.steps."
                )
            return
        state.skipped = 0
        # The average starts at the first norm, and takes in the clipped norm, so that one spike cannot raise it much.
        usual = state.usual_norm if math.isfinite(state.usual_norm) else float(norm)
        limit = min(self.settings.clip, self.settings.clip_to_average * usual)
        scale = min(1.0, limit / (float(norm) + 1e-12))
        state.usual_norm = 0.9 * usual + 0.1 * min(float(norm), limit)
        state.pairs = self._update(state, [p.detach() for p in pairs], [g * scale for g in gradients])
        state.training, state.gradient_norm = float(loss.detach()), float(norm)

    def _update(self, state: _State, pairs: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        """One step of the outer optimiser; ``state.first`` and ``state.second`` are its moments."""
        rate = self.settings.learning_rate * state.rate_factor
        if self.settings.schedule == "cosine":
            rate *= 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * (state.step - 1) / self.settings.steps))
        if self.settings.optimiser == "sgd":
            state.first = [0.9 * m + g for m, g in zip(state.first, gradients, strict=True)]
            return [p - rate * m for p, m in zip(pairs, state.first, strict=True)]
        state.first = [0.9 * m + 0.1 * g for m, g in zip(state.first, gradients, strict=True)]
        state.second = [0.999 * v + 0.001 * g * g for v, g in zip(state.second, gradients, strict=True)]
        first, second = 1.0 - 0.9**state.step, 1.0 - 0.999**state.step
        return [
            p - rate * (m / first) / ((v / second).sqrt() + 1e-8)
            for p, m, v in zip(pairs, state.first, state.second, strict=True)
        ]


_NUMBERS = (
    "step",
    "best_step",
    "best_loss",
    "skipped",
    "threads",
    "training",
    "gradient_norm",
    "usual_norm",
    "rate_factor",
    "history",
)
_TENSORS = ("pairs", "first", "second", "best")


def _write_checkpoint(path: Path, state: _State) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {f"{name}/{i}": t.cpu().contiguous() for name in _TENSORS for i, t in enumerate(getattr(state, name))}
    numbers = {name: getattr(state, name) for name in _NUMBERS}
    temporary = path.with_suffix(f".{os.getpid()}")
    save_file(tensors, temporary, metadata={"state": json.dumps(numbers)})
    temporary.replace(path)


def _read_checkpoint(path: Path, device: torch.device) -> _State:
    with safe_open(path, framework="pt") as file:
        numbers: dict[str, Any] = json.loads(file.metadata()["state"])
        tensors = {name: [file.get_tensor(f"{name}/{i}").to(device) for i in (0, 1)] for name in _TENSORS}
    return _State(**tensors, **numbers)
