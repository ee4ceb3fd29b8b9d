"""The dynamics ensemble, rollouts in it, and the states that students visit, against a system that is known."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import minari_obd
from minari_obd.distiller.data import OuterData
from minari_obd.distiller.loop import OuterLoop
from minari_obd.dynamics import fitting
from minari_obd.dynamics.ensemble import DynamicsEnsemble, Prediction, draw_parameters
from minari_obd.dynamics.fitting import DynamicsRun, DynamicsSettings
from minari_obd.dynamics.rollouts import roll_out
from minari_obd.errors import DataError, FormatError, SettingError
from minari_obd.settings.protocols import StudentDraws, StudentProtocol
from minari_obd.settings.recipe import Recipe
from minari_obd.settings.sections import DistillationRecipe, StudentStatesRecipe
from minari_obd.sources.data import OfflineData
from minari_obd.sources.loading import load_offline_data
from minari_obd.support.streams import Stream
from minari_obd.targets import student_states
from minari_obd.targets.student_states import StudentStates
from minari_obd.targets.targets import Targets

CPU = torch.device("cpu")
SETTINGS = DynamicsSettings(
    members=3, depth=2, width=32, updates=1_000, batch_size=64, learning_rate=3e-3, evaluate_every=100
)
FEW = replace(SETTINGS, members=2, depth=1, width=16, updates=30, evaluate_every=10)
ENDS = "terminations", "truncations"
STATES = StudentStatesRecipe(share=0.5, interval=5, rounds=2, horizon=20)
QUICK = Recipe(
    "x",
    "pbc",
    size=12,
    student=StudentProtocol(depth=1, width=16, steps=20, optimiser="adam", learning_rate=0.01),
    distillation=DistillationRecipe(
        kernel_steps=5,
        steps=20,
        learning_rate=0.02,
        batch_size=64,
        evaluate_every=10,
        draws=StudentDraws((), (), (), 0.0),
    ),
    student_states=STATES,
)


def cart(noise: bool = False, episodes: int = 200, length: int = 25) -> OfflineData:
    """A cart that is pushed: x' = x + 0.2 v, v' = 0.95 v + 0.3 a; reward -x^2; the episode ends beyond |x| = 0.8."""
    rng, columns = np.random.default_rng(0), {name: [] for name in ("o", "a", "r", "t", "u", "n")}
    for _ in range(episodes):
        state = rng.uniform(-0.7, 0.7, 2)
        for step in range(length):
            action = rng.uniform(-1, 1, 1)
            following = np.array([state[0] + 0.2 * state[1], 0.95 * state[1] + 0.3 * action[0]])
            following = rng.uniform(-1, 1, 2) if noise else following
            is_end = bool(abs(following[0]) > 0.8)
            row = state, action, rng.normal() if noise else -(state[0] ** 2), is_end, step == length - 1, following
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)
            state = following
            if is_end:
                break
    names = "observations", "actions", "rewards", "terminations", "truncations", "next_observations"
    arrays = dict(zip(names, map(np.array, columns.values()), strict=True))
    arrays["truncations"] &= ~arrays["terminations"]
    return load_offline_data({**arrays, "action_low": [-1.0], "action_high": [1.0]}, progress=False)


class Pusher:
    """A teacher that pushes the cart back to the middle."""

    def act(self, states: np.ndarray) -> np.ndarray:
        return np.clip(-states[:, :1] - states[:, 1:2], -1, 1).astype(np.float32)

    def value(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        return np.zeros(len(states))


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> DynamicsEnsemble:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_OBD_CACHE", str(tmp_path_factory.mktemp("cache")))
        return DynamicsRun(cart(), 0, CPU, SETTINGS).fit(progress=False)


def test_a_known_system_is_learned_with_its_rewards_and_its_ends(fitted: DynamicsEnsemble) -> None:
    data = cart()
    assert fitted.unexplained < 0.05
    raw = np.random.default_rng(1).uniform(-0.5, 0.5, (3, 50, 2)).astype(np.float32)
    actions = torch.rand(3, 50, 1, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = fitted.step(torch.from_numpy(data.normaliser.normalise(raw)), actions)
    wanted = np.stack([raw[..., 0] + 0.2 * raw[..., 1], 0.95 * raw[..., 1] + 0.3 * actions[..., 0].numpy()], -1)
    np.testing.assert_allclose(data.normaliser.denormalise(found.states.numpy()), wanted, atol=0.2)
    assert np.corrcoef(found.rewards.numpy().ravel(), -(raw[..., 0] ** 2).ravel())[0, 1] > 0.9
    outwards = torch.from_numpy(data.normaliser.normalise(np.full((3, 1, 2), [0.75, 0.9], np.float32)))
    ends = fitted.step(outwards, torch.ones(3, 1, 1)).ends
    assert float(ends.min()) > 0.5 > float(found.ends.max())


def test_noise_is_told_from_dynamics() -> None:
    ensemble = DynamicsRun(cart(noise=True), 0, CPU, replace(SETTINGS, updates=200)).fit(progress=False)
    assert ensemble.unexplained > 0.9


@pytest.mark.parametrize(("count", "updates"), [(40, 1_000), (700, 1_400), (3_000, 6_000), (200_000, 6_000)])
def test_small_data_takes_fewer_updates(count: int, updates: int) -> None:
    assert DynamicsSettings.suited(count) == replace(DynamicsSettings(), updates=updates)


def test_what_knows_nothing_is_left_out_and_the_plan_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DynamicsSettings, "suited", lambda _: FEW)
    data = cart(noise=True)
    found = minari_obd.distill(data, "pbc", teacher=Pusher(), recipe=QUICK)
    assert "data's states are used alone" in capsys.readouterr().err
    assert found.provenance.targets["dynamics"]["is_used"] is False
    plain = replace(QUICK, student_states=StudentStatesRecipe())
    same = minari_obd.distill(data, "pbc", teacher=Pusher(), recipe=plain, progress=False)
    assert same.observations.tobytes() == found.observations.tobytes()


def test_the_same_seed_gives_the_same_bits_and_an_interrupted_fit_goes_on_to_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = cart(episodes=20)
    whole = DynamicsRun(data, 0, CPU, FEW)
    expected = whole.fit(progress=False)
    assert whole.is_cached
    assert whole.estimate_seconds() == 0.0
    whole.path.unlink()
    original, made = fitting._Fit.update, []

    def interrupted(self, number: int) -> None:
        made.append(number)
        if len(made) == 17:
            os.kill(os.getpid(), signal.SIGINT)
        original(self, number)

    monkeypatch.setattr(fitting._Fit, "update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        whole.fit(progress=False)
    assert whole.checkpoint.is_file()
    again = whole.fit(progress=False)
    assert made == list(range(30))
    assert not whole.checkpoint.exists()
    loaded = DynamicsEnsemble.load(whole.path)
    for ensemble in (again, loaded):
        assert ensemble.details == expected.details
        for ours, theirs in zip(ensemble.parameters, expected.parameters, strict=True):
            assert ours.numpy().tobytes() == theirs.numpy().tobytes()
        assert float(ensemble.limit) == float(expected.limit)
    assert DynamicsRun(data, 1, CPU, FEW).path != whole.path


def test_a_damaged_file_is_named(tmp_path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    with pytest.raises(FormatError, match="is not a dynamics ensemble, or damaged"):
        DynamicsEnsemble.load(tmp_path / "x.safetensors")


class Counting(DynamicsEnsemble):
    """Member k adds k + 1 to the first dimension, and the action to the second; no episode ends by itself."""

    def step(self, states, actions):
        added = torch.arange(1.0, 1 + len(states))[:, None, None].expand(*states.shape[:2], 1)
        zero = torch.zeros(states.shape[:2])
        return Prediction(states + torch.cat([added, actions], -1), zero + 1.0, zero, zero)


def counting(members: int) -> DynamicsEnsemble:
    parameters = draw_parameters([3, 4, 4], members, torch.Generator().manual_seed(0))
    two = torch.zeros(2)
    return Counting(parameters, torch.zeros(3), torch.ones(3), two, two, torch.tensor(1.0), {"unexplained": 0.0})


def rolled(policies: Callable, horizon: int = 100, **changes):
    given = {"policy_count": 2, "lanes": 5, "steps": 6, "noise": 0.0, **changes}
    generator = torch.Generator().manual_seed(0)
    return roll_out(counting(3), policies, torch.zeros(4, 2), horizon=horizon, generator=generator, **given)


def test_every_rollout_follows_one_member_and_its_own_policy() -> None:
    found = rolled(lambda states: torch.tensor([0.25, -0.5])[:, None, None].expand(*states.shape[:2], 1), horizon=10**6)
    states = found.states
    assert states.shape == (6, 2, 6, 2)  # five lanes are rounded up to six: two for each of three members
    speeds = states[1:, ..., 0] - states[:-1, ..., 0]
    assert (speeds == speeds[0]).all()
    assert sorted(speeds[0, 0].tolist()) == [1, 1, 2, 2, 3, 3]
    np.testing.assert_allclose(states[5, :, :, 1], [[1.25] * 6, [-2.5] * 6])


def test_rollouts_end_at_the_horizon_and_start_again() -> None:
    found = rolled(lambda states: torch.zeros(*states.shape[:2], 1), horizon=3, steps=30)
    after = found.states[1:][found.ends[:-1]]
    assert (after == 0.0).all()
    assert found.ends.float().mean() == pytest.approx(1 / 3, abs=0.04)
    assert float(found.states[..., 0].max()) == 6.0  # member 3, two steps


def test_rollouts_end_where_members_disagree(fitted: DynamicsEnsemble) -> None:
    starts = torch.zeros(4, 2)
    given = {"policy_count": 1, "lanes": 30, "steps": 40, "horizon": 1_000, "noise": 0.0}
    push = lambda states: torch.ones(*states.shape[:2], 1)  # noqa: E731
    usual = roll_out(fitted, push, starts, generator=torch.Generator().manual_seed(0), **given)
    assert usual.lost < 0.5
    strict = replace(fitted, limit=torch.tensor(0.0))
    cut = roll_out(strict, push, starts, generator=torch.Generator().manual_seed(0), **given)
    assert cut.ends.all()
    assert cut.lost == 1.0
    assert 0.0 < float(usual.ends.float().mean()) < 0.3  # pushed to one side, the cart leaves the track


def test_visited_states_have_the_teachers_clean_actions(fitted: DynamicsEnsemble) -> None:
    data, teacher = cart(), Pusher()
    visited = StudentStates(fitted, data, teacher, STATES, 0)
    states, wanted = visited.visit(lambda s: torch.zeros(*s.shape[:2], 1), 4, seed=0, step=10)
    raw = data.normaliser.denormalise(states.numpy())
    np.testing.assert_allclose(wanted.numpy(), teacher.act(raw), atol=1e-6)
    again, other = (visited.visit(lambda s: torch.zeros(*s.shape[:2], 1), 4, seed=0, step=n)[0] for n in (10, 20))
    assert torch.equal(again, states)
    assert not torch.equal(other, states)
    assert visited.held_out[0].shape == states.shape


@pytest.mark.parametrize(("horizon", "steps"), [(50, 200), (300, 300)])
def test_students_are_followed_for_the_horizon_that_was_asked_for(
    horizon: int, steps: int, fitted: DynamicsEnsemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []

    def recorded(*given: Any, **named: Any) -> Any:
        asked.append((named["steps"], named["horizon"]))
        return roll_out(*given, **named)

    monkeypatch.setattr(student_states, "roll_out", recorded)
    visited = StudentStates(fitted, cart(), Pusher(), replace(STATES, horizon=horizon), 0)
    states, _ = visited.visit(lambda s: torch.zeros(*s.shape[:2], 1), 4, seed=0, step=10)
    assert asked == [(steps, horizon)]
    assert states.isfinite().all()


def test_rollouts_start_in_states_that_weigh(fitted: DynamicsEnsemble) -> None:
    data = cart()
    weights = (data.observations[:, 0] > 0.5).astype(np.float32)
    starts = StudentStates(fitted, data, Pusher(), STATES, 0, weights).starts
    anywhere = data.normaliser.denormalise(starts[4_096:].numpy())
    assert (anywhere[:, 0] > 0.49).all()
    assert len(np.unique(anywhere, axis=0)) > 100


def test_batches_hold_the_share_that_was_asked_for(fitted: DynamicsEnsemble) -> None:
    data = cart()
    states = data.normaliser.normalise(data.observations)
    targets = Targets(states, np.zeros((len(states), 1)), np.ones(len(states)), {})
    settings = replace(STATES, share=0.25)
    seen = replace(targets, visited=StudentStates(fitted, data, Pusher(), settings, 0))
    plain, mixed = (OuterData.of(each, QUICK.distillation, 0, CPU) for each in (targets, seen))
    visits = [torch.full((50, 2), 9.0), torch.full((50, 1), 0.5)]
    batch = mixed.batch(64, 3, visits)
    assert [len(each) for each in batch] == [64] * 3
    assert (batch[0] == 9.0).all(1).sum() == 16
    assert (batch[1] == 0.5).sum() == 16
    assert len(mixed.judged[0]) == pytest.approx(len(plain.judged[0]) / 0.75, abs=1)
    for ours, theirs in zip(mixed.batch(64, 3), plain.batch(64, 3), strict=True):  # before the first visit
        assert torch.equal(ours, theirs)


def test_student_states_change_the_pairs_are_repeated_and_resumed_to_the_bit(
    fitted: DynamicsEnsemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DynamicsRun, "fit", lambda self, progress: fitted)
    data = cart()

    def made(recipe: Recipe = QUICK) -> bytes:
        return minari_obd.distill(data, "pbc", teacher=Pusher(), recipe=recipe, progress=False).observations.tobytes()

    whole = made()
    assert made(replace(QUICK, student_states=StudentStatesRecipe())) != whole
    original, steps = OuterLoop._step, []

    def interrupted(self, state, *others) -> None:
        steps.append(state.step)
        if len(steps) == 13:
            os.kill(os.getpid(), signal.SIGINT)
        original(self, state, *others)

    monkeypatch.setattr(OuterLoop, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        made()
    assert made() == whole
    assert steps == list(range(20))


def test_without_a_teacher_nobody_says_what_to_do_there(small_data: OfflineData) -> None:
    with pytest.raises(SettingError, match="no teacher"):
        minari_obd.distill(small_data, "dbc", recipe=QUICK, progress=False)


def test_results_without_student_states_keep_their_names() -> None:
    assert "student_states" not in replace(QUICK, student_states=StudentStatesRecipe()).deciding()
    assert QUICK.deciding()["student_states"]["share"] == 0.5


def test_a_teacher_of_any_kind_will_do(fitted: DynamicsEnsemble, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DynamicsRun, "fit", lambda self, progress: fitted)
    found = minari_obd.distill(cart(), "pbc", teacher=Pusher(), recipe=QUICK, progress=False)
    assert found.provenance.targets["dynamics"]["is_used"] is True
    assert found.provenance.recipe["student_states"]["share"] == 0.5


@pytest.mark.parametrize("ends", ["truncations", "terminations"])
def test_data_with_hardly_any_successors_does_without_student_states_unless_they_are_asked_for(
    ends: str, capsys: pytest.CaptureFixture[str]
) -> None:
    states = np.random.default_rng(0).normal(size=(100, 2))
    rows = {"observations": states, "actions": np.zeros((100, 1)), "rewards": np.ones(100)}
    flags = {name: np.arange(100) > 38 if name == ends else np.zeros(100, bool) for name in ENDS}
    data = load_offline_data({**rows, **flags, "action_low": [-1.0], "action_high": [1.0]}, progress=False)
    default = replace(QUICK, method="vgd", student_states=StudentStatesRecipe())
    found = minari_obd.distill(data, teacher=Pusher(), recipe=default)
    assert "dynamics" not in found.provenance.targets
    assert "left out: 39 steps with a known next state; 40 are needed" in capsys.readouterr().err
    with pytest.raises(DataError, match="has 39 steps with a known next state"):
        minari_obd.distill(data, teacher=Pusher(), recipe=QUICK, progress=False)


def test_an_ensemble_that_nothing_judges_knows_nothing() -> None:
    """No held-out step of these goes on, so nothing tells how well next states are predicted."""
    states = np.random.default_rng(0).normal(size=(200, 2))
    rows = {"observations": states, "actions": np.zeros((200, 1)), "rewards": np.ones(200)}
    held_out = Stream.DYNAMICS.generator(0).permutation(200)[:10]
    ends = {"terminations": np.isin(np.arange(200), [*held_out, 199]), "truncations": np.zeros(200, bool)}
    data = load_offline_data({**rows, **ends, "action_low": [-1.0], "action_high": [1.0]}, progress=False)
    assert DynamicsRun(data, 0, CPU, FEW).fit(progress=False).unexplained == 1.0
