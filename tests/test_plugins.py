"""Another package's objective, density, teacher and student, found by its entry points, work as built-in ones do."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import minari_obd
from minari_obd.distilled.card import dataset_card
from minari_obd.errors import MinariObdError, NotFoundError, SettingError
from minari_obd.registry import STUDENTS, TEACHERS
from minari_obd.settings.protocols import StudentProtocol
from minari_obd.settings.recipe import Recipe, load_recipe, recipe_toml
from minari_obd.settings.sections import DensityRecipe, DistillationRecipe, TeacherRecipe
from minari_obd.sources.data import OfflineData

ENTRY_POINTS = """
[minari_obd.objectives]
start_weighting = obd_extras:StartWeighting
[minari_obd.densities]
gaussian = obd_extras:Gaussian
[minari_obd.students]
elu = obd_extras:elu_student
[minari_obd.teachers]
linear = obd_extras:train_linear
no_teacher = obd_extras:elu_student
gone = obd_extras_that_are_gone:teach
"""
RECIPE = Recipe(
    "own data",
    "sdw",
    12,
    student=StudentProtocol("elu", depth=1, width=2, steps=5),  # as wide as there are actions
    teacher=TeacherRecipe("linear", options={"strength": 0.5}),
    density=DensityRecipe("gaussian"),
    distillation=DistillationRecipe(kernel_steps=5, steps=3, batch_size=64, evaluate_every=2),
)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    place = tmp_path / "site"
    info = place / "obd_extras-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: obd-extras\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "plugin"))
    monkeypatch.syspath_prepend(str(place))
    yield place
    sys.modules.pop("obd_extras", None)


def test_a_run_with_all_four_is_recorded_and_needs_them_again(
    installed: Path, small_data: OfflineData, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = minari_obd.distill(small_data, recipe=RECIPE, out="made")
    assert "linear, trained by obd-extras 1.2" in capsys.readouterr().err
    loaded = minari_obd.load_dataset("made")
    brought = {"density estimator 'gaussian'", "student network 'elu'", "teacher algorithm 'linear'"}
    assert loaded.provenance.plugins == dict.fromkeys(brought, "obd-extras 1.2")
    card = dataset_card(loaded, "org/name")
    assert "| student network 'elu' is of | obd-extras 1.2 |" in card
    assert "the network `elu` with depth 1 and width 2, trained" in card
    policy = minari_obd.clone(loaded, students=2)
    again = minari_obd.load_policy(policy.save("policy.safetensors"))
    assert (again(small_data.observations) == policy(small_data.observations)).all()
    Path("recipe.toml").write_text(recipe_toml(RECIPE))
    assert load_recipe("recipe.toml") == RECIPE
    other = minari_obd.distill(small_data, "start_weighting", recipe=replace(RECIPE, size=8), progress=False)
    assert other.provenance.plugins["method 'start_weighting'"] == "obd-extras 1.2"
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each != str(installed)])
    with pytest.raises(NotFoundError, match=r"no student network 'elu'.*the package 'obd-extras 1.2' brings it"):
        minari_obd.clone(made)


def test_what_is_no_teacher_is_named(installed: Path, small_data: OfflineData) -> None:
    assert TEACHERS.package("linear") == "obd-extras 1.2"
    assert STUDENTS.package("mlp") is None
    recipe = replace(RECIPE, teacher=TeacherRecipe("no_teacher"))
    with pytest.raises((SettingError, TypeError)):
        minari_obd.distill(small_data, recipe=recipe, progress=False)
    builtin = replace(RECIPE, method="random", student=StudentProtocol())
    assert minari_obd.distill(small_data, recipe=builtin, progress=False).provenance.plugins == {}


def test_what_cannot_be_imported_names_the_package(installed: Path) -> None:
    with pytest.raises(MinariObdError, match=r"'gone' is brought by obd-extras 1\.2 as .* cannot be imported"):
        TEACHERS.get("gone")
