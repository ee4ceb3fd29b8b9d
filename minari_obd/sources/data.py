"""Offline data: the source of a distillation, as flat, aligned, validated arrays."""

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from minari_obd.errors import DataError, SettingError
from minari_obd.scores.references import ReferenceScores, reference_of
from minari_obd.settings.checks import number
from minari_obd.sources.fields import ObservationField
from minari_obd.sources.scaling import ActionScale, Normaliser
from minari_obd.support.discrete import check_probabilities
from minari_obd.support.licences import check_license

__all__ = ["QUANTILES", "OfflineData"]

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


_ARRAYS = ("observations", "actions", "rewards", "terminations", "truncations")


@dataclass(frozen=True)
class OfflineData:
    """An offline dataset of N steps in E episodes. Row i holds the observation, action and reward of step i."""

    dataset_id: str
    """Name of the data: a Minari id, a file name, or ``arrays``."""
    observations: np.ndarray
    """Observation before each step, shape (N, S), float32, raw units."""
    actions: np.ndarray
    """Action taken there, shape (N, A), float32, raw units. Of n discrete actions: a column for each, with 1 for the
    one that was taken."""
    rewards: np.ndarray
    """Reward received, shape (N,), float32."""
    terminations: np.ndarray
    """True where the step ended its episode in a terminal state, shape (N,)."""
    truncations: np.ndarray
    """True where the episode was cut after the step, shape (N,). Never true together with a termination."""
    final_observations: np.ndarray
    """Observation after each episode's last step, shape (E, S); NaN where the source does not contain it."""
    action_low: np.ndarray
    """Lowest action, shape (A,)."""
    action_high: np.ndarray
    """Highest action, shape (A,)."""
    env_id: str | None = None
    """Plain Gymnasium id of the environment, if known. Nothing else of a specification read from a file is ever used to
    make an environment."""
    reference: ReferenceScores | None = None
    """Reference scores, if there are any."""
    flattened_from: str | None = None
    """Description of the observation space before Gymnasium flattened it; None if it was flat."""
    observation_fields: tuple[ObservationField, ...] = ()
    """Which columns hold which part of the observation before it was flattened; empty if it was flat."""
    changed_settings: tuple[str, ...] = ()
    """Names of the settings in which the environment that was recorded differed from the registered one."""
    license: str | None = None
    """The Hub's id of the data's licence, such as ``cc-by-4.0``; None if the source names none."""
    first_action: int | None = None
    """Number of the first of discrete actions, which is usually 0; None if actions are continuous."""
    best_share: float = 1.0
    """Share of the steps that :meth:`best_episodes` kept; 1 if it kept all."""
    episode_starts: np.ndarray = field(init=False)
    """Row of each episode's first step, shape (E,)."""

    def __post_init__(self) -> None:
        kinds = {
            "observations": 2,
            "actions": 2,
            "rewards": 1,
            "final_observations": 2,
            "action_low": 1,
            "action_high": 1,
        }
        for name, dimensions in kinds.items():
            self._set(name, np.asarray(getattr(self, name)), dimensions, np.float32)
        for name in ("terminations", "truncations"):
            self._set(name, np.asarray(getattr(self, name)), 1, np.bool_)
        check_license(self.license)
        count = len(self.observations)
        if 0 in (count, *self.observations.shape[1:], *self.actions.shape[1:]):
            raise DataError(f"'{self.dataset_id}' is empty; at least one step, observation and action is needed.")
        for name in ("actions", "rewards", "terminations", "truncations"):
            if len(getattr(self, name)) != count:
                raise DataError(
                    f"'{self.dataset_id}' has {count} observations but {len(getattr(self, name))} {name}; "
                    "each step needs one of each."
                )
        for name in ("observations", "actions", "rewards"):
            bad = np.flatnonzero(~np.isfinite(getattr(self, name).reshape(count, -1)).all(axis=1))
            if len(bad):
                raise DataError(
                    f"'{self.dataset_id}' has non-finite {name} at {len(bad)} of {count} steps, first at {bad[0]}; "
                    "remove those episodes. (Numbers are kept in float32, which ends at 3.4e38.)"
                )
        if (self.terminations & self.truncations).any():
            raise DataError(f"'{self.dataset_id}' has steps that are both terminated and truncated; keep one flag.")
        ends = self.terminations | self.truncations
        if not ends[-1]:
            raise DataError(f"The last episode of '{self.dataset_id}' does not end; mark its last step as truncated.")
        self._set("episode_starts", np.concatenate([[0], np.flatnonzero(ends)[:-1] + 1]), 1, np.int64)
        shape = (len(self.episode_starts), self.observations.shape[1])
        if self.final_observations.shape != shape:
            raise DataError(f"final_observations has shape {self.final_observations.shape}; expected {shape}.")
        size = self.actions.shape[1]
        if self.action_low.shape != (size,) or self.action_high.shape != (size,):
            raise DataError(
                f"Actions have {size} dimensions, but their bounds have shapes {self.action_low.shape} and "
                f"{self.action_high.shape}; give one bound per dimension."
            )
        with np.errstate(over="ignore", invalid="ignore"):
            width = self.action_high - self.action_low
        if not (np.isfinite(width).all() and (width > 0).all()):
            raise DataError(
                f"The action bounds of '{self.dataset_id}' are {self.action_low} and {self.action_high}; action bounds "
                "must be finite, with each lower bound below the higher one."
            )
        if self.first_action is not None:
            check_probabilities(f"The actions of '{self.dataset_id}'", self.actions, self.first_action)

    def _set(self, name: str, value: np.ndarray, dimensions: int, dtype: Any) -> None:
        if value.ndim != dimensions:
            raise DataError(f"'{self.dataset_id}': {name} has shape {value.shape}; expected {dimensions} dimension(s).")
        with np.errstate(over="ignore"):  # what float32 cannot hold is not finite, which is said below
            value = np.array(value, dtype=dtype)
        value.setflags(write=False)
        object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.observations)

    def __repr__(self) -> str:
        return (
            f"OfflineData({self.dataset_id!r}: {len(self):,} steps in {len(self.episode_starts):,} episodes, "
            f"observations {self.observations.shape[1]}, "
            f"{'discrete ' if self.is_discrete else ''}actions {self.actions.shape[1]}, "
            f"mean return {self.episode_returns.mean():,.1f}, environment {self.env_id})"
        )

    def in_environment(self, env_id: str | None) -> "OfflineData":
        """Return the data as that of another environment, or as it is if ``env_id`` is None.

        Its own reference scores stay if it named no environment; otherwise, they are the other environment's.
        """
        if env_id in (None, self.env_id):
            return self
        reference = self.reference if self.env_id is None and self.reference is not None else reference_of(env_id)
        return replace(self, env_id=env_id, reference=reference)

    def best_episodes(self, share: float) -> "OfflineData":
        """Return the episodes with the highest returns, in their order: as few as hold this share of the steps.

        Of episodes that are as good as the last of these, none is left out. Cloning these episodes alone is the
        baseline %BC (Chen et al. 2021, 2106.01345).

        Raises:
            SettingError: a share that is not above 0 and at most 1.
        """
        share = number("The share of the best episodes", share)
        if not 0.0 < share <= 1.0:
            raise SettingError(f"The share of the best episodes is {share}; it must be above 0 and at most 1.")
        if share == 1.0:
            return self
        lengths = np.diff(self.episode_starts, append=len(self))
        order = np.argsort(-self.episode_returns, kind="stable")
        last = order[np.searchsorted(np.cumsum(lengths[order]), share * len(self))]
        kept = np.flatnonzero(self.episode_returns >= self.episode_returns[last])
        rows = np.isin(np.repeat(np.arange(len(lengths)), lengths), kept)
        return replace(
            self,
            observations=self.observations[rows],
            actions=self.actions[rows],
            rewards=self.rewards[rows],
            terminations=self.terminations[rows],
            truncations=self.truncations[rows],
            final_observations=self.final_observations[kept],
            best_share=share * self.best_share,
        )

    @property
    def is_discrete(self) -> bool:
        """Whether actions are probabilities of discrete ones."""
        return self.first_action is not None

    @property
    def has_goals(self) -> bool:
        """Whether observations hold the goal of their episode, as Gymnasium-Robotics names it."""
        return any(each.name.split("/")[-1] == "desired_goal" for each in self.observation_fields)

    @property
    def may_choose(self) -> bool:
        """Whether a teacher may choose the best episodes by itself: nobody did, and goals do not decide the returns."""
        return self.best_share == 1.0 and not self.has_goals

    @cached_property
    def normaliser(self) -> Normaliser:
        """Normaliser fitted to these observations."""
        return Normaliser.fit(self.observations)

    @cached_property
    def observation_quantiles(self) -> np.ndarray:
        """:data:`QUANTILES` of every dimension of the observations, shape (7, S), float32, raw units."""
        return np.quantile(self.observations, QUANTILES, axis=0).astype(np.float32)

    @cached_property
    def episode_returns(self) -> np.ndarray:
        """Undiscounted return of every episode, shape (E,)."""
        return np.add.reduceat(self.rewards.astype(np.float64), self.episode_starts)

    @cached_property
    def content_sha256(self) -> str:
        """Hash of all arrays. It is the same on every machine."""
        digest = hashlib.sha256()
        for name in (*_ARRAYS, "final_observations", "action_low", "action_high"):
            value = np.ascontiguousarray(getattr(self, name))
            digest.update(f"{name}{value.shape}{value.dtype.newbyteorder('<').str}".encode())
            digest.update(value.astype(value.dtype.newbyteorder("<"), copy=False).tobytes())
        if self.is_discrete:
            digest.update(f"first_action{self.first_action}".encode())
        return digest.hexdigest()

    @property
    def action_scale(self) -> ActionScale:
        """Conversion between raw actions and actions on [-1, 1]."""
        return ActionScale(self.action_low, self.action_high)

    def scaled_actions(self) -> np.ndarray:
        """Return the actions on [-1, 1], as students and teachers use them, shape (N, A)."""
        return self.action_scale.scale(self.actions)
