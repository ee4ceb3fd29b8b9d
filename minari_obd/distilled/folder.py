"""The folder format: what a distilled dataset is on disk, and on the Hub."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from minari_obd.distilled.card import dataset_card
from minari_obd.distilled.contents import Contents, Transitions
from minari_obd.distilled.coverage import draw_coverage
from minari_obd.distilled.croissant import croissant
from minari_obd.distilled.metadata import Metadata, parse_evaluation, parse_metadata
from minari_obd.distilled.minari import write_rendering
from minari_obd.errors import FormatError, NotFoundError
from minari_obd.settings.parsing import read_json
from minari_obd.storage.files import check_not_pointer, check_replaceable, holds_instead, replacing

__all__ = [
    "CARD_FILE",
    "CROISSANT_FILE",
    "EVALUATION_FILE",
    "METADATA_FILE",
    "PARQUET_FILE",
    "PICTURE_FILE",
    "READ_FILES",
    "WRITTEN_FILES",
    "check_target",
    "load_folder",
    "save_folder",
]

METADATA_FILE = "obd.json"


EVALUATION_FILE = "evaluation.json"


CARD_FILE = "README.md"


PICTURE_FILE = "coverage.png"


CROISSANT_FILE = "croissant.json"


PARQUET_FILE = "data/train-00000-of-00001.parquet"


READ_FILES = (METADATA_FILE, PARQUET_FILE, EVALUATION_FILE)
"""What :func:`load_folder` reads; the rest is for people and for readers without this package."""


WRITTEN_FILES = (
    *READ_FILES,
    CARD_FILE,
    CROISSANT_FILE,
    PICTURE_FILE,
    "namespace_metadata.json",
    "pairs-v0/data/main_data.hdf5",
    "pairs-v0/data/metadata.json",
)
"""Every file that a folder of ours may hold."""


_MOST_PARQUET_BYTES = 1 * 2**30


def save_folder(
    dataset: Contents, folder: Path, *, minari: bool = True, picture: bool = True, repo_id: str | None = None
) -> Path:
    """Write the folder, whole or not at all.

    Args:
        dataset: the pairs.
        folder: where; an older distilled dataset there is replaced.
        minari: also write the pairs as a Minari dataset, for readers without this package.
        picture: also draw what the pairs cover, for the card.
        repo_id: the repository ``organisation/name`` that the card and the Minari rendering (``name/pairs-v0``) are
            for; ``ORG`` and the folder's own name if not given.

    Raises:
        SettingError: the folder holds something else, or cannot be written.
    """
    folder = check_target(folder)
    with replacing(folder) as building:
        building.mkdir()
        _write(dataset, building, repo_id or f"ORG/{folder.name}", minari=minari, picture=picture)
    return folder


def check_target(folder: Path) -> Path:
    """Make sure, before any long work, that a distilled dataset may be written to ``folder``.

    Raises:
        SettingError: it is a file, holds something else, or cannot be written.
    """
    names = {".DS_Store", *(name.split("/")[0] for name in WRITTEN_FILES)}
    return check_replaceable(folder, "a distilled dataset", METADATA_FILE, names)


def _write(dataset: Contents, folder: Path, repo_id: str, *, minari: bool, picture: bool) -> None:
    parquet = _parquet(dataset)
    (folder / "data").mkdir()
    (folder / PARQUET_FILE).write_bytes(parquet)
    sha256 = hashlib.sha256(parquet).hexdigest()
    metadata = Metadata.of(dataset, parquet_sha256=sha256)
    _write_json(folder / METADATA_FILE, metadata.to_json())
    if dataset.evaluation is not None:
        _write_json(folder / EVALUATION_FILE, dataset.evaluation.to_json())
    described = croissant(dataset, repo_id, PARQUET_FILE, size=len(parquet), sha256=sha256)
    _write_json(folder / CROISSANT_FILE, described)
    if picture:
        (folder / PICTURE_FILE).write_bytes(draw_coverage(dataset))
    card = dataset_card(dataset, repo_id, picture=PICTURE_FILE if picture else None)
    (folder / CARD_FILE).write_text(card, encoding="utf-8")
    if minari:
        write_rendering(dataset, folder, repo_id.split("/")[1])


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _parquet(dataset: Contents) -> bytes:
    """One row a pair, vectors as fixed-size lists: ``datasets`` reads them as List(Value("float32"), length)."""
    columns: dict[str, pa.Array] = {"observation": _vectors(dataset.observations), "action": _vectors(dataset.actions)}
    if dataset.transitions is not None:
        columns["reward"] = pa.array(dataset.transitions.rewards, pa.float32())
        columns["next_observation"] = _vectors(dataset.transitions.next_observations)
        columns["termination"] = pa.array(dataset.transitions.terminations, pa.bool_())
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def _vectors(values: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1), pa.float32()), values.shape[1])


def load_folder(folder: Path, *, origin: str | None = None) -> Contents:
    """Read and check a folder; every byte of the pairs must match the hash in ``obd.json``.

    Args:
        folder: the folder.
        origin: what it is called in errors and in the dataset's ``origin``; its path if not given.

    Raises:
        NotFoundError: no such folder.
        FormatError: not a distilled dataset, damaged, or of a newer format.
    """
    origin = origin or str(folder)
    if not folder.is_dir():
        raise NotFoundError(f"There is no folder '{folder}'.")
    if not (folder / METADATA_FILE).is_file():
        raise FormatError(f"'{origin}' is not a distilled dataset: it has no {METADATA_FILE}.{holds_instead(folder)}")
    metadata = parse_metadata(read_json(folder / METADATA_FILE), f"{origin}/{METADATA_FILE}")
    parquet = folder / PARQUET_FILE
    if not parquet.is_file():
        raise FormatError(f"'{origin}' lacks {PARQUET_FILE}; the copy is incomplete, fetch it again.")
    if parquet.stat().st_size > _MOST_PARQUET_BYTES:
        raise FormatError(f"{PARQUET_FILE} in '{origin}' is larger than 1 GiB, too large for a distilled dataset.")
    check_not_pointer(parquet)
    content = parquet.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != metadata.parquet_sha256:
        raise FormatError(
            f"{PARQUET_FILE} in '{origin}' does not match its hash in {METADATA_FILE} (expected "
            f"{str(metadata.parquet_sha256)[:12]}..., the file has {found[:12]}...); the copy is damaged or was "
            "changed, fetch it again."
        )
    columns = _read_columns(content, origin, metadata)
    evaluation = folder / EVALUATION_FILE
    return metadata.contents(
        columns["observation"],
        columns["action"],
        Transitions(columns["reward"], columns["next_observation"], columns["termination"])
        if metadata.transitions
        else None,
        parse_evaluation(read_json(evaluation), f"{origin}/{EVALUATION_FILE}") if evaluation.is_file() else None,
        origin=origin,
    )


def _read_columns(content: bytes, origin: str, metadata: Metadata) -> dict[str, np.ndarray]:
    """Read the columns that the metadata promises; types and sizes are checked before a value is."""
    states = pa.list_(pa.float32(), len(metadata.observation_mean))
    wanted = {"observation": states, "action": pa.list_(pa.float32(), len(metadata.action_low))}
    if metadata.transitions:
        wanted |= {"reward": pa.float32(), "next_observation": states, "termination": pa.bool_()}
    where = f"{PARQUET_FILE} in '{origin}'"
    try:
        # ParquetFile, not read_table: that starts a thread pool, at whose end a very short script may be aborted.
        file = pq.ParquetFile(io.BytesIO(content), pre_buffer=False)
        schema, count = file.schema_arrow, file.metadata.num_rows
        for name, expected in wanted.items():
            if schema.names.count(name) != 1 or schema.field(name).type != expected:
                raise FormatError(f"{where} has no column '{name}' of type {expected}.")
        if count != metadata.size:
            raise FormatError(f"{where} has {count} rows; {METADATA_FILE} says {metadata.size}.")
        # A few bytes may stand for gigabytes once they are unpacked, so it is counted what that will give.
        if 4 * count * (2 * states.list_size + wanted["action"].list_size + 2) > _MOST_PARQUET_BYTES:
            raise FormatError(f"{where} unpacks to more than 1 GiB, too large for a distilled dataset.")
        sizes = {name: getattr(kind, "list_size", 1) for name, kind in wanted.items()}
        for group in (file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)):
            for column in (group.column(i) for i in range(group.num_columns)):
                name = column.path_in_schema.split(".")[0]
                if name in sizes and column.num_values != group.num_rows * sizes[name]:
                    raise FormatError(f"{where} has {column.num_values} numbers for {group.num_rows} rows of '{name}'.")
        table = file.read(columns=list(wanted), use_threads=False)
        table.validate(full=True)
        return {name: _to_numpy(table.column(name).combine_chunks(), where) for name in wanted}
    except FormatError:
        raise
    except Exception as error:  # damaged bytes make Arrow raise nearly anything: its own errors, OSError, MemoryError
        raise FormatError(f"{where} cannot be read as parquet: {str(error)[:200]}.") from error


def _to_numpy(column: Any, where: str) -> np.ndarray:
    vectors = isinstance(column, pa.FixedSizeListArray)
    values = column.flatten() if vectors else column
    if column.null_count or values.null_count:
        raise FormatError(f"A column of {where} has empty entries.")
    array = values.to_numpy(zero_copy_only=False)
    return array.reshape(len(column), -1) if vectors else array
