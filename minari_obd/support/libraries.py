"""Libraries: optional ones, checked before they are needed and imported without their side effects."""

import contextlib
import io
from importlib.util import find_spec
from typing import Any

from minari_obd.errors import MissingExtraError

__all__ = ["check_installed", "import_d3rlpy"]


def check_installed(module: str, extra: str) -> None:
    """Make sure that ``module`` can be imported, without importing it.

    Raises:
        MissingExtraError: it is not installed; the sentence says which extra of this package brings it.
    """
    if find_spec(module) is None:
        raise MissingExtraError(
            f"This needs {module}, which is not installed; run `pip install 'minari-obd[{extra}]'`."
        )


def import_d3rlpy() -> Any:
    """Import d3rlpy without its side effects: Gym's notice, a new logging set-up, TF32 for the whole process."""
    import structlog

    from minari_obd.support.precision import kept_precision

    structlog_before = structlog.get_config()
    unheard = io.StringIO()
    with kept_precision(), contextlib.redirect_stderr(unheard), contextlib.redirect_stdout(unheard):
        import d3rlpy
    structlog.configure(**structlog_before)
    return d3rlpy
