"""Methods: the papers' objectives, as ways to build targets."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np

from minari_obd.densities.base import describe_density
from minari_obd.densities.weights import (
    CLIP_PERCENTILES,
    effective_sample_fraction,
    tempered_exponential,
    tempered_reciprocal,
)
from minari_obd.errors import DataError
from minari_obd.settings.recipe import Recipe
from minari_obd.settings.sections import ValueRecipe
from minari_obd.sources.data import OfflineData
from minari_obd.targets.targets import Objective, TargetInputs, Targets

__all__ = [
    "ActionValuePolicyBehaviouralCloning",
    "DataBehaviouralCloning",
    "PolicyBehaviouralCloning",
    "StateDensityWeighting",
]


@dataclass(frozen=True)
class DataBehaviouralCloning(Objective):
    """DBC (2410.22728): the student imitates the data, L = E_(s,a)~D ‖pi(s) - a‖²."""

    def targets(self, given: TargetInputs) -> Targets:
        """Take the dataset's actions, with equal weights."""
        return Targets(given.states, given.data.scaled_actions(), np.ones(len(given.data)), {})


@dataclass(frozen=True)
class PolicyBehaviouralCloning(Objective):
    """PBC (2410.22728): the student imitates the teacher, L = E_s~D ‖pi(s) - pi*(s)‖²."""

    needs_teacher: ClassVar[bool] = True

    def targets(self, given: TargetInputs) -> Targets:
        """Take the teacher's actions, with equal weights."""
        return Targets(given.states, given.scaled_teacher_actions, np.ones(len(given.data)), {})


@dataclass(frozen=True)
class ActionValuePolicyBehaviouralCloning(Objective):
    """Av-PBC (2410.22728): L = E_s~D q*(s, pi*(s)) ‖pi(s) - pi*(s)‖².

    By default, values are clipped at zero and scaled to mean 1. The paper's code uses 0.02 q unscaled, which also
    rescales the outer step. Here, methods differ in where they look, not in how fast they move.
    """

    values: ValueRecipe = field(default_factory=ValueRecipe)
    needs_teacher: ClassVar[bool] = True

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        """Make it with the recipe's ``values``."""
        return cls(recipe.values)

    @property
    def weighs_by_value(self) -> bool:
        """They do."""
        return True

    def check(self, data: OfflineData) -> None:
        """Refuse rewards that give values no weight."""
        _check_rewards(data, self.values)

    def targets(self, given: TargetInputs) -> Targets:
        """Take the teacher's actions, weighted by their values."""
        weights, details = _value_weights(given.teacher_values, self.values)
        is_raw = self.values.weights == "raw"
        return Targets(given.states, given.scaled_teacher_actions, weights, details, is_raw=is_raw)


@dataclass(frozen=True)
class StateDensityWeighting(Objective):
    """SDW (2512.06692): Av-PBC with reciprocal state density, L = E_s~D q*(s, pi*(s)) d(s)^-alpha ‖pi(s) - pi*(s)‖².

    Alpha is chosen so that d^-alpha alone has the requested effective sample fraction, see
    :func:`~minari_obd.densities.weights.tempered_reciprocal`. Without values, it is PBC with reciprocal state density.
    """

    effective_fraction: float = 0.5
    with_values: bool = True
    values: ValueRecipe = field(default_factory=ValueRecipe)
    needs_teacher: ClassVar[bool] = True
    needs_density: ClassVar[bool] = True

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        """Make it with the recipe's ``density`` and ``values``."""
        return cls(recipe.density.effective_fraction, recipe.density.with_values, recipe.values)

    @property
    def weighs_by_value(self) -> bool:
        """Whether values count beside the density."""
        return self.with_values

    def check(self, data: OfflineData) -> None:
        """Refuse rewards that give values no weight, if values count."""
        if self.with_values:
            _check_rewards(data, self.values)

    def targets(self, given: TargetInputs) -> Targets:
        """Take the teacher's actions, weighted by rarity and, with ``with_values``, by value."""
        rarity = tempered_reciprocal(given.density.log_prob(given.states), self.effective_fraction)
        details = {
            **describe_density(given.density),
            "density_clip_percentiles": list(CLIP_PERCENTILES),
            "density_clip": list(rarity.clip),
            "alpha": rarity.alpha,
            "density_effective_fraction": rarity.effective_fraction,
        }
        weights = rarity.weights
        if self.with_values:
            by_value, said = _value_weights(given.teacher_values, self.values)
            # The product has the mean of the value weights, which is 1 except for raw ones.
            weights = weights * by_value
            weights = weights * (by_value.mean() / weights.mean())
            details |= said
        details["effective_fraction"] = effective_sample_fraction(weights)
        is_raw = self.with_values and self.values.weights == "raw"
        return Targets(given.states, given.scaled_teacher_actions, weights, details, is_raw=is_raw)


_COSTS = "use values.weights 'shift_free' or 'tempered', or method 'pbc' or 'opw', which need no values"


def _check_rewards(data: OfflineData, recipe: ValueRecipe) -> None:
    """Refuse rewards that are nowhere above zero, if values count from zero."""
    highest = float(data.rewards.max())
    if recipe.weights in ("scaled", "raw") and highest <= 0.0:
        raise DataError(
            f"No reward of '{data.dataset_id}' is above 0 (the highest is {highest:.3g}), so no value is either, and "
            f"values.weights '{recipe.weights}' gives all states no weight; {_COSTS}."
        )


def _value_weights(values: np.ndarray, recipe: ValueRecipe) -> tuple[np.ndarray, dict[str, Any]]:
    """Return weights (N,) for values (N,), and their details for the provenance."""
    details: dict[str, Any] = {"mean_value": float(values.mean()), "value_weights": recipe.weights}
    if not np.isfinite(values).all():
        raise DataError("The teacher's values are not finite; train it longer, or use method 'pbc' or 'opw'.")
    if recipe.weights == "tempered":
        tempered = tempered_exponential(values, recipe.effective_fraction)
        if tempered.clip[0] == tempered.clip[1]:
            raise DataError(
                f"The teacher values (nearly) all states at {tempered.clip[0]:.3g}, so its values cannot tell them "
                "apart; use method 'pbc' or 'opw', which need no values, or train the teacher longer."
            )
        details |= {"value_alpha": tempered.alpha, "value_clip": list(tempered.clip)}
        return tempered.weights, details | {"value_effective_fraction": tempered.effective_fraction}
    floor = 0.0
    if recipe.weights == "shift_free":
        floor = details["value_floor"] = float(np.percentile(values, CLIP_PERCENTILES[0]))
    weights = np.clip(values - floor, 0.0, None)
    if not weights.mean() > 0:
        instead = "use method 'pbc' or 'opw', which need no values" if recipe.weights == "shift_free" else _COSTS
        raise DataError(
            f"The teacher's values are nowhere above {floor:.3g}, so they cannot weight anything; {instead}, or "
            "train the teacher longer."
        )
    if recipe.weights == "raw":
        return weights * recipe.beta, {**details, "value_beta": recipe.beta}
    return weights / weights.mean(), details
