"""Origins: the data and the teacher that a distilled dataset was made from."""

from typing import Any

from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.errors import DataError, MissingExtraError, NotFoundError, SettingError
from minari_obd.registry import TEACHERS
from minari_obd.settings.recipe import recorded_recipe
from minari_obd.sources.data import OfflineData
from minari_obd.sources.loading import load_offline_data
from minari_obd.storage.minari_datasets import has_local_dataset
from minari_obd.teachers.frozen import FrozenTeacher
from minari_obd.teachers.obtaining import plan_teacher
from minari_obd.teachers.run import TeacherRun

__all__ = ["cached_teacher", "if_its_own", "load_source"]


def load_source(dataset: DistilledDataset, source: Any = None, *, progress: bool = False) -> OfflineData:
    """Load the very data that a distilled dataset was made from.

    Args:
        dataset: the distilled dataset.
        source: what :func:`load_offline_data` takes. If not given, the Minari dataset of the id that the
            provenance names, where that is on this machine.
        progress: show bars where it takes long.

    Raises:
        NotFoundError: it is not on this machine.
        DataError: its content is not what the provenance says.
    """
    provenance = dataset.provenance
    if source is None:
        # Only an id is looked up: a path from a downloaded file is never opened.
        if not has_local_dataset(provenance.source):
            raise NotFoundError(f"'{provenance.source[:100]}' is not on this machine; give it with --source.")
        data = load_offline_data(provenance.source, download=False, progress=progress)
    else:
        data = load_offline_data(source, progress=progress)
    if data.content_sha256 != provenance.source_sha256:
        raise DataError(
            f"'{data.dataset_id}' has the content {data.content_sha256[:12]}..., and the provenance says "
            f"{provenance.source_sha256[:12]}...: the pairs were made from other data; give that as the source."
        )
    return data


def cached_teacher(dataset: DistilledDataset, data: OfflineData) -> FrozenTeacher | None:
    """Return the teacher that a dataset's recipe names, if it is bundled or trained already; nothing is trained.

    A teacher other than the one whose hash the provenance holds does not count.

    Args:
        dataset: the distilled dataset.
        data: its source.

    Raises:
        FormatError: the recipe in the provenance cannot be read.
    """
    recipe = recorded_recipe(dataset.provenance.recipe, "the recipe in the provenance")
    if recipe.teacher.algorithm not in (*TEACHERS.names(), "bundled"):  # a path from a downloaded file is never opened
        return None
    try:
        planned = plan_teacher(recipe, data)
    except (SettingError, MissingExtraError, NotFoundError, DataError):
        return None  # a device that is not here, settings or a bundled teacher of another version, or no d3rlpy
    if isinstance(planned, FrozenTeacher):
        return if_its_own(dataset, planned)
    assert isinstance(planned, TeacherRun)  # of a name that is an algorithm's
    kept = planned.cached()
    return None if kept is None else if_its_own(dataset, kept)


def if_its_own(dataset: DistilledDataset, teacher: FrozenTeacher) -> FrozenTeacher | None:
    """Return the teacher unless the dataset's provenance holds the hash of another one."""
    stated = (dataset.provenance.teacher or {}).get("sha256", teacher.sha256)
    return teacher if stated == teacher.sha256 else None
