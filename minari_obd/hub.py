"""The Hugging Face Hub: a distilled dataset's folder is its repository. The only importer of huggingface_hub."""

import tempfile
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import validate_repo_id

from minari_obd.distilled import DistilledDataset
from minari_obd.errors import FormatError, MinariObdError, NotFoundError, SettingError
from minari_obd.folder import METADATA_FILE, PARQUET_FILE, load_folder, save_folder

__all__ = ["HubError", "pull", "push"]


class HubError(MinariObdError, OSError):
    """The Hub refused a request, or cannot be reached."""


def push(dataset: DistilledDataset, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
    """Upload the folder as a dataset repository in one commit; a reader sees all of it or nothing.

    Args:
        dataset: the pairs.
        repo_id: ``organisation/name``; made if it does not exist.
        private: make a new repository private.
        token: a Hugging Face token; the one of ``hf auth login`` if not given.

    Returns:
        The address of the repository.

    Raises:
        SettingError: ``repo_id`` is malformed, or belongs to something that is no distilled dataset.
        HubError: the server refused, or cannot be reached.
    """
    _check_id(repo_id)
    api = huggingface_hub.HfApi(token=token)
    try:
        if api.repo_exists(repo_id, repo_type="dataset"):
            names = api.list_repo_files(repo_id, repo_type="dataset")
            if METADATA_FILE not in names and set(names) - {".gitattributes", "README.md"}:
                raise SettingError(
                    f"The repository '{repo_id}' holds something other than a distilled dataset, so nothing was "
                    "uploaded; choose another name."
                )
        else:
            api.create_repo(repo_id, repo_type="dataset", private=private)
        with tempfile.TemporaryDirectory() as scratch:
            name = repo_id.split("/")[1]
            folder = save_folder(dataset, Path(scratch) / name)
            api.upload_folder(
                repo_id=repo_id,
                repo_type="dataset",
                folder_path=folder,
                # What an older set left and this one lacks, an evaluation above all, would speak of other pairs.
                delete_patterns=["*.json", "data/*", "pairs-v0/*"],
                commit_message=f"{len(dataset)} pairs by {dataset.provenance.method}",
            )
    except MinariObdError:
        raise
    except Exception as error:  # the client's HTTP library, and so its errors, differ between its versions
        raise _explain(f"'{repo_id}' could not be pushed", error, token) from None
    return f"{api.endpoint}/datasets/{repo_id}"


def pull(repo_id: str, *, revision: str | None = None, token: str | None = None) -> DistilledDataset:
    """Download a repository's pairs (into huggingface_hub's cache) and check them against ``obd.json``.

    Args:
        repo_id: ``organisation/name``.
        revision: branch, tag or commit; the newest commit if not given.
        token: for private repositories.

    Raises:
        NotFoundError: no such repository or revision.
        HubError: the server refused, or cannot be reached.
        FormatError: the repository is no distilled dataset, or damaged.
    """
    _check_id(repo_id)
    try:
        # Only the files that are read: not the Minari rendering, and nothing that is not ours.
        folder = huggingface_hub.snapshot_download(
            repo_id,
            repo_type="dataset",
            revision=revision,
            token=token,
            allow_patterns=[METADATA_FILE, PARQUET_FILE, "evaluation.json"],
        )
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        kind = "revision" if isinstance(error, RevisionNotFoundError) else "dataset repository"
        raise NotFoundError(
            f"There is no {kind} '{revision or repo_id}' on the Hub, or it is private and the token may not read it."
        ) from None
    except Exception as error:  # as above
        raise _explain(f"'{repo_id}' could not be downloaded", error, token) from None
    if not (Path(folder) / METADATA_FILE).is_file():
        raise FormatError(f"The repository '{repo_id}' is not a distilled dataset: it has no {METADATA_FILE}.")
    return load_folder(Path(folder))


def _check_id(repo_id: str) -> None:
    try:
        validate_repo_id(repo_id)
        well_formed = repo_id.count("/") == 1
    except HFValidationError:
        well_formed = False
    if not well_formed:
        raise SettingError(f"'{repo_id}' is not a repository id; use 'organisation/name'.")


def _explain(what: str, error: Exception, token: str | None) -> HubError:
    text = " ".join(str(error).split())[:500]
    if token:
        text = text.replace(token, "***")
    advice = "check the connection, HF_ENDPOINT and the token (`hf auth login`)"
    if "xet" in text.lower():
        advice = "this server does not speak Xet; set HF_HUB_DISABLE_XET=1 before Python starts"
    return HubError(f"{what} ({type(error).__name__}: {text}); {advice}.")
