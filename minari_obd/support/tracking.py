"""Tracking: numbers of a long run while it runs, told to a function, TensorBoard, Weights & Biases or trackio.

Nothing is drawn, counted or kept for it, so a run gives the same bits with it as without.
"""

import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

from minari_obd.errors import SettingError, did_you_mean
from minari_obd.support.libraries import check_installed

__all__ = ["Track", "TrackerName", "check_track", "named", "tracking"]

Track = Callable[[int, Mapping[str, float]], object]
"""``track(step, values)``: ``values`` are named ``part/what``, and ``step`` counts the steps of that part."""

TrackerName = Literal["tensorboard", "wandb", "trackio"]

_PROJECT = "minari-obd"


def check_track(track: "TrackerName | str | Track | None") -> None:
    """Make sure, before any long work, that a run can be tracked.

    Raises:
        SettingError: an unknown name, or something that cannot be called with a step and values.
        MissingExtraError: the library is not installed.
    """
    if isinstance(track, str):
        if track not in _TRACKERS:
            raise SettingError(f"There is no tracker '{track}'; {did_you_mean(track, get_args(TrackerName))}")
        check_installed(track, track)
    elif track is not None and not callable(track):
        raise SettingError(
            f"track is a {type(track).__name__}; give a function of (step, values), or one of "
            f"{', '.join(get_args(TrackerName))}."
        )
    elif track is not None:
        try:
            inspect.signature(track).bind(0, {})
        except TypeError as error:  # it is called for the first time after minutes
            raise SettingError(f"track is called with (step, values), and this cannot be: {error}.") from None
        except ValueError:  # it is built in, and has no signature
            return


@contextmanager
def tracking(track: "TrackerName | str | Track | None", name: str, out: Path | None = None) -> Iterator[Track | None]:
    """Open what a run is told to, and close it at the end, however that comes; None stays None.

    Args:
        track: a function, the name of a library, or None.
        name: of the run.
        out: what the run writes. TensorBoard's files go beside it, into ``OUT.tensorboard``, or into ``runs/NAME`` if
            the run writes nothing. The other libraries have folders of their own.

    Raises:
        SettingError, MissingExtraError: as :func:`check_track`.
    """
    check_track(track)
    if not isinstance(track, str):
        yield track
        return
    folder = Path("runs") / name.strip("/").replace("/", "-") if out is None else Path(f"{out}.tensorboard")
    tell, close = _TRACKERS[track](name, folder)
    try:
        yield tell
    finally:
        close()


def named(track: Track | None, part: str, step: int, values: Mapping[str, float]) -> None:
    """Tell the values of one part of a run, if anyone listens."""
    if track is not None:
        track(step, {f"{part}/{name}": float(value) for name, value in values.items()})


def _tensorboard(name: str, folder: Path) -> tuple[Track, Callable[[], object]]:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder), flush_secs=10)

    def tell(step: int, values: Mapping[str, float]) -> None:
        for what, value in values.items():
            writer.add_scalar(what, value, step)

    return tell, writer.close


def _wandb(name: str, folder: Path) -> tuple[Track, Callable[[], object]]:
    """Stay offline unless WANDB_MODE says otherwise, and never tell about the machine or the user's code."""
    if "WANDB_MODE" not in os.environ:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # which it sends even when it is offline
    import wandb  # pyright: ignore[reportMissingImports]  # optional

    quiet: dict[str, Any] = {"console": "off", "disable_git": True, "save_code": False}
    settings = wandb.Settings(**quiet, x_disable_meta=True, x_disable_stats=True)
    mode: Any = os.environ.get("WANDB_MODE", "offline")
    run = wandb.init(project=_PROJECT, name=name, mode=mode, settings=settings)
    parts: set[str] = set()

    def tell(step: int, values: Mapping[str, float]) -> None:
        part = next(iter(values)).partition("/")[0]
        if part not in parts:  # the run's own steps only ever rise, so each part gets an axis of its own
            parts.add(part)
            run.define_metric(f"{part}/*", step_metric=f"{part}/step")
        run.log({**values, f"{part}/step": step})

    return tell, run.finish


def _trackio(name: str, folder: Path) -> tuple[Track, Callable[[], object]]:
    import trackio  # pyright: ignore[reportMissingImports]  # optional

    run = trackio.init(project=_PROJECT, name=name, embed=False, auto_log_cpu=False, auto_log_gpu=False)
    return lambda step, values: run.log(dict(values), step=step), trackio.finish


_TRACKERS: dict[str, Callable[[str, Path], tuple[Track, Callable[[], object]]]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "trackio": _trackio,
}
