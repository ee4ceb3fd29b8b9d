"""The documentation runs: every Python block is executed, every command line parsed, every TOML block read.

A page's Python blocks share one namespace and run in order, in an empty folder. Two HTML comments, which readers do
not see, help where a page alone is not enough::

    <!-- setup
    ds = ...            # Python that runs here, before the blocks that follow
    -->

    <!-- not run: it takes hours -->      (the next block is compiled and its names checked, no more)

A Python block that begins with a comment ``# name.py`` is written to that file, and entry points in a TOML block are
installed, as a package of a reader's own would have them.
"""

import ast
import functools
import io
import os
import re
import shlex
import tomllib
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest
import tyro
from hub_server import HubServer

import minari_obd
from minari_obd.cli.application import main
from minari_obd.continual.recipe import load_continual
from minari_obd.experiments.grid import load_grid
from minari_obd.registry import TEACHERS
from minari_obd.settings.finetuning import FinetuningRecipe
from minari_obd.settings.protocols import EvaluationProtocol, StudentProtocol
from minari_obd.settings.recipe import load_recipe
from minari_obd.settings.sections import DistillationRecipe
from minari_obd.sources.benchmark import BenchmarkDataset
from minari_obd.sources.collecting import collect

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "recipes/README.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))
LANGUAGES = {"python", "sh", "toml", "json", "text"}
FARAMA = "mujoco/hopper/medium-v0"
"""A dataset of Farama's server, which a small one stands for."""
SMALLER = 500
"""Whole numbers from 1,000 up in a block, which are budgets of steps, are divided by this."""


class Block(NamedTuple):
    """A fenced block, or the Python in a setup comment."""

    page: str
    line: int
    """Of its first line of content, from 1."""
    language: str
    text: str
    is_run: bool = True


BLOCK = re.compile(
    r"^<!-- setup\n(?P<setup>.*?)^-->"
    r"|(?P<mark><!-- not run: [^\n]+ -->\n+)?^```(?P<language>[^\n]*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


def blocks_of(text: str, page: str) -> Iterator[Block]:
    for found in BLOCK.finditer(text):
        name = "text" if found["setup"] is None else "setup"
        line = text.count("\n", 0, found.start(name)) + 1
        yield Block(page, line, found["language"] or "python", found[name], found["mark"] is None)


BLOCKS = [block for page in PAGES for block in blocks_of(page.read_text(), str(page.relative_to(ROOT)))]


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


def shrink(monkeypatch: pytest.MonkeyPatch, settings: Any, **smaller: int) -> None:
    """Give fields of a dataclass other defaults."""
    names = [each.name for each in fields(settings) if each.init]
    defaults = list(settings.__init__.__defaults__ or ())
    for name, value in smaller.items():
        defaults[names.index(name) - len(names)] = value
    monkeypatch.setattr(settings.__init__, "__defaults__", tuple(defaults))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, hub: HubServer, tmp_path: Path) -> Iterator[None]:
    """Defaults that take seconds, an empty Hub on loopback, and an environment that forgets what a page sets."""
    shrink(monkeypatch, StudentProtocol, width=16, steps=5)
    shrink(monkeypatch, EvaluationProtocol, students=2, episodes=2)
    shrink(monkeypatch, DistillationRecipe, steps=3, batch_size=64)
    shrink(monkeypatch, FinetuningRecipe, warmup=50, batch_size=16, evaluate_every=100, episodes=2)
    for name in TEACHERS.builtin:
        monkeypatch.setitem(vars(TEACHERS.get(name)), "steps", 5)
    monkeypatch.setitem(BenchmarkDataset.build.__kwdefaults__, "steps", 700)
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


def command_lines(text: str) -> list[list[str]]:
    """The commands of a shell block, split into words; redirections are left out."""
    lines = text.replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    commands: list[list[str]] = []
    for line in words:
        commands.append([])
        for word in line:
            commands[-1].append(word) if word not in ("&&", "|", ";") else commands.append([])
    plain = [command[: command.index(">")] if ">" in command else command for command in commands]
    return [command for command in plain if command]


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The commands that the command line would have run; none is."""
    found: list[Any] = []
    real = tyro.extras.SubcommandApp.command

    def command(self: Any, function: Any = None, **options: Any) -> Any:
        if function is None:
            return lambda each: command(self, each, **options)

        @functools.wraps(function)
        def only_parsed(*_: Any, **__: Any) -> None:
            found.append(function)

        return real(self, only_parsed, **options)

    monkeypatch.setattr(tyro.extras.SubcommandApp, "command", command)
    return found


SHELL = [(b, words) for b in BLOCKS if b.language == "sh" for words in command_lines(b.text)]


@pytest.mark.parametrize(("block", "words"), SHELL, ids=[f"{b.page}:{b.line}-{' '.join(w[:2])}" for b, w in SHELL])
def test_command_lines_parse(block: Block, words: list[str], parsed: list[Any]) -> None:
    Path("recipes").symlink_to(ROOT / "recipes")
    for made in re.findall(r" > (\S+\.toml)", block.text):  # a recipe that an earlier command writes
        Path(made).write_text('source = "obd-bench/hopper/medium-v0"\n')
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    match words:
        case ["minari-obd", *arguments]:
            main(arguments)
            assert len(parsed) == 1
        case ["make", target]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        case ["pip", "install", *_, what]:
            extra = re.search(r"\[(.*)\]", what)
            assert not extra or set(extra[1].split(",")) <= set(project["optional-dependencies"])
        case [python, file, *_] if python.endswith("python") and file.endswith(".py"):
            assert (ROOT / file).is_file()
        case _:
            assert block.page == "CONTRIBUTING.md", f"{block.page}:{block.line}: what is {words}?"


INLINE = sorted(
    {" ".join(found.split()) for page in PAGES for found in re.findall(r"`minari-obd ([a-z][^`|]*)`", page.read_text())}
)


@functools.cache
def help_of(command: str) -> str:
    text = io.StringIO()
    with redirect_stdout(text), patch.dict(os.environ, COLUMNS="200"), pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0, command
    return text.getvalue()


@pytest.mark.parametrize("line", INLINE)
def test_commands_within_sentences_have_the_options_that_are_named(line: str) -> None:
    command, *words = shlex.split(line)
    known = help_of(command)
    for word in words:
        assert not word.startswith("--") or re.search(rf"{re.escape(word)}\b", known), f"{command} has no {word}"
        assert not word.startswith("recipes/") or (ROOT / word).is_file(), word


def test_a_command_line_that_is_wrong_fails(parsed: list[Any]) -> None:
    for wrong in ("evaluate out --episode 3", "evaluate", "destill x", "run --distillation.step 3"):
        with pytest.raises(SystemExit) as stop:
            main(shlex.split(wrong))
        assert stop.value.code == 2
    assert not parsed
