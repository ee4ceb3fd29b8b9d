"""The import rules of the design, read from the source."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import minari_obd

PACKAGE = Path(minari_obd.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# Imports point upwards in this list and never down: a module imports only from rows before its own, or its own row.
LAYERS = [
    {"errors", "files", "interrupts", "progress"},
    {
        "registry",
        "statistics",
        "protocol",
        "recipe",
        "recipe_sections",
        "devices",
        "environments",
        "rollouts",
        "provenance",
        "published",
        "finetuning_recipe",
        "weights",
    },
    {"minari_storage"},
    {"benchmark", "benchmark.behaviour", "benchmark.collection", "benchmark.datasets"},
    {"offline", "offline_formats"},
    {
        "teachers",
        "teachers.frozen",
        "teachers.networks",
        "teachers.foreign",
        "teachers.loading",
        "teachers.actions",
        "teachers.calibration",
        "teachers.training",
        "teachers.transitions",
        "students",
        "distilled",
        "card",
        "coverage",
        "density_errors",
        "neighbours",
        "clustering",
    },
    {
        "densities",
        "densities.base",
        "densities.flow",
        "densities.mixture",
        "densities.neighbours",
        "densities.picture",
        "densities.weights",
    },
    {
        "objectives",
        "on_policy",
        "inner_gradient",
        "mlp_gradient",
        "inner_optimisers",
        "inner_loop",
        "cloning",
        "metadata",
        "folder",
        "evaluation_report",
    },
    {
        "outer_data",
        "outer_result",
        "outer_step",
        "outer_graph",
        "outer_checkpoint",
        "outer_loop",
        "hub",
        "minari_bridge",
        "d3rlpy_bridge",
        "simulation",
        "teachers.algorithms",
        "teachers.averaging",
        "teachers.d3rlpy_teacher",
        "teachers.repository",
        "evaluation",
        "finetuning_report",
        "finetuning_learner",
        "finetuning_networks",
        "finetuning_checkpoint",
        "continual_report",
    },
    {"plan", "assembly", "distillation", "loading", "grid", "finetuning", "continual_learning"},
    {
        "pipeline",
        "listing",
        "verification",
        "diagnostics",
        "diagnostics_report",
        "diagnostics_study",
        "bench",
        "bench_cell",
        "bench_densities",
        "bench_ray",
        "bench_table",
        "frames",
        "report",
        "report_figures",
        "report_diagnostics",
        "report_page",
        "report_tables",
        "report_teachers",
        "report_weights",
        "finetuning_grid",
        "continual_recipe",
    },
    {"cli", "cli_experiments"},
]
# DistilledDataset's methods hand over to the modules that do the work, inside the method, so that a user finds them.
HAND_OVERS = {
    ("distilled", "folder"),
    ("distilled", "hub"),
    ("distilled", "minari_bridge"),
    ("distilled", "d3rlpy_bridge"),
    ("distilled", "simulation"),
    ("folder", "minari_bridge"),
    ("teachers.frozen", "teachers.repository"),
    ("teachers.loading", "teachers.repository"),
}
ONLY_IN = {
    "d3rlpy": {"teachers.algorithms", "teachers.d3rlpy_teacher"},
    "huggingface_hub": {"hub"},
    "minari": {"minari_storage", "offline_formats", "minari_bridge", "distilled", "benchmark.collection"},
    "tyro": {"cli", "cli_experiments"},
    "ray": {"bench_ray"},
    "stable_baselines3": {"finetuning_learner", "finetuning_networks"},
}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def layer_of(module: str) -> int:
    return next(i for i, layer in enumerate(LAYERS) if module in layer)


def imports_of(path: Path) -> list[tuple[str, bool]]:
    """Imported modules, and whether the import stands inside a function; those for type checkers alone do not count."""
    tree = ast.parse(path.read_text())
    found = []

    def visit(node: ast.AST, inside: bool) -> None:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node, ast.ImportFrom) and node.module:
            found.append((node.module, inside))
        elif isinstance(node, ast.Import):
            found.extend((alias.name, inside) for alias in node.names)
        deeper = inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for child in ast.iter_child_nodes(node):
            visit(child, deeper)

    visit(tree, False)
    return found


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_one_way(path: Path) -> None:
    module = name_of(path)
    if module == "__init__":
        pytest.skip("the package itself imports lazily")
    for imported, inside in imports_of(path):
        if not imported.startswith("minari_obd."):
            continue
        target = imported.removeprefix("minari_obd.")
        if inside and (module, target) in HAND_OVERS:
            continue
        assert layer_of(target) <= layer_of(module), f"{module} imports {target}, which stands above it"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_library_is_imported_only_where_the_design_says(path: Path) -> None:
    for imported, _ in imports_of(path):
        allowed = ONLY_IN.get(imported.split(".")[0])
        assert allowed is None or name_of(path) in allowed, f"{name_of(path)} imports {imported}"


def test_only_environments_makes_environments() -> None:
    users = {name_of(path) for path in FILES if "gym.make(" in path.read_text()}
    assert users == {"environments"}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_can_be_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300


def test_nothing_is_unpickled() -> None:
    for path in FILES:
        text = path.read_text()
        assert "pickle" not in {name for name, _ in imports_of(path)}
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
