"""What would fail after long work is found before it: the environment, the cache, the folder to write."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import RuleTeacher, make_arrays, make_pairs

import minari_obd
from minari_obd.cli.application import main
from minari_obd.distillation.pipeline import run_recipe
from minari_obd.distillation.preparation import prepare
from minari_obd.dynamics.fitting import DynamicsRun
from minari_obd.errors import DataError, MinariObdError, NotFoundError, SettingError
from minari_obd.settings.recipe import Recipe, parse_recipe
from minari_obd.settings.sections import EvaluationRecipe, ValueRecipe
from minari_obd.sources.behaviours import takes_generators
from minari_obd.sources.collecting import collect
from minari_obd.sources.data import OfflineData
from minari_obd.support.devices import cache_root
from minari_obd.teachers.run import TeacherRun

QUICK = {
    "evaluation": {"students": 1, "episodes": 1, "whole_data_steps": 5},
    "distillation": {"kernel_steps": 5, "steps": 2},
    "size": 8,
}


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be trained."""

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("training had begun")

    monkeypatch.setattr(TeacherRun, "train", fail)
    monkeypatch.setattr(DynamicsRun, "fit", fail)


@pytest.fixture
def no_fitting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no density be fitted, and nothing distilled."""

    def forbid(*_: object, **__: object) -> None:
        raise AssertionError("long work had begun")

    monkeypatch.setattr("minari_obd.distillation.distillation.fit_density", forbid)
    monkeypatch.setattr("minari_obd.distillation.distillation._distil", forbid)


def pendulum(**changes: object) -> Recipe:
    collect("lab/pendulum-v0", "Pendulum-v1", "random", steps=60, progress=False)
    settings = {"source": "lab/pendulum-v0", "method": "pbc", "teacher": {"algorithm": "td3_bc", "steps": 20}}
    return parse_recipe({**settings, **QUICK, **changes}, "test")


def evaluated_in(env: str) -> dict:
    return {**QUICK["evaluation"], "env": env}


@pytest.mark.parametrize(
    ("env", "problem"),
    [
        ("Ant-v5", "for 3 observations and 1 actions, but the environment has 105 and 8"),
        ("Nowhere-v0", "not registered"),
        ("os:Thing", "not a plain environment id"),
        ("CartPole-v1", "but the environment has 4 and 2"),
    ],
)
def test_run_looks_at_the_environment_before_the_teacher(env: str, problem: str, no_training: None) -> None:
    with pytest.raises(MinariObdError, match=problem):
        run_recipe(pendulum(evaluation=evaluated_in(env)), "out", progress=False)
    assert not Path("out").exists()


def test_a_source_that_names_no_environment_can_be_given_one(no_training: None) -> None:
    arrays = make_arrays([30, 30], state_size=3, action_size=1)
    recipe = Recipe("arrays", method="random", size=8, evaluation=EvaluationRecipe(1, 1, 5, env="Pendulum-v1"))
    pairs = minari_obd.distill(arrays, recipe=recipe, progress=False)
    assert pairs.env_id == "Pendulum-v1"
    with pytest.raises(SettingError, match="for 3 observations and 1 actions, but the environment has 105 and 8"):
        minari_obd.distill(
            arrays, recipe=replace(recipe, evaluation=replace(recipe.evaluation, env="Ant-v5")), progress=False
        )


def test_the_named_environment_is_where_all_rows_are_measured() -> None:
    gym.register("Short-v0", entry_point="gymnasium.envs.classic_control:PendulumEnv", max_episode_steps=7)
    try:
        recipe = pendulum(method="random", evaluation=evaluated_in("Short-v0"))
        result = run_recipe(recipe, "out", progress=False)
    finally:
        del gym.registry["Short-v0"]
    assert {row.report.env_id for row in result.rows} == {"Short-v0"} == {result.dataset.env_id}
    assert {row.report.environment_steps for row in result.rows} == {7}


def test_reference_scores_stay_with_the_environment_they_are_of() -> None:
    data = minari_obd.load_offline_data(make_arrays([5]) | {"ref_min_score": 0.0, "ref_max_score": 9.0})
    assert data.in_environment("Hopper-v5").reference == data.reference is not None
    there = replace(data, env_id="Pendulum-v1")
    assert there.in_environment(None) is there.in_environment("Pendulum-v1") is there
    assert there.in_environment("MyTask-v0").reference is None
    reference = there.in_environment("Hopper-v5").reference
    assert reference is not None
    assert "D4RL" in reference.source


def test_a_recipe_without_an_environment_keeps_its_name() -> None:
    recipe = Recipe("lab/x-v0")
    assert "env" not in recipe.deciding()["evaluation"]
    assert replace(recipe, evaluation=EvaluationRecipe(env="Hopper-v5")).deciding()["evaluation"]["env"] == "Hopper-v5"


def test_the_plan_says_what_cannot_be_evaluated(capsys: pytest.CaptureFixture[str]) -> None:
    minari_obd.distill(make_arrays([30]), "random", size=8)
    assert "not known what environment 'arrays' belongs to" in capsys.readouterr().err


def test_the_command_line_names_the_environment(capsys: pytest.CaptureFixture[str]) -> None:
    pendulum()
    with pytest.raises(SystemExit):
        main(["distill", "lab/pendulum-v0", "--method", "random", "--size", "8", "--evaluation.env", "Ant-v5"])
    assert "the environment has 105 and 8" in capsys.readouterr().err


def test_a_cache_that_cannot_be_written_is_found_before_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("file").touch()
    monkeypatch.setenv("MINARI_OBD_CACHE", "file")
    data = minari_obd.load_offline_data(make_arrays([30, 30]))
    for work in (
        lambda: minari_obd.train_teacher(data, "td3_bc", steps=20, progress=False),
        lambda: minari_obd.distill(data, "dbc", size=8, progress=False),
        lambda: run_recipe(pendulum(), "out", progress=False),
    ):
        with pytest.raises(SettingError, match=r"The cache 'file/.*set MINARI_OBD_CACHE"):
            work()
        assert not Path("out").exists()
    assert len(minari_obd.distill(data, "random", size=8, progress=False)) == 8  # which keeps nothing there


def test_without_a_home_folder_the_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MINARI_OBD_CACHE")
    monkeypatch.setattr(
        Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("Could not determine home directory."))
    )
    with pytest.raises(SettingError, match=r"no home folder .* set MINARI_OBD_CACHE"):
        cache_root()


def test_an_unknown_environment_is_found_before_the_data_is_read() -> None:
    recipe = Recipe("obd-bench/hopper/medium-v0", method="random", evaluation=EvaluationRecipe(env="Hopper-v99"))
    with pytest.raises(NotFoundError, match="did you mean 'Hopper-v"):
        minari_obd.distill(recipe=recipe, progress=False)


@pytest.mark.parametrize("method", ["av_pbc", "sdw"])
def test_rewards_that_give_values_no_weight_are_found_before_the_teacher(method: str, no_training: None) -> None:
    """Pendulum's rewards are costs."""
    recipe = pendulum(method=method)
    with pytest.raises(DataError, match=r"No reward of 'lab/pendulum-v0' is above 0 .*'shift_free' or 'tempered'"):
        run_recipe(recipe, "out", progress=False)
    with pytest.raises(AssertionError, match="training had begun"):
        run_recipe(replace(recipe, values=ValueRecipe("shift_free")), "out", progress=False)


def test_an_ensemble_of_too_few_steps_is_found_before_the_teacher(no_training: None) -> None:
    recipe = pendulum(teacher={"algorithm": "td3_bc", "steps": 20}, student_states={"share": 0.5})
    data = replace(minari_obd.load_offline_data(make_arrays([30], action_size=1)), env_id="Pendulum-v1")
    with pytest.raises(DataError, match=r"has 2\d steps with a known next state, and an ensemble needs at least 40"):
        minari_obd.distill(data, recipe=recipe, progress=False)


def fail(*_: object) -> Any:
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("method", "name", "function", "message"),
    [
        ("sdw", "act", lambda s: torch.tensor(s[:, :2], requires_grad=True), "actions that NumPy cannot read: .*grad"),
        ("sdw", "act", lambda s: [["left"] * 2] * len(s), r"returned .*left.* for actions; expected an array of num"),
        ("sdw", "act", lambda s: s[:, 0], r"shape \(8,\) for 8 states; expected \(8, 2\)\. Its act takes a batch"),
        ("sdw", "act", lambda s: s[:, :2] * np.nan, "actions that are not finite"),
        ("sdw", "value", lambda s, a: s[:, :1], r"values of shape \(8, 1\) for 8 states; expected one each"),
        ("av_pbc", "value", lambda s, a: None, "returned 'None' for values; expected an array of numbers"),
    ],
)
def test_a_teacher_of_ones_own_is_tried_before_long_work(
    method: str, name: str, function: Any, message: str, no_fitting: None
) -> None:
    teacher = RuleTeacher()
    setattr(teacher, name, function)
    with pytest.raises(DataError, match=message):
        minari_obd.distill(make_arrays([30, 30]), method, size=8, teacher=teacher, progress=False)
    setattr(teacher, name, fail)
    with pytest.raises(ZeroDivisionError) as told:
        minari_obd.distill(make_arrays([30, 30]), method, size=8, teacher=teacher, progress=False)
    assert f"{name} was given" in told.value.__notes__[0]
    assert "(8, 3)" in told.value.__notes__[0]


def test_probabilities_are_looked_at_before_long_work(no_fitting: None) -> None:
    arrays = make_arrays([30, 30])
    arrays |= {"actions": np.arange(60) % 2, "action_count": 2}
    teacher: Any = RuleTeacher()
    teacher.act = lambda observations: np.ones((len(observations), 2))
    with pytest.raises(DataError, match=r"The teacher's actions are discrete, .* do not sum to 1"):
        minari_obd.distill(arrays, "pbc", size=8, teacher=teacher, progress=False)


def test_values_that_nobody_needs_are_not_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever brings a policy without critics gets the squared error, and the plan says so."""
    teacher: Any = RuleTeacher()
    teacher.value = fail
    recipe = parse_recipe({"source": "arrays", **QUICK, "student_states": {"share": 0.0}}, "test")
    pairs = minari_obd.distill(make_arrays([30, 30]), "vgd", teacher=teacher, recipe=recipe)
    assert "value_calibration" not in pairs.provenance.targets
    assert "value gap    left out, since a RuleTeacher has no critics that are networks" in capsys.readouterr().err


def test_a_method_without_a_teacher_asks_none(small_data: OfflineData) -> None:
    class Refuses:
        def act(self, states: np.ndarray) -> np.ndarray:
            raise AssertionError("nobody needs actions")

        def value(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
            raise AssertionError("nobody needs values")

    prepare(Recipe("arrays", "dbc", 8), small_data, Refuses(), progress=False)


def test_an_act_with_something_optional_is_a_teachers() -> None:
    class Teaches:
        def act(self, states: np.ndarray, deterministic: bool = True) -> np.ndarray:
            return states

    class Behaves:
        def act(self, states: np.ndarray, rngs: list[np.random.Generator]) -> np.ndarray:
            return states

    class Either:
        def act(self, states: np.ndarray, generators: list[np.random.Generator] | None = None) -> np.ndarray:
            return states

    assert [takes_generators(each()) for each in (Teaches, Behaves, Either)] == [False, True, True]


def test_a_teacher_of_ones_own_is_asked_before_the_first_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minari_obd.evaluation.evaluation.roll_out", None)

    class Mine:
        def __init__(self, answer: object) -> None:
            self.answer = answer

        def act(self, states: np.ndarray) -> object:
            return self.answer

    for answer, message in (
        (np.zeros(1), r"returned an action of shape \(\); the environment has \(1,\)"),
        (np.zeros((1, 2)), r"returned an action of shape \(2,\); the environment has \(1,\)"),
        (np.zeros((3, 1)), r"shape \(3, 1\) for a batch of one observation, \(1, 3\); its act must return one"),
        ("left", "returned 'left' for actions; expected an array of numbers"),
    ):
        with pytest.raises(MinariObdError, match=message):
            minari_obd.evaluate(Mine(answer), env="Pendulum-v1", episodes=1)
    with pytest.raises(SettingError, match=r"The teacher returned the action \[7\]; the environment has Discrete\(2\)"):
        minari_obd.evaluate(Mine(np.array([[7]])), env="CartPole-v1", episodes=1)
    with pytest.raises(SettingError, match="The class Mine cannot be evaluated; give an object of it"):
        minari_obd.evaluate(Mine, env="Pendulum-v1", episodes=1)
    with pytest.raises(SettingError, match=r"a OfflineData, cannot be evaluated; .*clone it first"):
        minari_obd.evaluate(minari_obd.load_offline_data(make_arrays([9])), env="Pendulum-v1", episodes=1)


def test_arguments_of_another_kind_are_told_before_any_work() -> None:
    pairs: Any = make_pairs()
    wrong_kind: Any = "p"
    numbers: Any = [1, 2]
    policy: Any = minari_obd.clone(pairs)
    report = minari_obd.EvaluationReport(np.ones((1, 2)), "Hopper-v5", 0)
    wrong: list[tuple[str, Any]] = [
        (
            "start takes Policy, and 'p' is a str; load it first",
            lambda: minari_obd.clone(pairs, start=wrong_kind),
        ),
        ("settings takes FinetuningRecipe, and", lambda: minari_obd.finetune(pairs, steps=9, settings=wrong_kind)),
        ("tasks is one distilled dataset; give a list", lambda: minari_obd.learn_continually(pairs)),
        ("memory is one distilled", lambda: minari_obd.learn_continually([pairs, pairs], memory=pairs)),
        ("with_evaluation takes EvaluationReport", lambda: pairs.with_evaluation(report).with_evaluation(3)),
        ("with_evaluation takes EvaluationReport", lambda: policy.with_evaluation("report.json")),
        ("probability_of_improvement takes Eval", lambda: report.probability_of_improvement(wrong_kind)),
        ("count is '4'; expected a whole number", lambda: pairs.first("4")),
        ("count is 4.0; expected a whole number", lambda: pairs.first(4.0)),
        ("draw_reports takes FinetuneReport", lambda: minari_obd.draw_reports([wrong_kind])),
        ("names are .* expected text", lambda: minari_obd.compare(pairs, pairs, names=numbers)),
    ]
    for message, call in wrong:
        with pytest.raises(SettingError, match=message):
            call()
