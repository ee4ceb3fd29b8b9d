"""The Hugging Face Hub: repositories of ours, pushed in one commit, pulled pinned. The only importer of its client."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import huggingface_hub
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from minari_obd.errors import FormatError, MinariObdError, NotFoundError, SettingError
from minari_obd.storage.files import held_among, write_text
from minari_obd.storage.hub_errors import HubError, explain
from minari_obd.storage.tokens import usable_token

__all__ = ["Holding", "HubError", "OtherKindError", "check_repository_id", "fetch", "publish", "read_fetched"]

_MOST_BYTES = 4 * 2**30
_Content = TypeVar("_Content")
_LOOK_SECONDS = 10.0
"""How long the Hub may take to answer. Without a limit, a network that swallows packets is waited for forever."""
_FOREIGN_TO_ALL = {".gitattributes", "README.md"}
"""What a new repository may hold before anything was published in it."""


class OtherKindError(FormatError):
    """A repository holds something else than was looked for."""


@dataclass(frozen=True)
class Holding:
    """What a repository of ours holds."""

    noun: str
    repo_type: str
    """``dataset`` or ``model``, which on the Hub are apart: the same id may name one of each."""
    marker: str
    """The file without which a repository holds something else."""
    read: tuple[str, ...]
    """Files that are read; the others are for people, and for readers without this package."""
    written: tuple[str, ...]
    """Every file that may be there."""

    def look(self, api: HfApi, repo_id: str, **options: Any) -> Any:
        """What the Hub says of a repository of this type."""
        return api.repo_info(repo_id, repo_type=self.repo_type, timeout=_LOOK_SECONDS, **options)


def publish(
    holding: Holding,
    files: Mapping[str, Path],
    repo_id: str,
    title: str,
    *,
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
) -> str:
    """Upload files in one commit called ``title``, and return its address.

    The same files once more make no commit. Files of the holding that are there and not among these are deleted in the
    same commit; other files stay. The remaining arguments are those of :meth:`DistilledDataset.push_to_hub`.

    Raises:
        SettingError: a malformed id, a repository that holds something else, or a public one despite ``private``.
        HubError: the server refused, or cannot be reached.
    """
    check_repository_id(repo_id)
    token = usable_token(token)
    api = HfApi(token=token)
    try:
        present = _repository(api, repo_id, holding, private=private, revision=revision)
        stale = [name for name in _names(present) if name in holding.written and name not in files]
        # Not upload_folder: with Xet it may spread a folder over several commits.
        commit = api.create_commit(
            repo_id,
            [
                *(CommitOperationAdd(name, path) for name, path in sorted(files.items())),
                *(CommitOperationDelete(name) for name in stale),
            ],
            commit_message=title,
            repo_type=holding.repo_type,
            revision=revision,
            parent_commit=present.sha,  # what was looked at is what is built upon, or nothing happens
        )
    except MinariObdError:
        raise
    except Exception as error:  # the client's HTTP library, and so its errors, differ between its versions
        raise explain(f"'{repo_id}' could not be pushed", error, token) from None
    return str(commit.commit_url)


def _repository(api: HfApi, repo_id: str, holding: Holding, *, private: bool, revision: str | None) -> Any:
    """Look at the repository before it is written to, and make it or the branch if there is none."""
    try:
        present = holding.look(api, repo_id)
    except RepositoryNotFoundError:
        api.create_repo(repo_id, repo_type=holding.repo_type, private=private, exist_ok=True)
        present = holding.look(api, repo_id)
    if private and not present.private:
        raise SettingError(
            f"The repository '{repo_id}' exists and is public, so nothing was uploaded; make it private in its "
            "settings, or choose another name."
        )
    if revision is not None:
        try:
            present = holding.look(api, repo_id, revision=revision)
        except RevisionNotFoundError:
            _refuse_foreign(repo_id, present, holding)  # the branch would begin as a copy of it
            api.create_branch(repo_id, branch=revision, repo_type=holding.repo_type)
            present = holding.look(api, repo_id, revision=revision)
    _refuse_foreign(repo_id, present, holding)
    return present


def _refuse_foreign(repo_id: str, present: Any, holding: Holding) -> None:
    names = _names(present)
    if holding.marker not in names and set(names) - _FOREIGN_TO_ALL:
        raise SettingError(
            f"The repository '{repo_id}' holds something other than a {holding.noun}, so nothing was uploaded; "
            f"choose another name.{held_among(names)}"
        )


def _names(present: Any) -> list[str]:
    return [each.rfilename for each in present.siblings or []]


def fetch(
    holding: Holding,
    repo_id: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    whole: bool = False,
    anew: bool = False,
) -> Path:
    """Download a repository and return its folder in the cache, which is named after the commit.

    Args:
        holding: what the repository is to hold.
        repo_id: ``organisation/name``.
        revision: branch, tag or commit; the newest commit if not given.
        token: for private repositories.
        whole: also the files that only others read, such as the card.
        anew: download what is in the cache as well.

    Raises:
        NotFoundError: no such repository or revision.
        SettingError: a malformed id or token.
        HubError: the server refused, or cannot be reached and the cache has nothing.
        FormatError: the repository holds something else, or too much.
    """
    check_repository_id(repo_id)
    token = usable_token(token)
    unreachable, listed, api = None, None, HfApi(token=token)
    try:
        listed = holding.look(api, repo_id, revision=revision, files_metadata=True)
    except GatedRepoError as error:
        raise explain(f"'{repo_id}' could not be downloaded", error, token) from None
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        is_there = isinstance(error, RevisionNotFoundError)
        missing = f"revision '{revision}' of" if is_there else f"{holding.repo_type} repository"
        raise NotFoundError(
            f"There is no {missing} '{repo_id}' on the Hub, or it is private and the token may not read it."
            + ("" if is_there else _other_type(api, repo_id, holding))
        ) from None
    except Exception as error:  # offline by choice or by misfortune: the cache may have it
        unreachable = error
    wanted: list[str] = [*(holding.written if whole else holding.read)]
    if listed is not None:
        _check_listing(repo_id, listed, wanted, holding)
    try:
        folder = Path(
            huggingface_hub.snapshot_download(
                repo_id,
                repo_type=holding.repo_type,
                revision=revision if listed is None else listed.sha,  # the commit that was looked at, and no other
                token=token,
                allow_patterns=wanted,  # nothing that is not ours is ever downloaded
                local_files_only=listed is None,
                force_download=anew and listed is not None,
            )
        )
    except Exception as error:  # as above
        if listed is None and whole:  # the rendering may never have been fetched, and what is read have been
            return fetch(holding, repo_id, revision=revision, token=token)
        raise explain(f"'{repo_id}' could not be downloaded", unreachable or error, token) from None
    if listed is not None and revision != listed.sha:
        _remember(folder, revision or "main")
    if unreachable is not None and not isinstance(unreachable, OfflineModeIsEnabled):
        found = f"'{repo_id}' was read from the cache, at commit {folder.name[:12]}, as the Hub gave no answer"
        warnings.warn(str(explain(found, unreachable, token)), stacklevel=2)
    return folder


def read_fetched(
    holding: Holding,
    repo_id: str,
    read: Callable[[Path], _Content],
    *,
    revision: str | None = None,
    token: str | None = None,
) -> _Content:
    """Download a repository and read it. A copy in the cache that turns out damaged is downloaded once more.

    Raises:
        MinariObdError: as :func:`fetch`, and what ``read`` raises of the fresh copy.
    """
    try:
        return read(fetch(holding, repo_id, revision=revision, token=token))
    except OtherKindError:
        raise
    except FormatError:
        anew = fetch(holding, repo_id, revision=revision, token=token, anew=True)
        try:
            return read(anew)
        except FormatError as error:
            error.add_note("It was downloaded once more, so what the repository holds is damaged itself.")
            raise


def _remember(folder: Path, revision: str) -> None:
    """Note in the cache what a branch or tag stood for, once its files are there: that is what is read offline.

    Given a branch, huggingface_hub notes it before the first file arrives, so a download that is cut off would hide
    the complete one before it.
    """
    note = folder.parents[1] / "refs" / revision
    if not note.is_file() or note.read_text() != folder.name:
        try:
            write_text(note, folder.name)
        except SettingError:  # a cache that is shared and read-only
            return


def _other_type(api: HfApi, repo_id: str, holding: Holding) -> str:
    """A sentence for who looks for a teacher or a policy among datasets, or for a distilled dataset among models."""
    is_dataset = holding.repo_type == "dataset"
    other, verb = ("model", "load_policy` or `load_teacher") if is_dataset else ("dataset", "load_dataset")
    try:
        is_there = api.repo_exists(repo_id, repo_type=other)
    except Exception:  # it is only a hint
        return ""
    return f" There is a {other} repository of that name, which `{verb}` loads if it is ours." if is_there else ""


def _check_listing(repo_id: str, listed: Any, wanted: list[str], holding: Holding) -> None:
    """Refuse a repository before anything is downloaded, if its paths or sizes cannot be those of this package."""
    sizes = {each.rfilename: each.size or 0 for each in listed.siblings or []}
    for name in sizes:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or not name.isprintable():
            raise FormatError(
                f"The repository '{repo_id}' holds a file whose path climbs out of it ({name[:100]!r}), so nothing "
                "was downloaded; do not use it."
            )
    if holding.marker not in sizes:
        said = f"The repository '{repo_id}' is not a {holding.noun}: it has no {holding.marker}."
        raise OtherKindError(said + held_among(sizes))
    if sum(sizes.get(name, 0) for name in wanted) > _MOST_BYTES:
        raise FormatError(f"The repository '{repo_id}' is larger than {_MOST_BYTES // 2**30} GiB; nothing was fetched.")


def check_repository_id(repo_id: str) -> None:
    """Make sure that an id has the form ``organisation/name``.

    Raises:
        SettingError: it has not.
    """
    try:
        validate_repo_id(repo_id)
        well_formed = repo_id.count("/") == 1
    except HFValidationError:
        well_formed = False
    if not well_formed:
        raise SettingError(f"'{repo_id}' is not a repository id; use 'organisation/name'.")
