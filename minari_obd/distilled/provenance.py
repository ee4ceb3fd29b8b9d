"""Provenance: where a distilled dataset comes from, and on what terms it may be used."""

import re
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

__all__ = ["Provenance"]


@dataclass(frozen=True)
class Provenance:
    """Where a distilled dataset comes from; every value is JSON."""

    recipe: dict[str, Any]
    """The full recipe, defaults filled in."""
    method: str
    """How the pairs were made."""
    source: str
    """Id of the offline dataset."""
    source_sha256: str
    """Content hash of the offline dataset, see :attr:`OfflineData.content_sha256`."""
    source_steps: int
    """Steps in the offline dataset."""
    seed: int
    package_version: str
    created: str
    """UTC, ISO 8601."""
    teacher: dict[str, Any] | None = None
    """How the teacher was trained; None if the method needs none."""
    targets: dict[str, Any] = field(default_factory=dict)
    """What the targets' weights were made with, such as `sdw`'s alpha."""
    outer_step: int | None = None
    """Outer step that the pairs are from, or step of the kernel start where no outer ones follow; None for selected
    pairs."""
    offline_loss: float | None = None
    """Weighted squared action error of fresh students on held-out states."""
    stop_reason: str | None = None
    """Why the outer loop stopped."""
    history: list[dict[str, int | float]] = field(default_factory=list)
    """Looks at the held-out loss: step, held_out, training, gradient_norm, rate_factor."""
    device: str = "cpu"
    threads: int | None = None
    """CPU threads of torch: promises to the bit hold for one number of them."""
    precision: str = "float32"
    """Type of the products in the distiller's students: ``bfloat16``, ``tf32`` or ``float32``."""
    plugins: dict[str, str] = field(default_factory=dict)
    """Packages (``name version``) that brought the method, density, teacher or student, by what they brought; left out
    if this package has them all. Since format 3."""

    source_changed_settings: list[str] = field(default_factory=list)
    """Names of the settings in which the source's environment differed from the registered one; left out if in none.
    Since format 3."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {
        "extra": "forbid",
        "strict": True,
        "allow_inf_nan": False,
        "str_max_length": 10_000,
    }

    def without_folders(self) -> "Provenance":
        """Return what may be published: files that the recipe names by a path on this machine keep only their names."""
        recipe, teacher = dict(self.recipe), self.recipe.get("teacher")
        if isinstance(recipe.get("source"), str):
            recipe["source"] = _file_name(recipe["source"])
        if isinstance(teacher, dict) and isinstance(teacher.get("algorithm"), str):
            recipe["teacher"] = {**teacher, "algorithm": _file_name(teacher["algorithm"])}
        return replace(self, recipe=recipe)


_PATH = re.compile(r"(?:[~.]{0,2}|[A-Za-z]:)[/\\].*|.*\.(?:hdf5|h5|safetensors|pt|pth|zip)", re.IGNORECASE | re.DOTALL)


def _file_name(name: str) -> str:
    """The last part of a path; an id is returned as it is."""
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1] if _PATH.fullmatch(name) else name
