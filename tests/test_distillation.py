"""The front door: one call from source to pairs, and what it says before it starts."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import RuleTeacher

import minari_obd
from minari_obd.distillation import plan
from minari_obd.distillation.plan import print_plan, print_weights
from minari_obd.distillation.preparation import prepare
from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.distiller import looks
from minari_obd.distiller import step as outer_step
from minari_obd.distiller.loop import OuterLoop
from minari_obd.distiller.result import DivergedError
from minari_obd.dynamics.fitting import DynamicsRun
from minari_obd.errors import DataError, FormatError, NotFoundError, SettingError
from minari_obd.settings.protocols import StudentProtocol
from minari_obd.settings.recipe import Recipe
from minari_obd.settings.sections import DensityRecipe, DistillationRecipe, TeacherRecipe
from minari_obd.sources.data import OfflineData
from minari_obd.support import precision
from minari_obd.support.devices import cache_root
from minari_obd.support.precision import product_type
from minari_obd.teachers.run import TeacherRun

QUICK = Recipe(
    "replaced",
    size=12,
    student=StudentProtocol(depth=1, width=16, steps=10, learning_rate=0.3),
    distillation=DistillationRecipe(kernel_steps=5, steps=6, batch_size=64, evaluate_every=3),
    teacher=TeacherRecipe("td3_bc", steps=5),
    density=DensityRecipe(effective_fraction=0.7),
)


def quick(data: OfflineData, method: str, **changes) -> DistilledDataset:
    changes = {"teacher": RuleTeacher(), "progress": False, **changes}
    return minari_obd.distill(data, method, recipe=QUICK, **changes)


@pytest.mark.parametrize("method", ["random", "kmeans", "dbc", "pbc", "av_pbc", "sdw"])
def test_every_method_makes_pairs_that_say_where_they_come_from(method: str, small_data: OfflineData) -> None:
    made = quick(small_data, method, out="made")
    provenance = made.provenance
    assert len(made) == 12
    assert provenance.method == method
    assert provenance.source_sha256 == small_data.content_sha256
    assert provenance.recipe["density"]["effective_fraction"] == 0.7
    assert provenance.threads == 1
    assert (provenance.teacher is not None) == (method in ("pbc", "av_pbc", "sdw"))
    assert (provenance.outer_step is None) == (method in ("random", "kmeans"))
    assert ("alpha" in provenance.targets) == (method == "sdw")
    loaded = minari_obd.load_dataset("made")
    np.testing.assert_array_equal(loaded.observations, made.observations)
    assert loaded.provenance == provenance


def test_sdw_by_another_density_alone_says_so(small_data: OfflineData) -> None:
    recipe = replace(QUICK, density=DensityRecipe("gmm", 0.6, with_values=False))
    made = minari_obd.distill(small_data, "sdw", teacher=RuleTeacher(), recipe=recipe, out="made", progress=False)
    said = made.provenance.targets
    assert said["density_estimator"].startswith("GaussianMixture(")
    assert said["density_components"] == 1  # the states are drawn from a normal distribution
    assert said["effective_fraction"] == said["density_effective_fraction"] == pytest.approx(0.6)
    assert "mean_value" not in said
    assert minari_obd.load_dataset("made").provenance == made.provenance


@pytest.mark.parametrize("method", ["random", "sdw"])
def test_the_same_seed_gives_the_same_pairs_to_the_bit(method: str, small_data: OfflineData) -> None:
    first, second = quick(small_data, method), quick(small_data, method)
    assert first.observations.tobytes() == second.observations.tobytes()
    assert first.actions.tobytes() == second.actions.tobytes()
    assert quick(small_data, method, seed=1).observations.tobytes() != first.observations.tobytes()


def test_random_pairs_are_real_pairs(small_data: OfflineData) -> None:
    made = quick(small_data, "random")
    for observation, action in zip(made.observations, made.actions, strict=True):
        row = np.flatnonzero((small_data.observations == observation).all(axis=1))
        assert len(row) == 1
        np.testing.assert_array_equal(small_data.actions[row[0]], action)


def test_a_trained_teacher_from_its_name_and_from_its_folder(small_data: OfflineData) -> None:
    by_name = minari_obd.distill(small_data, "pbc", recipe=QUICK, progress=False)
    teacher = minari_obd.train_teacher(small_data, "td3_bc", steps=5, progress=False)
    by_folder = quick(small_data, "pbc", teacher=str(teacher.save("teacher")))
    assert by_name.provenance.teacher == by_folder.provenance.teacher
    assert by_name.actions.tobytes() == by_folder.actions.tobytes()


def test_the_plan_is_printed_before_the_work(small_data: OfflineData, capsys: pytest.CaptureFixture[str]) -> None:
    minari_obd.distill(small_data, "sdw", recipe=QUICK)
    said = capsys.readouterr().err
    assert said.startswith("Reading 'arrays'. The plan")
    assert "never trained twice" not in said  # it takes less than ten minutes
    assert said.index("Plan: 12 pairs by sdw") < said.index("td3_bc, 5 updates: about") < said.index("at most 6 outer")
    assert "distilling" in said
    minari_obd.distill(small_data, "sdw", recipe=QUICK)
    assert "trained before, loaded" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("algorithm", "advice"),
    [("iql", "--teacher.algorithm td3_bc, or --teacher.steps N"), ("td3_bc", "--teacher.steps N")],
)
def test_a_long_training_is_said_before_it_starts(
    small_data: OfflineData,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    algorithm: str,
    advice: str,
) -> None:
    monkeypatch.setattr(TeacherRun, "estimate_seconds", lambda _: 3_000.0)
    prepared = prepare(
        replace(QUICK, method="pbc", teacher=TeacherRecipe(algorithm=algorithm, steps=5)), small_data, progress=False
    )
    print_plan(prepared)
    said = capsys.readouterr().err
    assert f"{algorithm}, 5 updates: about 50 min\n" in said
    assert f"never trained twice; a weaker one takes less: {advice}\n" in said


def test_fewer_steps_where_the_dynamics_cannot_follow_the_teacher_are_said(
    small_data: OfflineData, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TeacherRun, "estimate_seconds", lambda _: 1.0)
    monkeypatch.setattr(OuterLoop, "estimate_seconds", lambda *_, **__: 1.0)
    monkeypatch.setattr(DynamicsRun, "estimate_seconds", lambda _: 1.0)
    teacher = TeacherRecipe(algorithm="td3_bc", steps=5)
    for method, size, steps in (
        ("vgd", 12, "3,000 steps through kernels: about"),
        ("vgd", 128, "3,000 steps through kernels (1,500 without student states): about"),
        ("pbc", 128, "1,500 steps through kernels: about"),
    ):
        print_plan(prepare(Recipe("arrays", method, size, teacher=teacher), small_data, progress=False))
        assert f"distillation {steps} 1 s" in capsys.readouterr().err


def test_weights_that_rest_on_hardly_any_state_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    print_weights({"effective_fraction": 0.0044})
    assert "weights      of 0.44% of the states" in capsys.readouterr().err
    print_weights({"effective_fraction": 0.4})
    print_weights({})
    assert capsys.readouterr().err == ""


def test_interrupted_and_called_again_it_goes_on(small_data: OfflineData, monkeypatch: pytest.MonkeyPatch) -> None:
    from minari_obd.distiller.loop import OuterLoop

    whole = quick(small_data, "pbc")
    original = OuterLoop._step
    steps = []

    def interrupted(self, state, *others) -> None:
        steps.append(state.step)
        if len(steps) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        original(self, state, *others)

    monkeypatch.setattr(OuterLoop, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        quick(small_data, "pbc")
    again = quick(small_data, "pbc")
    assert steps == [0, 1, 2, 3, 4, 5]
    assert again.observations.tobytes() == whole.observations.tobytes()


def test_an_interrupt_while_the_result_is_saved_loses_nothing(
    small_data: OfflineData, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = quick(small_data, "pbc")

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(DistilledDataset, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            quick(small_data, "pbc", out="made")
    assert len(list((cache_root() / "checkpoints").iterdir())) == 1
    monkeypatch.setattr(OuterLoop, "_step", lambda *_: pytest.fail("a step was made again"))
    again = quick(small_data, "pbc", out="made")
    assert again.observations.tobytes() == whole.observations.tobytes()
    assert again.provenance.history == whole.provenance.history
    assert not list((cache_root() / "checkpoints").iterdir())


def files() -> set[str]:
    return {str(path) for path in Path().rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"method": "sdv"}, NotFoundError, "no method 'sdv'; did you mean 'sdw'"),
        ({"size": 601}, DataError, "601 pairs were asked for, but 'arrays' has only 600 steps"),
        ({"size": 571}, DataError, "only 570 states to distil"),
        ({"size": 0}, SettingError, "size is 0"),
        ({"teacher": "calq"}, NotFoundError, "did you mean 'calql'"),
        ({"teacher": "a string is a name".split}, SettingError, "has methods act and value"),
        ({"teacher": minari_obd.FrozenTeacher}, SettingError, "is the class FrozenTeacher; give an object of it"),
        ({"recipe": "x.toml"}, SettingError, "'x.toml' is a str; load it first, with minari_obd.load_recipe"),
        ({"device": "tpu"}, SettingError, "no device 'tpu'"),
        ({"out": "occupied"}, SettingError, "is not a distilled dataset alone.*so it is not overwritten"),
        ({"out": "file/inside"}, SettingError, "cannot be written"),
        ({"source": "obd-bench/hoper/medium-v0"}, NotFoundError, "did you mean 'obd-bench/hopper/medium-v0'"),
        ({"source": None, "recipe": None}, SettingError, "Give a source"),
    ],
)
def test_bad_input_is_named_at_once_and_leaves_nothing_behind(
    arguments: dict, error: type, message: str, small_data: OfflineData
) -> None:
    Path("file").write_text("a file")
    Path("occupied").mkdir()
    Path("occupied/thesis.tex").write_text("mine")
    before = files()
    given = {"source": small_data, "method": "sdw", "recipe": QUICK, "progress": False, **arguments}
    with pytest.raises(error, match=message):
        minari_obd.distill(**given)
    assert files() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_named(small_data: OfflineData, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(SettingError, match="Permission denied"):
        quick(small_data, "random", out=tmp_path / "locked" / "made")


def test_a_broken_teacher_folder_is_named_before_the_work(small_data: OfflineData) -> None:
    Path("teacher").mkdir()
    Path("teacher/teacher.safetensors").write_text("no")
    with pytest.raises(FormatError, match="is not a teacher"):
        quick(small_data, "sdw", teacher="teacher")


def test_a_run_that_diverges_saves_the_best_pairs_and_says_where(
    small_data: OfflineData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = outer_step.cloned_losses
    monkeypatch.setattr(outer_step, "cloned_losses", lambda *args, **kwargs: losses(*args, **kwargs) * float("nan"))
    recipe = replace(QUICK, distillation=DistillationRecipe(kernel_steps=5, steps=50, batch_size=32))
    with pytest.raises(DivergedError, match="20 times in a row") as caught:
        minari_obd.distill(small_data, "dbc", recipe=recipe, out=tmp_path / "pairs", progress=False)
    saved = minari_obd.load_dataset(tmp_path / "pairs")
    np.testing.assert_array_equal(saved.observations, caught.value.dataset.observations)
    assert saved.provenance.stop_reason == str(caught.value)
    assert caught.value.__notes__ == [f"The best pairs so far were saved in '{tmp_path / 'pairs'}'."]


def test_a_run_without_any_finite_look_saves_nothing(
    small_data: OfflineData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (outer_step, looks):
        losses = module.cloned_losses
        monkeypatch.setattr(module, "cloned_losses", lambda *a, losses=losses, **k: losses(*a, **k) * float("nan"))
    recipe = replace(QUICK, distillation=DistillationRecipe(kernel_steps=5, steps=50, batch_size=32))
    with pytest.raises(DivergedError, match=r"lower distillation\.learning_rate"):
        minari_obd.distill(small_data, "dbc", recipe=recipe, out=tmp_path / "pairs", progress=False)
    assert not (tmp_path / "pairs").exists()


def test_bfloat16_is_refused_for_students_that_cannot_use_it(small_data: OfflineData) -> None:
    residual = replace(QUICK.student, network="residual")
    recipe = replace(QUICK, student=residual, distillation=DistillationRecipe(precision="bfloat16"))
    with pytest.raises(SettingError, match="'residual' have no bfloat16 products"):
        minari_obd.distill(small_data, "dbc", recipe=recipe)
    assert quick(small_data, "dbc").provenance.recipe["student"]["network"] == "mlp"


def test_the_type_of_products_is_the_faster_one_and_recorded(
    small_data: OfflineData, monkeypatch: pytest.MonkeyPatch
) -> None:
    for is_fast, wanted in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(precision, "has_fast_bfloat16", lambda is_fast=is_fast: is_fast)
        monkeypatch.setattr(precision, "has_rounded_products", lambda *_, other=not is_fast: other)  # of teachers only
        assert quick(small_data, "dbc").provenance.precision == wanted
    assert product_type("auto", torch.device("cuda")) is None
    assert quick(small_data, "random").provenance.precision == "float32"


@pytest.mark.parametrize("is_fast", [True, False])
def test_bfloat16_works_everywhere_and_the_plan_says_where_it_is_slow(
    is_fast: bool, small_data: OfflineData, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in (precision, plan):
        monkeypatch.setattr(module, "has_fast_bfloat16", lambda: is_fast)
    made, exact = (
        minari_obd.distill(
            small_data, "dbc", recipe=replace(QUICK, distillation=replace(QUICK.distillation, precision=each))
        )
        for each in ("bfloat16", "float32")
    )
    said = capsys.readouterr().err
    assert said.count("products in bfloat16 are not faster than in float32 here") == (0 if is_fast else 1)
    assert (made.provenance.precision, exact.provenance.precision) == ("bfloat16", "float32")
    assert np.abs(made.observations - exact.observations).max() > 0  # it really is another precision


def test_tf32_on_the_cpu_is_refused_before_any_work(small_data: OfflineData) -> None:
    recipe = replace(QUICK, device="cpu", distillation=DistillationRecipe(precision="tf32"))
    with pytest.raises(SettingError, match="'tf32' belongs to CUDA"):
        minari_obd.distill(small_data, "dbc", recipe=recipe)
