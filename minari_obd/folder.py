"""The folder format: what a distilled dataset is on disk, and on the Hub."""

import hashlib
import io
import json
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from minari_obd.card import dataset_card
from minari_obd.distilled import DistilledDataset, Provenance
from minari_obd.errors import DataError, FormatError, NotFoundError, SettingError, check_writable
from minari_obd.offline import Normaliser
from minari_obd.protocol import StudentProtocol
from minari_obd.statistics import ReferenceScores

__all__ = ["FORMAT_VERSION", "METADATA_FILE", "PARQUET_FILE", "load_folder", "save_folder"]

FORMAT_VERSION = 1
METADATA_FILE = "obd.json"
EVALUATION_FILE = "evaluation.json"
CARD_FILE = "README.md"
PARQUET_FILE = "data/train-00000-of-00001.parquet"

_ENTRIES = {CARD_FILE, METADATA_FILE, EVALUATION_FILE, "data", "pairs-v0", "namespace_metadata.json", ".gitattributes"}
_STRICT: dict[str, Any] = {"extra": "forbid", "strict": True, "allow_inf_nan": False}
_T = TypeVar("_T")
_MOST_METADATA_BYTES = 16 * 2**20
_MOST_PARQUET_BYTES = 1 * 2**30


@dataclass(frozen=True)
class _Metadata:
    """obd.json, field by field."""

    format: int
    size: int
    observation_mean: list[float]
    observation_scale: list[float]
    action_low: list[float]
    action_high: list[float]
    env_id: str | None
    reference_scores: ReferenceScores | None
    student: StudentProtocol
    provenance: Provenance
    parquet_sha256: str

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT


@dataclass(frozen=True)
class _Estimate:
    mean: float
    low: float
    high: float

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT


@dataclass(frozen=True)
class _Evaluation:
    """evaluation.json, field by field: what :meth:`EvaluationReport.to_json` gives."""

    env_id: str
    students: int
    episodes: int
    seed: int
    score: _Estimate | None
    mean_return: _Estimate
    returns: list[list[float]]
    reference_scores: ReferenceScores | None
    seconds: float
    versions: dict[str, str]

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT


def save_folder(dataset: DistilledDataset, folder: Path, *, minari: bool = True, name: str | None = None) -> Path:
    """Write the folder: complete under a temporary name first, then renamed.

    Args:
        dataset: the pairs.
        folder: where; an older distilled dataset there is replaced.
        minari: also write the pairs as a Minari dataset, for readers without this package.
        name: what the Minari rendering is called, ``name/pairs-v0``; the folder's own name if not given.

    Raises:
        SettingError: the folder holds something else, or cannot be written.
    """
    folder = check_target(folder)
    building = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _write(dataset, building, minari=minari, name=name or folder.name)
        building.chmod(0o755)  # mkdtemp's folder is its owner's alone
        if folder.exists():
            retired = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
            folder.rename(retired / "old")
            try:
                building.rename(folder)
            except OSError:
                (retired / "old").rename(folder)
                raise
            shutil.rmtree(retired, ignore_errors=True)
        else:
            building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder


def check_target(folder: Path) -> Path:
    """Make sure, before any long work, that a distilled dataset may be written to ``folder``.

    Raises:
        SettingError: it is a file, holds something else, or cannot be written.
    """
    folder = folder.resolve()
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if folder.is_file() or (found and METADATA_FILE not in found) or found - _ENTRIES:
        raise SettingError(
            f"'{folder}' exists and is not a distilled dataset alone, so it is not overwritten; choose another path."
        )
    return check_writable(folder)


def _write(dataset: DistilledDataset, folder: Path, *, minari: bool, name: str) -> None:
    parquet = _parquet(dataset)
    (folder / "data").mkdir()
    (folder / PARQUET_FILE).write_bytes(parquet)
    metadata = _Metadata(
        format=FORMAT_VERSION,
        size=len(dataset),
        observation_mean=_numbers(dataset.normaliser.mean),
        observation_scale=_numbers(dataset.normaliser.scale),
        action_low=_numbers(dataset.action_low),
        action_high=_numbers(dataset.action_high),
        env_id=dataset.env_id,
        reference_scores=dataset.reference,
        student=dataset.protocol,
        provenance=dataset.provenance,
        parquet_sha256=hashlib.sha256(parquet).hexdigest(),
    )
    _write_json(folder / METADATA_FILE, asdict(metadata))
    if dataset.evaluation is not None:
        _write_json(folder / EVALUATION_FILE, dataset.evaluation)
    (folder / CARD_FILE).write_text(dataset_card(dataset, name), encoding="utf-8")
    if minari:
        from minari_obd.minari_bridge import write_rendering  # hands over to the module above

        write_rendering(dataset, folder, name)


def _numbers(array: np.ndarray) -> list[float]:
    """Float32 numbers as Python floats: JSON gives them back to the bit."""
    return [float(x) for x in array]


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _parquet(dataset: DistilledDataset) -> bytes:
    """One row a pair, as fixed-size lists: ``datasets`` reads them as List(Value("float32"), length)."""
    columns = {
        name: pa.FixedSizeListArray.from_arrays(pa.array(value.reshape(-1), pa.float32()), value.shape[1])
        for name, value in (("observation", dataset.observations), ("action", dataset.actions))
    }
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def load_folder(folder: Path) -> DistilledDataset:
    """Read and check a folder; every byte of the pairs must match the hash in ``obd.json``.

    Raises:
        NotFoundError: no such folder.
        FormatError: not a distilled dataset, damaged, or of a newer format.
    """
    if not folder.is_dir():
        raise NotFoundError(f"There is no folder '{folder}'.")
    metadata = _read_metadata(folder)
    parquet = folder / PARQUET_FILE
    if not parquet.is_file():
        raise FormatError(f"'{folder}' lacks {PARQUET_FILE}; the copy is incomplete, fetch it again.")
    if parquet.stat().st_size > _MOST_PARQUET_BYTES:
        raise FormatError(f"{PARQUET_FILE} in '{folder}' is larger than 1 GiB; that is no distilled dataset.")
    content = parquet.read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != metadata.parquet_sha256:
        raise FormatError(
            f"{PARQUET_FILE} in '{folder}' does not match its hash (obd.json says {metadata.parquet_sha256[:12]}..., "
            f"the file has {found[:12]}...); the copy is damaged or was changed, fetch it again."
        )
    observations, actions = _read_pairs(content, folder, metadata)
    try:
        return DistilledDataset(
            observations=observations,
            actions=actions,
            normaliser=Normaliser(np.array(metadata.observation_mean), np.array(metadata.observation_scale)),
            protocol=metadata.student,
            provenance=metadata.provenance,
            action_low=np.array(metadata.action_low),
            action_high=np.array(metadata.action_high),
            env_id=metadata.env_id,
            reference=metadata.reference_scores,
            evaluation=_read_evaluation(folder / EVALUATION_FILE) if (folder / EVALUATION_FILE).is_file() else None,
        )
    except DataError as error:
        raise FormatError(f"'{folder}' is damaged: {error}") from error


def _read_json(path: Path) -> Any:
    if path.stat().st_size > _MOST_METADATA_BYTES:
        raise FormatError(f"'{path}' is larger than {_MOST_METADATA_BYTES // 2**20} MiB; that is not metadata of ours.")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"'{path}' is not JSON: {str(error)[:200]}.") from error


def _read_metadata(folder: Path) -> _Metadata:
    path = folder / METADATA_FILE
    if not path.is_file():
        raise FormatError(f"'{folder}' is not a distilled dataset: it has no {METADATA_FILE}.")
    values = _read_json(path)
    version = values.get("format") if isinstance(values, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise FormatError(
            f"'{folder}' has format {version}, and this version of minari-obd reads up to {FORMAT_VERSION}; "
            "upgrade it with `pip install --upgrade minari-obd`."
        )
    return _validated(_Metadata, values, path)


def _read_evaluation(path: Path) -> dict[str, Any]:
    return asdict(
        _validated(_Evaluation, _rename(_read_json(path), "return", "mean_return"), path), dict_factory=_plain
    )


def _rename(values: Any, old: str, new: str) -> Any:
    """``return`` is a word of Python's, so a dataclass cannot have it for a field."""
    return {new if key == old else key: value for key, value in values.items()} if isinstance(values, dict) else values


def _plain(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return _rename(dict(items), "mean_return", "return")


def _validated(kind: type[_T], values: Any, path: Path) -> _T:
    """Check JSON values against a dataclass, strictly: no unknown keys, no casts, no numbers that are not finite."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_json(json.dumps(values))
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in problem["loc"]) or path.name
        raise FormatError(f"'{path}' is damaged at {place}: {problem['msg'][:200].rstrip('.')}.") from error


def _read_pairs(content: bytes, folder: Path, metadata: _Metadata) -> tuple[np.ndarray, np.ndarray]:
    widths = {"observation": len(metadata.observation_mean), "action": len(metadata.action_low)}
    try:
        # ParquetFile, not read_table: that starts a thread pool, at whose end a very short script may be aborted.
        file = pq.ParquetFile(io.BytesIO(content), pre_buffer=False)
        schema, count = file.schema_arrow, file.metadata.num_rows
        for name, width in widths.items():
            expected = pa.list_(pa.float32(), width)
            if name not in schema.names or schema.field(name).type != expected:
                raise FormatError(f"{PARQUET_FILE} in '{folder}' has no column '{name}' of type {expected}.")
        if count != metadata.size:
            raise FormatError(f"{PARQUET_FILE} in '{folder}' has {count} rows; obd.json says {metadata.size}.")
        table = file.read(columns=list(widths), use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise FormatError(f"{PARQUET_FILE} in '{folder}' cannot be read as parquet: {str(error)[:200]}.") from error
    arrays = []
    for name, width in widths.items():
        column = table.column(name).combine_chunks()
        if column.null_count or column.flatten().null_count:
            raise FormatError(f"Column '{name}' in '{folder}' has empty entries.")
        arrays.append(column.flatten().to_numpy().reshape(len(column), width))
    return arrays[0], arrays[1]
