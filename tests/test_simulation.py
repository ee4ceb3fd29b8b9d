"""Physical pairs: a simulated step is the environment's own, and learners of values can use it."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from conftest import make_pairs

from minari_obd.distilled.contents import Transitions
from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.distilled.minari import from_minari
from minari_obd.environments.making import make_environment
from minari_obd.errors import DataError, NotFoundError, SettingError
from minari_obd.scores.report import EvaluationReport
from minari_obd.sources.loading import load_offline_data
from minari_obd.sources.scaling import Normaliser
from minari_obd.teachers.training import train_teacher

HIDDEN = {"Hopper-v5": 1, "HalfCheetah-v5": 1, "Walker2d-v5": 1, "Swimmer-v5": 2, "InvertedPendulum-v5": 0}


def walk(env_id: str, steps: int = 60) -> tuple[DistilledDataset, dict[str, np.ndarray]]:
    """Pairs from a random walk in an environment, and what the environment answered on the way."""
    environment = make_environment(env_id)
    environment.action_space.seed(0)
    observation, _ = environment.reset(seed=0)
    rows: dict[str, list] = {name: [] for name in ("observation", "action", "reward", "next", "terminated")}
    for _ in range(steps):
        action = environment.action_space.sample()
        following, reward, terminated, truncated, _ = environment.step(action)
        for name, value in zip(rows, (observation, action, reward, following, terminated), strict=True):
            rows[name].append(value)
        observation = environment.reset()[0] if terminated or truncated else following
    arrays = {name: np.array(values) for name, values in rows.items()}
    space = environment.action_space
    assert isinstance(space, gym.spaces.Box)
    pairs = replace(
        make_pairs(size=steps, shape=(arrays["observation"].shape[1], space.shape[0]), env_id=env_id),
        observations=arrays["observation"],
        actions=arrays["action"],
        action_low=space.low,
        action_high=space.high,
    )
    return pairs, arrays


@pytest.mark.parametrize("env_id", HIDDEN)
def test_a_simulated_step_is_the_environments_own(env_id: str) -> None:
    pairs, truth = walk(env_id)
    # Where velocities are clipped to 10, as in Walker2d, an observation of 10 does not tell the state.
    told = np.abs(truth["observation"]).max(axis=1) < 10 if env_id == "Walker2d-v5" else np.ones(len(pairs), bool)
    assert told.sum() > 10
    pairs, truth = pairs.with_transitions(drop=True), {name: rows[told] for name, rows in truth.items()}
    made = pairs.transitions
    assert made is not None
    # The walk itself: what differs is the rounding of its observations to float32, and the solver's warm start.
    np.testing.assert_allclose(made.next_observations, truth["next"], rtol=1e-3, atol=2e-3)
    np.testing.assert_allclose(made.rewards, truth["reward"], rtol=1e-3, atol=2e-3)
    assert made.terminations.tolist() == truth["terminated"].tolist()
    # The environment put into the same state by hand: nothing differs.
    environment = make_environment(env_id).unwrapped
    for i in range(0, len(pairs), 7):
        environment.reset(seed=3)
        state = np.concatenate([np.zeros(HIDDEN[env_id]), pairs.observations[i].astype(np.float64)])
        count = environment.model.nq  # pyright: ignore[reportAttributeAccessIssue]
        environment.set_state(state[:count], state[count:])  # pyright: ignore[reportAttributeAccessIssue]
        following, reward, *_ = environment.step(pairs.actions[i])
        np.testing.assert_array_equal(made.next_observations[i], following.astype(np.float32))
        assert made.rewards[i] == np.float32(reward)


def test_the_hidden_position_does_not_matter() -> None:
    pairs, _ = walk("HalfCheetah-v5", steps=5)
    assert pairs.with_transitions().content_sha256 == pairs.with_transitions().content_sha256


def test_pairs_that_are_no_states_are_named_and_can_be_left_out() -> None:
    pairs, _ = walk("Hopper-v5", steps=20)
    observations = pairs.observations.copy()
    observations[3, 7] = 12.0  # Hopper shows velocities clipped to 10
    report = EvaluationReport(np.ones((1, 1)), "Hopper-v5", 0)  # of all of them
    impossible = replace(pairs, observations=observations, evaluation=report)
    observations[5, 7] = -10.0
    assert len(replace(pairs, observations=observations).with_transitions(drop=True)) == 18
    observations[5] = pairs.observations[5]
    with pytest.raises(DataError, match=r"1 of 20 pairs cannot be simulated in 'Hopper-v5' \(rows 3\): no state has"):
        impossible.with_transitions()
    kept = impossible.with_transitions(drop=True)
    assert len(kept) == 19
    assert kept.evaluation is None
    assert kept.transitions is not None
    np.testing.assert_array_equal(kept.observations, np.delete(observations, 3, axis=0))
    assert pairs.with_evaluation(report).with_transitions().evaluation is report


def test_a_simulation_that_breaks_down_is_no_transition() -> None:
    pairs, _ = walk("HalfCheetah-v5", steps=3)
    observations = pairs.observations.copy()
    observations[1, 8:] = 1e12
    with pytest.raises(DataError, match=r"rows 1\): (the simulator breaks down there|no state has)"):
        replace(pairs, observations=observations).with_transitions()


def test_where_it_cannot_be_done_it_is_said_why() -> None:
    for env_id, message in (("Ant-v5", "does not contain the whole state"), ("Reacher-v5", "use one of HalfCheetah,")):
        with pytest.raises(DataError, match=message):
            make_pairs(env_id=env_id).with_transitions()
    with pytest.raises(DataError, match="The pairs have 3 observations, but 'Hopper-v5' has 11"):
        make_pairs().with_transitions()
    with pytest.raises(SettingError, match="not known what environment"):
        make_pairs(env_id=None).with_transitions()
    with pytest.raises(NotFoundError, match="is not registered"):
        make_pairs(env_id="Hoper-v5").with_transitions()
    with pytest.raises(DataError, match="Successors have shape"):
        replace(make_pairs(), transitions=Transitions(np.zeros(8), np.zeros((8, 4)), np.zeros(8)))


def test_physical_pairs_are_a_dataset_that_a_learner_of_values_can_use() -> None:
    pairs = walk("Hopper-v5", steps=80)[0].with_transitions()
    pairs.to_minari("lab/physical-v0")
    data = load_offline_data("lab/physical-v0")
    assert len(data.episode_starts) == len(data) == 80
    assert pairs.transitions is not None
    np.testing.assert_array_equal(data.rewards, pairs.transitions.rewards)
    np.testing.assert_array_equal(data.final_observations, pairs.transitions.next_observations)
    np.testing.assert_array_equal(data.terminations, pairs.transitions.terminations)
    assert 0 < data.terminations.sum() < 80
    assert from_minari("lab/physical-v0").content_sha256 == pairs.content_sha256
    teacher = train_teacher(data, "iql", steps=3, progress=False)
    assert np.isfinite(teacher.value(pairs.observations, pairs.actions)).all()


@pytest.mark.parametrize("physical", [False, True])
def test_d3rlpy_sees_every_pair_as_one_transition(physical: bool) -> None:
    pairs = walk("Hopper-v5", steps=256)[0]
    pairs = replace(pairs, actions=np.round(pairs.actions))  # whole numbers, which d3rlpy takes for discrete actions
    pairs = pairs.with_transitions() if physical else pairs
    dataset = pairs.to_d3rlpy()
    assert dataset.transition_count == 256
    assert not dataset.dataset_info.action_space.name.startswith("DISCRETE")
    for i in (0, 100, 255):
        transition = dataset.transition_picker(dataset.episodes[i], 0)
        np.testing.assert_array_equal(transition.observation, pairs.observations[i])
        np.testing.assert_array_equal(transition.action, pairs.actions[i])
        if pairs.transitions is None:
            assert transition.terminal == 1.0
            assert transition.reward == 0.0
        else:
            assert transition.terminal == pairs.transitions.terminations[i]
            assert transition.reward == pairs.transitions.rewards[i]
            if not transition.terminal:
                np.testing.assert_array_equal(transition.next_observation, pairs.transitions.next_observations[i])


def test_the_ways_in_for_other_libraries() -> None:
    """The snippets of docs/publishing.md."""
    import d3rlpy
    from stable_baselines3 import SAC

    pairs = walk("Hopper-v5", steps=64)[0]
    pairs = replace(pairs, actions=np.tanh(5 * pairs.observations[:, :3]))  # something that can be learned
    # d3rlpy
    cloned = d3rlpy.algos.BCConfig(batch_size=32).create(device="cpu:0")
    cloned.build_with_dataset(pairs.to_d3rlpy())
    loss = cloned.update(pairs.to_d3rlpy().sample_transition_batch(32))
    assert np.isfinite(loss["loss"])
    # Stable-Baselines3: an actor from the pairs ...
    model = SAC("MlpPolicy", "Hopper-v5", buffer_size=1_000, device="cpu", policy_kwargs={"net_arch": [32]})
    before = np.square(model.predict(pairs.observations, deterministic=True)[0] - pairs.actions).mean()
    for states, actions in (batch for _ in range(200) for batch in pairs.dataloader(64, normalised=False)):
        loss = (model.policy.actor(states, deterministic=True) - actions).square().mean()
        model.policy.actor.optimizer.zero_grad()
        loss.backward()
        model.policy.actor.optimizer.step()
    after = np.square(model.predict(pairs.observations, deterministic=True)[0] - pairs.actions).mean()
    assert after < 0.5 * before
    # ... and physical pairs in its replay buffer.
    t = pairs.with_transitions().transitions
    assert t is not None
    buffer = model.replay_buffer
    assert buffer is not None
    for s, f, a, r, d in zip(
        pairs.observations, t.next_observations, pairs.actions, t.rewards, t.terminations, strict=True
    ):
        buffer.add(s[None], f[None], a[None], r[None], d[None], [{}])
    assert buffer.size() == 64


def test_normalisers_are_not_touched() -> None:
    pairs, _ = walk("Hopper-v5", steps=5)
    pairs = replace(pairs, normaliser=Normaliser(np.full(11, 3.0), np.full(11, 2.0)))
    np.testing.assert_array_equal(pairs.with_transitions().normaliser.mean, np.full(11, 3.0))
