"""The shelf: distilled datasets that come with the package, ``shelf/NAME``."""

from dataclasses import replace
from pathlib import Path

from minari_obd.distilled.contents import Contents
from minari_obd.distilled.folder import load_folder
from minari_obd.distilled.repository import push
from minari_obd.errors import NotFoundError, did_you_mean
from minari_obd.storage.hub import check_repository_id
from minari_obd.storage.repositories import SHELF_PREFIX

__all__ = ["SHELF", "is_of_shelf", "load_from_shelf", "push_shelf", "shelf_folder", "shelf_refs"]

SHELF = Path(__file__).parent / "shelf"
"""Holds a folder for each set: metadata, pairs, evaluation and card, without picture and Minari rendering."""


def shelf_refs() -> list[str]:
    """Return what the sets on the shelf are called, ``shelf/NAME``."""
    return [f"{SHELF_PREFIX}{folder.name}" for folder in sorted(SHELF.iterdir()) if folder.is_dir()]


def is_of_shelf(ref: str | Path) -> bool:
    """Return whether a reference has the form ``shelf/NAME``, whether or not there is such a set."""
    return isinstance(ref, str) and ref.startswith(SHELF_PREFIX) and ref.count("/") == 1


def shelf_folder(ref: str) -> Path:
    """Return the folder of ``shelf/NAME``.

    Raises:
        NotFoundError: there is no such set. The message names the nearest one, and all.
    """
    if ref not in shelf_refs():
        raise NotFoundError(f"There is no distilled dataset '{ref}' in this package; {did_you_mean(ref, shelf_refs())}")
    return SHELF / ref.removeprefix(SHELF_PREFIX)


def load_from_shelf(ref: str) -> Contents:
    """Read and check a set of the shelf; its ``origin`` is ``shelf/NAME``.

    Raises:
        NotFoundError: there is no such set.
    """
    return load_folder(shelf_folder(ref), origin=ref)


def push_shelf(
    organisation: str,
    *,
    private: bool = False,
    revision: str | None = None,
    license: str | None = None,
    token: str | None = None,
) -> list[str]:
    """Publish every set of the shelf as ``organisation/obd-NAME``, each in one commit; return their addresses.

    Those that are there with the same content stay as they are, so the command can be repeated after an error.

    Args:
        organisation: a user or an organisation of the Hub.
        private: make new repositories private.
        revision: branch to publish on, made if it does not exist; the main one if not given.
        license: the Hub's id of the licence; each set's own if not given.
        token: a Hugging Face token; that of ``hf auth login`` or ``HF_TOKEN`` if not given.

    Raises:
        SettingError: ``organisation`` is malformed, or a repository holds something else.
        HubError: the server refused, or cannot be reached.
    """
    repositories = {ref: f"{organisation}/obd-{ref.removeprefix(SHELF_PREFIX)}" for ref in shelf_refs()}
    for repo_id in repositories.values():
        check_repository_id(repo_id)
    addresses = []
    for ref, repo_id in repositories.items():
        contents = load_from_shelf(ref)
        contents = contents if license is None else replace(contents, license=license)
        addresses.append(push(contents, repo_id, private=private, revision=revision, token=token))
    return addresses
