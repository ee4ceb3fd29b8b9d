"""The Hub: the real clients of huggingface_hub, datasets and Minari against a server on loopback."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import minari
import numpy as np
import pytest
from conftest import make_discrete, make_pairs
from hub_server import Files, HubServer

import minari_obd
from minari_obd.cli.application import main
from minari_obd.errors import FormatError, MinariObdError, NotFoundError, SettingError
from minari_obd.storage.hub import HubError

REPO = "lab/obd-test"
PARQUET = "data/train-00000-of-00001.parquet"


def bits(pairs: minari_obd.DistilledDataset) -> bytes:
    return pairs.observations.tobytes() + pairs.actions.tobytes()


@pytest.mark.parametrize(
    ("use_lfs", "make"),
    [(False, make_pairs), (True, make_pairs), (False, make_discrete)],
    ids=["regular", "lfs", "discrete"],
)
def test_three_clients_read_the_bits_that_were_pushed(
    use_lfs: bool,
    make: Callable[[], minari_obd.DistilledDataset],
    hub: HubServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    datasets = pytest.importorskip("datasets")
    hub.use_lfs = use_lfs
    pairs = make()
    address = pairs.push_to_hub(REPO, token="hf_secret")
    assert address == f"{hub.url}/datasets/{REPO}/commit/{hub.commits(REPO)[-1]}"
    assert len(hub.commits(REPO)) == 2  # made empty, then one commit with everything
    assert bool(hub.repositories[REPO].lfs) == use_lfs
    assert {"README.md", "coverage.png", "obd.json", "pairs-v0/data/main_data.hdf5"} <= set(hub.files(REPO))
    assert "Bearer hf_secret" in hub.tokens

    ours = minari_obd.load_dataset(REPO)
    assert bits(ours) == bits(pairs)
    assert ours.origin == f"{REPO}@{hub.commits(REPO)[-1]}"
    assert ours.provenance == pairs.provenance
    assert ours.first_action == pairs.first_action

    rows = datasets.load_dataset(REPO, split="train", cache_dir=str(tmp_path / "datasets")).with_format("numpy")[:]
    assert rows["observation"].tobytes() + rows["action"].tobytes() == bits(pairs)

    monkeypatch.setenv("MINARI_REMOTE", "hf://lab")
    theirs = minari.load_dataset("obd-test/pairs-v0", download=True)
    episodes = list(theirs)
    states = np.stack([episode.observations[0] for episode in episodes])
    actions = np.concatenate([episode.actions for episode in episodes])
    if pairs.first_action is not None:  # Minari's actions are the likeliest ones
        np.testing.assert_array_equal(actions, pairs.first_action + pairs.actions.argmax(axis=1))
        actions = np.concatenate([episode.infos["probabilities"][:1] for episode in episodes])
    assert states.tobytes() + actions.tobytes() == bits(pairs)
    assert list(minari.list_remote_datasets()) == ["obd-test/pairs-v0"]

    pairs.push_to_hub(REPO)  # the same content once more
    assert len(hub.commits(REPO)) == 2


def test_a_newer_set_replaces_the_older_whole_and_the_older_stays_reachable(hub: HubServer) -> None:
    report = minari_obd.EvaluationReport(np.ones((2, 3)), "Hopper-v5", 0)
    older, newer = make_pairs().with_evaluation(report), make_pairs(seed=1, size=9)
    older.push_to_hub(REPO)
    first = hub.commits(REPO)[-1]
    assert "evaluation.json" in hub.files(REPO)
    hub.files(REPO)["LICENSE"] = b"somebody put it here"
    hub.files(REPO)["data/raw.csv"] = b"and this"
    newer.push_to_hub(REPO)
    assert len(hub.commits(REPO)) == 3
    assert "evaluation.json" not in hub.files(REPO)
    assert {"LICENSE", "data/raw.csv"} <= set(hub.files(REPO))
    assert bits(minari_obd.load_dataset(REPO)) == bits(newer)
    pinned = minari_obd.load_dataset(REPO, revision=first)
    assert bits(pinned) == bits(older)
    assert pinned.evaluation is not None
    assert pinned.evaluation.to_json() == report.to_json()


def test_a_branch_is_made_and_the_main_one_stays(hub: HubServer) -> None:
    make_pairs().push_to_hub(REPO)
    address = make_pairs(seed=1).push_to_hub(REPO, revision="bigger")
    make_pairs(seed=2).push_to_hub(REPO, revision="bigger")
    assert len(hub.commits(REPO)) == 2
    assert address.endswith(hub.commits(REPO, "bigger")[1])
    assert bits(minari_obd.load_dataset(REPO)) == bits(make_pairs())
    assert bits(minari_obd.load_dataset(REPO, revision="bigger")) == bits(make_pairs(seed=2))


def test_somebody_else_pushing_meanwhile_is_not_overwritten(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from minari_obd.storage import hub as module

    def look(*arguments, **options):
        present = original(*arguments, **options)
        hub.commit(REPO, {**hub.files(REPO), "theirs.txt": b"1"})
        return present

    make_pairs().push_to_hub(REPO)
    original = module._repository
    monkeypatch.setattr(module, "_repository", look)
    with pytest.raises(HubError, match="412"):
        make_pairs(seed=1).push_to_hub(REPO)
    assert bits(minari_obd.load_dataset(REPO)) == bits(make_pairs())


OFFLINE = """
import minari_obd, sys
try:
    loaded = minari_obd.load_dataset("lab/obd-test")
    print(loaded.origin, loaded.content_sha256)
except minari_obd.MinariObdError as error:
    print(type(error).__name__, error)
"""


def test_what_was_loaded_once_is_loaded_again_without_a_connection(hub: HubServer, tmp_path: Path) -> None:
    make_pairs().push_to_hub(REPO)
    online = minari_obd.load_dataset(REPO)
    asked = len(hub.requests)

    def elsewhere(**settings: str) -> str:
        environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), **settings}
        done = subprocess.run([sys.executable, "-c", OFFLINE], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert elsewhere(HF_HUB_OFFLINE="1") == f"{online.origin} {online.content_sha256}"
    assert elsewhere(HF_ENDPOINT="http://127.0.0.1:9") == f"{online.origin} {online.content_sha256}"  # nobody answers
    said = elsewhere(HF_HUB_OFFLINE="1", HF_HUB_CACHE=str(tmp_path / "empty"))
    assert said.startswith("HubError 'lab/obd-test' could not be downloaded")
    assert len(hub.requests) == asked


def test_a_download_that_is_cut_off_leaves_the_one_before_it(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    make_pairs().push_to_hub(REPO)
    minari_obd.load_dataset(REPO)
    make_pairs(seed=1).push_to_hub(REPO)
    hub.cut = "resolve"
    with pytest.raises(HubError):
        minari_obd.load_dataset(REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert bits(minari_obd.load_dataset(REPO)) == bits(make_pairs())
    assert minari_obd.verify(REPO).checks[0].outcome == "passed"


def test_what_was_looked_at_is_what_is_downloaded(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody pushes between the look at the repository and the download."""
    from minari_obd.storage import hub as module

    def look(*arguments) -> None:
        original(*arguments)
        make_pairs(seed=1).push_to_hub(REPO)

    make_pairs().push_to_hub(REPO)
    original = module._check_listing
    monkeypatch.setattr(module, "_check_listing", look)
    loaded = minari_obd.load_dataset(REPO)
    assert bits(loaded) == bits(make_pairs())
    assert loaded.origin == f"{REPO}@{hub.commits(REPO)[1]}"


@pytest.mark.parametrize(("use_lfs", "cut"), [(False, "commit"), (True, "commit"), (True, "batch")])
def test_a_push_that_is_cut_off_leaves_the_old_revision(
    use_lfs: bool, cut: str, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The client tries again five times, after 1, 2, 4, 8 and 8 seconds; it is to try, and not to wait.
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda _: None))
    hub.use_lfs = use_lfs
    make_pairs().push_to_hub(REPO)
    hub.cut = cut
    with pytest.raises(HubError, match="could not be pushed"):
        make_pairs(seed=1).push_to_hub(REPO, token="hf_secret")
    hub.cut = None
    assert len(hub.commits(REPO)) == 2
    assert bits(minari_obd.load_dataset(REPO)) == bits(make_pairs())
    make_pairs(seed=1).push_to_hub(REPO)  # given again, it goes through
    assert bits(minari_obd.load_dataset(REPO)) == bits(make_pairs(seed=1))


def damaged(name: str, **changes: object) -> Files:
    """The files of a folder whose obd.json was changed."""
    folder = make_pairs().save(name)
    files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    files["obd.json"] = json.dumps({**json.loads(files["obd.json"]), **changes}).encode()
    return files


LOAD = minari_obd.load_dataset


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: make_pairs().push_to_hub("no-org"), SettingError, "'no-org' is not a repository id"),
        (lambda: make_pairs().push_to_hub("lab/other"), SettingError, "'lab/other' holds something other"),
        (lambda: make_pairs().push_to_hub("lab/other", revision="x"), SettingError, "holds something other"),
        (lambda: make_pairs().push_to_hub("lab/newer", private=True), SettingError, "exists and is public"),
        (lambda: make_pairs().push_to_hub("lab/new", license="All mine!"), SettingError, "is not the id of a licence"),
        (lambda: LOAD("lab/none"), NotFoundError, "There is no dataset repository 'lab/none'"),
        (lambda: LOAD("lab/other"), FormatError, "The repository 'lab/other' is not a distilled dataset"),
        (lambda: LOAD("lab/other", revision="v9"), NotFoundError, "There is no revision 'v9' of 'lab/other'"),
        (lambda: LOAD("lab/corrupted"), FormatError, "does not match its hash"),
        (lambda: LOAD("lab/incomplete"), FormatError, "lacks data/train-00000-of-00001.parquet"),
        (lambda: LOAD("lab/newer"), FormatError, "has format 99, and this version of minari-obd reads up to 4"),
        (lambda: LOAD("lab/climbing"), FormatError, r"climbs out of it \('data/\.\./\.\./\.\./up\.parquet'\)"),
        (lambda: minari_obd.verify("lab/climbing"), FormatError, "climbs out of it"),
        (lambda: minari_obd.evaluate(LOAD("lab/hostile")), NotFoundError, "is not a plain environment id"),
        (lambda: LOAD("lab/hostile").with_transitions(), NotFoundError, "is not a plain environment id"),
        (lambda: LOAD("lab/long"), FormatError, "damaged at env_id"),
    ],
)
def test_refusals_are_sentences(
    call: Callable[[], object], kind: type[MinariObdError], message: str, hub: HubServer, tmp_path: Path
) -> None:
    good = damaged("good")
    hub.commit("lab/other", {"model.bin": b"1"})
    hub.commit("lab/corrupted", {**good, PARQUET: good[PARQUET][:-1] + b"\0"})
    hub.commit("lab/incomplete", {name: body for name, body in good.items() if name != PARQUET})
    hub.commit("lab/newer", damaged("newer", format=99))
    hub.commit("lab/climbing", {**good, "data/../../../up.parquet": b"PAR1"})
    hub.commit("lab/hostile", damaged("hostile", env_id="evil:Env-v0"))
    hub.commit("lab/long", damaged("long", env_id="e" * 10_001))
    Path("evil.py").write_text("raise SystemExit('imported')")
    before = {repo: len(hub.commits(repo)) for repo in hub.repositories}
    with pytest.raises(kind, match=message):
        call()
    assert {repo: len(hub.commits(repo)) for repo in hub.repositories} == before
    assert not list(tmp_path.rglob("up.parquet"))


def test_a_token_is_not_cut_in_half() -> None:
    from minari_obd.storage.hub_errors import explain

    for length in range(460, 510):
        assert "hf_S" not in str(explain("x", RuntimeError("a" * length + "hf_" + "S" * 34), "hf_" + "S" * 34))


def test_a_token_is_told_to_nobody_but_the_hub(
    hub: HubServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    hub.refuse_commits = True
    caplog.set_level(logging.DEBUG)
    said = []
    for repo, token in (("lab/hf_secret", "hf_secret"), ("lab/hf_secret", None)):
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        with pytest.raises(HubError) as error:
            make_pairs().push_to_hub(repo, token=token)  # a server may well repeat it: here it is in the address
        said.append(str(error.value).replace("'lab/hf_secret'", ""))
    assert "Bearer hf_secret" in hub.tokens
    captured = capfd.readouterr()
    for text in (*said, (caplog.text + captured.out + captured.err).replace("lab/hf_secret", "")):
        assert "hf_secret" not in text
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"hf_secret" in path.read_bytes()]


def test_the_command_line_publishes_shows_and_verifies(hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    make_pairs(shape=(11, 3)).save("made")
    main(["push", "made", REPO, "--private", "--license", "cc-by-4.0"])
    assert f"Published: {hub.url}/datasets/{REPO}/commit/" in capsys.readouterr().out
    assert hub.repositories[REPO].private
    assert b'license: "cc-by-4.0"' in hub.files(REPO)["README.md"]
    assert f'load_dataset("{REPO}")'.encode() in hub.files(REPO)["README.md"]
    main(["show", REPO])
    assert f"Loaded from {REPO}@{hub.commits(REPO)[-1]}" in capsys.readouterr().out.replace("\n", "")
    with pytest.raises(SystemExit) as end:  # made-up pairs whose recipe asks for another number of them
        main(["verify", REPO])
    assert end.value.code == 1
    said = capsys.readouterr().out
    assert "says what the metadata says" in said
    assert said.count("failed") == 1


def test_verifying_a_repository_finds_a_rendering_of_other_pairs(hub: HubServer) -> None:
    files, others = damaged("one"), replace(make_pairs(seed=1)).save("two")
    name = "pairs-v0/data/main_data.hdf5"
    hub.commit(REPO, {**files, name: (others / name).read_bytes()})
    result = minari_obd.verify(REPO)
    rendering = next(check for check in result.checks if check.name == "Minari rendering")
    assert not result.passed
    assert "do not match the hash" in rendering.detail
