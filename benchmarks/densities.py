"""Compare the density estimators on a dataset: held-out log-likelihood, CPU seconds, temper, agreement of ranks.

    python benchmarks/densities.py obd-bench/halfcheetah/medium-v0 [--picture weights.png]

Fits each estimator with its defaults to all states, as `sdw` does, and asks it about all of them; ranks are compared on
20,000 of them, drawn with seed 0.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from scipy import stats

from minari_obd.densities.base import describe_density
from minari_obd.densities.picture import draw_weights
from minari_obd.densities.weights import tempered_reciprocal
from minari_obd.registry import DENSITIES
from minari_obd.sources.loading import load_offline_data


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's."""
    return float(np.corrcoef(stats.rankdata(a), stats.rankdata(b))[0, 1])


def main() -> None:
    """Fit, ask, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = load_offline_data(options.source)
    states = data.normaliser.normalise(data.observations)
    asked = np.random.default_rng(0).choice(len(states), min(20_000, len(states)), replace=False)
    found: dict[str, np.ndarray] = {}
    print(f"{options.source}: {states.shape[0]:,} states of size {states.shape[1]}")
    for name in ("knn", "gmm", "maf"):
        started = time.process_time()
        density = DENSITIES.get(name)().fit(states)
        fitted = time.process_time()
        log_density = density.log_prob(states)
        asked_in = time.process_time() - fitted
        found[name] = log_density[asked]
        rarity = tempered_reciprocal(log_density, 0.5)
        print(describe_density(density))
        print(
            f"  fit {fitted - started:.0f} s, log-density {asked_in:.0f} s, standard deviation "
            f"{log_density.std():.2f} nats, alpha {rarity.alpha:.4f}",
            flush=True,
        )
        if options.picture and name == "maf":
            options.picture.write_bytes(draw_weights(states, rarity.weights))
    for first, second in (("knn", "gmm"), ("knn", "maf"), ("gmm", "maf")):
        print(f"rank correlation {first}, {second}: {rank_correlation(found[first], found[second]):.3f}")


if __name__ == "__main__":
    main()
