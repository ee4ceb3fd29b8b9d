"""Precision of matrix products: what this machine does, and what is made of either answer."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from minari_obd.errors import SettingError
from minari_obd.support import precision as products
from minari_obd.support.devices import cache_root
from minari_obd.support.precision import (
    has_fast_bfloat16,
    has_rounded_products,
    matmul_precision,
    product_precision,
    product_type,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def shares(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the next measurements find; to measure more often than that is an error."""
    found: list[float] = []
    monkeypatch.setattr(products, "_bfloat16_share", lambda: found.pop(0))
    return found


def ask() -> bool:
    """Ask as a new process would."""
    return has_fast_bfloat16.__wrapped__()


def shortest(matrix: Tensor) -> float:
    """Seconds of a product, the best of twenty."""
    laps = []
    for _ in range(20):
        start = time.perf_counter()
        torch.mm(matrix, matrix)
        laps.append(time.perf_counter() - start)
    return min(laps)


def test_this_processor_rounds_float32_products_if_and_only_if_it_says_so() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(128, 128), torch.randn(128, 128)
    exact = a @ b
    with matmul_precision("bfloat16"):
        made = a @ b
    if has_rounded_products("bfloat16", CPU):
        torch.testing.assert_close(made, a.bfloat16().float() @ b.bfloat16().float(), rtol=1e-5, atol=1e-4)
        assert (made - exact).abs().max() > 1e-3
    else:
        torch.testing.assert_close(made, exact, rtol=1e-5, atol=1e-4)
    assert torch.equal(a @ b, exact)  # outside, nothing has changed


def test_this_processor_is_faster_in_bfloat16_if_and_only_if_it_says_so() -> None:
    matrix = torch.randn(512, 512)
    share = shortest(matrix.bfloat16()) / shortest(matrix)
    assert share < 1.0 if has_fast_bfloat16() else share > 0.5


@pytest.mark.cuda
def test_this_gpu_rounds_to_tf32_if_and_only_if_it_says_so() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(256, 256, device=CUDA), torch.randn(256, 256, device=CUDA)
    with matmul_precision("tf32"):
        made = a @ b
    error = (made.double() - a.double() @ b.double()).abs().max()
    assert (error > 1e-3) == has_rounded_products("tf32", CUDA)


@pytest.mark.parametrize("rounding", [torch.round, torch.floor])
@pytest.mark.parametrize("kept", [7, 10, 23])
def test_rounding_is_seen_in_a_product(
    kept: int, rounding: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Devices keep so many bits of operands, and round to the nearest or towards zero."""
    scale = 2.0**kept
    monkeypatch.setattr(
        Tensor, "__matmul__", lambda a, b: (rounding(a * scale) / scale).mm(rounding(b * scale) / scale)
    )
    for precision, bits in (("tf32", 10), ("bfloat16", 7)):
        assert has_rounded_products.__wrapped__(precision, CPU) == (kept <= bits)


def test_each_mechanism_goes_by_its_own_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    for is_fast in (True, False):
        for rounds in (True, False):
            monkeypatch.setattr(products, "has_fast_bfloat16", lambda is_fast=is_fast: is_fast)
            monkeypatch.setattr(products, "has_rounded_products", lambda *_, rounds=rounds: rounds)
            assert product_type("auto", CPU) == (torch.bfloat16 if is_fast else None)
            assert product_type("bfloat16", CPU) == product_type("bfloat16", CUDA) == torch.bfloat16
            assert product_type("float32", CPU) is product_type("auto", CUDA) is None
            assert product_precision("auto", CPU) == ("bfloat16" if rounds else "float32")
            assert product_precision("auto", CUDA) == product_precision("float32", CPU) == "float32"
            if rounds:
                assert product_precision("bfloat16", CPU) == "bfloat16"
                assert product_precision("tf32", CUDA) == "tf32"
                assert product_type("tf32", CUDA) is None
                continue
            with pytest.raises(SettingError, match="processor has no products in bfloat16"):
                product_precision("bfloat16", CPU)
            for chosen in (product_precision, product_type):
                with pytest.raises(SettingError, match="GPU has no products in tf32"):
                    chosen("tf32", CUDA)


@pytest.mark.parametrize(("share", "is_fast"), [(0.1, True), (0.75, True), (0.76, False), (40.0, False)])
def test_bfloat16_must_be_clearly_faster(share: float, is_fast: bool, shares: list[float]) -> None:
    shares.append(share)
    assert ask() == is_fast


def test_a_machine_is_measured_once_and_another_one_anew(shares: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    shares[:] = [0.74, 0.76]
    assert ask()
    assert ask()  # kept: a second measurement at the border would have said no
    with monkeypatch.context() as changed:
        changed.setattr(torch, "__version__", "another")
        assert not ask()
        assert not ask()
    assert ask()
    kept = [json.loads(path.read_text()) for path in (cache_root() / "products").iterdir()]
    assert sorted(each["bfloat16_share"] for each in kept) == [0.74, 0.76]


def test_of_two_processes_that_measure_together_the_first_answer_holds(
    shares: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure() -> float:
        monkeypatch.setattr(products, "_bfloat16_share", lambda: 0.74)
        assert ask()  # the other process, in the meantime
        return 0.76

    monkeypatch.setattr(products, "_bfloat16_share", measure)
    assert ask()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"1", b'{"has_fast_bfloat16": "yes"}', b"\xff\xfe"])
def test_an_answer_that_cannot_be_read_is_measured_again(content: bytes, shares: list[float]) -> None:
    shares[:] = [0.5, 0.5]
    assert ask()
    (path,) = (cache_root() / "products").iterdir()
    path.write_bytes(content)
    assert ask()
    assert ask()
    assert shares == []
    assert list(path.parent.iterdir()) == [path]


def test_without_a_folder_to_write_to_the_answer_is_the_same(
    shares: list[float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    shares[:] = [0.5, 40.0]
    monkeypatch.setenv("MINARI_OBD_CACHE", str(tmp_path / "file"))
    assert ask()
    assert not ask()  # measured again
    assert (tmp_path / "file").read_text() == ""


def test_measuring_leaves_torch_as_it_was() -> None:
    torch.manual_seed(3)
    before = torch.get_num_threads(), torch.get_float32_matmul_precision(), torch.get_rng_state()
    assert products._bfloat16_share() > 0.0
    has_rounded_products.__wrapped__("bfloat16", CPU)
    after = torch.get_num_threads(), torch.get_float32_matmul_precision(), torch.get_rng_state()
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])


NEWER = "torch.backends.cuda.matmul.fp32_precision"


def in_a_process_of_its_own(code: str) -> list[str]:
    """These settings are the whole process's."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch has no newer settings")
@pytest.mark.parametrize("kept", ["tf32", "ieee"])
def test_settings_by_torchs_newer_names_are_no_trouble_and_stay(kept: str) -> None:
    code = f"""
import torch
from minari_obd.support.precision import matmul_precision
{NEWER} = {kept!r}
for name in ("float32", "tf32", "bfloat16"):
    with matmul_precision(name):
        print({NEWER})
    assert {NEWER} == {kept!r}
"""
    assert in_a_process_of_its_own(code) == ["ieee", "tf32", "tf32"]


def test_d3rlpy_leaves_products_as_they_were_on_a_gpu() -> None:
    """Where torch finds a GPU, importing d3rlpy switches TF32 on for the whole process."""
    code = """
import torch
from minari_obd.support.libraries import import_d3rlpy
torch.cuda.is_available = lambda: True
import_d3rlpy()
print(torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32)
"""
    assert in_a_process_of_its_own(code) == ["highest", "False"]
