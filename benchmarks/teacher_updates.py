"""Updates a second of a TD3+BC teacher: batches drawn by this package, against d3rlpy's own fit, in one run.

python benchmarks/teacher_updates.py [updates]
"""

import sys
import time

import d3rlpy
import numpy as np
import torch

from minari_obd.offline import load_offline_data
from minari_obd.teachers.d3rlpy_teacher import TeacherRun


def main(updates: int) -> None:
    """Time both, in turn, three times, and print the best of each."""
    data = load_offline_data("obd-bench/halfcheetah/medium-v0")
    dataset = d3rlpy.dataset.MDPDataset(
        data.normaliser.normalise(data.observations),
        data.scaled_actions(),
        data.rewards,
        data.terminations.astype(np.float32),
        data.truncations.astype(np.float32),
        action_space=d3rlpy.ActionSpace.CONTINUOUS,
    )
    ours, theirs = [], []
    for seed in range(3):
        run = TeacherRun.of(data, "td3_bc", updates, 1_000 + seed, torch.device("cpu"))
        ours.append(run.estimate_seconds(updates) / updates)
        algo = d3rlpy.algos.TD3PlusBCConfig().create(device="cpu:0")
        algo.build_with_dataset(dataset)
        start = time.perf_counter()
        algo.fit(
            dataset,
            n_steps=updates,
            n_steps_per_epoch=updates,
            logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
            show_progress=False,
        )
        theirs.append((time.perf_counter() - start) / updates)
    print(f"threads {torch.get_num_threads()}, {updates} updates, best of 3")
    print(f"d3rlpy's fit      {1e3 * min(theirs):6.2f} ms an update")
    print(f"this package      {1e3 * min(ours):6.2f} ms an update, {min(theirs) / min(ours):.2f} times faster")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 500)
