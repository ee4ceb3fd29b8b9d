"""The embedded benchmark: obd-bench/* datasets and the collection of new ones."""

from minari_obd.benchmark.behaviour import Behaviour, bundled_names, import_policy, load_bundled, load_stable_baselines3
from minari_obd.benchmark.collection import collect
from minari_obd.benchmark.datasets import BENCHMARK, BenchmarkDataset

__all__ = [
    "BENCHMARK",
    "Behaviour",
    "BenchmarkDataset",
    "bundled_names",
    "collect",
    "import_policy",
    "load_bundled",
    "load_stable_baselines3",
]
