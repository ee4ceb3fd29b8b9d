"""Behaviours from Stable-Baselines3 zips: actors read as weights, in NumPy."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from minari_obd.errors import FormatError
from minari_obd.sources.behaviours import ACTIVATIONS, CategoricalMLP, GaussianMLP
from minari_obd.storage.torch_files import plain_layer, plain_layers, plain_tensor, read_stable_baselines3

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

    what = f"the actor in '{path}'"

    def layers(prefix: str) -> list[tuple[np.ndarray, np.ndarray]]:
        own = {name: value for name, value in state.items() if name.startswith(prefix)}
        return [(weight.numpy().T, bias.numpy()) for weight, bias in plain_layers(own, what, prefix)]

    def head(name: str) -> tuple[np.ndarray, np.ndarray]:
        weight, bias = plain_layer(state, name, what)
        return weight.numpy().T, bias.numpy()

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
    if is_ppo:
        prefix = "mlp_extractor.policy_net."
        hidden = layers(prefix) if any(key.startswith(prefix) for key in state) else []  # there may be none
        stack = [*hidden, head("action_net")]
    elif is_sac:
        stack = [*layers("actor.latent_pi."), head("actor.mu")]
    else:
        stack = layers("q_net.q_net." if is_dqn else "actor.mu.")
    _check(stack, path)
    if isinstance(action_space, gym.spaces.Discrete):
        return CategoricalMLP(tuple(stack), ACTIVATIONS[name], is_greedy=is_dqn, first=int(action_space.start))
    assert isinstance(action_space, gym.spaces.Box)
    given: dict[str, Any] = {"low": action_space.low, "high": action_space.high, "activation": ACTIVATIONS[name]}
    *hidden, mean = stack
    if is_sac:
        deviation = head("actor.log_std")
        _check([*hidden, deviation], path)
        if deviation[1].shape != mean[1].shape:
            raise FormatError(f"The actor in '{path}' has deviations and means of different numbers of actions.")
        return GaussianMLP(tuple(hidden), mean, deviation, squashed=True, **given)
    if is_td3:
        return GaussianMLP(tuple(hidden), mean, None, squashed=True, **given)
    constant = plain_tensor(state["log_std"], what).numpy()
    if constant.shape != mean[1].shape or not np.isfinite(constant).all():
        raise FormatError(f"The log_std in '{path}' is not a finite number for each of {mean[1].size} actions.")
    return GaussianMLP(tuple(hidden), mean, constant, squashed=False, **given)


def _check(layers: list[tuple[np.ndarray, np.ndarray]], path: str | Path) -> None:
    """Refuse weights (in, out) and biases (out,) that are not finite, or layers that do not fit together."""
    before = len(layers[0][0])
    for weight, bias in layers:
        if len(weight) != before:
            raise FormatError(f"The layers of the actor in '{path}' do not fit together.")
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            raise FormatError(f"The actor in '{path}' has weights that are not finite; its training has diverged.")
        before = bias.size
