"""Contents: what a distilled dataset holds, checked; the bottom that its files and renderings are built on."""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from minari_obd.distilled.provenance import Provenance
from minari_obd.errors import DataError, printable
from minari_obd.scores.references import ReferenceScores
from minari_obd.scores.report import EvaluationReport
from minari_obd.settings.protocols import StudentProtocol
from minari_obd.sources.data import QUANTILES
from minari_obd.sources.fields import ObservationField
from minari_obd.sources.scaling import ActionScale, Normaliser
from minari_obd.support.discrete import check_probabilities
from minari_obd.support.licences import check_license

__all__ = ["Contents", "Transitions"]


@dataclass(frozen=True)
class Transitions:
    """What the environment answers to each pair: one real step from the pair's state with the pair's action."""

    rewards: np.ndarray
    """Reward of the step, shape (M,), float32."""
    next_observations: np.ndarray
    """Observation after it, shape (M, S), float32, raw units."""
    terminations: np.ndarray
    """Whether the step ended in a terminal state, shape (M,), bool."""

    def __post_init__(self) -> None:
        for name, kind in (("rewards", np.float32), ("next_observations", np.float32), ("terminations", np.bool_)):
            value = np.array(getattr(self, name), dtype=kind)
            if value.ndim != (2 if name == "next_observations" else 1) or len(value) != len(self.rewards):
                raise DataError(f"The {name} of transitions have shape {value.shape}, not one entry a pair.")
            if not np.isfinite(value).all():
                raise DataError(f"The {name} of transitions hold values that are not finite.")
            value.setflags(write=False)
            object.__setattr__(self, name, value)


@dataclass(frozen=True)
class Contents:
    """M synthetic pairs in the environment's units, and all that is needed to clone from them and trust them."""

    observations: np.ndarray
    """Observations, shape (M, S), float32, raw units."""
    actions: np.ndarray
    """Actions, shape (M, A), float32, raw units; of n discrete actions, the probabilities of each, (M, n)."""
    normaliser: Normaliser
    """Of the source's observations; students see normalised ones."""
    protocol: StudentProtocol
    """The student and training that the pairs were made for."""
    provenance: Provenance
    action_low: np.ndarray
    """Lowest action, shape (A,)."""
    action_high: np.ndarray
    """Highest action, shape (A,)."""
    env_id: str | None = None
    """Plain Gymnasium id of the environment, if known."""
    reference: ReferenceScores | None = None
    """Reference scores of the environment, if there are any."""
    evaluation: EvaluationReport | None = None
    """The last evaluation, and what it was seen beside; None if there was none."""
    license: str | None = None
    """The Hub's id of the licence, inherited from the source or given; None if the source names none."""
    source_quantiles: np.ndarray | None = None
    """Quantiles 0, 0.05, 0.25, 0.5, 0.75, 0.95, 1 of the source's observations, shape (7, S), raw units, if known."""
    observation_fields: tuple[ObservationField, ...] = ()
    """Which columns hold which part of the observations, where the source's were dicts or tuples; else empty."""
    transitions: Transitions | None = None
    """One simulated step from each pair, see :meth:`DistilledDataset.with_transitions`."""
    first_action: int | None = None
    """Number of the first of discrete actions; None if actions are continuous."""
    origin: str | None = field(default=None, compare=False)
    """Where it was loaded from: a folder, a Minari id, or ``organisation/name@commit``."""

    def __post_init__(self) -> None:
        for name, dimensions in (("observations", 2), ("actions", 2), ("action_low", 1), ("action_high", 1)):
            value = np.array(getattr(self, name), dtype=np.float32)
            if value.ndim != dimensions:
                raise DataError(f"Distilled {name} have shape {value.shape}; expected {dimensions} dimension(s).")
            if not np.isfinite(value).all():
                raise DataError(f"The distilled {name} hold values that are not finite.")
            value.setflags(write=False)
            object.__setattr__(self, name, value)
        if len(self.observations) == 0 or len(self.observations) != len(self.actions):
            raise DataError(f"{len(self.observations)} observations and {len(self.actions)} actions make no pairs.")
        if self.observations.shape[1] != self.normaliser.mean.size:
            raise DataError(
                f"Observations have {self.observations.shape[1]} dimensions but the normaliser has "
                f"{self.normaliser.mean.size}."
            )
        if not self.actions.shape[1] == self.action_low.size == self.action_high.size:
            raise DataError(f"Actions have {self.actions.shape[1]} dimensions but their bounds {self.action_low.size}.")
        if not (self.action_low < self.action_high).all():
            raise DataError("Each action's lower bound must be below its higher one.")
        self._check_extras()

    def _check_extras(self) -> None:
        shape = self.observations.shape
        check_license(self.license)
        if self.first_action is not None:
            check_probabilities("The distilled actions", self.actions, self.first_action)
        if not isinstance(self.evaluation, EvaluationReport | None):
            raise DataError(f"evaluation is a {type(self.evaluation).__name__}; expected an EvaluationReport.")
        if self.transitions is not None and self.transitions.next_observations.shape != shape:
            raise DataError(f"Successors have shape {self.transitions.next_observations.shape}; expected {shape}.")
        if self.observation_fields and sum(each.size for each in self.observation_fields) != shape[1]:
            raise DataError(f"The fields of observations have other than {shape[1]} columns together.")
        if self.source_quantiles is not None:
            quantiles = np.array(self.source_quantiles, dtype=np.float32)
            if quantiles.shape != (len(QUANTILES), shape[1]) or not np.isfinite(quantiles).all():
                raise DataError(
                    f"source_quantiles have shape {quantiles.shape}; expected finite numbers of shape "
                    f"{(len(QUANTILES), shape[1])}."
                )
            quantiles.setflags(write=False)
            object.__setattr__(self, "source_quantiles", quantiles)

    def __len__(self) -> int:
        return len(self.observations)

    def __repr__(self) -> str:
        return printable(
            f"{type(self).__name__}({len(self)} pairs by {self.provenance.method} from {self.provenance.source}, "
            f"observations {self.observations.shape[1]}, {'discrete ' if self.is_discrete else ''}actions "
            f"{self.actions.shape[1]}, environment {self.env_id})"
        )

    @cached_property
    def content_sha256(self) -> str:
        """Hash of the pairs (and their transitions): the same on every machine and in every file format."""
        arrays = {"observations": self.observations, "actions": self.actions}
        if self.transitions is not None:
            arrays |= {name: getattr(self.transitions, name) for name in self.transitions.__dataclass_fields__}
        digest = hashlib.sha256()
        for name, value in arrays.items():
            digest.update(f"{name}{value.shape}".encode())
            digest.update(np.ascontiguousarray(value, value.dtype.newbyteorder("<")).tobytes())
        return digest.hexdigest()

    @property
    def nested(self) -> tuple[int, ...]:
        """Sizes at which the first pairs were distilled as sets of their own."""
        settings = self.provenance.recipe.get("distillation")
        sizes = settings.get("nested") if isinstance(settings, dict) else None
        return tuple(each for each in sizes if type(each) is int) if isinstance(sizes, list) else ()

    @property
    def is_discrete(self) -> bool:
        """Whether actions are probabilities of discrete ones."""
        return self.first_action is not None

    @property
    def action_scale(self) -> ActionScale:
        """Between raw actions and those on [-1, 1]."""
        return ActionScale(self.action_low, self.action_high)

    def scaled_actions(self) -> np.ndarray:
        """Actions in student units, where the bounds are -1 and 1, shape (M, A)."""
        return self.action_scale.scale(self.actions)

    def normalised(self) -> tuple[np.ndarray, np.ndarray]:
        """States and actions as students see them: z-scored (M, S), and on [-1, 1] (M, A)."""
        return self.normaliser.normalise(self.observations), self.scaled_actions()
