"""The engine against plain autograd and against a jitted JAX scan of the same unroll: one process, one thread, one run.

pip install jax                                 (0.10.2 was measured; the package itself does not use it)
taskset -c 0 python benchmarks/jax_unroll.py    students trained by Adam; --optimiser sgd for plain SGD

Laps of the three take turns. Each is timed in processor seconds of the whole process, which other work on the machine
lengthens far less than wall time; ratios are taken lap by lap, and their median and range are printed. What is compiled
is compiled before.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from functools import partial

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ["OMP_NUM_THREADS"] = "1"

import jax  # type: ignore[import-not-found]  # no dependency of the project
import numpy as np
import torch
from jax import numpy as jnp  # type: ignore[import-not-found]  # as above
from plain_autograd import train_plainly
from torch import Tensor

from minari_obd.settings.protocols import StudentProtocol
from minari_obd.students.networks import make_student, student_generators
from minari_obd.students.training import mean_squared_error, train_students

STATE, ACTION, PAIRS, JUDGED = 17, 6, 256, 2_560


def forward(parameters: list, states):
    """The student's actions."""
    features = states
    for weight, bias in zip(parameters[:-2:2], parameters[1:-2:2], strict=True):
        features = jax.nn.relu(features @ weight + bias)
    return jnp.tanh(features @ parameters[-2] + parameters[-1])


def jax_gradient(protocol: StudentProtocol) -> Callable:
    """The pairs' gradient through all steps of a scan, jitted."""

    def error(parameters: list, states, actions):
        return jnp.square(forward(parameters, states) - actions).mean()

    def outer(pairs, initial: list, judged, wanted):
        def step(carry, scales):
            parameters, first, second = carry
            found = jax.grad(error)(parameters, *pairs)
            if protocol.optimiser == "sgd":
                return (
                    [p - protocol.learning_rate * g for p, g in zip(parameters, found, strict=True)],
                    *carry[1:],
                ), None
            first = [0.9 * m + 0.1 * g for m, g in zip(first, found, strict=True)]
            second = [0.999 * v + 0.001 * g * g for v, g in zip(second, found, strict=True)]
            moved = [
                p - protocol.learning_rate * scales[0] * m / jnp.sqrt(scales[1] * v + 1e-16)
                for p, m, v in zip(parameters, first, second, strict=True)
            ]
            return (moved, first, second), None

        zeros = [jnp.zeros_like(p) for p in initial]
        powers = np.arange(1, protocol.steps + 1)  # in float64; float32 would be inaccurate in the first steps
        scales = jnp.asarray(1.0 / (1.0 - np.array([0.9, 0.999]) ** powers[:, None]), dtype=jnp.float32)
        (trained, *_), _ = jax.lax.scan(step, (initial, zeros, zeros), scales)
        return error(trained, judged, wanted)

    return jax.jit(jax.grad(outer))


def main() -> None:
    """Print seconds, ratios and cosines."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--optimiser", default="adam", choices=("sgd", "adam"))
    parser.add_argument("--laps", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    protocol = StudentProtocol()
    if arguments.optimiser == "adam":
        protocol = StudentProtocol(optimiser="adam", learning_rate=1e-3)
    student = make_student(protocol)
    initial = student.initialise(STATE, ACTION, student_generators(1, 0))
    generator = torch.Generator().manual_seed(0)
    states, actions, judged = (
        torch.randn(n, generator=generator) for n in ((PAIRS, STATE), (PAIRS, ACTION), (JUDGED, STATE))
    )
    actions, wanted = actions.tanh(), judged[:, :ACTION].tanh()

    def by_torch(train: Callable, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        pairs = [t.to(dtype, copy=True).requires_grad_() for t in (states, actions)]
        trained = train(student, [p.to(dtype) for p in initial], *pairs, protocol)
        loss = mean_squared_error(student, trained, judged.to(dtype), wanted.to(dtype)).mean()
        return list(torch.autograd.grad(loss, pairs))

    made = jax_gradient(protocol)
    pairs = jnp.asarray(states.numpy()), jnp.asarray(actions.numpy())
    rest = [jnp.asarray(p[0].numpy()) for p in initial], jnp.asarray(judged.numpy()), jnp.asarray(wanted.numpy())

    def by_jax() -> list[Tensor]:
        return [torch.from_numpy(np.array(g)) for g in jax.block_until_ready(made(pairs, *rest))]

    routes: dict[str, Callable] = {
        "engine": partial(by_torch, partial(train_students, differentiable=True)),
        "plain autograd": partial(by_torch, train_plainly),
        "jitted JAX scan": by_jax,
    }
    products = torch.randn(2, 256, 256, generator=generator)
    count = 18 * protocol.steps  # nine products for each of two square layers

    def by_products() -> None:
        for _ in range(count):
            torch.mm(products[0], products[1])

    exact = by_torch(partial(train_students, differentiable=True), torch.float64)
    print(
        f"torch {torch.__version__}, jax {jax.__version__}, {protocol.optimiser}, one thread, processor seconds a step"
    )
    for name, route in routes.items():  # this also warms up and compiles
        cosines = [
            float(torch.nn.functional.cosine_similarity(a.double().flatten(), b.flatten(), dim=0))
            for a, b in zip(route(), exact, strict=True)
        ]
        print(f"  {name:16} cosine to float64: {cosines[0]:.5f} (states), {cosines[1]:.5f} (actions)")
    laps: dict[str, list[float]] = {name: [] for name in (*routes, "its 256x256 products alone")}
    for _ in range(arguments.laps):
        for name, route in (*routes.items(), ("its 256x256 products alone", by_products)):
            start = time.process_time()
            route()
            laps[name].append(time.process_time() - start)
    for name, times in laps.items():
        ratios = [t / e for t, e in zip(times, laps["engine"], strict=True)]
        print(
            f"  {name:27} least {min(times):.2f}, median {statistics.median(times):.2f}; of the engine's time "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
