"""The value gap: what an error costs, in closed forms, and through the distiller."""

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import RuleTeacher, make_teacher

import minari_obd
from minari_obd.distiller.loop import OuterLoop
from minari_obd.dynamics.fitting import DynamicsRun, DynamicsSettings
from minari_obd.errors import DataError, SettingError
from minari_obd.settings.protocols import StudentDraws, StudentProtocol
from minari_obd.settings.recipe import Recipe
from minari_obd.settings.sections import DistillationRecipe, StudentStatesRecipe, TeacherRecipe
from minari_obd.sources.data import OfflineData
from minari_obd.sources.loading import load_offline_data
from minari_obd.sources.scaling import Normaliser
from minari_obd.students.networks import make_student, student_generators
from minari_obd.students.training import train_students
from minari_obd.targets.targets import Targets
from minari_obd.targets.value_gap import ValueGap, agreement, find_fault
from minari_obd.teachers.calibration import calibrate
from minari_obd.teachers.frozen import FrozenTeacher
from minari_obd.teachers.networks import Layers

STUDENT = StudentProtocol(depth=1, width=16, steps=20, optimiser="adam", learning_rate=0.01)
SETTINGS = DistillationRecipe(
    initial="kmeans",
    objective="value_gap",
    steps=20,
    batch_size=64,
    evaluate_every=10,
    draws=StudentDraws((), (), (), 0.0),
)
FEW = DynamicsSettings(members=2, depth=1, width=16, updates=30, evaluate_every=10)
QUICK = Recipe("x", "pbc", size=12, student=STUDENT, distillation=SETTINGS, teacher=TeacherRecipe("td3_bc", steps=5))


def teacher_of(data: OfflineData) -> FrozenTeacher:
    """A teacher with other units than the data's: its normaliser and its action bounds differ."""
    return make_teacher(
        normaliser=Normaliser(np.array([1.0, 2.0, -1.0]), np.array([2.0, 3.0, 0.5])),
        action_low=2.0 * data.action_low,
        action_high=3.0 * data.action_high,
    )


@pytest.mark.parametrize("value_from", ["mean", "min"])
def test_values_are_the_teachers_own_whatever_its_units(value_from: str, small_data: OfflineData) -> None:
    teacher = replace(teacher_of(small_data), value_from=value_from)
    gap = ValueGap.of(teacher, small_data)
    states = torch.from_numpy(small_data.normaliser.normalise(small_data.observations))
    ours = gap.value(states, torch.from_numpy(small_data.scaled_actions())).numpy()
    np.testing.assert_allclose(ours, teacher.value(small_data.observations, small_data.actions), rtol=1e-4, atol=1e-4)


def test_the_gap_is_clipped_and_zero_where_the_student_does_what_is_wanted(small_data: OfflineData) -> None:
    gap = ValueGap.of(teacher_of(small_data), small_data)
    states = torch.from_numpy(small_data.normaliser.normalise(small_data.observations))
    wanted = torch.from_numpy(small_data.scaled_actions())
    actions = 2.0 * torch.rand(3, *wanted.shape, generator=torch.Generator().manual_seed(0)) - 1.0
    found = gap(states, actions, wanted)
    difference = gap.value(states, wanted) - gap.value(states, actions)
    assert found.shape == (3, len(states))
    assert 0.1 < float((difference < 0).float().mean()) < 0.9  # both kinds are there
    np.testing.assert_array_equal(found.numpy(), difference.clamp_min(0).numpy())
    assert not gap(states, wanted[None], wanted).any()


def test_its_gradient_agrees_with_finite_differences(small_data: OfflineData) -> None:
    gap = ValueGap.of(teacher_of(small_data), small_data)
    double = ValueGap([[tuple(p.double() for p in layer) for layer in c] for c in gap.critics], "tanh", "mean")
    states = torch.from_numpy(small_data.normaliser.normalise(small_data.observations[:6])).double()
    wanted = torch.from_numpy(small_data.scaled_actions()[:6]).double()
    actions = (0.5 * wanted - 0.2)[None].repeat(2, 1, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: double(states, a, wanted), (actions,))


class Lopsided:
    """A known value: q = -max(0, a_1 - a*_1), so only errors of the first action cost anything, and only upwards."""

    def __call__(self, states: torch.Tensor, actions: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return torch.relu(actions - wanted)[..., 0]

    def to(self, device: torch.device) -> "Lopsided":
        return self


def test_the_optimum_of_a_known_value_is_not_that_of_the_squared_error() -> None:
    # Nearly one state, and two wanted actions: their mean has the least squared error, the lower one the least cost.
    states = 0.01 * np.random.default_rng(0).normal(size=(400, 1))
    actions = np.stack([np.where(np.arange(400) % 2, 0.6, -0.6), np.zeros(400)], axis=1)
    targets, reached = Targets(states, actions, np.ones(400), {}), {}
    for name, cost in (("squared", None), ("value_gap", Lopsided())):
        settings = replace(SETTINGS, gap_share=1.0, steps=120, learning_rate=0.05)
        loop = OuterLoop(STUDENT, settings, torch.device("cpu"))
        result = loop.run(replace(targets, cost=cost), 8, seed=0, progress=False)
        student = make_student(STUDENT)
        initial = student.initialise(1, 2, student_generators(4, 0, 3, 0))
        trained = train_students(student, initial, torch.tensor(result.states), torch.tensor(result.actions), STUDENT)
        reached[name] = float(student.apply(trained, torch.zeros(1, 1))[..., 0].mean())
    assert abs(reached["squared"]) < 0.15
    assert reached["value_gap"] < -0.5


def test_distilled_by_the_gap_it_says_so_and_is_repeated_to_the_bit(small_data: OfflineData) -> None:
    teacher = teacher_of(small_data)
    first, second = (
        minari_obd.distill(small_data, "pbc", teacher=teacher, recipe=QUICK, progress=False) for _ in range(2)
    )
    assert first.observations.tobytes() == second.observations.tobytes()
    assert first.provenance.recipe["distillation"]["objective"] == "value_gap"
    squared = replace(QUICK, distillation=replace(SETTINGS, objective="squared"))
    other = minari_obd.distill(small_data, "pbc", teacher=teacher, recipe=squared, progress=False)
    assert other.observations.tobytes() != first.observations.tobytes()


def test_a_resumed_run_keeps_the_scale_of_the_cost(small_data: OfflineData, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = teacher_of(small_data)
    whole = minari_obd.distill(small_data, "pbc", teacher=teacher, recipe=QUICK, progress=False)
    original, steps = OuterLoop._step, []

    def interrupted(self, state, *others) -> None:
        steps.append(state.step)
        if len(steps) == 13:
            os.kill(os.getpid(), signal.SIGINT)
        original(self, state, *others)

    monkeypatch.setattr(OuterLoop, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        minari_obd.distill(small_data, "pbc", teacher=teacher, recipe=QUICK, progress=False)
    again = minari_obd.distill(small_data, "pbc", teacher=teacher, recipe=QUICK, progress=False)
    assert steps == list(range(20))
    assert again.observations.tobytes() == whole.observations.tobytes()


def test_results_without_the_gap_keep_their_names() -> None:
    before = replace(QUICK, distillation=replace(SETTINGS, objective="auto"))
    assert not {"objective", "gap_share"} & set(before.deciding()["distillation"])
    assert QUICK.deciding()["distillation"]["objective"] == "value_gap"
    shares = [replace(QUICK, distillation=replace(SETTINGS, gap_share=share)).deciding() for share in (0.3, 0.5)]
    assert shares[0] != shares[1]
    squared = [replace(SETTINGS, objective="squared", gap_share=share) for share in (0.3, 0.5)]
    first, second = (replace(QUICK, distillation=each).deciding() for each in squared)
    assert first == second


@pytest.mark.parametrize(("method", "teacher"), [("dbc", None), ("pbc", RuleTeacher())])
def test_what_has_no_critics_is_refused_before_any_work(method: str, teacher, small_data: OfflineData) -> None:
    with pytest.raises(SettingError, match="needs a teacher's critics as networks"):
        minari_obd.distill(small_data, method, teacher=teacher, recipe=QUICK, progress=False)
    # A selection distils nothing, so it may stand in one grid with the others.
    assert len(minari_obd.distill(small_data, "random", recipe=QUICK, progress=False)) == 12


def test_critics_that_say_nothing_are_named(small_data: OfflineData) -> None:
    teacher = teacher_of(small_data)
    flat = [_flat(critic) for critic in teacher.critics]
    with pytest.raises(DataError, match="they say nothing about errors"):
        minari_obd.distill(small_data, "pbc", teacher=replace(teacher, critics=flat), recipe=QUICK, progress=False)
    with pytest.raises(SettingError, match=r"gap_share is 0"):
        DistillationRecipe(gap_share=0.0)


def test_the_default_method_asks_for_the_gap_and_for_student_states(
    small_data: OfflineData, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Recipe("x").method == "vgd"
    ensemble = DynamicsRun(small_data, 0, torch.device("cpu"), FEW).fit(progress=False)
    ensemble.details["unexplained"] = 0.5
    monkeypatch.setattr(DynamicsRun, "fit", lambda self, progress: ensemble)
    monkeypatch.setattr("minari_obd.targets.value_gap.LEAST_AGREEMENT", -1.0)  # the critics are made up
    recipe = replace(QUICK, method="vgd", distillation=replace(SETTINGS, objective="auto"))
    found = minari_obd.distill(small_data, teacher=teacher_of(small_data), recipe=recipe, progress=False)
    assert found.provenance.targets["gap_fault"] is None
    assert found.provenance.targets["dynamics"]["is_used"]
    squared = replace(recipe, distillation=replace(SETTINGS, objective="squared"))
    other = minari_obd.distill(small_data, teacher=teacher_of(small_data), recipe=squared, progress=False)
    assert other.observations.tobytes() != found.observations.tobytes()
    # Without critics, or with those that know nothing, it does without the gap.
    monkeypatch.undo()
    monkeypatch.setattr(DynamicsRun, "fit", lambda self, progress: ensemble)
    flat = replace(teacher_of(small_data), critics=[_flat(critic) for critic in teacher_of(small_data).critics])
    without = minari_obd.distill(small_data, teacher=flat, recipe=recipe)
    assert "agree too little with what followed" in capsys.readouterr().err
    assert without.observations.tobytes() == other.observations.tobytes()
    rule = minari_obd.distill(small_data, teacher=RuleTeacher(), recipe=recipe, progress=False)
    assert "gap_fault" not in rule.provenance.targets


@pytest.mark.parametrize("share", [None, 0.5])
def test_an_ensemble_that_cannot_follow_the_teacher_is_left_out_unless_asked_for(
    share: float | None, small_data: OfflineData, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ensemble = DynamicsRun(small_data, 0, torch.device("cpu"), FEW).fit(progress=False)
    ensemble.details["unexplained"] = 0.5
    monkeypatch.setattr(DynamicsRun, "fit", lambda self, progress: replace(ensemble, limit=torch.tensor(0.0)))
    squared = replace(QUICK, method="vgd", distillation=replace(SETTINGS, objective="squared"))
    recipe = replace(squared, student_states=StudentStatesRecipe(share=share))
    found = minari_obd.distill(small_data, teacher=RuleTeacher(), recipe=recipe)
    said = found.provenance.targets["dynamics"]
    assert said["lost"] == 1.0
    assert said["is_used"] == (share is not None)
    assert ("100% go where the data says nothing" in capsys.readouterr().err) == (share is None)


def one_step(rewards: np.ndarray, actions: np.ndarray) -> OfflineData:
    """Episodes of one step."""
    states, ends = np.random.default_rng(1).normal(size=(len(rewards), 3)), np.ones(len(rewards), bool)
    arrays = {"observations": states, "actions": actions, "rewards": rewards, "terminations": ends}
    bounds = {"action_low": [-1.0, -1.0], "action_high": [1.0, 1.0]}
    return load_offline_data({**arrays, **bounds, "truncations": ~ends}, progress=False)


@pytest.mark.parametrize(("slopes", "least", "most"), [((1.0, 1.0), 0.99, 1.0), ((-1.0, -1.0), -1.0, -0.99)])
def test_critics_agree_with_data_in_which_their_differences_come_true(slopes, least: float, most: float) -> None:
    # The reward is the first action, and the teacher's is zero, so q(s, a) = a_1 is right, and -a_1 is wrong.
    actions = np.random.default_rng(0).uniform(-1, 1, (500, 2)).astype(np.float32)
    data = one_step(actions[:, 0], actions)
    assert least <= agreement(linear_teacher(data, slopes), data) <= most
    noise = one_step(np.random.default_rng(2).normal(size=500), actions)
    assert abs(agreement(linear_teacher(noise, slopes), noise)) < 0.15


def linear_teacher(data: OfflineData, slopes: tuple[float, ...]) -> FrozenTeacher:
    """Always acts zero; critic i values actions at ``slopes[i]`` times the first."""
    critics = [[(torch.tensor([[0.0, 0.0, 0.0, slope, 0.0]]), torch.zeros(1))] for slope in slopes]
    actor = [(torch.zeros(2, 3), torch.zeros(2))]
    return FrozenTeacher(actor, critics, data.normaliser, data.action_low, data.action_high)


def test_critics_of_their_own_opinion_are_told_from_those_that_the_data_bears_out(small_data: OfflineData) -> None:
    teacher = teacher_of(small_data)
    assert "is needed" in (find_fault(teacher, small_data, calibrate(teacher, small_data)) or "")
    actions = np.random.default_rng(0).uniform(-1, 1, (500, 2)).astype(np.float32)
    data = one_step(actions[:, 0], actions)
    right = linear_teacher(data, (1.0, 1.0))
    assert find_fault(right, data, calibrate(right, data)) is None


def _flat(critic: Layers) -> Layers:
    return [tuple(torch.zeros_like(part) for part in layer) for layer in critic]
