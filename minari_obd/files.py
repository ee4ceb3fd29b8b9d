"""Files: written whole or not at all."""

import os
from pathlib import Path

from minari_obd.errors import check_writable

__all__ = ["write_bytes", "write_text"]


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
