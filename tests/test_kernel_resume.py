"""The kernel start, interrupted or killed: a resume goes on from the last look, to the same bits."""

import signal
from dataclasses import replace
from pathlib import Path

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


def test_an_interrupt_leaves_nothing_and_a_resume_gives_the_same(
    targets: Targets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, checkpoint = OuterLoop(STUDENT, replace(SETTINGS, steps=3), CPU), tmp_path / "x.safetensors"
    expected = loop.run(targets, 24, seed=0, progress=False)
    steps, original = [], KernelStart._step

    def interrupt(*given) -> None:
        steps.append(given[-2])
        signal.raise_signal(signal.SIGINT if len(steps) == 1 else signal.SIGTERM)
        original(*given)

    monkeypatch.setattr(KernelStart, "_step", interrupt)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            loop.run(targets, 24, seed=0, checkpoint=checkpoint, progress=False)
    assert steps == [0, 0]  # at once: of many pairs, a step takes seconds
    assert not checkpoint.exists()
    monkeypatch.undo()
    again = loop.run(targets, 24, seed=0, checkpoint=checkpoint, progress=False)
    np.testing.assert_array_equal(again.states, expected.states)


@pytest.mark.parametrize("student", [STUDENT, KERNEL_STUDENT], ids=["network", "infinitely wide"])
@pytest.mark.parametrize("how", ["interrupted", "killed"])
def test_late_on_its_way_a_resume_goes_on_from_the_last_look_to_the_same_bits(
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
            raise KeyboardInterrupt if how == "interrupted" else RuntimeError("killed")
        original(*given)

    monkeypatch.setattr(KernelStart, "_step", interrupt)
    monkeypatch.setattr(kernel_start, "_CHECKPOINT_SECONDS", 60.0 if how == "interrupted" else -1.0)
    for _ in range(2):
        with pytest.raises((KeyboardInterrupt, RuntimeError)):
            loop.run_together(work, 24, seeds, checkpoint=checkpoint, progress=False)
        assert isinstance(read_checkpoint(checkpoint, CPU), StartState)
    again = loop.run_together(work, 24, seeds, checkpoint=checkpoint, progress=False)
    # The first run's 120 steps once; the second goes on from its looks at 50 and 100.
    assert steps == [*range(120), *range(71), *range(50, 116), *range(100, 120)]
    assert not checkpoint.exists()
    for mine, theirs in zip(again, expected, strict=True):
        np.testing.assert_array_equal(mine.states, theirs.states)
        np.testing.assert_array_equal(mine.actions, theirs.actions)
        assert (mine.step, mine.history, mine.reason) == (theirs.step, theirs.history, theirs.reason)
