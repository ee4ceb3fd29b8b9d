"""ActorCritic: an actor and its critics as plain torch networks, from raw observations to raw actions and values."""

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch

from minari_obd.errors import DataError, SettingError, printable
from minari_obd.sources.scaling import ActionScale, Normaliser
from minari_obd.teachers.choice import Choice
from minari_obd.teachers.networks import ACTIVATIONS, Layers, apply_layers, check_layers

__all__ = ["ActorCritic"]

_MOST_DETAILS = 64 * 2**10
_ROWS_AT_ONCE = 16_384


@dataclass(frozen=True, repr=False)
class ActorCritic:
    """A trained policy with values: pi(s) = tanh(actor(s)) and q(s, a), the mean or the least of its critics.

    Networks take normalised observations and actions on [-1, 1]; ``act`` and ``value`` take and give raw units.

    With a ``choice``, actions are discrete: critics give the values of all n actions, actions are probabilities (B, n)
    with bounds 0 and 1, and q(s, p) = sum_a p_a q(s, a).
    """

    actor: Layers
    """Of discrete actions: the logits of a policy that imitates the data, or none, an empty list."""
    critics: list[Layers]
    normaliser: Normaliser
    """Of the observations that the networks take."""
    action_low: np.ndarray
    """Lowest action, shape (A,), float32."""
    action_high: np.ndarray
    """Highest action, shape (A,), float32."""
    details: dict[str, Any] = field(default_factory=dict)
    """How it was trained, as JSON values."""
    value_from: Literal["mean", "min"] = "mean"
    """Of the critics: their mean, as d3rlpy's ``predict_value``, or the least, as in the targets of TD3 and SAC."""
    activation: str = "relu"
    """Between the layers of every network: ``relu``, ``tanh`` or ``elu``."""
    origin: str | None = None
    """``organisation/name@commit`` of a teacher from the Hub."""
    choice: Choice | None = None
    """How discrete actions are chosen; None if actions are continuous."""

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS or self.value_from not in ("mean", "min"):
            raise SettingError(
                f"A teacher's activation is one of {', '.join(ACTIVATIONS)}, its value from 'mean' or 'min'; "
                f"got {self.activation!r} and {self.value_from!r}."
            )
        for name in ("action_low", "action_high"):
            object.__setattr__(self, name, np.array(getattr(self, name), dtype=np.float32))  # as they are saved
        low, high = self.action_low, self.action_high
        if low.ndim != 1 or low.shape != high.shape or not (np.isfinite([low, high]).all() and (low < high).all()):
            raise DataError(f"A teacher's lowest actions are finite and below its highest; got {low} and {high}.")
        object.__setattr__(self, "details", _as_json(self.details))
        if not self.critics:
            raise DataError("The teacher has no critic, and so no value.")
        states, actions = self.normaliser.mean.size, low.size
        if self.actor or self.choice is None or self.choice.least:
            check_layers("actor", self.actor, states, actions)
        for critic in self.critics:
            check_layers("critic", critic, *((states + actions, 1) if self.choice is None else (states, actions)))

    def __repr__(self) -> str:
        kind = "discrete actions" if self.is_discrete else "actions"
        sizes = f"{self.normaliser.mean.size} observations to {self.action_low.size} {kind}"
        return printable(f"{type(self).__name__}({self.details.get('algorithm', 'unknown')}, {sizes})")

    def act(self, states: np.ndarray) -> np.ndarray:
        """Greedy actions (B, A), or probabilities of discrete ones, for raw observations (B, S)."""
        if (choice := self.choice) is not None:
            return self._batched(lambda s: self._chosen(choice.probabilities, s), self._inputs(states))
        scaled = self._batched(lambda s: torch.tanh(apply_layers(self.actor, s, self.activation)), self._inputs(states))
        return self.action_scale.unscale(scaled)

    def value(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Values (B,) of raw actions (B, A) in raw observations (B, S).

        Raises:
            DataError: observations or actions of another shape.
        """
        states, actions = np.asarray(states), np.asarray(actions)
        if actions.shape != (expected := (*states.shape[:1], self.action_low.size)):
            raise DataError(f"The teacher takes an action for each observation, {expected}; got {actions.shape}.")
        if self.choice is not None:
            values = self._batched(self._values, self._inputs(states))
            return (values * actions).sum(axis=1, dtype=np.float32)
        scaled = self.action_scale.scale(actions).astype(np.float32)
        inputs = np.concatenate([self._inputs(states), scaled], axis=1)
        return self._batched(lambda rows: self._values(rows)[:, 0], inputs)

    def allowed_values(self, states: np.ndarray) -> np.ndarray:
        """Values (B, n) of discrete actions for raw observations (B, S); minus infinity if the actor rules one out."""
        choice = self.choice
        assert choice is not None
        return self._batched(lambda s: self._chosen(choice.allowed, s), self._inputs(states))

    def _values(self, rows: torch.Tensor) -> torch.Tensor:
        """What the critics say, shape (B, outputs)."""
        reduce = torch.mean if self.value_from == "mean" else torch.amin
        return reduce(torch.stack([apply_layers(critic, rows, self.activation) for critic in self.critics]), 0)

    def _chosen(self, choose: Any, rows: torch.Tensor) -> torch.Tensor:
        return choose(self._values(rows), apply_layers(self.actor, rows, self.activation) if self.actor else None)

    @property
    def is_discrete(self) -> bool:
        """Whether actions are probabilities of discrete ones."""
        return self.choice is not None

    @property
    def action_scale(self) -> ActionScale:
        """Between raw actions and those on [-1, 1]."""
        return ActionScale(self.action_low, self.action_high)

    @cached_property
    def sha256(self) -> str:
        """Hash of everything that decides an action or a value."""
        digest = hashlib.sha256()
        for array in (self.normaliser.mean, self.normaliser.scale, self.action_low, self.action_high):
            digest.update(np.asarray(array, dtype=np.float32).tobytes())
        for layers in (self.actor, *self.critics):
            for part in (tensor for layer in layers for tensor in layer):
                digest.update(part.detach().cpu().contiguous().numpy().tobytes())
        if (self.value_from, self.activation) != ("mean", "relu"):  # all that a teacher of format 1 can be
            digest.update(f"{self.value_from} {self.activation}".encode())
        if self.choice is not None:
            digest.update(f"{self.choice.temperature!r} {self.choice.least!r}".encode())
        return digest.hexdigest()

    def _inputs(self, states: np.ndarray) -> np.ndarray:
        states = np.asarray(states)
        if states.ndim != 2 or states.shape[1] != self.normaliser.mean.size:
            raise DataError(f"The teacher takes observations (B, {self.normaliser.mean.size}); got {states.shape}.")
        return self.normaliser.normalise(states)

    @staticmethod
    @torch.no_grad()
    def _batched(function: Any, inputs: np.ndarray) -> np.ndarray:
        parts = [
            function(torch.from_numpy(inputs[i : i + _ROWS_AT_ONCE])) for i in range(0, len(inputs), _ROWS_AT_ONCE)
        ]
        return torch.cat(parts).numpy()


def _as_json(details: dict[str, Any]) -> dict[str, Any]:
    """What JSON gives back of the details, so that a saved teacher says what this one does."""
    try:
        text = json.dumps(details, allow_nan=False)
        if len(text) > _MOST_DETAILS or not isinstance(details.get("algorithm", ""), str):
            raise ValueError(f"more than {_MOST_DETAILS // 2**10} KiB, or an algorithm that is not a name")
        return json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"A teacher's details are JSON values: {error}.") from error
