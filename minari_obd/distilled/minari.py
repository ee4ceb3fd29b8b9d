"""Distilled pairs as a Minari dataset, and back.

Each pair is an episode of one step that terminates, with observations [s, s] and zero reward. Terminated, because then
nobody bootstraps through the made-up successor, and d3rlpy keeps the pair; of truncated one-step episodes it keeps
none. One long episode would be smaller, and would claim transitions that never happened. Pairs with simulated
transitions are real steps, and stored as such: [s, s'], the reward, and truncated unless the step terminated.

Discrete actions are stored as the number of the likeliest, in a Discrete space, with the probabilities of all in
``infos["probabilities"]``, once for either observation.
"""

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import numpy as np
from minari import MinariDataset

from minari_obd.distilled.contents import Contents, Transitions
from minari_obd.distilled.metadata import (
    MOST_PAIRS,
    Metadata,
    StatedEvaluation,
    parse_evaluation,
    parse_metadata,
    parse_stated_evaluation,
)
from minari_obd.environments.making import check_environment_id
from minari_obd.errors import FormatError, NotFoundError
from minari_obd.settings.checks import check_instance
from minari_obd.storage.minari_datasets import episode_buffer, open_files, open_local_dataset, write_dataset
from minari_obd.support.discrete import chosen

__all__ = ["from_minari", "minari_name", "open_rendering", "stored_evaluation", "to_minari", "write_rendering"]

_KEY = "obd"
_PROBABILITIES = "probabilities"


def to_minari(
    dataset: Contents, dataset_id: str, *, data_format: str | None = None, root: Path | None = None
) -> MinariDataset:
    """Store the pairs under a Minari id in the user's Minari folder, or in ``root``.

    Raises:
        DataError: a malformed id, one that exists, or an unknown format.
    """
    given = dataset.transitions
    following = dataset.observations if given is None else given.next_observations
    rewards = np.zeros(len(dataset), np.float32) if given is None else given.rewards
    terminated = np.ones(len(dataset), bool) if given is None else given.terminations
    first, actions, infos = dataset.first_action, dataset.actions, [{} for _ in range(len(dataset))]
    # Distilled actions may lie outside the environment's bounds; the bounds are kept in the metadata.
    action_space: gym.Space = gym.spaces.Box(-np.inf, np.inf, (actions.shape[1],), np.float32)
    if first is not None:
        action_space = gym.spaces.Discrete(actions.shape[1], start=first)
        infos = [{_PROBABILITIES: np.stack([row, row])} for row in actions]
        actions = chosen(actions, first)
    episodes = [
        episode_buffer(
            observations=np.stack([dataset.observations[i], following[i]]),
            actions=actions[i : i + 1],
            rewards=rewards[i : i + 1],
            terminations=terminated[i : i + 1],
            truncations=~terminated[i : i + 1],
            infos=infos[i],
        )
        for i in range(len(dataset))
    ]
    reference = dataset.reference
    evaluation = None if dataset.evaluation is None else dataset.evaluation.to_json()
    steps = "Rewards and successors are placeholders." if given is None else "Each is a real step of the environment."
    folder = write_dataset(
        dataset_id,
        episodes,
        observation_space=gym.spaces.Box(-np.inf, np.inf, dataset.observations.shape[1:], np.float32),
        action_space=action_space,
        algorithm=dataset.provenance.method,
        description=(
            f"{len(dataset)} (observation, action) pairs made by {dataset.provenance.method} from "
            f"{dataset.provenance.source}. {steps}"
        ),
        eval_env_id=_registered(dataset.env_id),
        metadata={
            _KEY: {**Metadata.of(dataset).to_json(), "evaluation": evaluation},
            **({} if dataset.license is None else {"license": dataset.license}),
            **({} if reference is None else {"ref_min_score": reference.random, "ref_max_score": reference.expert}),
        },
        compact=True,
        data_format=data_format,
        root=root,
    )
    return MinariDataset(folder / "data")


def _registered(env_id: str | None) -> str | None:
    try:
        return None if env_id is None else check_environment_id(env_id)
    except NotFoundError:
        return None


def write_rendering(dataset: Contents, folder: Path, name: str) -> None:
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


def open_rendering(folder: Path) -> MinariDataset:
    """Open the Minari rendering in a dataset folder.

    Raises:
        FormatError: there is none, or Minari cannot read it.
    """
    dataset = open_files(folder / "pairs-v0" / "data", f"{folder}/pairs-v0")
    if dataset.storage.FORMAT != "hdf5":
        raise FormatError(f"The Minari rendering in '{folder}' is not in HDF5, as ours are.")
    return dataset


def from_minari(dataset: MinariDataset | str) -> Contents:
    """Read pairs that :func:`to_minari` stored.

    Raises:
        NotFoundError: an id that is not in the user's Minari folder.
        FormatError: a Minari dataset that holds no distilled pairs of this package, or damaged ones.
        SettingError: neither an id nor a dataset.
    """
    if isinstance(dataset, str):
        dataset = open_local_dataset(dataset)
    check_instance("from_minari", dataset, str, MinariDataset)
    name, values = _stored_values(dataset)
    evaluation = values.pop("evaluation", None)
    metadata = parse_metadata(values, name)
    if dataset.storage.FORMAT == "hdf5":
        _check_hdf5(Path(str(dataset.storage.data_path)) / "main_data.hdf5", metadata, name)
    if evaluation is not None:
        evaluation = parse_evaluation(evaluation, f"the evaluation of {name}")
    try:
        rows = list(dataset.iterate_episodes())
        observations = np.stack([np.asarray(row.observations) for row in rows])  # (M, 2, S)
        actions, rewards, terminations = (
            np.concatenate([np.asarray(getattr(row, field)) for row in rows])
            for field in ("actions", "rewards", "terminations")
        )
        if metadata.first_action is not None:
            numbers, actions = actions, np.stack([np.asarray(row.infos[_PROBABILITIES])[0] for row in rows])
            if not np.array_equal(numbers.reshape(-1), chosen(actions, metadata.first_action)):
                raise ValueError("some actions are not the likeliest ones")
        transitions = Transitions(rewards, observations[:, 1], terminations) if metadata.transitions else None
        pairs = observations[:, 0], actions
    except Exception as error:  # as above
        raise FormatError(f"The pairs in '{name}' are damaged: {str(error)[:200]}") from error
    return metadata.contents(*pairs, transitions, evaluation, origin=name)


def stored_evaluation(dataset_id: str) -> StatedEvaluation | None:
    """Read the evaluation that a Minari dataset states beside its pairs, if there is one.

    Raises:
        NotFoundError, FormatError: as :func:`from_minari`.
    """
    name, values = _stored_values(open_local_dataset(dataset_id))
    evaluation = values.get("evaluation")
    return None if evaluation is None else parse_stated_evaluation(evaluation, f"the evaluation of {name}")


def _stored_values(dataset: MinariDataset) -> tuple[str, dict[str, Any]]:
    """The dataset's name and what :func:`to_minari` noted in its metadata, unchecked."""
    try:
        name = str(dataset.spec.dataset_id)
        values = dict(dataset.storage.metadata).get(_KEY)
        episodes, steps = int(dataset.total_episodes), int(dataset.total_steps)
    except Exception as error:  # Minari raises whatever its own metadata makes Python raise
        raise FormatError(f"Minari's own metadata is damaged: {str(error)[:200]}") from error
    if not isinstance(values, dict):
        raise FormatError(
            f"The Minari dataset '{name}' holds no distilled pairs of this package, so it is offline data; "
            f"distil it (`minari-obd distill {name}`), or read it with load_offline_data."
        )
    if steps > MOST_PAIRS:
        raise FormatError(f"'{name}' has {steps:,} steps; a distilled dataset has at most {MOST_PAIRS:,}.")
    return name, {"format": 1, "size": episodes, **values}


def _check_hdf5(path: Path, metadata: Metadata, name: str) -> None:
    """Look at every array's shape and place before one is read.

    A few bytes of HDF5 may stand for gigabytes, or for the content of any other file of this machine.

    Raises:
        FormatError: an array of another shape, or one that is not in this file.
    """
    states, actions = len(metadata.observation_mean), len(metadata.action_low)
    shapes = {"observations": (2, states), "actions": (1, actions)}
    shapes |= dict.fromkeys(("rewards", "terminations", "truncations"), (1,))
    if metadata.first_action is not None:
        shapes |= {"actions": (1,), f"infos/{_PROBABILITIES}": (2, actions)}
    try:
        with h5py.File(path, "r") as file:
            for i in range(metadata.size):
                for key, shape in shapes.items():
                    array = _own(file, f"episode_{i}")
                    for part in key.split("/"):
                        array = _own(array, part)
                    if not isinstance(array, h5py.Dataset) or array.external or array.is_virtual:
                        raise ValueError(f"{key} of episode {i} are not in this file")
                    if array.shape != shape or array.dtype.kind not in "biuf":
                        raise ValueError(f"{key} of episode {i} have shape {array.shape}; expected {shape}")
    except Exception as error:  # h5py raises KeyError, OSError, RuntimeError and more
        raise FormatError(f"The pairs in '{name}' are damaged: {str(error)[:200]}.") from error


def _own(group: Any, key: str) -> Any:
    """What a group of an HDF5 file holds itself, or None: a soft or external link leads elsewhere."""
    return group[key] if group is not None and isinstance(group.get(key, getlink=True), h5py.HardLink) else None


def minari_name(name: str) -> str:
    """Return the nearest name that Minari accepts as a namespace."""
    cleaned = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in name).strip("-")
    return cleaned if len(cleaned) > 1 else f"obd-{cleaned or 'pairs'}"
