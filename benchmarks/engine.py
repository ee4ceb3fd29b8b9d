"""The engine: seconds an outer step, against plain autograd, and as a share of the rate of matrix products.

python benchmarks/engine.py                    at the paper's setting, then over students, pairs and steps
python benchmarks/engine.py --compile          torch.compile over one step and its reverse as well (minutes)
python benchmarks/engine.py --optimiser adam   for students that are trained by Adam instead of plain SGD
python benchmarks/engine.py --device cuda      on a GPU: also whole outer steps, with and without graphs

One process, one machine, one run: figures are comparable with one another and with nothing else. Each is the least
of several laps, as interruptions only ever add. On a GPU, each lap ends when the device has finished.
"""

import argparse
import platform
import resource
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import torch
from plain_autograd import train_plainly
from torch import Tensor

from minari_obd.distiller.graphs import StepGraphs
from minari_obd.distiller.loop import OuterLoop
from minari_obd.distiller.step import OuterPlan, OuterTensors, StepInputs, draw_students, outer_step
from minari_obd.errors import SettingError
from minari_obd.settings.protocols import StudentProtocol
from minari_obd.settings.sections import DistillationRecipe
from minari_obd.students.networks import make_student, student_generators
from minari_obd.students.training import mean_squared_error, train_students
from minari_obd.support.precision import has_fast_bfloat16, has_rounded_products, matmul_precision, product_type

STATE, ACTION, JUDGED = 17, 6, 2_560  # HalfCheetah; judged is the paper's outer batch
FAST = DistillationRecipe()


@dataclass(frozen=True)
class Setting:
    """A size of the problem."""

    students: int = 1
    pairs: int = 256
    steps: int = 100
    optimiser: str = "sgd"

    @property
    def protocol(self) -> StudentProtocol:
        """The paper's, with as many steps; with Adam, the default recipe's."""
        if self.optimiser == "sgd":
            return StudentProtocol(steps=self.steps)
        return StudentProtocol(steps=self.steps, optimiser="adam", learning_rate=1e-3)

    def flops(self) -> float:
        """Of the products of an exact outer step: three a layer and step, six for the reverse, three for the judging.

        The first layer has no derivative by its input on the way back of the step, and needs it in the reverse.
        """
        width, depth = self.protocol.width, self.protocol.depth
        square = (depth - 1) * width * width
        each = 2 * self.pairs * (9 * square + 6 * STATE * width + 9 * width * ACTION)
        judging = 2 * JUDGED * (3 * square + 2 * STATE * width + 3 * width * ACTION)
        return self.students * (self.steps * each + judging)


@dataclass
class Problem:
    """Random numbers of a size."""

    setting: Setting
    device: torch.device

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).to(self.device)

        self.student = make_student(self.setting.protocol)
        generators = student_generators(self.setting.students, 0)
        self.initial = [p.to(self.device) for p in self.student.initialise(STATE, ACTION, generators)]
        self.states, self.actions = normal(self.setting.pairs, STATE), torch.tanh(normal(self.setting.pairs, ACTION))
        self.judged = normal(JUDGED, STATE)
        self.wanted = torch.tanh(self.judged[:, :ACTION])

    def gradients(
        self,
        train: Callable,
        dtype: torch.dtype = torch.float32,
        protocol: StudentProtocol | None = None,
        **settings,
    ) -> list[Tensor]:
        """The pairs' gradient by one way of training."""
        pairs = [t.to(dtype, copy=True).requires_grad_() for t in (self.states, self.actions)]
        initial = [p.to(dtype) for p in self.initial]
        trained = train(self.student, initial, *pairs, protocol or self.setting.protocol, **settings)
        loss = mean_squared_error(self.student, trained, self.judged.to(dtype), self.wanted.to(dtype)).mean()
        return list(torch.autograd.grad(loss, pairs))


engine = partial(train_students, differentiable=True)


def seconds(function: Callable, laps: int = 5) -> float:
    """Least time of a lap, after one that does not count."""
    found = []
    for _ in range(laps + 1):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        start = time.perf_counter()
        function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return min(found[1:])


def product_rate(device: torch.device, fresh: bool = False) -> float:
    """FLOP a second of 256 x 256 products, of the same two matrices or, ``fresh``, of ones that no cache holds."""
    count = 300 if fresh else 1
    left, right, out = (torch.randn(count, 256, 256, device=device) for _ in range(3))

    def lap() -> None:
        for i in range(300):
            torch.mm(left[i % count], right[i % count], out=out[i % count])

    return 300 * 2 * 256**3 / seconds(lap)


def peak_mib() -> float:
    """Most memory that this process has had so far."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def cosine(a: Tensor, b: Tensor) -> float:
    """Between two gradients, in float64."""
    return float(torch.nn.functional.cosine_similarity(a.double().flatten(), b.double().flatten(), dim=0))


def at_the_papers_setting(device: torch.device, threads: int, with_compile: bool, optimiser: str) -> None:
    """Every route, for one number of threads."""
    torch.set_num_threads(threads)
    problem = Problem(Setting(optimiser=optimiser), device)
    rate, fresh = product_rate(device), product_rate(device, fresh=True)
    print(f"\n{threads} thread(s): 256x256 products {rate / 1e9:.0f} GFLOP/s, out of cache {fresh / 1e9:.0f}")
    loop = OuterLoop(problem.setting.protocol, FAST, device)
    steps = FAST.outer_steps(problem.setting.protocol)
    plans = Counter(loop.plan(0, step) for step in range(steps))
    routes: dict[str, Callable] = {
        "plain autograd": partial(problem.gradients, train_plainly),
        "engine, float32": partial(problem.gradients, engine),
        "engine, bfloat16 products": partial(problem.gradients, engine, products=torch.bfloat16),
        "engine, last 50 steps": partial(problem.gradients, engine, window=50),
    }
    if with_compile and optimiser == "sgd":
        routes["torch.compile, float32"] = compiled(problem)
    exact = problem.gradients(train_plainly, torch.float64)
    plain = 0.0
    for name, route in routes.items():
        took = seconds(route)
        plain = plain or took
        share = f", {problem.setting.flops() / took / rate:4.0%} of the products' rate" if "float32" in name else ""
        by_states, by_actions = (cosine(a, b) for a, b in zip(route(), exact, strict=True))
        print(
            f"  {name:27} {took:6.3f} s, {plain / took:4.2f}x plain{share}; "
            f"cosine to float64 {by_states:.4f} (states), {by_actions:.4f} (actions)"
        )
    ours = theirs = 0.0
    for plan, count in plans.items():
        route = partial(problem.gradients, engine, protocol=plan.protocol, products=plan.products, window=plan.window)
        ours += seconds(route, laps=3) * count / steps
        theirs += seconds(partial(problem.gradients, train_plainly, protocol=plan.protocol), laps=3) * count / steps
    print(
        f"  the default recipe's {len(plans)} kinds of step, mean of a run: {ours:.3f} s; "
        f"by plain autograd {theirs:.3f} s, {theirs / ours:.2f}x"
    )


def compiled(problem: Problem) -> Callable:
    """One inner step and its reverse, by torch.func, each compiled."""
    student = problem.student

    def loss(parameters: list[Tensor], states: Tensor, actions: Tensor) -> Tensor:
        return mean_squared_error(student, parameters, states, actions).mean(dim=-1).sum()

    gradient = torch.func.grad(loss)
    forward = torch.compile(gradient)

    @torch.compile
    def reverse(parameters: list[Tensor], states: Tensor, actions: Tensor, direction: list[Tensor]):
        return torch.func.vjp(gradient, parameters, states, actions)[1](direction)

    def run() -> list[Tensor]:
        rate, past = problem.setting.protocol.learning_rate, []
        current = [p.clone() for p in problem.initial]
        with torch.no_grad():
            for _ in range(problem.setting.steps):
                past.append(current)
                found = forward(current, problem.states, problem.actions)
                current = [p - rate * g for p, g in zip(current, found, strict=True)]
        leaves = [p.detach().requires_grad_() for p in current]
        judged = mean_squared_error(student, leaves, problem.judged, problem.wanted).mean()
        adjoint = list(torch.autograd.grad(judged, leaves))
        total = [torch.zeros_like(problem.states), torch.zeros_like(problem.actions)]
        with torch.no_grad():
            for parameters in reversed(past):
                by, *pairs = reverse(parameters, problem.states, problem.actions, [-rate * a for a in adjoint])
                adjoint = [a + b for a, b in zip(adjoint, by, strict=True)]
                total = [t + p for t, p in zip(total, pairs, strict=True)]
        return total

    return run


def over_sizes(device: torch.device, optimiser: str) -> None:
    """Cost over students, pairs and steps; it should be a straight line in each."""
    base = Setting(optimiser=optimiser)
    sweeps = {
        "students": [replace(base, students=n) for n in (1, 4, 16)],
        "pairs": [replace(base, pairs=n) for n in (16, 64, 256, 1_024)],
        "steps": [replace(base, steps=n) for n in (20, 100, 300, 1_000)],
    }
    rate = product_rate(device)
    print(f"\n{torch.get_num_threads()} thread(s), float32, all steps")
    for name, settings in sweeps.items():
        times = []
        for setting in settings:
            problem = Problem(setting, device)
            took = seconds(partial(problem.gradients, engine), laps=2)
            times.append(took)
            share = setting.flops() / took / rate
            print(
                f"  {name} {getattr(setting, name):5d}: {took:7.3f} s, {setting.students / took:6.2f} students/s, "
                f"{share:4.0%} of the products' rate; the process's peak memory {peak_mib():,.0f} MiB"
            )
        slopes = [
            (times[i + 1] / times[i]) / (getattr(b, name) / getattr(a, name))
            for i, (a, b) in enumerate(pairwise(settings))
        ]
        print(f"    cost a {name[:-1]}, each size against the one before: {', '.join(f'{s:.2f}' for s in slopes)}")


def whole_steps(device: torch.device, optimiser: str) -> None:
    """Whole outer steps as the outer loop makes them: with clipping and the outer Adam, for given batches."""
    print("\nwhole outer steps of R runs with E students each, from a graph and without one; and drawing the students")
    for runs, students in ((1, 1), (1, 4), (1, 16), (4, 1), (16, 1)):
        problem = Problem(Setting(students * runs, optimiser=optimiser), device)
        tensors = OuterTensors.start(*(t.expand(runs, -1, -1) for t in (problem.states, problem.actions)))
        batch = [t.expand(runs, -1, -1).contiguous() for t in (problem.judged, problem.wanted)]
        batch.append(torch.ones(runs, JUDGED, device=device))
        rates, ones = torch.full((runs,), 1e-3, device=device), torch.ones(2, device=device)
        protocol = problem.setting.protocol
        drawing = seconds(partial(draw_students, protocol, (STATE, ACTION), students, range(runs), (0,), device))
        for precision in ("float32", "tf32", "bfloat16"):
            try:
                products = product_type(precision, device)
            except SettingError as error:
                print(f"  {precision:8} {error}")
                continue
            plan = OuterPlan(DistillationRecipe(students=students), protocol, None, products)
            inputs = StepInputs(batch, problem.initial, rates, ones)
            with matmul_precision("tf32" if precision == "tf32" else "float32"):
                plain = seconds(partial(outer_step, tensors, inputs, plan), laps=3)
                took = seconds(partial(StepGraphs(tensors).step, inputs, plan), laps=10)
            print(
                f"  {precision:8} R = {runs:2d}, E = {students:2d}: {took:7.4f} s from a graph, {plain:7.4f} without; "
                f"{runs * students / took:7.1f} students/s; drawing {1e3 * drawing:7.2f} ms"
            )


def main() -> None:
    """Print it all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--optimiser", default="sgd", choices=("sgd", "adam"), help="of the students")
    parser.add_argument("--compile", action="store_true", help="time torch.compile as well, for plain SGD")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    print(f"{name}, torch {torch.__version__}")
    rounds = has_rounded_products("bfloat16", torch.device("cpu"))
    print(f"on the CPU: bfloat16 matrices are faster: {has_fast_bfloat16()}; float32 products can be rounded: {rounds}")
    threads = torch.get_num_threads()
    if device.type == "cuda":
        at_the_papers_setting(device, threads, arguments.compile, arguments.optimiser)
        whole_steps(device, arguments.optimiser)
    else:
        for count in sorted({1, threads}):
            at_the_papers_setting(device, count, arguments.compile, arguments.optimiser)
    over_sizes(device, arguments.optimiser)


if __name__ == "__main__":
    main()
