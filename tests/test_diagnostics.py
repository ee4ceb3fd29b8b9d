"""Diagnostics: cases whose answer is known before anything is measured."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from conftest import RuleTeacher, make_pairs
from scipy.spatial.distance import cdist
from scipy.stats import mannwhitneyu, norm

import minari_obd
from minari_obd.cli.application import main
from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.errors import DataError, FormatError, NotFoundError, SettingError
from minari_obd.inspection.diagnosis import diagnose
from minari_obd.inspection.neighbours import nearest_distances, overlap
from minari_obd.inspection.origins import cached_teacher
from minari_obd.scores.estimates import estimate_auc
from minari_obd.settings.protocols import StudentProtocol
from minari_obd.settings.recipe import Recipe
from minari_obd.settings.sections import DistillationRecipe, TeacherRecipe
from minari_obd.sources.benchmark import BENCHMARK
from minari_obd.sources.data import OfflineData
from minari_obd.sources.loading import load_offline_data

SMALL = StudentProtocol(depth=1, width=32, steps=100)
HOPPER = "obd-bench/hopper/medium-v0"


def made_data(count: int = 4_000, seed: int = 0, noise: float = 0.0) -> OfflineData:
    """States of a stretched Gaussian; the action is a linear function of the state, on both sides of zero."""
    rng = np.random.default_rng(seed)
    observations = rng.normal(size=(count, 3)) * [1.0, 5.0, 0.1] + [0.0, 10.0, 0.0]
    truncations = np.zeros(count, dtype=bool)
    truncations[99::100] = True
    actions = linear(observations) + noise * rng.normal(size=(count, 2))
    return load_offline_data(
        {
            "observations": observations,
            "actions": np.clip(actions, -1, 1),
            "rewards": np.zeros(count),
            "terminations": np.zeros(count, dtype=bool),
            "truncations": truncations,
            "action_low": np.full(2, -1.0),
            "action_high": np.full(2, 1.0),
        }
    )


def linear(observations: np.ndarray) -> np.ndarray:
    return np.stack([0.2 * observations[:, 0], 0.02 * (observations[:, 1] - 10)], axis=1)


def pairs_of(data: OfflineData, observations: np.ndarray, actions: np.ndarray, method: str = "dbc") -> DistilledDataset:
    """Pairs that claim to be made from the data."""
    pairs = make_pairs(env_id=None)
    recipe = Recipe(data.dataset_id, method=method, size=len(observations), student=SMALL)
    recipe = replace(recipe, distillation=replace(recipe.distillation, initial="random")).to_json()
    claims = {"source": data.dataset_id, "source_sha256": data.content_sha256, "source_steps": len(data)}
    return replace(
        pairs,
        observations=observations,
        actions=actions,
        normaliser=data.normaliser,
        protocol=SMALL,
        provenance=replace(pairs.provenance, method=method, recipe=recipe, **claims),
        action_low=data.action_low,
        action_high=data.action_high,
    )


def noisy_case() -> tuple[DistilledDataset, OfflineData]:
    data, fresh = made_data(noise=0.1), made_data(128, seed=5)
    return pairs_of(data, fresh.observations, fresh.actions), data


class PolicyTeacher:
    """A teacher that does what students do."""

    def __init__(self, policy: minari_obd.Policy) -> None:
        self.policy = policy

    def act(self, states: np.ndarray) -> np.ndarray:
        return self.policy(states)

    def value(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        return np.ones(len(states))


class LinearTeacher(RuleTeacher):
    def act(self, states: np.ndarray) -> np.ndarray:
        return np.clip(linear(states), -1, 1).astype(np.float32)


def test_random_pairs_are_copies_and_tell_their_rows() -> None:
    data = made_data(1_000)
    made = minari_obd.distill(data, "random", size=200, recipe=Recipe("x", student=SMALL), progress=False)
    found = diagnose(made, data, students=1)
    assert found.nearness.copies == 1.0
    assert found.nearness.distance == (0.0, 0.0, 0.0)
    assert found.nearness.ratio == found.nearness.ratio_low == 0.0
    assert found.nearness.relative_distance == 0.0
    tested = found.initial_membership
    assert tested is not None
    assert tested.by_distance.low == tested.by_distance.mean == 1.0
    assert tested.members == 200
    assert tested.others < 50  # rows that were selected are not held out
    assert found.coverage is not None
    assert found.coverage.coverage.low <= found.coverage.attainable_coverage.mean <= found.coverage.coverage.high


@pytest.mark.parametrize(("seed", "initial"), [(0, "random"), (3, "random"), (3, "kmeans")])
def test_pairs_that_did_not_move_lie_on_the_distillers_own_rows(
    small_data: OfflineData, seed: int, initial: Literal["random", "kmeans"]
) -> None:
    still = DistillationRecipe(initial=initial, steps=1, learning_rate=1e-12, batch_size=64)
    recipe = Recipe("x", student=SMALL, distillation=still)
    made = minari_obd.distill(small_data, "dbc", size=16, seed=seed, recipe=recipe, progress=False)
    found = diagnose(made, small_data, students=1)
    assert found.nearness.copies == 1.0
    assert found.initial_membership is not None
    assert found.initial_membership.by_distance.mean == 1.0
    assert (found.initial_membership.members, found.initial_membership.others) == (16, 30)
    assert found.membership.by_distance.low < 1.0


def test_pairs_far_away_cover_nothing() -> None:
    data = made_data()
    found = diagnose(pairs_of(data, data.observations[:64] + 1e4, data.actions[:64]), data, students=1)
    assert found.coverage is not None
    assert found.coverage.coverage.high == found.coverage.precision.high == found.nearness.copies == 0.0
    assert found.coverage.attainable_coverage.low > 0.7
    assert found.nearness.relative_distance is not None
    assert found.nearness.relative_distance > 1e4
    assert found.nearness.ratio_low > 0.99


def test_fresh_rows_are_as_near_as_real_ones_and_tell_nothing() -> None:
    data, fresh = made_data(20_000), made_data(64, seed=5)
    found = diagnose(pairs_of(data, fresh.observations, fresh.actions), data, students=2)
    assert found.coverage is not None
    expected = 1.0 - np.prod([(64 - i) / (128 - i) for i in range(1, 6)])
    assert found.coverage.attainable_coverage.mean == pytest.approx(expected, abs=0.03)
    assert found.coverage.coverage.mean == pytest.approx(expected, abs=0.06)  # the pairs are one draw
    assert found.coverage.precision.mean == pytest.approx(found.coverage.attainable_precision.mean, abs=0.1)
    assert found.nearness.relative_distance == pytest.approx(1.0, abs=0.25)
    assert found.nearness.copies == 0.0
    assert found.initial_membership is not None
    for tested in (found.membership, found.initial_membership):
        for area in (tested.by_distance, tested.by_loss):
            assert area.low < 0.5 < area.high
    assert found.membership.by_distance.high - found.membership.by_distance.low < 0.06


def test_an_exact_teacher_says_what_the_data_says() -> None:
    data, fresh = made_data(), made_data(128, seed=5)
    found = diagnose(pairs_of(data, fresh.observations, fresh.actions), data, teacher=LinearTeacher(), students=2)
    to_teacher = found.offline_error_to_teacher
    assert to_teacher is not None
    assert to_teacher.mean.mean == pytest.approx(found.offline_error.mean.mean, rel=1e-3)
    assert to_teacher.mean.mean < 0.15 * to_teacher.constant
    assert to_teacher.constant == pytest.approx(0.5 * (0.2**2 + 0.1**2), rel=0.1)
    assert to_teacher.states == 200
    noisy = diagnose(*noisy_case(), teacher=LinearTeacher(), students=2)
    assert noisy.offline_error_to_teacher is not None
    excess = noisy.offline_error.mean.mean - noisy.offline_error_to_teacher.mean.mean
    assert excess == pytest.approx(0.1**2, rel=0.25)  # the noise of the behaviour, and nothing else


@pytest.fixture
def hopper() -> DistilledDataset:
    BENCHMARK[HOPPER].build(steps=400, progress=False)
    return minari_obd.distill(HOPPER, "random", size=32, recipe=Recipe("x", student=SMALL), progress=False)


def test_a_student_that_is_the_teacher_errs_nowhere(hopper: DistilledDataset) -> None:
    twin = PolicyTeacher(minari_obd.clone(hopper, students=1, seed=3))
    found = diagnose(hopper, teacher=twin, students=1, episodes=2, seed=3)
    for error in (
        found.offline_error_to_teacher,
        found.error_on_teacher_trajectories,
        found.error_on_own_trajectories,
    ):
        assert error is not None
        assert error.mean.high < 1e-10
        assert error.quartiles[2] < 1e-10
        assert error.constant > 1e-4
    assert found.offline_error.mean.mean > 1e-3
    assert found.student_score is not None
    assert found.teacher_score is not None
    assert found.student_score.mean == found.teacher_score.mean
    report = minari_obd.evaluate(hopper, students=1, episodes=2, seed=3)
    assert found.student_score.mean == pytest.approx(report.score.mean, rel=1e-3)  # evaluate's students and starts
    assert found.error_on_own_trajectories is not None
    assert found.error_on_own_trajectories.states == report.environment_steps


def test_errors_are_those_of_where_students_go(hopper: DistilledDataset) -> None:
    """With a teacher that is the first student, the second one alone errs."""
    twin = PolicyTeacher(minari_obd.clone(hopper, students=1))
    found = diagnose(hopper, teacher=twin, students=2, episodes=1)
    for error in (found.error_on_teacher_trajectories, found.error_on_own_trajectories):
        assert error is not None
        assert error.mean.low < 1e-10 < error.mean.mean
        assert error.mean.high == pytest.approx(2 * error.mean.mean)


def test_the_same_seed_gives_the_same_report() -> None:
    pairs, data = noisy_case()
    first = diagnose(pairs, data, students=2)
    assert diagnose(pairs, data, students=2) == first
    assert diagnose(pairs, data, students=2, seed=1).to_json() != first.to_json()


def test_a_report_is_json_and_a_table() -> None:
    pairs, data = noisy_case()
    found = diagnose(pairs, data, students=1, out="report.json")
    held = json.loads(Path("report.json").read_text())
    assert held == found.to_json()
    assert held["initial_membership"]["members"] == 128
    assert [note.split()[0] for note in found.notes] == ["No", "There"]  # teacher, environment
    text = found.to_markdown()
    for name in (
        "held-out states, to the data",
        "coverage",
        "copies of training states",
        "initial rows told by loss, AUC",
    ):
        assert f"{name} | " in text
    assert "trajectories" not in text
    hostile = replace(found, source="a | b\n# c\x1b[2J").to_markdown().splitlines()
    assert [line.count("|") for line in hostile[:12]] == [4] * 12
    assert "\x1b" not in hostile[0]
    assert found.table().row_count == 13


def test_what_is_not_at_hand_is_left_out_with_a_note() -> None:
    data = made_data()
    few = replace(pairs_of(data, data.observations[:4], data.actions[:4]), env_id="Unheard-v0")
    found = diagnose(few, data, teacher=LinearTeacher(), students=1)
    assert found.coverage is found.student_score is found.teacher_score is found.error_on_own_trajectories is None
    assert found.offline_error_to_teacher is not None
    assert "'Unheard-v0' is not registered" in found.notes[0]
    assert "more than 5 pairs" in found.notes[1]
    unlike = replace(pairs_of(data, data.observations[:8] + 0.5, data.actions[:8], "random"), env_id="Hopper-v5")
    found = diagnose(unlike, data, students=1)
    assert found.initial_membership is None
    assert [note.split(",")[0] for note in found.notes[1:]] == [
        "There are no rollouts: The policy is for 3 observations and 2 actions",
        "There is no membership test of initial rows: too few of the pairs' initial rows were found.",
    ]


def test_what_cannot_be_diagnosed_is_refused() -> None:
    pairs, data = noisy_case()
    with pytest.raises(DataError, match="were made from other data"):
        diagnose(pairs, made_data(seed=9))
    with pytest.raises(NotFoundError, match="is not on this machine"):
        diagnose(pairs)
    with pytest.raises(SettingError, match="students is 0; it must be at least 1"):
        diagnose(pairs, data, students=0)
    with pytest.raises(DataError, match="a million standard deviations"):
        diagnose(replace(pairs, observations=pairs.observations + 1e38), data)
    with pytest.raises(DataError, match="the dataset is damaged"):
        diagnose(replace(pairs, actions=pairs.actions[:, :1], action_low=[-1], action_high=[1]), data)
    with pytest.raises(DataError, match="another task"):
        diagnose(pairs, data, teacher=PolicyTeacher(minari_obd.clone(make_pairs(shape=(3, 1)))))
    for change, error, message in (
        ({"seed": 4}, DataError, "does not match the dataset"),
        ({"recipe": {"sauce": 1}}, FormatError, "no setting 'sauce'"),
        ({"recipe": {**pairs.provenance.recipe, "size": 10**9}}, DataError, "so it was never run"),
    ):
        with pytest.raises(error, match=message):
            diagnose(replace(pairs, provenance=replace(pairs.provenance, **change)), data)
    tiny = made_data(20)
    with pytest.raises(DataError, match="too small"):
        diagnose(pairs_of(tiny, tiny.observations[:8], tiny.actions[:8]), tiny)
    pairs.save("made")
    for out in ("made", "made/report.json"):
        with pytest.raises(SettingError, match="name a file beside it"):
            diagnose(pairs, data, out=out)
    assert minari_obd.load_dataset("made").content_sha256 == pairs.content_sha256


def test_a_teacher_is_found_and_never_trained(
    hopper: DistilledDataset, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load_offline_data(HOPPER)
    teacher = minari_obd.train_teacher(data, "td3_bc", steps=3, progress=False)
    recipe = Recipe(HOPPER, method="random", size=32, student=SMALL, teacher=TeacherRecipe("td3_bc", 3)).to_json()
    made = replace(hopper, provenance=replace(hopper.provenance, recipe=recipe))
    found = cached_teacher(made, data)
    assert found is not None
    assert found.sha256 == teacher.sha256
    claimed = replace(made, provenance=replace(made.provenance, teacher={"sha256": "0" * 64}))
    assert cached_teacher(claimed, data) is None
    path = {**recipe, "teacher": {**recipe["teacher"], "algorithm": str(teacher.save("mine").resolve())}}
    assert cached_teacher(replace(made, provenance=replace(made.provenance, recipe=path)), data) is None
    elsewhere = {**recipe, "device": "cpu", "teacher": {**recipe["teacher"], "precision": "tf32"}}
    assert cached_teacher(replace(made, provenance=replace(made.provenance, recipe=elsewhere)), data) is None
    made.save("made")
    main(["diagnose", "made", "--students", "1", "--episodes", "1", "--out", "found.json"])
    assert "to the teacher" in capsys.readouterr().out
    assert json.loads(Path("found.json").read_text())["teacher_score"] is not None
    monkeypatch.setenv("MINARI_OBD_CACHE", str(Path("empty").resolve()))
    main(["diagnose", "made", "--students", "1", "--episodes", "1"])
    said = capsys.readouterr().out
    assert "to the teacher" not in said
    assert "No teacher was given or found" in said
    main(["diagnose", "made", "--students", "1", "--episodes", "1", "--teacher", "mine"])
    assert "to the teacher" in capsys.readouterr().out
    assert not Path("empty").exists()


def test_nearest_distances_are_those_of_the_whole_matrix() -> None:
    rng = np.random.default_rng(0)
    points, known = (rng.normal(size=(count, 7)).astype(np.float32) for count in (50, 3_000))
    points[0], known[-1] = known[17], 1e5  # a copy, and a row so far that products of its size lose the others
    found = nearest_distances(points, known, 3)
    np.testing.assert_allclose(found, np.sort(cdist(points, known), axis=1)[:, :3], rtol=1e-12)
    assert found[0, 0] == 0.0
    assert nearest_distances(points[:4], known[:2], 2).shape == (4, 2)


@pytest.mark.parametrize(("count", "neighbours"), [(20, 1), (32, 3), (64, 5)])
def test_coverage_has_its_expectation(count: int, neighbours: int) -> None:
    rng = np.random.default_rng(0)
    found = [overlap(rng.normal(size=(count, 4)), rng.normal(size=(count, 4)), neighbours) for _ in range(200)]
    expected = 1.0 - np.prod([(count - i) / (2 * count - i) for i in range(1, neighbours + 1)])
    assert np.mean([each.coverage for each in found]) == pytest.approx(expected, abs=0.02)


def test_overlap_of_a_line() -> None:
    """Real states at 0, 1, 2, 3 with balls of radius 1."""
    real = np.arange(4.0)[:, None]
    assert overlap(real, np.array([[0.5], [9.0]]), 1) == (0.5, 0.5)
    assert overlap(real, real, 1) == (1.0, 1.0)


def test_the_area_under_the_curve_and_its_interval() -> None:
    rng = np.random.default_rng(0)
    members, others = rng.integers(5, size=40) + 1.0, rng.integers(5, size=70)
    found = estimate_auc(members, others)
    assert found.mean == pytest.approx(mannwhitneyu(members, others).statistic / (40 * 70))
    assert estimate_auc(np.ones(5), np.ones(9)) == estimate_auc(np.zeros(5), np.zeros(9))
    assert estimate_auc(np.ones(5), np.ones(9)).mean == 0.5
    assert estimate_auc(np.ones(5), np.zeros(9)).low == 1.0
    for shift in (0.0, 1.0):
        area = norm.cdf(shift / np.sqrt(2))
        drawn = [estimate_auc(rng.normal(shift, 1, 60), rng.normal(0, 1, 90)) for _ in range(400)]
        assert 0.92 < np.mean([each.low <= area <= each.high for each in drawn]) < 0.98


def test_a_split_by_rows_at_random_tells_nothing_though_neighbours_in_time_are_alike() -> None:
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(400):
        walk = rng.permutation(np.cumsum(rng.normal(size=300)))  # one episode, every row in one of the halves
        drawn.append(estimate_auc(walk[:200], walk[200:]))
    assert 0.92 < np.mean([each.low <= 0.5 <= each.high for each in drawn]) < 0.98
