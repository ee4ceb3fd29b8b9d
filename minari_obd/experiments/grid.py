"""Grid: a benchmark's cells from one TOML file: datasets x methods and variants x sizes x seeds (x protocols)."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from minari_obd.errors import FormatError, SettingError
from minari_obd.registry import OBJECTIVES
from minari_obd.settings.checks import STRICT
from minari_obd.settings.parsing import parse_settings, read_toml
from minari_obd.settings.protocols import evaluation_protocol_by_name
from minari_obd.settings.recipe import Recipe, parse_recipe

__all__ = ["BASELINES", "Cell", "Grid", "load_grid"]

BASELINES = ("whole_data", "teacher")


_LONGEST_NAME = 40


_OF_THE_GRID = ("source", "method", "size", "seed")


# Settings that a variant may change. All rows share their teachers and are evaluated in the same way.
_OF_A_VARIANT = ("method", "values", "density", "on_policy", "student", "distillation", "student_states")


# Sections that decide a baseline's result. The rest of the recipe may change without running it again.
_DECIDES: dict[str, tuple[str, ...]] = {"whole_data": (), "teacher": ("teacher",)}


@dataclass(frozen=True)
class Cell:
    """One result of a bench, before it is made."""

    recipe: Recipe
    """Everything that decides the result."""
    kind: Literal["distilled", "whole_data", "teacher"]
    """Students cloned from pairs, students cloned from the whole dataset, or the teacher itself."""
    protocol: str | None = None
    """Name of another protocol by which distilled pairs are evaluated; None for the recipe's own."""
    variant: str | None = None
    """Name of the grid's variant. Names do not decide results."""

    @property
    def method(self) -> str:
        """The cell's row in the table: a method, a variant as ``sdw (NAME)``, or a baseline."""
        if self.kind != "distilled":
            return self.kind
        return self.recipe.method if self.variant is None else f"{self.recipe.method} ({self.variant})"

    @property
    def size(self) -> int | None:
        """Number of pairs; None for a baseline."""
        return self.recipe.size if self.kind == "distilled" else None

    @property
    def label(self) -> str:
        """Readable description of the cell."""
        pairs = f", {self.size} pairs" if self.size else ""
        protocol = f", {self.protocol}" if self.protocol else ""
        return f"{self.recipe.source}, {self.method}{pairs}, seed {self.recipe.seed}{protocol}"

    def needs_teacher(self) -> bool:
        """Return whether a teacher must be made first."""
        return self.kind == "distilled" and self.protocol is None and OBJECTIVES.get(self.recipe.method).needs_teacher

    def key(self, source_sha256: str, version: str) -> str:
        """Name the result after everything that decides it, including the source's content and the package version."""
        recipe = self.recipe.deciding()
        if self.kind != "distilled":
            shared = ("source", "seed", "device", "threads", "evaluation")
            recipe = {name: recipe[name] for name in (*shared, *_DECIDES[self.kind])}
        judged = [asdict(evaluation_protocol_by_name(self.protocol))] if self.protocol else []
        identity = json.dumps([self.kind, recipe, source_sha256, version, *judged], sort_keys=True)
        return hashlib.sha256(identity.encode()).hexdigest()[:20]


@dataclass(frozen=True)
class Grid:
    """A benchmark."""

    datasets: list[str]
    """Minari ids."""
    methods: list[str]
    """`random`, `kmeans`, `dbc`, `pbc`, `av_pbc`, `sdw`, `opw`, `vgd`, and the baselines `whole_data` and `teacher`."""
    sizes: list[int] = field(default_factory=lambda: [256])
    """Numbers of pairs."""
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    """Seeds of every random number, including those of the teacher's training."""
    recipe: dict[str, Any] = field(default_factory=dict)
    """All other settings, as in a recipe. `threads` is 1 if not given, so that cells can share a machine."""
    protocols: list[str] = field(default_factory=list)
    """Protocols by which the pairs of every cell are also evaluated, such as `layers_2`, `adamw`, `ensemble`."""
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Additional rows. Each name maps to a `method` and to its changes of the recipe, in `values`, `density`,
    `on_policy`, `student`, `distillation` or
    `student_states`."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    def __post_init__(self) -> None:
        for name in ("datasets", "methods", "sizes", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise SettingError(f"{name} is {values}; give a grid one or more, each once.")
        for name in _OF_THE_GRID:
            if name in self.recipe:
                raise SettingError(f"The grid's recipe sets '{name}', which the grid itself lists; remove it there.")
        if len(set(self.protocols)) != len(self.protocols):
            raise SettingError(f"protocols is {self.protocols}; give each once.")
        for name in self.protocols:
            evaluation_protocol_by_name(name)
        for method in self.methods:
            if method not in BASELINES:
                OBJECTIVES.check(method)
        for name, changes in self.variants.items():
            _check_variant(name, changes)

    def _rows(self) -> list["_Row"]:
        """Return the rows of the table. They include the teacher's if any row needs a teacher."""
        rows = [_Row(method, None, {}) for method in self.methods]
        for name, changes in self.variants.items():
            others = {key: value for key, value in changes.items() if key != "method"}
            rows.append(_Row(changes["method"], name, others))
        distilled = [row.method for row in rows if row.method not in BASELINES]
        needs_teacher = any(OBJECTIVES.get(method).needs_teacher for method in distilled)
        return rows + ([_Row("teacher", None, {})] if needs_teacher and "teacher" not in self.methods else [])

    def cells(self) -> list[Cell]:
        """Return every cell, each after the cells that it needs.

        Teachers are cells wherever a method needs one.

        Raises:
            FormatError: the recipe of the grid or of a variant is malformed. Each wrong key is named.
            SettingError: two rows are the same.
        """
        found: dict[str, Cell] = {}
        for source in self.datasets:
            for seed in self.seeds:
                for row in self._rows():
                    kind = row.method if row.method in BASELINES else "distilled"
                    origin = "the grid's recipe" if row.variant is None else f"the grid's variant '{row.variant}'"
                    for size in self.sizes if kind == "distilled" else self.sizes[:1]:
                        given = {"source": source, "seed": seed, "size": size}
                        given["method"] = row.method if kind == "distilled" else "random"
                        recipe = parse_recipe({"threads": 1, **_merged(self.recipe, row.changes), **given}, origin)
                        cell = Cell(recipe, kind, variant=row.variant)  # pyright: ignore[reportArgumentType]  # of three
                        same = found.setdefault(json.dumps([asdict(recipe), kind], sort_keys=True), cell)
                        if same is not cell:
                            raise SettingError(
                                f"The grid's rows '{same.method}' and '{cell.method}' are the same; leave one out."
                            )
        cells = sorted(found.values(), key=lambda cell: cell.kind != "teacher")
        return [
            *cells,
            *(replace(cell, protocol=name) for cell in cells if cell.kind == "distilled" for name in self.protocols),
        ]


class _Row(NamedTuple):
    """A row of the table."""

    method: str
    variant: str | None
    changes: dict[str, Any]
    """Changes of the grid's recipe."""


def _check_variant(name: str, changes: dict[str, Any]) -> None:
    if name != name.strip() or not name.isprintable() or "|" in name or not 0 < len(name) <= _LONGEST_NAME:
        raise SettingError(
            f"A variant is named {name!r}; a name needs 1 to {_LONGEST_NAME} printable characters, without '|' and "
            "without spaces at the ends."
        )
    if not isinstance(changes.get("method"), str) or changes["method"] in BASELINES:
        raise SettingError(f"The grid's variant '{name}' needs a method that distils, such as method = \"sdw\".")
    OBJECTIVES.check(changes["method"])
    for key in changes:
        if key not in _OF_A_VARIANT:
            raise SettingError(
                f"The grid's variant '{name}' has '{key}'; a variant may only have {', '.join(_OF_A_VARIANT)}, so that "
                "rows can be compared."
            )


def _merged(settings: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Merge changes into settings, table by table."""
    found = dict(settings)
    for name, value in changes.items():
        old = found.get(name)
        found[name] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return found


def load_grid(path: str | Path) -> Grid:
    """Read a grid from a TOML file.

    Raises:
        NotFoundError: the file does not exist, or a method is unknown.
        FormatError: the file is not TOML, or not a grid. The first wrong key is named.
    """
    values = read_toml(path, "grid", "recipes/bench/quick.toml")
    if "source" in values and "datasets" not in values:
        raise FormatError(f"'{path}' is a recipe, of one run; run it by `minari-obd run`, or name a grid.")
    grid = parse_settings(Grid, values, f"'{path}'")
    grid.cells()
    return grid
