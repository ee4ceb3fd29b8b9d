"""Distilled pairs as a Minari dataset, and back.

Each pair is an episode of one step that terminates, with observations [s, s] and zero reward. Terminated, because then
nobody bootstraps through the made-up successor, and d3rlpy keeps the pair; of truncated one-step episodes it keeps
none. One long episode would be smaller, and would claim transitions that never happened.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from minari_obd.card import minari_name
from minari_obd.distilled import DistilledDataset, Provenance
from minari_obd.environments import check_environment_id
from minari_obd.errors import FormatError, NotFoundError
from minari_obd.minari_storage import episode_buffer, open_local_dataset, write_dataset
from minari_obd.offline import Normaliser
from minari_obd.protocol import StudentProtocol
from minari_obd.statistics import ReferenceScores

if TYPE_CHECKING:
    from minari import MinariDataset

__all__ = ["from_minari", "to_minari", "write_rendering"]

_KEY = "obd"


def to_minari(dataset: DistilledDataset, dataset_id: str, *, root: Path | None = None) -> "MinariDataset":
    """Store the pairs under a Minari id in the user's Minari folder, or in ``root``.

    Raises:
        DataError: a malformed id, or one that exists.
    """
    from minari import MinariDataset

    episodes = [
        episode_buffer(
            observations=np.stack([observation, observation]),
            actions=action[None],
            rewards=np.zeros(1),
            terminations=np.array([True]),
            truncations=np.array([False]),
        )
        for observation, action in zip(dataset.observations, dataset.actions, strict=True)
    ]
    sizes = dataset.observations.shape[1], dataset.actions.shape[1]
    reference = dataset.reference
    folder = write_dataset(
        dataset_id,
        episodes,
        observation_space=gym.spaces.Box(-np.inf, np.inf, (sizes[0],), np.float32),
        # Distilled actions may lie outside the environment's bounds; the bounds are kept in the metadata.
        action_space=gym.spaces.Box(-np.inf, np.inf, (sizes[1],), np.float32),
        algorithm=dataset.provenance.method,
        description=(
            f"{len(dataset)} synthetic (observation, action) pairs distilled from {dataset.provenance.source}. "
            "Rewards and successors are placeholders."
        ),
        eval_env_id=_registered(dataset.env_id),
        metadata={
            _KEY: {
                "observation_mean": dataset.normaliser.mean.tolist(),
                "observation_scale": dataset.normaliser.scale.tolist(),
                "action_low": dataset.action_low.tolist(),
                "action_high": dataset.action_high.tolist(),
                "env_id": dataset.env_id,
                "reference_scores": None if reference is None else asdict(reference),
                "student": asdict(dataset.protocol),
                "provenance": dataset.provenance_json(),
            },
            **({} if reference is None else {"ref_min_score": reference.random, "ref_max_score": reference.expert}),
        },
        root=root,
    )
    return MinariDataset(folder / "data")


def _registered(env_id: str | None) -> str | None:
    try:
        return None if env_id is None else check_environment_id(env_id)
    except NotFoundError:
        return None


def write_rendering(dataset: DistilledDataset, folder: Path, name: str) -> None:
    """Add ``pairs-v0/data`` and ``namespace_metadata.json`` to a dataset folder, where Minari's Hub client looks.

    Minari maps the first part of an id to a Hub repository and the rest to a path in it.
    """
    dataset_id = f"{minari_name(name)}/pairs-v0"
    root = folder / ".minari"
    to_minari(dataset, dataset_id, root=root)
    (root / dataset_id).rename(folder / "pairs-v0")
    for path in sorted(root.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    root.rmdir()
    namespace = {"datasets": [dataset_id], "namespaces": []}
    (folder / "namespace_metadata.json").write_text(json.dumps(namespace, indent=2) + "\n", encoding="utf-8")


def from_minari(dataset: "MinariDataset | str") -> DistilledDataset:
    """Read pairs that :func:`to_minari` stored.

    Raises:
        NotFoundError: an id that is not in the user's Minari folder.
        FormatError: a Minari dataset that holds no distilled pairs of this package, or damaged ones.
    """
    if isinstance(dataset, str):
        dataset = open_local_dataset(dataset)
    metadata: dict[str, Any] = dict(dataset.storage.metadata)
    if not isinstance(metadata.get(_KEY), dict):
        raise FormatError(
            f"The Minari dataset '{dataset.spec.dataset_id}' holds no distilled pairs of this package; "
            "use load_offline_data for ordinary datasets."
        )
    from pydantic import TypeAdapter, ValidationError

    values = metadata[_KEY]
    try:
        provenance = TypeAdapter(Provenance).validate_json(json.dumps(values["provenance"]))
        protocol = TypeAdapter(StudentProtocol).validate_json(json.dumps(values["student"]))
        reference = TypeAdapter(ReferenceScores | None).validate_json(json.dumps(values["reference_scores"]))
        episodes = list(dataset.iterate_episodes())
        return DistilledDataset(
            observations=np.concatenate([episode.observations[:-1] for episode in episodes]),
            actions=np.concatenate([episode.actions for episode in episodes]),
            normaliser=Normaliser(np.array(values["observation_mean"]), np.array(values["observation_scale"])),
            protocol=protocol,
            provenance=provenance,
            action_low=np.array(values["action_low"]),
            action_high=np.array(values["action_high"]),
            env_id=values["env_id"] if isinstance(values["env_id"], str) else None,
            reference=reference,
        )
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        raise FormatError(f"The pairs in '{dataset.spec.dataset_id}' are damaged: {str(error)[:300]}") from error
