"""Students and their training: batched equals one by one, gradients equal finite differences and torch.optim."""

import math
from functools import partial

import pytest
import torch

from minari_obd.settings.protocols import StudentProtocol
from minari_obd.students.networks import MLP, make_student, student_generators
from minari_obd.students.training import mean_squared_error, train_students

PROTOCOLS = {
    "sgd": StudentProtocol(depth=2, width=8, steps=4, learning_rate=0.3),
    "momentum": StudentProtocol(depth=1, width=8, steps=5, learning_rate=0.1, momentum=0.9),
    "adam": StudentProtocol(depth=2, width=8, steps=4, optimiser="adam", learning_rate=0.01),
    "adamw": StudentProtocol(depth=2, width=8, steps=4, optimiser="adamw", learning_rate=0.05),
    "no hidden layer but one": StudentProtocol(depth=1, width=3, steps=1),
    "softmax": StudentProtocol(network="softmax_mlp", depth=2, width=8, steps=4, optimiser="adam", learning_rate=0.01),
    "residual softmax": StudentProtocol(network="softmax_residual", depth=2, width=8, steps=4, learning_rate=0.3),
}


def problem(protocol: StudentProtocol, students: int = 3) -> tuple:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    actions = torch.tanh(torch.randn(6, 2, generator=generator, dtype=torch.float64))
    student = make_student(protocol)
    parameters = [p.double() for p in student.initialise(3, 2, student_generators(students, 7))]
    return student, parameters, states, actions


def test_initial_weights_are_orthogonal_with_gain_root_two() -> None:
    parameters = MLP(depth=2, width=16).initialise(5, 3, student_generators(2, 0))
    assert [tuple(p.shape) for p in parameters] == [
        (2, 5, 16),
        (2, 1, 16),
        (2, 16, 16),
        (2, 1, 16),
        (2, 16, 3),
        (2, 1, 3),
    ]
    for weight in parameters[::2]:
        for matrix in weight:
            short = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
            torch.testing.assert_close(short @ short.T, 2 * torch.eye(len(short)), atol=1e-5, rtol=0)
    assert all((bias == 0).all() for bias in parameters[1::2])


def test_a_softmax_gives_probabilities_on_the_scale_of_actions() -> None:
    student, parameters, states, _ = problem(PROTOCOLS["softmax"])
    chances = (student.apply(parameters, states) + 1.0) / 2.0
    assert (chances > 0).all()
    torch.testing.assert_close(chances.sum(-1), torch.ones(3, 6, dtype=torch.float64))
    suited = PROTOCOLS["sgd"].suited(is_discrete=True)
    assert suited == suited.suited(is_discrete=True)
    assert suited.network == "softmax_mlp"
    assert suited.suited(is_discrete=False) == PROTOCOLS["sgd"]


def test_a_student_does_not_depend_on_its_neighbours() -> None:
    three = MLP(1, 4).initialise(2, 2, student_generators(3, 5))
    alone = MLP(1, 4).initialise(2, 2, student_generators(3, 5)[2:])
    for batched, single in zip(three, alone, strict=True):
        torch.testing.assert_close(batched[2:], single)


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_students_trained_at_once_equal_students_trained_alone(protocol: StudentProtocol) -> None:
    student, parameters, states, actions = problem(protocol)
    together = train_students(student, parameters, states, actions, protocol)
    for e in range(3):
        alone = train_students(student, [p[e : e + 1] for p in parameters], states, actions, protocol)
        for batched, single in zip(together, alone, strict=True):
            torch.testing.assert_close(batched[e : e + 1], single, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", ["sgd", "momentum", "adam", "adamw"])
def test_training_equals_torch_optim(name: str) -> None:
    protocol = PROTOCOLS[name]
    student, parameters, states, actions = problem(protocol, students=1)
    ours = train_students(student, parameters, states, actions, protocol)
    theirs = [p.clone().requires_grad_() for p in parameters]
    optimisers = {
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "sgd": torch.optim.SGD,
        "momentum": partial(torch.optim.SGD, momentum=protocol.momentum),
    }
    optimiser = optimisers[name](theirs, lr=protocol.learning_rate)
    for _ in range(protocol.steps):
        optimiser.zero_grad()
        mean_squared_error(student, theirs, states, actions).mean().backward()
        optimiser.step()
    for a, b in zip(ours, theirs, strict=True):
        # Adam's epsilon stands inside the root here, see Adam.
        tolerance = 1e-3 * protocol.learning_rate if name.startswith("adam") else 1e-12
        torch.testing.assert_close(a, b.detach(), atol=tolerance, rtol=0)


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_meta_gradient_equals_finite_differences(protocol: StudentProtocol) -> None:
    student, parameters, states, actions = problem(protocol, students=2)
    queries = torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    wanted = torch.tanh(queries[:, :2])

    def outer(s: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        trained = train_students(student, parameters, s, a, protocol, differentiable=True)
        return mean_squared_error(student, trained, queries, wanted).mean()

    assert torch.autograd.gradcheck(outer, (states.requires_grad_(), actions.requires_grad_()), eps=1e-7, atol=1e-5)


def test_differentiable_or_not_the_result_is_the_same() -> None:
    protocol = PROTOCOLS["sgd"]
    student, parameters, states, actions = problem(protocol)
    plain = train_students(student, parameters, states, actions, protocol)
    graphed = train_students(student, parameters, states, actions, protocol, differentiable=True)
    assert all(torch.equal(a, b.detach()) for a, b in zip(plain, graphed, strict=True))
    assert not any(p.requires_grad for p in plain)


def test_the_error_is_a_mean_over_action_dimensions_alone() -> None:
    student = MLP(1, 4)
    parameters = [torch.zeros_like(p) for p in student.initialise(2, 2, student_generators(1, 0))]
    error = mean_squared_error(student, parameters, torch.zeros(3, 2), torch.tensor([[1.0, 0.0]] * 3))
    assert error.shape == (1, 3)
    assert math.isclose(float(error[0, 0]), 0.5)
