"""Interrupts: Ctrl-C and SIGTERM wait for the end of a step, so that what is saved is whole."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["deferred_interrupts", "interrupted_by_termination"]


@contextmanager
def deferred_interrupts() -> Iterator[Callable[[], bool]]:
    """Note SIGINT and SIGTERM instead of acting on them; yields a function that tells whether one has come.

    A second Ctrl-C acts at once. A SIGTERM after the first does not: a terminal's Ctrl-C reaches a bench and its
    children alike, and the bench then ends them by SIGTERM. Only the main thread may change handlers; in others nothing
    is deferred.
    """
    asked = pressed = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal asked, pressed
        if pressed and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked, pressed = True, pressed or number == signal.SIGINT

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def interrupted_by_termination() -> Iterator[None]:
    """Turn SIGTERM into KeyboardInterrupt, so that a block can end what it has started. In the main thread only."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
