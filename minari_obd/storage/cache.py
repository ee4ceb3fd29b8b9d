"""What is kept so that work is done once: teachers, ensembles and checkpoints in the cache, results of experiments."""

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from minari_obd.errors import FormatError, NotFoundError
from minari_obd.storage.files import check_writable
from minari_obd.support.devices import cache_root

__all__ = ["check_cache", "read_kept"]

_T = TypeVar("_T")


def check_cache() -> None:
    """Make sure, before any long work, that its result and its checkpoints can be kept.

    Raises:
        SettingError: the folder cannot be written, or there is none.
    """
    check_writable(cache_root() / "checkpoints", "cache", "set MINARI_OBD_CACHE to a folder that you may write to")


def read_kept(path: Path, read: Callable[[Path], _T], *, then: str = "its work begins anew") -> _T | None:
    """Read a file or folder that this package keeps, so that work goes on from it; None if it is not there.

    A damaged one is renamed, with a warning, and the work begins anew.

    Args:
        path: the file or folder.
        read: reads it. It must not change anything before it has read everything.
        then: what becomes of it, for the warning.
    """
    if not path.exists():
        return None
    try:
        return read(path)
    except (FormatError, NotFoundError) as error:  # the latter of a folder that lacks a file
        aside = path.with_name(f"{path.name}.damaged")
        try:
            if aside.is_dir():
                shutil.rmtree(aside)
            path.replace(aside)
        except OSError:
            raise error from None
        warnings.warn(f"{error} It was set aside as '{aside.name}', and {then}.", stacklevel=2)
        return None
