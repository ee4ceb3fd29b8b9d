"""What the tests of fine-tuning share: small environments, pairs that fit them, a learner and what to read from it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from conftest import make_pairs

import minari_obd
from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.environments.making import make_environment
from minari_obd.finetuning.learner import Learner
from minari_obd.finetuning.reminder import Reminder, ReminderPairs
from minari_obd.settings.finetuning import FinetuningRecipe
from minari_obd.settings.protocols import StudentProtocol
from minari_obd.sources.scaling import ActionScale

PENDULUM, SWIMMER = "InvertedPendulum-v5", "lab/Swimmer-v0"  # the latter with episodes of 80 steps
STUDENT = StudentProtocol(depth=2, width=16, steps=200, optimiser="adam", learning_rate=3e-3)
SMALL = FinetuningRecipe(warmup=40, batch_size=16, critic_width=16, evaluate_every=60, episodes=2, learning_rate=1e-3)


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


@contextmanager
def registered_environments() -> Iterator[None]:
    """Register the environments of the names ``lab/...`` for a while."""
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
    actions = ActionScale(space.low, space.high).unscale(actions)
    return replace(
        pairs, actions=actions, action_low=space.low, action_high=space.high, protocol=STUDENT, reference=None
    )


def learner_for(pairs: DistilledDataset, settings: FinetuningRecipe = SMALL) -> Learner:
    assert pairs.env_id is not None
    policy = minari_obd.clone(pairs)
    kept = ReminderPairs(torch.tensor(pairs.observations), torch.tensor(pairs.scaled_actions()))
    reminder = Reminder(settings, kept if settings.bc_states == "data" else None)
    return Learner(make_environment(pairs.env_id), policy, settings, reminder, steps=400, seed=0)


def learn(learner: Learner, steps: int) -> Learner:
    return learner.learn(steps, log_interval=1_000_000, reset_num_timesteps=False)


def weights_of(module: torch.nn.Module) -> bytes:
    return b"".join(each.detach().numpy().tobytes() for each in module.parameters())


def error_on(pairs: DistilledDataset, policy: Any) -> float:
    """Mean squared error on the pairs, in student units."""
    return float(
        (((policy(pairs.observations) - pairs.actions) * 2 / (pairs.action_high - pairs.action_low)) ** 2).mean()
    )
