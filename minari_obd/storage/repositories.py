"""Names of Hub repositories: ``organisation/name``, also with a revision."""

import re

__all__ = ["split_repository"]

_REPOSITORY = re.compile(r"(?P<id>[\w-][\w.-]*/[\w.-]+)(@(?P<revision>[\w./-]+))?")


def split_repository(ref: str) -> tuple[str, str | None] | None:
    """Return id and revision of ``organisation/name`` or ``organisation/name@revision``; None for anything else."""
    named = _REPOSITORY.fullmatch(ref)
    return None if named is None else (named["id"], named["revision"])
