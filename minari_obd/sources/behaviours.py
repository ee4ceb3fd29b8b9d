"""Behaviour policies: bundled checkpoints, uniform random actions, Stable-Baselines3 weights, any callable."""

import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from safetensors.numpy import load as load_safetensors

from minari_obd.errors import NotFoundError, SettingError, did_you_mean
from minari_obd.sources.scaling import ActionScale
from minari_obd.support.discrete import chosen
from minari_obd.support.modules import import_from_path

__all__ = [
    "ACTIVATIONS",
    "ActorBehaviour",
    "Behaviour",
    "CallableBehaviour",
    "CategoricalMLP",
    "GaussianMLP",
    "RandomBehaviour",
    "bundled_experts",
    "bundled_names",
    "call",
    "import_policy",
    "load_bundled",
    "takes_generators",
]

_BUNDLED = ("acrobot", "cartpole", "halfcheetah", "hopper", "lunarlander", "walker2d")


class Behaviour(Protocol):
    """A policy that produces data. All its random numbers come from the generators passed to it."""

    def act(self, observations: np.ndarray, generators: Sequence[np.random.Generator]) -> np.ndarray:
        """Sample actions (B, A) for raw observations (B, S). Row b draws from ``generators[b]``."""
        ...


@dataclass(frozen=True)
class RandomBehaviour:
    """Uniform actions over the action space, as at the start of off-policy training."""

    action_space: gym.spaces.Box | gym.spaces.Discrete

    def act(self, observations: np.ndarray, generators: Sequence[np.random.Generator]) -> np.ndarray:
        """Sample actions, shape (B, A), or numbers of discrete ones, shape (B,)."""
        space = self.action_space
        if isinstance(space, gym.spaces.Discrete):
            return np.array([space.start + rng.integers(space.n) for rng in generators])
        return np.stack([rng.uniform(space.low, space.high) for rng in generators]).astype(np.float32)


@dataclass(frozen=True)
class CallableBehaviour:
    """A Python callable that maps one raw observation (S,) to one action, (A,) or a number. It is called row by row."""

    function: Callable[[np.ndarray], Any]

    def act(self, observations: np.ndarray, generators: Sequence[np.random.Generator]) -> np.ndarray:
        """Return actions, shape (B, A).

        Raises:
            SettingError: the function returns something else than numbers.
        """
        actions = [call(self.function, row) for row in observations]
        try:
            return np.stack([np.asarray(action, dtype=np.float32) for action in actions])
        except (ValueError, TypeError) as error:
            raise SettingError(
                f"The policy returned {str(actions[0])[:60]!r} for an observation; expected an action, an array of "
                "numbers of one shape."
            ) from error


def call(function: Callable[[np.ndarray], Any], observation: np.ndarray) -> Any:
    """Call a user's function of one observation; what it raises gets a note that says what it was given."""
    try:
        return function(observation)
    except Exception as error:
        size = observation.shape
        error.add_note(
            f"The function was given one raw observation, a NumPy array of shape {size}. Observations that are dicts "
            "or tuples are flattened as by gymnasium.spaces.flatten."
        )
        raise


@dataclass(frozen=True)
class ActorBehaviour:
    """A teacher, or another object whose ``act`` takes a batch of observations and needs no generators."""

    actor: Any
    action_space: gym.spaces.Box | gym.spaces.Discrete

    def act(self, observations: np.ndarray, generators: Sequence[np.random.Generator]) -> np.ndarray:
        """Return actions, shape (B, A), or numbers of discrete ones, (B,): of probabilities, the likeliest."""
        actions, space = np.asarray(self.actor.act(observations)), self.action_space
        if isinstance(space, gym.spaces.Discrete) and actions.shape == (len(observations), space.n):
            return chosen(actions, int(space.start))
        return actions


def takes_generators(behaviour: Any) -> bool:
    """Whether an ``act`` takes generators beside observations, as a behaviour's does; a teacher's does not."""
    try:
        signature = inspect.signature(behaviour.act)
    except ValueError:  # it is built in, and has no signature
        return True
    needed = [
        each for each in signature.parameters.values() if each.default is each.empty and each.kind < each.KEYWORD_ONLY
    ]
    return "generators" in signature.parameters or len(needed) > 1


@dataclass(frozen=True)
class CategoricalMLP:
    """A policy for discrete actions on a network, in NumPy: p(a | s) = softmax(logits(s)), of which it samples."""

    layers: tuple[tuple[np.ndarray, np.ndarray], ...]
    """Weight (in, out) and bias (out,) of every layer; the last gives a logit for each action."""
    activation: Callable[[np.ndarray], np.ndarray] = np.tanh
    is_greedy: bool = False
    """Whether it takes the likeliest action, as DQN does, and does not sample."""
    first: int = 0
    """Number of the first action."""

    @property
    def inputs(self) -> int:
        """Size of an observation."""
        return len(self.layers[0][0])

    @property
    def outputs(self) -> int:
        """Number of actions."""
        return self.layers[-1][1].size

    def act(self, observations: np.ndarray, generators: Sequence[np.random.Generator]) -> np.ndarray:
        """Sample numbers of actions, shape (B,)."""
        features = observations.astype(np.float32)
        for weight, bias in self.layers[:-1]:
            features = self.activation(features @ weight + bias)
        logits = features @ self.layers[-1][0] + self.layers[-1][1]
        if not self.is_greedy:
            logits = logits + np.stack([rng.gumbel(size=self.outputs) for rng in generators])
        return self.first + np.argmax(logits, axis=1)


@dataclass(frozen=True)
class GaussianMLP:
    """A Gaussian policy on a multi-layer perceptron, in NumPy: a = squash(mean(s) + exp(log_std(s)) * normal)."""

    hidden: tuple[tuple[np.ndarray, np.ndarray], ...]
    """Weight (in, out) and bias (out,) of every hidden layer."""
    mean: tuple[np.ndarray, np.ndarray]
    """Weight (H, A) and bias (A,) of the mean."""
    log_std: tuple[np.ndarray, np.ndarray] | np.ndarray | None
    """Weight and bias of the log standard deviation, its constant value (A,), or None for a deterministic policy."""
    low: np.ndarray
    """Lowest action, shape (A,)."""
    high: np.ndarray
    """Highest action, shape (A,)."""
    activation: Callable[[np.ndarray], np.ndarray]
    squashed: bool
    """True: tanh, then scaled from [-1, 1] to the bounds. False: clipped at the bounds."""

    @property
    def inputs(self) -> int:
        """Size of an observation."""
        return len((*self.hidden, self.mean)[0][0])

    @property
    def outputs(self) -> int:
        """Size of an action."""
        return self.mean[1].size

    def act(self, observations: np.ndarray, generators: Sequence[np.random.Generator]) -> np.ndarray:
        """Sample actions, shape (B, A)."""
        features = observations.astype(np.float32)
        for weight, bias in self.hidden:
            features = self.activation(features @ weight + bias)
        action = features @ self.mean[0] + self.mean[1]
        if self.log_std is not None:
            log_std = features @ self.log_std[0] + self.log_std[1] if isinstance(self.log_std, tuple) else self.log_std
            noise = np.stack([rng.standard_normal(action.shape[1], dtype=np.float32) for rng in generators])
            action = action + np.exp(np.clip(log_std, -20.0, 2.0)) * noise
        if self.squashed:
            return ActionScale(self.low, self.high).unscale(np.tanh(action))
        return np.clip(action, self.low, self.high)


def _relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0.0)


def _elu(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0.0, x, np.expm1(np.minimum(x, 0.0)))


ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"relu": _relu, "tanh": np.tanh, "elu": _elu}
"""By the names that Stable-Baselines3 prints, in lower case."""


def _bundled_file(environment: str) -> bytes:
    return files("minari_obd.sources").joinpath(f"policies/{environment}.safetensors").read_bytes()


@cache
def _bundled_tensors(environment: str) -> dict[str, np.ndarray]:
    tensors = load_safetensors(_bundled_file(environment))
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


@cache
def bundled_experts() -> dict[str, str]:
    """Return the expert among the bundled policies of each environment that has one, such as ``hopper-320000``.

    The metadata of the environment's file marks it: ``expert`` holds its training steps.
    """
    experts = {}
    for environment in _BUNDLED:
        data = _bundled_file(environment)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])  # safetensors: its length, then JSON
        if "expert" in header["__metadata__"]:
            experts[environment] = f"{environment}-{header['__metadata__']['expert']}"
    return experts


def bundled_names() -> list[str]:
    """Return the names of the bundled policies, ``environment-steps``, in order of training steps."""
    steps = [
        (environment, int(name.split("/")[0]))
        for environment in _BUNDLED
        for name in _bundled_tensors(environment)
        if name.endswith("mean/weight")
    ]
    return [f"{environment}-{number}" for environment, number in sorted(steps)]


def load_bundled(name: str) -> GaussianMLP | CategoricalMLP:
    """Load a bundled checkpoint, such as ``hopper-240000`` of soft actor-critic or ``cartpole-16384`` of PPO.

    Raises:
        NotFoundError: there is no bundled policy of that name.
    """
    if name not in bundled_names():
        raise NotFoundError(f"There is no bundled policy '{name}'; {did_you_mean(name, bundled_names())}")
    environment, steps = name.rsplit("-", 1)
    tensors = _bundled_tensors(environment)
    parts = [part for part in _SAC_PARTS if f"{steps}/{part}/weight" in tensors]
    layer = {part: (tensors[f"{steps}/{part}/weight"], tensors[f"{steps}/{part}/bias"]) for part in parts}
    if "log_std" not in layer:
        return CategoricalMLP(tuple(layer[part] for part in parts))
    size = layer["mean"][1].size
    return GaussianMLP(
        hidden=(layer["hidden_0"], layer["hidden_1"]),
        mean=layer["mean"],
        log_std=layer["log_std"],
        low=-np.ones(size, np.float32),
        high=np.ones(size, np.float32),
        activation=_relu,
        squashed=True,
    )


_SAC_PARTS = ("hidden_0", "hidden_1", "mean", "log_std")


def import_policy(name: str) -> Any:
    """Import the object that ``module:function`` names on the user's Python path. Return any other name unchanged.

    Raises:
        SettingError: the object cannot be imported.
    """
    module, separator, attribute = name.partition(":")
    if not separator or Path(name).exists():
        return name
    found = import_from_path(module)
    if not hasattr(found, attribute):
        raise SettingError(f"The policy '{name}' cannot be imported: '{module}' has no '{attribute}'.")
    return getattr(found, attribute)
