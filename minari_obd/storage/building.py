"""Building: the hidden folders that Minari datasets are written in, the space for them, and what killed runs left."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from minari_obd.errors import SettingError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

__all__ = ["BUILDING", "SPACE_ADVICE", "alone", "check_room", "locked", "sweep"]

BUILDING, _LOCK = ".building-", ".lock"
SPACE_ADVICE = "free some, or set MINARI_DATASETS_PATH to a larger disk"


def check_room(size: int, root: Path) -> None:
    """Make sure that a dataset of about ``size`` bytes can be written to the Minari folder ``root``.

    Raises:
        SettingError: the folder cannot be written, or has too little space.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(root).free
        if free:
            TemporaryDirectory(prefix=BUILDING, dir=root).cleanup()
    except OSError as error:
        raise SettingError(
            f"The Minari folder '{root}' cannot be used ({error.strerror}); set MINARI_DATASETS_PATH to a folder."
        ) from error
    if free < (needed := 1.1 * size + 2**16):
        raise SettingError(
            f"The dataset takes about {needed / 2**20:,.2f} MiB, and '{root}' has {free / 2**20:,.2f} MiB left; "
            f"{SPACE_ADVICE}."
        ) from OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def locked(building: Path) -> Iterator[None]:
    """Hold a lock in a hidden folder, so that others see that somebody still writes there."""
    with (building / _LOCK).open("w") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def alone(root: Path, name: str, on_wait: Callable[[], None]) -> Iterator[None]:
    """Let one process at a time work on ``name`` in the Minari folder ``root``; others call ``on_wait`` and wait.

    Where the folder cannot be locked, all work at once. What they write is whole in any case.
    """
    path = root / f".{name.replace('/', '-')}{_LOCK}"
    if fcntl is None:
        yield
        return
    while True:
        try:
            root.mkdir(parents=True, exist_ok=True)
            file = path.open("w")
        except OSError:
            yield
            return
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                on_wait()
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError:  # some network file systems have no locks
                yield
                return
            try:
                is_there = os.path.samestat(os.fstat(file.fileno()), path.stat())
            except FileNotFoundError:
                is_there = False
            if not is_there:
                continue  # the process that was waited for has removed the file
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def sweep(root: Path) -> None:
    """Remove the hidden folders of processes that were killed while they wrote a dataset."""
    for lock in root.glob(f"{BUILDING}*/{_LOCK}"):
        try:
            with lock.open() as file:
                if fcntl is not None:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(lock.parent, ignore_errors=True)
        except OSError:  # it is locked, or somebody else has removed it
            continue
