"""Assembly: pairs and all that is known of how they came about, as a distilled dataset."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import torch

from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.distilled.provenance import Provenance
from minari_obd.distiller.result import OuterResult
from minari_obd.settings.recipe import Recipe
from minari_obd.sources.data import OfflineData
from minari_obd.support.devices import choose_device
from minari_obd.targets.targets import Targets
from minari_obd.teachers.frozen import describe_teacher
from minari_obd.teachers.protocol import Teacher
from minari_obd.version import __version__

__all__ = ["assemble"]


def assemble(
    observations: np.ndarray,
    actions: np.ndarray,
    recipe: Recipe,
    data: OfflineData,
    teacher: Teacher | None,
    result: OuterResult | None,
    targets: Targets | None,
    precision: str,
) -> DistilledDataset:
    """Return pairs with their provenance.

    Args:
        observations: raw, shape (M, S).
        actions: raw, shape (M, A).
        recipe: what was asked for.
        data: what was distilled.
        teacher: whose actions were cloned; None if the method has none.
        result: of the outer loop; None for pairs that were selected.
        targets: what the outer loop was given.
        precision: of its matrix products.
    """
    if teacher is not None and (origin := getattr(teacher, "origin", None)):  # the very commit that was read
        recipe = replace(recipe, teacher=replace(recipe.teacher, algorithm=origin))
    provenance = Provenance(
        recipe=recipe.to_json(),
        method=recipe.method,
        source=data.dataset_id,
        source_sha256=data.content_sha256,
        source_steps=len(data),
        seed=recipe.seed,
        package_version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        teacher=None if teacher is None else describe_teacher(teacher),
        targets=targets.details if targets is not None else {},
        outer_step=result.step if result is not None else None,
        offline_loss=result.offline_loss if result is not None else None,
        stop_reason=result.reason if result is not None else None,
        history=result.history if result is not None else [],
        device=str(choose_device(recipe.device)),
        threads=torch.get_num_threads(),  # a resumed run keeps those that it was begun with
        precision=precision,
    )
    return DistilledDataset(
        observations=observations,
        actions=actions,
        normaliser=data.normaliser,
        protocol=recipe.student,
        provenance=provenance,
        action_low=data.action_low,
        action_high=data.action_high,
        env_id=data.env_id,
        reference=data.reference,
        license=data.license,
        source_quantiles=data.observation_quantiles,
    )
