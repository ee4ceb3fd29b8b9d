"""Collecting and rolling out: policies and environments that do not behave, and what the metadata may say of them."""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import RuleTeacher, make_teacher

import minari_obd
from minari_obd.cloning.cloning import clone
from minari_obd.environments import episodes
from minari_obd.environments.making import check_environment_id, make_environment
from minari_obd.environments.rollouts import visit
from minari_obd.errors import DataError, FormatError, MinariObdError, NotFoundError, SettingError
from minari_obd.evaluation.evaluation import evaluate
from minari_obd.sources.behaviours import CategoricalMLP, RandomBehaviour
from minari_obd.sources.benchmark import BENCHMARK, BenchmarkDataset
from minari_obd.sources.checking import check_behaviour
from minari_obd.sources.collecting import collect
from minari_obd.sources.loading import load_offline_data
from minari_obd.sources.stable_baselines3 import load_stable_baselines3
from minari_obd.storage.building import alone, locked
from minari_obd.storage.minari_datasets import has_local_dataset, minari_folder, open_local_dataset


class Endless(gym.Env):
    """Counts its steps and never ends; from ``broken`` on, observations are not finite."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,))

    def __init__(self, broken: float = np.inf, actions: Any = np.float32, **_: Any) -> None:
        self.broken, self.action_space = broken, gym.spaces.Box(0, 5, (2,), actions)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.count = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.count += 1
        return np.full(2, np.nan if self.count >= self.broken else self.count, np.float32), 1.0, False, False, {}


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    gym.register("Endless-v0", Endless, disable_env_checker=True)
    gym.register("Broken-v0", Endless, kwargs={"broken": 3}, max_episode_steps=9, disable_env_checker=True)
    gym.register("Levels-v0", Endless, kwargs={"actions": np.int64}, max_episode_steps=9, disable_env_checker=True)
    gym.register("Unversioned", "gymnasium.envs.classic_control:PendulumEnv", max_episode_steps=5)
    yield
    for name in ("Endless-v0", "Broken-v0", "Levels-v0", "Unversioned"):
        del gym.registry[name]


def test_collecting_stops_when_the_steps_are_there() -> None:
    collect("lab/endless-v0", "Endless-v0", "random", steps=30, progress=False)
    data = load_offline_data("lab/endless-v0")
    assert list(data.observations[:, 0]) == list(range(30))
    assert list(np.flatnonzero(data.truncations)) == [29]
    assert data.env_id == "Endless-v0"  # though a class cannot be written to metadata


def test_an_episode_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(episodes, "_MOST_STEPS", 50)
    with pytest.raises(DataError, match=r"has not ended after 50 steps.* max_episode_steps"):
        visit("Endless-v0", [0, 1], lambda rows: np.zeros((len(rows), 2)))


def test_observations_that_are_not_finite_are_said() -> None:
    with pytest.raises(DataError, match="observation that is not finite"):
        visit("Broken-v0", [0], lambda rows: np.zeros((len(rows), 2)))


def test_an_environment_of_whole_numbers_is_refused() -> None:
    with pytest.raises(DataError, match="use an environment with a Box of one axis and of floats"):
        make_environment("Levels-v0")


@pytest.mark.parametrize(
    ("policy", "kind", "message"),
    [
        (lambda _: np.zeros(5), SettingError, r"gave actions of shape \(5,\), but the environment takes \(1,\)"),
        (lambda _: np.zeros(()), SettingError, r"gave actions of shape \(\), but the environment takes \(1,\)"),
        (lambda _: np.full(1, np.nan), DataError, "an action that is not finite"),
    ],
)
def test_a_policy_that_does_not_fit_stores_nothing(policy: Callable, kind: type[MinariObdError], message: str) -> None:
    with pytest.raises(kind, match=message):
        collect("lab/x-v0", "Pendulum-v1", policy, steps=20, progress=False)
    assert not has_local_dataset("lab/x-v0")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"author": 3}, "author is 3; expected text"),
        ({"description": b"x"}, "description is b'x'; expected text"),
        ({"policy": RuleTeacher}, "The policy is the class RuleTeacher; give an object of it"),
        ({"policy": type("Model", (), {"predict": print})()}, "is a Model; .* save the model, and give the zip's path"),
    ],
)
def test_what_collecting_cannot_take_is_told_before_the_first_step(given: dict, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        collect("lab/x-v0", "Pendulum-v1", **{"policy": "random", "steps": 20, "progress": False, **given})
    assert not has_local_dataset("lab/x-v0")


def test_an_actor_of_one_observation_is_told_of_batches() -> None:
    class One:
        def act(self, observation: np.ndarray) -> int:
            return 1

    with pytest.raises(SettingError, match=r"'One' gave shape \(\) for 1 observations; its act takes a"):
        collect("lab/x-v0", "CartPole-v1", One(), steps=20, progress=False)


def test_a_teacher_collects() -> None:
    teacher = make_teacher(states=2, action_low=np.zeros(2), action_high=np.full(2, 5.0))
    collect("lab/x-v0", "Endless-v0", teacher, steps=20, progress=False)
    data = load_offline_data("lab/x-v0")
    np.testing.assert_allclose(data.actions, teacher.act(data.observations), rtol=1e-5)

    class Rule:
        """Probabilities of two actions."""

        def act(self, observations: np.ndarray) -> np.ndarray:
            return np.eye(2)[(observations[:, 2] > 0).astype(int)]

    collect("lab/y-v0", "CartPole-v1", Rule(), steps=20, progress=False)
    data = load_offline_data("lab/y-v0")
    np.testing.assert_array_equal(data.actions[:, 1], data.observations[:, 2] > 0)


def test_observations_without_a_fixed_size_are_refused() -> None:
    space = gym.spaces.Dict({"all": gym.spaces.Sequence(gym.spaces.Discrete(2))})
    made = type("Growing", (Endless,), {"observation_space": space})
    gym.register("Growing-v0", made, disable_env_checker=True)
    try:
        with pytest.raises(DataError, match=r"'Growing-v0' has .*Sequence.* no fixed number of columns; use an env"):
            make_environment("Growing-v0")
    finally:
        del gym.registry["Growing-v0"]


def test_actions_outside_the_bounds_are_counted() -> None:
    with pytest.warns(UserWarning, match="gave 20 actions outside the bounds of 'Pendulum-v1'"):
        collect("lab/x-v0", "Pendulum-v1", lambda _: np.full(1, 99.0), steps=20, progress=False)


def save_model(algorithm: str = "SAC", **options: Any) -> Any:
    sb3 = pytest.importorskip("stable_baselines3")
    model = getattr(sb3, algorithm)("MlpPolicy", "Pendulum-v1", seed=0, device="cpu", **options)
    Path("private").mkdir(exist_ok=True)
    model.save("private/model.zip")
    return model


@pytest.mark.parametrize(("algorithm", "activation"), [("SAC", "Tanh"), ("TD3", "ELU"), ("PPO", "ReLU"), ("A2C", None)])
def test_a_model_acts_with_its_own_activation(algorithm: str, activation: str | None) -> None:
    import torch

    options = {} if activation is None else {"activation_fn": getattr(torch.nn, activation)}
    model = save_model(algorithm, policy_kwargs={"net_arch": [16, 16], **options})
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter *= 3.0 if parameter.ndim == 2 else 1.0  # as if it was trained
    model.save("private/model.zip")
    policy = load_stable_baselines3("private/model.zip", model.action_space)
    mean = type(policy)(**{**vars(policy), "log_std": None})
    observations = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    expected, _ = model.predict(observations, deterministic=True)
    np.testing.assert_allclose(mean.act(observations, []), expected, atol=1e-4)


@pytest.mark.parametrize(("algorithm", "activation"), [("PPO", None), ("A2C", "ReLU"), ("DQN", "ELU")])
def test_a_model_of_discrete_actions_acts_as_its_copy(algorithm: str, activation: str | None) -> None:
    sb3 = pytest.importorskip("stable_baselines3")
    import torch

    options = {} if activation is None else {"activation_fn": getattr(torch.nn, activation)}
    options |= {"net_arch": [16, 16]}
    model = getattr(sb3, algorithm)("MlpPolicy", "Acrobot-v1", seed=0, device="cpu", policy_kwargs=options)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter *= 3.0 if parameter.ndim == 2 else 1.0  # as if it was trained
    model.save("model.zip")
    policy = load_stable_baselines3("model.zip", model.action_space)
    assert isinstance(policy, CategoricalMLP)
    assert policy.is_greedy == (algorithm == "DQN")
    observations = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    expected, _ = model.predict(observations, deterministic=True)
    np.testing.assert_array_equal(replace(policy, is_greedy=True).act(observations, []), expected)
    later = load_stable_baselines3("model.zip", gym.spaces.Discrete(3, start=2))
    generators = [[np.random.default_rng(i) for i in range(50)] for _ in range(2)]
    np.testing.assert_array_equal(later.act(observations, generators[0]), 2 + policy.act(observations, generators[1]))
    collect("lab/x-v0", "Acrobot-v1", "model.zip", steps=20, progress=False)
    with pytest.raises(FormatError, match="holds no actor for Box"):
        load_stable_baselines3("model.zip", gym.spaces.Box(-1, 1, (3,)))


def test_a_model_that_its_layers_do_not_describe_is_refused() -> None:
    import torch

    model = save_model(use_sde=True)
    with pytest.raises(FormatError, match="explores with gSDE"):
        load_stable_baselines3("private/model.zip", model.action_space)
    save_model("PPO", policy_kwargs={"activation_fn": torch.nn.SiLU})
    with pytest.raises(FormatError, match="has the activation silu; only relu, tanh, elu"):
        load_stable_baselines3("private/model.zip", model.action_space)

    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

    class Doubled(BaseFeaturesExtractor):
        def __init__(self, space: gym.Space) -> None:
            super().__init__(space, 3)

        def forward(self, observations: torch.Tensor) -> torch.Tensor:
            return 2 * observations

    save_model("TD3", policy_kwargs={"features_extractor_class": Doubled})
    with pytest.raises(FormatError, match=r"extracts features with .*Doubled"):
        load_stable_baselines3("private/model.zip", model.action_space)


def test_metadata_names_a_policys_file_without_its_folder(tmp_path: Path) -> None:
    save_model(policy_kwargs={"net_arch": [16]})
    collect("lab/x-v0", "Pendulum-v1", str((tmp_path / "private/model.zip").resolve()), steps=20, progress=False)
    said = str(open_local_dataset("lab/x-v0").storage.metadata)
    assert "model.zip" in said
    assert "private" not in said
    assert str(tmp_path) not in said


def test_ids_that_gymnasium_registers_are_plain() -> None:
    assert check_environment_id("Unversioned") == "Unversioned"
    with pytest.raises(NotFoundError, match="did you mean 'Hopper-v5'"):
        check_environment_id("hopper-v5")
    with pytest.raises(NotFoundError, match="is not a plain environment id"):
        check_environment_id("module:Unversioned")


def test_what_a_killed_process_left_is_removed_and_what_is_written_stays(tmp_path: Path) -> None:
    root = tmp_path / "minari"
    dead, alive = root / ".building-dead", root / ".building-alive"
    for folder in (dead, alive):
        folder.mkdir(parents=True)
        (folder / ".lock").touch()
    with locked(alive):
        collect("lab/x-v0", "Pendulum-v1", "random", steps=5, progress=False)
    assert not dead.exists()
    assert alive.exists()
    assert has_local_dataset("lab/x-v0")


@pytest.mark.parametrize("action", ["left", {"force": 1.0}, [[1.0], [2.0, 3.0]]])
def test_a_function_that_returns_no_action_is_named(action: object) -> None:
    with pytest.raises(SettingError, match=r"The policy returned .* for an observation; expected an action"):
        collect("lab/x-v0", "Pendulum-v1", lambda _: action, steps=10, progress=False)


def test_random_actions_need_bounds_that_mean_something() -> None:
    most = float(np.finfo(np.float32).max)
    space = gym.spaces.Box(-most, most, (1,))
    with pytest.raises(SettingError, match="have no bounds, so they cannot be drawn uniformly"):
        check_behaviour("random", RandomBehaviour(space), "Any-v0", (1, 1))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_minari_folder_is_said_before_the_first_step(tmp_path: Path) -> None:
    (tmp_path / "minari").mkdir(mode=0o500)
    with pytest.raises(SettingError, match="cannot be used"):
        collect("lab/x-v0", "Pendulum-v1", lambda _: pytest.fail("stepped"), steps=10, progress=False)


def test_a_disk_without_space_is_said_before_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 100_000})
    monkeypatch.setattr("minari_obd.storage.building.shutil.disk_usage", lambda _: usage)
    stepped = []
    with pytest.raises(SettingError, match=r"takes about 5.10 MiB, and .* has 0.10 MiB left; free some"):
        collect("lab/x-v0", "Pendulum-v1", stepped.append, steps=100_000, progress=False)
    assert not stepped


def test_a_minari_folder_that_cannot_be_used_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "file"))
    with pytest.raises(SettingError, match=r"cannot be used.*set MINARI_DATASETS_PATH to a"):
        collect("lab/x-v0", "Pendulum-v1", "random", steps=5, progress=False)


def test_a_dataset_that_another_process_made_meanwhile_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "obd-bench/hopper/medium-v0"

    class Slow:
        def build(self, *, progress: bool) -> None:
            collect(name, "Pendulum-v1", "random", steps=5, progress=False)  # the other process
            raise DataError("exists already")

    monkeypatch.setitem(BENCHMARK, name, Slow())  # pyright: ignore[reportArgumentType]
    assert len(load_offline_data(name, progress=False)) == 5


def test_a_benchmark_dataset_is_built_once(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    built, build = [], BenchmarkDataset.build

    def short(self: BenchmarkDataset, **given: Any) -> str:
        built.append(self.dataset_id)
        time.sleep(0.3)
        return build(self, **{**given, "steps": 40})

    monkeypatch.setattr(BenchmarkDataset, "build", short)
    name = "obd-bench/hopper/medium-v0"
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: load_offline_data(name, progress=False), range(3)))
    assert built == [name]
    assert len({data.content_sha256 for data in found}) == 1
    assert f"Another process is building '{name}'; waiting for it." in capfd.readouterr().err
    assert not list(minari_folder().glob(".*"))


def test_a_folder_that_cannot_be_locked_keeps_nobody_waiting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with alone(tmp_path / "file", "x", pytest.fail), alone(tmp_path / "file", "x", pytest.fail):
        pass


class Odd(gym.Env):
    """Answers every action alike, with what ``answers`` says in place of a plain step."""

    observation_space, action_space = gym.spaces.Box(-9, 9, (3,)), gym.spaces.Box(-1, 1, (2,))

    def __init__(self, **answers: Any) -> None:
        self.answer = {"observation": np.zeros(3, np.float32), "reward": 1.0, "over": False, **answers}

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return np.zeros(3, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[Any, Any, Any, bool, dict]:
        return self.answer["observation"], self.answer["reward"], self.answer["over"], False, {}


@pytest.fixture
def odd() -> Iterator[Callable[..., str]]:
    def register(**answers: Any) -> str:
        gym.register("Odd-v0", Odd, kwargs=answers, max_episode_steps=4, disable_env_checker=True)
        return "Odd-v0"

    yield register
    del gym.registry["Odd-v0"]


def visited(env_id: str) -> None:
    visit(env_id, [0, 1], lambda rows: np.zeros((len(rows), 2)))


def collected(env_id: str) -> None:
    collect("lab/odd-v0", env_id, "random", steps=20, progress=False)


def evaluated(env_id: str) -> None:
    evaluate(lambda _: np.zeros(2), env=env_id, episodes=2, workers=1)


def evaluated_elsewhere(env_id: str) -> None:
    evaluate(lambda _: np.zeros(2), env=env_id, episodes=40, workers=2)


@pytest.mark.parametrize("use", [visited, collected, evaluated, evaluated_elsewhere])
@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"reward": None}, "reward 'None'; expected one number"),
        ({"reward": "1"}, "reward '1'; expected one number"),
        ({"reward": np.zeros(2)}, "expected one number"),
        ({"reward": np.nan}, "reward that is not finite, nan"),
        ({"over": None}, "flag 'None'; expected True or False"),
        ({"over": 0.5}, "flag '0.5'; expected True or False"),
        ({"observation": np.zeros(4, np.float32)}, r"observations of shapes \(3,\) and \(4,\)"),
    ],
)
def test_what_an_environment_may_not_answer(odd: Callable, use: Callable, answers: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        use(odd(**answers))
    assert not has_local_dataset("lab/odd-v0")


@pytest.mark.parametrize("one", [np.array([1.0]), np.float32(1), np.array(1), 1])
def test_arrays_of_one_are_numbers_and_flags(odd: Callable, one: Any) -> None:
    env_id = odd(reward=one, over=one)
    collected(env_id)
    data = load_offline_data("lab/odd-v0")
    assert data.rewards.tolist() == [1.0] * 20
    assert data.terminations.all()
    assert evaluate(lambda _: np.zeros(2), env=env_id, episodes=3, workers=1).returns.tolist() == [[1.0] * 3]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda _: np.full(2, np.nan), "an action that is not finite"),
        (lambda _: "left", "returned 'left'; it must return one action"),
        (lambda _: None, r"an array of shape \(\)|returned 'None'"),
    ],
)
def test_what_a_function_may_not_return(odd: Callable, function: Callable, message: str) -> None:
    with pytest.raises(DataError, match=message):
        evaluate(function, env=odd(), episodes=2, workers=1)


@pytest.mark.parametrize("one", [np.int64(1), np.array(1), np.array([1])])
def test_numpy_s_whole_numbers_are_taken(one: Any) -> None:
    def policy(_: np.ndarray) -> np.ndarray:
        return np.zeros(1)

    plain, given = (
        evaluate(policy, env="Unversioned", students=n, episodes=n, seed=n, workers=n, progress=False) for n in (1, one)
    )
    assert given.returns.tobytes() == plain.returns.tobytes()
    assert type(given.seed) is int
    collect("lab/one-v0", "Unversioned", policy, steps=one, seed=one, progress=False)
    data = load_offline_data("lab/one-v0")
    protocol = minari_obd.StudentProtocol(depth=1, width=4, steps=2)
    assert clone(data, students=one, seed=one, protocol=protocol).students == 1


@pytest.mark.parametrize("name", ["students", "episodes", "seed", "workers"])
@pytest.mark.parametrize("value", [-1, 1.5, True, "1", np.array([1, 1])])
def test_counts_that_are_none_are_named(name: str, value: Any) -> None:
    with pytest.raises(SettingError, match=f"^{name} is "):
        evaluate(lambda _: np.zeros(1), env="Unversioned", **{name: value})
