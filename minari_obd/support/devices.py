"""Devices: where torch computes, on how many CPU threads, and where long work is kept."""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from minari_obd.errors import SettingError

__all__ = [
    "cache_root",
    "choose_device",
    "cpu_threads",
    "fastest_thread_count",
    "has_bfloat16",
    "matmul_precision",
    "product_precision",
    "product_type",
]


def cache_root() -> Path:
    """Folder of trained teachers and checkpoints: ``MINARI_OBD_CACHE``, else ``~/.cache/minari_obd``."""
    return Path(os.environ.get("MINARI_OBD_CACHE") or Path.home() / ".cache" / "minari_obd")


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


def product_type(precision: str, device: torch.device) -> torch.dtype | None:
    """Type that matrix products are to be made in; None for that of their operands.

    ``auto`` means bfloat16 on CPUs with instructions for its products, where they take half the time. It goes by what
    the processor says and not by a measurement, so that the same machine always gives the same bits.

    Raises:
        SettingError: TF32 was asked for, and the device is not CUDA.
    """
    if precision == "tf32" and device.type != "cuda":
        raise SettingError("Precision 'tf32' belongs to CUDA; on the CPU use 'auto', 'float32' or 'bfloat16'.")
    if precision == "bfloat16":
        return torch.bfloat16
    if precision == "auto" and device.type == "cpu":
        return torch.bfloat16 if has_bfloat16() else None
    return None


def product_precision(precision: str, device: torch.device) -> str:
    """What ``auto`` means on a device for products that torch itself makes; any other name is checked and returned.

    Raises:
        SettingError: an unknown name, or a kind that the device does not have.
    """
    known = ("auto", "float32", "bfloat16" if device.type == "cpu" else "tf32")
    if precision not in known:
        names = ", ".join(f"'{name}'" for name in known)
        raise SettingError(f"Precision '{precision}' is not to be had on the device '{device.type}'; it has {names}.")
    if precision == "bfloat16" and not has_bfloat16():
        raise SettingError("This processor has no products in bfloat16; use precision 'auto' or 'float32'.")
    if precision == "auto":
        return "bfloat16" if device.type == "cpu" and has_bfloat16() else "float32"
    return precision


def has_bfloat16() -> bool:
    """Whether the processor says that it has instructions for products in bfloat16."""
    has = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """Make torch's own products of float32 matrices in ``float32``, ``tf32`` or ``bfloat16`` within.

    Operands are rounded to that type, sums and results are float32. It is a setting of the whole process, and what
    the processor or GPU has no instructions for is made in float32.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision({"float32": "highest", "tf32": "high", "bfloat16": "medium"}[precision])
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


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
    """Let torch use ``count`` CPU threads within, or as many as are fastest; yields how many that is."""
    before = torch.get_num_threads()
    torch.set_num_threads(fastest_thread_count() if count is None else count)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
