"""Files for those who work on the package agree with it: version, Python versions, checks, citation, templates."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet

import minari_obd

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PYTHONS = [p.rsplit(" ", 1)[1] for p in PROJECT["classifiers"] if re.fullmatch(r".*Python :: 3\.\d+", p)]


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


def test_the_citation_is_of_this_version_and_names_both_papers() -> None:
    citation = read("CITATION.cff")
    assert {"cff-version", "message", "title", "authors", "version"} <= set(citation)
    assert citation["version"] == minari_obd.__version__
    assert citation["license"] == PROJECT["license"]
    assert citation["repository-code"] == PROJECT["urls"]["Source"]
    papers = {each["identifiers"][0]["value"] for each in citation["references"]}
    assert papers == {"arXiv:2410.22728", "arXiv:2512.06692"}
    assert all(each["authors"] and each["title"] and each["type"] for each in citation["references"])


def test_the_changelog_has_this_version_and_a_place_for_the_next() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    heads = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert heads[0] == "[Unreleased]"
    released = read("CITATION.cff")["date-released"]
    assert heads[1] == f"[{minari_obd.__version__}] - {released}"
    assert set(re.findall(r"^### (.*)$", text, re.MULTILINE)) <= {
        *("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")
    }


def test_pre_commit_formats_with_the_version_that_make_installs() -> None:
    (repository,) = read(".pre-commit-config.yaml")["repos"]
    pinned = re.search(r"^ruff==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    assert repository["rev"] == f"v{pinned[1]}"
    assert [hook["id"] for hook in repository["hooks"]] == ["ruff-check", "ruff-format"]


def test_hosted_checks_run_make_test_on_every_python_that_is_promised() -> None:
    workflow = read(".github/workflows/test.yml")
    job = workflow["jobs"]["test"]
    assert job["strategy"]["matrix"]["python"] == PYTHONS
    assert all(version in SpecifierSet(PROJECT["requires-python"]) for version in PYTHONS)
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert "make test" in commands
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {command.removeprefix("make ") for command in commands if command.startswith("make ")} <= targets
    assert set(re.findall(r"^make ([\w-]+)$", (ROOT / ".ci/run").read_text(), re.MULTILINE)) <= targets


@pytest.mark.parametrize("path", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.stem)
def test_issue_templates_are_forms(path: Path) -> None:
    form = yaml.safe_load(path.read_text())
    assert {"name", "description", "body"} <= set(form)
    assert all(each["type"] in ("textarea", "input", "dropdown", "checkboxes") for each in form["body"])
    assert all(each["attributes"]["label"] for each in form["body"])
    names = [each["id"] for each in form["body"]]
    assert len(names) == len(set(names))
    assert any(each["validations"]["required"] for each in form["body"])


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(minari_obd.__file__).parent / "py.typed").is_file()
    assert "Typing :: Typed" in PROJECT["classifiers"]


def test_the_files_that_contributing_names_are_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = set(re.findall(r"\b((?:tests|docs|recipes|minari_obd)/[\w./]*\w)", text))
    assert "tests/test_imports.py" in named
    assert not {name for name in named if not (ROOT / name).exists()}
