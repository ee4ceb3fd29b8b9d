"""Readers of Minari datasets, D4RL-style HDF5 files and plain arrays. Each returns aligned rows."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from minari_obd.errors import DataError, FormatError, NotFoundError, SettingError, did_you_mean
from minari_obd.scores.references import REFERENCE_SCORES, ReferenceScores, reference_scores
from minari_obd.sources.benchmark import BENCHMARK
from minari_obd.sources.data import OfflineData
from minari_obd.storage.minari_datasets import has_local_dataset, is_dataset_id, local_dataset_ids, open_local_dataset
from minari_obd.support.licences import check_license

if TYPE_CHECKING:
    from minari import MinariDataset

__all__ = ["from_arrays", "from_d4rl_file", "from_minari", "open_dataset"]


def open_dataset(dataset_id: str, *, download: bool, progress: bool) -> "MinariDataset":
    """Open a Minari dataset: read it from the user's folder, build an obd-bench one, or let Minari download it.

    Raises:
        NotFoundError: the dataset is neither on this machine nor where Minari looks.
    """
    import minari

    if has_local_dataset(dataset_id):
        return open_local_dataset(dataset_id)
    if dataset_id in BENCHMARK:
        BENCHMARK[dataset_id].build(progress=progress)
        return open_local_dataset(dataset_id)
    known = {*local_dataset_ids(), *BENCHMARK}
    if not is_dataset_id(dataset_id) or dataset_id.startswith("obd-bench/") or not download:
        raise NotFoundError(f"There is no dataset '{dataset_id}'; {did_you_mean(dataset_id, known)}")
    try:
        minari.download_dataset(dataset_id)
    except Exception as error:  # anything that the network, the remote or Minari may raise
        raise NotFoundError(
            f"There is no dataset '{dataset_id}' here, and Minari could not download it ({_first_line(error)}); "
            + did_you_mean(dataset_id, known)
        ) from None  # the client's own error may quote an address with a password
    return open_local_dataset(dataset_id)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def from_minari(dataset: "MinariDataset") -> OfflineData:
    """Flatten a Minari dataset. Row t of an episode is (o_t, a_t, r_t), and o_T goes to ``final_observations``.

    Raises:
        DataError: actions are discrete, a space cannot be flattened, or an episode lacks T+1 observations.
    """
    dataset_id = dataset.spec.dataset_id
    observation_space, action_space = dataset.observation_space, dataset.action_space
    if not isinstance(action_space, gym.spaces.Box):
        raise DataError(
            f"'{dataset_id}' has {action_space} for actions; discrete actions are not supported yet, "
            "so use a dataset with continuous (Box) actions."
        )
    if not observation_space.is_np_flattenable:
        raise DataError(
            f"The observations of '{dataset_id}' cannot be flattened to vectors; their space is {observation_space}."
        )
    flat = isinstance(observation_space, gym.spaces.Box) and len(observation_space.shape) == 1
    rows: dict[str, list[np.ndarray]] = {name: [] for name in _ROWS}
    finals = []
    for episode in dataset.iterate_episodes():
        length = len(episode.rewards)
        if length == 0:
            continue
        actions = np.asarray(episode.actions).reshape(length, -1) if len(episode.actions) == length else episode.actions
        observations = episode.observations if flat else _flatten(observation_space, episode.observations, length + 1)
        if len(observations) != length + 1 or len(actions) != length:
            raise DataError(
                f"Episode {episode.id} of '{dataset_id}' has {len(observations)} observations and {len(actions)} "
                f"actions for {length} rewards; expected T+1, T and T, which is Minari's standard."
            )
        terminations = np.asarray(episode.terminations, dtype=bool)
        truncations = np.asarray(episode.truncations, dtype=bool) & ~terminations
        if not (terminations[-1] or truncations[-1]):
            truncations = truncations.copy()
            truncations[-1] = True  # the recording stopped here
        for name, value in zip(
            _ROWS, (observations[:-1], actions, episode.rewards, terminations, truncations), strict=True
        ):
            rows[name].append(np.asarray(value))
        finals.append(observations[-1])
    if not finals:
        raise DataError(f"'{dataset_id}' is empty; at least one step is needed.")
    actions = np.concatenate(rows["actions"])
    low, high = _bounds(action_space.low.reshape(-1), action_space.high.reshape(-1), actions)
    env_id = dataset.env_spec.id if dataset.env_spec is not None else None
    return OfflineData(
        dataset_id=dataset_id,
        **{name: np.concatenate(rows[name]) for name in _ROWS},
        final_observations=np.stack(finals),
        action_low=low,
        action_high=high,
        env_id=env_id,
        reference=_reference(env_id, dataset.storage.metadata),
        license=_license(dataset.storage.metadata.get("license")),
        flattened_from=None if flat else str(observation_space),
    )


_ROWS = ("observations", "actions", "rewards", "terminations", "truncations")


def _flatten(space: gym.Space, observations: Any, count: int) -> np.ndarray:
    """Flatten a batch of observations of any flattenable space with Gymnasium's own utilities, row by row."""

    def row(value: Any, i: int) -> Any:
        if isinstance(value, dict):
            return {name: row(part, i) for name, part in value.items()}
        if isinstance(value, tuple):
            return tuple(row(part, i) for part in value)
        return value[i]

    try:
        return np.stack([np.asarray(gym.spaces.flatten(space, row(observations, i))) for i in range(count)])
    except (IndexError, KeyError, TypeError) as error:
        raise DataError(f"Observations do not fit their space {space}: {error}.") from error


def _bounds(low: np.ndarray, high: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounds of the actions. Where the space has none, they are the data's."""
    low = np.where(np.isfinite(low), low, actions.min(axis=0))
    high = np.where(np.isfinite(high), high, actions.max(axis=0))
    return low.astype(np.float32), np.where(high > low, high, low + 1.0).astype(np.float32)


def _license(stated: Any) -> str | None:
    """Return the licence in a dataset's metadata if it is an id. Free text cannot be inherited."""
    try:
        return check_license(stated.lower()) if isinstance(stated, str) else None
    except SettingError:
        return None


def _reference(env_id: str | None, metadata: Mapping[str, Any]) -> ReferenceScores | None:
    """Return the environment's reference scores from the table, otherwise those of the dataset itself."""
    if env_id is not None and env_id.rsplit("-v", 1)[0] in REFERENCE_SCORES:
        return reference_scores(env_id)
    low, high = metadata.get("ref_min_score"), metadata.get("ref_max_score")
    if not isinstance(low, int | float) or not isinstance(high, int | float) or not low < high:
        return None
    return ReferenceScores(float(low), float(high), "the dataset's metadata")


def from_d4rl_file(path: Path) -> OfflineData:
    """Read a D4RL-style HDF5 file: flat ``observations``, ``actions``, ``rewards``, ``terminals`` and ``timeouts``.

    Raises:
        NotFoundError: the file does not exist.
        FormatError: the file is not HDF5, or an array is missing.
    """
    import h5py

    if not path.is_file():
        raise NotFoundError(f"There is no file '{path}'; give the path of a D4RL-style HDF5 file.")
    try:
        with h5py.File(path, "r") as file:
            arrays: dict[str, Any] = {name: np.asarray(file[name]) for name in _D4RL if name in file}
    except OSError as error:
        raise FormatError(f"'{path}' cannot be read as HDF5: {error}.") from error
    missing = [name for name in ("observations", "actions", "rewards", "terminals") if name not in arrays]
    if missing:
        raise FormatError(f"'{path}' is not a D4RL-style file: it lacks {', '.join(missing)}.")
    arrays["terminations"] = arrays.pop("terminals").astype(bool)
    arrays["truncations"] = arrays.pop("timeouts", np.zeros_like(arrays["terminations"])).astype(bool)
    return from_arrays({**arrays, "dataset_id": path.name})


_D4RL = ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations")


def from_arrays(arrays: Mapping[str, Any]) -> OfflineData:
    """Take flat arrays. A last episode without an end is truncated, and termination wins over truncation.

    Raises:
        DataError: an array is missing or does not fit the others.
    """
    missing = [name for name in _ROWS if name not in arrays]
    if missing:
        raise DataError(f"Arrays of an offline dataset need {', '.join(_ROWS)}; missing: {', '.join(missing)}.")
    rows = {name: np.asarray(arrays[name]) for name in _ROWS}
    name = str(arrays.get("dataset_id", "arrays"))
    for key, value in rows.items():
        if value.ndim == 0 or value.dtype.kind not in "biuf":
            raise DataError(f"'{name}' has {value.dtype} of shape {value.shape} for {key}; expected arrays of numbers.")
    if np.issubdtype(rows["actions"].dtype, np.integer):
        raise DataError(f"'{name}' has integer actions; discrete actions are not supported yet, so give floats.")
    count = len(rows["observations"])
    if count == 0 or rows["observations"].ndim != 2 or rows["actions"].ndim != 2:
        raise DataError(
            f"'{name}' needs at least one step, observations (N, S) and actions (N, A); "
            f"got {rows['observations'].shape} and {rows['actions'].shape}."
        )
    for key, value in rows.items():
        if len(value) != count:
            raise DataError(f"'{name}' has {count} observations but {len(value)} {key}; each step needs one of each.")
    terminations = rows["terminations"].astype(bool)
    truncations = rows["truncations"].astype(bool) & ~terminations
    truncations[-1] |= not terminations[-1]
    ends = np.flatnonzero(terminations | truncations)
    following = arrays.get("next_observations")
    if following is not None and np.shape(following) != rows["observations"].shape:
        raise DataError(f"'{name}' has next_observations of shape {np.shape(following)}; expected one per observation.")
    finals = (
        np.full((len(ends), rows["observations"].shape[1]), np.nan)
        if following is None
        else np.asarray(following)[ends]
    )
    spread = rows["actions"]
    inside = np.isfinite(spread).all() and np.abs(spread).max() <= 1.0
    unknown = np.full(spread.shape[1], np.inf)
    low, high = (-np.ones(spread.shape[1]), np.ones(spread.shape[1])) if inside else _bounds(-unknown, unknown, spread)
    env_id = arrays.get("env_id")
    if env_id is not None and not isinstance(env_id, str):
        raise DataError(f"env_id is {env_id!r}; expected a Gymnasium id such as 'Hopper-v5'.")
    return OfflineData(
        dataset_id=name,
        **{**rows, "terminations": terminations, "truncations": truncations},
        final_observations=finals,
        action_low=np.asarray(arrays.get("action_low", low)),
        action_high=np.asarray(arrays.get("action_high", high)),
        env_id=env_id,
        reference=_reference(env_id, {}),
        license=arrays.get("license"),
    )
