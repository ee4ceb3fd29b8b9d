"""Offline data: alignment above all, then every way in which a source can be wrong."""

import json
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import h5py
import numpy as np
import pytest
from conftest import make_arrays

from minari_obd.errors import DataError, FormatError, NotFoundError, SettingError
from minari_obd.sources.collecting import collect
from minari_obd.sources.data import OfflineData
from minari_obd.sources.loading import load_offline_data
from minari_obd.sources.scaling import Normaliser
from minari_obd.storage import downloads
from minari_obd.storage.minari_datasets import (
    episode_buffer,
    local_dataset_ids,
    minari_folder,
    open_local_dataset,
    write_dataset,
)
from minari_obd.support.discrete import chosen

LENGTHS = [4, 1, 7, 2]


def write_minari(dataset_id: str = "test/counting-v0", *, discrete: bool = False) -> dict:
    """Store make_arrays(LENGTHS) as Minari episodes of T+1 observations; return the arrays."""
    arrays = make_arrays(LENGTHS)
    episodes = []
    start = 0
    for length in LENGTHS:
        rows = slice(start, start + length)
        episodes.append(
            episode_buffer(
                np.concatenate([arrays["observations"][rows], arrays["next_observations"][rows][-1:]]),
                np.zeros(length, dtype=np.int64) if discrete else arrays["actions"][rows],
                arrays["rewards"][rows],
                arrays["terminations"][rows],
                arrays["truncations"][rows],
            )
        )
        start += length
    write_dataset(
        dataset_id,
        episodes,
        observation_space=gym.spaces.Box(-np.inf, np.inf, (3,), np.float64),
        action_space=gym.spaces.Discrete(3) if discrete else gym.spaces.Box(-1, 1, (2,), np.float64),
        algorithm="none",
        description="counts its steps",
    )
    return arrays


def test_minari_rows_stay_aligned_over_unequal_episodes() -> None:
    arrays = write_minari()
    data = load_offline_data("test/counting-v0")
    # Row i is 1000 * episode + step, so one row of shift in any episode would show.
    expected = np.concatenate([1000 * episode + np.arange(length) for episode, length in enumerate(LENGTHS)])
    np.testing.assert_array_equal(data.observations[:, 0], expected)
    for name in ("actions", "rewards", "terminations", "truncations"):
        np.testing.assert_array_equal(getattr(data, name), arrays[name].astype(getattr(data, name).dtype))
    np.testing.assert_array_equal(data.episode_starts, [0, 4, 5, 12])
    np.testing.assert_array_equal(data.final_observations[:, 0], [4, 1001, 2007, 3002])
    np.testing.assert_allclose(data.episode_returns, np.add.reduceat(arrays["rewards"], [0, 4, 5, 12]), rtol=1e-6)


def test_minari_arrays_and_file_give_the_same_content() -> None:
    arrays = write_minari()
    with h5py.File("d4rl.hdf5", "w") as file:
        for theirs, ours in (("terminals", "terminations"), ("timeouts", "truncations")):
            file[theirs] = arrays[ours]
        for name in ("observations", "actions", "rewards", "next_observations"):
            file[name] = arrays[name]
    hashes = {
        load_offline_data(source).content_sha256
        for source in (
            "test/counting-v0",
            open_local_dataset("test/counting-v0"),
            arrays,
            "d4rl.hdf5",
            Path("d4rl.hdf5"),
        )
    }
    assert len(hashes) == 1
    changed = {**arrays, "rewards": arrays["rewards"] + 1e-3}
    assert load_offline_data(changed).content_sha256 not in hashes


def test_a_file_without_successors_leaves_final_observations_unknown() -> None:
    arrays = make_arrays(LENGTHS)
    del arrays["next_observations"]
    assert np.isnan(load_offline_data(arrays).final_observations).all()


def test_dict_observations_are_flattened_as_gymnasium_does() -> None:
    space = gym.spaces.Dict({"b": gym.spaces.Box(-9, 9, (2,)), "a": gym.spaces.Discrete(3)})
    space.seed(0)
    observations = [space.sample() for _ in range(4)]
    write_dataset(
        "test/dict-v0",
        [
            episode_buffer(
                {"a": np.array([o["a"] for o in observations]), "b": np.stack([o["b"] for o in observations])},
                np.zeros((3, 1)),
                np.zeros(3),
                np.array([False, False, True]),
                np.zeros(3, dtype=bool),
            )
        ],
        observation_space=space,
        action_space=gym.spaces.Box(-1, 1, (1,), np.float64),
        algorithm="none",
        description="a dict",
    )
    data = load_offline_data("test/dict-v0")
    np.testing.assert_allclose(
        np.concatenate([data.observations, data.final_observations]),
        np.stack([np.asarray(gym.spaces.flatten(space, o)) for o in observations]),
        rtol=1e-6,
    )
    assert data.flattened_from is not None
    assert "Dict" in data.flattened_from


def test_discrete_actions_are_probabilities() -> None:
    write_minari(discrete=True)
    data = load_offline_data("test/counting-v0")
    assert (data.is_discrete, data.first_action) == (True, 0)
    np.testing.assert_array_equal(data.actions, np.tile([1.0, 0.0, 0.0], (len(data), 1)))
    np.testing.assert_array_equal(data.scaled_actions(), 2.0 * data.actions - 1.0)
    numbers = np.array([5, 7, 6])
    given = {**make_arrays([3]), "actions": numbers, "action_count": 3, "first_action": 5}
    data = load_offline_data(given)
    np.testing.assert_array_equal(chosen(data.actions, 5), numbers)
    assert "discrete actions 3" in repr(data)
    shifted = load_offline_data({**given, "actions": numbers - 5, "first_action": 0})
    assert shifted.content_sha256 != data.content_sha256
    with pytest.raises(DataError, match="do not sum to 1"):
        replace(data, actions=np.full((3, 3), 0.5))


@pytest.mark.parametrize("space", [gym.spaces.MultiDiscrete([3, 2]), gym.spaces.MultiBinary(2)])
def test_several_discrete_actions_at_once_are_refused(space: gym.Space) -> None:
    write_dataset(
        "test/several-v0",
        [episode_buffer(np.zeros((3, 1)), np.zeros((2, 2), int), np.zeros(2), [False, True], [False, False])],
        observation_space=gym.spaces.Box(-1, 1, (1,), np.float64),
        action_space=space,
        algorithm="none",
        description="several actions at once",
    )
    with pytest.raises(DataError, match=f"{type(space).__name__}. are not supported"):
        load_offline_data("test/several-v0")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"actions": np.zeros((13, 2))}, "14 observations but 13 actions"),
        ({"rewards": np.zeros(15)}, "14 observations but 15 rewards"),
        ({"rewards": np.r_[np.zeros(5), np.nan, np.zeros(8)]}, "non-finite rewards at 1 of 14 steps, first at 5"),
        ({"observations": np.full((14, 3), np.inf)}, "non-finite observations at 14 of 14"),
        ({"observations": np.zeros((0, 3))}, "at least one step"),
        ({"observations": np.zeros(14)}, r"observations \(N, S\)"),
        ({"next_observations": np.zeros((14, 2))}, "next_observations of shape"),
        ({"rewards": 3.0}, "for rewards; expected arrays of numbers"),
        ({"env_id": 5}, "expected a Gymnasium id"),
        ({"action_low": -np.ones(2), "action_high": np.full(2, np.inf)}, "must be finite"),
        ({"action_low": np.ones(2), "action_high": np.zeros(2)}, "with each lower bound below the higher one"),
    ],
)
def test_unusable_arrays_are_named(change: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_offline_data({**make_arrays(LENGTHS), **change})


def test_missing_arrays_are_named() -> None:
    with pytest.raises(DataError, match="missing: rewards, truncations"):
        load_offline_data({k: v for k, v in make_arrays([3]).items() if k not in ("rewards", "truncations")})


def test_unknown_sources_name_what_exists() -> None:
    write_minari("lab/mine-v0")
    with pytest.raises(NotFoundError, match=r"did you mean 'obd-bench/hopper/medium-v0'.*lab/mine-v0"):
        load_offline_data("obd-bench/hoper/medium-v0")
    with pytest.raises(NotFoundError, match="did you mean 'lab/mine-v0'"):
        load_offline_data("lab/mime-v0", download=False)
    with pytest.raises(NotFoundError, match=r"no file 'none\.hdf5'"):
        load_offline_data("none.hdf5")
    with pytest.raises(DataError, match="from int"):
        load_offline_data(3)


def test_unreadable_files_are_named() -> None:
    Path("text.hdf5").write_text("no")
    with pytest.raises(FormatError, match="cannot be read as HDF5"):
        load_offline_data("text.hdf5")
    with h5py.File("poor.hdf5", "w") as file:
        file["observations"] = np.zeros((3, 2))
    with pytest.raises(FormatError, match="lacks actions, rewards, terminals"):
        load_offline_data("poor.hdf5")


def test_a_damaged_minari_dataset_is_named(tmp_path: Path) -> None:
    write_minari()
    (tmp_path / "minari/test/counting-v0/data/metadata.json").write_text("{")
    with pytest.raises(FormatError, match="is there but cannot be read"):
        load_offline_data("test/counting-v0")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("minari_version", None, "its metadata has no 'minari_version'"),
        ("dataset_id", None, "its metadata has no 'dataset_id'"),
        ("total_steps", None, "total_steps in its metadata is None"),
        ("total_steps", "x", "total_steps in its metadata is 'x'"),
        ("total_episodes", 2.5, "total_episodes in its metadata is 2.5"),
    ],
)
def test_metadata_that_lacks_something_is_named(tmp_path: Path, key: str, value: object, message: str) -> None:
    write_minari()
    path = tmp_path / "minari/test/counting-v0/data/metadata.json"
    metadata = json.loads(path.read_text())
    del metadata[key]
    path.write_text(json.dumps(metadata if value is None else {**metadata, key: value}))
    with pytest.raises(FormatError, match=rf"{message}\. Delete it, and get it anew\."):
        load_offline_data("test/counting-v0")


@pytest.mark.parametrize("name", ["a/b-v0", "my sets/y-v0", "lab/copy of good", "."])
def test_a_folder_that_minari_would_not_name_so_hides_no_other(tmp_path: Path, name: str) -> None:
    write_minari()
    root = tmp_path / "minari"
    shutil.copytree(root / "test/counting-v0/data", root / name / "data")
    assert "test/counting-v0" in local_dataset_ids()
    with pytest.raises(NotFoundError, match="did you mean 'test/counting-v0'"):
        load_offline_data("test/counting-v1", download=False)


def test_arrays_are_read_only(small_data: OfflineData) -> None:
    with pytest.raises(ValueError, match="read-only"):
        small_data.observations[0] = 0


def test_normaliser_is_a_z_score_that_inverts(small_data: OfflineData) -> None:
    states = small_data.normaliser.normalise(small_data.observations)
    np.testing.assert_allclose(states.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(states.std(axis=0), 1, atol=0.02)  # the constant 1e-3 shows in the small dimension
    np.testing.assert_allclose(small_data.normaliser.denormalise(states), small_data.observations, atol=1e-5)
    constant = Normaliser.fit(np.ones((5, 2)))
    assert np.isfinite(constant.normalise(np.ones((5, 2)))).all()
    with pytest.raises(DataError, match="positive scales"):
        Normaliser(np.zeros(2), np.zeros(2))


def test_actions_are_scaled_to_their_bounds() -> None:
    arrays = make_arrays([5])
    data = load_offline_data({**arrays, "action_low": np.array([-2.0, -1.0]), "action_high": np.array([2.0, 3.0])})
    np.testing.assert_allclose(data.scaled_actions()[:, 0], arrays["actions"][:, 0] / 2, rtol=1e-5)
    np.testing.assert_allclose(data.scaled_actions()[:, 1], (arrays["actions"][:, 1] - 1) / 2, rtol=1e-5)


def test_an_id_that_is_not_here_is_named_at_once_where_nothing_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    collect("lab/hopper-v0", "Pendulum-v1", "random", steps=20, progress=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("minari.download_dataset", lambda *_: pytest.fail("asked Minari, which tries on"))
    with pytest.raises(NotFoundError, match=r"127\.0\.0\.1 cannot be reached.*did you mean 'lab/hopper-v0'"):
        load_offline_data("lab/hoper-v0")


def test_a_server_that_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "_SECONDS", 0.2)
    monkeypatch.setattr("minari.download_dataset", lambda *_: pytest.fail("asked Minari, which waits for ever"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(NotFoundError, match=r"127\.0\.0\.1 cannot be reached: timed out"):
            load_offline_data("mujoco/hopper/medium-v0")


def test_without_a_home_a_folder_has_to_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MINARI_DATASETS_PATH")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with pytest.raises(SettingError, match="no home folder for Minari's datasets; set MINARI_DATASETS_PATH"):
        minari_folder()


def test_the_best_episodes_are_as_few_as_hold_their_share() -> None:
    lengths = [4, 1, 7, 2]
    data = load_offline_data(make_arrays(lengths) | {"rewards": np.repeat([1.0, 9.0, 0.0, 2.0], lengths)})
    np.testing.assert_array_equal(data.episode_returns, [4.0, 9.0, 0.0, 4.0])
    # One step of 14 is less than a fifth, and the two episodes of equal returns are kept or left out together.
    for share, kept in ((0.01, [1]), (0.07, [1]), (0.2, [0, 1, 3]), (0.5, [0, 1, 3]), (0.51, [0, 1, 2, 3])):
        found = data.best_episodes(share)
        rows = np.concatenate([data.episode_starts[i] + np.arange(lengths[i]) for i in kept])
        np.testing.assert_array_equal(found.observations, data.observations[rows])
        np.testing.assert_array_equal(found.actions, data.actions[rows])
        np.testing.assert_array_equal(found.episode_returns, data.episode_returns[kept])
        np.testing.assert_array_equal(found.final_observations, data.final_observations[kept])
        assert found.best_share == share
    assert data.best_episodes(1.0) is data
    assert data.best_episodes(0.5).best_episodes(0.5).best_share == 0.25
    for share in (0.0, -1.0, 1.5, float("nan")):
        with pytest.raises(SettingError, match="above 0 and at most 1"):
            data.best_episodes(share)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({"ref_min_score": 3.0, "ref_max_score": 1.0}, "ref_min_score 3.0 and ref_max_score 1.0; expected both"),
        ({"ref_min_score": 3.0}, "has ref_min_score 3.0; expected both"),
        ({"ref_min_score": "0", "ref_max_score": "1"}, "as two numbers"),
    ],
)
def test_reference_scores_that_are_none_are_not_passed_over(scores: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_offline_data({**make_arrays([9]), **scores})


def test_reference_scores_of_numpy_are_numbers() -> None:
    scores = {"ref_min_score": np.float32(1), "ref_max_score": np.int64(3)}
    reference = load_offline_data({**make_arrays([9]), **scores}).reference
    assert reference is not None
    assert (reference.random, reference.expert) == (1.0, 3.0)
    assert type(reference.random) is type(reference.expert) is float


@pytest.mark.parametrize(
    ("actions", "count", "message"),
    [
        (np.zeros(9), 2, r"expected one whole number a step\. Give them as integers, as actions\.astype\(int\) does"),
        (np.zeros((9, 2), int), 2, r"MultiDiscrete\) are not supported; .* as actions\.argmax\(axis=1\) does"),
        (np.zeros(9, int), 10**9, "has 1,000,000,000 discrete actions, .* at most 10,000 are supported"),
    ],
)
def test_discrete_actions_of_another_form_are_told_what_to_do(actions: np.ndarray, count: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_offline_data({**make_arrays([9]), "actions": actions, "action_count": count})
