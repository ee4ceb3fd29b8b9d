"""The outer loop: moves the pairs so that students cloned from them hit the targets. It knows targets, nothing else."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from minari_obd.distiller.checkpoint import OuterState, Record, read_checkpoint, write_checkpoint
from minari_obd.distiller.data import OuterData, held_out_count
from minari_obd.distiller.graphs import StepGraphs
from minari_obd.distiller.kernel import KernelStart
from minari_obd.distiller.looks import look, tell_step
from minari_obd.distiller.result import DivergedError, OuterResult
from minari_obd.distiller.start import start
from minari_obd.distiller.step import OuterPlan, OuterTensors, StepInputs, draw_students, outer_step
from minari_obd.distiller.visits import gather_visits, visits_of
from minari_obd.errors import DataError, MinariObdError, SettingError
from minari_obd.settings.protocols import StudentProtocol
from minari_obd.settings.sections import DistillationRecipe
from minari_obd.storage.cache import read_kept
from minari_obd.students.mlp_gradient import MLPGradient, gradient_of
from minari_obd.students.networks import make_student
from minari_obd.support.interrupts import deferred_interrupts
from minari_obd.support.libraries import check_installed
from minari_obd.support.precision import matmul_precision, product_type
from minari_obd.support.progress import progress_bar
from minari_obd.support.streams import Stream
from minari_obd.support.tracking import Track
from minari_obd.targets.targets import Targets

__all__ = ["OuterLoop"]

_CHECKPOINT_SECONDS = 60.0
_MOST_SKIPPED = 20

_MakeStep = Callable[[StepInputs, OuterPlan], None]


@dataclass(frozen=True)
class OuterLoop:
    """Gradient descent on M pairs through the behavioural cloning of students from them.

    min over (states, actions) of E_theta0 E_b w_b ‖pi_theta_T(states, actions)(s_b) - a_b‖², where theta_T is the
    student that ``protocol`` makes of the pairs from a random theta_0 (2410.22728).
    """

    protocol: StudentProtocol
    settings: DistillationRecipe
    device: torch.device

    @property
    def precision(self) -> str:
        """Type of the matrix products in the students that are differentiated through."""
        products = self._products
        return "tf32" if self.settings.precision == "tf32" else str(products or torch.float32).removeprefix("torch.")

    @property
    def _steps(self) -> int:
        return self.settings.outer_steps(self.protocol)

    @property
    def _products(self) -> torch.dtype | None:
        products = product_type(self.settings.precision, self.device)
        if products is None or isinstance(gradient_of(make_student(self.protocol)), MLPGradient):
            return products
        if self.settings.precision != "auto":
            raise SettingError(
                f"Students of network '{self.protocol.network}' have no {self.settings.precision} products; "
                "use precision 'auto' or 'float32'."
            )
        return None

    def check_size(self, count: int, size: int) -> None:
        """Make sure that ``size`` pairs can start at different ones of ``count`` states.

        Raises:
            DataError: there are too few states.
            MissingExtraError: k-means is to choose them, and scikit-learn is not installed.
        """
        if self.settings.initial != "random":
            check_installed("sklearn", "distill")
        held_out = held_out_count(count, self.settings)
        if size > count - held_out:
            raise DataError(
                f"{size} pairs were asked for, but there are only {count - held_out} states to distil "
                f"({held_out} of {count} are held out); ask for fewer pairs."
            )

    def run(
        self,
        targets: Targets,
        size: int,
        *,
        seed: int,
        checkpoint: Path | None = None,
        progress: bool = True,
        track: Track | None = None,
    ) -> OuterResult:
        """Distil ``size`` pairs.

        Args:
            targets: what students should do.
            size: how many pairs, fewer than there are states to train on.
            seed: of every random number.
            checkpoint: a file that is written every minute and at the end, and read first if it exists. It must be
                named after all that decides the result, since nothing is compared. Who keeps the result removes it.
            progress: show a bar.
            track: who is told every step's loss and the looks.

        Raises:
            DataError: more pairs than states to train on.
            DivergedError: the gradient was not finite, or exploded, many times in a row.
        """
        told = {"checkpoint": checkpoint, "progress": progress, "track": track}
        return self.run_together([targets], size, [seed], **told)[0]

    def run_together(
        self,
        targets: Sequence[Targets],
        size: int,
        seeds: Sequence[int],
        *,
        checkpoint: Path | None = None,
        progress: bool = True,
        track: Track | None = None,
    ) -> list[OuterResult]:
        """Distil several sets at once, one for each of ``seeds`` and targets of one shape, as one batch.

        It pays on a GPU, which a single set leaves idle. What ``settings.draws`` and a random window draw is shared,
        from the first seed; all else is as if each set were distilled alone, up to rounding. ``track`` is told of
        the first set.
        """
        for each in targets:
            self.check_size(len(each), size)
        work = [OuterData.of(each, self.settings, seed, self.device) for each, seed in zip(targets, seeds, strict=True)]
        kept = None if checkpoint is None else read_kept(checkpoint, lambda path: read_checkpoint(path, self.device))
        told = {"checkpoint": checkpoint, "progress": progress, "track": track}
        if kept is not None:
            torch.set_num_threads(kept.threads)  # bits depend on it
        state = kept if isinstance(kept, OuterState) else start(work, size, self.protocol, self.settings, kept, **told)
        make = self._make_step(state.tensors)
        bar = progress_bar(self._steps, "distilling", show=progress and self._steps > 0, done=state.step)
        saved = time.monotonic()
        on_device = torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()
        others = "tf32" if self.precision == "tf32" else "float32"  # the students' own are cast where they are made
        with on_device, bar, deferred_interrupts() as is_interrupted, matmul_precision(others):
            while state.step < self._steps:
                if state.step % self.settings.evaluate_every == 0:
                    bar.set_postfix_str(self._look(state, work, track))
                    if all(record.reason for record in state.records):
                        break
                self._step(state, work, make)
                tell_step(track, state, work[0], self.settings.batch_size)
                bar.update()
                is_due = time.monotonic() - saved > _CHECKPOINT_SECONDS
                if checkpoint is not None and (is_due or is_interrupted()):
                    write_checkpoint(checkpoint, state)
                    saved = time.monotonic()
                if is_interrupted():
                    raise KeyboardInterrupt
                if self.device.type == "cpu":  # elsewhere this waits for the device, so the looks do it
                    self._check_skipped(state)
            else:
                if self._steps:
                    bar.set_postfix_str(self._look(state, work, track))
            if checkpoint is not None:
                write_checkpoint(checkpoint, state)
            if is_interrupted():  # during the last look
                raise KeyboardInterrupt
        if not all(math.isfinite(record.best_loss) for record in state.records):
            raise MinariObdError(
                "Students cloned from the pairs never had a finite held-out loss; lower student.learning_rate."
            )
        return self._results(state, is_visited=work[0].visited is not None)

    def estimate_seconds(self, state_size: int, action_size: int, size: int, *, is_visited: bool = False) -> float:
        """Measure a few steps on made-up numbers of the right shape, and return what all of them may take."""
        rows = torch.linspace(-1.0, 1.0, max(2, self.settings.batch_size)).numpy()[:, None]
        made_up = Targets(np.tile(rows, state_size), np.tile(rows, action_size), np.ones(len(rows)), {})
        settings = replace(self.settings, batch_size=len(rows), held_out=0.5)
        work = [OuterData.of(made_up, settings, 0, self.device)]
        begin = torch.linspace(-1.0, 1.0, size, device=self.device)[None, :, None]
        tensors = OuterTensors.start(*(begin.repeat(1, 1, width) for width in (state_size, action_size)))
        state = OuterState(tensors, [p.clone() for p in tensors.pairs], [Record()])
        seconds = self._steps and self._steps * self._seconds_per_step(state, work)
        if self.settings.initial == "kernel":
            kernel = KernelStart(self.protocol, self.settings)
            states, actions = tensors.pairs
            count = self.settings.steps_through_kernels(size, self.protocol, is_visited=is_visited)
            seconds += count * kernel.seconds_per_step(states[0], actions[0], work[0])
        return seconds

    def _seconds_per_step(self, state: OuterState, work: Sequence[OuterData]) -> float:
        """Measure a few outer steps."""
        make = self._make_step(state.tensors)
        count, begun = 4, 0.0  # steps differ in length
        for _ in range(2 if self.device.type == "cuda" else 1):  # a graph is captured in the first lap
            self._step(state, work, make)
            begun = time.perf_counter()
            for i in range(count):
                state.step = (2 * i + 1) * self._steps // (2 * count)
                self._step(state, work, make)
            float(state.tensors.pairs[0].sum())  # waits for the device
        return (time.perf_counter() - begun) / count

    def plan(self, seed: int, step: int) -> OuterPlan:
        """Return what an outer step does, which follows from its number and the seed alone."""
        protocol = self.settings.draws.draw(self.protocol, seed, Stream.PROTOCOLS, step)
        settings, whole = self.settings, protocol.steps
        window = whole if settings.unroll == "whole" else min(settings.window, whole)
        if settings.unroll == "random":
            end = int(Stream.WINDOWS.generator(seed, step).integers(window, whole + 1))
            protocol = replace(protocol, steps=end)
        return OuterPlan(self.settings, protocol, window, self._products)

    def _make_step(self, tensors: OuterTensors) -> _MakeStep:
        """Return what makes outer steps of these tensors; on CUDA it keeps the steps that it captured."""
        return StepGraphs(tensors).step if self.device.type == "cuda" else partial(outer_step, tensors)

    def _step(self, state: OuterState, work: Sequence[OuterData], make: _MakeStep) -> None:
        plan = replace(self.plan(work[0].seed, state.step), cost=work[0].cost)
        gather_visits(state, work, self.protocol)
        visits = [visits_of(state, run) for run in range(len(work))]
        batches = [w.batch(self.settings.batch_size, state.step, v) for w, v in zip(work, visits, strict=True)]
        sizes = state.tensors.pairs[0].shape[2], state.tensors.pairs[1].shape[2]
        seeds, rate = [each.seed for each in work], self._rate(state.step)
        state.step += 1
        key = Stream.STUDENTS, state.step
        inputs = StepInputs(
            batch=[torch.stack(parts) for parts in zip(*batches, strict=True)],
            initial=draw_students(plan.protocol, sizes, self.settings.students, seeds, key, self.device),
            rates=self._tensor([0.0 if r.reason else rate * r.rate_factor for r in state.records]),
            corrections=self._tensor([1.0 / (1.0 - beta**state.step) for beta in (0.9, 0.999)]),
        )
        make(inputs, plan)

    def _rate(self, step: int) -> float:
        rate = self.settings.learning_rate
        if self.settings.schedule == "cosine":
            rate *= 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * step / self._steps))
        return rate

    def _tensor(self, values: list[float]) -> Tensor:
        return torch.tensor(values).to(self.device, non_blocking=True)

    def _look(self, state: OuterState, work: Sequence[OuterData], track: Track | None) -> str:
        self._check_skipped(state)
        return look(state, work, self.protocol, self.settings, track)

    def _check_skipped(self, state: OuterState) -> None:
        """Stop runs whose gradients could not be used many times in a row; if that is all of them, say so."""
        for record, most in zip(state.records, state.tensors.most_in_a_row.tolist(), strict=True):
            if not record.reason and most >= _MOST_SKIPPED:
                record.has_diverged = True
                record.reason = (
                    f"The pairs' gradient was not finite, or exploded, {_MOST_SKIPPED} times in a row, up to step "
                    f"{state.step}; lower distillation.learning_rate, student.learning_rate or student.steps."
                )
        if all(record.has_diverged for record in state.records):
            raise DivergedError(str(state.records[0].reason), self._results(state))

    def _results(self, state: OuterState, *, is_visited: bool = False) -> list[OuterResult]:
        states, actions = (p.cpu().numpy() for p in state.best)
        made = f"All {self._steps} outer steps were made."
        if not self._steps:
            count = self.settings.steps_through_kernels(len(states[0]), self.protocol, is_visited=is_visited)
            made = f"All {count} steps of the kernel start were made."
        return [
            OuterResult(s, a, r.best_step, r.best_loss, r.history, r.reason or made, state.clock.earlier)
            for s, a, r in zip(states, actions, state.records, strict=True)
        ]
