"""Names of Hub repositories: ``organisation/name``, also with a revision."""

import re

__all__ = ["SHELF_PREFIX", "split_repository"]

SHELF_PREFIX = "shelf/"
"""What the names of sets that come with the package begin with; no repository's name is read so."""

_REPOSITORY = re.compile(r"(?P<id>[\w-][\w.-]*/[\w.-]+)(@(?P<revision>[\w./-]+))?")


def split_repository(ref: str) -> tuple[str, str | None] | None:
    """Return id and revision of ``organisation/name`` or ``organisation/name@revision``; None for anything else."""
    named = _REPOSITORY.fullmatch(ref)
    return None if named is None or ref.startswith(SHELF_PREFIX) else (named["id"], named["revision"])
