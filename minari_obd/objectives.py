"""Objectives: ways to build the targets that pairs are distilled towards, and ways to select real pairs."""

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from minari_obd.clustering import central_rows
from minari_obd.densities import Density, describe_density, tempered_reciprocal
from minari_obd.densities.weights import CLIP_PERCENTILES, effective_sample_fraction, tempered_exponential
from minari_obd.errors import DataError, check_installed
from minari_obd.offline import OfflineData
from minari_obd.recipe import ValueRecipe
from minari_obd.teachers import Teacher, bounded_actions

__all__ = [
    "ActionValuePolicyBehaviouralCloning",
    "DataBehaviouralCloning",
    "KMeansPairs",
    "Objective",
    "PolicyBehaviouralCloning",
    "RandomPairs",
    "Selection",
    "StateDensityWeighting",
    "Targets",
    "labelled",
    "teacher_actions",
]


@dataclass(frozen=True)
class Targets:
    """What a cloned student should do, state by state; all that the distiller ever sees."""

    states: np.ndarray
    """Normalised states, shape (N, S), float32."""
    actions: np.ndarray
    """Actions on [-1, 1], shape (N, A), float32."""
    weights: np.ndarray
    """Weight of each state's squared error, shape (N,), float32, not negative; mean 1, but where values are raw."""
    details: dict[str, Any]
    """What the weights were made with, as JSON values for the provenance."""
    is_raw: bool = False
    """Whether the weights keep the scale of the values that they were made with."""

    def __post_init__(self) -> None:
        for name in ("states", "actions", "weights"):
            value = np.array(getattr(self, name), dtype=np.float32)
            if not np.isfinite(value).all():
                raise DataError(f"The targets' {name} are not finite; the teacher or the density has diverged.")
            value.setflags(write=False)
            object.__setattr__(self, name, value)
        count = len(self.states)
        if self.actions.shape[:1] != (count,) or self.weights.shape != (count,):
            raise DataError(
                f"Targets need one action and one weight a state; got {self.states.shape}, {self.actions.shape} and "
                f"{self.weights.shape}."
            )
        mean = float(self.weights.mean(dtype=np.float64))
        if (self.weights < 0).any() or not mean > 0.0 or not (self.is_raw or abs(mean - 1.0) <= 1e-3):
            raise DataError("Target weights must not be negative and must have mean 1, or above 0 where they are raw.")

    def __len__(self) -> int:
        return len(self.states)


class Objective(Protocol):
    """A way to build targets; what it needs besides the data is said by its flags.

    One whose ``needs_values`` is true is made with ``values``, a :class:`~minari_obd.recipe.ValueRecipe`; one that
    needs a density also with ``effective_fraction`` and ``with_values``. One with a true ``needs_on_policy`` is made
    with ``on_policy``, an :class:`~minari_obd.recipe.OnPolicyRecipe`.
    """

    needs_teacher: bool
    needs_density: bool

    def targets(self, data: OfflineData, teacher: Teacher | None, density: Density | None) -> Targets:
        """Build the targets of every state of ``data``."""
        ...


class Selection(Protocol):
    """A way to pick real pairs instead of distilling: a baseline."""

    def select(self, data: OfflineData, size: int, seed: int) -> np.ndarray:
        """Return the rows of ``size`` different steps."""
        ...


@dataclass(frozen=True)
class RandomPairs:
    """Steps drawn uniformly without replacement."""

    def select(self, data: OfflineData, size: int, seed: int) -> np.ndarray:
        """Return row numbers, shape (size,)."""
        return np.random.default_rng([seed, 9]).choice(len(data), size, replace=False)


@dataclass(frozen=True)
class KMeansPairs:
    """The step nearest to each centre of k-means on the normalised states (scikit-learn's MiniBatchKMeans)."""

    def __post_init__(self) -> None:
        check_installed("sklearn", "distill")

    def select(self, data: OfflineData, size: int, seed: int) -> np.ndarray:
        """Return row numbers, shape (size,), all different."""
        return central_rows(data.normaliser.normalise(data.observations), size, seed)


@dataclass(frozen=True)
class DataBehaviouralCloning:
    """DBC (2410.22728): the student does what the data did, L = E_(s,a)~D ‖pi(s) - a‖²."""

    needs_teacher: bool = False
    needs_density: bool = False

    def targets(self, data: OfflineData, teacher: Teacher | None, density: Density | None) -> Targets:
        """Take the dataset's own actions, every state alike."""
        states = data.normaliser.normalise(data.observations)
        return Targets(states, data.scaled_actions(), np.ones(len(data)), {})


@dataclass(frozen=True)
class PolicyBehaviouralCloning:
    """PBC (2410.22728): the student does what the teacher would, L = E_s~D ‖pi(s) - pi*(s)‖²."""

    needs_teacher: bool = True
    needs_density: bool = False

    def targets(self, data: OfflineData, teacher: Teacher | None, density: Density | None) -> Targets:
        """Take the teacher's actions, every state alike."""
        return Targets(*labelled(data, teacher_actions(data, teacher)), np.ones(len(data)), {})


@dataclass(frozen=True)
class ActionValuePolicyBehaviouralCloning:
    """Av-PBC (2410.22728): L = E_s~D q*(s, pi*(s)) ‖pi(s) - pi*(s)‖².

    By default values are clipped at zero and scaled to mean 1. The paper's code uses 0.02 q as it is, which also
    rescales the outer step; here methods differ in where they look and not in how fast they move.
    """

    values: ValueRecipe = field(default_factory=ValueRecipe)
    needs_teacher: bool = True
    needs_density: bool = False
    needs_values: bool = True

    def targets(self, data: OfflineData, teacher: Teacher | None, density: Density | None) -> Targets:
        """Take the teacher's actions, weighted by its value of them."""
        wanted = teacher_actions(data, teacher)
        weights, details = _value_weights(_values(data, teacher, wanted), self.values)
        return Targets(*labelled(data, wanted), weights, details, is_raw=self.values.weights == "raw")


@dataclass(frozen=True)
class StateDensityWeighting:
    """SDW (2512.06692): Av-PBC with reciprocal state density, L = E_s~D q*(s, pi*(s)) d(s)^-alpha ‖pi(s) - pi*(s)‖².

    Alpha is chosen so that d^-alpha alone has the effective sample fraction asked for, see
    :func:`~minari_obd.densities.tempered_reciprocal`. Without values it is PBC with reciprocal state density.
    """

    effective_fraction: float = 0.5
    with_values: bool = True
    values: ValueRecipe = field(default_factory=ValueRecipe)
    needs_teacher: bool = True
    needs_density: bool = True
    needs_values: bool = True

    def targets(self, data: OfflineData, teacher: Teacher | None, density: Density | None) -> Targets:
        """Take the teacher's actions, weighted by value, if that is asked for, and rarity."""
        assert density is not None
        wanted = teacher_actions(data, teacher)
        states, actions = labelled(data, wanted)
        rarity = tempered_reciprocal(density.log_prob(states), self.effective_fraction)
        details = {
            **describe_density(density),
            "density_clip_percentiles": list(CLIP_PERCENTILES),
            "density_clip": list(rarity.clip),
            "alpha": rarity.alpha,
            "density_effective_fraction": rarity.effective_fraction,
        }
        weights = rarity.weights
        if self.with_values:
            by_value, said = _value_weights(_values(data, teacher, wanted), self.values)
            # One scale for the product: the values' own, which is 1 but for raw ones.
            weights = weights * by_value
            weights = weights * (by_value.mean() / weights.mean())
            details |= said
        details["effective_fraction"] = effective_sample_fraction(weights)
        return Targets(states, actions, weights, details, is_raw=self.with_values and self.values.weights == "raw")


def teacher_actions(data: OfflineData, teacher: Teacher | None) -> np.ndarray:
    """The teacher's actions in every state, raw units, within the bounds."""
    assert teacher is not None
    return bounded_actions(teacher, data.observations, data.action_low, data.action_high)


def labelled(data: OfflineData, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Normalised states, and raw actions on [-1, 1]."""
    scaled = 2.0 * (actions - data.action_low) / (data.action_high - data.action_low) - 1.0
    return data.normaliser.normalise(data.observations), scaled


def _values(data: OfflineData, teacher: Teacher | None, actions: np.ndarray) -> np.ndarray:
    assert teacher is not None
    values = np.asarray(teacher.value(data.observations, actions), dtype=np.float64)
    if values.shape != (len(data),):
        raise DataError(
            f"The teacher returned values of shape {values.shape} for {len(data)} states; expected one each."
        )
    return values


def _value_weights(values: np.ndarray, recipe: ValueRecipe) -> tuple[np.ndarray, dict[str, Any]]:
    """Weights (N,) of values (N,), and what the provenance says of them."""
    details: dict[str, Any] = {"mean_value": float(values.mean()), "value_weights": recipe.weights}
    if recipe.weights == "tempered":
        if not np.isfinite(values).all():
            raise DataError("The teacher's values are not finite; train it longer, or use method 'pbc' or 'opw'.")
        tempered = tempered_exponential(values, recipe.effective_fraction)
        if tempered.clip[0] == tempered.clip[1]:
            raise DataError(
                f"The teacher values (nearly) all states at {tempered.clip[0]:.3g}, so its values cannot tell them "
                "apart; use method 'pbc' or 'opw', which need none, or train the teacher longer."
            )
        details |= {"value_alpha": tempered.alpha, "value_clip": list(tempered.clip)}
        return tempered.weights, details | {"value_effective_fraction": tempered.effective_fraction}
    floor = 0.0
    if recipe.weights == "shift_free":
        floor = details["value_floor"] = float(np.percentile(values, CLIP_PERCENTILES[0]))
    weights = np.clip(values - floor, 0.0, None)
    if not weights.mean() > 0:
        raise DataError(
            f"The teacher's values are nowhere above {floor:.3g}, so they cannot weight anything; use method 'pbc' or "
            "'opw', which need no values, or train the teacher longer."
        )
    if recipe.weights == "raw":
        return weights * recipe.beta, {**details, "value_beta": recipe.beta}
    return weights / weights.mean(), details
