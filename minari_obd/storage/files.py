"""Files: written whole or not at all."""

import errno
import os
import re
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from minari_obd.errors import FormatError, SettingError, printable
from minari_obd.storage.repositories import SHELF_PREFIX

__all__ = [
    "check_new",
    "check_no_artefact",
    "check_not_pointer",
    "check_replaceable",
    "check_writable",
    "check_writable_file",
    "held_among",
    "holds_instead",
    "is_there",
    "replacing",
    "write_bytes",
    "write_text",
]

_TEMPORARY = re.compile(r"\..+\.\d+-[0-9a-f]{8}")  # as _beside names them
_ABANDONED_SECONDS = 86_400.0


_MARKERS = {
    "obd.json": "a distilled dataset, for load_dataset",
    "obd_policy.json": "a policy, for load_policy",
    "teacher.safetensors": "a teacher, for load_teacher",
}


_OFFLINE_DATA = "offline data, for `minari-obd distill`"
_SUFFIXES = {
    ".hdf5": _OFFLINE_DATA,
    ".h5": _OFFLINE_DATA,
    ".npz": _OFFLINE_DATA,
    ".toml": "a recipe or a grid, for `minari-obd run` or `bench`",
    ".json": "a report, for `minari-obd compare`",
    ".onnx": "an exported policy, for other programs",
    ".safetensors": "a policy or a teacher, for load_policy or load_teacher",
}


def holds_instead(path: Path) -> str:
    """Say, as a sentence after a space, what else a folder, a file or a name stands for; nothing if it is not known."""
    if not is_there(path):
        is_shelf = path.as_posix().startswith(SHELF_PREFIX)
        return " On the shelf there are distilled datasets, for load_dataset." if is_shelf else ""
    if path.is_file():
        likely = _SUFFIXES.get(path.suffix.lower())
        return f" By its name, it is {likely}." if likely else ""
    return _held(path)


def _held(folder: Path) -> str:
    return held_among([name for name in _MARKERS if (folder / name).is_file()])


def held_among(names: Collection[str]) -> str:
    """Say the same of a folder or a repository that has files of these names."""
    found = [what for name, what in _MARKERS.items() if name in names]
    return f" It holds {found[0]}." if found else ""


def check_writable(
    path: str | Path, name: str = "output path", advice: str = "choose a folder that you may write to"
) -> Path:
    """Make sure, before any long work, that ``path`` can be written later.

    Creates the missing parent folders and nothing else.

    Args:
        path: a file or a folder.
        name: what it is called in the error.
        advice: what to do, for the error.

    Raises:
        SettingError: a parent is a file, may not be written, or is full.
    """
    path = Path(path)
    probe = _beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(b"0")
        finally:
            probe.unlink(missing_ok=True)
    except (OSError, ValueError) as error:  # the latter of characters that no name can have
        reason, shown = getattr(error, "strerror", None) or error, printable(str(path))[:200]
        raise SettingError(f"The {name} '{shown}' cannot be written ({reason}); {advice}.") from error
    return path


def check_writable_file(path: str | Path) -> Path:
    """Make sure, before any long work, that a file can be written there later.

    Raises:
        SettingError: a folder has that name, or as :func:`check_writable`.
    """
    _check_no_folder(Path(path))
    return check_writable(path)


def check_replaceable(folder: Path, noun: str, marker: str, names: Collection[str]) -> Path:
    """Make sure, before any long work, that a folder may be written where one of its kind, or nothing, is; resolve it.

    Args:
        folder: the folder.
        noun: what it is to be, for the error.
        marker: the file that every folder of the kind has.
        names: what else may be in it.

    Raises:
        SettingError: it is a file, holds something else, or cannot be written.
    """
    if not is_there(folder):
        return check_writable(folder).resolve()
    folder = folder.resolve()
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    others = sorted(found - {marker, ".gitattributes", *names})
    if folder.is_file() or (found and marker not in found) or others:
        what = f"also holds {', '.join(others[:3])}" if others and marker in found else "is something else"
        raise SettingError(
            f"'{folder}' exists and is not {noun} alone (it {what}), so it is not overwritten; choose another path."
        )
    return check_writable(folder)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside ``path``; what is written there gets the name ``path`` when the block ends.

    If the block raises, ``path`` stays what it was and nothing else is left behind. The block may write a file, or a
    folder with all that is in it, which then replaces a folder at ``path``. The folder above is made if it is missing.

    Raises:
        SettingError: the folder above cannot be written, its disk is full, or a folder is where a file is to be.
    """
    temporary = _beside(check_writable(path))
    _sweep(path.parent)
    try:
        yield temporary
        if temporary.is_dir() and path.is_dir():
            _replace_folder(path, temporary)
        else:
            _check_no_folder(path)
            temporary.replace(path)
    except Exception as error:  # safetensors, HDF5 and Arrow have errors of their own for a full disk
        is_full = any("No space left on device" in str(each) for each in (error, error.__cause__))
        if is_full or getattr(error, "errno", None) == errno.EDQUOT:
            raise SettingError(f"There is no space left for '{path}'; free some, and run the same again.") from error
        raise
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, and the folder above if it is missing.

    Raises:
        SettingError: it cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """The same for text, in UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def check_no_artefact(folder: Path) -> None:
    """Make sure that a folder for results of runs is no distilled dataset, policy or teacher, which they would spoil.

    Raises:
        SettingError: it is.
    """
    if held := _held(folder):
        raise SettingError(f"'{folder}' is no place for results of runs.{held} Give another folder.")


def check_new(path: Path) -> None:
    """Make sure that a result is not there yet: none is ever written over.

    Raises:
        SettingError: the file exists, or its folder is a distilled dataset, a policy or a teacher.
    """
    check_no_artefact(path.parent)
    if path.exists():
        raise SettingError(f"'{path.parent}' holds a {path.stem} already; give another folder, or delete that one.")


def is_there(path: str | Path) -> bool:
    """Whether there is a file or folder; also of names that no file can have."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def check_not_pointer(path: Path) -> None:
    """Make sure that a file is not what Git leaves in its place where the LFS extension is missing.

    Raises:
        FormatError: it is.
    """
    with path.open("rb") as file:
        if file.read(26) == b"version https://git-lfs.gi":
            raise FormatError(
                f"'{path}' is a pointer of Git LFS, not the file itself; run `git lfs pull` in its folder."
            )


def _check_no_folder(path: Path) -> None:
    if path.is_dir():
        raise SettingError(f"'{path}' is a folder; name a file to write.")


def _replace_folder(path: Path, new: Path) -> None:
    """Put a new folder in an old one's place; two renames, as no system call replaces a folder that holds files."""
    old = _beside(path)
    path.rename(old)
    try:
        new.rename(path)
    except BaseException:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Remove what processes that were killed while they wrote left in a folder: whatever is a day old."""
    for left in folder.glob(".*.*-*"):
        with suppress(OSError):
            if _TEMPORARY.fullmatch(left.name) and time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def _beside(path: Path) -> Path:
    """A hidden name beside ``path`` that nobody else uses."""
    return path.with_name(f".{path.name}.{os.getpid()}-{uuid4().hex[:8]}")
