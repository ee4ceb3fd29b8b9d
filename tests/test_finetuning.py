"""Fine-tuning: a run starts as the clone, keeps to what it is reminded of, and resumes to the bit."""

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_pairs
from finetuning_lab import (
    PENDULUM,
    SMALL,
    STUDENT,
    SWIMMER,
    error_on,
    learn,
    pairs_for,
    registered_environments,
)

import minari_obd
from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.errors import DataError, FormatError, MinariObdError, NotFoundError, SettingError
from minari_obd.finetuning import loop as finetuning
from minari_obd.finetuning.arguments import Arguments
from minari_obd.finetuning.loop import Learning
from minari_obd.finetuning.reminder import Reminder, return_floor
from minari_obd.finetuning.report import FinetuneReport
from minari_obd.scores.references import ReferenceScores
from minari_obd.settings import finetuning as finetuning_recipe
from minari_obd.settings.finetuning import FinetuningRecipe
from minari_obd.sources.loading import load_offline_data
from minari_obd.support.devices import cache_root


# Fixtures of each module's own: imported ones would be shadowed by the arguments that ask for them.
@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    with registered_environments():
        yield


@pytest.fixture
def pendulum() -> DistilledDataset:
    return pairs_for(PENDULUM)


@pytest.mark.parametrize("env_id", [PENDULUM, SWIMMER])
def test_the_first_evaluation_is_the_clone_s_own(env_id: str) -> None:
    pairs = pairs_for(env_id)
    report = minari_obd.finetune(pairs, steps=41, settings=SMALL, seed=3, progress=False)
    own = minari_obd.evaluate(minari_obd.clone(pairs, seed=3), episodes=2, seed=3).returns
    assert report.returns[0].tobytes() == own[0].tobytes()
    assert report.steps.tolist() == [0, 41]
    last = minari_obd.evaluate(report.policy, episodes=2, seed=3).returns  # pyright: ignore[reportArgumentType]
    assert report.returns[-1].tobytes() == last[0].tobytes()


@pytest.mark.parametrize(("target", "states"), [("actions", "data"), ("clone", "data"), ("clone", "visited")])
def test_a_strong_reminder_keeps_the_actor(pendulum: DistilledDataset, target: Any, states: Any) -> None:
    settings = replace(SMALL, bc_schedule="constant", bc_target=target, bc_states=states)
    clone = minari_obd.clone(pendulum)
    wanted = pendulum if target == "actions" else replace(pendulum, actions=clone(pendulum.observations))
    errors = {}
    for weight in (0.0, 1e4):
        report = minari_obd.finetune(pendulum, steps=120, settings=replace(settings, bc_weight=weight), progress=False)
        errors[weight] = error_on(wanted, report.policy)
        assert report.bc_weights.tolist() == [weight] * len(report.steps)
    assert errors[1e4] < 0.002 + error_on(wanted, clone)
    assert errors[0.0] > 10 * errors[1e4]


@pytest.mark.parametrize("schedule", ["guarded", "adaptive"])
@pytest.mark.parametrize("warmup", [40, 2])
def test_the_weight_follows_the_training_episodes(pendulum: DistilledDataset, schedule: Any, warmup: int) -> None:
    """Computed again from what the report says of them."""
    expert = 40.0 if schedule == "adaptive" else None
    settings = replace(SMALL, bc_schedule=schedule, expert_return=expert, evaluate_every=20, proportional_gain=1e-3)
    settings = replace(settings, warmup=warmup, bc_decay=50.0, bc_recovery=20.0, derivative_gain=0.05)
    report = minari_obd.finetune(pendulum, steps=200, settings=settings, progress=False)
    reminder = Reminder(settings, scale=ReferenceScores(0.0, 40.0, "made up") if schedule == "adaptive" else None)
    warm = report.training_returns[report.training_steps <= warmup]
    given, expected = (warm if len(warm) else report.returns[0]).tolist(), []
    ended = list(zip(report.training_steps, report.training_returns, strict=True))
    lengths = np.diff([0, *report.training_steps])
    for step in report.steps:
        for (end, value), length in zip(ended, lengths, strict=True):
            if max(step - 20, warmup) < end <= step:
                reminder.after_episode(value, int(length), warm=given)
        expected.append(reminder.weight)
    np.testing.assert_allclose(report.bc_weights, expected, rtol=1e-12)
    assert len(set(expected)) > 3 or warmup == 2  # where the clone without noise may be what nothing reaches


def test_the_warm_up_s_last_step_belongs_to_it() -> None:
    """Episodes of 80 steps: the first ends at the last step of a warm-up of 80, and after one of 79."""
    pairs = pairs_for(SWIMMER)
    first = return_floor([1e6, 3e6])
    for warmup in (80, 79):
        run = Arguments(pairs, SWIMMER, 200, 0, replace(SMALL, warmup=warmup, bc_decay=10.0), pairs)
        learning = Learning.start(run, minari_obd.clone(pairs), resume=False)
        record, reminder = learning.record, learning.learner.reminder
        record.returns = [[1e6, 3e6]]
        learn(learning.learner, 80)
        learning.record_episodes()
        assert record.training_steps == [80]
        assert (reminder.floor, reminder.weight) == ((None, 4.0) if warmup == 80 else (first, 0.004))
        learn(learning.learner, 80)
        learning.record_episodes()
        assert reminder.floor == (record.training_returns[0] if warmup == 80 else first)


def test_a_run_is_named_after_what_decides_it(pendulum: DistilledDataset) -> None:
    other = pairs_for(PENDULUM, seed=1)

    def key(settings: FinetuningRecipe, **given: Any) -> str:
        run = {"ds": pendulum, "env_id": PENDULUM, "steps": 60, "seed": 0, "bc_data": pendulum, **given}
        return Arguments(**run, settings=settings).key

    given = replace(SMALL, bc_schedule="adaptive", bc_states="data", expert_return=40.0)
    changes: dict[str, Any] = {"start": "scratch", "bc_schedule": "constant", "bc_states": "visited", "device": "auto"}
    changes |= {"bc_target": "actions", "discount": 0.5, "target_rate": 0.1, "critic_norm": False, "buffer_size": 999}
    for field in fields(FinetuningRecipe):
        changed = {field.name: changes[field.name] if field.name in changes else 2 * getattr(given, field.name)}
        changed |= {"expert_return": None} if field.name == "bc_schedule" else {}
        assert key(replace(given, **changed)) != key(given), field.name
        without, changed = replace(given, bc_weight=0.0), changed | {"bc_weight": 0.0}
        is_reminder = field.name == "bc_weight" or field.name in finetuning_recipe._REMINDER
        assert (key(replace(without, **changed)) == key(without)) == is_reminder, field.name
    assert key(given, bc_data=other) != key(given)
    for settings in (SMALL, replace(given, bc_weight=0.0)):
        assert key(settings, bc_data=other) == key(settings)
    for given_run in ({"ds": other}, {"env_id": SWIMMER}, {"steps": 61}, {"seed": 1}):
        assert key(SMALL, **given_run) != key(SMALL)


def test_it_may_be_reminded_of_other_data(pendulum: DistilledDataset) -> None:
    """More rows than a batch: minibatches of them."""
    rng = np.random.default_rng(5)
    observations = rng.normal(size=(300, 4))
    ends = np.arange(300) == 299
    data = load_offline_data(
        {
            "observations": observations,
            "actions": np.full((300, 1), 0.6),
            "rewards": np.zeros(300),
            "terminations": np.zeros(300, bool),
            "truncations": ends,
            "next_observations": np.roll(observations, -1, axis=0),
            "action_low": [-3.0],
            "action_high": [3.0],
        }
    )
    settings = replace(SMALL, bc_weight=1e4, bc_schedule="constant", bc_target="actions", bc_states="data")
    settings = replace(settings, learning_rate=3e-3)
    report = minari_obd.finetune(pendulum, steps=300, settings=settings, bc_data=data, progress=False)
    assert report.policy is not None
    before, after = (np.abs(p(data.observations) - 0.6).mean() for p in (minari_obd.clone(pendulum), report.policy))
    assert after < 0.2 * before


@pytest.mark.parametrize("start", ["clone", "scratch"])
def test_it_learns_what_is_best(start: Any) -> None:
    pairs = pairs_for("lab/Line-v0")
    pairs = replace(pairs, actions=-pairs.observations.clip(-1, 1))  # a clone that is wrong everywhere
    settings = replace(
        SMALL,
        start=start,
        bc_weight=0.0,
        episodes=20,
        batch_size=64,
        critic_width=64,
        learning_rate=3e-3,
        warmup=50,
        evaluate_every=500,
    )
    report = minari_obd.finetune(pairs, steps=500, settings=settings, progress=False)
    assert report.curve[0] < -0.05
    assert report.curve[-1] > -0.01
    assert report.policy is not None
    states = np.linspace(-0.8, 0.8, 9)[:, None]
    np.testing.assert_allclose(report.policy(states), states / 2, atol=0.2)


def outcome(report: minari_obd.FinetuneReport) -> str:
    assert report.policy is not None
    values = {**report.to_json(), "seconds": 0.0}
    return json.dumps([values, [each.numpy().tobytes().hex() for each in report.policy.parameters]])


@pytest.mark.parametrize(
    ("env_id", "how"), [(PENDULUM, "killed"), (SWIMMER, "killed"), (PENDULUM, "sigterm"), (SWIMMER, "ctrl-c")]
)
def test_stopped_and_called_again_it_ends_with_the_same_bits(
    env_id: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped within an episode, with a buffer that has come round; or in the warm-up."""
    stop, states = 31 if how == "sigterm" else 101, "data" if how == "killed" else "visited"
    pairs, settings = pairs_for(env_id), replace(SMALL, buffer_size=70, bc_states=states)
    whole = minari_obd.finetune(pairs, steps=120, settings=settings, progress=False)
    original = Learning.record_episodes

    def stopped(self: Learning) -> list[float]:
        ended = original(self)
        if self.learner.num_timesteps == stop - 2 and how == "killed":
            patch.setattr(finetuning, "_CHECKPOINT_SECONDS", 0.0)
        if self.learner.num_timesteps == stop:
            if how == "killed":
                raise MemoryError  # as good as a kill: nothing after the last checkpoint is kept
            os.kill(os.getpid(), signal.SIGINT if how == "ctrl-c" else signal.SIGTERM)
        return ended

    with monkeypatch.context() as patch:
        patch.setattr(Learning, "record_episodes", stopped)
        with pytest.raises(MemoryError if how == "killed" else KeyboardInterrupt):
            minari_obd.finetune(pairs, steps=120, settings=settings, progress=False)
    assert [path.name[:11] for path in (cache_root() / "checkpoints").iterdir()] == ["finetuning-"]
    np.random.seed(9)  # noqa: NPY002  # what the process draws elsewhere is nothing to a run
    torch.manual_seed(9)
    seen = []
    with monkeypatch.context() as patch:
        watched = lambda learning: (seen.append(learning.learner.num_timesteps), original(learning))  # noqa: E731
        patch.setattr(Learning, "record_episodes", watched)
        resumed = minari_obd.finetune(pairs, steps=120, settings=settings, progress=False)
    assert seen[0] == (stop if how == "killed" else stop + 1)
    assert outcome(resumed) == outcome(whole)
    assert not list((cache_root() / "checkpoints").iterdir())


def test_a_run_leaves_the_process_s_random_numbers_alone_and_its_seed_decides(pendulum: DistilledDataset) -> None:
    def state() -> str:
        return str([np.random.get_state(legacy=False), torch.get_rng_state().tolist()])  # noqa: NPY002

    before = state()
    first, second, other = (
        minari_obd.finetune(pendulum, steps=60, settings=SMALL, seed=seed, progress=False) for seed in (1, 1, 2)
    )
    assert outcome(first) == outcome(second) != outcome(other)
    assert state() == before


def test_checkpoints_that_cannot_be_gone_on_from_are_named(
    pendulum: DistilledDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(SMALL, bc_weight=0.0, evaluate_every=1_000)
    restless = pairs_for("lab/Restless-v0")
    monkeypatch.setattr(finetuning, "evaluate", lambda *_, **__: pytest.fail("not evaluated"))
    for pairs, error in ((pendulum, FormatError), (restless, DataError)):
        run = Arguments(pairs, pairs.env_id, 60, 0, settings, pairs)
        learning = Learning.start(run, minari_obd.clone(pairs), resume=False)
        learning.record.steps = [0]
        learn(learning.learner, 3)
        finetuning.write_checkpoint(run.checkpoint, learning.learner, learning.record)
        if error is DataError:
            with pytest.raises(error, match="resume=False"):
                minari_obd.finetune(pairs, steps=60, settings=settings, progress=False)
            continue
        run.checkpoint.write_bytes(run.checkpoint.read_bytes()[:-9])
        with pytest.warns(UserWarning, match="is damaged.* set aside as 'finetuning-.*damaged', and its work begins"):
            learning = Learning.start(run, minari_obd.clone(pairs), resume=True)
        assert learning.learner.num_timesteps == 0


def test_what_does_not_fit_is_named_before_any_work(pendulum: DistilledDataset) -> None:
    def fails(text: str, *, error: type[Exception] = SettingError, pairs: Any = pendulum, **given: Any) -> None:
        settings = replace(SMALL, **given.pop("settings", {}))
        with pytest.raises(error, match=text):
            minari_obd.finetune(pairs, **{"steps": 60, "progress": False, "settings": settings, **given})

    fails("not known what environment", pairs=replace(pendulum, env_id=None))
    fails("not registered", env_id="NoSuch-v0", error=NotFoundError)
    fails("the environment has 8 and 2", env_id="Swimmer-v5")
    fails(r"Actions lie in \[\[-2", pairs=replace(pendulum, action_low=[-2.0], action_high=[2.0]))
    fails("more steps than that", steps=40)
    fails("seed is -1", seed=-1)
    fails("no reference scores", settings={"bc_schedule": "adaptive"})
    fails("an MLP", pairs=replace(pendulum, protocol=replace(STUDENT, network="residual")))
    fails("take one task's", bc_data=make_pairs(), error=DataError, settings={"bc_states": "data"})
    fails("set bc_states to 'data'", bc_data=pairs_for(PENDULUM, seed=1))
    fails("set bc_states to 'data'", bc_data="no/such-v0")
    fails("a weight above 0", bc_data=pairs_for(PENDULUM, seed=1), settings={"bc_states": "data", "bc_weight": 0.0})
    assert not list(Path().rglob("*.safetensors"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"discount": 1.0},
        {"bc_weight": -0.1},
        {"bc_target": "actions"},
        {"expert_return": 100.0},
        {"bc_schedule": "guarded", "start": "scratch"},
        {"target_noise": -1.0},
        {"buffer_size": 8},
        {"episodes": 0},
    ],
)
def test_settings_that_make_no_sense_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=f"finetuning.{next(iter(wrong))}"):
        replace(SMALL, **wrong)


def test_a_divergent_learner_is_named(pendulum: DistilledDataset) -> None:
    with pytest.raises(MinariObdError, match=r"diverged within 4\d steps"):
        minari_obd.finetune(
            pendulum, steps=60, settings=replace(SMALL, learning_rate=1e30, evaluate_every=50), progress=False
        )


def test_the_folder_holds_curve_report_and_policy(pendulum: DistilledDataset) -> None:
    report = minari_obd.finetune(pendulum, steps=60, settings=SMALL, out="made", label="ours", progress=False)
    assert sorted(path.name for path in Path("made").iterdir()) == ["curve.csv", "policy.safetensors", "report.json"]
    assert outcome(replace(FinetuneReport.read("made"), policy=report.policy)) == outcome(report)
    assert minari_obd.load_policy("made/policy.safetensors")(pendulum.observations).tobytes() == (
        report.policy(pendulum.observations).tobytes()  # pyright: ignore[reportOptionalCall]
    )
    with pytest.raises(SettingError, match="holds a report already"):
        minari_obd.finetune(pendulum, steps=60, settings=SMALL, out="made", progress=False)
    with pytest.raises(SettingError, match=r"It holds a distilled dataset, for load_dataset\. Give"):
        minari_obd.finetune(pendulum, steps=60, settings=SMALL, out=pendulum.save("set"), progress=False)
