"""HDF5 files of many short episodes, in little room."""

from pathlib import Path
from typing import Any, cast

import h5py

__all__ = ["repack"]


def repack(path: Path) -> None:
    """Write an HDF5 file again with contiguous arrays: each chunked one takes kilobytes for its index alone."""
    packed = path.with_suffix(".packed")
    with h5py.File(path, "r") as old, h5py.File(packed, "w", libver=("v108", "v108")) as new:
        for name in old:
            group = cast(h5py.Group, old[name])

            def copy(key: str, value: h5py.Dataset | h5py.Group, name: Any = name) -> None:
                if isinstance(value, h5py.Dataset):
                    new.create_dataset(f"{name}/{key}", data=value[()])
                else:
                    new.require_group(f"{name}/{key}")

            group.visititems(copy)
            for key, value in group.attrs.items():
                new[name].attrs[key] = value
    packed.replace(path)
