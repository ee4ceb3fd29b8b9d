"""Loading: one verb for every place where a distilled dataset can be."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from minari_obd.distilled import DistilledDataset
from minari_obd.errors import DataError, MissingExtraError, NotFoundError, SettingError
from minari_obd.folder import load_folder
from minari_obd.minari_storage import has_local_dataset
from minari_obd.offline import OfflineData, load_offline_data
from minari_obd.recipe import parse_recipe
from minari_obd.registry import TEACHERS

if TYPE_CHECKING:
    from minari_obd.teachers import FrozenTeacher

__all__ = ["cached_teacher", "find_folder", "load_dataset", "load_source"]


def load_dataset(ref: str | Path, *, revision: str | None = None, token: str | None = None) -> DistilledDataset:
    """Load a distilled dataset; its ``origin`` says where it came from.

    Args:
        ref: an existing folder; a Minari id (it ends in ``-vN``) of the user's Minari folder; or a Hugging Face
            repository ``organisation/name``.
        revision: of the repository: branch, tag or commit. A commit gives the same pairs for ever.
        token: for private repositories.

    Raises:
        NotFoundError: none of these exists.
        SettingError: a revision of something that has none.
        FormatError: what is there is damaged, of a newer format, or something else.
        HubError: the Hub cannot be reached, and the repository was not loaded before.
    """
    if _is_folder(ref):
        _check_no_revision(ref, revision)
        return load_folder(Path(ref))
    if has_local_dataset(str(ref)):
        from minari_obd.minari_bridge import from_minari

        _check_no_revision(ref, revision)
        return from_minari(str(ref))
    from minari_obd.hub import pull

    return pull(_repository(ref), revision=revision, token=token)


def find_folder(ref: str | Path, *, revision: str | None = None, token: str | None = None) -> Path | None:
    """Return the whole folder of a distilled dataset, downloaded if need be; None for a Minari id, which has none.

    Raises:
        NotFoundError, HubError: as :func:`load_dataset`.
    """
    if _is_folder(ref) or has_local_dataset(str(ref)):
        _check_no_revision(ref, revision)
        return Path(ref) if _is_folder(ref) else None
    from minari_obd.hub import fetch

    return fetch(_repository(ref), revision=revision, token=token, whole=True)


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


def cached_teacher(dataset: DistilledDataset, data: OfflineData) -> "FrozenTeacher | None":
    """Return the teacher that a dataset's recipe names, if this machine has trained it before; nothing is trained.

    A teacher other than the one whose hash the provenance holds does not count.

    Args:
        dataset: the distilled dataset.
        data: its source.

    Raises:
        FormatError: the recipe in the provenance cannot be read.
    """
    recipe = parse_recipe(dataset.provenance.recipe, "the recipe in the provenance")
    if recipe.teacher.algorithm not in TEACHERS.names():  # a path from a downloaded file is never opened
        return None
    try:
        from minari_obd.teachers.d3rlpy_teacher import TeacherRun
    except MissingExtraError:
        return None
    from minari_obd.devices import choose_device
    from minari_obd.teachers import load_teacher

    teacher = recipe.teacher
    chosen = teacher.options, teacher.average, teacher.precision
    try:
        device = choose_device(recipe.device)
        run = TeacherRun.of(data, teacher.algorithm, teacher.steps, recipe.seed, device, *chosen)
    except SettingError:  # of a device that is not here, or of another version
        return None
    if not run.is_cached:
        return None
    teacher = load_teacher(run.cache_folder)
    return teacher if (dataset.provenance.teacher or {}).get("sha256", teacher.sha256) == teacher.sha256 else None


def _is_folder(ref: str | Path) -> bool:
    try:
        return ref != "" and Path(ref).is_dir()  # Path("") is the working directory
    except OSError:  # longer than a path may be
        return False


def _check_no_revision(ref: str | Path, revision: str | None) -> None:
    if revision is not None:
        raise SettingError(f"'{ref}' is on this machine and has no revisions; leave revision='{revision}' out.")


def _repository(ref: str | Path) -> str:
    if isinstance(ref, str) and ref.count("/") == 1 and not ref.startswith((".", "/", "~")):
        return ref
    raise NotFoundError(
        f"There is no distilled dataset '{ref}': it is neither an existing folder, nor a Minari dataset that is here, "
        "nor of the form 'organisation/name' of a Hugging Face repository."
    )
