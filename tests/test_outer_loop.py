"""The outer loop: it learns, repeats itself to the bit, resumes to the bit, and stops when it should."""

import math
import os
import signal
from collections.abc import Container
from dataclasses import replace
from itertools import count, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from minari_obd.distiller import loop as outer_loop
from minari_obd.distiller import step as outer_step
from minari_obd.distiller.loop import OuterLoop
from minari_obd.distiller.result import DivergedError, OuterResult
from minari_obd.distiller.step import OuterPlan
from minari_obd.errors import DataError, MissingExtraError
from minari_obd.settings.protocols import StudentDraws, StudentProtocol
from minari_obd.settings.sections import DistillationRecipe
from minari_obd.targets.targets import Targets

STUDENT = StudentProtocol(depth=1, width=32, steps=20, learning_rate=0.3)
SETTINGS = DistillationRecipe(initial="kmeans", steps=40, batch_size=64, learning_rate=0.05, evaluate_every=10)
CPU = torch.device("cpu")


@pytest.fixture
def targets() -> Targets:
    rng = np.random.default_rng(0)
    states = rng.normal(size=(500, 3)).astype(np.float32)
    actions = np.tanh(np.stack([states[:, 0] * states[:, 1], states[:, 2]], axis=1))
    return Targets(states, actions, np.ones(500), {})


def run(targets: Targets, seed: int = 0, checkpoint: Path | None = None, size: int = 16, **changes) -> OuterResult:
    loop = OuterLoop(STUDENT, replace(SETTINGS, **changes), CPU)
    return loop.run(targets, size, seed=seed, checkpoint=checkpoint, progress=False)


@pytest.mark.parametrize(
    "changes",
    [{}, {"students": 3}, {"schedule": "constant"}, {"optimiser": "sgd", "learning_rate": 1.0}],
    ids=["adam", "three students", "constant rate", "sgd"],
)
def test_it_brings_the_held_out_loss_down(targets: Targets, changes: dict) -> None:
    result = run(targets, steps=80, **changes)
    assert result.offline_loss < 0.7 * result.history[0]["held_out"]
    assert result.offline_loss == min(row["held_out"] for row in result.history)
    assert result.states.shape == (16, 3)
    assert result.actions.shape == (16, 2)
    assert [row["step"] for row in result.history] == list(range(0, 81, 10))
    assert result.reason == "All 80 outer steps were made."


def test_the_same_seed_gives_the_same_pairs_to_the_bit(targets: Targets) -> None:
    first, second, other = run(targets), run(targets), run(targets, seed=1)
    assert first.states.tobytes() == second.states.tobytes()
    assert first.actions.tobytes() == second.actions.tobytes()
    assert first.history == second.history
    assert first.states.tobytes() != other.states.tobytes()


NO_DRAWS = StudentDraws(learning_rates=(), adam=0.0)
VARIED = {
    "draws": StudentDraws(depths=(1, 2), steps=(0.5, 1.0), learning_rates=(0.5, 1.0), adam=0.3),
    "window": 8,
    "unroll": "random",
    "average": 0.9,
    "students": 2,
}


def test_it_learns_with_drawn_students_random_windows_and_averaged_pairs(targets: Targets) -> None:
    result = run(targets, steps=120, **VARIED)
    assert result.offline_loss < 0.8 * result.history[0]["held_out"]


def test_residual_students_are_distilled_for_as_well(targets: Targets) -> None:
    protocol = replace(STUDENT, network="residual", depth=2, learning_rate=0.1)
    result = OuterLoop(protocol, SETTINGS, CPU).run(targets, 16, seed=0, progress=False)
    assert result.offline_loss < 0.8 * result.history[0]["held_out"]


def test_the_unroll_that_is_differentiated_through() -> None:
    def plans(**changes) -> list[OuterPlan]:
        loop = OuterLoop(replace(STUDENT, steps=100), replace(SETTINGS, steps=300, **changes), CPU)
        return [loop.plan(0, step) for step in range(300)]

    assert {plan.window for plan in plans(unroll="whole")} == {100}
    assert {plan.window for plan in plans(unroll="last", window=15)} == {15}
    assert {plan.window for plan in plans(unroll="last", window=500)} == {100}
    anywhere = plans(unroll="random", window=15)
    assert {plan.window for plan in anywhere} == {15}
    ends = [plan.protocol.steps for plan in anywhere]
    assert (min(ends), max(ends)) == (15, 100)
    assert 50 < np.mean(ends) < 65


def test_draws_depend_on_the_seed_and_the_step_alone() -> None:
    draws = VARIED["draws"]
    drawn = [draws.draw(STUDENT, 0, 10, step) for step in range(200)]
    assert drawn == [draws.draw(STUDENT, 0, 10, step) for step in range(200)]
    assert drawn != [draws.draw(STUDENT, 1, 10, step) for step in range(200)]
    assert {p.depth for p in drawn} == {1, 2}
    assert {p.steps for p in drawn} == {10, 20}
    assert {p.learning_rate for p in drawn if p.optimiser == "sgd"} == {0.15, 0.3}
    assert 30 < sum(p.optimiser == "adam" for p in drawn) < 90
    assert NO_DRAWS.draw(STUDENT, 0) is STUDENT


def test_the_average_of_the_pairs_is_what_is_judged_and_returned(targets: Targets) -> None:
    """With a decay near 1 the average stays where it began, however far the pairs go."""
    start = run(targets, steps=1, learning_rate=1e-12)
    slow, fast = run(targets, average=0.999_999), run(targets)
    assert np.abs(slow.states - start.states).max() < 1e-3 < np.abs(fast.states - start.states).max()


class NoWaiting(TorchDispatchMode):
    """Refuses what would make a GPU's host wait: reading a value back, or shapes that depend on values."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.__name__.split(".")[0] not in ("_local_scalar_dense", "nonzero", "equal", "masked_select"), func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("changes", [{}, VARIED, {"optimiser": "sgd"}], ids=["default", "varied", "sgd"])
def test_a_step_reads_nothing_back(targets: Targets, monkeypatch: pytest.MonkeyPatch, changes: dict) -> None:
    original, calls = outer_loop.outer_step, []

    def watched(*args) -> None:
        calls.append(1)
        with NoWaiting():
            original(*args)

    monkeypatch.setattr(outer_loop, "outer_step", watched)
    run(targets, steps=3, **changes)
    assert len(calls) == 3


@pytest.mark.parametrize("changes", [{}, {"students": 2}, {"patience": 1}], ids=["one", "two students", "one stops"])
def test_several_runs_as_one_batch_are_as_each_alone(targets: Targets, changes: dict) -> None:
    other = Targets(targets.states, targets.actions[:, ::-1].copy(), targets.weights, {})
    settings = replace(SETTINGS, steps=30, precision="float32", draws=NO_DRAWS, **changes)
    loop = OuterLoop(STUDENT, settings, CPU)
    together = loop.run_together([targets, other, targets], 16, [0, 1, 2], progress=False)
    for seed, data, result in zip((0, 1, 2), (targets, other, targets), together, strict=True):
        alone = loop.run(data, 16, seed=seed, progress=False)
        assert result.step == alone.step
        assert result.reason == alone.reason
        np.testing.assert_allclose(result.states, alone.states, atol=2e-3)
        np.testing.assert_allclose(
            [row["held_out"] for row in result.history], [row["held_out"] for row in alone.history], rtol=1e-2
        )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
@pytest.mark.parametrize("stop_at", [1, 9, 23])
def test_interrupted_and_resumed_it_ends_with_the_same_bytes(
    targets: Targets, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stop_at: int, number: int
) -> None:
    changes = {} if stop_at == 9 else VARIED
    whole = run(targets, **changes)
    checkpoint = tmp_path / "deep" / "run.safetensors"
    original = OuterLoop._step

    def interrupted(self, state, *rest) -> None:
        if state.step == stop_at:
            os.kill(os.getpid(), number)
        original(self, state, *rest)  # the step is finished all the same

    monkeypatch.setattr(OuterLoop, "_step", interrupted)
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        run(targets, checkpoint=checkpoint, **changes)
    assert signal.getsignal(number) is before
    assert checkpoint.is_file()
    monkeypatch.setattr(OuterLoop, "_step", original)
    resumed = run(targets, checkpoint=checkpoint, **changes)
    assert resumed.states.tobytes() == whole.states.tobytes()
    assert resumed.actions.tobytes() == whole.actions.tobytes()
    assert resumed.history == whole.history
    assert whole.earlier_seconds == 0.0 < resumed.earlier_seconds


def test_interrupted_during_the_last_look_it_resumes_to_the_same_result(
    targets: Targets, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = run(targets)
    original = OuterLoop._look

    def interrupted(self, state, *rest) -> None:
        original(self, state, *rest)
        if state.step == SETTINGS.steps:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(OuterLoop, "_look", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(targets, checkpoint=tmp_path / "c")
    monkeypatch.setattr(OuterLoop, "_look", original)
    resumed = run(targets, checkpoint=tmp_path / "c")
    assert resumed.history == whole.history
    assert resumed.states.tobytes() == whole.states.tobytes()


def test_killed_without_warning_it_resumes_from_the_last_checkpoint(
    targets: Targets, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = run(targets)
    monkeypatch.setattr(outer_loop, "_CHECKPOINT_SECONDS", 0.0)
    original = OuterLoop._step

    def killed(self, state, *rest) -> None:
        original(self, state, *rest)
        if state.step == 13:
            raise MemoryError  # as good as a kill: nothing after the last checkpoint is kept

    monkeypatch.setattr(OuterLoop, "_step", killed)
    with pytest.raises(MemoryError):
        run(targets, checkpoint=tmp_path / "c")
    monkeypatch.setattr(OuterLoop, "_step", original)
    assert run(targets, checkpoint=tmp_path / "c").states.tobytes() == whole.states.tobytes()


def test_checkpoints_are_written_while_it_runs(
    targets: Targets, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(outer_loop, "_CHECKPOINT_SECONDS", 0.0)
    written = []
    original = outer_loop.write_checkpoint
    monkeypatch.setattr(
        outer_loop, "write_checkpoint", lambda path, state: (written.append(state.step), original(path, state))
    )
    plain = run(targets)
    result = run(targets, checkpoint=tmp_path / "c")
    assert written == [*range(1, 41), 40]  # and at the end, where it stays until the result is kept
    assert result.states.tobytes() == plain.states.tobytes()


def test_it_stops_when_the_held_out_loss_stalls(targets: Targets) -> None:
    result = run(targets, steps=1_000, learning_rate=1e-9, schedule="constant", patience=2)
    assert "had not improved" in result.reason
    assert result.history[-1]["step"] < 200


def poison(monkeypatch: pytest.MonkeyPatch, steps: Container[int], factor: float) -> None:
    """Multiply the loss of some outer steps, from 1."""
    losses, calls = outer_step.cloned_losses, count(1)

    def poisoned(*args, **kwargs) -> torch.Tensor:
        assert kwargs["differentiable"]
        return losses(*args, **kwargs) * (factor if next(calls) in steps else 1.0)

    monkeypatch.setattr(outer_step, "cloned_losses", poisoned)


@pytest.mark.parametrize("factor", [math.nan, math.inf, 1e9], ids=["nan", "inf", "exploding"])
def test_bad_gradients_move_nothing_and_stop_the_run_with_the_best_pairs(
    targets: Targets, monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    poison(monkeypatch, range(13, 1_000), factor)
    with pytest.raises(DivergedError, match="exploded, 20 times in a row, up to step 32; lower distillation") as caught:
        run(targets, steps=100)
    monkeypatch.undo()
    alone = run(targets, steps=100)
    best = caught.value.best[0]
    assert best.step in (10, 20, 30)
    assert [row["skipped"] for row in best.history] == [0, 0, 8, 18]
    assert best.history[:2] == alone.history[:2]
    assert np.isfinite(best.states).all()
    assert best.reason == str(caught.value)


def test_long_gradients_are_not_exploding_ones(targets: Targets) -> None:
    """Far above the absolute limit for the whole run, but no longer than usual: clipped and never skipped."""
    result = run(targets, steps=150, clip=1e-5)
    assert min(row["gradient_norm"] for row in result.history[1:]) > 100 * 1e-5
    assert result.history[-1]["skipped"] == 0


def test_of_several_runs_the_one_that_diverges_stops_alone(targets: Targets, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = outer_step.cloned_losses
    spoil = torch.tensor([1.0, math.nan])
    monkeypatch.setattr(outer_step, "cloned_losses", lambda *args, **kwargs: losses(*args, **kwargs) * spoil)
    good, bad = OuterLoop(STUDENT, SETTINGS, CPU).run_together([targets] * 2, 16, [0, 1], progress=False)
    assert good.reason == "All 40 outer steps were made."
    assert good.step > 20
    assert "20 times in a row" in bad.reason
    assert bad.step == 0


@pytest.mark.parametrize("factor", [math.nan, math.inf, 1e9], ids=["nan", "inf", "exploding"])
def test_one_bad_gradient_is_skipped_and_counted(
    targets: Targets, monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    poison(monkeypatch, {5}, factor)
    result = run(targets)
    assert np.isfinite(result.states).all()
    assert result.offline_loss < result.history[0]["held_out"]
    assert [row["skipped"] for row in result.history] == [0, 1, 1, 1, 1]


def test_pairs_that_drift_away_are_brought_back_at_half_the_rate(targets: Targets) -> None:
    """At an absurd rate the pairs explode at once; what comes back is as good as the start, and the rate falls."""
    result = run(targets, steps=80, learning_rate=30.0)
    assert result.offline_loss <= result.history[0]["held_out"]
    factors = [row["rate_factor"] for row in result.history[1:]]
    assert factors[0] == 1.0
    assert factors[-1] <= 2**-4
    assert all(later <= earlier for earlier, later in pairwise(factors))


def test_weights_say_where_the_pairs_look(targets: Targets) -> None:
    """Half of the states contradict the other half; the pairs follow the half with the weight."""
    side = targets.states[:, 0] > 0
    actions = np.where(side[:, None], 0.8, -0.8) * np.ones((1, 2))
    signs = []
    for heavy in (side, ~side):
        weights = np.where(heavy, 1.99, 0.01)
        made = Targets(np.zeros_like(targets.states), actions, weights / weights.mean(), {})
        result = run(made, steps=60)
        signs.append(np.sign(np.median(result.actions)))
    assert signs == [1, -1]


def test_pairs_begin_evenly_drawn_or_spread_over_the_states(targets: Targets) -> None:
    found = {}
    for initial in ("random", "kmeans"):
        still = run(targets, initial=initial, steps=1, learning_rate=1e-12, size=40)
        distances = np.linalg.norm(targets.states[:, None] - still.states, axis=-1)
        rows = distances.argmin(axis=0)
        np.testing.assert_allclose(still.states, targets.states[rows], atol=1e-6)
        np.testing.assert_allclose(still.actions, targets.actions[rows], atol=1e-6)
        assert len(set(rows)) == 40
        found[initial] = distances.min(axis=1).mean()
    assert found["kmeans"] < 0.9 * found["random"]


def test_kmeans_needs_scikit_learn_and_says_so(targets: Targets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minari_obd.support.libraries.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"needs sklearn.*minari-obd\[distill\]"):
        OuterLoop(STUDENT, replace(SETTINGS, initial="kmeans"), CPU).check_size(500, 16)


def test_more_pairs_than_states_are_refused(targets: Targets) -> None:
    with pytest.raises(DataError, match="only 475 states to distil"):
        run(targets, size=476)


def test_a_step_can_be_timed(targets: Targets) -> None:
    assert OuterLoop(STUDENT, SETTINGS, CPU).estimate_seconds(3, 2, 16) > 0
