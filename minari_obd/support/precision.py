"""Precision of matrix products: which kinds a device really makes is found by making some."""

import hashlib
import json
import math
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch

from minari_obd.errors import SettingError
from minari_obd.support.devices import cache_root, cpu_threads

__all__ = [
    "has_fast_bfloat16",
    "has_rounded_products",
    "kept_precision",
    "matmul_precision",
    "product_precision",
    "product_type",
]

_SETTINGS = {"float32": "highest", "tf32": "high", "bfloat16": "medium"}
_STEPS = {"tf32": 2.0**-10, "bfloat16": 2.0**-7}  # from 1 to the next number of the type

_SIDE = 256  # of the matrices that are tried: the width of the paper's student
_LAPS = 20, 200  # at least, and at most
_SECONDS = 0.5  # after which no more than the least are made
_FAST = 0.75  # most time of a bfloat16 product, as a share of a float32 product's


def product_type(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the type that a student's operands are cast to before they are multiplied; None for no cast.

    ``auto`` means bfloat16 on CPUs where :func:`has_fast_bfloat16`. ``bfloat16`` works everywhere, and can be far
    slower than float32. TF32 needs no cast; :func:`matmul_precision` switches it on.

    Raises:
        SettingError: TF32 was asked for, and the device does not have it.
    """
    if precision == "tf32":
        if device.type != "cuda":
            raise SettingError("Precision 'tf32' belongs to CUDA; on the CPU use 'auto', 'float32' or 'bfloat16'.")
        _check_rounded(precision, device)
    is_automatic = precision == "auto" and device.type == "cpu" and has_fast_bfloat16()
    return torch.bfloat16 if precision == "bfloat16" or is_automatic else None


def product_precision(precision: str, device: torch.device) -> str:
    """Return what ``auto`` means for products of float32 matrices on a device; check any other name and return it.

    ``auto`` means bfloat16 on CPUs that really round in :func:`matmul_precision`. Where that has no effect, products
    stay in float32, even if those of bfloat16 matrices are fast: a teacher's networks are d3rlpy's, and casting inside
    them has not been measured.

    Raises:
        SettingError: an unknown name, or a kind that the device does not have.
    """
    low = "bfloat16" if device.type == "cpu" else "tf32"
    if precision not in ("auto", "float32", low):
        raise SettingError(
            f"There is no precision '{precision}' on the device '{device.type}'; it has 'auto', 'float32' and '{low}'."
        )
    if precision == low:
        _check_rounded(precision, device)
    if precision == "auto":
        return "bfloat16" if device.type == "cpu" and has_rounded_products("bfloat16", device) else "float32"
    return precision


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """Make torch's own products of float32 matrices in ``float32``, ``tf32`` or ``bfloat16`` within.

    Operands are rounded to that type; sums and results are float32. It is a setting of the whole process. Some
    devices ignore it and multiply in float32: :func:`has_rounded_products` tells.
    """
    with kept_precision():
        torch.set_float32_matmul_precision(_SETTINGS[precision])
        yield


@contextmanager
def kept_precision() -> Iterator[None]:
    """Put torch's settings of products of float32 matrices back at the end.

    There is one for all devices, and in newer versions of torch one for each. Where these are set apart, asking for the
    one for all is an error.
    """
    backends: Any = torch.backends
    is_newer = hasattr(backends.cuda.matmul, "fp32_precision")
    parts = [backends.cuda.matmul, backends.mkldnn.matmul] if is_newer else []
    before, for_all = [part.fp32_precision for part in parts], None
    with suppress(RuntimeError):
        for_all = torch.get_float32_matmul_precision()
    try:
        yield
    finally:
        if for_all is not None:
            torch.set_float32_matmul_precision(for_all)
        for part, kept in zip(parts, before, strict=True):
            part.fp32_precision = kept


@cache
def has_rounded_products(precision: str, device: torch.device) -> bool:
    """Whether ``tf32`` or ``bfloat16`` really rounds in :func:`matmul_precision` on a device, found by one product.

    All operands are a quarter of a step above 1. Rounded, they are 1, and each entry of the product is a sum of ones.
    """
    operand = torch.full((_SIDE, _SIDE), 1.0 + _STEPS[precision] / 4, device=device)
    with matmul_precision(precision):
        product = operand @ operand
    return bool((product == _SIDE).all())


@cache
def has_fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in at most 3/4 of the time that it takes for float32.

    This is measured once a machine. The answer is kept in the cache folder, named after the processor and torch, and
    used from then on, so that the same machine gives the same bits, however busy it is. An answer that cannot be read
    is measured again. Without a folder to write to, each process measures.
    """
    machine = _machine()
    identity = json.dumps(machine, sort_keys=True)
    path = cache_root() / "products" / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.json"
    known = _kept(path)
    if known is None:
        share = _bfloat16_share()
        known = _kept(path)  # another process may have measured at the same time; its answer came first
        if known is None:
            known = share <= _FAST
            _keep(path, {"has_fast_bfloat16": known, "bfloat16_share": round(share, 3), **machine})
    return known


def _check_rounded(precision: str, device: torch.device) -> None:
    if not has_rounded_products(precision, device):
        kind = "GPU" if device.type == "cuda" else "processor"
        raise SettingError(
            f"This {kind} has no products in {precision} for float32 matrices: torch makes them in float32 here. "
            "Use precision 'auto' or 'float32'."
        )


def _bfloat16_share() -> float:
    """Return the time of a bfloat16 product as a share of a float32 product's.

    Both take turns on one thread and the shortest lap of each counts, so that other work on the machine, which can only
    make laps longer, hardly matters.
    """
    wide = torch.full((_SIDE, _SIDE), 1.0 / _SIDE)
    times = [(wide, [math.inf]), (wide.bfloat16(), [math.inf])]
    least, most = _LAPS
    with cpu_threads(1), matmul_precision("float32"):
        begun = time.perf_counter()
        for lap in range(most):
            if lap >= least and time.perf_counter() - begun > _SECONDS:
                break
            for matrix, laps in times:
                start = time.perf_counter()
                torch.mm(matrix, matrix)
                laps.append(time.perf_counter() - start)
    (_, exact), (_, rounded) = times
    return min(rounded) / min(exact)


def _machine() -> dict[str, Any]:
    """Describe what decides how fast products are: the processor, torch, and what torch may use of the processor."""
    says = getattr(torch.cpu, "get_capabilities", dict)()
    return {
        "processor": says.get("cpu_name") or platform.processor() or platform.machine(),
        "instructions": sorted(name for name, has in says.items() if has is True),
        "torch": torch.__version__,
        "used_by_torch": [torch.backends.cpu.get_cpu_capability(), os.environ.get("ONEDNN_MAX_CPU_ISA")],
    }


def _kept(path: Path) -> bool | None:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))["has_fast_bfloat16"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return known if isinstance(known, bool) else None


def _keep(path: Path, answer: dict[str, Any]) -> None:
    temporary = path.with_suffix(f".{os.getpid()}")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_text(json.dumps(answer, indent=2), encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
