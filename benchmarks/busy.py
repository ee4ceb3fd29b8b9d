"""How long collecting, evaluating, cloning and densities take beside busy processes, with and without a thread limit.

    python benchmarks/busy.py [--busy 2] [--steps 3000] [--only cloning]

Set no OMP_NUM_THREADS. Ratios of one run: the same work, once as the package does it and once with as many threads as
NumPy's BLAS and torch take by themselves. For cloning from 256 pairs, whose threads are torch's, the limit is one
thread, and the table says whether the students of both have the same bits. `--busy 0` is for an idle machine.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from rollouts import random_students

from minari_obd.cloning.cloning import clone
from minari_obd.cloning.policy import Policy
from minari_obd.densities.mixture import GaussianMixture
from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.distilled.loading import load_dataset
from minari_obd.evaluation.evaluation import evaluate
from minari_obd.settings.protocols import PROTOCOLS
from minari_obd.sources.collecting import collect

BUSY = "import numpy as np\na = np.ones((300, 300))\nwhile True: a @ a"
LIMITED = ("sources.collecting.cpu_threads", "environments.rollouts.cpu_threads")


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Let this many processes compute meanwhile."""
    processes = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        time.sleep(1.0)
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


@contextmanager
def unlimited() -> Iterator[None]:
    """Take the package's limits away."""
    everything: Any = lambda _=None: nullcontext(torch.get_num_threads())  # noqa: E731  # a stand-in, patched by name
    patches = [patch(f"minari_obd.{name}", everything) for name in LIMITED]
    patches += [patch("threadpoolctl.threadpool_limits", lambda *_, **__: nullcontext())]
    for each in patches:
        each.start()
    try:
        yield
    finally:
        for each in patches:
            each.stop()


def seconds(work: Callable[[], object]) -> float:
    """The least time of two."""
    times = []
    for _ in range(2):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return min(times)


def main() -> None:
    """Time each kind of work twice and print a table of ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3_000)
    parser.add_argument("--only", choices=("collecting", "evaluating", "density", "cloning"))
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, busy(settings.busy):
        os.environ["MINARI_DATASETS_PATH"] = folder
        names = (f"busy/hopper-v{number}" for number in range(99))

        def collecting() -> None:
            collect(next(names), "Hopper-v5", "hopper-320000", steps=settings.steps, progress=False)

        pairs, students = load_dataset("shelf/halfcheetah-medium-256"), random_students(10, "HalfCheetah-v5")
        rows = np.random.default_rng(0).normal(size=(20_000, 17))
        works: dict[str, Callable[[], object]] = {
            "collecting": collecting,
            "evaluating": lambda: evaluate(students, episodes=1, workers=1),
            "density": lambda: GaussianMixture().fit(rows, seed=0),
        }
        print(f"{torch.get_num_threads()} threads, {settings.busy} busy processes; {Path(__file__).name}")
        for name in works if settings.only is None else works.keys() & {settings.only}:
            work = works[name]
            limited = seconds(work)
            with unlimited():
                tell(name, limited, seconds(work))
        for width in (256, 1_024) if settings.only in (None, "cloning") else ():
            times: dict[bool, list[float]] = {True: [], False: []}
            bits = set()
            for one in (True, False, True, False):  # in turn, as the machine's load changes
                begun = time.perf_counter()
                policy = cloned(pairs, width, one)
                times[one].append(time.perf_counter() - begun)
                bits.add(b"".join(p.numpy().tobytes() for p in policy.parameters))
            more = f", {'the same' if len(bits) == 1 else 'other'} bits"
            tell(f"cloning {width}", min(times[True]), min(times[False]), more)


def tell(name: str, limited: float, free: float, more: str = "") -> None:
    """Print a line of the table."""
    said = f"limited {limited:6.2f} s, unlimited {free:6.2f} s, ratio {free / limited:5.2f}"
    print(f"{name:12} {said}{more}", flush=True)


def cloned(pairs: DistilledDataset, width: int, one: bool) -> Policy:
    """A student of this width, cloned on one of torch's threads, or on all."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if one else before)
    try:
        return clone(pairs, protocol=PROTOCOLS["adam"].widened(width), seed=0)
    finally:
        torch.set_num_threads(before)


if __name__ == "__main__":
    main()
