"""The embedded benchmark: real datasets, the same for a seed, readable without this package."""

import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import minari
import numpy as np
import pytest

from minari_obd.errors import DataError, FormatError, NotFoundError, SettingError
from minari_obd.sources.behaviours import bundled_experts, bundled_names, load_bundled
from minari_obd.sources.benchmark import BENCHMARK
from minari_obd.sources.collecting import collect
from minari_obd.sources.loading import load_offline_data
from minari_obd.sources.stable_baselines3 import load_stable_baselines3

MEDIUM = "obd-bench/hopper/medium-v0"


def test_the_same_seed_gives_the_same_dataset(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hashes = []
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / folder))
        BENCHMARK[MEDIUM].build(steps=700, seed=seed, progress=False)
        hashes.append(load_offline_data(MEDIUM).content_sha256)
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_process_without_this_package_reads_it() -> None:
    BENCHMARK[MEDIUM].build(steps=700, progress=False)
    code = f"""
import warnings; warnings.simplefilter("ignore")
import minari, sys
dataset = minari.load_dataset("{MEDIUM}")
assert dataset.total_steps == 700
for episode in dataset:
    assert len(episode.observations) == len(episode.actions) + 1
    assert dataset.observation_space.contains(episode.observations[0])
    assert all(dataset.action_space.contains(action) for action in episode.actions)
    assert episode.terminations[-1] or episode.truncations[-1]
    assert not (episode.terminations | episode.truncations)[:-1].any()
assert dataset.recover_environment().spec.id == "Hopper-v5"
assert 0 < minari.get_normalized_score(dataset, 1200.0) < 1
assert "minari_obd" not in sys.modules
print(sorted(k for k in dataset.storage.metadata if k in ("description", "code_permalink", "author", "requirements")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['code_permalink', 'description', 'requirements']"  # nobody is named unasked


def test_every_row_is_what_the_environment_answers() -> None:
    """Replaying the actions of an episode from its start gives its observations and rewards."""
    BENCHMARK["obd-bench/halfcheetah/medium-v0"].build(steps=1_050, progress=False)
    episodes = list(minari.load_dataset("obd-bench/halfcheetah/medium-v0"))
    assert [len(e) for e in episodes] == [1_000, 50]
    assert episodes[0].truncations[-1]
    assert episodes[1].truncations[-1]
    environment = gym.make("HalfCheetah-v5")
    seed = int(np.random.default_rng([0, 0, 0]).integers(2**31))
    observation, _ = environment.reset(seed=seed)
    np.testing.assert_array_equal(observation, episodes[0].observations[0])
    for t in range(100):
        observation, reward, *_ = environment.step(episodes[0].actions[t])
        np.testing.assert_array_equal(observation, episodes[0].observations[t + 1])
        assert reward == episodes[0].rewards[t]


@pytest.mark.parametrize(("name", "policies"), [("hopper", 13), ("walker2d", 11)])
def test_medium_replay_goes_through_the_chain_in_equal_shares(name: str, policies: int) -> None:
    benchmark = BENCHMARK[f"obd-bench/{name}/medium-replay-v0"]
    learned = [n for n in bundled_names() if n.startswith(name) and n not in bundled_experts().values()]
    assert benchmark.policies == ("random", *learned)
    assert len(benchmark.policies) == policies
    benchmark.build(steps=100 * policies, progress=False)
    data = load_offline_data(benchmark.dataset_id)
    ends = np.flatnonzero(data.terminations | data.truncations) + 1
    assert set(range(100, 100 * policies + 1, 100)) <= set(ends)  # each policy is cut at its share
    # The first share is uniform noise, the last one a policy that stands longer.
    assert abs(data.actions[:100].std() - 1 / np.sqrt(3)) < 0.05


def test_experts_make_the_expert_datasets_and_change_no_other() -> None:
    experts = {"halfcheetah": "halfcheetah-640000", "hopper": "hopper-320000", "walker2d": "walker2d-560000"}
    mediums = {"halfcheetah": "halfcheetah-90000", "hopper": "hopper-240000", "walker2d": "walker2d-400000"}
    assert bundled_experts() == experts
    for name, expert in experts.items():
        assert BENCHMARK[f"obd-bench/{name}/medium-v0"].policies == (mediums[name],)
        assert BENCHMARK[f"obd-bench/{name}/expert-v0"].policies == (expert,)
        assert BENCHMARK[f"obd-bench/{name}/medium-expert-v0"].policies == (mediums[name], expert)
    assert {i.split("/")[1] for i in BENCHMARK if i.endswith("/expert-v0")} == set(experts)


def test_medium_expert_is_half_of_each() -> None:
    expert, both = "obd-bench/hopper/expert-v0", "obd-bench/hopper/medium-expert-v0"
    for dataset_id, steps in ((MEDIUM, 1_000), (expert, 1_000), (both, 2_000)):
        BENCHMARK[dataset_id].build(steps=steps, progress=False)
    data = {dataset_id: load_offline_data(dataset_id) for dataset_id in (MEDIUM, expert, both)}
    np.testing.assert_array_equal(data[both].actions[:1_000], data[MEDIUM].actions)
    assert (data[both].terminations | data[both].truncations)[999]
    assert data[expert].terminations.sum() < data[MEDIUM].terminations.sum()  # the expert falls less often


def test_unknown_and_existing_ids_leave_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a Minari dataset id"):
        collect("hopper medium", "Hopper-v5", "random", steps=10, progress=False)
    with pytest.raises(NotFoundError, match="did you mean 'Hopper-v5'"):
        collect("lab/x-v0", "Hoper-v5", "random", steps=10, progress=False)
    with pytest.raises(NotFoundError, match="did you mean 'hopper-20000'"):
        collect("lab/x-v0", "Hopper-v5", "hopper-2000", steps=10, progress=False)
    with pytest.raises(SettingError, match="maps 11 observations to 3 actions, but 'CartPole-v1' has 4 and 2"):
        collect("lab/x-v0", "CartPole-v1", "hopper-240000", steps=10, progress=False)
    with pytest.raises(SettingError, match="maps 11 observations to 3 actions, but 'HalfCheetah-v5' has 17 and 6"):
        collect("lab/x-v0", "HalfCheetah-v5", "hopper-240000", steps=10, progress=False)
    with pytest.raises(SettingError, match="steps is 0; it must be at least 1"):
        collect("lab/x-v0", "Hopper-v5", "random", steps=0, progress=False)
    assert not (tmp_path / "minari").exists() or not list((tmp_path / "minari").rglob("*"))
    collect("lab/x-v0", "Hopper-v5", "random", steps=10, progress=False)
    with pytest.raises(DataError, match="already exists"):
        collect("lab/x-v0", "Hopper-v5", "random", steps=10, progress=False)


def test_an_interrupted_collection_leaves_nothing_behind(tmp_path: Path) -> None:
    def stop(observation: np.ndarray) -> np.ndarray:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect("lab/x-v0", "Hopper-v5", stop, steps=10, progress=False)
    assert not list((tmp_path / "minari").rglob("*"))


def test_a_callable_collects_its_own_actions() -> None:
    collect("lab/rule-v0", "Hopper-v5", lambda o: np.tanh(o[:3]), steps=60, progress=False)
    data = load_offline_data("lab/rule-v0")
    np.testing.assert_allclose(data.actions, np.tanh(data.observations[:, :3]), rtol=1e-5)


@pytest.mark.parametrize("algorithm", ["SAC", "TD3", "PPO"])
def test_stable_baselines3_weights_act_as_their_model(algorithm: str) -> None:
    sb3 = pytest.importorskip("stable_baselines3")
    environment = gym.make("Pendulum-v1")
    model = getattr(sb3, algorithm)("MlpPolicy", environment, seed=0)
    model.save("model.zip")
    policy = load_stable_baselines3("model.zip", environment.action_space)  # pyright: ignore
    observations = np.stack([environment.observation_space.sample() for _ in range(20)])
    deterministic = type(policy)(**{**vars(policy), "log_std": None})
    expected, _ = model.predict(observations, deterministic=True)
    np.testing.assert_allclose(deterministic.act(observations, []), expected, atol=1e-5)
    generators = [np.random.default_rng(i) for i in range(20)]
    assert (policy.act(observations, generators) != expected).any() or algorithm == "TD3"


def test_a_zip_that_is_no_model_is_named() -> None:
    Path("no.zip").write_bytes(b"no")
    with pytest.raises(FormatError, match="not a Stable-Baselines3 zip"):
        load_stable_baselines3("no.zip", gym.spaces.Box(-1, 1, (1,)))


def test_bundled_policies_are_finite_and_stochastic() -> None:
    for name in bundled_names():
        policy = load_bundled(name)
        generators = [np.random.default_rng(i) for i in range(20)]
        actions = policy.act(np.zeros((20, policy.inputs)), generators)
        assert np.isfinite(actions).all()
        assert (np.abs(actions) <= 1).all() if actions.ndim == 2 else set(actions) <= set(range(policy.outputs))
        assert (actions[0] != actions[1:]).any()
