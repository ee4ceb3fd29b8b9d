"""Tracking: what a run tells while it goes on, to whom, and that it changes nothing."""

import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from conftest import RuleTeacher
from finetuning_lab import SMALL, SWIMMER, pairs_for, registered_environments
from test_distillation import QUICK

import minari_obd
from minari_obd.cli.application import main
from minari_obd.distiller.loop import OuterLoop
from minari_obd.errors import MissingExtraError, SettingError
from minari_obd.settings.sections import DistillationRecipe, TeacherRecipe
from minari_obd.sources.data import OfflineData
from minari_obd.storage.files import write_text
from minari_obd.support import libraries
from minari_obd.support.tracking import check_track, named, tracking
from minari_obd.targets.targets import Targets
from minari_obd.teachers import run as training

EVERY_STEP = {"distillation/training", "distillation/gradient_norm", "distillation/skipped"}
EVERY_STEP |= {"distillation/student_share"}
LOOKS = {"distillation/held_out", "distillation/best_held_out", "distillation/rate_factor"}


class Listener:
    """Keeps what it is told, by name."""

    def __init__(self) -> None:
        self.told: dict[str, list[tuple[int, float]]] = {}

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            assert type(value) is float
            self.told.setdefault(name, []).append((step, value))

    def steps(self, name: str) -> list[int]:
        return [step for step, _ in self.told[name]]


def read_events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The scalars of a folder, read by TensorBoard itself."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {name: [(each.step, each.value) for each in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_a_function_is_told_the_teacher_and_every_step_and_look_and_no_bit_changes(
    small_data: OfflineData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "_LOOK_EVERY", 2)
    listener, recipe = Listener(), replace(QUICK, teacher=TeacherRecipe("td3_bc", steps=5))
    told = minari_obd.distill(small_data, "pbc", recipe=recipe, progress=False, out="told", track=listener)
    assert listener.steps("teacher/mean_value") == listener.steps("teacher/critic_loss") == [2, 4, 5]
    assert listener.steps("teacher/actor_loss") == [5]  # the actor moves in every second update, from the first on
    assert {name for name in listener.told if name.startswith("distillation/")} == EVERY_STEP | LOOKS
    assert all(listener.steps(name) == [1, 2, 3, 4, 5, 6] for name in EVERY_STEP)
    assert all(listener.steps(name) == [0, 3, 6] for name in LOOKS)
    history = told.provenance.history
    assert listener.told["distillation/held_out"] == [(row["step"], row["held_out"]) for row in history]
    assert listener.told["distillation/training"][2][1] == history[1]["training"]
    monkeypatch.setenv("MINARI_OBD_CACHE", "another")  # where neither teacher nor checkpoint is
    silent = minari_obd.distill(small_data, "pbc", recipe=recipe, progress=False)
    assert silent.content_sha256 == told.content_sha256
    assert silent.provenance.recipe == told.provenance.recipe
    assert silent.provenance.teacher == told.provenance.teacher
    # The same folder takes the same run, told or not: to be told is no setting of the run.
    minari_obd.distill(small_data, "pbc", recipe=recipe, progress=False, out="told")


def test_the_share_of_students_states_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Visited:
        settings = replace(QUICK.student_states, share=0.25, interval=3)
        held_out = torch.zeros(10, 3), torch.zeros(10, 2)

        def to(self, device: torch.device) -> "Visited":
            return self

        def visit(self, policy, count, seed, step):
            return torch.zeros(8, 3), torch.zeros(8, 2)

    rng = torch.Generator().manual_seed(0)
    states = torch.randn(200, 3, generator=rng).numpy()
    targets = Targets(states, states[:, :2].clip(-1, 1), abs(states[:, 0]) * 0 + 1, {}, visited=Visited())  # pyright: ignore[reportArgumentType]
    listener, settings = Listener(), DistillationRecipe(kernel_steps=5, steps=4, batch_size=64, evaluate_every=2)
    loop = OuterLoop(QUICK.student, settings, torch.device("cpu"))
    loop.run(targets, 8, seed=0, progress=False, track=listener)
    assert listener.told["distillation/student_share"] == [(step, 0.25) for step in (1, 2, 3, 4)]


def test_a_run_goes_on_whether_or_not_it_was_told_before(small_data: OfflineData) -> None:
    class Stop(Listener):
        def __call__(self, step: int, values: Mapping[str, float]) -> None:
            super().__call__(step, values)
            if step == 4:
                import signal

                signal.raise_signal(signal.SIGINT)  # noted; the step is finished, and a checkpoint written

    whole = minari_obd.distill(small_data, "pbc", teacher=RuleTeacher(), recipe=QUICK, progress=False)
    stopped, rest = Stop(), Listener()
    with pytest.raises(KeyboardInterrupt):
        minari_obd.distill(small_data, "pbc", teacher=RuleTeacher(), recipe=QUICK, progress=False, track=stopped)
    made = minari_obd.distill(small_data, "pbc", teacher=RuleTeacher(), recipe=QUICK, progress=False, track=rest)
    assert made.content_sha256 == whole.content_sha256
    assert stopped.steps("distillation/training") == [1, 2, 3, 4]
    assert rest.steps("distillation/training") == [5, 6]


def test_tensorboard_reads_back_what_was_told(small_data: OfflineData) -> None:
    listener = Listener()
    given: tuple[tuple[Any, str], ...] = ((listener, "a"), ("tensorboard", "b"))
    for track, out in given:
        minari_obd.distill(small_data, "pbc", teacher=RuleTeacher(), recipe=QUICK, progress=False, out=out, track=track)
    found = read_events(Path("b.tensorboard"))
    assert found.keys() == listener.told.keys()
    for name, rows in listener.told.items():
        assert [step for step, _ in found[name]] == [step for step, _ in rows]
        assert [value for _, value in found[name]] == pytest.approx([value for _, value in rows], rel=1e-6)
    assert not list(Path().glob("a.*"))
    assert minari_obd.load_dataset("a").content_sha256 == minari_obd.load_dataset("b").content_sha256


def test_fine_tuning_tells_returns() -> None:
    given, listener = {"steps": 200, "settings": SMALL, "progress": False}, Listener()
    with registered_environments():
        pairs = pairs_for(SWIMMER)
        told = minari_obd.finetune(pairs, SWIMMER, **given, track=listener, out="tuned")
        silent = minari_obd.finetune(pairs, SWIMMER, **given)
    assert listener.told["finetuning/evaluation"] == list(zip(told.steps, told.curve.tolist(), strict=True))
    assert listener.told["finetuning/reminder_weight"] == list(zip(told.steps, told.bc_weights, strict=True))
    rows = list(zip(told.training_steps, told.training_returns, strict=True))
    assert rows
    assert listener.told["finetuning/training_return"] == rows
    np.testing.assert_array_equal(silent.training_returns, told.training_returns)
    assert silent.policy is not None
    assert told.policy is not None
    for mine, theirs in zip(silent.policy.parameters, told.policy.parameters, strict=True):
        assert torch.equal(mine, theirs)


def test_a_teacher_alone_is_told_beside_runs(small_data: OfflineData) -> None:
    minari_obd.train_teacher(small_data, "td3_bc", steps=3, progress=False, track="tensorboard")
    (folder,) = Path("runs").iterdir()
    assert read_events(folder)["teacher/mean_value"][0][0] == 3


def test_what_cannot_be_told_is_said_before_any_work(
    small_data: OfflineData, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SettingError, match="There is no tracker 'tensorbord'; did you mean 'tensorboard'"):
        minari_obd.distill("no/such/data-v0", track="tensorbord")  # pyright: ignore[reportArgumentType]
    for wrong in (lambda step: None, lambda: None):
        with pytest.raises(SettingError, match=r"track is called with \(step, values\), and this cannot be: too many"):
            check_track(cast(Any, wrong))
    check_track(print)
    with pytest.raises(SettingError, match="track is a int; give a function"):
        minari_obd.finetune(small_data, "Hopper-v5", steps=1, track=3)  # pyright: ignore[reportArgumentType]
    monkeypatch.setattr(libraries, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"needs wandb.*pip install 'minari-obd\[wandb\]'"):
        minari_obd.distill("no/such/data-v0", track="wandb")
    with pytest.raises(SystemExit):
        main(["distill", "no/such/data-v0", "--track", "trackio"])
    assert "pip install 'minari-obd[trackio]'" in capsys.readouterr().err


TELLS = """
import os
from minari_obd.support.tracking import named, tracking
with tracking({name!r}, "a run") as track:
    for step in (5, 6):
        named(track, "teacher", step, {{"loss": step / 2}})
    named(track, "distillation", 1, {{"held_out": 0.25}})
"""


def tell_in_a_process(name: str, **variables: str) -> str:
    """Tell two parts in a process of its own, as these libraries leave threads and processes behind."""
    import os

    known = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB", "TRACKIO"))}
    done = subprocess.run(
        [sys.executable, "-c", TELLS.format(name=name)],
        env={**known, **variables, "PYTHONPATH": str(Path(minari_obd.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_weights_and_biases_stays_offline_unless_told_otherwise(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="Weights & Biases is not installed")
    said = tell_in_a_process("wandb", WANDB_DIR=str(tmp_path))
    assert "offline" in said
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    kept = file.read_bytes()  # a log of records: names and JSON values stand in it as they are
    for name, value in (("teacher/loss", b"2.5"), ("teacher/step", b"6"), ("distillation/held_out", b"0.25")):
        assert re.search(re.escape(name.encode()) + rb"(?s:.){0,8}?" + re.escape(value), kept)


def test_trackio_keeps_what_is_told_on_this_machine(tmp_path: Path) -> None:
    pytest.importorskip("trackio", reason="trackio is not installed")
    tell_in_a_process("trackio", TRACKIO_DIR=str(tmp_path), HF_HOME=str(tmp_path / "hf"))
    import sqlite3

    with sqlite3.connect(tmp_path / "minari-obd.db") as base:
        rows = base.execute("select step, metrics from metrics order by step").fetchall()
    assert [step for step, _ in rows] == [1, 5, 6]
    assert "0.25" in str(rows[0][1])


def test_a_tracker_is_closed_however_the_run_ends(tmp_path: Path) -> None:
    def broken() -> None:
        with tracking("tensorboard", "a run", tmp_path / "out") as track:
            named(track, "teacher", 1, {"loss": 2.0})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken()
    assert read_events(tmp_path / "out.tensorboard") == {"teacher/loss": [(1, 2.0)]}
    with tracking(None, "a run") as track:
        assert track is None
        named(track, "teacher", 1, {"loss": 2.0})
    write_text(tmp_path / "after", "the folder is as it was")
