"""Other people's teachers: CORL's networks and Stable-Baselines3's models say what their copies say; nothing is run."""

import pickle
import shutil
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from corl_agents import ACTIONS, AGENTS, MEAN, SCALE, STATES, Scalar, td3_bc
from torch import nn

from minari_obd.errors import FormatError, MinariObdError, NotFoundError, SettingError
from minari_obd.settings.recipe import Recipe
from minari_obd.settings.sections import TeacherRecipe
from minari_obd.sources.loading import load_offline_data
from minari_obd.sources.scaling import Normaliser
from minari_obd.teachers.frozen import FrozenTeacher
from minari_obd.teachers.loading import load_teacher
from minari_obd.teachers.obtaining import plan_teacher
from minari_obd.teachers.protocol import Teacher


@pytest.fixture(autouse=True)
def seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    # As in a script that was run: pickles name this module's class as the main one's.
    monkeypatch.setattr(Scalar, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "Scalar", Scalar, raising=False)


@pytest.mark.parametrize("highest", [1.0, 2.5])
@pytest.mark.parametrize("name", AGENTS)
def test_a_corl_checkpoint_acts_and_values_as_its_agent(name: str, highest: float) -> None:
    agent, state = AGENTS[name]()
    torch.save(state, "checkpoint_499.pt")
    teacher = load_teacher("checkpoint_499.pt", normaliser=(MEAN, SCALE), action_bounds=(-highest, highest))
    actions, values = agent.answers(highest)
    assert isinstance(teacher, Teacher)
    np.testing.assert_allclose(teacher.act(STATES), actions, atol=1e-6 * highest)
    np.testing.assert_allclose(teacher.value(STATES, highest * ACTIONS), values, atol=1e-5)
    assert teacher.details["steps"] == state["total_it"]
    assert teacher.details["algorithm"] in (name.removesuffix("_deterministic"), "cql or calql")

    again = load_teacher(teacher.save("ours"))  # from here on it is an ordinary teacher
    assert again.sha256 == teacher.sha256
    assert again.details == teacher.details
    np.testing.assert_array_equal(again.act(STATES), teacher.act(STATES))
    np.testing.assert_array_equal(again.value(STATES, ACTIONS), teacher.value(STATES, ACTIONS))


def test_the_ways_to_give_a_normaliser() -> None:
    torch.save(td3_bc()[1], "a.pt")
    by_pair = load_teacher("a.pt", normaliser=(MEAN, SCALE))
    ours = Normaliser(MEAN, SCALE)
    assert load_teacher("a.pt", normaliser=ours).sha256 == by_pair.sha256
    plain = load_teacher("a.pt", normaliser=(0, 1))
    np.testing.assert_allclose(plain.act(ours.normalise(STATES)), by_pair.act(STATES), atol=1e-6)


def test_older_checkpoints_that_are_bare_pickles_are_read() -> None:
    agent, state = td3_bc()
    torch.save(state, "old.pt", _use_new_zipfile_serialization=False)
    teacher = load_teacher("old.pt", normaliser=(MEAN, SCALE))
    np.testing.assert_allclose(teacher.act(STATES), agent.answers(1.0)[0], atol=1e-6)


SB3 = [("SAC", {}), ("SAC", {"activation_fn": nn.Tanh}), ("TD3", {"n_critics": 3}), ("DDPG", {"activation_fn": nn.ELU})]


@pytest.mark.parametrize(("algorithm", "options"), SB3)
def test_a_stable_baselines3_model_and_its_copy_agree(algorithm: str, options: dict[str, Any]) -> None:
    sb3 = pytest.importorskip("stable_baselines3")
    options = {"net_arch": [16, 16], **options}
    model = getattr(sb3, algorithm)("MlpPolicy", "Pendulum-v1", seed=0, learning_starts=10, policy_kwargs=options)
    model.learn(15)
    model.save("model.zip")
    rng = np.random.default_rng(2)
    states = rng.normal(size=(32, 3)).astype(np.float32)
    actions = rng.uniform(-2, 2, size=(32, 1)).astype(np.float32)
    teacher = load_teacher("model.zip")
    np.testing.assert_allclose(teacher.act(states), model.predict(states, deterministic=True)[0], atol=1e-6)
    with torch.no_grad():  # its critics take actions on [-1, 1], as its replay buffer holds them
        found = torch.cat(model.critic(torch.from_numpy(states), torch.from_numpy(actions / 2)), dim=1)
    np.testing.assert_allclose(teacher.value(states, actions), found.amin(dim=1).numpy(), atol=1e-6)
    assert teacher.details["algorithm"] == algorithm.lower()
    assert teacher.details["steps"] == 15
    assert load_teacher(teacher.save("ours")).sha256 == teacher.sha256
    if "activation_fn" in options:
        told = load_teacher("model.zip", activation="relu", normaliser=(1.0, 2.0), action_bounds=(-1, 1))
        assert np.abs(told.act(states)).max() <= 1
        assert told.sha256 != teacher.sha256


def test_dqn_values_and_chooses_as_its_copy() -> None:
    sb3 = pytest.importorskip("stable_baselines3")
    options: dict[str, Any] = {"net_arch": [16, 16]}
    model = sb3.DQN("MlpPolicy", "Acrobot-v1", seed=0, learning_starts=10, buffer_size=50, policy_kwargs=options)
    model.learn(16)
    model.save("model.zip")
    teacher = load_teacher("model.zip")
    states = np.random.default_rng(2).normal(size=(32, 6)).astype(np.float32)
    np.testing.assert_array_equal(teacher.act(states).argmax(axis=1), model.predict(states, deterministic=True)[0])
    with torch.no_grad():
        values = model.q_net(torch.from_numpy(states)).numpy()
    for number, row in enumerate(np.eye(3)):
        np.testing.assert_allclose(teacher.value(states, np.tile(row, (32, 1))), values[:, number], atol=1e-6)
    assert (teacher.details["algorithm"], teacher.details["steps"]) == ("dqn", 16)
    assert load_teacher(teacher.save("ours")).sha256 == teacher.sha256
    ends, recipe = np.arange(32) == 31, Recipe("x", "pbc", 4)
    arrays = {"observations": states, "actions": np.arange(32) % 3, "action_count": 3, "rewards": np.zeros(32)}
    data = load_offline_data({**arrays, "terminations": ends, "truncations": ~ends & ends})
    for confidence, expected in ((None, 0.9), (0.6, 0.6)):
        planned = plan_teacher(replace(recipe, teacher=TeacherRecipe("model.zip", confidence=confidence)), data)
        assert isinstance(planned, FrozenTeacher)
        assert planned.act(states).max(axis=1).mean() == pytest.approx(expected, abs=0.01)
    with pytest.raises(SettingError, match="are discrete and have no bounds"):
        load_teacher("model.zip", action_bounds=(0, 1))


class Hostile:
    """Makes a file when it is unpickled."""

    def __reduce__(self) -> tuple[Callable, tuple]:
        return shutil.copyfile, (__file__, "was-run")


class Calling:
    """Calls something else with the very class that is let through."""

    def __reduce__(self) -> tuple[Callable, tuple]:
        return Scalar, (0.0,)


def hostile_pickle(_: Any) -> None:
    Path("x.pt").write_bytes(pickle.dumps(Hostile(), protocol=2))


def hostile_zip(state: dict[str, Any]) -> None:
    torch.save({**state, "extra": Hostile()}, "x.pt")


def system_call(state: dict[str, Any]) -> None:
    torch.save(state, "good.pt")
    with zipfile.ZipFile("good.pt") as good, zipfile.ZipFile("x.pt", "w") as bad:
        for name in good.namelist():
            pickled = name.endswith("data.pkl")
            bad.writestr(name, b"cposix\nsystem\n(X\x0d\x00\x00\x00touch was-runtR." if pickled else good.read(name))


def with_arguments(state: dict[str, Any]) -> None:
    torch.save({**state, "extra": Calling()}, "x.pt")


def boundless(state: dict[str, Any]) -> None:
    state["actor"]["net.0.weight"] = torch.zeros(1).expand(2**20, 2**20)
    torch.save(state, "x.pt")


def normed(state: dict[str, Any]) -> None:
    state["actor"]["norm.weight"] = torch.ones(16)
    torch.save(state, "x.pt")


def gap(state: dict[str, Any]) -> None:
    del state["critic_1"]["net.0.bias"]
    torch.save(state, "x.pt")


def diverged(state: dict[str, Any]) -> None:
    state["actor"]["net.0.weight"][0, 0] = float("nan")
    torch.save(state, "x.pt")


def others(_: Any) -> None:
    torch.save({"model": torch.zeros(3)}, "x.pt")


def cut(state: dict[str, Any]) -> None:
    torch.save(state, "x.pt")
    Path("x.pt").write_bytes(Path("x.pt").read_bytes()[:2000])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            hostile_pickle,
            r"names shutil.copyfile, and only tensors and plain values are read, so nothing in it was run",
        ),
        (hostile_zip, r"names shutil.copyfile, and only tensors"),
        (system_call, r"names posix.system, and only tensors"),
        (with_arguments, "cannot be read as a torch checkpoint"),
        (boundless, r"claims the shape \(1048576, 1048576\) and lacks the numbers"),
        (normed, "not a plain multi-layer perceptron of the known names: it has norm.weight"),
        (gap, "A critic in 'x.pt' is not a plain multi-layer perceptron"),
        (diverged, "weights that are not finite"),
        (others, "has 'model', which is not a checkpoint of CORL's"),
        (cut, "'x.pt'"),
    ],
)
def test_a_checkpoint_that_is_something_else_is_refused(damage: Callable, message: str) -> None:
    damage(td3_bc()[1])
    with pytest.raises(MinariObdError, match=message):
        load_teacher("x.pt", normaliser=(MEAN, SCALE))
    assert not Path("was-run").exists()


def test_a_file_that_unpacks_to_more_than_a_teacher_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile("x.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(1_000_000))
    monkeypatch.setattr("minari_obd.storage.torch_files.MOST_BYTES", 999_999)
    with pytest.raises(FormatError, match="unpacks to more than"):
        load_teacher("x.pt", normaliser=(0, 1))


def test_the_hostile_checkpoint_would_have_worked_on_a_trusting_reader() -> None:
    hostile_zip({})
    torch.load("x.pt", weights_only=False)
    assert Path("was-run").exists()


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: load_teacher("a.pt"), SettingError, r"lack the normaliser .* give normaliser=\(mean, scale\)"),
        (lambda: load_teacher("a.pt", normaliser=(MEAN[:3], 1)), SettingError, r"normaliser is a pair.*shape \(5,\)"),
        (lambda: load_teacher("a.pt", normaliser=0), SettingError, "normaliser is a pair"),  # pyright: ignore
        (lambda: load_teacher("a.pt", normaliser=(0, 1), action_bounds=(0, 1)), SettingError, "between -m and m"),
        (lambda: load_teacher("a.pt", normaliser=(0, 1), activation="gelu"), SettingError, "activation is one of relu"),
        (lambda: load_teacher("a.pt", revision="v1"), SettingError, "has no revisions"),
        (lambda: load_teacher("ours", normaliser=(0, 1)), SettingError, "for other libraries' files"),
        (lambda: load_teacher("ours/none.pt"), NotFoundError, "There is no teacher at 'ours/none.pt'"),
        (lambda: load_teacher(Path("lab/none")), NotFoundError, "There is no teacher at 'lab/none'"),
        (lambda: load_teacher(""), NotFoundError, "There is no teacher at ''"),
        (lambda: load_teacher("ppo.zip"), FormatError, "no MlpPolicy of SAC"),
        (lambda: load_teacher("gsde.zip"), FormatError, "no MlpPolicy of SAC"),
        (
            lambda: load_teacher("leaky.zip"),
            SettingError,
            "has the activation leakyrelu",
        ),
    ],
)
def test_requests_without_a_meaning_are_named(
    call: Callable[[], object], kind: type[MinariObdError], message: str, foreign_files: None
) -> None:
    with pytest.raises(kind, match=message):
        call()


@pytest.fixture
def foreign_files() -> None:
    sb3 = pytest.importorskip("stable_baselines3")
    torch.save(td3_bc()[1], "a.pt")
    load_teacher("a.pt", normaliser=(0, 1)).save("ours")
    small: dict[str, Any] = {"net_arch": [8]}
    sb3.PPO("MlpPolicy", "Pendulum-v1", policy_kwargs=small).save("ppo.zip")
    sb3.SAC("MlpPolicy", "Pendulum-v1", policy_kwargs=small, use_sde=True, buffer_size=10).save("gsde.zip")
    leaky = {**small, "activation_fn": nn.LeakyReLU}
    sb3.SAC("MlpPolicy", "Pendulum-v1", policy_kwargs=leaky, buffer_size=10).save("leaky.zip")


def test_bounds_that_are_not_printed_are_asked_for() -> None:
    sb3 = pytest.importorskip("stable_baselines3")
    wide = gym.spaces.Box(-np.ones((2, 2), np.float32), np.ones((2, 2), np.float32))

    class Wide(gym.Env):
        observation_space = gym.spaces.Box(-1, 1, (3,))
        action_space = wide

    sb3.TD3("MlpPolicy", Wide(), policy_kwargs={"net_arch": [8]}, buffer_size=10).save("wide.zip")
    with pytest.raises(SettingError, match="does not print the bounds of its actions readably; give action_bounds"):
        load_teacher("wide.zip")
    assert load_teacher("wide.zip", action_bounds=(-1, 1)).act(np.zeros((1, 3))).shape == (1, 4)


def test_only_what_a_teacher_can_be_is_made() -> None:
    torch.save(td3_bc()[1], "a.pt")
    fields = {**vars(load_teacher("a.pt", normaliser=(0, 1)))}
    for change, message in (
        ({"activation": "swish"}, "activation is one of relu, tanh, elu"),
        ({"value_from": "max"}, "value from 'mean' or 'min'"),
        ({"critics": []}, "has no critic"),
        ({"action_low": np.ones(2)}, "below its highest"),
        ({"details": {"x": {1, 2}}}, "details are JSON values"),
        ({"details": {"score": float("nan")}}, "details are JSON values"),
        ({"actor": [(w.double(), b) for w, b in fields["actor"]]}, "in float32"),
    ):
        with pytest.raises(MinariObdError, match=message):
            FrozenTeacher(**{**fields, **change})
