"""Damaged and hostile zips of Stable-Baselines3: only our own errors, which name the file, in memory of its size."""

import io
import json
import tempfile
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from fuzzing import ANYTHING, changed, damage, often, seldom
from hypothesis import given
from hypothesis import strategies as st

from minari_obd.errors import FormatError, MinariObdError
from minari_obd.sources.stable_baselines3 import load_stable_baselines3
from minari_obd.storage.torch_files import load_weights
from minari_obd.teachers.loading import load_teacher

KINDS = ("TD3", "SAC", "PPO", "DQN")
SPACE = {"DQN": gym.spaces.Discrete(2)}
BOX = gym.spaces.Box(-2.0, 2.0, (1,), np.float32)


@pytest.fixture(scope="module")
def models() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Of each kind, the weights and the settings' JSON of a small model."""
    sb3 = pytest.importorskip("stable_baselines3")
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            path = Path(folder) / f"{kind}.zip"
            options: dict[str, Any] = {} if kind == "PPO" else {"buffer_size": 10}
            env = "CartPole-v1" if kind == "DQN" else "Pendulum-v1"
            small = {"net_arch": [4]}
            getattr(sb3, kind)("MlpPolicy", env, policy_kwargs=small, device="cpu", seed=0, **options).save(path)
            with zipfile.ZipFile(path) as archive:
                weights = load_weights(io.BytesIO(archive.read("policy.pth")), "it")
                found[kind] = weights, json.loads(archive.read("data"))
    return found


def zipped(weights: Any, settings: Any, compression: int = zipfile.ZIP_STORED) -> bytes:
    whole, policy = io.BytesIO(), io.BytesIO()
    torch.save(weights, policy)
    with zipfile.ZipFile(whole, "w", compression) as archive:
        archive.writestr("policy.pth", policy.getvalue())
        archive.writestr("data", json.dumps(settings))
    return whole.getvalue()


def read(kind: str, content: bytes) -> list[str]:
    """Read a zip as a teacher and as a behaviour, use what comes of it, and return what was said against it."""
    said = []
    with tempfile.TemporaryDirectory() as folder, np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.filterwarnings("error")
        path = Path(folder) / "model.zip"
        path.write_bytes(content)
        try:
            teacher = load_teacher(path)
            actions = teacher.act(np.zeros((2, teacher.normaliser.mean.size), np.float32))
            assert len(actions) == 2
        except MinariObdError as error:
            said.append(str(error))
        try:
            behaviour = load_stable_baselines3(path, SPACE.get(kind, BOX))
            generators = [np.random.default_rng(0) for _ in range(2)]
            assert len(behaviour.act(np.zeros((2, behaviour.inputs), np.float32), generators)) == 2
        except MinariObdError as error:
            said.append(str(error))
        assert all(str(path) in each and len(each) < 2_000 for each in said), said
    return said


@pytest.mark.parametrize("kind", KINDS)
def test_an_honest_zip_is_read_however_it_is_packed(kind: str, models: dict) -> None:
    refused = ["PPO"] if kind == "PPO" else []  # it values no actions, so it is no teacher
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        assert len(read(kind, zipped(*models[kind], compression=compression))) == len(refused)


@seldom
@given(st.data())
@pytest.mark.parametrize("kind", KINDS)
def test_any_bytes_in_the_zip(kind: str, models: dict, data: st.DataObject) -> None:
    read(kind, damage(data, zipped(*models[kind])))


@often
@given(st.data())
@pytest.mark.parametrize("kind", ["TD3", "PPO"])
def test_any_value_in_the_settings(kind: str, models: dict, data: st.DataObject) -> None:
    weights, settings = models[kind]
    names = "policy_kwargs", "action_space", "use_sde", "num_timesteps"
    told = {name: settings[name] for name in names}
    read(kind, zipped(weights, changed(data, told)))


ODD: list[Callable[[torch.Tensor], Any]] = [
    lambda t: t.half(),
    lambda t: t.double() * 1e300,
    lambda t: t * float("nan"),
    lambda t: t.to(torch.int64),
    lambda t: t.to(torch.complex64),
    lambda t: t.bool(),
    lambda t: t.to_sparse(),
    lambda t: t.flatten(),
    lambda t: t[None],
    lambda t: t[:0],
    lambda t: t.new_zeros(()),
    lambda t: t.new_zeros((1,)).expand(2**20, 2**20),
    lambda t: t.repeat(*[2] * max(t.dim(), 1)),
    lambda t: torch.empty(t.shape, device="meta"),
    lambda t: {"a": t},
    lambda t: [t, t],
]


@often
@given(st.data())
@pytest.mark.parametrize("kind", KINDS)
def test_any_weights(kind: str, models: dict, data: st.DataObject) -> None:
    weights, settings = dict(models[kind][0]), models[kind][1]
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from(sorted(models[kind][0])))
        how = data.draw(st.integers(0, len(ODD) + 2))
        if how < len(ODD):
            weights[name] = ODD[how](models[kind][0][name])
        elif how == len(ODD):
            weights.pop(name, None)
        elif how == len(ODD) + 1:
            weights[name] = data.draw(ANYTHING)
        else:
            new = data.draw(st.sampled_from([7, "", "\x1b[2J", name + ".0.weight", name.replace("0", "9" * 5_000)]))
            weights[new] = models[kind][0][name]
    read(kind, zipped(weights, settings))


def bomb(weights: Any, settings: dict[str, Any]) -> bytes:
    """0.1 MB that unpack to 100."""
    return zipped(weights, {**settings, "x": "0" * 100_000_000}, zipfile.ZIP_DEFLATED)


def named_often(weights: dict[str, Any], settings: dict[str, Any]) -> bytes:
    """1 MB of numbers under a hundred names."""
    layer = torch.zeros(256, 512, dtype=torch.float64)
    return zipped({**weights, **{f"actor.mu.{number}.weight": layer for number in range(100)}}, settings)


@pytest.mark.parametrize(("make", "said"), [(bomb, "times its size"), (named_often, r"claim .* bytes, and it holds")])
def test_little_bytes_for_much_memory_are_refused_before_it_is_used(
    make: Callable, said: str, models: dict, tmp_path: Path
) -> None:
    path = tmp_path / "model.zip"
    path.write_bytes(make(*models["TD3"]))
    for load in (load_teacher, lambda path: load_stable_baselines3(path, BOX)):
        tracemalloc.start()
        try:
            with pytest.raises(FormatError, match=f"model.zip.*{said}"):
                load(path)
            assert tracemalloc.get_traced_memory()[1] < 10 * path.stat().st_size + 2**20
        finally:
            tracemalloc.stop()
