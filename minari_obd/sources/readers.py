"""Reader of Minari datasets."""

import contextlib
import json
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from minari_obd.environments.making import check_no_images, is_registered
from minari_obd.errors import DataError, FormatError, MissingExtraError, NotFoundError, SettingError, did_you_mean
from minari_obd.sources.arrays import ROWS, action_bounds, check_continuous, find_reference, flags_of, numbers_of
from minari_obd.sources.benchmark import BENCHMARK
from minari_obd.sources.data import OfflineData
from minari_obd.sources.fields import ObservationField, fields_of_space
from minari_obd.storage.building import alone
from minari_obd.storage.downloads import download as download_dataset
from minari_obd.storage.files import holds_instead, is_there
from minari_obd.storage.minari_datasets import (
    has_local_dataset,
    is_dataset_id,
    local_dataset_ids,
    minari_folder,
    open_local_dataset,
)
from minari_obd.support.discrete import one_hot
from minari_obd.support.licences import check_license

if TYPE_CHECKING:
    from minari import MinariDataset

__all__ = ["from_minari", "open_dataset"]


def open_dataset(dataset_id: str, *, download: bool, progress: bool) -> "MinariDataset":
    """Open a Minari dataset: read it from the user's folder, build an obd-bench one, or let Minari download it.

    Raises:
        NotFoundError: the dataset is neither on this machine nor where Minari looks.
    """
    if has_local_dataset(dataset_id):
        return open_local_dataset(dataset_id)
    if dataset_id in BENCHMARK:
        with alone(minari_folder(), dataset_id, lambda: _say_waiting(dataset_id)):
            try:
                if not has_local_dataset(dataset_id):  # otherwise another process has just built it
                    BENCHMARK[dataset_id].build(progress=progress)
            except DataError:
                if not has_local_dataset(dataset_id):  # where the folder has no locks, another may have been faster
                    raise
        return open_local_dataset(dataset_id)
    if is_there(dataset_id):
        raise NotFoundError(
            f"'{dataset_id}' is there, but not of a kind that is read; give an HDF5 file in D4RL's form, whose name "
            f"ends in .hdf5 or .h5, or a Minari id.{holds_instead(Path(dataset_id))}"
        )
    known = {*local_dataset_ids(), *BENCHMARK}
    if not is_dataset_id(dataset_id) or dataset_id.startswith("obd-bench/") or not download:
        if instead := holds_instead(Path(dataset_id)):
            raise NotFoundError(f"There is no offline dataset '{dataset_id}'.{instead}")
        raise NotFoundError(f"There is no dataset '{dataset_id}'; {did_you_mean(dataset_id, known)}")
    try:
        download_dataset(dataset_id)
    except Exception as error:  # anything that the network, the remote or Minari may raise
        raise NotFoundError(
            f"There is no dataset '{dataset_id}' here, and Minari could not download it ({_first_line(error)}); "
            + did_you_mean(dataset_id, known)
        ) from None  # the client's own error may quote an address with a password
    return open_local_dataset(dataset_id)


def _say_waiting(dataset_id: str) -> None:
    print(f"Another process is building '{dataset_id}'; waiting for it.", file=sys.stderr)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def from_minari(dataset: "MinariDataset") -> OfflineData:
    """Flatten a Minari dataset. Row t of an episode is (o_t, a_t, r_t), and o_T goes to ``final_observations``.

    Raises:
        DataError: actions are neither one Box nor Discrete, a space cannot be flattened, or an episode lacks T+1
            observations.
    """
    dataset_id = dataset.spec.dataset_id
    observation_space, action_space = dataset.observation_space, dataset.action_space
    if not isinstance(action_space, gym.spaces.Box | gym.spaces.Discrete):
        what = (
            "only one Box or Discrete is" if action_space.is_np_flattenable else "they cannot be made a vector, as is"
        )
        if isinstance(action_space, gym.spaces.MultiDiscrete | gym.spaces.MultiBinary):
            what = f"several discrete actions at once ({type(action_space).__name__}) are not"
        raise DataError(
            f"'{dataset_id}' has {action_space} for actions; {what} supported, so use a dataset with one Box or one "
            "Discrete of actions."
        )
    is_discrete = isinstance(action_space, gym.spaces.Discrete)
    if not is_discrete:
        check_continuous(dataset_id, action_space.dtype or np.dtype(np.float32))
    check_no_images(observation_space, dataset_id)
    if not observation_space.is_np_flattenable:
        raise DataError(
            f"The observations of '{dataset_id}' cannot be flattened to vectors; their space is {observation_space}."
        )
    flat = isinstance(observation_space, gym.spaces.Box) and len(observation_space.shape) == 1
    rows: dict[str, list[np.ndarray]] = {name: [] for name in ROWS}
    finals = []
    for episode in _episodes(dataset):
        length, subject = len(episode.rewards), f"Episode {episode.id} of '{dataset_id}'"
        if length == 0:
            continue
        actions = numbers_of(subject, "actions", episode.actions)
        actions = actions.reshape(length, -1) if len(actions) == length and actions.size else actions
        observations = episode.observations if flat else _flatten(observation_space, episode.observations, length + 1)
        observations = numbers_of(subject, "observations", observations)
        if len(observations) != length + 1 or len(actions) != length:
            raise DataError(
                f"{subject} has {len(observations)} observations and {len(actions)} actions for {length} rewards; "
                "expected T+1, T and T, which is Minari's standard."
            )
        kept = {name: numbers_of(subject, name, getattr(episode, name)) for name in ROWS[2:]}
        for name, value in kept.items():
            if value.shape != (length,):
                raise DataError(f"{subject} has {name} of shape {value.shape}; expected ({length},).")
        terminations, truncations = (flags_of(subject, name, kept[name]) for name in ("terminations", "truncations"))
        truncations &= ~terminations
        if not (terminations[-1] or truncations[-1]):
            truncations[-1] = True  # the recording stopped here
        for name, value in zip(
            ROWS, (observations[:-1], actions, kept["rewards"], terminations, truncations), strict=True
        ):
            rows[name].append(value)
        finals.append(observations[-1])
    if not finals:
        raise DataError(f"'{dataset_id}' is empty; at least one step is needed.")
    for name, parts in rows.items():
        if len({part.shape[1:] for part in parts}) > 1:
            raise DataError(f"'{dataset_id}' has {name} of different shapes in its episodes; expected one shape.")
    actions = np.concatenate(rows["actions"])
    first = int(action_space.start) if is_discrete else None
    if is_discrete:
        actions = one_hot(actions, int(action_space.n), int(action_space.start), dataset_id)
        low, high = np.zeros(actions.shape[1]), np.ones(actions.shape[1])
    else:
        low, high = action_bounds(action_space.low.reshape(-1), action_space.high.reshape(-1), actions)
    changed = _changed_settings(dataset)
    env_id = None if changed or dataset.env_spec is None else dataset.env_spec.id
    columns: dict[str, Any] = {name: actions if name == "actions" else np.concatenate(rows[name]) for name in ROWS}
    return OfflineData(
        dataset_id=dataset_id,
        **columns,
        final_observations=np.stack(finals),
        action_low=low,
        action_high=high,
        env_id=env_id,
        changed_settings=changed,
        reference=find_reference(env_id, dataset.storage.metadata),
        license=_license(dataset.storage.metadata.get("license")),
        flattened_from=None if flat else str(observation_space),
        observation_fields=_fields(observation_space, dataset.storage.metadata),
        first_action=first,
    )


def _fields(space: gym.Space, metadata: Mapping[str, Any]) -> tuple[ObservationField, ...]:
    """Return the parts of flattened observations: of the space, or those that `collect` noted when it flattened."""
    if not (isinstance(space, gym.spaces.Box) and len(space.shape) == 1):
        return tuple(fields_of_space(space))
    try:
        noted = [ObservationField(**each) for each in metadata.get("observation_fields", ())]
        return tuple(noted) if sum(each.size for each in noted) == space.shape[0] else ()
    except TypeError:  # anyone may have written the metadata; without the parts, the columns have no names
        return ()


def _changed_settings(dataset: "MinariDataset") -> tuple[str, ...]:
    """Return the names of the settings in which the environment differs from the registered one, and warn of them."""
    spec = dataset.env_spec
    with contextlib.suppress(MissingExtraError):  # then nothing can be evaluated in it anyway
        is_registered(spec.id if spec is not None else "")
    known = None if spec is None else gym.registry.get(spec.id)
    if spec is None or known is None or spec.entry_point is None:  # without entry point, the id alone was stored
        return ()
    names = (spec.kwargs.keys() | known.kwargs.keys()) - _SETTINGS_OF_PICTURES
    changed = sorted(name for name in names if _text(spec.kwargs.get(name)) != _text(known.kwargs.get(name)))
    changed += ["max_episode_steps"] if spec.max_episode_steps not in (None, known.max_episode_steps) else []
    if not changed:
        return ()
    warnings.warn(
        f"'{dataset.spec.dataset_id}' was collected in '{spec.id}' with other settings than are registered "
        f"({', '.join(changed)[:200]}). Such settings are never used, so the data names no environment here; to "
        "evaluate, register one with these settings and name it.",
        stacklevel=3,
    )
    return tuple(str(name)[:100] for name in changed[:20])


_SETTINGS_OF_PICTURES = {"render_mode", "width", "height", "camera_id", "camera_name", "default_camera_config"}


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=repr)


def _episodes(dataset: "MinariDataset") -> Iterator[Any]:
    """Read every episode, and make sure that there are as many steps as the dataset's metadata says.

    Raises:
        FormatError: a part of the dataset is missing or damaged.
    """
    dataset_id, steps = dataset.spec.dataset_id, 0
    advice = f"delete it with `minari delete {dataset_id}` and fetch or make it again"
    try:
        expected = int(dataset.total_steps)
        for episode in dataset.iterate_episodes():
            steps += len(episode.rewards)
            yield episode
    except Exception as error:  # of damaged files Minari raises whatever h5py, Arrow and its own parsers raise
        raise FormatError(
            f"The Minari dataset '{dataset_id}' is damaged or incomplete ({_first_line(error)}); {advice}."
        ) from error
    if steps < expected:
        raise FormatError(
            f"The Minari dataset '{dataset_id}' is incomplete: it has {steps:,} of {expected:,} steps; {advice}."
        )


def _flatten(space: gym.Space, observations: Any, count: int) -> np.ndarray:
    """Flatten a batch of observations of any flattenable space with Gymnasium's own utilities, row by row."""

    def row(value: Any, i: int) -> Any:
        if isinstance(value, dict):
            return {name: row(part, i) for name, part in value.items()}
        if isinstance(value, tuple):
            return tuple(row(part, i) for part in value)
        if len(value) != count:
            raise IndexError(f"a part of them has {len(value)} entries, where {count} are expected")
        return value[i]

    try:
        return np.stack([np.asarray(gym.spaces.flatten(space, row(observations, i))) for i in range(count)])
    except (IndexError, KeyError, TypeError) as error:
        raise DataError(f"Observations do not fit their space {space}: {error}.") from error


def _license(stated: Any) -> str | None:
    """Return the licence in a dataset's metadata if it is an id. Free text cannot be inherited."""
    try:
        return check_license(stated.lower()) if isinstance(stated, str) else None
    except SettingError:
        return None
