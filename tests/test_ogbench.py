"""OGBench: its three forms of the same trajectories, masks, and Minari datasets that can be distilled."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from minari_obd.cli.application import main
from minari_obd.distillation.distillation import distill
from minari_obd.errors import DataError, FormatError, MinariObdError, NotFoundError
from minari_obd.settings.protocols import StudentProtocol
from minari_obd.settings.recipe import Recipe
from minari_obd.settings.sections import DistillationRecipe
from minari_obd.sources import ogbench
from minari_obd.sources.data import OfflineData
from minari_obd.sources.loading import load_offline_data
from minari_obd.sources.ogbench import from_ogbench, import_ogbench, read_ogbench
from minari_obd.storage.minari_datasets import open_local_dataset

LENGTHS = (4, 3, 5)  # transitions, so trajectories of 5, 4 and 6 states


def published(**more: np.ndarray) -> dict[str, Any]:
    """What OGBench publishes: states s0 ... sT a trajectory, ``terminals`` at the last. A state names itself."""
    states = np.concatenate([100 * i + np.arange(length + 1) for i, length in enumerate(LENGTHS)])
    actions = np.random.default_rng(0).uniform(-1, 1, (len(states), 2)).astype(np.float32)
    observations = np.stack([states, np.sin(states)], axis=1).astype(np.float32)
    terminals = np.zeros(len(states), np.float32)
    terminals[np.cumsum([length + 1 for length in LENGTHS]) - 1] = 1
    return {"observations": observations, "actions": actions, "terminals": terminals, **more}


def regular(dataset: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """As ``ogbench.load_dataset`` makes it of what is published, line by line."""
    ob_mask = (1.0 - dataset["terminals"]).astype(bool)
    next_ob_mask = np.concatenate([[False], ob_mask[:-1]])
    new_terminals = np.concatenate([dataset["terminals"][1:], [1.0]])
    return {
        **{name: value[ob_mask] for name, value in dataset.items()},
        "next_observations": dataset["observations"][next_ob_mask],
        "terminals": new_terminals[ob_mask].astype(np.float32),
    }


def compact(dataset: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same with ``compact_dataset=True``."""
    new_terminals = np.concatenate([dataset["terminals"][1:], [1.0]])
    both = np.minimum(dataset["terminals"] + new_terminals, 1.0).astype(np.float32)
    return {**dataset, "valids": 1.0 - dataset["terminals"], "terminals": both}


def same(one: OfflineData, other: OfflineData) -> bool:
    return one.content_sha256 == other.content_sha256


@pytest.mark.parametrize("form", [published, lambda: regular(published()), lambda: compact(published())])
def test_every_form_gives_the_same_transitions(form) -> None:
    np.savez("set-v0.npz", **form())
    data = read_ogbench("set-v0.npz")
    assert same(data, load_offline_data("set-v0.npz"))
    assert same(data, load_offline_data(Path("set-v0.npz")))
    assert data.observations[:, 0].tolist() == [0, 1, 2, 3, 100, 101, 102, 200, 201, 202, 203, 204]
    assert data.final_observations[:, 0].tolist() == [4, 103, 205]
    assert data.episode_starts.tolist() == [0, 4, 7]
    kept = published()["actions"][[0, 1, 2, 3, 5, 6, 7, 9, 10, 11, 12, 13]]
    np.testing.assert_array_equal(data.actions, kept)  # those of last states have no successor
    assert not data.terminations.any()
    assert not data.rewards.any()
    assert (data.action_low.tolist(), data.action_high.tolist()) == ([-1, -1], [1, 1])


def test_a_mask_ends_an_episode_where_the_trajectory_goes_on() -> None:
    masks = np.ones(15, np.float32)
    masks[[1, 7]] = 0  # inside the first trajectory; at the last transition of the second
    more = {"masks": masks, "rewards": masks - 1}
    forms = [published(**more), regular(published(**more)), compact(published(**more))]
    one, *others = [from_ogbench({**form, "dataset_id": "x"}) for form in forms]
    assert np.flatnonzero(one.terminations).tolist() == [1, 6]
    assert np.flatnonzero(one.truncations).tolist() == [3, 11]
    assert one.final_observations[:, 0].tolist() == [2, 4, 103, 205]
    assert one.rewards.sum() == -2
    assert all(same(one, other) for other in others)


def test_an_import_is_a_minari_dataset_that_is_distilled(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ogbench, "_FOLDER", Path("kept"))
    Path("kept").mkdir()
    masks = np.ones(15, np.float32)
    np.savez("kept/maze-navigate-v0.npz", **published(masks=masks, rewards=masks), qpos=np.zeros((15, 3)))
    np.savez("goals-v0-val.npz", **published())
    main(["import", "ogbench", "maze-navigate-v0", "--license", "mit"])
    main(["import", "ogbench", "goals-v0-val.npz"])
    told = capsys.readouterr().out
    assert "Made ogbench/maze-navigate-v0: 12 steps in 3 episodes\nNext: minari-obd distill ogbench/maze" in told
    assert "Made ogbench/goals-val-v0" in told
    assert "It has no rewards" in told
    stored = open_local_dataset("ogbench/maze-navigate-v0")
    assert isinstance(stored.action_space, gym.spaces.Box)
    assert [len(episode.observations) for episode in stored] == [5, 4, 6]
    data = load_offline_data("ogbench/maze-navigate-v0")
    assert same(data, read_ogbench("maze-navigate-v0"))
    assert data.license == "mit"
    student = StudentProtocol(depth=1, width=8, steps=5, optimiser="adam", learning_rate=0.01)
    settings = DistillationRecipe(steps=2, batch_size=4, evaluate_every=1, initial="random")
    recipe = Recipe("ogbench/maze-navigate-v0", "dbc", 4, student=student, distillation=settings)
    assert distill(recipe=recipe, progress=False).provenance.source == "ogbench/maze-navigate-v0"
    assert import_ogbench("goals-v0-val.npz", "lab/other-v3", env="Pendulum-v1") == "lab/other-v3"
    assert load_offline_data("lab/other-v3").env_id == "Pendulum-v1"
    with pytest.raises(DataError, match="already exists"):
        import_ogbench("goals-v0-val.npz")


BAD = {
    "images": (lambda a: {**a, "observations": np.zeros((15, 8, 8, 3), np.uint8)}, "which are images"),
    "discrete": (lambda a: {**a, "actions": np.zeros((15, 2), np.int32)}, "int32 actions"),
    "lacking": (lambda a: {"observations": a["observations"]}, "it lacks actions, terminals"),
    "ragged": (lambda a: {**a, "masks": np.ones(3)}, r"masks of shape \(3,\); expected 15 rows"),
    "empty": (lambda a: {name: value[:0] for name, value in a.items()}, "expected 0 rows, and at least one"),
    "ends": (lambda a: {**a, "terminals": np.ones(15)}, "no transition: every row ends"),
    "single": (lambda _: {name: np.array(1.0) for name in published()}, "at least one"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_such_dataset_is_named(name: str) -> None:
    change, message = BAD[name]
    np.savez("x-v0.npz", **change(published()))
    with pytest.raises(DataError, match=message):
        read_ogbench("x-v0.npz")


def test_files_that_are_no_arrays_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ogbench, "_FOLDER", Path("kept"))
    with pytest.raises(NotFoundError, match=r"There is no file 'no-v0', nor 'no-v0.npz' in kept.*download_datasets"):
        read_ogbench("no-v0")
    Path("cut.npz").write_bytes(b"PK\x03\x04 and no more")
    np.savez("pickled.npz", **{**published(), "observations": np.array([object()] * 15)}, allow_pickle=True)
    np.save("single.npy", np.zeros(3))
    Path("single.npy").rename("single.npz")
    for file in ("cut.npz", "pickled.npz", "single.npz"):
        with pytest.raises(FormatError, match="cannot be read as an npz file"):
            read_ogbench(file)
    np.savez("x-v0.npz", **published())
    for given in ({"dataset_id": "bad"}, {"env": "Nowhere-v0"}, {"license": "no such"}):
        with pytest.raises(MinariObdError):
            import_ogbench("x-v0.npz", **given)
