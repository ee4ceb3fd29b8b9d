"""Train behaviour policies with discrete actions: PPO by Stable-Baselines3, one core, a few minutes.

    pip install '.[finetune]'              # LunarLander also needs '.[box2d]'
    python benchmarks/discrete_experts.py CartPole-v1 out/cartpole --steps 60000 --evaluate-every 5000

Writes an actor after every evaluation, ``actor_<steps>.safetensors``, for ``bundle_policies.py``, and ``log.json``,
rows of (environment steps, mean and standard deviation of the return of episodes with sampled actions, seconds).
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from safetensors.numpy import save_file
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

_SETTINGS: dict[str, dict[str, Any]] = {
    "CartPole-v1": {"n_steps": 32, "batch_size": 256, "n_epochs": 10, "gae_lambda": 0.8, "gamma": 0.98},
    "Acrobot-v1": {"n_steps": 256, "batch_size": 256, "n_epochs": 4, "gae_lambda": 0.94, "gamma": 0.99},
    "LunarLander-v3": {"n_steps": 512, "batch_size": 256, "n_epochs": 6, "gae_lambda": 0.98, "gamma": 0.999},
}
"""What differs from Stable-Baselines3's defaults, near to what RL Zoo has."""


def actor_tensors(policy: Any) -> dict[str, np.ndarray]:
    """Return the actor's layers by the names of the bundled policies, in half precision."""
    modules = {"hidden_0": policy.mlp_extractor.policy_net[0], "hidden_1": policy.mlp_extractor.policy_net[2]}
    found = {}
    for name, module in {**modules, "mean": policy.action_net}.items():
        found[f"{name}/weight"] = np.ascontiguousarray(module.weight.detach().numpy().T).astype(np.float16)
        found[f"{name}/bias"] = module.bias.detach().numpy().astype(np.float16)
    return found


def returns_of(policy: Any, env_id: str, episodes: int) -> list[float]:
    """Return the undiscounted returns of sampled actions, from seeds 0, 1, ..."""
    environment, found = gym.make(env_id), []
    for seed in range(episodes):
        observation, total, done = environment.reset(seed=seed)[0], 0.0, False
        while not done:
            action, _ = policy.predict(observation)
            observation, reward, terminated, truncated, _ = environment.step(int(action))
            total, done = total + float(reward), terminated or truncated
        found.append(total)
    environment.close()
    return found


def main() -> None:
    """Train, and evaluate as often as asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("env_id", choices=sorted(_SETTINGS))
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--evaluate-every", type=int, default=10_000)
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    environments = make_vec_env(given.env_id, 8, seed=given.seed)
    learner = PPO("MlpPolicy", environments, learning_rate=1e-3, seed=given.seed, **_SETTINGS[given.env_id])
    log, begun = [], time.monotonic()
    while learner.num_timesteps < given.steps:
        learner.learn(given.evaluate_every, reset_num_timesteps=False)
        returns = returns_of(learner.policy, given.env_id, given.episodes)
        save_file(actor_tensors(learner.policy), given.out / f"actor_{learner.num_timesteps}.safetensors")
        row = [learner.num_timesteps, float(np.mean(returns)), float(np.std(returns)), time.monotonic() - begun]
        log.append(row)
        (given.out / "log.json").write_text(json.dumps(log) + "\n", encoding="utf-8")
        print("{:,} steps: return {:.0f} +- {:.0f}, {:.0f} s".format(*row), flush=True)


if __name__ == "__main__":
    main()
