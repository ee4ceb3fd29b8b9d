"""Fine-tuning: the actor starts as the clone, waits for its critics, keeps to its pairs, and resumes to the bit."""

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import make_pairs

import minari_obd
from minari_obd import finetuning
from minari_obd.devices import cache_root
from minari_obd.distilled import DistilledDataset
from minari_obd.environments import make_environment
from minari_obd.errors import DataError, FormatError, MinariObdError, NotFoundError, SettingError
from minari_obd.finetuning import Finetuning
from minari_obd.finetuning_learner import Learner, Reminder, make_learner
from minari_obd.finetuning_networks import NormalisedPolicy
from minari_obd.finetuning_recipe import FinetuningRecipe
from minari_obd.finetuning_report import FinetuneReport
from minari_obd.offline import load_offline_data
from minari_obd.protocol import StudentProtocol

PENDULUM, SWIMMER = "InvertedPendulum-v5", "lab/Swimmer-v0"  # the latter with episodes of 80 steps
STUDENT = StudentProtocol(depth=2, width=16, steps=200, optimiser="adam", learning_rate=3e-3)
SMALL = FinetuningRecipe(
    warmup=40, batch_size=16, critic_width=16, evaluate_every=60, episodes=2, expert_return=100.0, learning_rate=1e-3
)


class Line(gym.Env):
    """One-step episodes with the reward -(action - observation / 2)^2: the best policy is known."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float64)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.state = self.np_random.uniform(-1.0, 1.0, 1)
        return self.state, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        return self.state, -float((action[0] - self.state[0] / 2) ** 2), True, False, {}


class Restless(Line):
    """An environment that answers the same actions otherwise each time."""

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        Restless.steps += 1
        return np.array([np.sin(Restless.steps)]), 0.0, False, False, {}

    steps = 0


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    gym.register("lab/Line-v0", Line)  # pyright: ignore[reportArgumentType]  # a class is as good as a function
    gym.register("lab/Restless-v0", Restless)  # pyright: ignore[reportArgumentType]  # as above
    gym.register(SWIMMER, "gymnasium.envs.mujoco.swimmer_v5:SwimmerEnv", max_episode_steps=80)
    yield
    for name in ("lab/Line-v0", "lab/Restless-v0", SWIMMER):
        del gym.registry[name]


def pairs_for(env_id: str, *, size: int = 32, seed: int = 0) -> DistilledDataset:
    """Pairs of a smooth rule, in the shape and bounds of an environment."""
    environment = make_environment(env_id)
    space, state_size = environment.action_space, environment.observation_space.shape
    environment.close()
    assert isinstance(space, gym.spaces.Box)
    assert state_size is not None
    pairs = make_pairs(seed, env_id=env_id, size=size, shape=(state_size[0], space.shape[0]))
    rng = np.random.default_rng([seed, 1])
    actions = np.tanh(pairs.observations @ rng.normal(size=(state_size[0], space.shape[0])))
    actions = space.low + 0.5 * (actions + 1) * (space.high - space.low)
    return replace(
        pairs, actions=actions, action_low=space.low, action_high=space.high, protocol=STUDENT, reference=None
    )


@pytest.fixture
def pendulum() -> DistilledDataset:
    return pairs_for(PENDULUM)


def learner_for(pairs: DistilledDataset, settings: FinetuningRecipe = SMALL) -> Learner:
    assert pairs.env_id is not None
    policy = minari_obd.clone(pairs)
    reminder = Reminder(torch.tensor(pairs.observations), torch.tensor(pairs.scaled_actions()))
    return make_learner(make_environment(pairs.env_id), policy, reminder, settings, steps=400, seed=0)


def learn(learner: Learner, steps: int) -> Learner:
    return learner.learn(steps, log_interval=1_000_000, reset_num_timesteps=False)


def weights_of(module: torch.nn.Module) -> bytes:
    return b"".join(each.detach().numpy().tobytes() for each in module.parameters())


def error_on(pairs: DistilledDataset, policy: Any) -> float:
    """Mean squared error on the pairs, in student units."""
    return float(
        (((policy(pairs.observations) - pairs.actions) * 2 / (pairs.action_high - pairs.action_low)) ** 2).mean()
    )


def test_the_actor_is_the_clone(pendulum: DistilledDataset) -> None:
    policy, learner = minari_obd.clone(pendulum), learner_for(pendulum)
    for ours, theirs in zip(learner.actor_parameters(), policy.parameters, strict=True):
        assert ours.numpy().tobytes() == theirs.numpy().tobytes()
    assert weights_of(learner.actor) == weights_of(learner.actor_target)
    acted, _ = learner.predict(pendulum.observations)
    np.testing.assert_allclose(acted, policy(pendulum.observations), atol=2e-6)


@pytest.mark.parametrize("env_id", [PENDULUM, SWIMMER])
def test_the_first_evaluation_is_the_clone_s_own(env_id: str) -> None:
    pairs = pairs_for(env_id)
    report = minari_obd.finetune(pairs, steps=41, settings=SMALL, seed=3, progress=False)
    own = minari_obd.evaluate(minari_obd.clone(pairs, seed=3), episodes=2, seed=3).returns
    assert report.returns[0].tobytes() == own[0].tobytes()
    assert report.steps.tolist() == [0, 41]
    last = minari_obd.evaluate(report.policy, episodes=2, seed=3).returns  # pyright: ignore[reportArgumentType]
    assert report.returns[-1].tobytes() == last[0].tobytes()


@pytest.mark.parametrize("start", ["clone", "scratch"])
def test_the_actor_waits_for_its_critics(pendulum: DistilledDataset, start: Any) -> None:
    learner = learner_for(pendulum, replace(SMALL, start=start))
    actor, critic, target = (weights_of(m) for m in (learner.actor, learner.critic, learner.critic_target))
    learn(learner, SMALL.warmup)
    assert weights_of(learner.actor) == weights_of(learner.actor_target) == actor
    assert weights_of(learner.critic) != critic
    assert weights_of(learner.critic_target) != target
    learn(learner, 4)
    assert weights_of(learner.actor) != actor


def test_from_scratch_the_warm_up_acts_at_random_and_a_clone_acts_as_it_does(pendulum: DistilledDataset) -> None:
    quiet = replace(SMALL, exploration_noise=0.0)
    clone, scratch = (learn(learner_for(pendulum, replace(quiet, start=start)), 40) for start in ("clone", "scratch"))
    for learner in (clone, scratch):
        assert learner.replay_buffer is not None
        actions = learner.replay_buffer.actions[:40, 0]
        states = learner.replay_buffer.observations[:40, 0]
        with torch.no_grad():
            acted = learner.actor(torch.tensor(states)).numpy()
        assert np.allclose(actions, acted, atol=1e-6) == (learner is clone)
    assert scratch.replay_buffer is not None
    assert scratch.replay_buffer.actions[:40].std() > 0.4  # uniform on [-1, 1]: 0.58


@pytest.mark.parametrize("norm", [False, True])
def test_without_a_reminder_an_update_is_that_of_stable_baselines3(norm: bool) -> None:
    """From one transition there is one minibatch; the scale of the actor's loss is nothing to Adam's first step."""
    from stable_baselines3 import TD3

    pairs = pairs_for(SWIMMER)
    settings = replace(SMALL, bc_weight=0.0, target_noise=0.0, warmup=0, critic_norm=norm)
    learner = learn(learner_for(pairs, settings), 1)
    assert learner.replay_buffer is not None
    plain = TD3(
        NormalisedPolicy if norm else "MlpPolicy",
        learner.episodes,
        learning_rate=settings.learning_rate,
        buffer_size=10,
        policy_kwargs=learner.policy_kwargs,
        target_policy_noise=0.0,
        device="cpu",
    )
    plain.set_logger(learner.logger)
    plain.policy.load_state_dict(learner.policy.state_dict())
    plain.replay_buffer = learner.replay_buffer
    for optimiser in (learner.actor.optimizer, plain.actor.optimizer):
        optimiser.param_groups[0]["eps"] = 1e-30  # without it Adam's steps do not depend on the scale
    before = weights_of(plain.actor)
    for _ in range(2):  # the second update is the actor's first
        learner.train(1, 16)
        plain.train(1, 16)
        for name, value in plain.policy.state_dict().items():
            np.testing.assert_allclose(learner.policy.state_dict()[name], value, atol=2e-6, err_msg=name)
    assert weights_of(plain.actor) != before


@pytest.mark.parametrize("states", ["data", "visited"])
def test_the_actor_s_loss_is_the_equation(pendulum: DistilledDataset, states: Any) -> None:
    learner = learn(learner_for(pendulum, replace(SMALL, bc_weight=0.7, bc_states=states)), 60)
    observations = torch.tensor(pendulum.observations[:16])
    with torch.no_grad():
        loss = float(learner._actor_loss(observations, 32, np.random.default_rng(0)))
        acted = learner.actor(observations)
        values = learner.critic.q1_forward(observations, acted).numpy()
        if states == "data":
            acted, answers = learner.actor(torch.tensor(pendulum.observations)), pendulum.scaled_actions()
        else:
            answers = (
                minari_obd.clone(pendulum)(observations.numpy()) * 2 / (pendulum.action_high - pendulum.action_low)
            )
        error = float(((acted.numpy() - answers) ** 2).mean())
    assert error > 0
    assert loss == pytest.approx(-values.mean() / np.abs(values).mean() + 0.7 * error, rel=1e-4)


def test_normalised_critics_promise_no_more_than_their_last_layer_can(pendulum: DistilledDataset) -> None:
    """A normalised layer's outputs have norm sqrt(width), so |Q| <= |w| sqrt(width) + |b|, wherever it is asked."""
    observations, actions = torch.tensor(pendulum.observations), torch.tensor(pendulum.scaled_actions())
    for norm in (True, False):
        critic = learn(learner_for(pendulum, replace(SMALL, critic_norm=norm)), 60).critic
        with torch.no_grad():
            values = critic.q1_forward(observations, 1e6 * actions).abs().max()
            *_, weights, bias = critic.q_networks[0].parameters()
            limit = weights.norm() * SMALL.critic_width**0.5 + bias.abs()
        assert (values <= limit) == norm


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
    settings = replace(SMALL, bc_schedule=schedule, expert_return=40.0, evaluate_every=20, proportional_gain=1e-3)
    settings = replace(settings, warmup=warmup)
    report = minari_obd.finetune(pendulum, steps=200, settings=settings, progress=False)
    unit = 40.0 if schedule == "adaptive" else 1.0  # one expert, or one reward
    warm = report.training_returns[report.training_steps <= warmup]
    start = average = float(warm.mean() if len(warm) else report.returns[0].mean()) / unit
    weight, expected = settings.bc_weight, []
    ended = list(zip(report.training_steps, report.training_returns, strict=True))
    lengths = np.diff([0, *report.training_steps])
    for step in report.steps:
        for (end, value), length in zip(ended, lengths, strict=True):
            if max(step - 20, warmup) < end <= step:
                weight, average = settings.next_bc_weight(weight, average, value / unit, int(length), start=start)
        expected.append(weight)
    np.testing.assert_allclose(report.bc_weights, expected, rtol=1e-12)
    assert len(set(expected)) > 3


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
            "next_observations": observations,
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
    """Stopped within an episode, with a buffer that has come round."""
    pairs, settings = pairs_for(env_id), replace(SMALL, buffer_size=70)
    whole = minari_obd.finetune(pairs, steps=120, settings=settings, progress=False)
    original = Finetuning._adapt

    def stopped(self: Finetuning, learner: Learner, record: Any) -> None:
        original(self, learner, record)
        if learner.num_timesteps == 99 and how == "killed":
            patch.setattr(finetuning, "_CHECKPOINT_SECONDS", 0.0)
        if learner.num_timesteps == 101:
            if how == "killed":
                raise MemoryError  # as good as a kill: nothing after the last checkpoint is kept
            os.kill(os.getpid(), signal.SIGINT if how == "ctrl-c" else signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Finetuning, "_adapt", stopped)
        with pytest.raises(MemoryError if how == "killed" else KeyboardInterrupt):
            minari_obd.finetune(pairs, steps=120, settings=settings, progress=False)
    assert [path.name[:11] for path in (cache_root() / "checkpoints").iterdir()] == ["finetuning-"]
    np.random.seed(9)  # noqa: NPY002  # what the process draws elsewhere is nothing to a run
    torch.manual_seed(9)
    seen = []
    with monkeypatch.context() as patch:
        patch.setattr(Finetuning, "_adapt", lambda *given: (seen.append(given[1].num_timesteps), original(*given)))
        resumed = minari_obd.finetune(pairs, steps=120, settings=settings, progress=False)
    assert seen[0] == (101 if how == "killed" else 102)
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
    for pairs, error, text in ((pendulum, FormatError, "is damaged"), (restless, DataError, "resume=False")):
        run = Finetuning(pairs, pairs.env_id, 60, 0, settings, pairs)
        learner, record = run._start(resume=False)
        record.steps = [0]
        learn(learner, 3)
        finetuning.write_checkpoint(run.checkpoint, learner, record)
        if error is FormatError:
            run.checkpoint.write_bytes(run.checkpoint.read_bytes()[:-9])
        with pytest.raises(error, match=text):
            run.run(progress=False)


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
    fails("seed from 0 up", seed=-1)
    fails("no reference scores", settings={"expert_return": None, "bc_schedule": "adaptive"})
    fails("an MLP", pairs=replace(pendulum, protocol=replace(STUDENT, network="residual")))
    fails("take one task's", bc_data=make_pairs(), error=DataError)
    fails("set finetuning.bc_states to 'data'", bc_data=pairs_for(PENDULUM, seed=1))
    assert not list(Path().rglob("*.safetensors"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"discount": 1.0},
        {"bc_weight": -0.1},
        {"bc_target": "actions"},
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
