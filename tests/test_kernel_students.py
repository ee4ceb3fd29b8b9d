"""Infinitely wide students: solved in closed form, policies like any other, and the default."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import RuleTeacher, make_pairs

import minari_obd
from minari_obd.cloning.cloning import clone
from minari_obd.distiller.loop import OuterLoop
from minari_obd.errors import DataError, SettingError
from minari_obd.settings.protocols import ADAM_STUDENT, KERNEL_STUDENT, StudentProtocol
from minari_obd.settings.recipe import Recipe, load_recipe, parse_recipe, recipe_toml
from minari_obd.settings.sections import DistillationRecipe
from minari_obd.sources.data import OfflineData
from minari_obd.students.kernel import FURTHEST, KernelStudent, SoftmaxKernelStudent
from minari_obd.students.networks import make_student, student_generators
from minari_obd.students.training import train_students
from minari_obd.targets.targets import Targets

CPU = torch.device("cpu")
QUICK = Recipe("replaced", "pbc", 16, distillation=DistillationRecipe(kernel_steps=60, batch_size=64))


def pairs(count: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, generator=generator), 0.9 * torch.tanh(torch.randn(count, 2, generator=generator))


def solved(student: KernelStudent, count: int, states: torch.Tensor, actions: torch.Tensor) -> list[torch.Tensor]:
    start = student.initialise(states.shape[-1], actions.shape[-1], student_generators(count, 0))
    return train_students(student, start, states, actions, KERNEL_STUDENT)


def test_it_does_what_it_was_taught_and_knows_nothing_before() -> None:
    student, (states, actions) = KernelStudent(), pairs()
    start = student.initialise(3, 2, student_generators(4, 0))
    assert not student.apply(start, states).any()
    found = solved(student, 4, states, actions)
    assert [tuple(each.shape) for each in found] == [(4, 12, 3), (4, 12, 2)]
    said = student.apply(found, states)
    torch.testing.assert_close(said[0], actions, atol=0.1, rtol=0.0)
    assert torch.equal(said[0], said[3])


def test_each_student_can_have_pairs_of_its_own() -> None:
    student, (states, actions) = KernelStudent(), pairs(24)
    own = [each.reshape(2, 12, -1) for each in (states, actions)]
    together = student.apply(solved(student, 2, *own), states)
    for i in range(2):
        alone = student.apply(solved(student, 1, own[0][i], own[1][i]), states)
        torch.testing.assert_close(together[i], alone[0])


def test_actions_beyond_the_bounds_are_taught_as_nearly_there() -> None:
    states, actions = pairs()
    student = KernelStudent()
    said = student.apply(solved(student, 1, states, 5.0 * actions.sign()), states)
    assert (said.abs() <= 1.0).all()
    assert (said[0] * actions.sign() > 0.95 * np.tanh(FURTHEST)).all()


def test_probabilities_of_discrete_actions() -> None:
    states, _ = pairs()
    chances = torch.softmax(torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), dim=-1)
    student = SoftmaxKernelStudent()
    said = 0.5 * (student.apply(solved(student, 1, states, 2.0 * chances - 1.0), states) + 1.0)
    torch.testing.assert_close(said.sum(-1), torch.ones(1, 12))
    torch.testing.assert_close(said[0], chances, atol=0.1, rtol=0.0)


def test_its_cloning_is_differentiated_exactly() -> None:
    """Outer steps also go through it: by torch's own graph, here in double precision."""
    states, actions = (each.double().requires_grad_() for each in pairs(5))
    asked = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    student = KernelStudent()
    start = [each.double() for each in student.initialise(3, 2, student_generators(1, 0))]

    def said(states: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        return student.apply(
            train_students(student, start, states, actions, KERNEL_STUDENT, differentiable=True), asked
        )

    assert torch.autograd.gradcheck(said, (states, actions), eps=1e-5, atol=1e-3)


def test_too_many_pairs_and_weights_are_refused() -> None:
    student, many = KernelStudent(), torch.zeros(8_193, 3)
    with pytest.raises(DataError, match=r"all 8,193 pairs at once, and 8,192 are the most; use another protocol"):
        solved(student, 1, many, many)
    start = student.initialise(3, 2, student_generators(1, 0))
    with pytest.raises(SettingError, match="take no weights"):
        train_students(student, start, *pairs(), KERNEL_STUDENT, weights=torch.ones(12))


def test_the_default_is_distilled_for_it(small_data: OfflineData, tmp_path: Path) -> None:
    made = minari_obd.distill(small_data, recipe=QUICK, teacher=RuleTeacher(), progress=False, out=tmp_path / "made")
    assert made.protocol == KERNEL_STUDENT
    assert made.provenance.recipe["distillation"]["steps"] == 0
    assert [row["step"] for row in made.provenance.history] == [0, 50, 60]
    losses = [row["held_out"] for row in made.provenance.history]
    assert made.provenance.offline_loss == min(losses)
    assert made.provenance.outer_step == made.provenance.history[losses.index(min(losses))]["step"]
    assert made.provenance.stop_reason == "All 60 steps of the kernel start were made."
    again = minari_obd.distill(small_data, recipe=QUICK, teacher=RuleTeacher(), progress=False, out=tmp_path / "made")
    assert again.content_sha256 == made.content_sha256


def test_its_policy_is_one_like_any_other(small_data: OfflineData, tmp_path: Path) -> None:
    made = minari_obd.distill(small_data, recipe=QUICK, teacher=RuleTeacher(), progress=False)
    policy = minari_obd.clone(made)
    said = policy(small_data.observations[:50])
    for saved in (policy.save(tmp_path / "policy.safetensors"), policy.save_pretrained(tmp_path / "policy")):
        np.testing.assert_array_equal(minari_obd.load_policy(saved)(small_data.observations[:50]), said)
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(policy.to_onnx(tmp_path / "policy.onnx")))
    name = session.get_inputs()[0].name
    np.testing.assert_allclose(session.run(None, {name: small_data.observations[:50]})[0], said, atol=1e-4)
    longer = clone(made, start=policy)
    np.testing.assert_array_equal(longer(small_data.observations[:50]), said)


def test_outer_steps_improve_what_the_kernel_start_left() -> None:
    states = np.random.default_rng(0).normal(size=(400, 3)).astype(np.float32)
    targets = Targets(states, np.tanh(states[:, :1] * states[:, 1:2]), np.ones(400), {})
    settings = DistillationRecipe(initial="kmeans", steps=30, batch_size=128, learning_rate=0.02)
    result = OuterLoop(KERNEL_STUDENT, settings, CPU).run(targets, 12, seed=0, progress=False)
    assert result.offline_loss < 0.7 * result.history[0]["held_out"]


def test_who_names_a_student_gets_a_network_and_outer_steps() -> None:
    assert Recipe("x").student == KERNEL_STUDENT
    assert Recipe("x").resolved().distillation.steps == 0
    named = parse_recipe({"source": "x", "student": {"depth": 2}}, "test")
    assert named.student == replace(ADAM_STUDENT, depth=2)
    assert named.resolved().distillation.steps == 30
    assert Recipe("x", student=StudentProtocol()).resolved().distillation.steps == 30
    from_kmeans = Recipe("x", distillation=DistillationRecipe(initial="kmeans"))
    assert from_kmeans.resolved().distillation.steps == 30
    assert isinstance(make_student(KERNEL_STUDENT), KernelStudent)


@pytest.mark.parametrize(("initial", "steps"), [("kernel", -1), ("kmeans", 0), ("random", 0)])
def test_too_few_outer_steps_are_refused(initial: str, steps: int) -> None:
    with pytest.raises(SettingError, match=rf"distillation\.steps is {steps}; it must be at least"):
        DistillationRecipe(initial=initial, steps=steps)  # pyright: ignore[reportArgumentType]


def test_settings_of_a_trained_student_are_refused_for_it() -> None:
    with pytest.raises(SettingError, match="has a depth alone; for a student with other settings, set"):
        Recipe("x", student=replace(KERNEL_STUDENT, width=64))
    deeper = Recipe("x", student=replace(KERNEL_STUDENT, depth=3))
    assert deeper.resolved().distillation.steps == 0


@pytest.mark.parametrize(
    "student",
    [KERNEL_STUDENT, replace(KERNEL_STUDENT, depth=3), ADAM_STUDENT, StudentProtocol(), replace(ADAM_STUDENT, width=8)],
)
def test_a_recipe_in_toml_says_which_student_it_means(student: StudentProtocol, tmp_path: Path) -> None:
    recipe = Recipe("x", student=student)
    (tmp_path / "x.toml").write_text(recipe_toml(recipe), encoding="utf-8")
    assert load_recipe(tmp_path / "x.toml") == recipe


def test_one_of_them_is_evaluated_over_the_episodes_of_all() -> None:
    pairs = replace(make_pairs(env_id="Pendulum-v1", shape=(3, 1)), protocol=KERNEL_STUDENT)
    report = minari_obd.evaluate(pairs, students=2, episodes=2, workers=1)
    assert report.returns.shape == (1, 4)
    assert len(set(report.returns[0])) == 4
    assert report.mean_return.low < report.mean_return.high
    assert minari_obd.evaluate(pairs, protocol="adam", students=2, episodes=1, workers=1).returns.shape == (2, 1)
