"""Loading: one verb for every place where a distilled dataset can be."""

from pathlib import Path

from minari_obd.distilled import DistilledDataset
from minari_obd.errors import NotFoundError
from minari_obd.folder import load_folder
from minari_obd.minari_storage import has_local_dataset, is_dataset_id

__all__ = ["load_dataset"]


def load_dataset(ref: str | Path, *, revision: str | None = None, token: str | None = None) -> DistilledDataset:
    """Load a distilled dataset.

    Args:
        ref: an existing folder; a Minari id (it ends in ``-vN``) of the user's Minari folder; or a Hugging Face
            repository ``organisation/name``.
        revision: of the repository: branch, tag or commit.
        token: for private repositories.

    Raises:
        NotFoundError: none of these exists.
        FormatError: what is there is damaged, of a newer format, or something else.
        HubError: the Hub cannot be reached.
    """
    if Path(ref).is_dir():
        return load_folder(Path(ref))
    text = str(ref)
    if is_dataset_id(text):
        from minari_obd.minari_bridge import from_minari

        if has_local_dataset(text):
            return from_minari(text)
    if isinstance(ref, str) and ref.count("/") == 1 and not ref.startswith((".", "/", "~")):
        from minari_obd.hub import pull

        return pull(ref, revision=revision, token=token)
    raise NotFoundError(
        f"There is no distilled dataset '{ref}': it is neither an existing folder, nor a Minari dataset that is here, "
        "nor of the form 'organisation/name' of a Hugging Face repository."
    )
