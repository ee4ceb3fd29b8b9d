"""Train the expert behaviour policies: SAC by sbx-rl, one update every second environment step, one core.

    pip install sbx-rl 'gymnasium[mujoco]' safetensors      # in an environment of its own: sbx needs JAX
    python benchmarks/experts.py Walker2d-v5 out/walker2d --steps 1000000

Writes an actor after every evaluation, ``actor_<steps>.safetensors``, and ``log.json``: rows of (environment steps,
mean and standard deviation of the return of the deterministic episodes, seconds).
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

_ENVIRONMENTS = 16
"""Stepped in lockstep, with half as many updates after each step of all: steps are cheap here, updates are not."""
_IDS = ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5")


def actor_tensors(parameters: Any) -> dict[str, np.ndarray]:
    """Return the actor's layers by the names of the bundled policies, in half precision."""
    layers = parameters["params"]
    found = {}
    for number, part in enumerate(("hidden_0", "hidden_1", "mean", "log_std")):
        found[f"{part}/weight"] = np.asarray(layers[f"Dense_{number}"]["kernel"], np.float16)
        found[f"{part}/bias"] = np.asarray(layers[f"Dense_{number}"]["bias"], np.float16)
    return found


def returns_of(actor: dict[str, np.ndarray], env_id: str, episodes: int) -> list[float]:
    """Return the undiscounted returns of the saved actor's mean actions, from seeds 0, 1, ..."""
    layers = [
        (actor[f"{part}/weight"].astype(np.float32), actor[f"{part}/bias"].astype(np.float32))
        for part in ("hidden_0", "hidden_1", "mean")
    ]
    environment, found = gym.make(env_id), []
    for seed in range(episodes):
        features, total, done = environment.reset(seed=seed)[0], 0.0, False
        while not done:
            for number, (weight, bias) in enumerate(layers):
                features = features @ weight + bias
                features = np.tanh(features) if number == 2 else np.maximum(features, 0.0)
            features, reward, terminated, truncated, _ = environment.step(features)
            total, done = total + float(reward), terminated or truncated
        found.append(total)
    environment.close()
    return found


def main() -> None:
    """Train, and evaluate as often as asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("env_id", choices=_IDS)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--evaluate-every", type=int, default=40_000)
    parser.add_argument("--episodes", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    from safetensors.numpy import save_file
    from sbx import SAC  # pyright: ignore[reportMissingImports]  # in an environment of its own
    from stable_baselines3.common.env_util import make_vec_env

    given.out.mkdir(parents=True, exist_ok=True)
    # Half the usual batch, and the actor at every second update: a third of the arithmetic, which is what takes time.
    learner = SAC(
        "MlpPolicy",
        make_vec_env(given.env_id, _ENVIRONMENTS, seed=given.seed),
        learning_rate=5e-4,
        batch_size=128,
        policy_delay=2,
        learning_starts=10_000,
        gradient_steps=_ENVIRONMENTS // 2,
        seed=given.seed,
    )
    log, begun = [], time.monotonic()
    while learner.num_timesteps < given.steps:
        learner.learn(given.evaluate_every, reset_num_timesteps=False)
        actor = actor_tensors(learner.policy.actor_state.params)
        returns = returns_of(actor, given.env_id, given.episodes)
        save_file(actor, given.out / f"actor_{learner.num_timesteps}.safetensors")
        row = [learner.num_timesteps, float(np.mean(returns)), float(np.std(returns)), time.monotonic() - begun]
        log.append(row)
        (given.out / "log.json").write_text(json.dumps(log) + "\n", encoding="utf-8")
        print("{:,} steps: return {:.0f} +- {:.0f}, {:.0f} s".format(*row), flush=True)


if __name__ == "__main__":
    main()
