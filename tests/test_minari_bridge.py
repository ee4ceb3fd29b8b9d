"""Pairs as a Minari dataset: the same bits both ways, and an honest one for readers without this package."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

import gymnasium as gym
import h5py
import minari
import numpy as np
import pytest
from conftest import make_discrete, make_full, make_pairs

import minari_obd
from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.distilled.minari import from_minari, minari_name, to_minari
from minari_obd.errors import DataError, FormatError
from minari_obd.sources.loading import load_offline_data
from minari_obd.sources.transitions import transitions


@pytest.mark.parametrize("data_format", ["hdf5", "arrow", "parquet"])
@pytest.mark.parametrize("make", [make_pairs, make_full, make_discrete])
def test_pairs_come_back_to_the_bit(make: Callable[[], DistilledDataset], data_format: str) -> None:
    pairs = make()
    pairs.to_minari("obd-test/pairs-v0", data_format=data_format)
    stored = minari.load_dataset("obd-test/pairs-v0")
    for loaded in (minari_obd.load_dataset("obd-test/pairs-v0"), DistilledDataset.from_minari(stored)):
        assert loaded.observations.tobytes() == pairs.observations.tobytes()
        assert loaded.actions.tobytes() == pairs.actions.tobytes()
        assert loaded.normaliser.mean.tobytes() == pairs.normaliser.mean.tobytes()
        assert loaded.provenance == pairs.provenance
        assert loaded.protocol == pairs.protocol
        assert loaded.first_action == pairs.first_action
        assert loaded.reference == pairs.reference
        assert loaded.content_sha256 == pairs.content_sha256
        assert (loaded.evaluation is None, loaded.license) == (pairs.evaluation is None, pairs.license)
        if loaded.evaluation is not None and pairs.evaluation is not None:
            assert loaded.evaluation.to_json() == pairs.evaluation.to_json()
        assert (loaded.transitions is None) == (pairs.transitions is None)
        # folder -> Minari -> folder: every file is the same, byte for byte
        pairs.save("one/pairs")
        loaded.save("two/pairs")
        for path in (path.relative_to("one") for path in Path("one").rglob("*") if path.is_file()):
            assert ("one" / path).read_bytes() == ("two" / path).read_bytes(), path


def test_discrete_actions_are_the_likeliest_ones_with_all_probabilities_beside() -> None:
    pairs = make_discrete()
    stored = pairs.to_minari("obd-test/pairs-v0")
    assert stored.action_space == gym.spaces.Discrete(3, start=5)
    for episode, row in zip(stored, pairs.actions, strict=True):
        assert episode.actions.tolist() == [5 + row.argmax()]
        np.testing.assert_array_equal(episode.infos["probabilities"], [row, row])
    ordinary = load_offline_data("obd-test/pairs-v0")
    np.testing.assert_array_equal(ordinary.actions.argmax(1), pairs.actions.argmax(1))
    path = stored.storage.data_path / "main_data.hdf5"
    with h5py.File(path, "a") as file:
        cast(h5py.Dataset, file["episode_0/actions"])[0] = 5 + (pairs.actions[0].argmax() + 1) % 3
    with pytest.raises(FormatError, match="some actions are not the likeliest ones"):
        from_minari("obd-test/pairs-v0")
    with h5py.File(path, "a") as file:
        del file["episode_1/infos/probabilities"]
    with pytest.raises(FormatError, match="infos/probabilities of episode 1 are not in this file"):
        from_minari("obd-test/pairs-v0")


def test_each_pair_is_a_terminated_episode_of_one_step() -> None:
    dataset = make_pairs().to_minari("obd-test/pairs-v0")
    assert dataset.total_episodes == dataset.total_steps == 8
    for episode in dataset:
        np.testing.assert_array_equal(episode.observations[0], episode.observations[1])
        assert episode.terminations.tolist() == [True]
        assert episode.truncations.tolist() == [False]
        assert episode.rewards.tolist() == [0.0]
    assert dataset.storage.metadata["ref_max_score"] == 100.0
    assert dataset.recover_environment(eval_env=True).spec.id == "Hopper-v5"  # pyright: ignore
    # A learner of transitions keeps every pair and bootstraps through none.
    table = transitions(load_offline_data("obd-test/pairs-v0"), gamma=0.99)
    assert len(table["terminals"]) == 8
    assert (table["terminals"] == 1).all()


def test_the_published_folder_is_a_minari_dataset_for_somebody_without_this_package(tmp_path: Path) -> None:
    """Laid out as Minari's Hub client would, the rendering loads in a process that never imports this package."""
    folder = make_pairs().save("obd-hopper-sdw-8")
    root = tmp_path / "elsewhere"
    shutil.copytree(folder, root / "obd-hopper-sdw-8")
    shutil.rmtree(root / "obd-hopper-sdw-8" / "data")
    code = """
import minari, sys
dataset = minari.load_dataset("obd-hopper-sdw-8/pairs-v0")
assert dataset.storage.metadata["obd"]["provenance"]["method"] == "sdw"
assert list(minari.list_local_datasets()) == ["obd-hopper-sdw-8/pairs-v0"]
assert "minari_obd" not in sys.modules
"""
    environment = {**os.environ, "MINARI_DATASETS_PATH": str(root)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr


def test_existing_and_malformed_ids_are_refused(tmp_path: Path) -> None:
    pairs = make_pairs()
    pairs.to_minari("obd-test/pairs-v0")
    with pytest.raises(DataError, match="exists already"):
        pairs.to_minari("obd-test/pairs-v0")
    with pytest.raises(DataError, match="no storage format 'hdf6'; did you mean 'hdf5'"):
        pairs.to_minari("obd-test/other-v0", data_format="hdf6")
    for bad in ("pairs", "a/pairs-v0", "obd test/pairs-v0", "../up-v0", "/abs-v0"):
        with pytest.raises(DataError, match="is not a Minari dataset id"):
            pairs.to_minari(bad)
    assert list(minari.list_local_datasets()) == ["obd-test/pairs-v0"]


def test_other_minari_datasets_are_no_pairs() -> None:
    minari_obd.collect("lab/x-v0", "Hopper-v5", "random", steps=5, progress=False)
    with pytest.raises(FormatError, match="holds no distilled pairs"):
        minari_obd.load_dataset("lab/x-v0")


def test_damaged_metadata_is_named() -> None:
    dataset = make_pairs().to_minari("obd-test/pairs-v0")
    dataset.storage.update_metadata({"obd": {"provenance": {"method": "sdw"}}})
    with pytest.raises(FormatError, match="is damaged at observation_mean"):
        minari_obd.load_dataset("obd-test/pairs-v0")


def test_an_environment_that_is_not_registered_is_left_out() -> None:
    pairs = make_pairs(env_id="evil.module:Env-v0")
    dataset = to_minari(pairs, "obd-test/pairs-v0")
    assert dataset.spec.env_spec is None
    assert from_minari(dataset).env_id == "evil.module:Env-v0"


def test_a_hostile_environment_in_minaris_metadata_is_never_made() -> None:
    """What somebody puts into the specification of an environment is neither imported nor called."""
    Path("evil.py").write_text("open('owned', 'w')\ndef make(**_): open('owned', 'w')\n")
    dataset = make_pairs(shape=(11, 3)).to_minari("obd-test/pairs-v0")
    path = Path(str(dataset.storage.data_path)) / "metadata.json"
    values = json.loads(path.read_text())
    spec = json.loads(values["eval_env_spec"])
    spec |= {"entry_point": "evil:make", "kwargs": {"xml_file": "/etc/passwd"}}
    path.write_text(json.dumps({**values, "eval_env_spec": json.dumps(spec), "env_spec": json.dumps(spec)}))
    loaded = minari_obd.load_dataset("obd-test/pairs-v0")
    report = minari_obd.evaluate(loaded, students=1, episodes=1)
    assert report.env_id == "Hopper-v5"
    assert not Path("owned").exists()


def hostile(path: Path) -> None:
    """Metadata without a space, at which Minari would make the environment that is described beside it."""
    values = json.loads(path.read_text())
    del values["observation_space"]
    spec = json.loads(values["eval_env_spec"]) | {"entry_point": "os:mkdir", "kwargs": {"path": "owned"}}
    path.write_text(json.dumps({**values, "env_spec": json.dumps(spec)}))


def test_metadata_that_would_run_code_is_refused_before_minari_sees_it() -> None:
    dataset = make_pairs(shape=(11, 3)).to_minari("obd-test/pairs-v0")
    hostile(Path(str(dataset.storage.data_path)) / "metadata.json")
    folder = make_pairs(shape=(11, 3)).save("pairs")
    hostile(folder / "pairs-v0" / "data" / "metadata.json")
    with pytest.raises(FormatError, match="its metadata has no observation_space"):
        minari_obd.load_dataset("obd-test/pairs-v0")
    with pytest.raises(FormatError, match="its metadata has no observation_space"):
        load_offline_data("obd-test/pairs-v0")
    for ref in ("pairs", "obd-test/pairs-v0"):
        result = minari_obd.verify(ref)
        assert not result.passed
        assert any("has no observation_space" in check.detail for check in result.checks)
    assert not Path("owned").exists()


@pytest.mark.parametrize("trick", ["huge", "external", "soft", "linked"])
def test_hdf5_that_leads_elsewhere_or_to_gigabytes_is_refused(trick: str) -> None:
    import h5py

    pairs = make_pairs()
    dataset = pairs.to_minari("obd-test/pairs-v0")
    Path("secret").write_bytes(bytes(24))
    with h5py.File(Path(str(dataset.storage.data_path)) / "main_data.hdf5", "a") as file:
        group = file["episode_3"]
        assert isinstance(group, h5py.Group)
        del group["observations"]
        if trick == "huge":
            group.create_dataset("observations", (2, 900_000_000), np.float32, chunks=True, compression="gzip")
        elif trick == "external":
            group.create_dataset("observations", (2, 3), np.float32, external=[("secret", 0, 24)])
        elif trick == "soft":
            group["observations"] = h5py.SoftLink("/episode_2/observations")
        else:
            group["observations"] = h5py.ExternalLink("other.hdf5", "/x")
    with pytest.raises(FormatError, match=r"observations of episode 3 (are not in this file|have shape)"):
        minari_obd.load_dataset("obd-test/pairs-v0")


def test_names_become_namespaces() -> None:
    assert minari_name("obd hopper.sdw") == "obd-hopper-sdw"
    assert minari_name("x") == "obd-x"
    assert minari_name("...") == "obd-pairs"
