"""Time of a teacher's update: batches drawn by this package, in both precisions, against d3rlpy's own fit, in one run.

python benchmarks/teacher_updates.py [--teacher td3_bc] [--updates 500] [--threads 1]
"""

import argparse
import time

import d3rlpy
import numpy as np
import torch

from minari_obd.sources.loading import load_offline_data
from minari_obd.support.precision import has_rounded_products
from minari_obd.teachers.run import TeacherRun


def main() -> None:
    """Time all of them, in turn, three times, and print the best of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="td3_bc")
    parser.add_argument("--updates", type=int, default=500)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    data = load_offline_data("obd-bench/halfcheetah/medium-v0")
    dataset = d3rlpy.dataset.MDPDataset(
        data.normaliser.normalise(data.observations),
        data.scaled_actions(),
        data.rewards,
        data.terminations.astype(np.float32),
        data.truncations.astype(np.float32),
        action_space=d3rlpy.ActionSpace.CONTINUOUS,
    )
    cpu = torch.device("cpu")
    precisions = ("float32", "bfloat16") if has_rounded_products("bfloat16", cpu) else ("float32",)
    seconds: dict[str, list[float]] = {}
    for seed in range(1_000, 1_003):  # seeds that nobody has trained, lest a teacher be found
        for precision in precisions:
            run = TeacherRun.of(data, given.teacher, given.updates, seed, cpu, precision=precision)
            found = run.estimate_seconds(given.updates) / given.updates
            seconds.setdefault(f"this package, {precision}", []).append(found)
        run = TeacherRun.of(data, given.teacher, given.updates, seed, cpu, precision="float32")
        algo = run._create()
        start = time.perf_counter()
        algo.fit(
            dataset,
            n_steps=given.updates,
            n_steps_per_epoch=given.updates,
            logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
            show_progress=False,
        )
        seconds.setdefault("d3rlpy's fit", []).append((time.perf_counter() - start) / given.updates)
    print(f"{given.teacher}, threads {torch.get_num_threads()}, {given.updates} updates, best of 3")
    theirs = min(seconds["d3rlpy's fit"])
    for name, found in seconds.items():
        print(
            f"{name:<24}{1e3 * min(found):7.2f} ms an update, {theirs / min(found):.2f} times as fast as d3rlpy's fit"
        )


if __name__ == "__main__":
    main()
