"""Assembly: pairs and all that is known of how they came about, as a distilled dataset."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch

from minari_obd.distillation.keeping import kept_recipe
from minari_obd.distillation.preparation import Prepared
from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.distilled.provenance import Provenance
from minari_obd.distiller.result import OuterResult
from minari_obd.registry import DENSITIES, OBJECTIVES, STUDENTS, TEACHERS
from minari_obd.targets.targets import Targets
from minari_obd.teachers.frozen import describe_teacher
from minari_obd.teachers.protocol import Teacher
from minari_obd.version import __version__

__all__ = ["assemble_distilled", "assemble_selected"]


def assemble_selected(prepared: Prepared, rows: np.ndarray) -> DistilledDataset:
    """Return real pairs with their provenance.

    Args:
        prepared: the run that selected them.
        rows: of its data, shape (M,).
    """
    return _assemble(prepared, prepared.data.observations[rows], prepared.data.actions[rows])


def assemble_distilled(
    prepared: Prepared, teacher: Teacher | None, targets: Targets, result: OuterResult
) -> DistilledDataset:
    """Return distilled pairs, in raw units, with their provenance.

    Args:
        prepared: the run that made them.
        teacher: whose actions were cloned; None if the method needs none.
        targets: what the outer loop was given.
        result: what it returned.
    """
    data = prepared.data
    return _assemble(
        prepared,
        data.normaliser.denormalise(result.states),
        data.action_scale.unscale(result.actions),
        recipe=kept_recipe(prepared.recipe, teacher).to_json(),
        teacher=None if teacher is None else describe_teacher(teacher),
        targets=targets.details,
        outer_step=result.step,
        offline_loss=result.offline_loss,
        stop_reason=result.reason,
        history=result.history,
        precision=prepared.loop.precision,
    )


def _plugins(prepared: Prepared) -> dict[str, str]:
    """Return the packages that brought what the run uses, by what they brought."""
    recipe = prepared.recipe
    used = [(OBJECTIVES, recipe.method), (STUDENTS, recipe.student.network)]
    used += [] if prepared.density is None else [(DENSITIES, recipe.density.estimator)]
    used += [] if prepared.teacher is None else [(TEACHERS, recipe.teacher.algorithm)]
    packages = {f"{registry.kind} '{name}'": registry.package(name) for registry, name in used}
    return {what: package for what, package in packages.items() if package is not None}


def _assemble(prepared: Prepared, observations: np.ndarray, actions: np.ndarray, **known: Any) -> DistilledDataset:
    """Put raw pairs (M, S) and (M, A) together with what every run knows, and with what only a distillation does."""
    data, recipe = prepared.data, prepared.recipe
    provenance = Provenance(
        **{
            "recipe": recipe.to_json(),
            "method": recipe.method,
            "source": data.dataset_id,
            "source_sha256": data.content_sha256,
            "source_steps": len(data),
            "source_changed_settings": list(data.changed_settings),
            "seed": recipe.seed,
            "package_version": __version__,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "device": str(prepared.loop.device),
            "plugins": _plugins(prepared),
            "threads": torch.get_num_threads(),  # a resumed run keeps those that it was begun with
            **known,
        }
    )
    return DistilledDataset(
        observations=observations,
        actions=actions,
        normaliser=data.normaliser,
        protocol=recipe.cloned_student,
        provenance=provenance,
        action_low=data.action_low,
        action_high=data.action_high,
        env_id=data.env_id,
        reference=data.reference,
        license=data.license,
        source_quantiles=data.observation_quantiles,
        observation_fields=data.observation_fields,
        first_action=data.first_action,
    )
