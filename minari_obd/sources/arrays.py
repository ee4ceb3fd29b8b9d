"""Readers of plain arrays and of D4RL-style HDF5 files."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minari_obd.errors import DataError, FormatError, NotFoundError
from minari_obd.scores.references import ReferenceScores, reference_of
from minari_obd.sources.data import OfflineData
from minari_obd.storage.files import check_not_pointer, is_there
from minari_obd.support.discrete import one_hot

__all__ = [
    "ROWS",
    "action_bounds",
    "check_continuous",
    "find_reference",
    "flags_of",
    "from_arrays",
    "from_d4rl_file",
    "numbers_of",
]

ROWS = ("observations", "actions", "rewards", "terminations", "truncations")
"""The arrays that have one entry per step."""

_D4RL = ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations")
_NUMBER = int | float | np.integer | np.floating
_SCORES = ("ref_min_score", "ref_max_score")
NO_BOUND = float(np.finfo(np.float32).max) / 4
"""Bounds from here on are none: some spaces have the greatest float where they mean infinity."""


def check_continuous(name: str, dtype: np.dtype) -> None:
    """Refuse the actions of the dataset ``name`` if they are not real numbers.

    Raises:
        DataError: they are whole numbers or booleans.
    """
    if dtype.kind in "biu":
        kind = "boolean" if dtype.kind == "b" else "integer"
        raise DataError(
            f"'{name}' has {kind} actions. If they are discrete, give them as whole numbers, with their number as "
            "action_count; if they are continuous after all, as floats."
        )


def action_bounds(low: np.ndarray, high: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounds of the actions. Where there are none, they are the data's."""
    low = np.where(np.abs(low) < NO_BOUND, low, actions.min(axis=0))
    high = np.where(np.abs(high) < NO_BOUND, high, actions.max(axis=0))
    with np.errstate(over="ignore"):  # actions beyond float32 are refused, with their row, when the data is looked at
        return low.astype(np.float32), np.where(high > low, high, low + 1.0).astype(np.float32)


def find_reference(env_id: str | None, metadata: Mapping[str, Any]) -> ReferenceScores | None:
    """Return the reference scores of the dataset itself, or those in the table of its environment."""
    table = reference_of(env_id)
    given = (metadata.get(name) for name in _SCORES)
    low, high = (each.item() if isinstance(each, np.ndarray) and each.ndim == 0 else each for each in given)
    if not (isinstance(low, _NUMBER) and isinstance(high, _NUMBER) and -np.inf < low < high < np.inf):
        return table
    if table is not None and (low, high) == (table.random, table.expert):
        return table  # which says where the numbers come from
    return ReferenceScores(float(low), float(high), "the dataset's metadata")


def from_d4rl_file(path: Path) -> OfflineData:
    """Read a D4RL-style HDF5 file: flat ``observations``, ``actions``, ``rewards``, ``terminals`` and ``timeouts``.

    Raises:
        NotFoundError: the file does not exist.
        FormatError: the file is not HDF5, or an array is missing.
        DataError: as :func:`from_arrays`.
    """
    import h5py

    path = path.expanduser()
    if is_there(path) and path.is_dir():
        raise NotFoundError(f"'{path}' is a folder; give the path of a D4RL-style HDF5 file.")
    if not is_there(path):
        raise NotFoundError(f"There is no file '{str(path)[:200]}'; give the path of a D4RL-style HDF5 file.")
    check_not_pointer(path)
    try:
        with h5py.File(path, "r") as file:
            found = [str(name) for name in list(file)[:20]]
            arrays: dict[str, Any] = {name: _column(file, name) for name in _D4RL if name in file}
    except Exception as error:  # of damaged bytes h5py raises OSError, KeyError, RuntimeError, ValueError and more
        raise FormatError(f"'{path}' cannot be read as HDF5: {error}. Get it anew, if it is damaged.") from error
    missing = [name for name in ("observations", "actions", "rewards", "terminals") if name not in arrays]
    if missing:
        there = ", ".join(found) or "nothing"
        raise FormatError(
            f"'{path}' is not a D4RL-style file: it lacks {', '.join(missing)}. It has {there}; write its arrays under "
            "these names, or give them in a mapping."
        )
    if "timeouts" not in arrays:
        if "next_observations" not in arrays:
            _warn_of_ends(path.name, arrays["terminals"])
        arrays["timeouts"] = np.zeros(len(arrays["terminals"]), dtype=bool)
    return from_arrays({**arrays, "dataset_id": path.name})


def _column(file: Any, name: str) -> np.ndarray:
    value = np.asarray(file[name]) if hasattr(file[name], "shape") else None
    if value is None:
        raise ValueError(f"{name} is a group, where an array is expected")
    return value


def _warn_of_ends(name: str, terminals: np.ndarray) -> None:
    if terminals.ndim == 1 and len(terminals):
        ends = np.flatnonzero(terminals[:-1]) + 1
        longest = int(np.diff(np.r_[0, ends, len(terminals)]).max())
        warnings.warn(
            f"'{name}' has neither timeouts nor next_observations, so it does not say where episodes were cut off. It "
            f"was read as {len(ends) + 1:,} episode(s), the longest of {longest:,} steps; add timeouts if there were "
            "more.",
            stacklevel=2,
        )


def from_arrays(arrays: Mapping[str, Any]) -> OfflineData:
    """Take flat arrays. A last episode without an end is truncated, and termination wins over truncation.

    Where ``next_observations`` says that the next row is not a step's successor, an episode ends there. ``terminals``
    and ``timeouts``, as D4RL calls them, are taken for ``terminations`` and ``truncations``.

    Raises:
        DataError: an array is missing or does not fit the others.
    """
    aliases = {"terminations": "terminals", "truncations": "timeouts"}
    arrays = {**{ours: arrays[theirs] for ours, theirs in aliases.items() if theirs in arrays}, **arrays}
    missing = [name for name in ROWS if name not in arrays]
    if missing:
        raise DataError(f"Arrays of an offline dataset need {', '.join(ROWS)}; missing: {', '.join(missing)}.")
    name = str(arrays.get("dataset_id", "arrays"))
    rows = {key: numbers_of(f"'{name}'", key, arrays[key]) for key in ROWS}
    first = _discretise(name, arrays, rows)
    count = len(rows["observations"])
    if any(rows[key].ndim != 2 or 0 in rows[key].shape for key in ("observations", "actions")):
        raise DataError(
            f"'{name}' needs at least one step, observations (N, S) and actions (N, A); "
            f"got {rows['observations'].shape} and {rows['actions'].shape}."
        )
    for key, value in rows.items():
        if len(value) != count:
            raise DataError(f"'{name}' has {count} observations but {len(value)} {key}; each step needs one of each.")
        if key not in ("observations", "actions") and value.ndim != 1:
            raise DataError(f"'{name}' has {key} of shape {value.shape}; expected ({count},), such as {key}[:, 0].")
    terminations, truncations = (flags_of(f"'{name}'", key, rows[key]) for key in ("terminations", "truncations"))
    truncations &= ~terminations
    truncations[-1] |= not terminations[-1]
    following = arrays.get("next_observations")
    if following is not None:
        following = numbers_of(f"'{name}'", "next_observations", following)
        if following.shape != rows["observations"].shape:
            raise DataError(f"'{name}' has next_observations of shape {following.shape}; expected one per observation.")
        truncations |= _unmarked_ends(name, rows["observations"], following, terminations | truncations)
    ends = np.flatnonzero(terminations | truncations)
    finals = np.full((len(ends), rows["observations"].shape[1]), np.nan) if following is None else following[ends]
    spread = rows["actions"]
    inside = np.isfinite(spread).all() and np.abs(spread).max() <= 1.0
    unknown = np.full(spread.shape[1], np.inf)
    ones = np.ones(spread.shape[1])
    low, high = (-ones, ones) if inside else action_bounds(-unknown, unknown, spread)
    if first is not None:
        arrays, low = {key: value for key, value in arrays.items() if not key.startswith("action_")}, 0.0 * ones
    env_id = arrays.get("env_id")
    if env_id is not None and not isinstance(env_id, str):
        raise DataError(f"env_id is {env_id!r}; expected a Gymnasium id such as 'Hopper-v5'.")
    scores = {name: arrays[name] for name in _SCORES if arrays.get(name) is not None}
    if scores and find_reference(None, scores) is None:
        said = " and ".join(f"{key} {value!r}" for key, value in scores.items())
        raise DataError(f"'{name}' has {said}; expected both, as two numbers, the first below the second.")
    bounds = np.asarray(arrays.get("action_low", low)), np.asarray(arrays.get("action_high", high))
    data = OfflineData(
        dataset_id=name,
        observations=rows["observations"],
        actions=spread,
        rewards=rows["rewards"],
        terminations=terminations,
        truncations=truncations,
        final_observations=finals,
        action_low=bounds[0],
        action_high=bounds[1],
        env_id=env_id,
        reference=find_reference(env_id, arrays),
        license=arrays.get("license"),
        first_action=first,
    )
    _warn_of_odd_numbers(data, rows["observations"])
    return data


def _warn_of_odd_numbers(data: OfflineData, observations: np.ndarray) -> None:
    """Warn of actions outside their bounds, and of observations, as given, that float32 cannot tell from each other."""
    name, actions, low, high = (getattr(data, each) for each in ("dataset_id", "actions", "action_low", "action_high"))
    slack = 1e-4 * (high - low)
    outside = int(((actions < low - slack) | (actions > high + slack)).any(axis=1).sum())
    if outside:
        warnings.warn(
            f"'{name}' has {outside:,} of {len(actions):,} actions outside the given bounds; they are kept as they "
            "are, but policies act within the bounds.",
            stacklevel=4,
        )
    spread, size = np.ptp(observations, axis=0), np.abs(observations).max(axis=0)
    coarse = np.flatnonzero((spread > 0) & (spread < 1e-4 * size))
    if len(coarse):
        warnings.warn(
            f"'{name}' has observations that hardly differ beside their size (dimension {coarse[0]}: "
            f"{size[coarse[0]]:.4g}, within {spread[coarse[0]]:.4g}), and float32 keeps seven digits; subtract an "
            "offset, such as the first time stamp.",
            stacklevel=4,
        )


def _discretise(name: str, arrays: Mapping[str, Any], rows: dict[str, np.ndarray]) -> int | None:
    """Turn numbered actions, in ``rows``, into probabilities, and return the number of the first; None of continuous.

    Raises:
        DataError: as :func:`one_hot`, or whole numbers without ``action_count``.
    """
    count, first = arrays.get("action_count"), arrays.get("first_action", 0)
    if count is None:
        check_continuous(name, rows["actions"].dtype)
        return None
    if (
        not all(isinstance(each, int | np.integer) and not isinstance(each, bool) for each in (count, first))
        or count < 2
    ):
        raise DataError(
            f"'{name}' has action_count {count!r} and first_action {first!r}; expected whole numbers, 2 up."
        )
    rows["actions"] = one_hot(rows["actions"], int(count), int(first), name)
    return int(first)


def numbers_of(subject: str, key: str, given: Any) -> np.ndarray:
    """Return an array of numbers with an axis of steps.

    Args:
        subject: what has it, for the error.
        key: which of its arrays it is.
        given: the numbers.

    Raises:
        DataError: it is none.
    """
    if isinstance(given, Mapping):
        raise DataError(
            f"{subject} has {key} in parts ({', '.join(map(str, given))[:100]}); put their columns beside each other, "
            "as numpy.hstack does."
        )
    if isinstance(given, np.ma.MaskedArray) and given.mask.any():
        raise DataError(f"{subject} has {key} that are masked in part; give all values, or leave those steps out.")
    try:
        value = np.asarray(given)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged lists; tensors with gradients or on a GPU
        raise DataError(f"{subject} has {key} that cannot be read as an array: {str(error)[:200]}") from error
    if value.ndim == 0 or value.dtype.kind not in "biuf":
        raise DataError(f"{subject} has {value.dtype} of shape {value.shape} for {key}; expected arrays of numbers.")
    return value


def flags_of(subject: str, key: str, value: np.ndarray) -> np.ndarray:
    """Return flags as booleans.

    Raises:
        DataError: one is neither 0 nor 1, and says nothing about an episode's end.
    """
    odd = np.flatnonzero((value != 0) & (value != 1))
    if len(odd):
        raise DataError(
            f"{subject} has {value[odd[0]]} for {key} at step {odd[0]}, and {len(odd)} such value(s); expected 0 or 1."
        )
    return value.astype(bool)


def _unmarked_ends(name: str, observations: np.ndarray, following: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Flag the steps inside an episode whose known successor is not the next row, and say how many there are."""
    here, there = following[:-1], observations[1:]
    differ = ~np.isclose(here, there, rtol=1e-5, atol=1e-6) & np.isfinite(here) & np.isfinite(there)
    found = np.zeros(len(ends), dtype=bool)
    found[:-1] = differ.any(axis=1) & ~ends[:-1]
    if found.any():
        warnings.warn(
            f"'{name}' has {found.sum():,} of {len(found):,} steps whose next_observations is not the next row, and "
            f"which no flag marks; the first is step {np.flatnonzero(found)[0]}. An episode was ended at each of them.",
            stacklevel=4,
        )
    return found
