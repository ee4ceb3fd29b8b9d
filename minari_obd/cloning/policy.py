"""Policies: cloned students that act as one, and their file."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minari_obd.errors import DataError, FormatError, NotFoundError, SettingError, printable
from minari_obd.registry import STUDENTS
from minari_obd.scores.references import ReferenceScores
from minari_obd.settings.protocols import StudentProtocol
from minari_obd.sources.fields import ObservationField, flatten_observation
from minari_obd.sources.scaling import ActionScale, Normaliser
from minari_obd.storage.tensors import read_tensors, reading, write_tensors
from minari_obd.students.networks import Student, make_student
from minari_obd.support.discrete import chosen

__all__ = ["Policy", "load_policy"]

_FORMAT = 2
"""The newest; continuous policies are written as format 1."""


_KEY = "minari_obd_policy"


@dataclass(frozen=True)
class Policy:
    """E cloned students; called as one policy, they act by the mean of their actions.

    Of discrete actions, that is the likeliest by the mean of their probabilities.
    """

    parameters: list[Tensor]
    """Trained parameters; every tensor has E rows."""
    protocol: StudentProtocol
    normaliser: Normaliser
    action_low: np.ndarray
    """Lowest action, shape (A,)."""
    action_high: np.ndarray
    """Highest action, shape (A,)."""
    env_id: str | None = None
    """Environment that the pairs are about, if known."""
    reference: ReferenceScores | None = None
    """Reference scores of that environment, if there are any."""
    observation_fields: tuple[ObservationField, ...] = ()
    """Which columns hold which part of the observations, where the data's were dicts or tuples; else empty."""
    first_action: int | None = None
    """Number of the first of discrete actions; None if actions are continuous."""

    @property
    def action_scale(self) -> ActionScale:
        """Between raw actions and those on [-1, 1]."""
        return ActionScale(self.action_low, self.action_high)

    @property
    def students(self) -> int:
        """E, the number of students."""
        return len(self.parameters[0])

    def __repr__(self) -> str:
        env, network = self.env_id or "unknown", f"{self.protocol.network} {self.protocol.depth}x{self.protocol.width}"
        sizes = f"{self.normaliser.mean.size} observations to {np.asarray(self.action_low).size} "
        sizes += "actions" if self.first_action is None else "discrete actions"
        return printable(f"Policy({self.students} student(s) of {network}, {sizes}, environment {env})")

    def __call__(self, observations: Any) -> np.ndarray:
        """Raw observations (B, S), or one (S,), to raw actions (B, A), or one (A,).

        Discrete actions are numbers, (B,), or one.
        Where the data had dicts or tuples, it takes those too: one, or one of arrays with a batch's axis first.

        Raises:
            DataError: observations of another size, or without a part that the data had.
        """
        if self.observation_fields and isinstance(observations, Mapping | tuple):
            observations = flatten_observation(self.observation_fields, observations)
        observations = np.asarray(observations)
        single = observations.ndim == 1
        actions = self.act_each(observations[None] if single else observations).mean(axis=0)
        actions = actions if self.first_action is None else chosen(actions, self.first_action)
        return actions[0] if single else actions

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[np.ndarray, Any]:
        """Return actions and ``state``: the method that Stable-Baselines3's ``evaluate_policy`` calls."""
        return self(observation), state

    @torch.no_grad()
    def act_each(self, observations: np.ndarray) -> np.ndarray:
        """Raw actions, or probabilities, of every student, (E, B, A), for raw observations (B, S) or (E, B, S)."""
        size = self.normaliser.mean.size
        if observations.ndim not in (2, 3) or observations.shape[-1] != size:
            raise DataError(f"The policy takes observations (B, {size}); got {observations.shape}.")
        states = torch.from_numpy(self.normaliser.normalise(observations))
        scaled = self._student.apply(self.parameters, states).numpy()
        return self.action_scale.unscale(scaled)

    @cached_property
    def _student(self) -> Student:
        return make_student(self.protocol)

    def save(self, path: str | Path) -> Path:
        """Write the policy to one safetensors file and return its path."""
        path = Path(path)
        if path.is_dir():
            raise SettingError(f"'{path}' is a folder; give the name of a file, such as policy.safetensors.")
        tensors = {f"parameters/{i}": p for i, p in enumerate(self.parameters)}
        for name, value in self._arrays().items():
            tensors[name] = torch.tensor(value)
        is_discrete = self.first_action is not None
        header: dict[str, Any] = {"first_action": self.first_action} if is_discrete else {}
        header |= {"format": _FORMAT if is_discrete else 1, "protocol": asdict(self.protocol), "env_id": self.env_id}
        header["reference_scores"] = None if self.reference is None else asdict(self.reference)
        header["observation_fields"] = [asdict(each) for each in self.observation_fields]
        write_tensors(path, tensors, header, _KEY)
        return path

    def _arrays(self) -> dict[str, np.ndarray]:
        return {
            "mean": self.normaliser.mean,
            "scale": self.normaliser.scale,
            "action_low": np.asarray(self.action_low, np.float32),
            "action_high": np.asarray(self.action_high, np.float32),
        }


def load_policy(path: str | Path) -> Policy:
    """Read a policy that :meth:`Policy.save` wrote.

    Raises:
        NotFoundError: no such file.
        FormatError: not a policy, of a newer format, or with parameters that do not fit each other.
    """
    path = Path(path)
    if not path.is_file():
        raise NotFoundError(f"There is no policy '{path}'; `minari-obd clone` writes one.")
    with reading(f"'{path}' is not a policy of this package"):
        header, tensors = read_tensors(path, _KEY)
        if header["format"] > _FORMAT:
            raise FormatError(f"'{path}' has policy format {header['format']}; this version reads up to {_FORMAT}.")
        count = sum(name.startswith("parameters/") for name in tensors)
        policy = Policy(
            parameters=[tensors[f"parameters/{i}"] for i in range(count)],
            protocol=StudentProtocol(**header["protocol"]),
            normaliser=Normaliser(tensors["mean"].numpy(), tensors["scale"].numpy()),
            action_low=tensors["action_low"].numpy(),
            action_high=tensors["action_high"].numpy(),
            env_id=header["env_id"],
            reference=None if header["reference_scores"] is None else ReferenceScores(**header["reference_scores"]),
            observation_fields=tuple(ObservationField(**each) for each in header.get("observation_fields", ())),
            first_action=header.get("first_action"),
        )
        _check_shapes(policy)
        return policy


def _check_shapes(policy: Policy) -> None:
    """Let a policy act once: then its parameters, normaliser and bounds fit each other.

    Raises:
        ValueError: they do not.
    """
    if policy.protocol.network not in STUDENTS.names():
        return  # of another package, which is missed, and named, when the policy acts
    states, size = np.zeros((1, policy.normaliser.mean.size), np.float32), np.shape(policy.action_low)
    try:
        actions = policy.act_each(states)
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        raise ValueError(
            f"its parameters do not fit each other: {(str(error).splitlines() or [''])[0][:200]}"
        ) from error
    if len(size) != 1 or np.shape(policy.action_high) != size or actions.shape != (policy.students, 1, *size):
        raise ValueError(f"it gives actions of shape {actions.shape[2:]}, and their bounds have shape {size}")
