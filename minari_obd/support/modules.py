"""Modules that the user names to be imported: other packages' environments are registered that way.

Only the command line and the user's own environment variable name them, never what was read from a file.
"""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from minari_obd.errors import SettingError

__all__ = ["VARIABLE", "import_from_path", "import_named"]

VARIABLE = "MINARI_OBD_IMPORT"
"""Environment variable with the names of modules, separated by commas. Child processes inherit it."""


def import_from_path(name: str) -> Any:
    """Import a module from Python's path or the working directory.

    Raises:
        SettingError: it is not there, or fails.
    """
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return import_module(name)
    except Exception as error:  # a module may raise anything when it is imported
        raise SettingError(
            f"The module '{name}' cannot be imported: {error}; install the package that has it, or run the command in "
            "the folder of the file."
        ) from error


def import_named(names: Sequence[str] = ()) -> None:
    """Import these modules and those of :data:`VARIABLE`, here and in the child processes that will be started.

    Raises:
        SettingError: one of them cannot be imported.
    """
    named = [name for name in os.environ.get(VARIABLE, "").split(",") if name]
    wanted = list(dict.fromkeys([*named, *names]))
    for name in wanted:
        import_from_path(name)
    if wanted:
        os.environ[VARIABLE] = ",".join(wanted)
