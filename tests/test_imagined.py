"""Model-based teachers: the actor makes in the ensemble what it learns from, penalised where that is doubtful."""

import math
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_arrays, shrink

from minari_obd import load_offline_data, train_teacher
from minari_obd.dynamics.ensemble import DynamicsEnsemble
from minari_obd.dynamics.fitting import DynamicsSettings
from minari_obd.errors import DataError, MinariObdError, SettingError
from minari_obd.sources.data import OfflineData
from minari_obd.teachers import run as teacher_run
from minari_obd.teachers.algorithms import MOBILE, Imagination
from minari_obd.teachers.batches import Imagined
from minari_obd.teachers.run import TeacherRun

FEW = {
    "rollouts": 30,
    "refresh": 4,
    "horizon": 3,
    "kept": 2,
    "batch_size": 16,
    "real_share": 0.25,
    "ensemble_updates": 40,
}
S, A = 3, 2


@pytest.fixture(autouse=True)
def small_ensemble(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch, DynamicsSettings, width=16, evaluate_every=20, members=3)
    monkeypatch.setattr(teacher_run, "MOST_UNEXPLAINED", 1.0)  # of noise, which the small data is


def distances(some: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Of each row to the nearest known one."""
    return torch.cdist(some, known, compute_mode="donot_use_mm_for_euclid_dist").amin(1)


def of(data: OfflineData, steps: int = 10, **options: Any) -> TeacherRun:
    return TeacherRun.of(data, "mobile", steps, 0, torch.device("cpu"), {**FEW, **options})


def imagined_by(run: TeacherRun, **changed: float) -> Imagined:
    ensemble = run._fitted(False)
    assert ensemble is not None
    found = run._imagined(run._create(), replace(ensemble, **changed) if changed else ensemble)
    assert found is not None
    return found


def test_an_interrupted_training_ends_as_one_that_was_not(
    small_data: OfflineData, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = of(small_data, 14)
    whole = run.train(progress=False)
    assert whole.details["options"] | FEW == whole.details["options"]
    shutil.rmtree(run.cache_folder)
    draw = Imagined.draw

    def cut(self: Imagined, count: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        if self.step == 9:
            signal.raise_signal(signal.SIGINT)  # noted; the update is finished first
        return draw(self, count, rng)

    with monkeypatch.context() as context:
        context.setattr(Imagined, "draw", cut)
        with pytest.raises(KeyboardInterrupt):
            run.train(progress=False)
    assert run.checkpoint.is_file()
    torch.rand(3)  # what happens in between is of no account
    assert run.train(progress=False).sha256 == whole.sha256


def test_rollouts_start_in_the_data_and_follow_the_actor(small_data: OfflineData) -> None:
    run = of(small_data)
    imagined = imagined_by(run)
    columns = imagined.draw(16, np.random.default_rng(0))
    assert {name: tuple(part.shape) for name, part in columns.items()} == {
        "observations": (16, S),
        "actions": (16, A),
        "rewards": (16, 1),
        "next_observations": (16, S),
        "terminals": (16, 1),
    }
    table, made = imagined.table, FEW["rollouts"]
    states = torch.from_numpy(small_data.normaliser.normalise(small_data.observations))
    first = table[:made, :S]
    assert (distances(first, states) < 1e-5).all()
    goes_on = table[:made, -1] == 0  # the second steps begin where the first ones led
    assert goes_on.any()
    torch.testing.assert_close(table[made : 2 * made, :S][goes_on], table[:made, S + A + 1 : -1][goes_on])
    assert (table[:, S : S + A].abs() <= 1.0).all()


def test_the_ring_keeps_the_newest_rollouts(small_data: OfflineData) -> None:
    imagined, rng, size = imagined_by(of(small_data)), np.random.default_rng(0), 90
    tables = []
    for _ in range(9):  # rollouts before the updates 0, 4 and 8
        imagined.draw(4, rng)
        tables.append(imagined.table.clone())
    assert not tables[0][size:].any()  # nothing is drawn from what is not there yet
    assert all(torch.equal(table, tables[0]) for table in tables[1:4])
    torch.testing.assert_close(tables[4][:size], tables[0][:size])
    assert tables[4][size:].any()
    torch.testing.assert_close(tables[8][size:], tables[4][size:])
    assert not torch.equal(tables[8][:size], tables[0][:size])


def test_before_the_ring_is_full_only_what_was_made_is_drawn(small_data: OfflineData) -> None:
    imagined = imagined_by(of(small_data))
    drawn = torch.cat([imagined.draw(64, np.random.default_rng(seed))["next_observations"] for seed in range(4)])
    assert (drawn.abs().sum(1) > 0).all()


def test_a_penalty_is_the_deviation_of_values_over_members(small_data: OfflineData) -> None:
    run = of(small_data, penalty=0.0)
    plain = imagined_by(run)
    ensemble, algo = plain._ensemble, plain._algo
    twin = Imagined(algo, ensemble, plain._starts, A, replace(plain._settings, penalty=2.0), 0)
    before, after = plain._roll_out(0), twin._roll_out(0)
    reward = S + A
    torch.testing.assert_close(before[:, :reward], after[:, :reward])
    states, actions = before[:, :S], before[:, S:reward]
    following = ensemble.opinions(states, actions).states
    values = []
    for member in following:
        scaled = torch.from_numpy(algo.predict(member.numpy()))
        each = [critic(member, scaled).q_value for critic in algo.impl.modules.targ_q_funcs]
        values.append(torch.minimum(*each)[:, 0])
    wanted = 2.0 * 0.99 * torch.stack(values).std(0)
    torch.testing.assert_close(before[:, reward] - after[:, reward], wanted.detach(), rtol=1e-3, atol=1e-5)
    assert (wanted > 0).any()


def test_members_that_agree_are_not_penalised(small_data: OfflineData) -> None:
    run = of(small_data, penalty=5.0)
    ensemble = run._fitted(False)
    assert ensemble is not None
    agreed = replace(ensemble, parameters=[p[:1].expand_as(p).contiguous() for p in ensemble.parameters])
    imagined = run._imagined(run._create(), agreed)
    assert imagined is not None
    rows = imagined._roll_out(0)
    rewards = agreed.opinions(rows[:, :S], rows[:, S : S + A]).rewards[0]
    torch.testing.assert_close(rows[:, S + A], rewards, rtol=1e-4, atol=1e-5)


def test_members_say_what_they_say_alone(small_data: OfflineData) -> None:
    ensemble = imagined_by(of(small_data))._ensemble
    states, actions = torch.randn(7, S), torch.rand(7, A)
    found = ensemble.opinions(states, actions)
    alone = ensemble.step(states.expand(3, -1, -1), actions.expand(3, -1, -1))
    for one, other in zip(found, alone, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_minibatch_has_the_share_of_the_data(share: float, small_data: OfflineData) -> None:
    run = of(small_data, real_share=share)
    imagined = imagined_by(run)
    batch = next(run._batches(imagined._algo, np.random.default_rng(0), imagined=imagined))
    states = torch.from_numpy(small_data.normaliser.normalise(small_data.observations))
    actions = torch.from_numpy(small_data.scaled_actions())
    known = torch.cat([states, actions], 1)
    apart = distances(torch.cat([batch.observations, batch.actions], 1), known)
    assert batch.observations.shape == (16, S)
    assert int((apart < 1e-5).sum()) == 16 * share


def test_what_cannot_be_is_said_before_the_training(small_data: OfflineData) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"horizon": 0}, "horizon is 0; it must be at least 1"),
        ({"real_share": 1.5}, "must be from 0 to 1"),
        ({"penalty": -1.0}, "zero or a positive number"),
        ({"penalty": math.nan}, "zero or a positive number"),
        ({"horizont": 3}, "did you mean 'horizon'"),
        ({"rollouts": 2.5}, "takes a int"),
    ]
    for options, message in wrong:
        with pytest.raises(SettingError, match=message):
            of(small_data, **options)
    with pytest.raises(DataError, match="needs at least 40"):
        of(load_offline_data(make_arrays([12, 12])))


def test_an_ensemble_that_knows_nothing_teaches_nothing(
    small_data: OfflineData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher_run, "MOST_UNEXPLAINED", 0.0)
    with pytest.raises(MinariObdError, match="use another teacher algorithm"):
        train_teacher(small_data, "mobile", steps=3, options=FEW, progress=False)


def test_the_plan_counts_ensemble_and_rollouts(small_data: OfflineData) -> None:
    run = of(small_data, 40)
    before = run.estimate_seconds(2)
    run._dynamics.fit(progress=False)  # type: ignore[union-attr]
    assert run.estimate_seconds(2) > 0.0
    assert before > 0.0
    run.train(progress=False)
    assert run.estimate_seconds(2) == 0.0


def test_settings_name_the_training(small_data: OfflineData) -> None:
    folders = {run.cache_folder for run in (of(small_data), of(small_data, penalty=0.5), of(small_data, horizon=2))}
    assert len(folders) == 3
    assert MOBILE.split() == (MOBILE.options, Imagination())


def test_a_chain_is_walked_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One state in [-1, 1] that the action moves; the reward is the state. The data moves at random."""
    monkeypatch.undo()  # a real limit, and an ensemble that can learn this
    monkeypatch.setenv("MINARI_OBD_CACHE", str(tmp_path))
    shrink(monkeypatch, DynamicsSettings, width=32, evaluate_every=100, members=3)
    rng, data = np.random.default_rng(0), []
    for _ in range(20):
        state, rows = rng.uniform(-1, 1), []
        for _ in range(50):
            action = rng.uniform(-1, 1)
            rows.append((state, action))
            state = float(np.clip(state + 0.2 * action, -1, 1))
        data.append(rows)
    states, actions = np.array(data, np.float32).reshape(-1, 2).T[..., None]
    ends = np.zeros(len(states), bool)
    ends[49::50] = True
    arrays = {"observations": states, "actions": actions, "rewards": states[:, 0], "truncations": ends}
    source = load_offline_data({**arrays, "terminations": np.zeros_like(ends)})
    options = {"rollouts": 200, "refresh": 100, "gamma": 0.9, "ensemble_updates": 400}
    teacher = train_teacher(source, "mobile", steps=600, options=options, progress=False)
    assert (teacher.act(np.array([[-0.8], [0.0], [0.5]], np.float32)) > 0.5).all()
    assert np.diff(teacher.value(np.array([[-0.8], [0.8]], np.float32), np.ones((2, 1), np.float32)))[0] > 2.0


def test_the_ensemble_is_one_of_the_package(small_data: OfflineData) -> None:
    run = of(small_data)
    assert run._dynamics is not None
    assert isinstance(run._dynamics.fit(progress=False), DynamicsEnsemble)
    assert run._dynamics.is_cached
