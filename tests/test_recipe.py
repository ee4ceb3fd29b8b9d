"""Recipes: strict, and with errors that name the key."""

from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from minari_obd.errors import FormatError, NotFoundError, SettingError
from minari_obd.settings.protocols import ADAM_STUDENT, StudentDraws, StudentProtocol, protocol_by_name
from minari_obd.settings.recipe import Recipe, load_recipe, parse_recipe, recorded_recipe
from minari_obd.settings.sections import (
    DistillationRecipe,
    EvaluationRecipe,
    OnPolicyRecipe,
    StudentStatesRecipe,
    TeacherRecipe,
)

ROOT = Path(__file__).parents[1]


def test_a_setting_that_is_added_leaves_the_others_at_their_defaults() -> None:
    given = {"source": "x", "student": {"depth": 2}, "distillation": {"draws": {"depths": [2, 3]}}}
    recipe = parse_recipe(given, "test")
    assert recipe.distillation.draws == replace(DistillationRecipe().draws, depths=(2, 3))
    assert recipe.student == replace(ADAM_STUDENT, depth=2)
    assert recipe.student.optimiser == "adam"


def test_students_are_cloned_wide_unless_the_recipe_sets_its_student() -> None:
    default = Recipe("x", student=ADAM_STUDENT)
    assert default.cloned_student == replace(default.student, width=1024, learning_rate=5e-4)  # 1e-3 sqrt(256 / 1024)
    assert replace(default, student=replace(default.student, network="softmax_mlp")).cloned_student.width == 1024
    for student in ({"width": 64}, {"depth": 2}, {"optimiser": "sgd", "learning_rate": 0.1}):
        recipe = parse_recipe({"source": "x", "student": student}, "test")
        assert recipe.cloned_student == recipe.student
    wider = parse_recipe({"source": "x", "student": {"width": 64}, "distillation": {"cloned_width": 256}}, "test")
    assert wider.cloned_student == replace(wider.student, width=256, learning_rate=5e-4)
    with pytest.raises(SettingError, match=r"cloned_width is 512, .* learns by SGD, .* set student.width instead"):
        _ = Recipe("x", student=StudentProtocol(), distillation=DistillationRecipe(cloned_width=512)).cloned_student


def test_a_recipe_from_before_students_were_cloned_wide_keeps_its_student_and_its_name() -> None:
    old = Recipe("x", student=ADAM_STUDENT).to_json()
    del old["distillation"]["cloned_width"]
    recorded = recorded_recipe(old, "test")
    assert recorded.cloned_student == recorded.student
    assert "cloned_width" not in recorded.deciding()["distillation"]
    now = Recipe("x", student=ADAM_STUDENT).resolved()
    assert now.deciding()["distillation"]["cloned_width"] == 1024
    assert recorded_recipe(now.to_json(), "test") == now


@pytest.mark.parametrize("method", ["av_pbc", "sdw"])
def test_the_papers_settings_are_one_file_away(method: str) -> None:
    recipe = load_recipe(ROOT / f"recipes/paper-{method}.toml")
    assert recipe.method == method
    assert recipe.student == protocol_by_name("paper")
    assert recipe.distillation.draws.learning_rates == (0.5, 1.0, 2.0)


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda p: p.stem)
def test_bundled_recipes_are_valid_and_hold_only_what_differs(path: Path) -> None:
    import tomllib

    recipe = load_recipe(path)
    default = Recipe("x").to_json()
    for key, value in tomllib.loads(path.read_text()).items():
        if isinstance(value, dict):
            assert all(default[key][inner] != setting for inner, setting in value.items()), key
        elif key != "method":  # said for the reader
            assert default[key] != value, key
    assert isinstance(recipe, Recipe)


def test_json_round_trip() -> None:
    recipe = Recipe("some/data-v0", "pbc", student=StudentProtocol(depth=2, optimiser="adam"))
    assert parse_recipe(recipe.to_json(), "here") == recipe
    with pytest.raises(FrozenInstanceError):
        recipe.size = 3  # pyright: ignore


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("size = 3", "source"),
        ("source = 'a'\nsise = 3", "no setting 'sise' .did you mean 'size'"),
        ("source = 'a'\n[teacher]\nalgoritm = 'iql'", "no setting 'teacher.algoritm' .did you mean 'algorithm'"),
        ("source = 'a'\nsize = '3'", "size: Input should be a valid integer"),
        ("source = 'a'\n[student]\noptimiser = 'lion'", "student.optimiser: Input should be 'sgd', 'adam' or 'adamw'"),
        ("source = 'a'\nsize = 0", "size is 0; it must be above zero"),
        ("source = ", "is not TOML"),
    ],
)
def test_a_bad_recipe_is_named(text: str, message: str) -> None:
    path = Path("bad.toml")
    path.write_text(text)
    with pytest.raises(FormatError, match=message):
        load_recipe(path)


def test_a_missing_recipe_is_named() -> None:
    with pytest.raises(NotFoundError, match=r"no recipe 'none\.toml'"):
        load_recipe("none.toml")


@pytest.mark.parametrize(
    "make",
    [
        lambda: StudentProtocol(steps=0),
        lambda: StudentProtocol(momentum=1.0),
        lambda: StudentProtocol(optimiser="adam", momentum=0.9),
        lambda: DistillationRecipe(held_out=1.0),
        lambda: DistillationRecipe(learning_rate=float("nan")),
        lambda: EvaluationRecipe(episodes=-1),
        lambda: Recipe(""),
        lambda: Recipe("x", seed=-1),
        lambda: Recipe("x", seed=2**32),
    ],
)
def test_senseless_settings_are_refused(make) -> None:
    with pytest.raises(SettingError):
        make()


def test_protocols_have_names() -> None:
    assert protocol_by_name("paper") == StudentProtocol()
    with pytest.raises(NotFoundError, match="did you mean 'paper'"):
        protocol_by_name("papr")


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (
            Recipe,
            {"teacher": "td3_bc"},
            "teacher is 'td3_bc'; expected a TeacherRecipe, such as Te",
        ),
        (Recipe, {"student": "paper"}, r"expected a StudentProtocol; those with names .* protocol_by_name\('paper'\)"),
        (Recipe, {"size": "64"}, "size is '64'; expected a whole number"),
        (Recipe, {"threads": 1.5}, "threads is 1.5; expected a whole number or None"),
        (StudentDraws, {"depths": [2, "3"]}, r"depths is \(2, '3'\); expected a tuple, each a whole number"),
        (StudentStatesRecipe, {"share": "half"}, "share is 'half'; expected a number or None"),
        (DistillationRecipe, {"optimiser": "adma"}, "distillation.optimiser is 'adma'; expected one of 'adam', 'sgd'"),
        (StudentProtocol, {"depth": True}, "student.depth is True"),
        (TeacherRecipe, {"algorithm": Path("teacher")}, "expected text"),
    ],
)
def test_settings_made_in_python_are_checked_as_those_of_files(kind: Any, values: dict, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        kind(**({"source": "x"} if kind is Recipe else {}), **values)


def test_numbers_of_numpy_and_lists_are_taken() -> None:
    draws: Any = {"depths": [1, np.int64(2)]}
    recipe = Recipe("x", size=cast(int, np.int64(8)), distillation=DistillationRecipe(draws=StudentDraws(**draws)))
    assert recipe.to_json()["size"] == 8
    assert recipe.distillation.draws.depths == (1, 2)


def test_what_the_kind_of_data_decides_is_in_the_name() -> None:
    recipe = Recipe("lab/x-v0", "opw")
    plain = recipe.suited(is_discrete=False, may_choose=True)
    assert plain == recipe
    assert plain.deciding() == replace(recipe, on_policy=OnPolicyRecipe(temperature=0.05)).deciding()
    discrete = recipe.suited(is_discrete=True, may_choose=True)
    assert (discrete.teacher.algorithm, discrete.teacher.best_episodes) == ("discrete_cql", 0.5)
    assert (discrete.on_policy.temperature, discrete.student.network) == (0.5, "softmax_kernel")
    former = replace(recipe, on_policy=OnPolicyRecipe(temperature=0.05)).suited(is_discrete=True, may_choose=True)
    assert former.deciding() != discrete.deciding()
    assert discrete.suited(is_discrete=True, may_choose=True) == discrete
    goals = recipe.suited(is_discrete=False, may_choose=False)
    assert (goals.teacher.algorithm, goals.teacher.best_episodes) == ("bc", 1.0)
    assert goals.deciding() != recipe.deciding()
    given = replace(recipe, teacher=TeacherRecipe("discrete_bcq", best_episodes=0.3))
    assert given.suited(is_discrete=True, may_choose=True).teacher.best_episodes == 0.3
    assert recipe.suited(is_discrete=True, may_choose=False).teacher.best_episodes == 1.0
    bundled = Recipe("obd-bench/hopper/medium-v0")
    assert bundled.suited(is_discrete=False, may_choose=False).teacher == bundled.teacher
