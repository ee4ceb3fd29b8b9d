"""Goals and success: dict observations, sparse rewards, and what the environment's infos say, from data to card."""

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import minari
import numpy as np
import pytest

import minari_obd
from minari_obd.distilled.metadata import parse_evaluation
from minari_obd.environments.making import make_environment
from minari_obd.environments.rollouts import visit
from minari_obd.errors import DataError, FormatError, MissingExtraError, SettingError
from minari_obd.inspection.verification import verify
from minari_obd.scores.report import EvaluationReport
from minari_obd.settings.protocols import StudentProtocol
from minari_obd.settings.recipe import Recipe
from minari_obd.settings.sections import DistillationRecipe
from minari_obd.sources.benchmark import BENCHMARK
from minari_obd.sources.mazes import CONTROLLERS
from minari_obd.storage.minari_datasets import episode_buffer
from minari_obd.support import libraries
from minari_obd.teachers.algorithms import BC, episodes_for


class Reach(gym.Env):
    """A point in the plane that is to reach a goal: sparse rewards, and ``success`` in the infos."""

    _place = gym.spaces.Box(-np.inf, np.inf, (2,))
    observation_space = gym.spaces.Dict({"achieved_goal": _place, "desired_goal": _place, "observation": _place})
    action_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    said = "success"

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        super().reset(seed=seed)
        self._at, self._goal = self.np_random.uniform(-1, 1, (2, 2))
        return self._seen(), {}

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict]:
        self._at = self._at + 0.2 * np.clip(action, -1, 1)
        is_there = bool(np.linalg.norm(self._at - self._goal) < 0.2)
        return self._seen(), float(is_there), False, False, {self.said: is_there}

    def _seen(self) -> dict:
        return {
            "achieved_goal": self._at.astype(np.float32),
            "desired_goal": self._goal.astype(np.float32),
            "observation": np.zeros(2, np.float32),
        }


class ReachToo(Reach):
    """The same with Stable-Baselines3's name for it."""

    said = "is_success"


if "Reach-v0" not in gym.registry:
    gym.register("Reach-v0", cast(Any, Reach), max_episode_steps=25)
    gym.register("ReachToo-v0", cast(Any, ReachToo), max_episode_steps=25)


def go(observation: np.ndarray) -> np.ndarray:
    """Go straight to the goal: columns are achieved goal, desired goal, observation."""
    return np.clip(5 * (observation[2:4] - observation[:2]), -1, 1)


@pytest.fixture
def data() -> minari_obd.OfflineData:
    minari_obd.collect("lab/reach-v0", "Reach-v0", go, steps=500, progress=False)
    return minari_obd.load_offline_data("lab/reach-v0")


def test_success_is_at_any_step_and_stands_beside_the_return() -> None:
    report = minari_obd.evaluate(go, env="Reach-v0", episodes=12)
    assert report.successes is not None
    assert report.successes.all()
    assert report.success is not None
    assert (report.success.mean, report.success.low, report.success.high) == (100.0, 100.0, 100.0)
    assert "success, %" in report.to_markdown()
    assert "success 100.0" in repr(report)

    def leave(observation: np.ndarray) -> np.ndarray:  # whoever starts near the goal has been there once
        return np.ones(2)

    fled = minari_obd.evaluate(leave, env="ReachToo-v0", episodes=200)
    assert fled.successes is not None
    np.testing.assert_array_equal(fled.successes[0], fled.returns[0] > 0)
    assert 0 < fled.successes.mean() < 0.3
    assert minari_obd.evaluate(lambda _: np.zeros(1), env="Pendulum-v1", episodes=2).successes is None


def test_a_model_of_stable_baselines3_is_given_the_dict(monkeypatch: pytest.MonkeyPatch) -> None:
    class Model:
        """As its models with a MultiInputPolicy."""

        observation_space = Reach.observation_space

        def predict(self, observation: dict, deterministic: bool) -> tuple[np.ndarray, None]:
            return np.clip(5 * (observation["desired_goal"] - observation["achieved_goal"]), -1, 1), None

    found, wanted = (minari_obd.evaluate(each, env="Reach-v0", episodes=3) for each in (Model(), go))
    np.testing.assert_allclose(found.returns, wanted.returns)
    monkeypatch.setattr(Model, "observation_space", gym.spaces.Dict({"x": gym.spaces.Box(-1, 1, (2,))}))
    with pytest.raises(SettingError, match="The model takes 2 observations, but the environment has 6"):
        minari_obd.evaluate(Model(), env="Reach-v0", episodes=3)


def test_a_function_of_dicts_is_told_what_it_was_given() -> None:
    def act(observation: Any) -> Any:
        return observation["desired_goal"]

    for use in (
        lambda: minari_obd.evaluate(act, env="Reach-v0", episodes=1),
        lambda: minari_obd.collect("lab/x-v0", "Reach-v0", act, steps=9, progress=False),
    ):
        with pytest.raises(IndexError) as told:
            use()
        (note,) = told.value.__notes__
        assert "array of shape (6,). Observations that are dicts" in note


def test_goals_belong_to_the_seed_and_all_students_face_the_same() -> None:
    environment = make_environment("Reach-v0")
    goals = [environment.reset(seed=seed)[0]["desired_goal"] for seed in (3, 4, 3)]
    np.testing.assert_array_equal(goals[0], goals[2])
    assert (goals[0] != goals[1]).any()
    seen = [visit("Reach-v0", [3, 4], act).observations for act in (lambda o: o[:, :2], lambda o: -o[:, :2])]
    for each in seen:
        assert {tuple(row) for row in each[:, 2:4]} == {tuple(goal) for goal in goals}


def test_pairs_of_a_goal_task_are_distilled_judged_published_and_verified(
    data: minari_obd.OfflineData, tmp_path: Path
) -> None:
    assert [each.name for each in data.observation_fields] == ["achieved_goal", "desired_goal", "observation"]
    student = StudentProtocol(depth=1, width=32, steps=100, optimiser="adam", learning_rate=0.01)
    settings = DistillationRecipe(kernel_steps=5, steps=20, batch_size=64, learning_rate=0.03, evaluate_every=10)
    recipe = Recipe("lab/reach-v0", "dbc", 32, student=student, distillation=settings)
    pairs = minari_obd.distill(data, recipe=recipe, progress=False)
    reports = [minari_obd.evaluate(pairs, students=3, episodes=4, workers=workers) for workers in (1, 2)]
    np.testing.assert_array_equal(reports[0].successes, reports[1].successes)  # pyright: ignore
    assert reports[0].success is not None
    assert reports[0].success.mean > 60
    folder = pairs.with_evaluation(reports[0]).save(tmp_path / "pairs")
    again = minari_obd.load_dataset(folder)
    assert again.evaluation is not None
    np.testing.assert_array_equal(again.evaluation.successes, reports[0].successes)  # pyright: ignore
    assert "| success, % |" in (folder / "README.md").read_text()
    assert json.loads((folder / "obd.json").read_text())["format"] == 4
    assert json.loads((pairs.save(tmp_path / "plain") / "obd.json").read_text())["format"] == 3
    assert verify(folder, source="lab/reach-v0", evaluate=True).passed
    file = folder / "evaluation.json"
    values = json.loads(file.read_text())
    file.write_text(json.dumps({**values, "success": {"mean": 99.0, "low": 99.0, "high": 99.0}}))
    assert not verify(folder).passed
    with pytest.raises(FormatError, match="successes of a report have shape"):
        parse_evaluation({**values, "successes": [[True]]}, "x")


def test_a_teacher_of_data_with_goals_learns_from_all_episodes(data: minari_obd.OfflineData) -> None:
    """Their returns say how near the goal was, and not how well it was reached."""
    assert data.has_goals
    assert episodes_for(BC, data, None) is data
    assert len(episodes_for(BC, data, 0.25)) < len(data)
    plain = replace(data, observation_fields=())
    assert len(episodes_for(BC, plain, None)) == len(data.best_episodes(0.25)) < len(data)
    chosen = plain.best_episodes(0.5)
    assert chosen.may_choose is False
    assert episodes_for(BC, chosen, None) is chosen


def test_reports_without_success_are_as_before() -> None:
    report = EvaluationReport(np.ones((2, 3)), "Reach-v0", 0)
    assert "success" not in str(report.to_json())
    known = replace(report, successes=np.array([[True, False, False], [True, True, True]]))
    again = EvaluationReport.from_json(known.to_json())
    assert again.success == known.success
    assert again.success is not None
    assert again.success.mean == pytest.approx(100 * 4 / 6)
    with pytest.raises(DataError, match="successes of a report have shape"):
        replace(report, successes=np.ones((2, 3)))


@pytest.fixture
def robotics() -> None:
    pytest.importorskip("gymnasium_robotics")


def test_a_point_maze_is_collected_by_waypoints_and_judged_by_success(robotics: None) -> None:
    BENCHMARK["obd-bench/pointmaze/umaze-v0"].build(steps=1_200, progress=False)
    data = minari_obd.load_offline_data("obd-bench/pointmaze/umaze-v0")
    assert data.observations.shape == (1_200, 8)
    assert data.env_id == "PointMaze_UMaze-v3"
    assert not data.changed_settings
    assert (data.episode_returns > 0).all()  # it arrives in every episode
    environment = make_environment("PointMaze_UMaze-v3")
    middles = {
        (i, j): environment.unwrapped.maze.cell_rowcol_to_xy(np.array([i, j]))  # pyright: ignore
        for i, row in enumerate(CONTROLLERS["umaze-controller"].maze)
        for j, cell in enumerate(row)
        if cell != "#"
    }
    for cell, middle in middles.items():  # its map is the environment's
        assert tuple(CONTROLLERS["umaze-controller"]._cells(middle[None])[0]) == cell
    steady = replace(CONTROLLERS["umaze-controller"], noise=0.0)
    rng = np.random.default_rng(0)
    report = minari_obd.evaluate(lambda o: steady.act(o[None], [rng])[0], env="PointMaze_UMaze-v3", episodes=5)
    assert report.success is not None
    assert report.success.mean == 100.0


def test_a_maze_with_other_settings_names_no_environment(robotics: None) -> None:
    """As Minari's D4RL/pointmaze sets are: the goal moves on, and episodes have a million steps."""
    environment = gym.make("PointMaze_UMaze-v3", reset_target=True, max_episode_steps=1_000_000)
    seen, rewards = [environment.reset(seed=0)[0]], []
    for _ in range(50):
        observation, reward, _, _, _ = environment.step(np.ones(2, np.float32))
        seen.append(observation)
        rewards.append(float(reward))
    buffer = episode_buffer(
        observations={name: np.stack([each[name] for each in seen]) for name in seen[0]},
        actions=np.ones((50, 2), np.float32),
        rewards=np.array(rewards),
        terminations=np.zeros(50, bool),
        truncations=np.arange(50) == 49,
    )
    told = dict.fromkeys(("algorithm_name", "author", "author_email", "code_permalink", "description"), "x")
    known: dict[str, Any] = {"ref_min_score": 10.0, "ref_max_score": 200.0, "requirements": [], **told}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Minari's advice on fields that have no meaning here
        stored = minari.create_dataset_from_buffers("lab/maze-v0", [buffer], env=environment, **known)
    environment.close()
    with pytest.warns(UserWarning, match=r"other settings than are registered .*reset_target"):
        data = minari_obd.load_offline_data("lab/maze-v0")
    assert stored[0].observations["desired_goal"].shape == (51, 2)
    assert (data.env_id, data.observations.shape[1]) == (None, 8)
    assert set(data.changed_settings) == {"max_episode_steps", "reset_target"}
    assert data.reference is not None
    assert (data.reference.random, data.reference.expert) == (10.0, 200.0)
    with pytest.warns(UserWarning, match="other settings"):
        pairs = minari_obd.distill("lab/maze-v0", "random", size=8, progress=False)
    report = minari_obd.evaluate(pairs, env="PointMaze_UMaze-v3", students=2, episodes=1)
    assert report.successes is not None


@pytest.mark.parametrize(
    ("env_id", "library", "extra"),
    [("AntMaze_Nowhere-v9", "gymnasium_robotics", "robotics"), ("LunarLander-v3", "Box2D", "box2d")],
)
def test_a_missing_simulator_is_named_with_its_extra(
    env_id: str, library: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libraries, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=rf"{library}, which is not installed.*minari-obd\[{extra}\]"):
        make_environment(env_id)
