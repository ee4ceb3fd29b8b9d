"""Files: written whole or not at all."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from minari_obd.errors import SettingError

if TYPE_CHECKING:
    pass


__all__ = ["check_no_report", "check_writable", "write_bytes", "write_text"]


def check_writable(path: str | Path) -> Path:
    """Make sure, before any long work, that ``path`` can be written later.

    Creates the missing parent folders and nothing else.

    Raises:
        SettingError: a parent is a file, or may not be written.
    """
    path = Path(path)
    probe = path.parent / f".{path.name}.probe"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise SettingError(
            f"The output path '{path}' cannot be written ({error.strerror}); choose a folder that you may write to."
        ) from error
    return path


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file by way of a temporary one that is renamed; its folder is made if there is none.

    Raises:
        SettingError: it cannot be written.
    """
    temporary = check_writable(path).with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(path)


def write_text(path: Path, text: str) -> None:
    """The same for text, in UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def check_no_report(folder: Path) -> None:
    """Make sure that a folder holds no report yet: a report is never written over.

    Raises:
        SettingError: it does.
    """
    if (folder / "report.json").exists():
        raise SettingError(f"'{folder}' holds a report already; give another folder, or delete that one.")
