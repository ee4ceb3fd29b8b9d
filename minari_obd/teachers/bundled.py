"""Bundled teachers: those that come with the package, so that nobody trains one to try it."""

from pathlib import Path
from typing import Any

from minari_obd.errors import NotFoundError
from minari_obd.storage.bundled import bundled_teacher_file, bundled_teacher_ids
from minari_obd.teachers.frozen import FrozenTeacher, read_details, read_teacher

__all__ = ["bundled_teacher", "bundled_teacher_details", "find_bundled_teacher"]


def find_bundled_teacher(dataset_id: str) -> Path:
    """Return the file of the teacher that comes with the package for an obd-bench dataset.

    Raises:
        NotFoundError: the dataset has none. The message names those that have one.
    """
    path = bundled_teacher_file(dataset_id)
    if path is None:
        raise NotFoundError(
            f"There is no bundled teacher for '{dataset_id}', only for {', '.join(bundled_teacher_ids())}; name an "
            "algorithm to train one, such as teacher.algorithm = 'bc', or where a saved teacher is."
        )
    return path


def bundled_teacher(dataset_id: str) -> FrozenTeacher:
    """Load the teacher that comes with the package for an obd-bench dataset.

    Raises:
        NotFoundError: as :func:`find_bundled_teacher`.
    """
    return read_teacher(find_bundled_teacher(dataset_id))


def bundled_teacher_details() -> dict[str, dict[str, Any]]:
    """Return what each bundled teacher's file says of it, by the id of its dataset."""
    return {dataset_id: read_details(find_bundled_teacher(dataset_id)) for dataset_id in bundled_teacher_ids()}
