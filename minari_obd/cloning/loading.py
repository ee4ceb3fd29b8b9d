"""Loading: one verb for every place where a policy can be."""

from pathlib import Path

import numpy as np

from minari_obd.cloning.folder import POLICY, read
from minari_obd.cloning.lineage import Lineage
from minari_obd.cloning.policy import FORMAT, KEY, Policy
from minari_obd.distilled.metadata import parse_evaluation
from minari_obd.errors import FormatError, NotFoundError, SettingError
from minari_obd.registry import STUDENTS
from minari_obd.scores.references import ReferenceScores
from minari_obd.settings.checks import check_reference
from minari_obd.settings.parsing import validated
from minari_obd.settings.protocols import StudentProtocol
from minari_obd.sources.fields import ObservationField
from minari_obd.sources.scaling import Normaliser
from minari_obd.storage.files import check_not_pointer, holds_instead, is_there
from minari_obd.storage.hub import read_fetched
from minari_obd.storage.repositories import split_repository
from minari_obd.storage.tensors import has_header, read_tensors, reading

__all__ = ["load_policy"]


def load_policy(ref: str | Path, *, revision: str | None = None, token: str | None = None) -> Policy:
    """Load a policy: a file, a folder, or a repository on the Hub. Nothing in it is executed or unpickled.

    Args:
        ref: a file that :meth:`Policy.save` wrote, a folder that :meth:`Policy.save_pretrained` wrote, or a Hugging
            Face repository ``organisation/name``, also as ``organisation/name@revision``.
        revision: of the repository: branch, tag or commit. A commit gives the same policy for ever.
        token: for private repositories.

    Raises:
        NotFoundError: nothing there, or the student network is of a package that is not installed.
        FormatError: not a policy, damaged, or of a newer format.
        SettingError: a revision of something that has none, or no name and no path.
        HubError: the Hub cannot be reached, and the repository was not loaded before.
    """
    check_reference("load_policy", ref)
    path = Path(ref)
    if is_there(path):
        if revision is not None:
            raise SettingError(f"'{ref}' is on this machine and has no revisions; leave revision='{revision}' out.")
        return _of_folder(path, str(path)) if path.is_dir() else _of_file(path)
    named = None if isinstance(ref, Path) or path.suffix == ".safetensors" else split_repository(ref)
    if named is None:
        raise NotFoundError(
            f"There is no policy '{ref}'; `minari-obd clone` writes one. On the Hub, its name is 'organisation/name'."
            f"{holds_instead(path)}"
        )
    repo_id, of_ref = named
    if revision is not None and of_ref is not None:
        raise SettingError(f"'{ref}' names a revision already; leave revision='{revision}' out.")

    def read_pinned(folder: Path) -> Policy:
        return _of_folder(folder, f"{repo_id}@{folder.name}")

    return read_fetched(POLICY, repo_id, read_pinned, revision=revision or of_ref, token=token)


def _of_folder(folder: Path, origin: str) -> Policy:
    config, tensors, metadata, evaluation = read(folder, origin)
    STUDENTS.check(config.network)
    weights = sum(name.startswith("weights.") for name in tensors)
    with reading(f"'{origin}' is damaged"):
        policy = Policy(
            parameters=[tensors[f"weights.{i}"] for i in range(weights)],
            protocol=metadata.student,
            normaliser=Normaliser(tensors["mean"].numpy(), tensors["scale"].numpy()),
            action_low=tensors["action_low"].numpy(),
            action_high=tensors["action_high"].numpy(),
            env_id=metadata.env_id,
            reference=metadata.reference_scores,
            observation_fields=tuple(metadata.observation_fields),
            first_action=config.first_action,
            lineage=metadata.lineage,
            evaluation=evaluation,
            origin=origin,
        )
        return _checked(policy)


def _of_file(path: Path) -> Policy:
    if path.suffix != ".safetensors" and not has_header(path, KEY):
        raise FormatError(f"'{path}' is not a policy of this package.{holds_instead(path)}")
    with reading(f"'{path}' is not a policy of this package, or damaged"):
        check_not_pointer(path)
        header, tensors = read_tensors(path, KEY)
        if header["format"] > FORMAT:
            raise FormatError(f"'{path}' has policy format {header['format']}; this version reads up to {FORMAT}.")
        count = sum(name.startswith("parameters/") for name in tensors)
        policy = Policy(
            parameters=[tensors[f"parameters/{i}"] for i in range(count)],
            protocol=StudentProtocol(**header["protocol"]),
            normaliser=Normaliser(tensors["mean"].numpy(), tensors["scale"].numpy()),
            action_low=tensors["action_low"].numpy(),
            action_high=tensors["action_high"].numpy(),
            env_id=header["env_id"],
            reference=None if header["reference_scores"] is None else ReferenceScores(**header["reference_scores"]),
            observation_fields=tuple(ObservationField(**each) for each in header.get("observation_fields", ())),
            first_action=header.get("first_action"),
            lineage=validated(Lineage, header.get("lineage", {}), str(path)),
            evaluation=parse_evaluation(header["evaluation"], str(path)) if "evaluation" in header else None,
            origin=str(path),
        )
        return _checked(policy)


def _checked(policy: Policy) -> Policy:
    """Return a policy that has acted once: then its parameters, normaliser and bounds fit each other.

    Raises:
        ValueError: they do not.
    """
    if policy.protocol.network not in STUDENTS.names():
        return policy  # of another package, which is missed, and named, when the policy acts
    states, size = np.zeros((1, policy.normaliser.mean.size), np.float32), np.shape(policy.action_low)
    try:
        actions = policy.act_each(states)
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        raise ValueError(
            f"its parameters do not fit each other: {(str(error).splitlines() or [''])[0][:200]}"
        ) from error
    if len(size) != 1 or np.shape(policy.action_high) != size or actions.shape != (policy.students, 1, *size):
        raise ValueError(f"it gives actions of shape {actions.shape[2:]}, and their bounds have shape {size}")
    return policy
