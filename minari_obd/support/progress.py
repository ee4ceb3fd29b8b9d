"""Progress bars: one look for all long work, on standard error, with the time left."""

from typing import Any

from tqdm.auto import tqdm

__all__ = ["progress_bar"]


def progress_bar(total: int, description: str, *, unit: str = "step", show: bool = True) -> "tqdm[Any]":
    """Return a bar that shows rate and time left, or nothing if not ``show``."""
    return tqdm(total=total, desc=description, unit=unit, disable=not show, dynamic_ncols=True, mininterval=0.5)
