"""Child processes: other Python processes that run a module of this package."""

import os
import sys
from collections.abc import Mapping

__all__ = ["child_of"]


def child_of(
    module: str, *arguments: str, variables: Mapping[str, str] | None = None
) -> tuple[list[str], dict[str, str]]:
    """Return what ``subprocess`` needs to run ``module`` in this interpreter, with this process's import path.

    Args:
        module: full name of a module that can be run by ``python -m``.
        arguments: its arguments.
        variables: environment variables to set besides those of this process.

    Returns:
        The arguments of the process, and its environment variables.
    """
    path = os.pathsep.join(each for each in sys.path if each)
    return [sys.executable, "-m", module, *arguments], {**os.environ, "PYTHONPATH": path, **(variables or {})}
