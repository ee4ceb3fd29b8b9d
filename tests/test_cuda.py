"""On a GPU: `pytest -m cuda`. Everywhere else these tests are skipped, and say so."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import RuleTeacher, make_pairs, make_teacher
from torch import Tensor

import minari_obd
from minari_obd.distiller import loop as outer_loop
from minari_obd.distiller.graphs import StepGraphs
from minari_obd.distiller.loop import OuterLoop
from minari_obd.distiller.step import OuterTensors, StepInputs, draw_students, outer_step
from minari_obd.dynamics.fitting import DynamicsRun, DynamicsSettings
from minari_obd.errors import SettingError
from minari_obd.settings.protocols import KERNEL_STUDENT, StudentDraws, StudentProtocol
from minari_obd.settings.recipe import Recipe
from minari_obd.settings.sections import DistillationRecipe, StudentStatesRecipe
from minari_obd.sources.data import OfflineData
from minari_obd.students.networks import MLP, Student, make_student, student_generators
from minari_obd.students.training import mean_squared_error, train_students
from minari_obd.support.precision import has_rounded_products, matmul_precision
from minari_obd.targets.student_states import StudentStates
from minari_obd.targets.targets import TargetInputs, Targets
from minari_obd.targets.value_gap import ValueGap, ValueGapDistillation
from minari_obd.teachers.training import train_teacher

pytestmark = pytest.mark.cuda

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SGD = StudentProtocol(depth=2, width=64, steps=20, learning_rate=0.3)
ADAM = replace(SGD, optimiser="adam", learning_rate=1e-3)
SETTINGS = DistillationRecipe(
    steps=30, batch_size=128, learning_rate=0.05, evaluate_every=10, initial="random", precision="float32"
)


@pytest.fixture
def targets() -> Targets:
    rng = np.random.default_rng(0)
    states = rng.normal(size=(600, 3)).astype(np.float32)
    actions = np.tanh(np.stack([states[:, 0] * states[:, 1], states[:, 2]], axis=1))
    return Targets(states, actions, np.ones(600), {})


@contextmanager
def no_waiting() -> Iterator[None]:
    """Any operation of torch that makes the host wait for the device is an error within."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.double().flatten(), b.double().flatten(), dim=0))


def meta_gradients(
    student: Student, protocol: StudentProtocol, device: torch.device, dtype: torch.dtype, **settings: Any
) -> list[Tensor]:
    """The gradient of two students' error by states, actions and initial parameters, back on the CPU."""
    generator = torch.Generator().manual_seed(0)
    initial = student.initialise(3, 2, student_generators(2, 0))
    states, actions, queries = (torch.randn(shape, generator=generator) for shape in ((32, 3), (32, 2), (50, 3)))
    leaves = [t.to(device, dtype).requires_grad_() for t in (states, torch.tanh(actions), *initial)]
    queries = queries.to(device, dtype)
    trained = train_students(student, leaves[2:], leaves[0], leaves[1], protocol, differentiable=True, **settings)
    loss = mean_squared_error(student, trained, queries, torch.tanh(queries[:, :2])).mean()
    found = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)  # nothing before a window
    return [loss.detach().cpu(), *(g.cpu() for g in found)]


@pytest.mark.parametrize("protocol", [SGD, replace(SGD, momentum=0.9, learning_rate=0.05), ADAM], ids=str)
@pytest.mark.parametrize("network", ["mlp", "softmax_mlp", "residual"])
def test_gradients_are_the_cpus_in_float64(protocol: StudentProtocol, network: str) -> None:
    student = make_student(replace(protocol, network=network))
    for settings in ({}, {"window": 7}, {"memory_limit": 0}):
        ours, theirs = (meta_gradients(student, protocol, d, torch.float64, **settings) for d in (CUDA, CPU))
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9 * max(1.0, float(b.abs().max())))


@pytest.mark.parametrize("protocol", [SGD, ADAM], ids=["sgd", "adam"])
def test_errors_of_float32_tf32_and_bfloat16(protocol: StudentProtocol) -> None:
    student = MLP(2, 64)
    exact = meta_gradients(student, protocol, CPU, torch.float64)[1:3]
    kinds = {"float32": 0.9999, "bfloat16": 0.97}
    if has_rounded_products("tf32", CUDA):
        kinds["tf32"] = 0.995
    for kind, least in kinds.items():
        products = torch.bfloat16 if kind == "bfloat16" else None
        with matmul_precision("tf32" if kind == "tf32" else "float32"):
            found = meta_gradients(student, protocol, CUDA, torch.float32, products=products)[1:3]
        for a, b in zip(found, exact, strict=True):
            assert cosine(a, b) > least, kind


def step_problem(protocol: StudentProtocol, runs: int, students: int) -> tuple[OuterTensors, list[StepInputs]]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(CUDA)

    tensors = OuterTensors.start(normal(runs, 16, 3), normal(runs, 16, 2).tanh())
    steps = []
    for number in range(4):
        batch = [normal(runs, 40, 3), normal(runs, 40, 2).tanh(), torch.ones(runs, 40, device=CUDA)]
        initial = draw_students(protocol, (3, 2), students, range(runs), (number,), CUDA)
        rates, corrections = torch.full((runs,), 0.01, device=CUDA), torch.tensor([10.0, 1000.0], device=CUDA)
        steps.append(StepInputs(batch, initial, rates, corrections))
    return tensors, steps


@pytest.mark.parametrize("protocol", [SGD, ADAM], ids=["sgd", "adam"])
@pytest.mark.parametrize(("runs", "students"), [(1, 1), (1, 3), (2, 2)])
def test_steps_from_a_graph_are_those_without_one(protocol: StudentProtocol, runs: int, students: int) -> None:
    loop = OuterLoop(protocol, SETTINGS, CUDA)
    found = []
    for way in ("graph", "plain"):
        tensors, steps = step_problem(protocol, runs, students)
        graphs = StepGraphs(tensors)
        for inputs in steps:
            if way == "graph":
                graphs.step(inputs, loop.plan(0, 0))
            else:
                outer_step(tensors, inputs, loop.plan(0, 0))
        assert len(graphs.captured) == (way == "graph")
        found.append(tensors.named())
    for name, ours in found[0].items():
        torch.testing.assert_close(ours, found[1][name], rtol=1e-4, atol=1e-5, equal_nan=True, msg=name)
    assert not torch.equal(found[0]["pairs/0"], step_problem(protocol, runs, students)[0].pairs[0])


def test_more_plans_than_graphs_still_make_steps(targets: Targets) -> None:
    """Plans alternate, so graphs that share their memory are replayed in another order than they were captured in."""
    draws = StudentDraws(steps=tuple(0.3 + 0.05 * i for i in range(20)), depths=(1, 2), adam=0.3)
    alone = OuterLoop(SGD, replace(SETTINGS, steps=60, draws=draws), CUDA).run(targets, 16, seed=0, progress=False)
    assert alone.offline_loss < 0.9 * alone.history[0]["held_out"]


def test_the_gpu_learns_what_the_cpu_learns(targets: Targets) -> None:
    settings = replace(SETTINGS, steps=60, students=2)
    ours, theirs = (OuterLoop(SGD, settings, d).run(targets, 16, seed=0, progress=False) for d in (CUDA, CPU))
    for result in (ours, theirs):
        assert result.offline_loss < 0.7 * result.history[0]["held_out"]
    assert 0.5 < ours.offline_loss / theirs.offline_loss < 2.0  # other students are drawn there


@pytest.mark.parametrize("changes", [{}, {"students": 2}], ids=["one student", "two students"])
def test_several_runs_as_one_batch_are_as_each_alone(targets: Targets, changes: dict) -> None:
    other = Targets(targets.states, targets.actions[:, ::-1].copy(), targets.weights, {})
    loop = OuterLoop(SGD, replace(SETTINGS, **changes), CUDA)
    together = loop.run_together([targets, other], 16, [0, 1], progress=False)
    for seed, data, result in zip((0, 1), (targets, other), together, strict=True):
        alone = loop.run(data, 16, seed=seed, progress=False)
        np.testing.assert_allclose(result.states, alone.states, atol=5e-3)
        ours, theirs = ([row["held_out"] for row in each.history] for each in (result, alone))
        np.testing.assert_allclose(ours, theirs, rtol=2e-2)


def test_the_same_seed_and_a_resume_give_the_same_bits_on_one_card(
    targets: Targets, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def run(checkpoint: Path | None = None):
        return OuterLoop(ADAM, SETTINGS, CUDA).run(targets, 16, seed=0, checkpoint=checkpoint, progress=False)

    whole = run()
    assert run().states.tobytes() == whole.states.tobytes()
    monkeypatch.setattr(outer_loop, "_CHECKPOINT_SECONDS", 0.0)
    original = OuterLoop._step

    def killed(self, state, *rest) -> None:
        original(self, state, *rest)
        if state.step == 13:
            raise MemoryError

    monkeypatch.setattr(OuterLoop, "_step", killed)
    with pytest.raises(MemoryError):
        run(tmp_path / "c")
    monkeypatch.setattr(OuterLoop, "_step", original)
    resumed = run(tmp_path / "c")
    assert resumed.states.tobytes() == whole.states.tobytes()
    assert resumed.history == whole.history


@pytest.mark.parametrize("students", [1, 3])
def test_a_steady_step_never_waits_for_the_device(
    targets: Targets, monkeypatch: pytest.MonkeyPatch, students: int
) -> None:
    """The first step captures its graph; from then on, batches, students and steps are only enqueued."""
    original, watched = OuterLoop._step, []

    def step(self, state, *rest) -> None:
        if state.step < 2:
            return original(self, state, *rest)
        watched.append(state.step)
        with no_waiting():
            return original(self, state, *rest)

    monkeypatch.setattr(OuterLoop, "_step", step)
    OuterLoop(SGD, replace(SETTINGS, students=students), CUDA).run(targets, 16, seed=0, progress=False)
    assert len(watched) == SETTINGS.outer_steps(SGD) - 2
    with pytest.raises(RuntimeError, match="synchroniz"), no_waiting():  # or the test would prove nothing
        torch.ones(2, device=CUDA).sum().item()


def test_students_are_drawn_on_the_device_each_for_itself() -> None:
    with no_waiting():
        three = draw_students(SGD, (3, 2), 3, [5], (1,), CUDA)
    again = draw_students(SGD, (3, 2), 3, [5], (1,), CUDA)
    assert all(p.device.type == "cuda" for p in three)
    assert all(torch.equal(a, b) for a, b in zip(three, again, strict=True))
    hidden = three[2]
    wanted = 2.0 * torch.eye(64, device=CUDA).expand(3, -1, -1)
    torch.testing.assert_close(hidden.mT @ hidden, wanted, atol=1e-3, rtol=0)
    alone = MLP(2, 64).initialise(3, 2, student_generators(3, 5, 1, device=CUDA)[2:])
    torch.testing.assert_close(three[2][2:], alone[2], atol=1e-4, rtol=0)


def test_the_value_gap_is_the_cpus(small_data: OfflineData) -> None:
    gap = ValueGap.of(make_teacher(), small_data)
    generator = torch.Generator().manual_seed(0)
    states, actions, wanted = (torch.randn(shape, generator=generator) for shape in ((20, 3), (2, 20, 2), (20, 2)))
    found = []
    for device in (CUDA, CPU):
        leaf = actions.detach().to(device).requires_grad_()
        gaps = gap.to(device)(states.to(device), leaf, wanted.to(device))
        found.append([gaps.detach().cpu(), torch.autograd.grad(gaps.sum(), leaf)[0].cpu()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_the_value_gap_and_student_states_bring_the_loss_down(small_data: OfflineData) -> None:
    teacher = make_teacher()
    targets = ValueGapDistillation().targets(TargetInputs(small_data, teacher, None))
    settings = DynamicsSettings(members=3, depth=1, width=32, updates=60, evaluate_every=20)
    ensemble = DynamicsRun(small_data, 0, CUDA, settings).fit(progress=False)
    assert ensemble.low.device.type == "cuda"
    again = DynamicsRun(small_data, 0, CUDA, settings).fit(progress=False)  # from its file
    assert all(torch.equal(a, b) for a, b in zip(ensemble.parameters, again.parameters, strict=True))
    asked = StudentStatesRecipe(share=0.5, horizon=20)
    visited = StudentStates(ensemble, small_data, teacher, asked, 0, targets.weights)
    targets = replace(targets, cost=ValueGap.of(teacher, small_data), visited=visited)
    result = OuterLoop(ADAM, SETTINGS, CUDA).run(targets, 16, seed=0, progress=False)
    assert result.offline_loss < result.history[0]["held_out"]


@pytest.mark.parametrize("algorithm", ["td3_bc", "calql"])
def test_a_teacher_trained_on_the_card_acts_on_the_cpu(small_data: OfflineData, algorithm: str) -> None:
    teacher = train_teacher(small_data, algorithm, steps=20, device="cuda", average=0.5, progress=False)
    assert teacher.details["device"] == "cuda"
    layers = [*teacher.actor, *(layer for critic in teacher.critics for layer in critic)]
    assert {part.device.type for layer in layers for part in layer} == {"cpu"}
    actions = teacher.act(small_data.observations[:9])
    assert np.isfinite(teacher.value(small_data.observations[:9], actions)).all()
    there = train_teacher(small_data, algorithm, steps=20, device="cuda", average=0.5, progress=False)
    assert there.sha256 == teacher.sha256  # from the cache
    on_cpu = train_teacher(small_data, algorithm, steps=20, device="cpu", average=0.5, progress=False)
    assert on_cpu.sha256 != teacher.sha256  # of another name in the cache


def test_cloning_on_the_card_gives_the_cpus_policy(small_data: OfflineData) -> None:
    protocol = replace(ADAM, batch_size=64)
    ours, theirs = (minari_obd.clone(small_data, students=2, protocol=protocol, device=d) for d in ("cuda", "cpu"))
    assert {p.device.type for p in ours.parameters} == {"cpu"}
    states = small_data.observations[:50]
    np.testing.assert_allclose(ours.act_each(states), theirs.act_each(states), atol=5e-3)


def test_infinitely_wide_students_are_the_cpus(small_data: OfflineData) -> None:
    pairs = replace(make_pairs(), protocol=KERNEL_STUDENT)
    ours, theirs = (minari_obd.clone(pairs, device=d) for d in ("cuda", "cpu"))
    assert {p.device.type for p in ours.parameters} == {"cpu"}
    states = small_data.observations[:50]
    np.testing.assert_allclose(ours.act_each(states), theirs.act_each(states), atol=2e-3)


def test_the_default_finds_on_the_card_what_it_finds_on_the_cpu(small_data: OfflineData) -> None:
    teacher, found = make_teacher(), []
    targets = ValueGapDistillation().targets(TargetInputs(small_data, teacher, None))
    ensemble = DynamicsSettings(members=3, depth=1, width=32, updates=60, evaluate_every=20)
    for device in (CUDA, CPU):
        fitted = DynamicsRun(small_data, 0, device, ensemble).fit(progress=False)
        visited = StudentStates(fitted, small_data, teacher, StudentStatesRecipe(share=0.25), 0, targets.weights)
        asked = replace(targets, cost=ValueGap.of(teacher, small_data), visited=visited)
        settings = DistillationRecipe(kernel_steps=60, batch_size=128)
        found.append(OuterLoop(KERNEL_STUDENT, settings, device).run(asked, 16, seed=0, progress=False))
    for result in found:
        assert result.offline_loss < 0.9 * result.history[0]["held_out"]
    assert 0.8 < found[0].offline_loss / found[1].offline_loss < 1.25  # other students are followed


def test_a_teacher_is_frozen_where_the_process_has_tf32(small_data: OfflineData) -> None:
    with matmul_precision("tf32"):
        teacher = train_teacher(small_data, "td3_bc", steps=10, device="cuda", progress=False)
    assert np.isfinite(teacher.act(small_data.observations[:9])).all()


def test_a_set_made_on_the_card_loads_on_the_cpu(small_data: OfflineData, tmp_path: Path) -> None:
    recipe = Recipe("lab/arrays-v0", size=16, device="cuda", student=SGD, distillation=replace(SETTINGS, steps=10))
    made = minari_obd.distill(small_data, "pbc", teacher=RuleTeacher(), recipe=recipe, progress=False)
    loaded = minari_obd.load_dataset(made.save(tmp_path / "set"))
    np.testing.assert_array_equal(loaded.observations, made.observations)
    policy = minari_obd.clone(loaded)
    assert np.isfinite(policy(small_data.observations[:5])).all()
    assert {p.device.type for p in policy.parameters} == {"cpu"}


def test_a_precision_that_the_card_lacks_is_refused() -> None:
    loop = OuterLoop(SGD, replace(SETTINGS, precision="tf32"), CUDA)
    if has_rounded_products("tf32", CUDA):
        assert loop.precision == "tf32"
    else:
        with pytest.raises(SettingError, match="tf32"):
            _ = loop.precision
