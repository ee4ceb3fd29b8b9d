"""The kernel start, interrupted or killed: a resume goes on to the same bits."""

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_kernel import CPU, SETTINGS, STUDENT, Cost
from test_kernel import targets as targets
from torch import Tensor

from minari_obd.distiller import start as kernel_start
from minari_obd.distiller.checkpoint import StartState, read_checkpoint
from minari_obd.distiller.kernel import KernelStart
from minari_obd.distiller.loop import OuterLoop
from minari_obd.distiller.step import OuterTensors
from minari_obd.settings.protocols import KERNEL_STUDENT, StudentProtocol
from minari_obd.settings.sections import StudentStatesRecipe
from minari_obd.targets.targets import Policies, Targets, VisitedStates


class Visited:
    """Students are said to go to the halves of ten states, which are not the same in every step."""

    settings = StudentStatesRecipe(share=0.25, interval=1)

    def __init__(self) -> None:
        self.held_out = self._some(0, 1)

    def visit(self, policies: Policies, count: int, seed: int, step: int) -> tuple[Tensor, Tensor]:
        states, wanted = self._some(seed, step)
        return 0.5 * states, wanted + 0.1 * policies(states.expand(count, -1, -1)).mean(dim=0)

    def _some(self, *key: int) -> tuple[Tensor, Tensor]:
        states = torch.from_numpy(np.random.default_rng(key).normal(size=(10, 3)).astype(np.float32))
        return states, 0.1 * states[:, :2]

    def to(self, device: torch.device) -> VisitedStates:
        return self


def test_an_interrupt_ends_it_after_a_step_and_a_resume_gives_the_same(
    targets: Targets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, checkpoint = OuterLoop(STUDENT, replace(SETTINGS, steps=3), CPU), tmp_path / "x.safetensors"
    expected = loop.run(targets, 24, seed=0, progress=False)
    steps, original = [], KernelStart._step

    def interrupt(*given) -> None:
        steps.append(given[-2])
        signal.raise_signal(signal.SIGINT if len(steps) == 1 else signal.SIGTERM)
        if len(steps) == 2:
            signal.raise_signal(signal.SIGTERM)  # as a bench sends to children that a terminal has interrupted
        original(*given)

    monkeypatch.setattr(KernelStart, "_step", interrupt)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            loop.run(targets, 24, seed=0, checkpoint=checkpoint, progress=False)
    assert steps == [0, 1]
    monkeypatch.undo()
    again = loop.run(targets, 24, seed=0, checkpoint=checkpoint, progress=False)
    np.testing.assert_array_equal(again.states, expected.states)


def test_a_second_ctrl_c_acts_at_once(targets: Targets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*given) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the step went on")

    monkeypatch.setattr(KernelStart, "_step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        OuterLoop(STUDENT, SETTINGS, CPU).run(targets, 24, seed=0, checkpoint=tmp_path / "x", progress=False)
    assert not (tmp_path / "x").exists()  # of a step that was cut in two, nothing is kept


@pytest.mark.parametrize("at", ["the tensors", "the last look"])
def test_an_interrupt_between_the_kernel_and_the_outer_steps_loses_nothing(
    at: str, targets: Targets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, checkpoint = OuterLoop(KERNEL_STUDENT, replace(SETTINGS, steps=0), CPU), tmp_path / "x.safetensors"
    expected = loop.run(targets, 24, seed=0, progress=False)
    where, name = (OuterTensors, "start") if at == "the tensors" else (kernel_start, "held_out_losses")
    original, looks = getattr(where, name), []

    def interrupt(*given) -> Any:
        looks.append(given)
        if at == "the tensors" or len(looks) == 3:  # at the beginning, after 50 steps and after 60
            signal.raise_signal(signal.SIGTERM)
        return original(*given)

    monkeypatch.setattr(where, name, interrupt)
    with pytest.raises(KeyboardInterrupt):
        loop.run(targets, 24, seed=0, checkpoint=checkpoint, progress=False)
    monkeypatch.undo()
    monkeypatch.setattr(KernelStart, "_step", lambda *_: pytest.fail("all steps were made"))
    again = loop.run(targets, 24, seed=0, checkpoint=checkpoint, progress=False)
    np.testing.assert_array_equal(again.states, expected.states)
    assert again.history == expected.history


@pytest.mark.parametrize("student", [STUDENT, KERNEL_STUDENT], ids=["network", "infinitely wide"])
@pytest.mark.parametrize("how", ["interrupted", "killed"])
def test_late_on_its_way_a_resume_goes_on_to_the_same_bits(
    how: str, student: StudentProtocol, targets: Targets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs at once, with costs and states that students visit; the second is interrupted twice."""
    settings = replace(SETTINGS, kernel_steps=120, steps=3 if student is STUDENT else 0)
    loop, checkpoint = OuterLoop(student, settings, CPU), tmp_path / "x.safetensors"
    work, seeds = [replace(targets, cost=Cost(), visited=Visited())] * 2, [0, 1]
    expected = loop.run_together(work, 24, seeds, progress=False)
    steps, original = [], KernelStart._step

    def interrupt(*given) -> None:
        steps.append(given[-2])
        if len(steps) > 120 and steps[-1] in {70, 115} and steps.count(steps[-1]) == 2:
            if how == "killed":
                raise RuntimeError(how)
            signal.raise_signal(signal.SIGINT)
        original(*given)

    monkeypatch.setattr(KernelStart, "_step", interrupt)
    monkeypatch.setattr(kernel_start, "_CHECKPOINT_SECONDS", 60.0 if how == "interrupted" else -1.0)
    for _ in range(2):
        with pytest.raises((KeyboardInterrupt, RuntimeError)):
            loop.run_together(work, 24, seeds, checkpoint=checkpoint, progress=False)
        assert isinstance(read_checkpoint(checkpoint, CPU), StartState)
    again = loop.run_together(work, 24, seeds, checkpoint=checkpoint, progress=False)
    # The first run's 120 steps once; the second goes on where it was, or if killed from its looks at 50 and 100.
    second = [*range(71), *range(50, 116), *range(100, 120)] if how == "killed" else [*range(120)]
    assert steps == [*range(120), *second]
    for mine, theirs in zip(again, expected, strict=True):
        np.testing.assert_array_equal(mine.states, theirs.states)
        np.testing.assert_array_equal(mine.actions, theirs.actions)
        assert (mine.step, mine.history, mine.reason) == (theirs.step, theirs.history, theirs.reason)
