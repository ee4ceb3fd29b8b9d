"""Inputs of every kind, drawn at random: only this package's own errors come out of reading them."""

import json
import tempfile
import tracemalloc
import warnings
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import numpy as np
import pytest
from conftest import make_arrays, make_pairs, make_teacher
from fuzzing import ANYTHING, changed, damage, seldom
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from safetensors import safe_open
from safetensors.numpy import save_file

import minari_obd
from minari_obd.continual.recipe import load_continual
from minari_obd.errors import DataError, FormatError, MinariObdError
from minari_obd.experiments.cell import CellResult
from minari_obd.experiments.grid import load_grid
from minari_obd.finetuning.grid import load_arms
from minari_obd.scores.references import ReferenceScores
from minari_obd.scores.report import EvaluationReport
from minari_obd.settings.recipe import load_recipe, recipe_toml
from minari_obd.sources.data import OfflineData
from minari_obd.sources.loading import load_offline_data
from minari_obd.storage.minari_datasets import episode_buffer, write_dataset

RECIPE = {
    "source": "lab/x-v0",
    "size": 8,
    "student": {"depth": 1, "learning_rate": 0.1},
    "teacher": {"algorithm": "td3_bc", "options": {"gamma": 0.9}},
    "student_states": {"share": 0.25, "noise": 0.5},
    "distillation": {"kernel_steps": 5, "steps": 3, "draws": {"adam": 0.5, "depths": [2]}},
    "evaluation": {"env": "Hopper-v5"},
}
TOMLS: dict[str, tuple[Callable[[Path], Any], dict[str, Any]]] = {
    "recipe": (load_recipe, RECIPE),
    "grid": (
        load_grid,
        {
            "datasets": ["lab/x-v0"],
            "methods": ["random"],
            "sizes": [8],
            "recipe": {"student": {"depth": 1}},
            "variants": {"wide": {"method": "dbc", "student": {"width": 64}}},
        },
    ),
    "arms": (
        load_arms,
        {
            "steps": 60,
            "recipe": {"source": "lab/x-v0", "method": "random"},
            "arms": {"a": {"pairs": "random", "finetuning": {"bc_weight": 0.5}}},
        },
    ),
    "continual": (load_continual, {"tasks": ["a/b-v0", "c/d-v0"], "students": 2, "recipe": {"size": 8}}),
}


@contextmanager
def scratch():
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def plain(value: Any) -> Any:
    """What TOML has no word for becomes text."""
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items() if each is not None}
    if isinstance(value, list):
        return [plain(each) for each in value if each is not None]
    return value if not isinstance(value, str) else value.encode("utf-8", "replace").decode()


@seldom
@given(st.data())
@pytest.mark.parametrize("kind", TOMLS)
def test_any_value_anywhere_in_a_toml_file(kind: str, data: st.DataObject) -> None:
    import tomli_w

    read, values = TOMLS[kind]
    with scratch() as folder:
        path = folder / "x.toml"
        path.write_text(tomli_w.dumps(values))
        read(path)  # as it is, it can be read
        path.write_text(tomli_w.dumps(plain(changed(data, values))))
        with suppress(MinariObdError):
            found = read(path)
            if kind == "recipe":
                recipe_toml(found)


@seldom
@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace")))
@pytest.mark.parametrize("kind", TOMLS)
def test_any_bytes_for_a_toml_file(kind: str, content: bytes) -> None:
    with scratch() as folder, suppress(MinariObdError):
        (folder / "x.toml").write_bytes(content)
        TOMLS[kind][0](folder / "x.toml")


NUMBERS = st.sampled_from(["<f2", "<f4", ">f8", "<i4", "|u1", "|b1", "<c8", "<U3", "|S2", "<M8[s]", "|O"])
SHAPES = st.sampled_from([(6,), (7,), (6, 1), (6, 2), (6, 3), (7, 3), (6, 0), (0,), (), (6, 2, 2), (1,)])
ODD = [0.0, 1.0, 0.5, -1.0, np.nan, np.inf, 1e30, 1e300, -1e38]


@st.composite
def odd_arrays(draw: st.DrawFn) -> Any:
    """Arrays of odd types, shapes and numbers."""
    dtype, shape = np.dtype(draw(NUMBERS)), draw(SHAPES)
    if dtype.kind == "f":
        values = np.array(draw(st.lists(st.sampled_from(ODD), min_size=1, max_size=4)))
        with np.errstate(over="ignore"):
            return np.resize(values, shape).astype(dtype)
    if dtype.kind == "O":
        return np.full(shape, draw(st.sampled_from([None, "x", 1.5])), object)
    return draw(arrays_of.arrays(dtype, shape))


def usable(data: OfflineData) -> None:
    """What must hold of data that was not refused."""
    for name in ("observations", "actions", "rewards"):
        assert np.isfinite(getattr(data, name)).all()
        assert len(getattr(data, name)) == len(data)
    assert not (data.terminations & data.truncations).any()
    assert len(data.episode_starts) == (data.terminations | data.truncations).sum() == len(data.final_observations)
    assert (data.action_low < data.action_high).all()
    repr(data)


@contextmanager
def only_own_errors():
    """Warnings of this package may be given, and its errors raised; anything else fails the test."""
    with warnings.catch_warnings(), suppress(MinariObdError):
        warnings.simplefilter("ignore", UserWarning)
        yield


FIELDS = ["observations", "actions", "rewards", "terminations", "truncations", "next_observations"]
MORE = ["action_low", "action_high", "env_id", "license", "action_count", "first_action", "ref_min_score", "dataset_id"]


@seldom
@given(st.dictionaries(st.sampled_from(FIELDS), odd_arrays(), min_size=1, max_size=2))
def test_any_arrays(given_arrays: dict[str, Any]) -> None:
    with only_own_errors():
        usable(load_offline_data({**make_arrays([4, 2]), **given_arrays}))


@seldom
@given(st.sampled_from(FIELDS + MORE), odd_arrays() | ANYTHING)
def test_anything_for_a_field(name: str, value: Any) -> None:
    with only_own_errors():
        usable(load_offline_data({**make_arrays([4, 2]), name: value}))


@pytest.mark.parametrize(
    ("name", "odd"),
    [
        ("terminations", lambda n: np.zeros((n, 1), bool)),
        ("truncations", lambda n: np.full(n, np.nan)),
        ("rewards", lambda n: np.zeros((n, 1))),
        ("actions", lambda n: np.zeros(n)),
        ("next_observations", lambda n: np.zeros(n)),
        ("observations", lambda n: {"a": np.zeros((n, 1)), "b": np.zeros(n - 1)}),
    ],
)
def test_what_does_not_fit_is_refused_in_memory_of_order_n(name: str, odd: Callable[[int], Any]) -> None:
    count = 20_000
    given_arrays = {**make_arrays([count]), name: odd(count)}
    tracemalloc.start()
    with pytest.raises(DataError, match=name):
        load_offline_data(given_arrays)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 200 * count  # one column against N flags, broadcast, would take N times N bytes


@pytest.fixture
def stored() -> Path:
    flags = np.arange(6) == 5
    buffers = [
        episode_buffer(np.zeros((7, 3), "f4"), np.full((6, 2), i, "f4"), np.ones(6), ~flags & False, flags)
        for i in range(3)
    ]
    spaces: dict[str, Any] = {
        "observation_space": gym.spaces.Box(-9, 9, (3,)),
        "action_space": gym.spaces.Box(-9, 9, (2,)),
    }
    return write_dataset("lab/x-v0", buffers, algorithm="x", description="x", **spaces) / "data"


@contextmanager
def altered(stored: Path):
    """Alter a stored dataset, and have it as it was again."""
    kept = {path: path.read_bytes() for path in stored.iterdir()}
    yield
    for path, content in kept.items():
        path.write_bytes(content)


@seldom
@given(st.sampled_from(FIELDS[:5]), st.sampled_from([0, 2]), odd_arrays().filter(lambda a: a.dtype.kind not in "OUM"))
def test_any_array_in_a_minari_dataset(stored: Path, name: str, episode: int, value: np.ndarray) -> None:
    with altered(stored), only_own_errors():
        with h5py.File(stored / "main_data.hdf5", "r+") as file:
            del file[f"episode_{episode}/{name}"]
            file[f"episode_{episode}/{name}"] = value
        usable(load_offline_data("lab/x-v0"))


@seldom
@given(st.data())
def test_any_value_anywhere_in_a_minari_dataset_s_metadata(stored: Path, data: st.DataObject) -> None:
    path = stored / "metadata.json"
    with altered(stored), only_own_errors():
        path.write_text(json.dumps(changed(data, json.loads(path.read_text()))))
        usable(load_offline_data("lab/x-v0", download=False))


def saved_policy(folder: Path) -> Path:
    protocol = minari_obd.StudentProtocol(depth=1, width=4, steps=2)
    return minari_obd.clone(make_pairs(), protocol=protocol).save(folder / "x.safetensors")


def saved_teacher(folder: Path) -> Path:
    return make_teacher().save(folder / "teacher") / "teacher.safetensors"


FILES: dict[str, tuple[Callable[[Path], Path], Callable[[Path], Any]]] = {
    "policy": (saved_policy, minari_obd.load_policy),
    "teacher": (saved_teacher, minari_obd.load_teacher),
}


def acts(read: Callable[[Path], Any], path: Path) -> None:
    """Read a policy or a teacher, and let it act; what can be read can act."""
    with suppress(MinariObdError), np.errstate(all="ignore"):
        found = read(path)
        repr(found)
        found(np.zeros((2, 3), np.float32)) if callable(found) else found.act(np.zeros((2, 3), np.float32))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: write(tmp_path_factory.mktemp(kind)) for kind, (write, _) in FILES.items()}


@seldom
@given(st.data())
@pytest.mark.parametrize("kind", FILES)
def test_any_bytes_in_a_policy_or_teacher(kind: str, files: dict[str, Path], data: st.DataObject) -> None:
    with scratch() as folder:
        (folder / files[kind].name).write_bytes(damage(data, files[kind].read_bytes()))
        acts(FILES[kind][1], folder / files[kind].name)


@seldom
@given(st.data())
@pytest.mark.parametrize("kind", FILES)
def test_any_header_or_tensor_of_a_policy_or_teacher(kind: str, files: dict[str, Path], data: st.DataObject) -> None:
    with safe_open(files[kind], framework="np") as file:
        ((key, header),) = file.metadata().items()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it cannot be iterated
    if data.draw(st.booleans()):
        header = json.dumps(changed(data, json.loads(header)))
    else:
        tensors[data.draw(st.sampled_from(sorted(tensors)))] = data.draw(
            odd_arrays().filter(lambda a: a.dtype.str in ("<f2", "<f4", "<i4", "|u1"))
        )
    with scratch() as folder:
        save_file(tensors, folder / files[kind].name, metadata={key: header})
        acts(FILES[kind][1], folder / files[kind].name)


def report() -> EvaluationReport:
    return EvaluationReport(np.arange(4.0).reshape(2, 2), "E-v0", 0, ReferenceScores(0.0, 100.0, "x"))


@seldom
@given(st.data())
def test_any_value_anywhere_in_a_cell_of_a_bench(data: st.DataObject) -> None:
    values = CellResult("k", "lab/x-v0", "random", 8, 0, report(), 1.0, 0.5).to_json()
    with scratch() as folder:
        (folder / "k.json").write_text(json.dumps(changed(data, json.loads(json.dumps(values)))))
        with suppress(FormatError):
            found = CellResult.read(folder / "k.json")
            repr(found.report)
            found.report.to_markdown()
