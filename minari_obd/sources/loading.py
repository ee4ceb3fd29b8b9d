"""Loading: one function for every kind of offline data."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minari_obd.errors import DataError
from minari_obd.sources.arrays import from_arrays, from_d4rl_file
from minari_obd.sources.data import OfflineData
from minari_obd.sources.ogbench import read_ogbench
from minari_obd.sources.readers import from_minari, open_dataset

__all__ = ["load_offline_data"]


def load_offline_data(source: Any, *, download: bool = True, progress: bool = True) -> OfflineData:
    """Load an offline dataset.

    Args:
        source: a Minari id (a local one is read, an ``obd-bench/*`` one is built, any other is downloaded by Minari),
            a ``minari.MinariDataset``, the path of a D4RL-style HDF5 file or of an OGBench npz file, a mapping of
            arrays with the keys ``observations``, ``actions``, ``rewards``, ``terminations``, ``truncations`` (and
            optionally ``next_observations``, ``action_low``, ``action_high``, ``env_id``, ``dataset_id``,
            ``license``, ``ref_min_score``, ``ref_max_score``), or an :class:`OfflineData`. Arrays and files without
            bounds get -1 and 1 if all actions lie within. Discrete actions are whole numbers, (N,), beside
            ``action_count``, how many there are, and ``first_action``, 0 if not given.
        download: let Minari download an id that is not local.
        progress: show bars for long operations.

    Raises:
        NotFoundError: there is no such dataset. The message names the ids that exist.
        DataError: the data cannot be used (lengths, non-finite values, several discrete actions at once).
        FormatError: a file cannot be read.
    """
    if isinstance(source, OfflineData):
        return source
    if isinstance(source, Mapping):
        return from_arrays(source)
    if isinstance(source, str | Path) and str(source).lower().endswith(".npz"):
        return read_ogbench(source)
    if isinstance(source, Path) or (isinstance(source, str) and source.lower().endswith((".hdf5", ".h5"))):
        return from_d4rl_file(Path(source))
    if isinstance(source, str):
        return from_minari(open_dataset(source, download=download, progress=progress))
    if hasattr(source, "iterate_episodes"):
        return from_minari(source)
    is_distilled = type(source).__name__ == "DistilledDataset"  # whose class is above this one
    hint = " Its pairs are what distilling gives; clone them." if is_distilled else ""
    raise DataError(
        f"Cannot read offline data from {type(source).__name__}; give a Minari id or dataset, the path of an HDF5 or "
        f"npz file, or arrays.{hint}"
    )
