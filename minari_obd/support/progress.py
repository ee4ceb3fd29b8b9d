"""Progress bars: one look for all long work, on standard error, with the time left."""

from typing import Any

from tqdm.auto import tqdm

__all__ = ["progress_bar"]


def progress_bar(total: int, description: str, *, unit: str = "step", show: bool = True, done: int = 0) -> "tqdm[Any]":
    """Return a bar that shows rate and time left, or nothing if not ``show``; ``done`` steps were made before."""
    shown = {"unit": unit, "disable": not show, "dynamic_ncols": True, "mininterval": 0.5}
    return tqdm(total=total, desc=description, initial=done, **shown)
