"""Sources with faults: each is mended with a warning, or refused in a sentence, and never read as something else."""

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import h5py
import numpy as np
import pytest
from conftest import make_arrays
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from minari.data_collector import EpisodeBuffer

from minari_obd import distill, load_dataset
from minari_obd.errors import DataError, FormatError, NotFoundError, SettingError
from minari_obd.sources.data import OfflineData
from minari_obd.sources.loading import load_offline_data
from minari_obd.sources.transitions import transitions
from minari_obd.storage.minari_datasets import episode_buffer, write_dataset


def without_flags() -> dict[str, Any]:
    """Three episodes of positions 0 to 8, as d4rl.qlearning_dataset gives them: no flag says where one was cut."""
    position = np.arange(30.0) % 10
    keep = position != 9
    count = int(keep.sum())
    return {
        "observations": position[keep, None],
        "next_observations": np.roll(position, -1)[keep, None],
        "actions": np.zeros((count, 1)),
        "rewards": np.ones(count),
        "terminations": np.zeros(count, bool),
        "truncations": np.zeros(count, bool),
    }


def test_a_given_successor_that_is_not_the_next_row_ends_an_episode() -> None:
    arrays = without_flags()
    with pytest.warns(UserWarning, match="2 of 27 steps whose next_observations is not the next row.* is step 8"):
        data = load_offline_data(arrays)
    assert list(data.episode_starts) == [0, 9, 18]
    assert list(data.episode_returns) == [9, 9, 9]
    used = data.normaliser.denormalise(transitions(data, 0.99)["next_observations"])
    np.testing.assert_allclose(used, arrays["next_observations"], atol=1e-3)


def test_successors_that_are_rounded_or_unknown_end_nothing() -> None:
    arrays = make_arrays([5, 5])
    rounded = {**arrays, "next_observations": arrays["next_observations"].astype(np.float32)}
    unknown = {**arrays, "next_observations": np.full((10, 3), np.nan)}
    for each in (rounded, unknown):
        assert list(load_offline_data(each).episode_starts) == [0, 5]


def write_file(path: str, arrays: dict[str, Any], *names: str) -> str:
    theirs = {"terminations": "terminals", "truncations": "timeouts"}
    with h5py.File(path, "w") as file:
        for name in names:
            file[theirs.get(name, name)] = arrays[name]
    return path


def test_a_file_that_does_not_say_where_episodes_were_cut_is_read_with_a_warning() -> None:
    arrays = make_arrays([5, 5, 5])
    some = ("observations", "actions", "rewards", "terminations")
    with pytest.warns(UserWarning, match=r"neither timeouts nor next_observations.* 2 episode\(s\), .* of 10 steps"):
        load_offline_data(write_file("x.hdf5", arrays, *some))
    with pytest.warns(UserWarning, match="1 of 15 steps whose next_observations"):
        assert list(load_offline_data(write_file("x.hdf5", arrays, *some, "next_observations")).episode_starts) == [
            0,
            5,
            10,
        ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"actions": np.zeros((14, 2)) > 1}, "boolean actions. If they are discrete"),
        ({"actions": np.zeros((14, 2), np.uint8)}, "integer actions. If they are discrete, give them as whole numbers"),
        (
            {"actions": np.zeros((14, 2), int), "action_count": 3},
            r"Several at once \(MultiDiscrete\) are not supported",
        ),
        (
            {"actions": np.r_[np.zeros(13, int), 3], "action_count": 3},
            "has the action 3 at step 13; actions are from 0",
        ),
        ({"actions": np.zeros(14, int), "action_count": 1.5}, "action_count 1.5"),
        ({"actions": np.zeros((14, 0))}, "needs at least one step"),
        ({"terminations": np.r_[np.zeros(13), np.nan]}, "has nan for terminations at step 13"),
        ({"terminations": np.full(14, 0.5)}, "has 0.5 for terminations at step 0, and 14 such"),
        ({"truncations": -np.ones(14, int)}, "has -1 for truncations at step 0"),
        ({"truncations": np.array(["no"] * 14)}, "for truncations; expected arrays of numbers"),
        ({"terminations": np.zeros((14, 1), bool)}, r"terminations of shape \(14, 1\); expected \(14,\)"),
        ({"rewards": np.zeros((14, 1))}, r"rewards of shape \(14, 1\); expected \(14,\)"),
        ({"observations": [[1.0, 2.0], [3.0]]}, "observations that cannot be read as an array"),
        ({"next_observations": ["x"] * 14}, "for next_observations; expected arrays of numbers"),
        (
            {"observations": {"place": np.zeros((14, 2)), "speed": np.zeros(14)}},
            r"observations in parts \(place, speed\)",
        ),
        ({"observations": np.zeros((14, 0))}, "needs at least one step"),
        ({"observations": np.ma.masked_less(np.zeros((14, 3)), 1)}, "observations that are masked in part"),
        ({"rewards": np.full(14, 1e300)}, "non-finite rewards at 14 of 14 steps.*float32, which ends at 3.4e38"),
        ({"action_low": np.full(2, -3e38), "action_high": np.full(2, 3e38)}, "must be finite"),
    ],
)
def test_what_arrays_do_not_say_plainly_is_refused(change: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_offline_data({**make_arrays([4, 1, 7, 2]), **change})


def test_d4rls_names_of_the_flags_are_taken() -> None:
    arrays = make_arrays([4, 3])
    theirs = {**arrays, "terminals": arrays["terminations"], "timeouts": arrays["truncations"]}
    del theirs["terminations"], theirs["truncations"]
    assert load_offline_data(theirs).content_sha256 == load_offline_data(arrays).content_sha256


def episodes() -> list[EpisodeBuffer]:
    flags = np.arange(5) == 4
    return [
        episode_buffer(np.zeros((6, 3), "f4"), np.full((5, 2), i, "f4"), np.ones(5), ~flags & False, flags)
        for i in range(3)
    ]


def write(form: str = "hdf5", **spaces: Any) -> Path:
    box = gym.spaces.Box(-9, 9, (2,))
    given = {"observation_space": gym.spaces.Box(-9, 9, (3,)), "action_space": box, **spaces}
    return write_dataset("lab/x-v0", episodes(), algorithm="x", description="x", data_format=form, **given) / "data"


@pytest.mark.parametrize(
    ("form", "spoil"),
    [
        ("arrow", lambda data: next(data.glob("1/part*")).unlink()),
        ("arrow", lambda data: shutil.rmtree(data / "1")),
        ("arrow", lambda data: os.truncate(next(data.glob("1/part*")), 20)),
        ("hdf5", lambda data: os.truncate(data / "main_data.hdf5", 9_000)),
        ("hdf5", lambda data: (data / "main_data.hdf5").unlink()),
    ],
)
def test_an_incomplete_minari_copy_is_refused(form: str, spoil: Callable[[Path], object]) -> None:
    if form == "arrow":
        pytest.importorskip("pyarrow")
    spoil(write(form))
    with pytest.raises(FormatError, match="lab/x-v0"):
        load_offline_data("lab/x-v0")


def dataset(observations: Any, observation_space: gym.Space, env_spec: Any = None) -> SimpleNamespace:
    """What :func:`load_offline_data` takes for a Minari dataset, of one episode of five steps."""
    no, last = np.zeros(5, bool), np.arange(5) == 4
    arrays = {"actions": np.zeros((5, 2)), "rewards": np.ones(5), "terminations": no, "truncations": last}
    return SimpleNamespace(
        spec=SimpleNamespace(dataset_id="lab/x-v0"),
        env_spec=env_spec,
        storage=SimpleNamespace(metadata={}),
        observation_space=observation_space,
        action_space=gym.spaces.Box(-1, 1, (2,)),
        total_steps=5,
        iterate_episodes=lambda: [SimpleNamespace(id=0, observations=observations, **arrays)],
    )


def test_a_part_of_nested_observations_of_another_length_is_refused() -> None:
    space = gym.spaces.Dict({"a": gym.spaces.Box(-9, 9, (1,)), "b": gym.spaces.Box(-9, 9, (2,))})
    observations = {"a": np.zeros((6, 1), "f4"), "b": np.zeros((8, 2), "f4")}
    with pytest.raises(DataError, match="a part of them has 8 entries, where 6 are expected"):
        load_offline_data(dataset(observations, space))


def test_a_space_of_whole_numbers_is_refused() -> None:
    write(action_space=gym.spaces.Box(0, 10, (2,), np.int64))
    with pytest.raises(DataError, match="has integer actions"):
        load_offline_data("lab/x-v0")


def test_bounds_of_the_greatest_float_are_none() -> None:
    top = float(np.finfo(np.float32).max)
    write(action_space=gym.spaces.Box(-top, top, (2,), np.float32))
    data = load_offline_data("lab/x-v0")
    assert list(data.action_low) == [0, 0]
    assert list(data.action_high) == [2, 2]


def collected(**kwargs: Any) -> OfflineData:
    """Load a dataset whose metadata says that its environment had these settings."""
    spec = deepcopy(gym.spec("HalfCheetah-v5"))
    spec.kwargs = kwargs
    return load_offline_data(dataset(np.zeros((6, 3)), gym.spaces.Box(-9, 9, (3,)), spec))


def test_settings_of_the_environment_that_are_not_used_are_said() -> None:
    message = r"collected in 'HalfCheetah-v5' with other settings than are registered \(forward_reward_weight\)"
    with pytest.warns(UserWarning, match=message):
        data = collected(forward_reward_weight=-5.0, render_mode="rgb_array")
    assert data.env_id is None
    assert data.reference is None  # a score would be of another environment
    distill(data, "random", size=4, out="out", progress=False)
    kept = load_dataset("out")
    assert kept.provenance.source_changed_settings == ["forward_reward_weight"]
    assert json.loads(Path("out/obd.json").read_text())["format"] == 3
    assert "| other settings of its environment | `forward_reward_weight` |" in Path("out/README.md").read_text()


def test_settings_of_pictures_change_nothing() -> None:
    data = collected(render_mode="rgb_array", width=64)
    assert data.env_id == "HalfCheetah-v5"
    distill(data, "random", size=4, out="out", progress=False)
    assert "source_changed_settings" not in Path("out/obd.json").read_text()


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(damage=st.dictionaries(st.integers(0, 3_000), st.integers(0, 255), min_size=1, max_size=5))
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_damaged_file_gives_only_errors_of_this_package(damage: dict[int, int]) -> None:
    names = ("observations", "actions", "rewards", "terminations", "truncations")
    whole = bytearray(Path(write_file("x.hdf5", make_arrays([10, 10]), *names)).read_bytes())
    for place, value in damage.items():
        whole[place] = value
    Path("y.hdf5").write_bytes(whole)
    with suppress(DataError, FormatError):
        assert len(load_offline_data("y.hdf5"))


@pytest.mark.parametrize("name", ["x.npy", "x.hdf5.gz", "x.hdf"])
def test_a_file_of_another_kind_is_not_called_missing(name: str) -> None:
    Path(name).touch()
    with pytest.raises(NotFoundError, match="is there, but not of a kind that is read"):
        load_offline_data(name)


def test_names_of_hdf5_files_are_read_in_capitals_from_home_and_of_any_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_file("x.HDF5", make_arrays([10]), "observations", "actions", "rewards", "terminations", "truncations")
    assert len(load_offline_data("x.HDF5")) == len(load_offline_data("~/x.HDF5")) == 10
    with pytest.raises(NotFoundError, match="There is no file 'aaa"):
        load_offline_data("a" * 5_000 + ".hdf5")


def test_pointers_of_git_lfs_are_named() -> None:
    Path("x.hdf5").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3\n")
    distill(make_arrays([10]), "random", size=4, out="out", progress=False)
    shutil.copy("x.hdf5", "out/data/train-00000-of-00001.parquet")
    for load in (lambda: load_offline_data("x.hdf5"), lambda: load_dataset("out")):
        with pytest.raises(FormatError, match="git lfs pull"):
            load()


def test_what_else_a_folder_holds_is_named() -> None:
    pairs = distill(make_arrays([10]), "random", size=4, out="out", progress=False)
    Path("out/.DS_Store").touch()
    pairs.save("out")
    Path("out/LICENSE").touch()
    with pytest.raises(SettingError, match="also holds LICENSE"):
        pairs.save("out")


def test_odd_numbers_are_said() -> None:
    narrow = {"action_low": np.full(2, -0.01), "action_high": np.full(2, 0.01)}
    with pytest.warns(UserWarning, match="actions outside the given bounds"):
        load_offline_data(make_arrays([10]) | narrow)
    stamped = make_arrays([10])
    stamped["observations"] = stamped["observations"].copy()
    stamped["observations"][:, 1] = 1.7e9 + np.arange(10)
    del stamped["next_observations"]
    with pytest.warns(UserWarning, match=r"dimension 1: 1.7e\+09, within 9\), and float32 keeps seven digits"):
        load_offline_data(stamped)
