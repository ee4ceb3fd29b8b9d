"""Command lines in the documentation parse, and options that sentences name exist. None is run."""

import functools
import io
import itertools
import os
import re
import shlex
import tomllib
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import tyro
from doc_blocks import BLOCKS, PAGES, ROOT, Block

from minari_obd.cli.application import main


def command_lines(text: str) -> list[list[str]]:
    """The commands of a shell block, split into words; redirections are left out."""
    commands: list[list[str]] = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        for _, command in itertools.groupby(words, lambda word: word in ("&&", "|")):
            commands.append(list(itertools.takewhile(lambda word: word != ">", command)))
    return [command for command in commands if command not in ([], ["&&"], ["|"])]


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The commands that the command line would have run; none is."""
    found: list[Any] = []
    real = tyro.extras.SubcommandApp.command

    def command(self: Any, function: Any = None, **options: Any) -> Any:
        if function is None:
            return lambda each: command(self, each, **options)

        @functools.wraps(function)
        def only_parsed(*_: Any, **__: Any) -> Callable[[], None]:
            found.append(function)
            return lambda: None

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
        case [python, "-m", "pytest", "-m", "cuda"] if python.endswith("python"):
            pass
        case _:
            assert block.page == "CONTRIBUTING.md", f"{block.page}:{block.line}: what is {words}?"


INLINE = {
    " ".join(line.split()) for page in PAGES for line in re.findall(r"`minari-obd ([a-z][^`|]*)`", page.read_text())
}


@functools.cache
def help_of(*command: str) -> str:
    text = io.StringIO()
    with redirect_stdout(text), patch.dict(os.environ, COLUMNS="200"), pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0, command
    return text.getvalue()


@pytest.mark.parametrize("line", sorted(INLINE))
def test_commands_within_sentences_have_the_options_that_are_named(line: str) -> None:
    command, *words = shlex.split(line)
    known = help_of(command) + help_of()  # the latter has the options of every command
    for word in words:
        assert not word.startswith("--") or re.search(rf"{re.escape(word)}\b", known), f"{command} has no {word}"
        assert not word.startswith("recipes/") or (ROOT / word).is_file(), word


def test_a_command_line_that_is_wrong_fails(parsed: list[Any]) -> None:
    for wrong in ("evaluate out --episode 3", "evaluate", "destill x", "run --distillation.step 3"):
        with pytest.raises(SystemExit) as stop:
            main(shlex.split(wrong))
        assert stop.value.code == 2
    assert not parsed
