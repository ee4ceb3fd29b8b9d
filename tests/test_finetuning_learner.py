"""The learner of fine-tuning: its actor is the clone, waits for its critics, and moves by the loss that is written."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from finetuning_lab import PENDULUM, SMALL, SWIMMER, learn, learner_for, pairs_for, registered_environments, weights_of

import minari_obd
from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.finetuning.networks import NormalisedPolicy


# Fixtures of each module's own: imported ones would be shadowed by the arguments that ask for them.
@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    with registered_environments():
        yield


@pytest.fixture
def pendulum() -> DistilledDataset:
    return pairs_for(PENDULUM)


def test_the_actor_is_the_clone(pendulum: DistilledDataset) -> None:
    policy, learner = minari_obd.clone(pendulum), learner_for(pendulum)
    for ours, theirs in zip(learner.actor_parameters(), policy.parameters, strict=True):
        assert ours.numpy().tobytes() == theirs.numpy().tobytes()
    assert weights_of(learner.actor) == weights_of(learner.actor_target)
    acted, _ = learner.predict(pendulum.observations)
    np.testing.assert_allclose(acted, policy(pendulum.observations), atol=2e-6)


@pytest.mark.parametrize("start", ["clone", "scratch"])
def test_the_actor_waits_for_its_critics(pendulum: DistilledDataset, start: Any) -> None:
    learner = learner_for(pendulum, replace(SMALL, start=start, bc_schedule="constant"))
    actor, critic, target = (weights_of(m) for m in (learner.actor, learner.critic, learner.critic_target))
    learn(learner, SMALL.warmup)
    assert weights_of(learner.actor) == weights_of(learner.actor_target) == actor
    assert weights_of(learner.critic) != critic
    assert weights_of(learner.critic_target) != target
    learn(learner, 4)
    assert weights_of(learner.actor) != actor


def test_from_scratch_the_warm_up_acts_at_random_and_a_clone_acts_as_it_does(pendulum: DistilledDataset) -> None:
    quiet = replace(SMALL, exploration_noise=0.0, bc_schedule="constant")
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
        critic = learner_for(pendulum, replace(SMALL, critic_norm=norm)).critic  # untrained: gains of 1, shifts of 0
        with torch.no_grad():
            values = critic.q1_forward(observations, 1e6 * actions).abs().max()
            *_, weights, bias = critic.q_networks[0].parameters()
            limit = weights.norm() * SMALL.critic_width**0.5 + bias.abs()
        assert (values <= limit) == norm
