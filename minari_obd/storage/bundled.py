"""Bundled files: the teachers that come with the package, by the id of the data that they were trained on."""

from pathlib import Path

__all__ = ["TEACHERS_FOLDER", "bundled_teacher_file", "bundled_teacher_ids"]

_PACKAGE = Path(__file__).parent.parent

TEACHERS_FOLDER = _PACKAGE / "teachers" / "bundled"
"""Holds ``ENVIRONMENT-KIND.safetensors`` for ``obd-bench/ENVIRONMENT/KIND-v0``."""


def bundled_teacher_ids() -> list[str]:
    """Return the ids of the datasets that have a bundled teacher."""
    names = sorted(path.stem.split("-", 1) for path in TEACHERS_FOLDER.glob("*-*.safetensors"))
    return [f"obd-bench/{environment}/{kind}-v0" for environment, kind in names]


def bundled_teacher_file(dataset_id: str) -> Path | None:
    """Return the file of a dataset's bundled teacher; None if it has none."""
    if dataset_id not in bundled_teacher_ids():
        return None
    _, environment, kind = dataset_id.removesuffix("-v0").split("/")
    return TEACHERS_FOLDER / f"{environment}-{kind}.safetensors"
