"""Devices: where torch computes, on how many CPU threads, and where long work is kept."""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

from minari_obd.errors import SettingError

__all__ = ["cache_root", "choose_device", "cpu_threads", "fastest_thread_count"]


def cache_root() -> Path:
    """Folder of trained teachers and checkpoints: ``MINARI_OBD_CACHE``, else ``~/.cache/minari_obd``.

    Raises:
        SettingError: the variable is not set, and there is no home folder.
    """
    try:
        return Path(os.environ.get("MINARI_OBD_CACHE") or Path.home() / ".cache" / "minari_obd")
    except RuntimeError as error:
        raise SettingError(
            "There is no home folder to keep trained teachers and checkpoints in; set MINARI_OBD_CACHE to a folder."
        ) from error


def choose_device(device: str) -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` into a torch device.

    Raises:
        SettingError: CUDA was asked for and there is none, or an unknown name.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cpu":
        return torch.device("cpu")
    if re.fullmatch(r"cuda(:\d+)?", device):
        if not torch.cuda.is_available():
            raise SettingError(f"The device is '{device}', but torch finds no CUDA here; use 'cpu' or 'auto'.")
        return torch.device(device)
    raise SettingError(f"There is no device '{device}'; use 'auto', 'cpu' or 'cuda'.")


def fastest_thread_count() -> int:
    """Measure what is faster here and now, one CPU thread or all that torch would use.

    With other work on the machine, threads that wait for one another can be twenty times slower than one alone.
    The sample is what a distillation consists of: short matrix products with something small in between.
    """
    everything = torch.get_num_threads()
    if everything == 1:
        return 1
    matrix = torch.full((256, 256), 1 / 256)

    def seconds(threads: int, limit: float = float("inf")) -> float:
        """Time of 200 products, or more than ``limit`` as soon as it is exceeded."""
        torch.set_num_threads(threads)
        product = torch.relu(matrix @ matrix)
        start = time.perf_counter()
        for _ in range(200):
            product = torch.relu(product @ matrix)
            if time.perf_counter() - start > limit:
                break
        return time.perf_counter() - start

    try:
        alone = min(seconds(1) for _ in range(2))  # the better of two laps: one may meet a pause of the machine
        together = min(seconds(everything, alone) for _ in range(2))
        return everything if together < alone else 1
    finally:
        torch.set_num_threads(everything)


@contextmanager
def cpu_threads(count: int | None) -> Iterator[int]:
    """Let torch use ``count`` CPU threads within, or as many as are fastest; yields how many that is.

    NumPy's products are small everywhere here, so its BLAS uses one.
    """
    before = torch.get_num_threads()
    with threadpool_limits(1, user_api="blas"):  # first: torch may share the library, and then decides
        torch.set_num_threads(fastest_thread_count() if count is None else count)
        try:
            yield torch.get_num_threads()
        finally:
            torch.set_num_threads(before)
