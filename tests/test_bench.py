"""The bench: cells run once, a killed run goes on, and any number of processes gives the same table."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import minari
import numpy as np
import pyarrow.parquet as pq
import pytest
import ray

import minari_obd
from minari_obd.cli.application import main
from minari_obd.distillation.judging import judge_pairs, judge_teacher
from minari_obd.errors import FormatError, MinariObdError, NotFoundError, SettingError
from minari_obd.experiments import bench
from minari_obd.experiments.bench import run_grid
from minari_obd.experiments.cell import CellResult, Task, load_results
from minari_obd.experiments.densities import errors_by_density
from minari_obd.experiments.grid import Grid, load_grid
from minari_obd.experiments.table import BenchTable, write_results
from minari_obd.scores.published import published_score
from minari_obd.scores.references import ReferenceScores
from minari_obd.scores.report import EvaluationReport
from minari_obd.settings.protocols import ADAM_STUDENT, StudentProtocol
from minari_obd.settings.sections import EvaluationRecipe
from minari_obd.sources.benchmark import BENCHMARK
from minari_obd.sources.collecting import collect
from minari_obd.sources.loading import load_offline_data
from minari_obd.storage.files import write_text

HOPPER = "obd-bench/hopper/medium-v0"
GRIDS = "obd4.toml", "temperatures.toml"
TINY = f"""
datasets = ["{HOPPER}"]
methods = ["random", "pbc", "whole_data"]
sizes = [8, 16]
seeds = [0, 1]
[recipe.teacher]
algorithm = "td3_bc"
steps = 5
[recipe.student]
depth = 1
width = 16
steps = 10
[recipe.distillation]
kernel_steps = 5
steps = 4
batch_size = 64
evaluate_every = 2
[recipe.evaluation]
students = 2
episodes = 2
whole_data_steps = 5
"""
EXPLODING = {"broken": {"method": "dbc", "student": {"learning_rate": 1e30}}}
"""Whatever fails before a cell runs is found earlier."""


@pytest.fixture
def grid() -> Path:
    BENCHMARK[HOPPER].build(steps=600, progress=False)
    Path("tiny.toml").write_text(TINY)
    return Path("tiny.toml")


def values(results: list[CellResult]) -> list[tuple]:
    return [(r.key, r.method, r.size, r.seed, r.report.returns.tobytes(), r.offline_loss) for r in results]


def test_every_cell_is_run_once(grid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = run_grid(grid, "out", progress=False)
    # Two seeds of: the teacher (needed, so there), two methods of two sizes, and the whole data once.
    assert [(r.method, r.size) for r in results].count(("teacher", None)) == 2
    assert len(results) == 2 * (1 + 2 * 2 + 1)
    made = minari_obd.load_dataset(f"out/sets/{next(r.key for r in results if r.method == 'pbc')}")
    assert made.evaluation is not None
    assert len(list(Path("out/teachers").glob("*/training.csv"))) == 2
    assert minari_obd.verify("out/sets/" + next(r.key for r in results if r.method == "random")).passed
    monkeypatch.setattr(bench, "run_task", lambda *_, **__: pytest.fail("ran a finished cell again"))
    assert values(run_grid(grid, "out", progress=False)) == values(results)
    smaller = replace(load_grid(grid), seeds=[0])
    assert len(run_grid(smaller, "out", progress=False)) == 6


def test_processes_give_the_same_results(grid: Path) -> None:
    small = replace(load_grid(grid), sizes=[8], seeds=[0])
    alone = run_grid(small, "alone", progress=False)
    together = run_grid(small, "together", jobs=2, progress=False)
    assert values(alone) == values(together)


def test_other_protocols_judge_the_same_pairs_again(grid: Path) -> None:
    small = replace(load_grid(grid), methods=["random"], sizes=[8], seeds=[0])
    plain = run_grid(small, "out", progress=False)
    more = run_grid(replace(small, protocols=["fast", "layers_2"]), "out", jobs=2, progress=False)
    assert values(more[:1]) == values(plain)
    assert [(r.protocol, r.set_key, r.report.returns.shape) for r in more[1:]] == [
        ("fast", plain[0].key, (4, 5)),
        ("layers_2", plain[0].key, (10, 10)),
    ]
    pairs = minari_obd.load_dataset(f"out/sets/{plain[0].key}")
    again = minari_obd.evaluate(pairs, protocol="layers_2")
    assert np.array_equal(again.returns, more[2].report.returns)
    assert again.protocol == replace(StudentProtocol(), depth=1) == more[2].report.protocol
    table = BenchTable(more).to_markdown()
    assert "layers_2" in table.split("Other students")[1]


def test_variants_are_rows_of_their_own(grid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def changed(name: str) -> Grid:
        variants = {name: {"method": "random", "student": {"depth": 2}, "density": {"effective_fraction": 0.1}}}
        return replace(load_grid(grid), methods=["random"], sizes=[8], seeds=[0], protocols=["fast"], variants=variants)

    results = run_grid(changed("deeper"), "out", progress=False)
    rows = [("random", None), ("random (deeper)", None), ("random", "fast"), ("random (deeper)", "fast")]
    assert [(r.method, r.protocol) for r in results] == rows
    assert len({r.set_key for r in results}) == 2
    made = minari_obd.load_dataset(f"out/sets/{results[1].set_key}")
    assert made.provenance.method == "random"
    assert made.protocol == replace(ADAM_STUDENT, depth=2, width=16, steps=10)  # what is not changed stays
    text = BenchTable(results).to_markdown()
    assert text.index("| random | 8 |") < text.index("| random (deeper) | 8 |")
    # What it is called decides nothing: with another name nothing is run again, and the results take it.
    monkeypatch.setattr(bench, "run_task", lambda *_, **__: pytest.fail("ran a finished cell again"))
    again = run_grid(changed("two layers"), "out", progress=False)
    assert [r.key for r in again] == [r.key for r in results]
    assert again[1].method == "random (two layers)"
    assert {r.method for r in load_results(Path("out"))} == {"random", "random (two layers)"}
    assert np.array_equal(again[1].report.returns, results[1].report.returns)


def test_a_grid_of_temperatures_shares_its_cells_with_the_plain_one() -> None:
    recipes = Path(minari_obd.__file__).parents[1] / "recipes" / "bench"
    plain, tempered = ({cell.key("0", "1"): cell for cell in load_grid(recipes / name).cells()} for name in GRIDS)
    assert len(tempered) == 2 * 3 * (1 + 1 + 3 * 4)
    assert {tempered[key].method for key in tempered if key in plain} == {"teacher", "av_pbc", "sdw"}
    settings = {(c.recipe.density.estimator, c.recipe.density.effective_fraction) for c in tempered.values()}
    assert settings == {(e, f) for e in ("knn", "maf", "gmm") for f in (0.1, 0.3, 0.5, 0.8)}
    cell = next(cell for cell in tempered.values() if cell.variant == "maf, 0.3")
    assert cell.method == "sdw (maf, 0.3)"
    assert cell.recipe.distillation.steps == 150
    task = Task(cell, "a", "b", "c", "0")
    assert Task.from_json(json.loads(json.dumps(task.to_json()))) == task


def test_the_teacher_that_is_kept_beside_the_results_is_found(grid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_grid(replace(load_grid(grid), methods=["random", "pbc"], sizes=[8], seeds=[0]), "out", progress=False)
    monkeypatch.setenv("MINARI_OBD_CACHE", str(Path("empty").resolve()))
    found = errors_by_density("out", progress=False)
    assert [(each.method, each.errors.against) for each in found] == [("pbc", "teacher"), ("random", "teacher")]


def test_a_ray_cluster_gives_the_same_results(grid: Path) -> None:
    small = replace(load_grid(grid), methods=["pbc"], sizes=[8], seeds=[0], protocols=["fast"])
    alone = run_grid(small, "alone", progress=False)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        spread = run_grid(small, "spread", ray=True, progress=False)
        broken = replace(small, methods=["random"], variants=EXPLODING, protocols=[])
        with pytest.raises(MinariObdError, match=r"dbc \(broken\), 8 pairs, seed 0: "):
            run_grid(broken, "spread", ray=True, progress=False)
    finally:
        ray.shutdown()
    assert values(spread) == values(alone)
    set_key = next(r.key for r in alone if r.method == "pbc")
    pairs = [minari_obd.load_dataset(f"{out}/sets/{set_key}") for out in ("alone", "spread")]
    assert pairs[0].content_sha256 == pairs[1].content_sha256


def test_no_cluster_is_named(grid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(SettingError, match="There is no Ray cluster to join"):
        run_grid(grid, "out", ray=True, progress=False)


def test_a_run_that_is_killed_goes_on(grid: Path) -> None:
    whole = run_grid(grid, "whole", progress=False)
    command = [
        sys.executable,
        "-c",
        "from minari_obd.experiments.bench import run_grid; run_grid('tiny.toml', 'cut', jobs=2)",
    ]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        deadline = time.monotonic() + 300
        while len(list(Path("cut").glob("cells/*.json"))) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    kept = {path.name: path.stat().st_mtime_ns for path in Path("cut/cells").glob("*.json")}
    assert 3 <= len(kept) < len(whole)
    assert values(run_grid(grid, "cut", progress=False)) == values(whole)
    assert all(Path("cut/cells", name).stat().st_mtime_ns == when for name, when in kept.items())


def test_a_run_that_is_terminated_leaves_no_process_behind(grid: Path) -> None:
    Path("long.toml").write_text(TINY.replace("steps = 5\n", "steps = 100_000\n", 1))
    command = [
        sys.executable,
        "-c",
        "from minari_obd.experiments.bench import run_grid; run_grid('long.toml', 'cut', jobs=2)",
    ]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        deadline = time.monotonic() + 60
        while len(list(Path("cut").glob("logs/*.log"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        process.terminate()
        assert process.wait(60) != 0
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_cell_that_fails_is_named_and_the_others_are_finished(jobs: int, grid: Path) -> None:
    broken = replace(load_grid(grid), methods=["random"], variants=EXPLODING, sizes=[8], seeds=[0])
    with pytest.raises(MinariObdError, match=r"1 of 2 cell\(s\) failed, first .*dbc \(broken\), 8 pairs, seed 0: "):
        run_grid(broken, "out", jobs=jobs, progress=False)
    assert len(list(Path("out/cells").glob("*.json"))) == 1


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"sizes": [8, 100_000]}, "100000 pairs were asked for"),
        ({"recipe": {"evaluation": {"env": "Ant-v5"}}}, "the environment has 105 and 8"),
        ({"recipe": {"evaluation": {"env": "Nowhere-v0"}}}, "'Nowhere-v0' is not registered"),
        ({"variants": {"x": {"method": "dbc", "student": {"network": "cnn"}}}}, "no student network 'cnn'"),
    ],
)
def test_what_would_fail_is_found_before_the_first_cell(changes: dict, problem: str, grid: Path) -> None:
    with pytest.raises(MinariObdError, match=problem):
        run_grid(replace(load_grid(grid), **changes), "out", progress=False)
    assert not list(Path("out/cells").glob("*.json"))


def test_the_command_line_prints_the_table_and_leaves_every_return(
    grid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["bench", "tiny.toml", "--out", "out"])
    said = capsys.readouterr().out
    assert "| random | 8 |" in said
    assert "| (the teacher) | - |" in said
    assert "The papers' numbers are for other data" in said
    assert Path("out/table.md").read_text() in said
    rows = pq.ParquetFile("out/results.parquet")
    assert rows.metadata.num_rows == 12 * 4
    assert {"dataset", "method", "size", "seed", "student", "episode", "return", "score"} <= set(rows.schema.names)


def result(method: str, dataset: str, seed: int, score: float, *, size: int | None = 64) -> CellResult:
    returns = score + np.array([[-1.0, 1.0], [-2.0, 2.0]])
    report = EvaluationReport(returns, "E-v0", seed, ReferenceScores(0.0, 100.0, "x"))
    return CellResult(f"{method}{dataset}{seed}", dataset, method, size, seed, report, 1.0, 0.1)


def test_the_tables_figures_follow_from_the_results() -> None:
    results = [
        result(method, dataset, seed, score + 10 * number + seed, size=None if method == "teacher" else 64)
        for method, score in (("teacher", 50.0), ("pbc", 20.0))
        for number, dataset in enumerate(("obd-bench/hopper/medium-v0", "lab/x-v0"))
        for seed in (0, 1, 2)
    ]
    table = BenchTable(results)
    found = table.estimate("pbc", 64, "lab/x-v0")
    assert found is not None
    assert (found.mean, found.low, found.high) == pytest.approx((31.0, 30.0, 32.0))  # seeds: 30, 31, 32
    mean = table.mean("pbc", 64)
    assert mean is not None
    assert mean.mean == pytest.approx(26.0)
    text = table.to_markdown()
    assert text.index("pbc") < text.index("(the teacher)")
    assert "| pbc | 25.1 | - |" in text  # the papers', on Hopper medium
    write_results(results, Path())
    assert pq.ParquetFile("results.parquet").metadata.num_rows == len(results) * 4
    assert BenchTable(results[:1]).mean("teacher", None) is not None
    assert table.improvement(("teacher", None), ("pbc", 64)) == 1.0
    assert BenchTable(results[:-3]).improvement(("teacher", None), ("pbc", 64)) == 1.0  # where both have results
    assert table.improvement(("pbc", 64), ("sdw", 64)) is None
    partial = BenchTable(results[:9])
    assert partial.mean("pbc", 64) is None
    assert "| - |" in partial.to_markdown()


def test_units_are_named_and_never_mixed() -> None:
    """A teacher without a score beside students with one; returns of one dataset beside scores of another."""
    scored = [result(method, "lab/x-v0", 0, 50.0, size=64) for method in ("pbc", "sdw")]
    plain = [replace(r, dataset="lab/y-v0", report=replace(r.report, reference=None)) for r in scored]
    table = BenchTable([*scored, *plain])
    assert [table.unit(name) for name in table.datasets] == ["score", "return"]
    assert table.mean("pbc", 64) is None
    text = table.to_markdown()
    assert "`lab/x-v0`, score" in text
    assert "`lab/y-v0`, return" in text
    assert "mean" not in text
    mixed = BenchTable([scored[0], replace(scored[1], report=plain[1].report)])  # one row has no reference scores
    assert mixed.unit("lab/x-v0") == "return"
    for method in ("pbc", "sdw"):
        found = mixed.estimate(method, 64, "lab/x-v0")
        assert found is not None
        assert found.mean == pytest.approx(scored[0].report.mean_return.mean)
    assert mixed.improvement(("pbc", 64), ("sdw", 64)) == 0.5  # the same returns
    others = [replace(r, protocol="fast") for r in (*scored, *plain)]
    text = BenchTable([*scored, *plain, *others]).to_markdown()
    assert "| lab/x-v0, score | pairs | own | fast |" in text
    assert "| lab/y-v0, return | pairs | own | fast |" in text


def test_a_teacher_is_judged_on_the_scale_of_the_data() -> None:
    """Also where the table of reference scores does not have the environment."""

    class Still:
        def act(self, states: np.ndarray) -> np.ndarray:
            return np.zeros((len(states), 1), np.float32)

        def value(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
            return np.zeros(len(states))

    collect("lab/pendulum-v0", "Pendulum-v1", "random", steps=200, progress=False)
    own = ReferenceScores(-2_000.0, 0.0, "the dataset's metadata")
    minari.load_dataset("lab/pendulum-v0").storage.update_metadata({"ref_min_score": -2_000, "ref_max_score": 0})
    data = load_offline_data("lab/pendulum-v0")
    recipe = minari_obd.Recipe("lab/pendulum-v0", evaluation=EvaluationRecipe(1, 1, 5))
    report = judge_teacher(Still(), data, recipe)
    assert report.reference == own == judge_pairs(data, recipe).report.reference
    assert report.score.mean == pytest.approx(100 + report.mean_return.mean / 20)


def test_results_of_an_earlier_grid_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(task: Task, folder: Path) -> None:
        made = replace(result("random", "lab/x-v0", 0, 50.0, size=task.cell.size), key=task.key)
        write_text(task.result_file(folder), json.dumps(made.to_json()))

    collect("lab/x-v0", "Pendulum-v1", "random", steps=30, progress=False)
    monkeypatch.setattr(bench, "run_task", run)
    for sizes in ([8, 16], [8]):
        run_grid(Grid(["lab/x-v0"], ["random"], sizes, [0]), "out", progress=False)
        assert [each.size for each in load_results(Path("out"))] == sizes
    assert len(list(Path("out/cells").iterdir())) == 2  # what was measured is kept
    Path("out/grid.json").write_text("{}")
    with pytest.raises(FormatError, match="run the bench again"):
        load_results(Path("out"))


def test_published_scores_are_of_the_same_name() -> None:
    assert published_score("obd-bench/hopper/medium-v0", "sdw") == 38.4
    assert published_score("obd-bench/hopper/medium-replay-v0", "av_pbc") == 40.9
    assert published_score("obd-bench/hopper/medium-replay-v0", "sdw") is None
    assert published_score("lab/mine-v0", "sdw") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("methods = []", "methods is"),
        ('methods = ["sdv"]', "did you mean 'sdw'"),
        ("seeds = [0, 0]", "each once"),
        ("sizes = [0]", "size"),
        ("stray = 1", "stray"),
        ("[recipe]\nsize = 3", "which the grid itself lists; remove it there"),
        ('[variants.x]\nmethod = "teacher"', "needs a method that distils"),
        ("[variants.x]\ndensity = { estimator = 'gmm' }", "needs a method that distils"),
        ('[variants.x]\nmethod = "sdv"', "did you mean 'sdw'"),
        ('[variants.x]\nmethod = "sdw"\nseed = 3', "has 'seed'; a variant may only have method, values, density"),
        ('[variants.x]\nmethod = "sdw"\ndensity = { fraction = 0.2 }', r"variant 'x'.*density\.fraction"),
        ('[variants.x]\nmethod = "sdw"\ndensity = { effective_fraction = 2.0 }', "variant 'x'.*between 0 and 1"),
        ('[variants.x]\nmethod = "random"', r"'random' and 'random \(x\)' are the same"),
        ('[variants."a|b"]\nmethod = "sdw"', "A variant is named"),
        ("[recipe.teecher]\nsteps = 3", "teecher"),
        ("not toml", "is not TOML"),
    ],
)
def test_a_wrong_grid_is_named(change: str, message: str) -> None:
    name = change.split(" ")[0]
    kept = [line for line in (f'datasets = ["{HOPPER}"]', 'methods = ["random"]') if not line.startswith(name)]
    Path("grid.toml").write_text("\n".join([*kept, change]))
    with pytest.raises((FormatError, SettingError, NotFoundError), match=message):
        load_grid("grid.toml")


def test_no_jobs_are_none(grid: Path) -> None:
    with pytest.raises(SettingError, match="jobs"):
        run_grid(grid, "out", jobs=0)


def test_a_missing_grid_is_named() -> None:
    with pytest.raises(NotFoundError, match=r"There is no grid 'none\.toml'"):
        load_grid("none.toml")


@pytest.mark.parametrize("damaged", ['{"report": {}}', "", "[]", '"x"', "\x00\x80"])
def test_a_damaged_result_is_set_aside_and_made_again(grid: Path, damaged: str) -> None:
    single = Grid([HOPPER], ["random"], [8], [0], recipe={"evaluation": {"students": 1, "episodes": 1}})
    (result,) = run_grid(single, "out", progress=False)
    path = Path(f"out/cells/{result.key}.json")
    path.write_text(damaged)
    with pytest.raises(FormatError, match="run the bench again, which makes it anew"):
        load_results(Path("out"))
    with pytest.warns(UserWarning, match=f"is not the result of a cell.*set aside as '{path.name}.damaged'"):
        (again,) = run_grid(single, "out", progress=False)
    assert again.report.returns.tobytes() == result.report.returns.tobytes()
    assert path.with_name(f"{path.name}.damaged").read_text() == damaged


def test_results_are_not_written_among_other_things(grid: Path) -> None:
    single = Grid([HOPPER], ["random"], [8], [0], recipe={"evaluation": {"students": 1, "episodes": 1}})
    (result,) = run_grid(single, "out", progress=False)
    with pytest.raises(SettingError, match=r"It holds a distilled dataset, for load_dataset\. Give another folder"):
        run_grid(single, f"out/sets/{result.set_key}", progress=False)
    path = Path(f"out/cells/{result.key}.json")
    path.unlink()
    path.mkdir()
    with pytest.warns(UserWarning, match=f"set aside as '{path.name}.damaged'"):
        run_grid(single, "out", progress=False)
    assert path.is_file()


def test_a_damaged_set_is_made_again_before_it_is_judged_under_another_protocol(grid: Path) -> None:
    given = {"evaluation": {"students": 1, "episodes": 1}, "student": {"depth": 1, "width": 4, "steps": 2}}
    single = Grid([HOPPER], ["random"], [8], [0], recipe=given)
    (result,) = run_grid(single, "out", progress=False)
    obd = Path(f"out/sets/{result.set_key}/obd.json")
    whole = json.loads(obd.read_text())["pairs_sha256"]
    for spoil in (lambda: obd.write_text(obd.read_text()[:-100]), obd.unlink):
        spoil()
        with pytest.warns(UserWarning, match=f"set aside as '{result.set_key}.damaged'"):
            run_grid(replace(single, protocols=["layers_2"]), "out", progress=False)
        assert json.loads(obd.read_text())["pairs_sha256"] == whole
        (last,) = (each for each in load_results(Path("out")) if each.protocol == "layers_2")
        Path(f"out/cells/{last.key}.json").unlink()


def test_the_recipes_of_the_package_are_grids() -> None:
    recipes = list((Path(minari_obd.__file__).parents[1] / "recipes" / "bench").glob("*.toml"))
    assert recipes
    for path in recipes:
        assert load_grid(path).cells()
