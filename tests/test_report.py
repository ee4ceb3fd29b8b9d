"""The report: a page that needs nothing else, with what cannot be drawn said in its place; frames are real pictures."""

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import make_pairs, make_teacher

from minari_obd.cli.application import main
from minari_obd.distilled.loading import load_dataset
from minari_obd.errors import DataError, MinariObdError, NotFoundError
from minari_obd.experiments import densities as bench_densities
from minari_obd.experiments.bench import run_grid
from minari_obd.experiments.cell import CellResult, load_results
from minari_obd.experiments.densities import density_table, errors_by_density
from minari_obd.experiments.diagnostics import diagnose_sets
from minari_obd.experiments.figures import _colours
from minari_obd.experiments.frames import render_pairs
from minari_obd.experiments.grid import Grid
from minari_obd.experiments.report import write_report
from minari_obd.experiments.teachers import read_logs
from minari_obd.scores.references import ReferenceScores
from minari_obd.scores.report import EvaluationReport
from minari_obd.sources.benchmark import BENCHMARK
from minari_obd.storage.files import write_text

HOPPER = "obd-bench/hopper/medium-v0"
SMALL = {
    "teacher": {"algorithm": "td3_bc", "steps": 5},
    "student": {"depth": 1, "width": 16, "steps": 10},
    "distillation": {"kernel_steps": 5, "steps": 4, "batch_size": 64, "evaluate_every": 2},
    "evaluation": {"students": 2, "episodes": 2, "whole_data_steps": 5},
}


@pytest.fixture
def results() -> Path:
    BENCHMARK[HOPPER].build(steps=600, progress=False)
    grid = Grid([HOPPER], ["random", "dbc", "whole_data"], [8, 16], [0, 1], SMALL, ["fast"])
    run_grid(grid, "out", progress=False)
    return Path("out")


def images(page: str) -> dict[str, bytes]:
    found = re.findall(r'<img alt="([^"]+)" src="data:image/png;base64,([^"]+)">', page)
    return {alt.split(":")[0]: base64.b64decode(data) for alt, data in found}


def test_the_page_holds_every_section_and_needs_nothing_else(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MUJOCO_GL", "none")  # a renderer that does not exist
    main(["report", "out", "--diagnose", "--command", "minari-obd bench <grid>"])
    assert "Written: out/report.html" in capsys.readouterr().out
    page = (results / "report.html").read_text()
    shown = images(page)
    assert set(shown) == {"students", "sizes", "learning", "pairs", "deciles"}
    for name, picture in shown.items():
        assert picture.startswith(b"\x89PNG")
        assert (results / "figures" / f"{name}-obd-bench-hopper-medium-v0.png").read_bytes() == picture
    assert "MuJoCo cannot draw here" in page
    assert "minari-obd bench &lt;grid&gt;" in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    for word in ("random", "dbc", "behavioural cloning, whole data", "fast", "seconds to clone", "mujoco"):
        assert word in page
    assert "What explains the scores" in page
    assert "<th>random, 16</th>" in page
    assert "100%" in page  # copies: random pairs are real rows
    assert "How the teachers were trained" not in page
    assert len(list((results / "diagnostics").glob("*.json"))) == 2
    assert len(list((results / "error_by_density").glob("*.json"))) == 4  # of both seeds
    first = page
    write_report(results, command="minari-obd bench <grid>", progress=False)
    assert (results / "report.html").read_text() == first  # the same results, the same page


def test_a_source_that_is_gone_is_said(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "none")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(Path("elsewhere").resolve()))
    page = write_report(results, progress=False).read_text()
    assert "the source is not on this machine" in page
    assert "learning" in images(page)


def test_demos_play_the_best_set_of_each_dataset(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "none")
    best = max(
        (each for each in load_results(results) if each.set_key and (each.size, each.seed) == (16, 0)),
        key=lambda each: each.report.mean_return.mean,
    )
    main(["report", "out", "--demo"])
    page = (results / "demo-obd-bench-hopper-medium-v0.html").read_text()
    assert f"{best.size} (observation, action) pairs, distilled by the method {best.method}" in page
    assert 'href="demo-obd-bench-hopper-medium-v0.html"' in (results / "report.html").read_text()
    for file in (results / "sets").glob("*/obd.json"):
        file.unlink()
    write_report(results, demo=True, progress=False)
    assert "obd.json" in (results / "report.html").read_text()  # why there is none, in its place


def test_what_was_measured_of_sets_is_kept_and_shown(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    diagnose_sets(results, load_results(results), progress=False)
    for file in (results / "diagnostics").glob("*.json"):  # as they were before there were errors by density
        held = json.loads(file.read_text())
        del held["error_by_density"]
        file.write_text(json.dumps(held))
    page = write_report(results, progress=False).read_text()
    assert "<th>random, 16</th>" in page
    assert "deciles" not in images(page)
    assert "Errors at rare and common states" not in page
    found = errors_by_density(results, progress=False)
    assert [(each.method, each.size, each.seed) for each in found] == [
        (method, size, seed) for method in ("dbc", "random") for size in (8, 16) for seed in (0, 1)
    ]
    with monkeypatch.context() as patch:
        patch.setattr(bench_densities, "error_by_density", lambda *_, **__: pytest.fail("measured again"))
        assert errors_by_density(results, progress=False) == found
    assert len(density_table(found).splitlines()) == 2 + 4
    damaged = next((results / "error_by_density").glob("*.json"))
    damaged.write_text("{}")
    with pytest.warns(UserWarning, match=f"set aside as '{damaged.name}.damaged'"):
        assert errors_by_density(results, progress=False) == found


def trained(seed: int, log: str | None, algorithm: str = "iql") -> None:
    """A teacher's cell among results, and what a bench keeps of the teacher."""
    report = EvaluationReport(np.array([[1.0, 2.0]]), "E-v0", seed, ReferenceScores(0.0, 100.0, "x"))
    result = CellResult(f"{algorithm}{seed}", "lab/x-v0", "teacher", None, seed, report, 1.0, 0.0)
    write_text(Path(f"out/cells/{result.key}.json"), json.dumps(result.to_json()))
    make_teacher(seed, details={"algorithm": algorithm}).save(f"out/teachers/{result.key}")
    if log is not None:
        Path(f"out/teachers/{result.key}/training.csv").write_text(log)


LOG = "update,critic_loss,v_loss,mean_value\n500,2.5,-0.5,1\n1000,0.01,,3\n1250,1.5,0.25,nan\n"


def test_the_page_shows_how_teachers_were_trained() -> None:
    trained(0, LOG)
    trained(1, None)
    assert list(read_logs(Path("out"), load_results(Path("out")))) == ["iql, seed 0"]
    trained(1, LOG.replace("0.01", "0.02"))
    trained(0, "update,critic_loss,mean_value\n500,1,2\n", "td3_bc")
    logs = read_logs(Path("out"), load_results(Path("out")))
    assert sorted(logs) == ["iql, seed 0", "iql, seed 1", "td3_bc, seed 0"]
    assert logs["iql, seed 1"]["critic_loss"].tolist() == [2.5, 0.02, 1.5]
    assert np.isnan(logs["iql, seed 0"]["v_loss"][1])
    page = write_report("out", progress=False).read_text()
    assert "How the teachers were trained" in page
    assert images(page)["training"] == Path("out/figures/training-lab-x-v0.png").read_bytes()
    for damage in ("", "update,mean_value\n500,much\n", "mean_value\n3\n", "update,mean_value\n500\n,2\n"):
        trained(0, damage)
        with pytest.warns(UserWarning, match=r"is not a log of .*training\.csv\.damaged', and what is shown lacks it"):
            write_report("out", progress=False)
        assert sorted(read_logs(Path("out"), load_results(Path("out")))) == ["iql, seed 1", "td3_bc, seed 0"]


def test_every_variant_has_a_colour_of_its_own() -> None:
    names = ["sdw", *(f"sdw ({number})" for number in range(11)), "teacher"]
    assert len(set(_colours(names).values())) == len(names)


def test_no_results_are_no_report() -> None:
    Path("empty").mkdir()
    with pytest.raises(NotFoundError, match="There are no results in 'empty'"):
        write_report("empty", progress=False)


def test_frames_show_states_and_what_follows(results: Path) -> None:
    pairs = load_dataset(next((results / "sets").glob("*")))
    try:
        frames = render_pairs(pairs, count=3, picture_size=64)
    except MinariObdError as error:
        pytest.skip(str(error))
    assert frames.states.shape == frames.successors.shape == (3, 64, 64, 3)
    assert not np.array_equal(frames.states[0], frames.states[2])
    assert not np.array_equal(frames.states, frames.successors)
    assert frames.states.std() > 5  # something is to be seen
    again = render_pairs(pairs, count=3, picture_size=64)
    assert np.array_equal(again.states, frames.states)


def test_frames_of_what_cannot_be_simulated_are_refused() -> None:
    pairs = make_pairs(env_id="Ant-v5")
    with pytest.raises(DataError):
        render_pairs(pairs)
