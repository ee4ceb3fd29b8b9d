"""Behaviours from Stable-Baselines3 zips: actors read as weights, in NumPy."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from minari_obd.errors import FormatError
from minari_obd.sources.behaviours import ACTIVATIONS, CategoricalMLP, GaussianMLP
from minari_obd.storage.torch_files import read_stable_baselines3

__all__ = ["load_stable_baselines3"]


def load_stable_baselines3(path: str | Path, action_space: gym.Space) -> GaussianMLP | CategoricalMLP:
    """Read the actor of a Stable-Baselines3 zip with an MlpPolicy. Nothing is unpickled.

    For continuous actions, that is one of SAC, TD3, DDPG, PPO or A2C; for discrete ones, of PPO or A2C, which sample,
    or of DQN, which is greedy. It acts on raw observations. A model that was trained under ``VecNormalize`` expects
    others, so wrap that one in a callable.

    Raises:
        FormatError: the file is not such a zip, or has another kind of network.
    """
    file = read_stable_baselines3(path)
    state = file.weights

    def layers(prefix: str) -> list[tuple[np.ndarray, np.ndarray]]:
        names = [k.removesuffix(".weight") for k in state if k.startswith(prefix) and k.endswith(".weight")]
        return [(state[f"{n}.weight"].numpy().T, state[f"{n}.bias"].numpy()) for n in names]

    is_discrete = isinstance(action_space, gym.spaces.Discrete)
    is_sac, is_td3 = "actor.latent_pi.0.weight" in state, "actor.mu.0.weight" in state  # TD3's form is DDPG's, too
    is_dqn = "q_net.q_net.0.weight" in state
    is_ppo = "action_net.weight" in state and ("log_std" in state) != is_discrete  # and A2C's
    known = is_dqn or is_ppo if is_discrete else is_sac or is_td3 or is_ppo
    if not known or any("shared_net" in name for name in state):
        kinds = "PPO, A2C or DQN" if is_discrete else "SAC, TD3, DDPG, PPO or A2C"
        raise FormatError(f"'{path}' holds no actor for {action_space} that can be read; use an MlpPolicy of {kinds}.")
    file.check_plain(path)
    name = file.activation("tanh" if is_ppo else "relu")
    if name not in ACTIVATIONS:
        raise FormatError(f"'{path}' has the activation {name[:100]}; only {', '.join(ACTIVATIONS)} can be read.")
    stack = [*layers("mlp_extractor.policy_net."), *layers("action_net")]
    if isinstance(action_space, gym.spaces.Discrete):
        stack = layers("q_net.q_net.") if is_dqn else stack
        return CategoricalMLP(tuple(stack), ACTIVATIONS[name], is_greedy=is_dqn, first=int(action_space.start))
    assert isinstance(action_space, gym.spaces.Box)
    given: dict[str, Any] = {"low": action_space.low, "high": action_space.high, "activation": ACTIVATIONS[name]}
    if is_sac:
        hidden = tuple(layers("actor.latent_pi."))
        return GaussianMLP(hidden, layers("actor.mu")[0], layers("actor.log_std")[0], squashed=True, **given)
    if is_td3:
        stack = layers("actor.mu.")
        return GaussianMLP(tuple(stack[:-1]), stack[-1], None, squashed=True, **given)
    return GaussianMLP(tuple(stack[:-1]), stack[-1], state["log_std"].numpy(), squashed=False, **given)
