"""Loading: one verb for every place where a distilled dataset can be."""

from pathlib import Path

from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.distilled.folder import load_folder
from minari_obd.distilled.minari import from_minari
from minari_obd.distilled.repository import DISTILLED, pull
from minari_obd.distilled.shelf import is_of_shelf, load_from_shelf, shelf_folder
from minari_obd.errors import FormatError, NotFoundError, SettingError, did_you_mean
from minari_obd.settings.checks import check_reference
from minari_obd.storage.files import holds_instead, is_there
from minari_obd.storage.hub import HubError, fetch
from minari_obd.storage.minari_datasets import has_local_dataset

__all__ = ["card_name", "find_folder", "load_dataset"]


def load_dataset(ref: str | Path, *, revision: str | None = None, token: str | None = None) -> DistilledDataset:
    """Load a distilled dataset; its ``origin`` says where it came from.

    Args:
        ref: an existing folder; ``shelf/NAME`` for a set that comes with the package (`minari-obd list`); a Minari id
            (it ends in ``-vN``) of the user's Minari folder; or a Hugging Face repository ``organisation/name``.
        revision: of the repository: branch, tag or commit. A commit gives the same pairs for ever.
        token: for private repositories.

    Raises:
        NotFoundError: none of these exists.
        SettingError: a revision of something that has none, or no name and no path.
        FormatError: what is there is damaged, of a newer format, or something else.
        HubError: the Hub cannot be reached, and the repository was not loaded before.
    """
    check_reference("load_dataset", ref)
    if _is_folder(ref):
        _check_no_revision(ref, revision)
        return DistilledDataset.of(load_folder(Path(ref)))
    if is_of_shelf(ref):
        _check_no_revision(ref, revision)
        return DistilledDataset.of(load_from_shelf(str(ref)))
    if has_local_dataset(str(ref)):
        _check_no_revision(ref, revision)
        return DistilledDataset.of(from_minari(str(ref)))
    try:
        return DistilledDataset.of(pull(_repository(ref), revision=revision, token=token))
    except (NotFoundError, HubError) as error:
        raise _perhaps_folder(ref, error) from error


def find_folder(ref: str | Path, *, revision: str | None = None, token: str | None = None) -> Path | None:
    """Return the whole folder of a distilled dataset, downloaded if need be; None for a Minari id, which has none.

    Raises:
        NotFoundError, HubError, SettingError: as :func:`load_dataset`.
    """
    check_reference("verify", ref)  # which alone asks for folders
    if is_of_shelf(ref) and not _is_folder(ref):
        _check_no_revision(ref, revision)
        return shelf_folder(str(ref))
    if _is_folder(ref) or has_local_dataset(str(ref)):
        _check_no_revision(ref, revision)
        return Path(ref) if _is_folder(ref) else None
    try:
        return fetch(DISTILLED, _repository(ref), revision=revision, token=token, whole=True)
    except (NotFoundError, HubError) as error:
        raise _perhaps_folder(ref, error) from error


def _perhaps_folder(ref: str | Path, error: NotFoundError | HubError) -> NotFoundError | HubError:
    """Say that there is no such folder, where there are folders beside it; otherwise what the Hub has said."""
    if not _is_folder(Path(ref).parent) or Path(ref).parent == Path():
        return error
    folders = [str(path) for path in Path(ref).parent.iterdir() if path.is_dir()]
    return NotFoundError(f"There is no folder '{ref}'; {did_you_mean(str(ref), folders)} On the Hub: {error}")


def card_name(ref: str, folder: Path) -> str:
    """Return the ``organisation/name`` that the card of a set was written for; ``folder`` is where the set is."""
    return ref if ref.count("/") == 1 and not is_of_shelf(ref) and not _is_folder(ref) else f"ORG/{folder.name}"


def _is_folder(ref: str | Path) -> bool:
    try:
        return ref != "" and Path(ref).is_dir()  # Path("") is the working directory
    except OSError:  # longer than a path may be
        return False


def _check_no_revision(ref: str | Path, revision: str | None) -> None:
    if revision is not None:
        raise SettingError(f"'{ref}' is on this machine and has no revisions; leave revision='{revision}' out.")


def _repository(ref: str | Path) -> str:
    is_file = is_there(ref) and Path(ref).is_file()
    if not is_file and isinstance(ref, str) and ref.count("/") == 1 and not ref.startswith((".", "/", "~")):
        return ref
    if is_file:
        raise FormatError(f"'{ref}' is a file, and a distilled dataset is a folder.{holds_instead(Path(ref))}")
    raise NotFoundError(
        f"There is no distilled dataset '{ref}': it is neither an existing folder, nor 'shelf/NAME' of `minari-obd "
        "list`, nor a Minari dataset that is here, nor of the form 'organisation/name' of a Hugging Face repository."
    )
