"""The kernel start: the tangent kernel is that of wide networks, and pairs that it moves teach real students more."""

from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor

from minari_obd.distiller import looks as outer_looks
from minari_obd.distiller import start as kernel_start
from minari_obd.distiller.data import OuterData
from minari_obd.distiller.kernel import KernelStart
from minari_obd.distiller.loop import OuterLoop
from minari_obd.distiller.result import OuterResult
from minari_obd.errors import SettingError
from minari_obd.settings.protocols import ADAM_STUDENT, KERNEL_STUDENT, StudentProtocol
from minari_obd.settings.recipe import Recipe, recorded_recipe
from minari_obd.settings.sections import DistillationRecipe, StudentStatesRecipe
from minari_obd.students.kernel import Kernel, latent, regression, student_kernel
from minari_obd.targets.methods import PolicyBehaviouralCloning
from minari_obd.targets.targets import ActionCost, Targets

STUDENT = StudentProtocol(depth=2, width=128, steps=50, optimiser="adam", learning_rate=0.003)
SETTINGS = DistillationRecipe(steps=1, learning_rate=1e-12, batch_size=128, evaluate_every=1, kernel_steps=60)
CPU = torch.device("cpu")


@pytest.fixture
def targets() -> Targets:
    states = np.random.default_rng(0).normal(size=(800, 3)).astype(np.float32)
    actions = np.tanh(np.stack([states[:, 0] * states[:, 1], states[:, 2]], axis=1))
    return Targets(states, actions, np.ones(800), {})


def run(targets: Targets, protocol: StudentProtocol = STUDENT, **changes) -> OuterResult:
    return OuterLoop(protocol, replace(SETTINGS, **changes), CPU).run(targets, 24, seed=0, progress=False)


@pytest.mark.parametrize("depth", [1, 3])
def test_the_kernel_is_that_of_wide_networks(depth: int) -> None:
    """Inner products of the output's gradients by all weights and biases, of networks that are nearly infinite."""
    states, width, bias = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), 2048, 0.1
    found = {True: torch.zeros(5, 5), False: torch.zeros(5, 5)}
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        sizes = [4, *[width] * depth, 1]
        weights = [torch.randn(m, n, generator=generator) for m, n in pairwise(sizes)]
        biases = [torch.zeros(n) for n in sizes[1:]]

        def output(weights: list[Tensor], biases: list[Tensor], state: Tensor) -> Tensor:
            features = state
            for layer, (weight, shift) in enumerate(zip(weights, biases, strict=True)):
                gain = (2.0 if layer else 1.0) / len(weight)
                features = (torch.relu(features) if layer else features) @ weight * gain**0.5 + bias**0.5 * shift
            return features[0]

        slopes = [torch.func.grad(output, argnums=(0, 1))(weights, biases, state) for state in states]
        for is_tangent in found:  # of all layers, or of the last one alone
            parts = [[g for part in each for g in (part if is_tangent else part[-1:])] for each in slopes]
            flat = torch.stack([torch.cat([g.flatten() for g in each]) for each in parts])
            found[is_tangent] += flat @ flat.T / 4
    for is_tangent, expected in found.items():
        kernel = student_kernel(states, states, Kernel(depth, bias, 0.0, is_tangent))
        torch.testing.assert_close(kernel, expected, rtol=0.1, atol=0.05)


@pytest.mark.parametrize("is_tangent", [True, False])
def test_it_is_symmetric_and_positive_definite(is_tangent: bool) -> None:
    states = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    kernel = student_kernel(states, states, Kernel(3, 0.1, 0.0, is_tangent))
    torch.testing.assert_close(kernel, kernel.T)
    assert torch.linalg.eigvalsh(kernel.double()).min() > 0


def test_a_student_of_the_kernel_does_as_its_pairs_say(targets: Targets) -> None:
    states, actions = (torch.tensor(each[:24]) for each in (targets.states, targets.actions))
    said = torch.tanh(regression(states, latent(actions, "tanh", 0.98), states, Kernel(2, 0.1, 1e-3)))
    torch.testing.assert_close(said, actions.clamp(-0.98, 0.98), atol=0.02, rtol=0.0)


def first_loss(targets: Targets, seed: int, protocol: StudentProtocol = STUDENT, **changes) -> float:
    loop = OuterLoop(protocol, replace(SETTINGS, **changes), CPU)
    return loop.run(targets, 24, seed=seed, progress=False).history[0]["held_out"]


def test_real_students_learn_more_from_where_it_leads(targets: Targets) -> None:
    before, after = (sum(first_loss(targets, s, initial=i) for s in range(3)) for i in ("kmeans", "kernel"))
    assert after < 0.9 * before


def test_students_that_do_not_follow_it_lose_nothing(targets: Targets) -> None:
    """A few steps of a narrow network learn less from some of these pairs than from those of k-means."""
    narrow = replace(STUDENT, width=8, steps=10)
    losses = [[first_loss(targets, s, narrow, initial=i) for i in ("kmeans", "kernel")] for s in range(3)]
    assert all(kernel <= kmeans for kmeans, kernel in losses)


def test_a_later_look_that_is_nearly_as_good_counts_for_more(targets: Targets) -> None:
    """Pairs of the kernel may look best on held-out states; students of them err more where they go."""
    result = run(targets, learning_rate=0.03)
    start, later = (row["held_out"] for row in result.history)
    assert start < later < 1.25 * start
    assert (result.step, result.offline_loss) == (1, later)


def test_a_later_look_that_is_much_worse_does_not_count(targets: Targets) -> None:
    result = run(targets, learning_rate=3.0)
    assert result.history[1]["held_out"] > 1.25 * result.history[0]["held_out"]
    assert (result.step, result.offline_loss) == (0, result.history[0]["held_out"])


def test_a_later_look_does_not_count_for_more_where_the_kernel_moved_nothing(
    targets: Targets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_start.KernelStart, "candidates", lambda *_, **__: iter(()))
    looks = iter([1.0, 1.0, 1.2])  # of the start, and of the loop
    monkeypatch.setattr(kernel_start, "held_out_losses", lambda *_: [next(looks)])
    monkeypatch.setattr(outer_looks, "held_out_losses", lambda *_: [next(looks)])
    result = run(targets)
    assert (result.step, result.offline_loss) == (0, 1.0)


def test_it_is_said_how_far_it_went(targets: Targets) -> None:
    assert run(targets).history[0]["kernel_step"] in (50, 60)
    assert "kernel_step" not in run(targets, initial="kmeans").history[0]


@pytest.mark.filterwarnings("error")
def test_states_at_the_mean_are_no_trouble() -> None:
    """Normalised, they have no length, and the root of the squared length has no slope there."""
    even = np.linspace(-1.0, 1.0, 201, dtype=np.float32)[:, None]
    grid = Targets(even, np.tanh(2.0 * even), np.ones(201), {})
    data = OuterData.of(grid, SETTINGS, 0, CPU)
    states, actions = data.tensors[:2]
    start = KernelStart(STUDENT, SETTINGS)
    for _, pairs in start.candidates(start.begin(states, actions), data, 0.0, progress=False):
        assert all(each.isfinite().all() for each in pairs)


def test_the_same_seed_gives_the_same_pairs_to_the_bit(targets: Targets) -> None:
    first, second = run(targets), run(targets)
    np.testing.assert_array_equal(first.states, second.states)
    np.testing.assert_array_equal(first.actions, second.actions)
    other = OuterLoop(STUDENT, SETTINGS, CPU).run(targets, 24, seed=1, progress=False)
    assert not np.array_equal(first.states, other.states)


def test_actions_stay_within_their_bounds(targets: Targets) -> None:
    wild = replace(targets, actions=np.sign(targets.actions))
    assert np.abs(run(wild).actions).max() < 1.0


def test_discrete_actions_stay_probabilities(targets: Targets) -> None:
    right = targets.states[:, 0] > 0
    actions = 2.0 * np.stack([right, ~right], axis=1) - 1.0
    student = replace(STUDENT, network="softmax_mlp")
    made = {each: run(replace(targets, actions=actions), student, initial=each) for each in ("kmeans", "kernel")}
    np.testing.assert_allclose(0.5 * (made["kernel"].actions + 1.0).sum(axis=1), 1.0, atol=1e-5)
    assert made["kernel"].history[0]["held_out"] < made["kmeans"].history[0]["held_out"]


class Cost:
    """A cost of the first action dimension alone."""

    def __call__(self, states: Tensor, actions: Tensor, wanted: Tensor) -> Tensor:
        return (actions - wanted)[..., 0].square()

    def to(self, device: torch.device) -> ActionCost:
        return self


def errors(targets: Targets, cost: ActionCost | None) -> np.ndarray:
    """Squared errors of the kernel's student by action dimension, after its pairs were moved."""
    data = OuterData.of(replace(targets, cost=cost), SETTINGS, 0, CPU)
    start = KernelStart(STUDENT, replace(SETTINGS, gap_share=0.95))
    first, wanted = (tensor[:6] for tensor in data.tensors[:2])
    *_, (_, (states, actions)) = start.candidates(start.begin(first, wanted), data, 1.0, progress=False)
    said = torch.tanh(regression(states, latent(actions, "tanh"), data.judged[0], Kernel(2, 0.1, 1e-3)))
    return (said - data.judged[1]).square().mean(dim=0).numpy()


def test_it_asks_for_what_errors_cost(targets: Targets) -> None:
    plain, costly = errors(targets, None), errors(targets, Cost())
    assert costly[0] < plain[0]
    assert costly[1] > 1.2 * plain[1]


def test_results_keep_their_names_where_the_kernel_is_not_used() -> None:
    settings = Recipe("x", distillation=DistillationRecipe(initial="kmeans")).deciding()["distillation"]
    assert not {"kernel_steps", "kernel_batch_size"} & set(settings)
    settings = Recipe("x").deciding()["distillation"]
    counts = settings["kernel_steps"], settings["kernel_steps_alone"], settings["kernel_batch_size"]
    assert counts == (3_000, 750, 1024)
    with pytest.raises(SettingError, match="kernel_steps"):
        DistillationRecipe(kernel_steps=0)


def test_fewer_pairs_get_more_steps_where_students_are_infinitely_wide() -> None:
    for size, count in ((1, 3_000), (16, 3_000), (64, 3_000), (128, 1_500), (256, 750), (257, 750), (1_000, 750)):
        recipe = Recipe("x", size=size)
        resolved = recipe.resolved().distillation
        assert (resolved.kernel_steps, resolved.kernel_steps_alone) == (3_000, count)
        assert recipe.resolved().resolved() == recipe.resolved()
        narrow = replace(recipe, student=ADAM_STUDENT).resolved().distillation
        assert (narrow.kernel_steps, narrow.kernel_steps_alone) == (750, 750)
        given = replace(recipe, distillation=DistillationRecipe(kernel_steps=5)).resolved().distillation
        assert (given.kernel_steps, given.kernel_steps_alone) == (5, 5)
        given = replace(recipe, distillation=DistillationRecipe(kernel_steps_alone=5)).resolved().distillation
        assert (given.kernel_steps, given.kernel_steps_alone) == (3_000, 5)


def test_results_without_student_states_keep_the_names_that_they_had() -> None:
    for method, share in (("pbc", None), ("vgd", 0.0)):
        recipe = replace(Recipe("x", method), student_states=StudentStatesRecipe(share=share))
        settings = recipe.deciding()["distillation"]
        assert settings["kernel_steps"] == 750
        assert "kernel_steps_alone" not in settings
    settings = replace(Recipe("x", "pbc"), student_states=StudentStatesRecipe(share=0.25)).deciding()["distillation"]
    assert (settings["kernel_steps"], settings["kernel_steps_alone"]) == (3_000, 750)
    settings = Recipe("x", distillation=DistillationRecipe(kernel_steps=300)).deciding()["distillation"]
    assert settings["kernel_steps"] == 300
    assert "kernel_steps_alone" not in settings


def test_a_method_of_another_package_with_student_states_of_its_own_is_named_by_the_steps_it_makes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert Recipe("x", "pbc").deciding()["distillation"]["kernel_steps"] == 750
    monkeypatch.setattr(PolicyBehaviouralCloning, "student_share", 0.25)
    settings = Recipe("x", "pbc").deciding()["distillation"]
    assert (settings["kernel_steps"], settings["kernel_steps_alone"]) == (3_000, 750)
    assert Recipe("x", "gone").deciding()["distillation"]["kernel_steps"] == 750  # it is not installed here
    none = replace(Recipe("x", "pbc"), student_states=StudentStatesRecipe(share=0.0))
    assert none.deciding()["distillation"]["kernel_steps"] == 750


@pytest.mark.parametrize(("is_visited", "count"), [(False, 1_500), (True, 3_000)])
def test_steps_fall_along_a_cosine_and_are_more_with_student_states(
    is_visited: bool, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    visited = SimpleNamespace(visited=object() if is_visited else None)
    monkeypatch.setattr(KernelStart, "_follow", lambda *given: [])
    monkeypatch.setattr(KernelStart, "_step", lambda *given: rates.append(given[2].param_groups[0]["lr"]))
    start = KernelStart(KERNEL_STUDENT, DistillationRecipe())
    begun = start.begin(torch.zeros(128, 2), torch.zeros(128, 1))
    shown = start.candidates(begun, cast("OuterData", visited), 0.0, progress=False)
    assert [step for step, _ in shown] == list(range(50, count + 1, 50))
    np.testing.assert_allclose(rates, 0.005 * (1.0 + np.cos(np.pi * np.arange(count) / count)))


def test_a_recipe_from_before_kernels_had_batches_of_their_own_keeps_its_batches_and_its_name() -> None:
    old = Recipe("x", distillation=DistillationRecipe(kernel_steps=300)).resolved().to_json()
    del old["distillation"]["kernel_batch_size"]
    recorded = recorded_recipe(old, "test")
    assert recorded.distillation.kernel_batch == 2560
    assert "kernel_batch_size" not in recorded.deciding()["distillation"]
    now = Recipe("x").resolved()
    assert recorded_recipe(now.to_json(), "test") == now
    assert DistillationRecipe(batch_size=64).kernel_batch == 64
    with pytest.raises(SettingError, match="kernel_batch_size"):
        DistillationRecipe(kernel_batch_size=0)
