"""The reverse pass of the inner loop: equal to plain autograd in every supported case, and flat in memory."""

import gc
from dataclasses import dataclass, replace

import pytest
import torch
from plain_autograd import train_plainly
from torch import Tensor

from minari_obd.settings.protocols import StudentProtocol
from minari_obd.students.gradient import AutogradGradient
from minari_obd.students.mlp_gradient import MLPGradient, gradient_of
from minari_obd.students.networks import MLP, ModuleStudent, ResidualMLP, Student, student_generators
from minari_obd.students.training import mean_squared_error, train_students

SGD = StudentProtocol(steps=5, learning_rate=0.3)
MOMENTUM = StudentProtocol(steps=5, learning_rate=0.1, momentum=0.9)
ADAM = StudentProtocol(steps=4, learning_rate=0.01, optimiser="adam")
ADAMW = StudentProtocol(steps=4, learning_rate=0.05, optimiser="adamw")
PROTOCOLS = {"sgd": SGD, "momentum": MOMENTUM, "adam": ADAM, "adamw": ADAMW}


@dataclass
class Problem:
    student: Student
    parameters: list[Tensor]
    states: Tensor
    actions: Tensor
    weights: Tensor
    queries: Tensor
    wanted: Tensor


def problem(student: Student, students: int = 2, own_pairs: bool = False, seed: int = 0) -> Problem:
    generator = torch.Generator().manual_seed(seed)
    lead = (students,) if own_pairs else ()

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    parameters = [p.double() for p in student.initialise(3, 2, student_generators(students, seed))]
    parameters = [p + 0.1 * normal(*p.shape) for p in parameters]  # biases off zero
    return Problem(
        student,
        parameters,
        normal(*lead, 7, 3),
        torch.tanh(normal(*lead, 7, 2)),
        normal(*lead, 7).exp(),
        normal(6, 3),
        torch.tanh(normal(6, 2)),
    )


def derivatives(train, p: Problem, protocol: StudentProtocol, weighted: bool, rates: str, **settings) -> list[Tensor]:
    """The outer loss, and its derivatives by everything that it depends on."""
    leaves = [*p.parameters, p.states, p.actions]
    inputs: dict = {}
    if weighted:
        inputs["weights"] = p.weights
    if rates != "fixed":
        inputs["learning_rates"] = torch.full((protocol.steps,) if rates == "each step" else (), 0.05).double()
        if rates == "each step":
            inputs["learning_rates"] *= torch.linspace(1.0, 2.0, protocol.steps)
    leaves += inputs.values()
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    *parameters, states, actions = leaves[: len(p.parameters) + 2]
    inputs = dict(zip(inputs, leaves[len(p.parameters) + 2 :], strict=True))
    trained = train(p.student, parameters, states, actions, protocol, **inputs, **settings)
    loss = mean_squared_error(p.student, trained, p.queries, p.wanted).square().mean() + trained[0].sin().mean()
    return [loss.detach(), *torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)]


def engine(*args, **kwargs) -> list[Tensor]:
    return train_students(*args, differentiable=True, **kwargs)


def assert_equal(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert float((a - b).abs().max()) <= 1e-10 * max(1.0, float(b.abs().max()))


CASES = [(weighted, rates) for weighted in (False, True) for rates in ("fixed", "one", "each step")]


@pytest.mark.parametrize("depth", range(1, 7))
@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
@pytest.mark.parametrize("output", ["tanh", "identity", "softmax"])
def test_it_equals_plain_autograd(depth: int, protocol: StudentProtocol, output: str) -> None:
    p = problem(MLP(depth, 5, output), seed=depth)
    assert isinstance(gradient_of(p.student), MLPGradient)
    for weighted, rates in CASES:
        for window in (None, 3):
            settings = {"weighted": weighted, "rates": rates, "window": window}
            ours, theirs = (derivatives(train, p, protocol, **settings) for train in (engine, train_plainly))
            assert_equal(ours, theirs)
            assert float(theirs[-1].abs().max()) > 0  # there is something to compare


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
@pytest.mark.parametrize("students", [1, 3])
@pytest.mark.parametrize("own_pairs", [False, True])
def test_one_student_or_several_on_shared_pairs_or_their_own(
    protocol: StudentProtocol, students: int, own_pairs: bool
) -> None:
    p = problem(MLP(2, 5), students, own_pairs)
    ours, theirs = (derivatives(train, p, protocol, True, "each step") for train in (engine, train_plainly))
    assert_equal(ours, theirs)


class Tiny(torch.nn.Module):
    def __init__(self, state_size: int, action_size: int) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(state_size, 6), torch.nn.GELU(), torch.nn.Linear(6, action_size), torch.nn.Tanh()
        )

    def forward(self, states: Tensor) -> Tensor:
        return self.layers(states)


@pytest.mark.parametrize("student", [ResidualMLP(3, 5), ModuleStudent(Tiny, 2)], ids=["residual", "a user's module"])
@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_other_students_take_the_route_of_autograd(student: Student, protocol: StudentProtocol) -> None:
    p = problem(student)
    assert isinstance(gradient_of(student), AutogradGradient)
    for window in (None, 3):
        ours, theirs = (
            derivatives(train, p, protocol, True, "each step", window=window) for train in (engine, train_plainly)
        )
        assert_equal(ours, theirs)


@pytest.mark.parametrize("student", [MLP(2, 5), ResidualMLP(2, 5)], ids=["mlp", "residual"])
@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
@pytest.mark.parametrize("window", [None, 4])
def test_what_is_computed_again_is_the_same_to_the_bit(
    student: Student, protocol: StudentProtocol, window: int | None
) -> None:
    p = problem(student)
    kept = derivatives(engine, p, protocol, True, "each step", window=window)
    for limit in (0, 10_000):
        again = derivatives(engine, p, protocol, True, "each step", window=window, memory_limit=limit)
        assert all(torch.equal(a, b) for a, b in zip(kept, again, strict=True))


@pytest.mark.parametrize("student", [MLP(2, 8), ResidualMLP(2, 8)], ids=["mlp", "residual"])
def test_minibatches_are_differentiated_through(student: Student) -> None:
    p = problem(student)
    rows = [torch.tensor(r) for r in ([0, 1, 1], [2, 3, 4], [6, 0, 5], [1, 2, 3], [4, 4, 4])]
    theirs = derivatives(train_plainly, p, MOMENTUM, True, "fixed", rows=rows)
    for limit in (0, 1 << 30):
        assert_equal(derivatives(engine, p, MOMENTUM, True, "fixed", batches=iter(rows), memory_limit=limit), theirs)


def live_bytes() -> int:
    storages = {}
    for thing in gc.get_objects():
        if type(thing) is Tensor:
            storages[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
    return sum(storages.values())


@pytest.mark.parametrize("limit", [1 << 30, 1_000_000], ids=["all kept", "computed again"])
@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_memory_stays_flat_in_the_steps_where_they_are_computed_again(limit: int, optimiser: str) -> None:
    p = problem(MLP(2, 16))
    peaks = []
    for steps in (50, 400):
        seen: list[int] = []
        gc.collect()  # what earlier tests left would be counted now, and not at the peak
        before = live_bytes()
        states = p.states.clone().requires_grad_()
        protocol = replace(PROTOCOLS[optimiser], steps=steps)

        def watch(seen: list[int] = seen, steps: int = steps) -> None:
            is_sampled = len(seen) % (steps // 2) == steps // 2 - 1  # twice forward, and as often going back
            seen.append(live_bytes() if is_sampled else 0)

        every = engine(p.student, p.parameters, states, p.actions, protocol, memory_limit=limit, after_step=watch)
        every[0].sum().backward()
        peaks.append(max(seen) - before)
    if limit == 1 << 30:
        assert peaks[1] > 6 * peaks[0]
    else:
        assert peaks[1] < 1.6 * limit


def test_bfloat16_products_point_the_same_way() -> None:
    """At the paper's width the meta-gradient of the states keeps a cosine of 0.97 with that of float64, and more."""
    generator = torch.Generator().manual_seed(0)
    student, protocol = MLP(3, 128), StudentProtocol(depth=3, width=128, steps=40)
    states = torch.randn(64, 8, generator=generator)
    actions, wanted = torch.tanh(states[:, :3]), torch.tanh(states[:, :3] * states[:, 3:6])

    def meta_gradient(dtype: torch.dtype, products: torch.dtype | None) -> Tensor:
        initial = [p.to(dtype) for p in student.initialise(8, 3, student_generators(1, 0))]
        x = states.to(dtype, copy=True).requires_grad_()
        trained = engine(student, initial, x, actions.to(dtype), protocol, products=products)
        loss = mean_squared_error(student, trained, states.to(dtype), wanted.to(dtype)).mean()
        return torch.autograd.grad(loss, x)[0].double().flatten()

    exact = meta_gradient(torch.float64, None)
    for products, cosine in ((None, 0.9999), (torch.bfloat16, 0.97)):
        found = meta_gradient(torch.float32, products)
        assert found.isfinite().all()
        assert torch.nn.functional.cosine_similarity(found, exact, dim=0) > cosine


@pytest.mark.parametrize("limit", [1 << 30, 0])
def test_a_graph_that_is_retained_can_be_reversed_twice(limit: int) -> None:
    p = problem(MLP(2, 5))
    states = p.states.requires_grad_()
    trained = engine(p.student, p.parameters, states, p.actions, MOMENTUM, memory_limit=limit)
    loss = trained[0].square().sum()
    first, second = (torch.autograd.grad(loss, states, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_the_reverse_itself_is_not_differentiated() -> None:
    p = problem(MLP(1, 4))
    states = p.states.requires_grad_()
    trained = engine(p.student, p.parameters, states, p.actions, SGD)
    (gradient,) = torch.autograd.grad(trained[0].square().sum(), states, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
