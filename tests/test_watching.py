"""Watching a bench: what its files say while it runs, when it was killed, and at its end."""

import io
import json
import subprocess
import threading
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from rich.console import Console
from test_bench import HOPPER, TINY

from minari_obd.cli.application import main
from minari_obd.errors import FormatError, NotFoundError
from minari_obd.experiments import watching
from minari_obd.experiments.status import CellStatus
from minari_obd.experiments.watching import BenchProgress, read_progress, watch_bench
from minari_obd.sources.benchmark import BENCHMARK
from minari_obd.storage.files import write_text
from minari_obd.support.children import child_of

LONG = TINY.replace("sizes = [8, 16]\nseeds = [0, 1]", "sizes = [8]\nseeds = [0]").replace(
    'methods = ["random", "pbc", "whole_data"]', 'methods = ["random"]'
)
LONG += """
[variants.broken]
method = "dbc"
student = { learning_rate = 1e30 }
[variants.endless]
method = "dbc"
distillation = { kernel_steps = 1000000 }
"""


def bench_process() -> "subprocess.Popen[bytes]":
    """The bench of a cell that is done at once, one that fails and one that never ends."""
    BENCHMARK[HOPPER].build(steps=600, progress=False)
    Path("long.toml").write_text(LONG)
    arguments, variables = child_of("minari_obd.cli.application", variables={"OMP_NUM_THREADS": "1"})
    code = "from minari_obd.cli.application import main; main(['bench', 'long.toml', '--out', 'out'])"
    return subprocess.Popen(
        [arguments[0], "-c", code], env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def states(progress: BenchProgress) -> dict[str, str]:
    return {cell.label.split(", ")[1]: state for state, cell in progress.cells}


def test_a_running_bench_is_watched_until_it_is_killed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watching, "_SECONDS", 0.1)
    process = bench_process()
    try:
        end = time.monotonic() + 300
        while time.monotonic() < end and process.poll() is None:
            if Path("out/status.json").is_file() and read_progress("out").count("running"):
                progress = read_progress("out")
                if states(progress).get("dbc (endless)") == "running":
                    break
            time.sleep(0.1)
        assert process.poll() is None
        progress = read_progress("out")
        assert progress.is_running
        assert states(progress) == {"random": "done", "dbc (broken)": "failed", "dbc (endless)": "running"}
        assert progress.seconds_left is not None
        main(["watch", "out", "--once"])
        said = capsys.readouterr().out
        assert "1 of 3 cells done, 1 running, 1 failed; about " in said
        assert "finite" in said  # why it failed
        threading.Timer(0.5, process.kill).start()
        pictures = io.StringIO()
        last = watch_bench("out", console=Console(file=pictures, force_terminal=True, width=100))
    finally:
        process.kill()
        process.wait()
    assert not last.is_running
    assert states(last) == {"random": "done", "dbc (broken)": "failed", "dbc (endless)": "interrupted"}
    assert last.seconds_left is None
    assert last.headline.endswith("no bench runs here now: the same command goes on where it was")
    assert "interrupted" in pictures.getvalue()


def test_time_left_is_that_of_cells_of_the_same_kind() -> None:
    def cell(kind: str, began: float | None = None, ended: float | None = None) -> CellStatus:
        return CellStatus(kind, kind, began, ended)

    done = [("done", cell("a", 0, 10)), ("done", cell("a", 0, 20)), ("done", cell("b", 0, 60))]
    now = [("running", cell("a", 95)), ("running", cell("b", 70))]
    rest = [("waiting", cell("b")), ("waiting", cell("new"))]
    progress = BenchProgress([*done, *now, *rest], is_running=True, now=100.0)  # pyright: ignore[reportArgumentType]
    # a: 15 in the mean, 5 gone; b: 60, 30 gone; b: 60; new: 30, the mean of all. Two at a time.
    assert progress.seconds_left == pytest.approx((10 + 30 + 60 + 30) / 2)
    assert "3 of 7 cells done, 2 running, 2 waiting; about 1 min left" in progress.headline
    assert BenchProgress([*now, *rest], is_running=True, now=100.0).seconds_left is None  # pyright: ignore[reportArgumentType]


def test_what_is_no_bench_or_damaged_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="There is no bench in"):
        read_progress(tmp_path)
    write_text(tmp_path / "grid.json", json.dumps({"cells": ["a", "b"]}))
    assert read_progress(tmp_path).headline.startswith("0 of 2 cells done, 2 waiting")  # of an older version
    write_text(tmp_path / "status.json", json.dumps({"cells": {"a": asdict(CellStatus("[bold]x", "k", 1.0))}}))
    text = Console(file=io.StringIO(), width=80)
    text.print(read_progress(tmp_path).render())
    assert "[bold]x" in text.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]  # names are no markup
    write_text(tmp_path / "status.json", "{}")
    with pytest.raises(FormatError, match="is damaged"):
        read_progress(tmp_path)
    write_text(tmp_path / "grid.json", "[]")
    with pytest.raises(FormatError, match="is damaged"):
        read_progress(tmp_path)
