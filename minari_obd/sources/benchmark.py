"""The obd-bench datasets: real Minari datasets, built from bundled policies on first use, without network access."""

from dataclasses import dataclass

from minari_obd.sources.behaviours import bundled_experts, bundled_names
from minari_obd.sources.collecting import collect_chain

__all__ = ["BENCHMARK", "BenchmarkDataset"]


@dataclass(frozen=True)
class BenchmarkDataset:
    """How one ``obd-bench/...`` dataset is made."""

    dataset_id: str
    env_id: str
    policies: tuple[str, ...]
    """Behaviour policies in order. Each makes an equal share of the steps."""
    description: str
    algorithm: str = "SAC"

    def build(self, *, steps: int = 200_000, seed: int = 0, progress: bool = True) -> str:
        """Roll out the policies, store the dataset in the user's Minari folder, and return its id."""
        return collect_chain(
            self.dataset_id,
            self.env_id,
            self.policies,
            steps=steps,
            seed=seed,
            description=f"{self.description} {steps:,} steps, seed {seed}.",
            algorithm=self.algorithm,
            license="mit",
            progress=progress,
        )


def _environment_datasets(name: str, env_id: str) -> list[BenchmarkDataset]:
    expert = bundled_experts().get(name)
    chain = [policy for policy in bundled_names() if policy.startswith(f"{name}-") and policy != expert]
    medium = chain[-1]
    datasets = [
        BenchmarkDataset(
            f"obd-bench/{name}/medium-v0",
            env_id,
            (medium,),
            f"The stochastic policy of a partly trained soft actor-critic ({medium}) in {env_id}.",
        ),
        BenchmarkDataset(
            f"obd-bench/{name}/medium-replay-v0",
            env_id,
            # Training starts with uniform random actions, so the chain does too.
            ("random", *chain),
            f"Uniform random actions and then {len(chain)} soft actor-critic checkpoints, from the start of training "
            f"to the medium policy, in equal shares, in {env_id}: what a replay buffer holds.",
        ),
    ]
    if expert is None:
        return datasets
    return [
        *datasets,
        BenchmarkDataset(
            f"obd-bench/{name}/expert-v0",
            env_id,
            (expert,),
            f"The stochastic policy of a fully trained soft actor-critic ({expert}) in {env_id}.",
        ),
        BenchmarkDataset(
            f"obd-bench/{name}/medium-expert-v0",
            env_id,
            (medium, expert),
            f"Half the steps by a partly trained soft actor-critic ({medium}) and half by a fully trained one "
            f"({expert}), both stochastic, in {env_id}.",
        ),
    ]


def _discrete_datasets(name: str, env_id: str) -> list[BenchmarkDataset]:
    chain = [policy for policy in bundled_names() if policy.startswith(f"{name}-")]
    return [
        BenchmarkDataset(
            f"obd-bench/{name}/medium-v0",
            env_id,
            (chain[-1],),
            f"The stochastic policy of a partly trained PPO ({chain[-1]}) in {env_id}.",
            "PPO",
        ),
        BenchmarkDataset(
            f"obd-bench/{name}/medium-replay-v0",
            env_id,
            ("random", *chain),
            f"Uniform random actions and then {len(chain)} PPO checkpoints, from near the start of training to the "
            f"medium policy, in equal shares, in {env_id}.",
            "PPO",
        ),
    ]


BENCHMARK: dict[str, BenchmarkDataset] = {
    dataset.dataset_id: dataset
    for dataset in (
        *_environment_datasets("halfcheetah", "HalfCheetah-v5"),
        *_environment_datasets("hopper", "Hopper-v5"),
        *_environment_datasets("walker2d", "Walker2d-v5"),
        *_discrete_datasets("cartpole", "CartPole-v1"),
        *_discrete_datasets("acrobot", "Acrobot-v1"),
        *_discrete_datasets("lunarlander", "LunarLander-v3"),
        BenchmarkDataset(
            "obd-bench/pointmaze/umaze-v0",
            "PointMaze_UMaze-v3",
            ("umaze-controller",),
            "A controller with noise that steers to the goal from cell to cell in PointMaze_UMaze-v3, where episodes "
            "go on at the goal.",
            "waypoint controller",
        ),
    )
}
"""The datasets by id. An environment has the expert ones as soon as one of its bundled policies is an expert."""
