"""Loading: whatever can be evaluated or compared, by one reference."""

from pathlib import Path
from typing import Any

from minari_obd.cloning.folder import METADATA_FILE
from minari_obd.cloning.loading import load_policy
from minari_obd.cloning.policy import Policy
from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.distilled.loading import load_dataset
from minari_obd.distilled.metadata import parse_evaluation
from minari_obd.errors import NotFoundError
from minari_obd.scores.report import EvaluationReport
from minari_obd.settings.parsing import read_json
from minari_obd.storage.files import is_there
from minari_obd.storage.hub import HubError, OtherKindError
from minari_obd.storage.repositories import split_repository
from minari_obd.storage.tensors import has_header
from minari_obd.teachers.frozen import KEY, FrozenTeacher
from minari_obd.teachers.loading import is_teacher, load_teacher

__all__ = ["Subject", "load_report", "load_subject", "sources_of"]

Subject = DistilledDataset | Policy | FrozenTeacher

_OTHERS = {".pt", ".pth", ".zip"}  # files of other libraries' teachers


def load_subject(ref: str | Path, *, revision: str | None = None, token: str | None = None) -> Subject:
    """Load a distilled dataset, a policy or a teacher, whichever ``ref`` names.

    Args:
        ref: file, folder, ``shelf/NAME``, Minari id, or Hugging Face repository, whose dataset comes before its model.
        revision: of the repository: branch, tag or commit.
        token: for private repositories.

    Raises:
        MinariObdError: as :func:`load_dataset`, :func:`load_policy` and :func:`load_teacher`.
    """
    path = Path(ref)
    is_policy = path.suffix == ".safetensors" or is_there(path / METADATA_FILE) or (is_there(path) and path.is_file())
    if is_teacher(ref) and (path.is_dir() or path.suffix in _OTHERS or has_header(path, KEY)):
        return load_teacher(ref, revision=revision)
    if is_policy:
        return load_policy(ref, revision=revision)
    try:
        return load_dataset(str(ref), revision=revision, token=token)
    except (NotFoundError, OtherKindError) as error:
        if is_there(path) or split_repository(str(ref)) is None:
            raise
        try:
            return load_policy(str(ref), revision=revision, token=token)
        except OtherKindError:
            return load_teacher(str(ref), revision=revision, token=token)
        except (NotFoundError, HubError):
            raise error from None


def load_report(path: str | Path) -> EvaluationReport:
    """Read a report that ``minari-obd evaluate --out`` wrote, or the ``evaluation.json`` of a set or a policy.

    Raises:
        NotFoundError: no such file.
        FormatError: not a report; the wrong field is named.
    """
    path = Path(path)
    if not path.is_file():
        raise NotFoundError(f"There is no report '{path}'; `minari-obd evaluate REF --out {path}` writes one.")
    return parse_evaluation(read_json(path), str(path))


def sources_of(subject: Any) -> tuple[str, ...]:
    """Ids of the offline datasets that a subject was made from, as far as it says."""
    if isinstance(subject, DistilledDataset):
        return (subject.provenance.source,)
    if isinstance(subject, Policy):
        return subject.lineage.sources
    data = subject.details.get("data") if isinstance(subject, FrozenTeacher) else None
    return (data,) if isinstance(data, str) else ()
