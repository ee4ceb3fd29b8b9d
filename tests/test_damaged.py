"""Damaged files of our own: set aside with a word, and the work begins anew and ends as it would have."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_arrays

import minari_obd
from minari_obd.distiller import loop
from minari_obd.dynamics import fitting
from minari_obd.dynamics.fitting import DynamicsRun, DynamicsSettings
from minari_obd.settings.recipe import parse_recipe
from minari_obd.sources.data import OfflineData
from minari_obd.storage.cache import read_kept
from minari_obd.storage.tensors import read_tensors, reading, write_tensors
from minari_obd.support.devices import cache_root
from minari_obd.teachers import run as training

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda whole: whole[: len(whole) // 2],
    "empty": lambda _: b"",
    "garbage": lambda whole: bytes(np.random.default_rng(0).integers(0, 256, len(whole), dtype=np.uint8)),
}


def distilled(data: OfflineData) -> bytes:
    recipe = minari_obd.Recipe("arrays", "dbc", 8)
    recipe = parse_recipe({**recipe.to_json(), "distillation": {"kernel_steps": 5, "steps": 4}}, "test")
    pairs = minari_obd.distill(data, recipe=recipe, progress=False)
    return pairs.observations.tobytes()


def taught(data: OfflineData) -> bytes:
    return minari_obd.train_teacher(data, "td3_bc", steps=4, progress=False).sha256.encode()


def fitted(data: OfflineData) -> bytes:
    settings = DynamicsSettings(members=2, width=8, updates=4, evaluate_every=2)
    ensemble = DynamicsRun(data, 0, torch.device("cpu"), settings).fit(progress=False)
    return b"".join(p.numpy().tobytes() for p in ensemble.parameters)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    ("work", "module", "writer"),
    [
        (distilled, loop, "write_checkpoint"),
        (taught, training, "write_training"),
        (fitted, fitting, "write_tensors"),
    ],
)
def test_a_damaged_checkpoint_is_set_aside(
    damage: str, work: Callable, module: Any, writer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = minari_obd.load_offline_data(make_arrays([60, 60]))
    whole = work(data)
    for path in [*cache_root().glob("teachers/*/teacher.safetensors"), *cache_root().glob("dynamics/*")]:
        path.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(module, "_CHECKPOINT_SECONDS", -1.0)
        original = getattr(module, writer)
        patch.setattr(module, writer, lambda *given: (original(*given), [][0]))  # as good as a kill, once it is written
        with pytest.raises(IndexError):
            work(data)
    (checkpoint,) = (cache_root() / "checkpoints").glob("*.safetensors")
    checkpoint.write_bytes(DAMAGES[damage](checkpoint.read_bytes()))
    with pytest.warns(UserWarning, match=f"is damaged.*set aside as '{checkpoint.name}.damaged'"):
        assert work(data) == whole
    assert [path.name for path in (cache_root() / "checkpoints").iterdir()] == [f"{checkpoint.name}.damaged"]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(("work", "kept"), [(taught, "teachers/*/teacher.safetensors"), (fitted, "dynamics/*")])
def test_a_damaged_result_in_the_cache_is_made_again(damage: str, work: Callable, kept: str) -> None:
    data = minari_obd.load_offline_data(make_arrays([60, 60]))
    whole = work(data)
    (path,) = cache_root().glob(kept)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.warns(UserWarning, match="set aside as"):
        assert work(data) == whole
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert work(data) == whole


def test_a_file_that_is_whole_is_read_and_one_that_is_not_there_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a"

    def read(path: Path) -> dict:
        with reading("It is damaged"):
            return read_tensors(path, "key")[0]

    assert read_kept(path, read) is None
    write_tensors(path, {"a": torch.zeros(1)}, {"x": 1}, "key")
    assert read_kept(path, read) == {"x": 1}
