"""Teachers on the Hub: the real client against a server on loopback; round trips to the bit, refusals by name."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_pairs, make_teacher
from hub_server import HubServer
from safetensors import safe_open
from safetensors.torch import save_file

import minari_obd
from minari_obd.cli.application import main
from minari_obd.errors import DataError, FormatError, MinariObdError, NotFoundError, SettingError
from minari_obd.settings.protocols import StudentProtocol
from minari_obd.settings.recipe import Recipe, parse_recipe
from minari_obd.settings.sections import DistillationRecipe
from minari_obd.sources.data import OfflineData
from minari_obd.storage.hub import HubError
from minari_obd.teachers.card import teacher_card
from minari_obd.teachers.frozen import FrozenTeacher
from minari_obd.teachers.loading import load_teacher

REPO = "lab/teacher"
KEY = f"models/{REPO}"
FILE = "teacher.safetensors"


def says(teacher: FrozenTeacher) -> bytes:
    states = np.random.default_rng(0).normal(size=(50, 3))
    return teacher.act(states).tobytes() + teacher.value(states, teacher.act(states)).tobytes()


@pytest.mark.parametrize("use_lfs", [False, True], ids=["regular", "lfs"])
def test_what_was_pushed_is_what_is_pulled_to_the_bit(use_lfs: bool, hub: HubServer) -> None:
    hub.use_lfs = use_lfs
    teacher = make_teacher()
    address = teacher.push_to_hub(REPO, license="mit", token="hf_secret")
    assert address == f"{hub.url}/{REPO}/commit/{hub.commits(KEY)[-1]}"
    assert len(hub.commits(KEY)) == 2  # made empty, then one commit with everything
    assert set(hub.files(KEY)) == {".gitattributes", "README.md", FILE}
    assert "Bearer hf_secret" in hub.tokens

    again = load_teacher(REPO)
    assert says(again) == says(teacher)
    assert (again.details, again.sha256) == (teacher.details, teacher.sha256)
    assert again.origin == f"{REPO}@{hub.commits(KEY)[-1]}"

    teacher.push_to_hub(REPO, license="mit")  # the same content once more
    again.push_to_hub(REPO, license="mit")
    assert len(hub.commits(KEY)) == 2


def test_a_revision_is_pinned_by_argument_and_by_name(hub: HubServer) -> None:
    make_teacher().push_to_hub(REPO)
    first = hub.commits(KEY)[-1]
    make_teacher(1).push_to_hub(REPO)
    make_teacher(2).push_to_hub(REPO, revision="wider")
    assert says(load_teacher(REPO)) == says(make_teacher(1))
    for pinned in (load_teacher(REPO, revision=first), load_teacher(f"{REPO}@{first}"), load_teacher(f"{REPO}@main")):
        assert pinned.origin in (f"{REPO}@{first}", f"{REPO}@{hub.commits(KEY)[-1]}")
    assert says(load_teacher(f"{REPO}@{first}")) == says(make_teacher())
    assert says(load_teacher(f"{REPO}@wider")) == says(make_teacher(2))


OFFLINE = """
import minari_obd
try:
    loaded = minari_obd.load_teacher("lab/teacher")
    print(loaded.origin, loaded.sha256)
except minari_obd.MinariObdError as error:
    print(type(error).__name__, error)
"""


def test_what_was_loaded_once_is_loaded_again_without_a_connection(hub: HubServer, tmp_path: Path) -> None:
    make_teacher().push_to_hub(REPO)
    online = load_teacher(REPO)

    def elsewhere(**settings: str) -> str:
        environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1", **settings}
        done = subprocess.run([sys.executable, "-c", OFFLINE], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert elsewhere() == f"{online.origin} {online.sha256}"
    assert elsewhere(HF_HUB_CACHE=str(tmp_path / "empty")).startswith("HubError 'lab/teacher' could not be downloaded")


def test_the_card_says_what_the_teacher_is(hub: HubServer) -> None:
    make_teacher(details={"algorithm": "calql", "data": "a | b\n\x1b[1m", "score": 56.4}).push_to_hub(
        REPO, license="mit"
    )
    text = hub.files(KEY)["README.md"].decode()
    header = dict(line.split(": ", 1) for line in text.split("---\n")[1].splitlines())
    assert json.loads(header["license"]) == "mit"
    assert json.loads(header["pipeline_tag"]) == "reinforcement-learning"
    assert "\x1b" not in text
    for part in (
        "| score | 56.4 |",
        "| data | a / b",
        'load_teacher("lab/teacher")',
        "the least of 2 critics",
        "-1, -2",
    ):
        assert part in text
    assert "No score was measured." in teacher_card(make_teacher(details={}), REPO)
    changed = load_teacher(REPO).with_details(score=60)
    assert changed.details["score"] == 60
    assert changed.origin is None  # no commit says this of it


def test_a_distilled_set_names_the_commit_of_its_teacher(hub: HubServer, small_data: OfflineData) -> None:
    teacher = make_teacher()
    teacher.push_to_hub(REPO)
    commit = f"{REPO}@{hub.commits(KEY)[-1]}"
    recipe = Recipe(
        "small",
        size=4,
        student=StudentProtocol(depth=1, width=4, steps=3),
        distillation=DistillationRecipe(kernel_steps=5, steps=2, batch_size=32),
        threads=1,
    )

    def distilled(given: Any) -> minari_obd.DistilledDataset:
        return minari_obd.distill(small_data, "pbc", teacher=given, recipe=recipe, progress=False)

    by_name = distilled(REPO)
    assert by_name.provenance.teacher == {**teacher.details, "sha256": teacher.sha256, "origin": commit}
    assert by_name.provenance.recipe["teacher"]["algorithm"] == commit
    assert commit in Path(by_name.save("made") / "README.md").read_text()
    make_teacher(1).push_to_hub(REPO)
    again = parse_recipe(by_name.provenance.recipe, "provenance")  # it makes the same pairs, whatever is pushed since
    for other in (distilled(again.teacher.algorithm), distilled(load_teacher(commit)), distilled(teacher)):
        assert other.content_sha256 == by_name.content_sha256
    assert distilled(REPO).content_sha256 != by_name.content_sha256
    assert distilled(replace(teacher, details={})).provenance.recipe["teacher"]["algorithm"] == "unknown"

    make_teacher(states=4).push_to_hub("lab/other-task")
    with pytest.raises(DataError, match=r"takes observations \(B, 4\); got \(1, 3\)"):
        distilled("lab/other-task")
    with pytest.raises(NotFoundError, match=r"no model repository 'lab/calql'.*Nor is it an algorithm; .*calql"):
        distilled("lab/calql")


def test_the_command_line_publishes_teachers_of_every_kind(hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_teacher().save("kept")
    main(["push", str(folder), REPO, "--private", "--license", "mit"])
    main(["push", str(folder / FILE), "lab/by-file"])
    assert f"Published: {hub.url}/{REPO}/commit/" in capsys.readouterr().out
    assert hub.repositories[KEY].private
    assert says(load_teacher(REPO)) == says(load_teacher("lab/by-file")) == says(make_teacher())


def rewritten(teacher: FrozenTeacher, change: Callable[[dict[str, Any]], Any]) -> bytes:
    """The file of a teacher whose header was changed."""
    path = teacher.save("changed") / FILE
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["minari_obd_teacher"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(header)
    save_file(tensors, path, metadata={"minari_obd_teacher": json.dumps(header)})
    return path.read_bytes()


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: load_teacher("lab/none"),
            NotFoundError,
            "no model repository 'lab/none' on the Hub",
        ),
        (
            lambda: load_teacher("lab/pairs"),
            NotFoundError,
            "There is a dataset repository of that name",
        ),
        (lambda: minari_obd.load_dataset("lab/good"), NotFoundError, "There is a model repository of that name"),
        (lambda: load_teacher("lab/good@v9"), NotFoundError, "There is no revision 'v9' of 'lab/good'"),
        (lambda: load_teacher("lab/good@v9", revision="v8"), SettingError, "names a revision already"),
        (lambda: load_teacher("lab/other"), FormatError, "'lab/other' is not a teacher: it has no teacher.safetensors"),
        (lambda: load_teacher("lab/set-as-model"), FormatError, "is not a teacher: it has no teacher.safetensors"),
        (lambda: load_teacher("lab/flipped"), FormatError, "'lab/flipped@.*' does not match its hash"),
        (lambda: load_teacher("lab/cut"), FormatError, "is not a teacher of this package, or damaged"),
        (lambda: load_teacher("lab/boast"), FormatError, "does not match its hash"),
        (lambda: load_teacher("lab/mean"), FormatError, "does not match its hash"),
        (lambda: load_teacher("lab/newer"), FormatError, "has teacher format 99, and this version"),
        (lambda: load_teacher("lab/many"), FormatError, "or damaged"),
        (lambda: load_teacher("lab/nan"), FormatError, "details are JSON values"),
        (lambda: load_teacher("lab/long"), FormatError, "more than 64 KiB"),
        (lambda: load_teacher("lab/pickle"), FormatError, "is not a teacher of this package, or damaged"),
        (lambda: load_teacher("lab/climbing"), FormatError, "climbs out of it"),
        (lambda: load_teacher("lab/good", normaliser=(0, 1)), SettingError, "leave normaliser, action_bounds"),
        (lambda: make_teacher().push_to_hub("no-org"), SettingError, "'no-org' is not a repository id"),
        (lambda: make_teacher().push_to_hub("lab/other"), SettingError, "holds something other than a teacher"),
        (lambda: make_teacher().push_to_hub("lab/good", private=True), SettingError, "exists and is public"),
        (
            lambda: make_teacher().push_to_hub("lab/new", license="All mine!"),
            SettingError,
            "not the id of a licence",
        ),
    ],
)
def test_refusals_are_sentences(
    call: Callable[[], object], kind: type[MinariObdError], message: str, hub: HubServer, tmp_path: Path
) -> None:
    teacher = make_teacher()
    good = (teacher.save("good") / FILE).read_bytes()
    flipped = bytearray(good)
    flipped[-5] ^= 1
    make_pairs().push_to_hub("lab/pairs")
    torch.save({"x": torch.zeros(1)}, "x.pt")
    contents = {
        "good": {FILE: good},
        "other": {"model.bin": b"1"},
        "set-as-model": hub.files("lab/pairs"),
        "flipped": {FILE: bytes(flipped)},
        "cut": {FILE: good[:-100]},
        "boast": {FILE: rewritten(teacher, lambda header: header["details"].update(score=99.0))},
        "mean": {FILE: rewritten(teacher, lambda header: header.update(value_from="mean"))},
        "newer": {FILE: rewritten(teacher, lambda header: header.update(format=99))},
        "many": {FILE: rewritten(teacher, lambda header: header.update(critics=10**12))},
        "nan": {FILE: rewritten(teacher, lambda header: header["details"].update(score=float("nan")))},
        "long": {FILE: rewritten(teacher, lambda header: header["details"].update(note="n" * 70_000))},
        "pickle": {FILE: Path("x.pt").read_bytes()},
        "climbing": {FILE: good, "../../up.safetensors": b"1"},
    }
    for name, files in contents.items():
        hub.commit(f"models/lab/{name}", files)
    before = {repo: len(hub.commits(repo)) for repo in hub.repositories}
    with pytest.raises(kind, match=message):
        call()
    assert {repo: len(hub.commits(repo)) for repo in hub.repositories} == before
    assert not list(tmp_path.rglob("up.safetensors"))


def test_a_push_that_is_refused_or_cut_off_leaves_the_old_teacher(hub: HubServer) -> None:
    make_teacher().push_to_hub(REPO)
    hub.refuse_commits = True
    with pytest.raises(HubError, match="'lab/teacher' could not be pushed"):
        make_teacher(1).push_to_hub(REPO)
    hub.refuse_commits, hub.cut = False, "resolve"
    with pytest.raises(HubError, match="could not be downloaded"):
        load_teacher(REPO)
    hub.cut = None
    assert says(load_teacher(REPO)) == says(make_teacher())


def test_teachers_of_the_first_format_are_read() -> None:
    teacher = make_teacher(value_from="mean", activation="relu")

    def first(header: dict[str, Any]) -> None:
        header["format"] = 1
        for name in ("value_from", "activation", "sha256"):
            del header[name]

    Path("old.safetensors").write_bytes(rewritten(teacher, first))
    again = load_teacher("old.safetensors")
    assert says(again) == says(teacher)
    assert again.sha256 == teacher.sha256
    assert make_teacher().sha256 != teacher.sha256  # the least of the same critics is another value


def test_no_byte_of_a_file_can_change_unnoticed() -> None:
    teacher = make_teacher()
    path = teacher.save("kept") / FILE
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(len(content), size=300):
        path.write_bytes(content[:place] + bytes([content[place] ^ (1 << rng.integers(8))]) + content[place + 1 :])
        try:
            again = load_teacher("kept")
        except FormatError:
            continue
        assert (says(again), again.details) == (says(teacher), teacher.details)


def test_a_save_that_fails_leaves_the_old_file(monkeypatch: pytest.MonkeyPatch) -> None:
    make_teacher().save("kept")

    def fail(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr("minari_obd.storage.tensors.save_file", fail)
    with pytest.raises(OSError, match="no space left"):
        make_teacher(1).save("kept")
    assert says(load_teacher("kept")) == says(make_teacher())
    assert [path.name for path in Path("kept").iterdir()] == [FILE]
