"""Reports of fine-tuning, the rule of the reminder's weight, and grids of arms."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import minari_obd
from minari_obd.cli.application import main
from minari_obd.errors import DataError, FormatError, NotFoundError, SettingError
from minari_obd.finetuning.grid import arms_table, load_arms, run_arms
from minari_obd.finetuning.reminder import Reminder, return_floor
from minari_obd.finetuning.report import FinetuneReport, draw_reports, mean_curve
from minari_obd.scores.references import ReferenceScores
from minari_obd.scores.report import EvaluationReport
from minari_obd.settings.finetuning import FinetuningRecipe
from minari_obd.sources.benchmark import BENCHMARK

RECIPES = Path(__file__).parents[1] / "recipes" / "finetune"


def make_report(means: list[float], *, seed: int = 0, label: str = "a", scored: bool = True) -> FinetuneReport:
    """A report with these mean returns at steps 0, 100, 200, ..., two episodes each."""
    return FinetuneReport(
        env_id="Hopper-v5",
        seed=seed,
        steps=np.arange(len(means)) * 100,
        returns=np.array(means)[:, None] + np.array([-1.0, 1.0]),
        bc_weights=np.linspace(0.4, 0.0, len(means)),
        training_steps=np.array([40, 90]),
        training_returns=np.array([3.0, 4.0]),
        settings=FinetuningRecipe(warmup=10),
        reference=ReferenceScores(0.0, 200.0, "made up") if scored else None,
        label=label,
    )


def moved(
    settings: FinetuningRecipe, weight: float, average: float, current: float, length: int, *, floor: float
) -> tuple[float, float]:
    """The weight and the average return after one episode."""
    reminder = Reminder(settings)
    reminder.weight, reminder.average, reminder.floor = weight, average, floor
    reminder.after_episode(current, length, warm=[])
    return reminder.weight, reminder.average


@pytest.mark.parametrize(
    ("weight", "average", "current", "length", "expected"),
    [
        (0.4, 0.05, 0.05, 1_000, 0.4 - 1_000 * 3e-5 * 1.0),  # one unit below the target
        (0.4, 0.45, 0.45, 500, 0.4 - 500 * 3e-5 * 0.6),  # nearer to it, and shorter
        (0.2, 0.55, 0.05, 1_000, 0.2 - 1_000 * 3e-5 * 0.5 + 1_000 * 1e-4 * 0.5),  # a collapse
        (0.2, 0.05, 0.85, 1_000, 0.2 - 1_000 * 3e-5),  # a jump is worth no more than staying
        (0.01, 0.05, 0.05, 1_000, 0.0),
        (0.39, 1.05, 0.05, 1_000, 0.4),
    ],
)
def test_the_reminder_fades_unless_returns_collapse(
    weight: float, average: float, current: float, length: int, expected: float
) -> None:
    settings = FinetuningRecipe(bc_weight=0.4, bc_schedule="adaptive")
    found, after = moved(settings, weight, average, current, length, floor=0.3)
    assert found == pytest.approx(expected, abs=1e-12)
    assert after == pytest.approx(0.95 * average + 0.05 * current)
    tenfold, _ = moved(replace(settings, bc_weight=4.0), 10 * weight, average, current, length, floor=0.3)
    assert tenfold == pytest.approx(10 * found)


@pytest.mark.parametrize(
    ("weight", "average", "current", "length", "expected"),
    [
        (2.0, 300.0, 300.1, 1_000, 2.0 * np.exp(-0.2)),  # not below the floor
        (2.0, 200.0, 1_250.0, 1_000, 2.0 * np.exp(-0.2)),  # by its average, 305
        (0.5, 300.0, 280.0, 200, 0.5 * np.exp(0.2)),
        (1.0, 300.0, 0.0, 10**6, 2.0),  # no more than at the start
        (0.002, 300.0, 300.1, 10**6, 0.002),  # and no less than a thousandth of that, to come back from
    ],
)
def test_the_reminder_fades_while_the_learner_is_no_worse_than_the_clone(
    weight: float, average: float, current: float, length: int, expected: float
) -> None:
    found, after = moved(FinetuningRecipe(bc_weight=2.0), weight, average, current, length, floor=300.0)
    assert found == pytest.approx(expected)
    assert after == pytest.approx(0.9 * average + 0.1 * current)
    assert moved(FinetuningRecipe(), 1.0, 0.3, 0.3, 10, floor=0.3)[1] == 0.3  # equal returns stay equal
    assert moved(FinetuningRecipe(bc_schedule="constant"), 1.0, 0.3, 0.0, 10, floor=0.3) == (1.0, 0.3)


def test_a_learner_as_good_as_the_clone_is_seldom_taken_for_worse() -> None:
    """Both of the rule's averages are drawn from the clone's own distribution of returns."""
    rng = np.random.default_rng(0)
    below = []
    for _ in range(400):
        warm = rng.normal(1_000.0, 100.0, size=30).tolist()
        floor, average = return_floor(warm), float(np.mean(warm))
        for value in rng.normal(1_000.0, 100.0, size=60):
            _, average = moved(FinetuningRecipe(), 1.0, average, value, 10, floor=floor)
        below.append(average < floor)
    assert 0.005 < np.mean(below) < 0.05  # two standard errors: 0.023
    assert return_floor([900.0, 1_100.0]) == pytest.approx(1_000.0 - 2.0 * np.sqrt(20_000.0) * np.sqrt(1 / 2 + 1 / 19))
    assert return_floor([70.0]) == 70.0


def test_what_is_read_from_a_curve() -> None:
    report = make_report([20.0, 10.0, 60.0, 40.0, 80.0])
    np.testing.assert_allclose(report.curve, [10, 5, 30, 20, 40])
    assert (report.steps_to(30), report.steps_to(30, stays=True)) == (200, 400)
    assert (report.steps_to(10), report.steps_to(10, stays=True)) == (0, 200)
    assert report.steps_to(41) is None
    assert report.steps_to(41, stays=True) is None
    assert [report.return_at(budget) for budget in (0, 99, 100, 10**6)] == [20.0, 20.0, 10.0, 80.0]
    assert report.largest_drop == 5.0
    assert make_report([1.0, 2.0]).largest_drop == 0.0
    unscored = make_report([20.0, 60.0], scored=False)
    assert unscored.steps_to(60) == 100
    with pytest.raises(DataError, match="no reference scores"):
        _ = unscored.scores
    with pytest.raises(DataError, match="budget of -1"):
        report.return_at(-1)
    with pytest.raises(DataError, match="each needs its returns"):
        replace(report, steps=np.arange(3))


@pytest.mark.parametrize("scored", [True, False])
def test_a_report_survives_its_file_and_the_curve_is_a_table(scored: bool) -> None:
    report = make_report([20.0, 10.0, 60.0], scored=scored)
    found = FinetuneReport.read(report.save("made"))
    assert found.to_json() == report.to_json()
    rows = list(csv.DictReader(io.StringIO(Path("made/curve.csv").read_text())))
    assert [(int(r["step"]), float(r["return"]), r["score"]) for r in rows] == [
        (0, 20.0, "10.0" if scored else ""),
        (100, 10.0, "5.0" if scored else ""),
        (200, 60.0, "30.0" if scored else ""),
    ]
    assert [[float(r["return_0"]), float(r["return_1"])] for r in rows] == report.returns.tolist()


def test_damaged_reports_are_named() -> None:
    with pytest.raises(NotFoundError, match="There is no report"):
        FinetuneReport.read("nowhere")
    path = make_report([1.0]).save("made") / "report.json"
    for text in ("{", "[]", "{}", path.read_text().replace('"seed"', '"sed"')):
        path.write_text(text)
        with pytest.raises(
            FormatError, match=r"report\.json' is (not JSON|damaged at).*The run that wrote it can make it"
        ):
            FinetuneReport.read("made")
    path.write_text('{"format": 99, "reference_scores": null}')
    with pytest.raises(FormatError, match="report format 99"):
        FinetuneReport.read("made")


def test_several_seeds_make_one_curve_with_an_interval() -> None:
    reports = [make_report(means, seed=i) for i, means in enumerate([[20.0, 40.0], [20.0, 60.0], [20.0, 80.0]])]
    steps, estimates = mean_curve(reports)
    assert steps.tolist() == [0, 100]
    assert (estimates[0].low, estimates[0].mean, estimates[0].high) == (10.0, 10.0, 10.0)
    assert estimates[1].mean == pytest.approx(30.0)
    assert 20.0 <= estimates[1].low < 30.0 < estimates[1].high <= 40.0
    picture = draw_reports([*reports, make_report([1.0, 2.0, 3.0], label="b")])
    assert picture.startswith(b"\x89PNG")
    assert picture != draw_reports(reports)
    assert draw_reports(reports) == draw_reports(reports) != draw_reports(reports, target=20.0)
    for wrong, text in (
        ([], "no report"),
        ([reports[0], make_report([1.0])], "same steps"),
        ([reports[0], replace(reports[1], env_id="Ant-v5", label="b")], "several environments"),
    ):
        with pytest.raises(DataError, match=text):
            draw_reports(wrong)


GRID = """
steps = 50
seeds = [0, 1]
[recipe]
source = "obd-bench/hopper/medium-v0"
method = "random"
size = 16
student = {depth = 1, width = 16, steps = 10}
[finetuning]
warmup = 20
batch_size = 16
critic_width = 16
evaluate_every = 50
episodes = 1
[arms.scratch.finetuning]
start = "scratch"
bc_weight = 0.0
[arms."random pairs"]
pairs = "random"
[arms.whole]
bc_data = "source"
finetuning = {bc_states = "data"}
"""


def test_a_grid_runs_what_has_no_report(capsys: pytest.CaptureFixture[str]) -> None:
    BENCHMARK["obd-bench/hopper/medium-v0"].build(steps=600, progress=False)
    Path("grid.toml").write_text(GRID)
    main(["finetune-grid", "grid.toml", "--out", "made", "--seeds", "1"])
    times = {path: path.stat().st_mtime_ns for path in Path("made/runs").glob("*/report.json")}
    assert len(times) == 3
    table = run_arms("grid.toml", "made", progress=False)
    assert len(list(Path("made/runs").iterdir())) == 6
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert [line.split("|")[1:3] for line in table.splitlines()[2:]] == [
        [" scratch ", " 2 "],
        [" random pairs ", " 2 "],
        [" whole ", " 2 "],
    ]
    assert Path("made/table.md").read_text() == table
    assert Path("made/curves.png").read_bytes().startswith(b"\x89PNG")
    assert "| scratch | 1 |" in capsys.readouterr().out
    assert "after 12 steps" in table
    assert "steps to" not in table  # random pairs have no teacher
    with pytest.raises(SettingError, match="not all among"):
        run_arms("grid.toml", "made", seeds=[5])


def test_arms_are_compared_at_a_budget_and_by_steps_to_the_target() -> None:
    curves = {"fast": [[20.0, 60.0, 80.0], [20.0, 20.0, 60.0]], "slow": [[0.0, 80.0, 10.0], [10.0, 0.0, 20.0]]}
    reports = [make_report(c, seed=i, label=name) for name, each in curves.items() for i, c in enumerate(each)]
    fast, slow = (line.split(" | ") for line in arms_table(reports, budget=150, target=30.0).splitlines()[2:])
    assert fast[3].startswith("20.0 [")  # after 100 steps, the last evaluation within 150: scores 30 and 10
    assert fast[-2:] == ["150 (2 of 2)", "150 (2 of 2) |"]
    assert slow[-2:] == ["100 (1 of 2)", "never (0 of 2) |"]
    assert slow[5] == "2.5 [0.0, 5.0]"
    assert arms_table(reports, budget=150, target=99.0).endswith("never (0 of 2) |\n")


def test_the_target_is_the_teachers_own_score() -> None:
    BENCHMARK["obd-bench/hopper/medium-v0"].build(steps=600, progress=False)
    teacher = '[recipe.teacher]\nalgorithm = "td3_bc"\nsteps = 5\n'
    distilled = GRID.replace('method = "random"', 'method = "pbc"').replace("[finetuning]", f"{teacher}[finetuning]", 1)
    few = "[recipe.distillation]\nkernel_steps = 5\nsteps = 2\n"
    distilled = distilled.replace("[recipe.teacher]", f"{few}[recipe.teacher]")
    Path("grid.toml").write_text(distilled[: distilled.index('[arms."random pairs"]')].replace("[0, 1]", "[0]"))
    table = run_arms("grid.toml", "made", progress=False)
    (kept,) = Path("made").glob("teacher-*.json")
    score = EvaluationReport.from_json(json.loads(kept.read_text())).score.mean
    assert f"steps to {score:.1f}" in table


def test_wrong_grids_are_named() -> None:
    for old, new, text in (
        ("seeds = [0, 1]", "seeds = [0, 0]", "each once"),
        ("warmup = 20", "warmpu = 20", "warmpu"),
        ('pairs = "random"', 'pairs = "rondom"', "arms.random pairs.pairs"),
        ('method = "random"', 'methd = "random"', "did you mean 'method'"),
        ("steps = 50", "stebs = 50", "stebs|steps"),
    ):
        Path("grid.toml").write_text(GRID.replace(old, new))
        with pytest.raises(FormatError, match=text):
            load_arms("grid.toml")
    Path("grid.toml").write_text(GRID.replace('{bc_states = "data"}', "{}"))
    with pytest.raises(SettingError, match="set bc_states to 'data'"):
        load_arms("grid.toml")


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_recipes_are_grids_of_five_arms(path: Path) -> None:
    grid = load_arms(path)
    assert len(grid.arms) == 5
    assert grid.seeds == [0, 1, 2]
    assert {grid.settings(name).start for name in grid.arms} == {"clone", "scratch"}


def test_the_command_leaves_a_policy_that_can_be_evaluated(capsys: pytest.CaptureFixture[str]) -> None:
    BENCHMARK["obd-bench/hopper/medium-v0"].build(steps=600, progress=False)
    pairs = minari_obd.distill("obd-bench/hopper/medium-v0", "random", size=16, out="pairs", progress=False)
    options = ["--steps", "30", "--warmup", "20", "--batch-size", "16", "--episodes", "1", "--out", "made"]
    main(["finetune", "pairs", *options])
    assert "Next: minari-obd evaluate made/policy.safetensors" in capsys.readouterr().out
    report = FinetuneReport.read("made")
    assert report.subject == repr(pairs)
    assert report.steps.tolist() == [0, 30]
    with pytest.raises(SystemExit) as end:
        main(["finetune", "pairs", *options])
    assert end.value.code == 2
    assert "holds a report already" in capsys.readouterr().err
