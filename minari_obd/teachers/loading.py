"""Loading: one verb for every place where a teacher can be, and for every library that may have trained it."""

import zipfile
from pathlib import Path
from typing import Any

from minari_obd.errors import DataError, FormatError, NotFoundError, SettingError
from minari_obd.settings.checks import check_reference
from minari_obd.sources.scaling import Normaliser
from minari_obd.storage.files import holds_instead
from minari_obd.storage.hub import read_fetched
from minari_obd.storage.repositories import split_repository
from minari_obd.teachers.card import TEACHER_FILE
from minari_obd.teachers.foreign import ForeignSettings, read_corl, read_sb3
from minari_obd.teachers.frozen import TEACHER, FrozenTeacher, read_teacher

__all__ = ["is_teacher", "load_teacher"]

_SUFFIXES = {".safetensors", ".pt", ".pth", ".zip"}


def load_teacher(
    ref: str | Path,
    *,
    normaliser: Normaliser | tuple[Any, Any] | None = None,
    action_bounds: tuple[Any, Any] | None = None,
    activation: str | None = None,
    revision: str | None = None,
    token: str | None = None,
) -> FrozenTeacher:
    """Load a teacher: one of ours, from this machine or the Hub, or one of CORL's or Stable-Baselines3's.

    No pickle is run: of other libraries' files only tensors and plain values are read. What they do not say of their
    networks is given here; a teacher of ours says it all, and these three arguments are refused.

    Args:
        ref: a folder that :meth:`FrozenTeacher.save` wrote, its ``teacher.safetensors``, a CORL checkpoint
            (``checkpoint_999999.pt``), a Stable-Baselines3 zip, or a Hugging Face repository ``organisation/name``,
            also as ``organisation/name@revision``.
        normaliser: (mean, scale), each (S,) or a number, by which the networks' observations were normalised: (s -
            mean) / scale. Needed for CORL, whose scale is the standard deviation + 0.001, like that of
            :attr:`OfflineData.normaliser`.
        action_bounds: (lowest, highest) action, each (A,) or a number. By default -1 and 1 for CORL, and for
            Stable-Baselines3 what the zip prints.
        activation: ``relu``, ``tanh`` or ``elu``. By default ``relu`` for CORL, and for Stable-Baselines3 what the
            zip prints.
        revision: of the repository: branch, tag or commit. A commit gives the same teacher for ever.
        token: for private repositories.

    Raises:
        NotFoundError: nothing there.
        FormatError: damaged, of a newer format, something else, or a file that names more than tensors.
        SettingError: no name and no path, or an argument that is missing, wrong, or has no meaning for what is there.
        HubError: the Hub cannot be reached, and the repository was not loaded before.
    """
    check_reference("load_teacher", ref)
    settings = ForeignSettings(normaliser, action_bounds, activation)
    path = _local(ref)
    if path is not None and revision is not None:
        raise SettingError(f"'{ref}' is on this machine and has no revisions; leave revision='{revision}' out.")
    kind = None if path is None else _kind(path)
    if path is not None and kind in (_CORL, _SB3):
        try:
            return read_corl(path, settings) if kind is _CORL else read_sb3(path, settings)
        except DataError as error:  # parts that do not make a teacher
            raise FormatError(f"'{path}' cannot be read: {error}") from error
    if settings != ForeignSettings():
        raise SettingError(
            f"'{ref}' says how its observations and actions are scaled; leave normaliser, action_bounds and activation "
            "out, which are for other libraries' files."
        )
    if path is not None:
        return read_teacher(path)
    named = split_repository(str(ref))
    if named is None or isinstance(ref, Path) or Path(ref).suffix in _SUFFIXES:
        raise NotFoundError(
            f"There is no teacher at '{ref}': it is neither a file, nor a folder that holds {TEACHER_FILE}, nor of the "
            f"form 'organisation/name' of a Hugging Face repository.{holds_instead(Path(ref))}"
        )
    repo_id, of_ref = named
    if revision is not None and of_ref is not None:
        raise SettingError(f"'{ref}' names a revision already; leave revision='{revision}' out.")
    return _pull(repo_id, revision=revision or of_ref, token=token)


def is_teacher(ref: str | Path) -> bool:
    """Whether ``ref`` is a file, or the folder of a teacher, on this machine."""
    return _local(ref) is not None


def _pull(repo_id: str, *, revision: str | None, token: str | None) -> FrozenTeacher:
    """Download one commit into huggingface_hub's cache and check it; the teacher's ``origin`` names the commit.

    With ``HF_HUB_OFFLINE=1``, or without a connection, the commit that was fetched last is read from the cache.
    """

    def read(folder: Path) -> FrozenTeacher:
        origin = f"{repo_id}@{folder.name}"
        if not (folder / TEACHER_FILE).is_file():
            raise FormatError(f"'{origin}' lacks {TEACHER_FILE}; the copy is incomplete, fetch it again.")
        return read_teacher(folder / TEACHER_FILE, origin=origin)

    return read_fetched(TEACHER, repo_id, read, revision=revision, token=token)


_OURS, _CORL, _SB3 = "ours", "CORL", "Stable-Baselines3"


def _local(ref: str | Path) -> Path | None:
    """The file that ``ref`` stands for on this machine, if there is one."""
    try:
        path = Path(ref) / TEACHER_FILE if Path(ref).is_dir() else Path(ref)
        return path if path.is_file() else None
    except (OSError, ValueError):  # longer than a path may be, or with a null byte
        return None


def _kind(path: Path) -> str:
    """Whose file it is, by its content: names and endings are anybody's."""
    try:
        with path.open("rb") as file:
            start = file.read(9)
        if start[8:] == b"{":  # after the length of its header, a safetensors file has JSON
            return _OURS
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return _SB3 if "policy.pth" in archive.namelist() else _CORL
        return _CORL if start[:1] == b"\x80" else _OURS  # torch wrote bare pickles once
    except Exception as error:  # of damaged bytes zipfile raises nearly anything
        raise FormatError(f"'{path}' cannot be read: {error}.") from error
