"""Damage of every kind: whatever a downloaded folder holds, only this package's own errors come out of reading it."""

import hashlib
import io
import json
import shutil
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import make_discrete, make_full
from fuzzing import ANYTHING, changed, damage, often, seldom
from hypothesis import given
from hypothesis import strategies as st

import minari_obd
from minari_obd.cli.listing import print_card
from minari_obd.distilled.folder import METADATA_FILE, PARQUET_FILE, load_folder
from minari_obd.errors import MinariObdError
from minari_obd.inspection.verification import verify
from minari_obd.settings.recipe import parse_recipe, recipe_toml

FILES = (METADATA_FILE, "evaluation.json", PARQUET_FILE, "README.md", "pairs-v0/data/metadata.json")


@pytest.fixture(scope="module")
def pristine() -> Path:
    return make_full().save(Path(tempfile.mkdtemp()) / "pairs")


@pytest.fixture(scope="module")
def discrete() -> Path:
    return make_discrete().save(Path(tempfile.mkdtemp()) / "pairs")


@contextmanager
def copy_of(folder: Path):
    with tempfile.TemporaryDirectory() as scratch:
        yield Path(shutil.copytree(folder, Path(scratch) / "pairs"))


def read(folder: Path, *, whole: bool = False) -> None:
    """Do everything that a user does first with a set that was downloaded."""
    with suppress(MinariObdError):
        pairs = load_folder(folder)
        assert np.isfinite(pairs.observations).all()
        repr(pairs)
        print_card(pairs)
        recipe_toml(parse_recipe(pairs.provenance.recipe, "it"))
    if whole:
        verify(folder).table()


@often
@given(st.data())
@pytest.mark.parametrize("name", [METADATA_FILE, "evaluation.json", "pairs-v0/data/metadata.json"])
def test_any_value_anywhere_in_the_json(name: str, pristine: Path, data: st.DataObject) -> None:
    with copy_of(pristine) as folder:
        values = changed(data, json.loads((folder / name).read_text()))
        (folder / name).write_text(json.dumps(values))
        read(folder, whole=name.startswith("pairs"))


@seldom
@given(ANYTHING, st.sampled_from(["first_action", "action_low", "student", "format"]))
def test_any_value_where_it_matters_to_discrete_actions(discrete: Path, value: Any, name: str) -> None:
    with copy_of(discrete) as folder:
        path = folder / METADATA_FILE
        path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
        read(folder)


@seldom
@given(st.data())
@pytest.mark.parametrize("name", FILES)
def test_any_bytes_in_any_file(name: str, pristine: Path, data: st.DataObject) -> None:
    with copy_of(pristine) as folder:
        content = damage(data, (folder / name).read_bytes())
        (folder / name).write_bytes(content)
        read(folder, whole=name in ("README.md", "pairs-v0/data/metadata.json"))


@often
@given(st.data())
def test_any_bytes_in_a_parquet_file_whose_hash_is_right(pristine: Path, data: st.DataObject) -> None:
    with copy_of(pristine) as folder:
        content = damage(data, (folder / PARQUET_FILE).read_bytes())
        vouch_for(folder, content)
        read(folder)


def vouch_for(folder: Path, content: bytes) -> None:
    """Put a parquet file in and its hash with it, as somebody would who wants to be believed."""
    (folder / PARQUET_FILE).write_bytes(content)
    path = folder / METADATA_FILE
    values = {**json.loads(path.read_text()), "parquet_sha256": hashlib.sha256(content).hexdigest()}
    path.write_text(json.dumps(values))


COLUMNS = st.one_of(
    st.just(pa.array([[0.5] * 3] * 8, pa.list_(pa.float32(), 3))),
    st.just(pa.array([[0.5] * 2] * 8, pa.list_(pa.float32(), 2))),
    st.just(pa.array([[float("nan")] * 3] * 8, pa.list_(pa.float32(), 3))),
    st.just(pa.array([None, *[[0.5] * 3] * 7], pa.list_(pa.float32(), 3))),
    st.just(pa.array([[None, 0.5, 0.5]] * 8, pa.list_(pa.float32(), 3))),
    st.just(pa.array([[0.5] * 3] * 8, pa.list_(pa.float32()))),
    st.just(pa.array([[0.5] * 3] * 8, pa.list_(pa.float64(), 3))),
    st.just(pa.array(["text"] * 8)),
    st.just(pa.array([b"\x80\x04."] * 8)),
    st.just(pa.array([None] * 8)),
    st.just(pa.array([1.0] * 8, pa.float32())),
    st.just(pa.array([True] * 8)),
)
NAMES = ["observation", "action", "reward", "next_observation", "termination", "more"]


@seldom
@given(st.dictionaries(st.sampled_from(NAMES), COLUMNS, min_size=1))
def test_any_table(pristine: Path, columns: dict[str, pa.Array]) -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    with copy_of(pristine) as folder:
        vouch_for(folder, buffer.getvalue())
        read(folder)


@pytest.mark.parametrize(
    "ref", ["../../etc", "a/../b", "lab/..", "~/x", "", "a//b", "lab/x\x00y", "lab/" + "x" * 500, "x" * 300]
)
def test_any_reference(ref: str, hub) -> None:
    with pytest.raises(MinariObdError):
        minari_obd.load_dataset(ref)
    with pytest.raises(MinariObdError):
        verify(ref)
