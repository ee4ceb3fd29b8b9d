"""Minari datasets on disk: written whole or not at all, and never under an id that breaks Minari's listing."""

import errno
import json
import os
import re
import shutil
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import minari
import numpy as np
from minari.data_collector import EpisodeBuffer
from minari.namespace import create_namespace, list_local_namespaces
from minari.storage.datasets_root_dir import get_dataset_path

from minari_obd.errors import DataError, FormatError, NotFoundError, SettingError, did_you_mean
from minari_obd.storage.building import BUILDING, SPACE_ADVICE, check_room, locked, sweep
from minari_obd.storage.hdf5 import repack
from minari_obd.storage.specifications import bare_ids, specification
from minari_obd.support.interrupts import interrupted_by_termination

__all__ = [
    "check_dataset_id",
    "check_space",
    "episode_buffer",
    "has_local_dataset",
    "is_dataset_id",
    "local_dataset_ids",
    "minari_folder",
    "open_files",
    "open_local_dataset",
    "write_dataset",
]

# Minari accepts a few more spellings, but creates the folder of a bad id before it looks at the id.
_DATASET_ID = re.compile(r"(?:[A-Za-z0-9_][\w-]+/)*[A-Za-z0-9_][\w-]*-v\d+")
_READ_ID = re.compile(r"(?:\w[\w-]*/)*\w[\w-]*-v\d+")  # what is there already may have such an id
_CODE = "https://github.com/minari-obd/minari-obd"
_FORMATS = ("hdf5", "arrow", "parquet")
_MOST_METADATA_BYTES = 64 * 2**20


_root_lock = threading.Lock()


def is_dataset_id(text: str) -> bool:
    """Tell whether ``text`` has the form of a Minari id: ``(namespace/)name-vN``."""
    return _DATASET_ID.fullmatch(text) is not None


def check_dataset_id(dataset_id: str) -> str:
    """Return ``dataset_id`` if Minari can store it.

    Raises:
        DataError: it is malformed.
    """
    if not is_dataset_id(dataset_id):
        raise DataError(
            f"'{dataset_id}' is not a Minari dataset id; use '(namespace/)name-vN' with letters, digits, '-' and '_', "
            "and namespaces of two characters or more, such as 'my-lab/hopper/medium-v0'."
        )
    return dataset_id


def minari_folder(dataset_id: str = "") -> Path:
    """The user's Minari folder, or that of a dataset in it.

    Raises:
        SettingError: there can be no such folder.
    """
    try:
        if (path := Path(get_dataset_path(dataset_id))).parts[:1] == ("~",):
            raise SettingError("There is no home folder for Minari's datasets; set MINARI_DATASETS_PATH to a folder.")
        return path
    except OSError as error:
        raise SettingError(
            f"The Minari folder '{error.filename}' cannot be used ({error.strerror}); set MINARI_DATASETS_PATH to a "
            "folder."
        ) from error


def local_dataset_ids() -> list[str]:
    """Return the ids of the datasets in the user's Minari folder."""
    root = minari_folder()  # raises what is wrong with it
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "Misconfigured dataset named ...": not ours to complain about
            return list(minari.list_local_datasets())
    except ValueError:  # Minari stops at a folder that it would not name so
        found = (path.parents[1].relative_to(root).as_posix() for path in root.glob("**/data/metadata.json"))
        return sorted(each for each in found if _READ_ID.fullmatch(each))


def has_local_dataset(dataset_id: str) -> bool:
    """Tell whether the user's Minari folder holds ``dataset_id``."""
    return (
        _READ_ID.fullmatch(dataset_id) is not None and (minari_folder(dataset_id) / "data" / "metadata.json").is_file()
    )


def open_local_dataset(dataset_id: str) -> minari.MinariDataset:
    """Open a dataset of the user's Minari folder.

    Raises:
        NotFoundError: it is not there.
        FormatError: it is there and Minari cannot read it.
    """
    if not has_local_dataset(dataset_id):
        raise NotFoundError(
            f"There is no Minari dataset '{dataset_id}' here; local ids: {', '.join(local_dataset_ids()) or 'none'}."
        )
    return open_files(minari_folder(dataset_id) / "data", dataset_id)


def open_files(data: Path, name: str) -> minari.MinariDataset:
    """Open the ``data`` folder of a dataset that anyone may have written.

    Where a space is missing from its metadata, Minari makes the environment that the metadata describes, with the
    entry point and the arguments found there: a downloaded file could run any code. So that is refused first.

    Raises:
        FormatError: such metadata, or files that Minari cannot read.
    """
    path = data / "metadata.json"
    try:
        if path.stat().st_size > _MOST_METADATA_BYTES:
            raise ValueError(f"{path.name} is larger than {_MOST_METADATA_BYTES // 2**20} MiB")
        metadata = json.loads(path.read_bytes())
        for key in ("observation_space", "action_space", "data_format"):
            if not isinstance(metadata.get(key), str):
                raise FormatError(f"its metadata has no {key}")
        for key in ("total_episodes", "total_steps"):
            if type(metadata.get(key)) is not int:
                raise FormatError(f"{key} in its metadata is {metadata.get(key)!r}")
        if metadata["data_format"] not in _FORMATS:
            raise ValueError(f"its storage format is not one of {', '.join(_FORMATS)}")
        return minari.MinariDataset(data)
    except Exception as error:  # Minari raises whatever its JSON, HDF5 and space parsers raise
        reason = f"its metadata has no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise FormatError(
            f"The Minari dataset '{name}' is there but cannot be read: {reason[:200]}. Delete it, and get it anew."
        ) from error


def episode_buffer(
    observations: Any, actions: Any, rewards: Any, terminations: Any, truncations: Any, infos: Any = None
) -> EpisodeBuffer:
    """Put T+1 observations and T of everything else into Minari's buffer, which is typed for lists and takes arrays."""
    return EpisodeBuffer(
        observations=observations,
        actions=actions,
        rewards=rewards,
        terminations=terminations,
        truncations=truncations,
        infos=infos or {},  # with None, an episode read back cannot even be printed
    )


@contextmanager
def _minari_root(folder: Path) -> Iterator[None]:
    """Point Minari at another folder; the environment variable is the only public way."""
    with _root_lock:
        before = os.environ.get("MINARI_DATASETS_PATH")
        os.environ["MINARI_DATASETS_PATH"] = str(folder)
        try:
            yield
        finally:
            if before is None:
                del os.environ["MINARI_DATASETS_PATH"]
            else:
                os.environ["MINARI_DATASETS_PATH"] = before


def write_dataset(
    dataset_id: str,
    episodes: Sequence[EpisodeBuffer],
    *,
    observation_space: gym.Space,
    action_space: gym.Space,
    algorithm: str,
    description: str,
    env_id: str | None = None,
    eval_env_id: str | None = None,
    requirements: Sequence[str] = (),
    author: str | None = None,
    author_email: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    compact: bool = False,
    data_format: str | None = None,
    root: Path | None = None,
) -> Path:
    """Write a Minari dataset in one stroke and return its folder.

    It is built in a hidden folder, which Minari's listing passes over, and renamed when it is complete.

    Args:
        dataset_id: ``(namespace/)name-vN``.
        episodes: T+1 observations and T of everything else, each.
        observation_space: of the observations as stored.
        action_space: of the actions as stored.
        algorithm: what acted.
        description: a sentence or two for a reader.
        env_id: the environment that produced the data, if one did.
        eval_env_id: the environment to evaluate in.
        requirements: pip requirements to make the environment.
        author: who answers for the data; left out if not given.
        author_email: how to reach them; left out if not given.
        compact: write an HDF5 file for very short episodes, where Minari's own has 15 kB for each.
        metadata: further JSON values to store, reference scores among them.
        data_format: Minari's storage format, ``hdf5`` (if not given), ``arrow`` or ``parquet``.
        root: a Minari folder other than the user's.

    Raises:
        DataError: a bad id, an id that exists, an unknown format, or metadata that is not JSON.
        SettingError: there is not enough space, or the folder cannot be written.
    """
    check_dataset_id(dataset_id)
    if data_format not in (None, *_FORMATS):
        raise DataError(f"Minari has no storage format '{data_format}'; {did_you_mean(str(data_format), _FORMATS)}")
    # Resolved, because Minari looks for the file that it has just written below the folder once more.
    root = (minari_folder() if root is None else Path(root)).resolve()
    check_space(sum(_size(episode) for episode in episodes), root)
    sweep(root)
    target = root / dataset_id
    if target.exists():
        raise DataError(f"The Minari dataset '{dataset_id}' exists already; delete it first, or use another version.")
    try:  # Minari truncates metadata.json before it meets a value that JSON does not know
        checked: dict[str, Any] = json.loads(json.dumps(dict(metadata or {}), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise DataError(f"The metadata of '{dataset_id}' is not JSON: {error}.") from error
    building = Path(tempfile.mkdtemp(prefix=BUILDING, dir=root))
    try:
        with locked(building), interrupted_by_termination(), _minari_root(building), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # Minari's advice on fields that have no meaning here
            dataset = minari.create_dataset_from_buffers(
                dataset_id,
                list(episodes),
                env=specification(env_id),
                eval_env=specification(eval_env_id),
                observation_space=observation_space,
                action_space=action_space,
                algorithm_name=algorithm,
                author=author,
                author_email=author_email,
                code_permalink=_CODE,
                description=description,
                requirements=list(requirements),
                data_format=data_format,
            )
            dataset.storage.update_metadata({**checked, **bare_ids(env_spec=env_id, eval_env_spec=eval_env_id)})
            if compact and data_format in (None, "hdf5"):
                repack(building / dataset_id / "data" / "main_data.hdf5")
        with _minari_root(root):
            namespace = dataset_id.rpartition("/")[0]
            if namespace and namespace not in list_local_namespaces():
                create_namespace(namespace)
        target.parent.mkdir(parents=True, exist_ok=True)
        _place(building / dataset_id, target, dataset_id)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise SettingError(f"There is no space left in '{root}' for '{dataset_id}'; {SPACE_ADVICE}.") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return target


def _place(built: Path, target: Path, dataset_id: str) -> None:
    """Give a finished dataset its name, unless another process has made one of that name meanwhile."""
    try:
        built.rename(target)
    except OSError as error:
        if not target.exists():
            raise
        raise DataError(f"Another process has just made the Minari dataset '{dataset_id}'; use that one.") from error


def check_space(size: int, root: Path | None = None) -> None:
    """Make sure that a dataset of about ``size`` bytes can be written to the user's Minari folder, or to ``root``.

    Raises:
        SettingError: the folder cannot be written, or has too little space.
    """
    check_room(size, minari_folder() if root is None else root)


def _size(episode: EpisodeBuffer) -> int:
    """Bytes that an episode takes, with what HDF5 needs beside its arrays."""
    return 4_000 + sum(np.asarray(value).nbytes for value in vars(episode).values() if isinstance(value, np.ndarray))
