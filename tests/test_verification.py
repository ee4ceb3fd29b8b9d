"""Verification: what holds passes, what does not fails by name, and what cannot be told is skipped."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import make_pairs

import minari_obd
from minari_obd.cli.application import main
from minari_obd.inspection.verification import Verification, verify
from minari_obd.settings.protocols import ADAM_STUDENT, PROTOCOLS
from minari_obd.settings.recipe import Recipe
from minari_obd.sources.benchmark import BENCHMARK

SOURCE = "obd-bench/hopper/medium-v0"


@pytest.fixture
def made() -> minari_obd.DistilledDataset:
    """Real pairs: selected from a small obd-bench dataset, evaluated, and saved in ``made``."""
    BENCHMARK[SOURCE].build(steps=400, progress=False)
    student = replace(ADAM_STUDENT, depth=1, width=16, steps=10)
    recipe = Recipe(SOURCE, method="random", size=32, student=student)
    pairs = minari_obd.distill(recipe=recipe, progress=False)
    pairs = pairs.with_transitions(drop=True)  # a few real states are faster than Hopper shows
    assert 20 < len(pairs) < 32
    pairs = pairs.with_evaluation(minari_obd.evaluate(pairs, students=2, episodes=2))
    pairs.save("made")
    return pairs


def outcomes(result: Verification) -> dict[str, str]:
    return {check.name: check.outcome for check in result.checks}


def detail(result: Verification, name: str) -> str:
    return next(check.detail for check in result.checks if check.name == name)


def test_everything_that_holds_passes(made: minari_obd.DistilledDataset) -> None:
    result = verify("made", evaluate=True)
    assert set(outcomes(result).values()) == {"passed"}, result
    assert list(outcomes(result)) == [
        "format",
        "Minari rendering",
        "card",
        "recipe",
        "source",
        "selection",
        "transitions",
        "evaluation",
    ]
    assert "the same returns, to the bit" in detail(result, "evaluation")
    assert made.license == "mit"  # inherited from the source
    made.to_minari("lab/made-v0")
    stored = verify("lab/made-v0")
    assert stored.passed
    assert outcomes(stored)["Minari rendering"] == outcomes(stored)["evaluation"] == "skipped"


def test_what_is_not_at_hand_is_skipped(made: minari_obd.DistilledDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(Path("elsewhere").resolve()))
    result = verify("made")
    assert result.passed
    assert outcomes(result)["source"] == outcomes(result)["selection"] == "skipped"
    assert f"'{SOURCE}' is not on this machine; give it with --source" in detail(result, "source")
    assert "--evaluate repeats" in detail(result, "evaluation")


def edit(file: str, **changes) -> None:
    path = Path("made", file)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def provenance(made: minari_obd.DistilledDataset, **changes) -> dict:
    return {**json.loads(Path("made/obd.json").read_text())["provenance"], **changes}


@pytest.mark.parametrize(
    ("damage", "check", "message"),
    [
        (lambda m: edit("obd.json", size=9), "format", "rows; obd.json says 9"),
        (lambda m: edit("obd.json", provenance=provenance(m, seed=1)), "recipe", "has seed 0, the dataset 1"),
        (lambda m: edit("obd.json", provenance=provenance(m, recipe={"sauce": 1})), "recipe", "no setting 'sauce'"),
        (lambda m: edit("obd.json", provenance=provenance(m, source_sha256="0" * 64)), "source", "from other data"),
        (lambda m: edit("obd.json", observation_mean=[0.5] * 11), "source", "observation_mean is not that of"),
        (lambda m: edit("evaluation.json", score={"mean": 99.0, "low": 98.0, "high": 100.0}), "evaluation", "follow"),
        (lambda m: edit("evaluation.json", students=3), "evaluation", "has not as many returns as it claims"),
        (lambda m: Path("made/pairs-v0/data/main_data.hdf5").write_bytes(b"no"), "Minari rendering", "are damaged"),
        (lambda m: Path("made/pairs-v0/data/metadata.json").write_text("{"), "Minari rendering", "cannot be read"),
        (lambda m: made_of_other_pairs(m), "selection", "gives other pairs"),
        (lambda m: made_of_other_rewards(m), "transitions", "gives other rewards"),
    ],
)
def test_what_does_not_hold_fails_by_name(damage, check: str, message: str, made: minari_obd.DistilledDataset) -> None:
    damage(made)
    result = verify("made")
    assert not result.passed
    assert outcomes(result)[check] == "failed"
    assert message in detail(result, check)


def made_of_other_pairs(made: minari_obd.DistilledDataset) -> None:
    replace(made, actions=made.actions[::-1]).save("made")


def made_of_other_rewards(made: minari_obd.DistilledDataset) -> None:
    assert made.transitions is not None
    replace(made, transitions=replace(made.transitions, rewards=made.transitions.rewards + 1)).save("made")


def test_a_score_that_nobody_can_repeat_fails(made: minari_obd.DistilledDataset) -> None:
    report = minari_obd.EvaluationReport(np.full((2, 2), 9_999.0), "Hopper-v5", 0, made.reference)
    made.with_evaluation(report).save("made")
    result = verify("made", evaluate=True)
    assert "the intervals do not meet" in detail(result, "evaluation")
    assert not result.passed


def test_a_report_of_other_students_is_repeated_with_them(made: minari_obd.DistilledDataset) -> None:
    protocol = minari_obd.EvaluationProtocol(PROTOCOLS["layers_2"], students=1, episodes=2, ensemble=2)
    made.with_evaluation(minari_obd.evaluate(made, protocol=protocol)).save("made")
    assert "the same returns, to the bit" in detail(verify("made", evaluate=True), "evaluation")


@pytest.mark.parametrize("asked", [{"ensemble": 10**9}, {"ensemble": -1}, {"protocol": {"width": 10**6}}])
def test_students_of_any_size_are_not_made_for_a_report(made: minari_obd.DistilledDataset, asked: dict) -> None:
    edit("evaluation.json", **asked)
    assert "neither the pairs' own nor of a named protocol" in detail(verify("made", evaluate=True), "evaluation")


def test_an_edited_card_is_only_mentioned(made: minari_obd.DistilledDataset) -> None:
    Path("made/README.md").write_text("# Mine\n")
    result = verify("made")
    assert result.passed
    assert "read it as its author's word" in detail(result, "card")


def test_a_path_in_the_provenance_is_never_opened(made: minari_obd.DistilledDataset) -> None:
    edit("obd.json", provenance=provenance(made, source="/etc/passwd.hdf5"))
    assert "is not on this machine" in detail(verify("made"), "source")


def test_the_command_line_says_so_in_its_exit_status(
    made: minari_obd.DistilledDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["verify", "made", "--source", SOURCE])
    assert "passed" in capsys.readouterr().out
    edit("evaluation.json", students=3)
    with pytest.raises(SystemExit) as end:
        main(["verify", "made"])
    assert end.value.code == 1
    assert re.search(r"evaluation\s+failed", capsys.readouterr().out)


def test_the_recipe_makes_the_same_pairs_again(
    made: minari_obd.DistilledDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["show", "made", "--recipe"])
    Path("again.toml").write_text(capsys.readouterr().out)
    recipe = minari_obd.load_recipe("again.toml")
    assert recipe.to_json() == made.provenance.recipe
    again = minari_obd.distill(recipe=recipe, method=None, size=None, seed=None, progress=False)
    again = again.with_transitions(drop=True)
    assert again.content_sha256 == made.content_sha256


def test_an_evaluation_can_be_kept(made: minari_obd.DistilledDataset) -> None:
    comparison = {"name": "random pairs", "pairs": 1, "students": 1, "episodes": 1, "score": None}
    edit("evaluation.json", comparisons=[{**comparison, "return": {"mean": 1.0, "low": 1.0, "high": 1.0}}])
    main(["evaluate", "made", "--students", "1", "--episodes", "1", "--save"])
    kept = minari_obd.load_dataset("made").evaluation
    assert kept is not None
    assert kept.returns.shape == (1, 1)
    assert kept.comparisons[0].name == "random pairs"
    Path("made/notes.txt").write_text("mine")
    with pytest.raises(SystemExit):  # at once, before any episode
        main(["evaluate", "made", "--students", "100000", "--save"])
    with pytest.raises(SystemExit):
        main(["evaluate", "nowhere", "--save"])


def test_a_recipe_that_is_not_the_datasets_is_never_run(
    made: minari_obd.DistilledDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Provenance says a selection, the recipe a teacher of a thousand million updates."""
    from minari_obd.teachers.run import TeacherRun

    monkeypatch.setattr(TeacherRun, "train", lambda *_, **__: pytest.fail("trained"))
    recipe = {**made.provenance.recipe, "method": "sdw", "teacher": {"algorithm": "td3_bc", "steps": 10**9}}
    edit("obd.json", provenance=provenance(made, recipe=recipe))
    result = verify("made")
    assert outcomes(result)["recipe"] == outcomes(result)["selection"] == "failed"


def test_a_report_too_large_to_check_is_skipped(made: minari_obd.DistilledDataset) -> None:
    edit("evaluation.json", students=2_000_000, episodes=1, returns=[[1.0]] * 200_000)
    assert "too many to check" in detail(verify("made"), "evaluation")


def test_an_environment_that_is_not_installed_is_skipped(made: minari_obd.DistilledDataset) -> None:
    edit("evaluation.json", env_id="Unheard-v0")
    assert outcomes(verify("made", evaluate=True))["evaluation"] == "skipped"


def test_a_damaged_minari_dataset_fails(made: minari_obd.DistilledDataset) -> None:
    made.to_minari("lab/made-v0").storage.update_metadata({"obd": {"format": 2}})
    assert outcomes(verify("lab/made-v0")) == {"format": "failed"}


def test_a_recipe_with_control_characters_is_not_printed(
    made: minari_obd.DistilledDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = {**made.provenance.recipe, "source": "lab/\u009b2J"}
    edit("obd.json", provenance=provenance(made, recipe=recipe))
    with pytest.raises(SystemExit):
        main(["show", "made", "--recipe"])
    captured = capsys.readouterr()
    assert "\u009b" not in captured.out + captured.err


def test_a_hostile_table_is_shown_as_it_is(made: minari_obd.DistilledDataset) -> None:
    from rich.console import Console

    edit("obd.json", provenance=provenance(made, source="[link=http://x]\x1b[2J[/link]"))
    console = Console(record=True, width=200)
    console.print(verify("made").table())
    assert "[link=http://x]" in console.export_text()


def test_pairs_without_an_environment_are_verified_too() -> None:
    make_pairs(env_id=None).save("made")
    assert outcomes(verify("made"))["format"] == "passed"
