"""Bundled teachers: half precision on disk, the default where there is one, and no word about d3rlpy."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import bundle_teacher
import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import make_teacher
from safetensors import safe_open

import minari_obd
from minari_obd.cli.application import main
from minari_obd.errors import DataError, FormatError, NotFoundError
from minari_obd.experiments.grid import Cell
from minari_obd.experiments.kept import kept_teacher
from minari_obd.inspection.origins import cached_teacher
from minari_obd.registry import TEACHERS
from minari_obd.settings.protocols import StudentProtocol
from minari_obd.settings.recipe import Recipe
from minari_obd.settings.sections import DistillationRecipe, TeacherRecipe
from minari_obd.sources.benchmark import BENCHMARK
from minari_obd.sources.data import OfflineData
from minari_obd.storage.bundled import TEACHERS_FOLDER, bundled_teacher_file, bundled_teacher_ids
from minari_obd.teachers.bundled import bundled_teacher
from minari_obd.teachers.frozen import read_teacher, write_teacher

IDS = bundled_teacher_ids()
HOPPER = "obd-bench/hopper/medium-replay-v0"
QUICK = Recipe(
    "x", size=8, student=StudentProtocol(width=8, steps=3), distillation=DistillationRecipe(kernel_steps=5, steps=2)
)


@pytest.mark.parametrize("dataset_id", IDS)
def test_each_fits_its_data_and_says_how_it_was_made_and_what_it_scores(dataset_id: str) -> None:
    teacher = bundled_teacher(dataset_id)
    details = teacher.details
    assert details["data"] == dataset_id
    assert details["algorithm"] in TEACHERS.names()
    low, high = details["score_interval"]
    assert 0 < low <= details["score"] <= high
    assert details["score_episodes"] == 100
    environment = gym.make(BENCHMARK[dataset_id].env_id)
    states = np.stack([environment.reset(seed=seed)[0] for seed in range(3)])
    actions = teacher.act(states)
    assert all(environment.action_space.contains(action) for action in actions)
    assert np.isfinite(teacher.value(states, actions)).all()


def test_their_files_are_small_and_named_after_datasets() -> None:
    assert IDS
    files = [bundled_teacher_file(dataset_id) for dataset_id in IDS]
    assert set(files) == set(TEACHERS_FOLDER.iterdir())
    assert sum(path.stat().st_size for path in TEACHERS_FOLDER.iterdir()) < 10e6
    assert set(IDS) <= set(BENCHMARK)


def test_the_page_on_teachers_has_their_scores() -> None:
    page = (Path(__file__).parents[1] / "docs" / "teachers.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `obd-bench/")]
    wanted = set()
    for dataset_id in IDS:
        details = bundled_teacher(dataset_id).details
        low, high = details["score_interval"]
        score = f"{details['score']:.1f} ({low:.1f} to {high:.1f})"
        trained = f"{details.get('best_episodes', 1.0):.0%} | {details['steps']:,}"
        wanted.add(f"| `{dataset_id}` | `{details['algorithm']}` | {trained} | {score} |")
    assert set(rows) == wanted


def test_half_precision_is_half_the_file_and_sealed() -> None:
    teacher = make_teacher()
    path, whole = Path("half.safetensors"), teacher.save("whole") / "teacher.safetensors"
    write_teacher(teacher, path, half_precision=True)
    with safe_open(path, "pt") as file:
        assert file.get_tensor("actor/0/weight").dtype == torch.float16
        assert json.loads(file.metadata()["minari_obd_teacher"])["format"] == 4
        size = sum(file.get_tensor(name).nbytes for name in file.keys() if "critic" in name)  # noqa: SIM118
    assert size == sum(part.nbytes for critic in teacher.critics for layer in critic for part in layer) / 2
    again = read_teacher(path)
    assert again.sha256 == teacher.halved().sha256 != teacher.sha256
    assert all(part.dtype == torch.float32 for layer in again.actor for part in layer)
    states = np.random.default_rng(0).normal(size=(20, 3))
    np.testing.assert_allclose(again.act(states), teacher.act(states), atol=0.05)
    assert read_teacher(whole).sha256 == teacher.sha256  # as before

    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(FormatError, match="does not match its hash"):
        read_teacher(path)
    large = replace(teacher, actor=[(1e6 * weight, bias) for weight, bias in teacher.actor])
    with pytest.raises(DataError, match="not finite"):
        large.halved()


def test_auto_is_the_bundled_teacher_unless_a_training_is_described() -> None:
    def named(source: str, **teacher: object) -> str:
        return Recipe(source, teacher=TeacherRecipe(**teacher)).resolved().teacher.algorithm  # pyright: ignore

    assert named(HOPPER) == "bundled"
    assert named("mujoco/hopper/medium-v0") == named(HOPPER, steps=3) == named(HOPPER, average=0.5) == "bc"
    assert named(HOPPER, algorithm="iql") == "iql"


def test_results_without_a_bundled_teacher_keep_their_names() -> None:
    def deciding(source: str, algorithm: str) -> dict:
        return Recipe(source, teacher=TeacherRecipe(algorithm)).deciding()

    assert deciding("lab/x-v0", "auto") == deciding("lab/x-v0", "bc")
    assert "sha256" not in deciding("lab/x-v0", "auto")["teacher"]
    assert deciding(HOPPER, "auto") == deciding(HOPPER, "bundled") != deciding(HOPPER, "calql")
    keys = [Cell(Recipe(HOPPER, teacher=TeacherRecipe(name)), "teacher").key("0", "1") for name in ("auto", "bundled")]
    assert keys[0] == keys[1]


def test_distilling_with_one_trains_nothing_and_needs_no_d3rlpy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "d3rlpy", None)  # as if it were not installed
    BENCHMARK[HOPPER].build(steps=700, progress=False)
    made = minari_obd.distill(HOPPER, "pbc", recipe=QUICK)
    teacher = bundled_teacher(HOPPER)
    assert f"bundled: {teacher.details['algorithm']}, score {teacher.details['score']:.1f}" in capsys.readouterr().err
    assert made.provenance.recipe["teacher"]["algorithm"] == "bundled"
    assert made.provenance.teacher == {**teacher.details, "sha256": teacher.sha256}
    for found in (cached_teacher(made, minari_obd.load_offline_data(HOPPER)), kept_teacher(Path("out"), made)):
        assert found is not None
        assert found.sha256 == teacher.sha256
    other = replace(made, provenance=replace(made.provenance, teacher={"sha256": "0" * 64}))
    assert kept_teacher(Path("out"), other) is None


def test_where_there_is_none_it_is_said_before_the_data_is_read(small_data: OfflineData) -> None:
    for source in ("lab/not-there-v0", small_data):
        with pytest.raises(NotFoundError, match=r"no bundled teacher for .*only for obd-bench/.*name an algorithm"):
            minari_obd.distill(source, "pbc", teacher="bundled", progress=False)
    with pytest.raises(NotFoundError, match="did you mean 'bundled'"):
        minari_obd.distill(small_data, "pbc", teacher="bundle", progress=False)


def test_they_are_listed_with_their_scores(capsys: pytest.CaptureFixture[str]) -> None:
    main(["list"])
    said = " ".join(capsys.readouterr().out.split())
    for dataset_id in IDS:
        details = bundled_teacher(dataset_id).details
        assert f"{dataset_id} ({details['algorithm']}, score {details['score']:.1f})" in said


def test_a_trained_teacher_is_bundled_with_its_score(tmp_path: Path) -> None:
    trained = bundled_teacher(HOPPER).with_details(score=None)
    written = bundle_teacher.bundle(trained, "hopper-medium-replay", episodes=2, folder=tmp_path)
    assert written.sha256 == trained.sha256  # rounding twice is rounding once
    assert written.details["score_episodes"] == 2
    assert written.details["score"] > 0
    with pytest.raises(SystemExit, match="was trained on obd-bench/hopper/medium-replay-v0, not on obd-bench/hopper/m"):
        bundle_teacher.bundle(trained, "hopper-medium", folder=tmp_path)
