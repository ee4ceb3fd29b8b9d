"""Repositories: distilled datasets on the Hugging Face Hub, pushed in one commit and pulled pinned to one."""

import tempfile
from dataclasses import replace
from pathlib import Path

from minari_obd.distilled.contents import Contents
from minari_obd.distilled.folder import METADATA_FILE, READ_FILES, WRITTEN_FILES, load_folder, save_folder
from minari_obd.storage.hub import Holding, check_repository_id, publish, read_fetched

__all__ = ["DISTILLED", "pull", "push"]

DISTILLED = Holding("distilled dataset", "dataset", METADATA_FILE, READ_FILES, WRITTEN_FILES)


def push(
    dataset: Contents,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
) -> str:
    """Upload the folder as a dataset repository in one commit; a reader sees all of it or nothing.

    The same files once more make no commit. Files that an older set left and this one lacks are deleted in the same
    commit: an evaluation above all would speak of other pairs. Files that are not ours stay.

    Args:
        dataset: the pairs.
        repo_id: ``organisation/name``; made if it does not exist.
        private: make a new repository private.
        revision: branch to publish on, made if it does not exist; the main one if not given.
        token: a Hugging Face token; the one of ``hf auth login`` or ``HF_TOKEN`` if not given.

    Returns:
        The address of the commit.

    Raises:
        SettingError: ``repo_id`` is malformed, or names something other than a distilled dataset, or is public
            where ``private`` was asked for.
        HubError: the server refused, or cannot be reached.
    """
    check_repository_id(repo_id)
    dataset = replace(dataset, provenance=dataset.provenance.without_folders())
    with tempfile.TemporaryDirectory() as scratch:
        # What can fail without the Hub does so before a repository is made.
        folder = save_folder(dataset, Path(scratch) / repo_id.split("/")[1], repo_id=repo_id)
        files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        title = f"{len(dataset)} pairs by {dataset.provenance.method}"
        return publish(DISTILLED, files, repo_id, title, private=private, revision=revision, token=token)


def pull(repo_id: str, *, revision: str | None = None, token: str | None = None) -> Contents:
    """Download a repository's pairs (into huggingface_hub's cache) and check them against ``obd.json``.

    What is read is one commit, whatever is pushed meanwhile; the dataset's ``origin`` names it. With
    ``HF_HUB_OFFLINE=1``, or without a connection, the commit that was fetched last is read from the cache.

    Args:
        repo_id: ``organisation/name``.
        revision: branch, tag or commit; the newest commit if not given.
        token: for private repositories.

    Raises:
        NotFoundError: no such repository or revision.
        HubError: the server refused, or cannot be reached and the cache has nothing.
        FormatError: the repository holds something other than a distilled dataset, or is damaged.
    """

    def read(folder: Path) -> Contents:
        return load_folder(folder, origin=f"{repo_id}@{folder.name}")

    return read_fetched(DISTILLED, repo_id, read, revision=revision, token=token)
