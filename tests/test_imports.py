"""The import rules of the design, read from the source."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

import minari_obd

PACKAGE = Path(minari_obd.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# From the bottom to the top: a file imports from its own package and from those before it, and never from one after it.
ORDER = [
    *("errors", "version", "registry"),  # the only modules beside the packages
    *("support", "storage", "settings", "scores", "environments"),
    # The way of the data.
    *(
        "sources",
        "dynamics",
        "teachers",
        "densities",
        "targets",
        "students",
        "distiller",
        "distilled",
        "cloning",
        "evaluation",
    ),
    # Whole runs.
    *("distillation", "inspection", "experiments", "finetuning", "continual", "cli"),
]
MOST_PACKAGES, MOST_MODULES, MOST_LINES = 21, 6, 300
# Imports inside functions: what a file defines needs an optional library, or takes long to import.
LATE = {("finetuning.run", "finetuning.loop"), ("support.libraries", "support.precision")}
ONLY_IN = {
    "d3rlpy": {
        "support.libraries",
        "teachers.batches",
        "distilled.d3rlpy",
        "distilled.dataset",
    },  # two for types
    "huggingface_hub": {"storage.hub", "storage.hub_errors", "storage.tokens"},
    "minari": {
        "storage.minari_datasets",
        "storage.downloads",
        "sources.readers",
        "distilled.minari",
        "distilled.dataset",
        "sources.collecting",
    },
    "tyro": {"cli.application", "cli.arguments"},
    "ray": {"experiments.ray"},
    "gymnasium_robotics": {"environments.making"},
    "trackio": {"support.tracking"},
    "wandb": {"support.tracking"},
    "stable_baselines3": {"finetuning.learner", "finetuning.networks"},
}


class Import(NamedTuple):
    """One import statement's target."""

    module: str
    """``minari_obd.`` is left out of the package's own."""
    is_ours: bool
    is_inside: bool
    """Whether it stands inside a function."""


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


NAMES = {name_of(path) for path in FILES}


def imports_of(path: Path) -> list[Import]:
    """What a file imports, for type checkers alone too."""
    found = []

    def visit(node: ast.AST, inside: bool) -> None:
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [each if each.removeprefix("minari_obd.") in NAMES else node.module for each in inner]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in dict.fromkeys(names):
            found.append(Import(name.removeprefix("minari_obd."), name.split(".")[0] == "minari_obd", inside))
        for child in ast.iter_child_nodes(node):
            visit(child, inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))

    visit(ast.parse(path.read_text()), False)
    return found


GRAPH = {name_of(p): {each.module for each in imports_of(p) if each.is_ours} for p in FILES if p.parent != PACKAGE}
GRAPH |= {name: set() for name in ("errors", "version", "registry")}


def upward() -> list[str]:
    rank = {name: number for number, name in enumerate(ORDER)}
    pairs = [(module, target) for module, targets in GRAPH.items() for target in targets]
    return [f"{m} imports {t}" for m, t in pairs if rank[t.split(".")[0]] > rank[m.split(".")[0]]]


def circle() -> list[str]:
    """One circle of imports among files; none if there is none."""
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_imports_point_one_way_and_never_in_a_circle() -> None:
    print(f"\n{len(GRAPH)} files: upward imports {upward()}, circle {circle()}")
    for name in ORDER[3:]:
        print((ast.get_docstring(ast.parse((PACKAGE / name / "__init__.py").read_text())) or "-").split("\n")[0])
    assert not upward()
    assert not circle()


def test_the_architecture_page_says_of_each_package_what_the_package_says() -> None:
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    for name in ORDER[3:]:
        said = (ast.get_docstring(ast.parse((PACKAGE / name / "__init__.py").read_text())) or "").split("\n")[0]
        assert f"| `{name}` | {said.partition(': ')[2].removesuffix('.')} |" in page, f"docs/architecture.md: {name}"


def test_the_house_is_small() -> None:
    packages = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert packages | modules == set(ORDER)
    assert len(packages) <= MOST_PACKAGES
    assert len(modules) <= MOST_MODULES


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_of_ours_is_imported_inside_a_function(path: Path) -> None:
    if path.parent.name == "cli":
        pytest.skip("commands import what they run, so that --help answers at once")
    late = {(name_of(path), each.module) for each in imports_of(path) if each.is_ours and each.is_inside}
    assert late <= LATE


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_library_is_imported_only_where_the_design_says(path: Path) -> None:
    for each in imports_of(path):
        allowed = ONLY_IN.get(each.module.split(".")[0])
        assert each.is_ours or allowed is None or name_of(path) in allowed, f"{name_of(path)} imports {each.module}"


def test_only_one_file_makes_environments() -> None:
    users = {name_of(path) for path in FILES if "gym.make(" in path.read_text()}
    assert users == {"environments.making"}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_can_be_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MOST_LINES


def test_nothing_is_unpickled() -> None:
    for path in FILES:
        text = path.read_text()
        assert "pickle" not in {each.module for each in imports_of(path)}
        assert "torch.load(" not in text or "weights_only=True" in text


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import minari_obd, sys; print([m for m in ('torch', 'd3rlpy', 'gymnasium', 'minari') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_public_name_can_be_reached_twice() -> None:
    assert set(minari_obd.__all__) == {"__version__", *minari_obd._EXPORTS}
    for name in minari_obd.__all__:
        assert getattr(minari_obd, name) is getattr(minari_obd, name)
        assert name in dir(minari_obd)
    with pytest.raises(AttributeError, match="no attribute 'destill'"):
        minari_obd.destill  # noqa: B018
