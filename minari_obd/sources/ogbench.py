"""OGBench: its npz files (Park et al. 2025, arXiv 2410.20092) as offline data, and as Minari datasets."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from minari_obd.environments.making import check_environment_id
from minari_obd.errors import DataError, FormatError, NotFoundError
from minari_obd.sources.arrays import from_arrays
from minari_obd.sources.data import OfflineData
from minari_obd.storage.files import is_there
from minari_obd.storage.minari_datasets import check_dataset_id, episode_buffer, has_local_dataset, write_dataset
from minari_obd.support.licences import check_known_license

__all__ = ["from_ogbench", "import_ogbench", "read_ogbench"]

_FOLDER = Path("~/.ogbench/data")
"""Where OGBench puts what it downloads."""
_ADDRESS = "https://rail.eecs.berkeley.edu/datasets/ogbench"
_ROWS = ("observations", "actions", "terminals", "rewards", "masks", "valids", "next_observations")


def read_ogbench(ref: str | Path) -> OfflineData:
    """Read an npz file in any of the forms that OGBench has; see :func:`from_ogbench`.

    Args:
        ref: the file's path, or the name of a dataset that OGBench has downloaded, such as
            ``pointmaze-medium-navigate-v0``.

    Raises:
        NotFoundError: there is no such file.
        FormatError: it is not an npz file of plain arrays.
        DataError: as :func:`from_ogbench`.
    """
    path = _file_of(ref)
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in _ROWS if name in file.files}
    except Exception as error:  # of damaged bytes zipfile and NumPy raise nearly anything
        raise FormatError(f"'{path}' cannot be read as an npz file of arrays: {str(error)[:200]}.") from error
    return from_ogbench({**arrays, "dataset_id": path.name})


def from_ogbench(arrays: Mapping[str, Any]) -> OfflineData:
    """Take the arrays of an OGBench dataset, in any of its three forms.

    - As published: ``observations``, ``actions`` and ``terminals``. The row that ``terminals`` marks holds a
      trajectory's last state, and its action has no successor.
    - Regular, as ``ogbench.load_dataset`` returns it: with ``next_observations``, one row for each transition.
    - Compact, with ``valids``, which are 0 where a row holds a last state alone.

    A trajectory's end is a truncation, since OGBench cuts trajectories by length. ``masks``, which single-task datasets
    have, are 0 where the task is done, so that nothing is to be expected afterwards, although the trajectory may go
    on. Such a step is a termination, and another episode begins behind it. Where there are no ``rewards``, as in
    everything that is published for goals, they are zero.

    Raises:
        DataError: an array is missing or does not fit the others, observations are images, or actions are numbers of
            discrete ones.
    """
    name = str(arrays.get("dataset_id", "arrays"))
    missing = [key for key in ("observations", "actions", "terminals") if key not in arrays]
    if missing:
        raise DataError(f"'{name}' is no dataset of OGBench's: it lacks {', '.join(missing)}.")
    given = {key: np.asarray(arrays[key]) for key in _ROWS if key in arrays}
    count = len(given["observations"]) if given["observations"].ndim else 0
    for key, value in given.items():
        if value.shape[:1] != (count,) or not count:
            raise DataError(f"'{name}' has {key} of shape {value.shape}; expected {count} rows, and at least one.")
    if given["observations"].ndim > 2:
        raise DataError(
            f"'{name}' has observations of shape {given['observations'].shape[1:]}, which are images; students are "
            "networks for vectors, so use the dataset of the same name without 'visual'."
        )
    if given["actions"].dtype.kind != "f":
        raise DataError(f"'{name}' has {given['actions'].dtype} actions; only OGBench's continuous actions are read.")
    ends = given["terminals"] != 0
    if "next_observations" in given:
        rows, following = np.arange(count), given["next_observations"]
    else:
        is_last = given["valids"] == 0 if "valids" in given else ends.copy()
        is_last[-1] = True
        rows = np.flatnonzero(~is_last)
        if not len(rows):
            raise DataError(f"'{name}' has no transition: every row ends a trajectory.")
        following, ends = given["observations"][rows + 1], is_last[rows + 1]
    rewards = given.get("rewards", np.zeros(count, np.float32))
    done = given["masks"][rows] == 0 if "masks" in given else np.zeros(len(rows), bool)
    return from_arrays(
        {
            "dataset_id": name,
            "observations": given["observations"][rows],
            "actions": given["actions"][rows],
            "rewards": rewards[rows],
            "terminations": done,
            "truncations": ends & ~done,
            "next_observations": following,
        }
    )


def import_ogbench(
    ref: str | Path,
    dataset_id: str | None = None,
    *,
    env: str | None = None,
    license: str | None = None,
) -> str:
    """Write an OGBench dataset as a Minari dataset, and return its id.

    Args:
        ref: as for :func:`read_ogbench`.
        dataset_id: a new Minari id; ``ogbench/NAME-vN`` after the file's name if not given.
        env: plain registered Gymnasium id to evaluate in, such as ``pointmaze-medium-singletask-v0``; none if not
            given, since goal-conditioned environments show the goal apart from observations.
        license: the Hub's id of the data's licence.

    Raises:
        NotFoundError, FormatError, DataError: as :func:`read_ogbench`; the environment is not registered.
        DataError: the id is malformed or taken.
    """
    path = _file_of(ref)
    dataset_id = check_dataset_id(dataset_id or _id_of(path))
    if has_local_dataset(dataset_id):
        raise DataError(
            f"The Minari dataset '{dataset_id}' already exists; remove it with `minari delete {dataset_id}` or name "
            "another with --id."
        )
    check_known_license(license)
    if env is not None:
        check_environment_id(env)
    data = read_ogbench(path)
    starts = data.episode_starts.tolist()
    buffers = []
    for episode, (start, stop) in enumerate(zip(starts, [*starts[1:], len(data)], strict=True)):
        rows = slice(start, stop)
        buffers.append(
            episode_buffer(
                observations=np.concatenate([data.observations[rows], data.final_observations[episode][None]]),
                actions=data.actions[rows],
                rewards=data.rewards[rows].astype(np.float64),
                terminations=data.terminations[rows],
                truncations=data.truncations[rows],
            )
        )
    has_rewards = bool(data.rewards.any())
    write_dataset(
        dataset_id,
        buffers,
        observation_space=gym.spaces.Box(-np.inf, np.inf, data.observations.shape[1:], np.float32),
        action_space=gym.spaces.Box(data.action_low, data.action_high, dtype=np.float32),
        algorithm="OGBench",
        description=f"{len(data):,} steps of OGBench's {path.stem}"
        + ("." if has_rewards else ", which has no rewards; they are zero."),
        env_id=env,
        eval_env_id=env,
        metadata={"ogbench": path.name, "has_rewards": has_rewards, **({"license": license} if license else {})},
    )
    return dataset_id


def _file_of(ref: str | Path) -> Path:
    path = Path(ref).expanduser()
    if is_there(path) and path.is_file():
        return path
    kept = _FOLDER.expanduser() / f"{Path(ref).name.removesuffix('.npz')}.npz"
    if is_there(kept):
        return kept
    raise NotFoundError(
        f"There is no file '{str(ref)[:200]}', nor '{kept.name}' in {_FOLDER}; OGBench's datasets are at "
        f"{_ADDRESS}/NAME.npz, and `ogbench.download_datasets([NAME])` puts them there."
    )


def _id_of(path: Path) -> str:
    """``ogbench/x-v0`` for ``x-v0.npz``; the version goes behind ``val`` and whatever else follows it."""
    stem = re.sub(r"[^\w-]+", "-", path.stem, flags=re.ASCII).strip("-_") or "data"
    found = re.fullmatch(r"(.+)-(v\d+)(.*)", stem)
    return f"ogbench/{found[1]}{found[3]}-{found[2]}" if found else f"ogbench/{stem}-v0"
