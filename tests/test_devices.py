"""Devices, without one: on torch's `meta` device nothing can be read, and no operation may meet a tensor of the CPU."""

from dataclasses import replace

import pytest
import torch
from conftest import RuleTeacher, make_teacher
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from minari_obd.distiller.loop import OuterLoop
from minari_obd.distiller.step import OuterPlan, OuterTensors, StepInputs, outer_step
from minari_obd.dynamics.ensemble import DynamicsEnsemble, draw_parameters
from minari_obd.dynamics.rollouts import roll_out
from minari_obd.settings.protocols import StudentDraws, StudentProtocol
from minari_obd.settings.sections import DistillationRecipe
from minari_obd.sources.data import OfflineData
from minari_obd.students.networks import MLP, _orthogonal_together, student_generators
from minari_obd.students.training import train_students
from minari_obd.targets.targets import TargetInputs
from minari_obd.targets.value_gap import ValueGap, ValueGapDistillation

META = torch.device("meta")
STUDENT = StudentProtocol(depth=2, width=8, steps=3, learning_rate=0.1)


class OneDevice(TorchDispatchMode):
    """Refuses operations on tensors of two devices; a GPU takes numbers of the CPU, and copies from there."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = {t.device.type for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor) and t.dim()}
        assert len(found) < 2 or "copy" in func.__name__, f"{func} on {found}"
        return func(*args, **(kwargs or {}))


def inputs_and_tensors(protocol: StudentProtocol, runs: int, students: int) -> tuple[OuterTensors, StepInputs]:
    """What an outer step takes, without values."""
    student = MLP(protocol.depth, protocol.width)
    initial = student.initialise(3, 2, student_generators(runs * students, 0))
    shapes = (runs, 20, 3), (runs, 20, 2), (runs, 20)
    batch = [torch.empty(shape, device=META) for shape in shapes]
    rates, corrections = torch.empty(runs, device=META), torch.empty(2, device=META)
    pairs = [torch.empty(runs, 6, size, device=META) for size in (3, 2)]
    return OuterTensors.start(*pairs), StepInputs(batch, [p.to(META) for p in initial], rates, corrections)


@pytest.mark.parametrize("network", ["mlp", "softmax_mlp", "residual"])
@pytest.mark.parametrize("optimiser", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("products", [None, torch.bfloat16])
@pytest.mark.parametrize("has_cost", [False, True])
def test_an_outer_step_stays_on_its_device(
    network: str, optimiser: str, products: torch.dtype | None, has_cost: bool, small_data: OfflineData
) -> None:
    protocol = replace(STUDENT, network=network, optimiser=optimiser)
    cost = ValueGap.of(make_teacher(), small_data).to(META) if has_cost else None
    for runs, students in ((1, 1), (1, 3), (2, 2)):
        tensors, inputs = inputs_and_tensors(protocol, runs, students)
        with OneDevice():
            outer_step(tensors, inputs, OuterPlan(DistillationRecipe(), protocol, products=products, cost=cost))
        assert all(tensor.device == META for tensor in tensors.named().values())


def test_what_was_left_on_the_cpu_is_noticed() -> None:
    """This file would prove nothing if it were not."""
    for place in range(3):
        tensors, inputs = inputs_and_tensors(STUDENT, 1, 1)
        inputs.batch[place] = torch.zeros_like(inputs.batch[place], device="cpu")
        with pytest.raises(AssertionError, match="cpu"), OneDevice():
            outer_step(tensors, inputs, OuterPlan(DistillationRecipe(), STUDENT))
    tensors, _ = inputs_and_tensors(STUDENT, 1, 1)
    with pytest.raises(RuntimeError, match="meta"):
        tensors.pairs[0].sum().item()


def test_rollouts_and_minibatches_stay_on_their_device() -> None:
    parameters = [p.to(META) for p in draw_parameters([5, 4, 5], 2, torch.Generator())]
    offset, scale, low, high, limit = (torch.empty(shape, device=META) for shape in ((4,), (4,), (3,), (3,), ()))
    ensemble = DynamicsEnsemble(parameters, offset, scale, low, high, limit)
    student = MLP(1, 4)
    policies = [p.to(META) for p in student.initialise(3, 2, student_generators(2, 0))]
    with OneDevice():
        rolled = roll_out(
            ensemble,
            lambda states: student.apply(policies, states),
            torch.empty(9, 3, device=META),
            **{"policy_count": 2, "lanes": 4, "steps": 3, "horizon": 5, "noise": 0.3},
            generator=torch.Generator(),
        )
    assert {each.device for each in (rolled.states, rolled.rewards, rolled.ends, rolled.losses)} == {META}
    rows = (torch.zeros(2, dtype=torch.long, device=META) for _ in range(3))
    pairs = torch.empty(9, 3, device=META), torch.empty(9, 2, device=META)
    with OneDevice():
        assert all(p.device == META for p in train_students(student, policies, *pairs, STUDENT, batches=rows))


class NoReading(TorchDispatchMode):
    """Refuses what would make a GPU's host wait: reading a value back, or shapes that depend on values."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.__name__.split(".")[0] not in ("_local_scalar_dense", "nonzero", "equal", "masked_select"), func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("draws", [StudentDraws(), StudentDraws(depths=(1, 2), adam=0.5)], ids=["plain", "drawn"])
def test_a_whole_step_with_its_draws_reads_nothing_back(
    draws: StudentDraws, small_data: OfflineData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches and students are drawn outside of :func:`outer_step`, which another test watches."""
    original, calls = OuterLoop._step, []

    def watched(self, *args) -> None:
        calls.append(1)
        with NoReading():
            original(self, *args)

    monkeypatch.setattr(OuterLoop, "_step", watched)
    settings = DistillationRecipe(steps=4, batch_size=32, initial="random", evaluate_every=2, draws=draws)
    teacher = RuleTeacher()
    targets = ValueGapDistillation().targets(TargetInputs(small_data, teacher, None))
    OuterLoop(STUDENT, settings, torch.device("cpu")).run(targets, 8, seed=0, progress=False)
    assert len(calls) == 4


@pytest.mark.parametrize(("inputs", "outputs"), [(17, 256), (256, 256), (256, 6), (1, 1)])
def test_students_drawn_together_are_orthogonal_and_independent(inputs: int, outputs: int) -> None:
    drawn = _orthogonal_together(inputs, outputs, student_generators(3, 0))
    assert drawn.shape == (3, inputs, outputs)
    assert drawn.is_contiguous()
    small = drawn if inputs >= outputs else drawn.mT
    wanted = 2.0 * torch.eye(small.shape[-1]).expand(3, -1, -1)
    torch.testing.assert_close(small.mT @ small, wanted, atol=1e-4, rtol=0)
    alone = _orthogonal_together(inputs, outputs, student_generators(3, 0)[2:])
    torch.testing.assert_close(drawn[2:], alone, atol=1e-5, rtol=0)
    assert inputs * outputs == 1 or not torch.allclose(drawn[0], drawn[1], atol=0.01)


def test_signs_of_students_drawn_together_are_even() -> None:
    """Without torch's correction by the signs of R, a factorisation's diagonal would be mostly negative."""
    first: list[Tensor] = [_orthogonal_together(2, 2, student_generators(400, seed))[:, 0, 0] for seed in (0, 1)]
    assert 0.4 < float((torch.cat(first) > 0).float().mean()) < 0.6
