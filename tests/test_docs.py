"""The documentation runs: every Python block is executed, every TOML block read.

A page's Python blocks share one namespace and run in order, in an empty folder, after what :mod:`doc_blocks` calls
their setup. A block that begins with a comment ``# name.py`` is written to that file, and entry points in a TOML block
are installed, as a package of a reader's own would have them.
"""

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from conftest import shrink
from doc_blocks import BLOCKS, PAGES, ROOT, Block, blocks_of
from hub_server import HubServer

import minari_obd
from minari_obd.cloning.imitation import imitate
from minari_obd.continual.recipe import load_continual
from minari_obd.dynamics.fitting import DynamicsSettings
from minari_obd.experiments.grid import load_grid
from minari_obd.registry import TEACHERS
from minari_obd.settings.finetuning import FinetuningRecipe
from minari_obd.settings.protocols import EvaluationProtocol, StudentProtocol
from minari_obd.settings.recipe import Recipe, load_recipe
from minari_obd.settings.sections import DistillationRecipe
from minari_obd.sources.benchmark import BenchmarkDataset
from minari_obd.sources.collecting import collect

LANGUAGES = {"python", "sh", "toml", "json", "text"}
FARAMA = "mujoco/hopper/medium-v0"
"""A dataset of Farama's server, which a small one stands for."""
SMALLER = 500
"""Whole numbers from 1,000 up in a block, which are budgets of steps, are divided by this."""


class Smaller(ast.NodeTransformer):
    """The same program with budgets that a test can afford, on the CPU."""

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        value = node.value
        if type(value) is int and value >= 1_000:
            value = max(value // SMALLER, 2)
        return ast.copy_location(ast.Constant("cpu" if value == "cuda" else value), node)


def check_names(tree: ast.AST) -> None:
    """Attributes of ``minari_obd`` are public; what is imported from its modules is there."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "minari_obd":
            assert node.attr in minari_obd.__all__, f"line {node.lineno}: minari_obd.{node.attr} is not public"
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "minari_obd":
            for alias in node.names:
                assert hasattr(import_module(str(node.module)), alias.name), f"{node.module} has no {alias.name}"


def run_block(block: Block, namespace: dict[str, Any]) -> None:
    """Compile a Python block, check its names, and run it unless it is marked."""
    tree = ast.increment_lineno(ast.parse(block.text, block.page), block.line - 1)
    check_names(tree)
    small = ast.fix_missing_locations(Smaller().visit(tree))
    code = compile(small, block.page, "exec")
    if block.is_run and (file := re.match(r"# (\w+\.py)\n", block.text)):
        Path(file[1]).write_text(ast.unparse(small))
    elif block.is_run:
        exec(code, namespace)


def install_entry_points(text: str) -> None:
    """Install the entry points of a ``pyproject.toml`` in the current folder, if it has any."""
    groups = tomllib.loads(text).get("project", {}).get("entry-points", {})
    if groups:
        folder = Path("extras-1.0.dist-info")
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: extras\nVersion: 1.0\n")
        lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in names.items()) for group, names in groups.items()]
        (folder / "entry_points.txt").write_text("\n".join(lines))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, hub: HubServer, tmp_path: Path) -> Iterator[None]:
    """Defaults that take seconds, an empty Hub on loopback, and an environment that forgets what a page sets."""
    shrink(monkeypatch, StudentProtocol, width=16, steps=5)
    shrink(monkeypatch, Recipe, student=StudentProtocol(optimiser="adam", learning_rate=1e-3))
    shrink(monkeypatch, DynamicsSettings, width=16, updates=20, evaluate_every=10)
    monkeypatch.setitem(imitate.__kwdefaults__ or {}, "protocol", StudentProtocol(width=16, steps=5, batch_size=16))
    shrink(monkeypatch, EvaluationProtocol, students=2, episodes=2)
    shrink(monkeypatch, DistillationRecipe, steps=3, batch_size=64)
    shrink(monkeypatch, FinetuningRecipe, warmup=50, batch_size=16, evaluate_every=100, episodes=2)
    for name in TEACHERS.builtin:
        monkeypatch.setitem(vars(TEACHERS.get(name)), "steps", 5)
    monkeypatch.setattr(BenchmarkDataset.build, "__kwdefaults__", {"steps": 700, "seed": 0, "progress": False})
    monkeypatch.syspath_prepend(str(tmp_path))
    with patch.dict(os.environ):
        yield


@pytest.mark.parametrize("page", sorted({b.page for b in BLOCKS if b.language == "python"}))
def test_python_blocks_run(page: str, small: None) -> None:
    blocks = [block for block in BLOCKS if block.page == page]
    if any(FARAMA in block.text for block in blocks):
        collect(FARAMA, "Hopper-v5", "random", steps=700, progress=False)
    namespace: dict[str, Any] = {"__name__": "page"}
    for block in blocks:
        if block.language == "python":
            run_block(block, namespace)
        elif block.language == "toml":
            install_entry_points(block.text)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("1 / 0", ZeroDivisionError),
        ("minari_obd.destill('x')", AssertionError),
        ("from minari_obd.errors import Nothing", AssertionError),
        ("def", SyntaxError),
    ],
)
def test_a_broken_block_fails(text: str, error: type[Exception]) -> None:
    (block,) = blocks_of(f"# Page\n\n```python\n{text}\n```\n", "page")
    with pytest.raises(error):
        run_block(block, {})


def test_a_marked_block_is_not_run_but_compiled_and_its_names_are_checked() -> None:
    def marked(text: str) -> Block:
        (block,) = blocks_of(f"<!-- not run: no reason -->\n\n```python\n{text}\n```\n", "page")
        return block

    run_block(marked("1 / 0"), {})
    with pytest.raises(SyntaxError):
        run_block(marked("def"), {})
    with pytest.raises(AssertionError, match="not public"):
        run_block(marked("minari_obd.destill()"), {})


def test_setup_is_run_before_what_follows_and_numbers_are_made_small() -> None:
    namespace: dict[str, Any] = {}
    for block in blocks_of("<!-- setup\n\nx = 1\n-->\n```python\ny = x + 100_000\n```\n", "page"):
        run_block(block, namespace)
    assert namespace["y"] == 1 + 100_000 // SMALLER


def test_the_language_of_every_block_is_known() -> None:
    fences = [b for b in BLOCKS if not b.language.startswith("{")]  # {...} is a directive of Sphinx
    assert {b.language for b in fences} <= LANGUAGES
    for page in PAGES:  # no fence escapes the pattern: an indented one, a longer one, one that nobody closes
        text = page.read_text()
        here = [b for b in BLOCKS if b.page == str(page.relative_to(ROOT))]
        marks = len(re.findall(r"^\s*(```|~~~)", text, re.MULTILINE))
        comments = len(re.findall(r"^\s*<!--\s*setup", text, re.MULTILINE))
        assert marks == 2 * (len(here) - comments), page
        assert len(re.findall(r"^\s*<!--\s*not.run", text, re.MULTILINE)) == sum(not b.is_run for b in here), page


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "toml"], ids=lambda b: f"{b.page}:{b.line}")
def test_toml_blocks_are_recipes_grids_or_entry_points(block: Block) -> None:
    keys = tomllib.loads(block.text)
    path = Path("block.toml")
    path.write_text(block.text)
    if "project" in keys:
        assert all(group.startswith("minari_obd.") for group in keys["project"]["entry-points"])
    elif "datasets" in keys:
        load_grid(path)
    elif "tasks" in keys:
        load_continual(path)
    else:
        path.write_text(block.text if "source" in keys else f'source = "obd-bench/hopper/medium-v0"\n{block.text}')
        load_recipe(path)


def test_formulas_need_no_network(tmp_path: Path) -> None:
    """Every formula of the documentation is written as MathML, and its page fetches nothing."""
    text = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    formulas = re.findall(r"\$\$.+?\$\$|\$[^$\n]+\$", text, re.DOTALL)
    (tmp_path / "index.md").write_text("# Formulas\n\n" + "\n\n".join(formulas), encoding="utf-8")
    settings = ["-q", "-W", "-c", str(ROOT / "docs"), "-D", "html_theme=basic"]
    subprocess.run([sys.executable, "-m", "sphinx", *settings, str(tmp_path), str(tmp_path / "html")], check=True)
    page = (tmp_path / "html" / "index.html").read_text(encoding="utf-8")
    assert page.count("<math ") == len(formulas) > 0
    assert not re.findall(r'<(?:script|link)[^>]*"(?:https?:)?//[^>]*>', page)
