"""Troubles with the Hub: odd tokens, caches that are read-only or damaged, a network that swallows packets."""

import os
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import make_pairs, make_teacher
from hub_server import HubServer

import minari_obd
from minari_obd.errors import MinariObdError, SettingError, without_secrets
from minari_obd.storage import hub as module

REPO = "lab/obd-test"
TOKEN = "hf_SECRETsecretSECRET"


@pytest.mark.parametrize("around", ["{}\n", "{}\r\n", "\t{}", "  {} "])
def test_a_token_read_from_a_file_works(around: str, hub: HubServer) -> None:
    token = around.format(TOKEN)
    make_pairs().push_to_hub(REPO, token=token)
    minari_obd.load_dataset(REPO, token=token)
    assert set(hub.tokens) == {f"Bearer {TOKEN}"}


@pytest.mark.parametrize("token", [f"{TOKEN}\n{TOKEN}", f"{TOKEN}\0x", f"{TOKEN}é", f"{TOKEN} {TOKEN}"])
def test_a_token_that_no_request_can_carry_is_refused_and_not_quoted(token: str, hub: HubServer) -> None:
    for call in (
        lambda: make_pairs().push_to_hub(REPO, token=token),
        lambda: minari_obd.load_dataset(REPO, token=token),
        lambda: minari_obd.load_teacher(REPO, token=token),
    ):
        with pytest.raises(SettingError, match="copy it once more") as error:
            call()
        assert "SECRET" not in str(error.value)
    assert not hub.requests


def test_a_token_is_text(hub: HubServer) -> None:
    """Or True or False, which are words of huggingface_hub's."""
    for wrong in (3, b"hf_x"):
        with pytest.raises(SettingError, match=r"The token is a (int|bytes); expected text"):
            make_pairs().push_to_hub(REPO, token=wrong)  # pyright: ignore[reportArgumentType]
    assert not hub.requests
    assert without_secrets("True", True) == "True"  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "text",
    [
        f"Illegal header value b'Bearer {TOKEN}\\n'",
        "authorization: Bearer a.b-c!SECRET",
        "could not reach https://me:SECRET@mirror.example/api",
        f"a token {TOKEN} in a sentence",
    ],
)
def test_errors_leave_out_what_looks_like_a_secret(text: str) -> None:
    assert "SECRET" not in str(MinariObdError(text))
    assert without_secrets("https://huggingface.co/org/set, hf_home") == "https://huggingface.co/org/set, hf_home"


def test_a_cache_that_cannot_be_written_is_read(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, _: str) -> None:
        raise SettingError(f"The output path '{path}' cannot be written (Read-only file system).")

    make_pairs().push_to_hub(REPO)
    monkeypatch.setattr(module, "write_text", refuse)
    assert len(minari_obd.load_dataset(REPO)) == 8


def test_the_note_of_a_branch_is_written_only_if_it_changes(hub: HubServer, tmp_path: Path) -> None:
    make_pairs().push_to_hub(REPO)
    notes = set()
    for _ in range(2):
        minari_obd.load_dataset(REPO)
        notes.add(next(tmp_path.glob("hub/*/refs/main")).stat().st_ino)
    assert len(notes) == 1


def test_a_hub_that_never_answers_is_given_up_for_the_cache(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    make_pairs().push_to_hub(REPO)
    minari_obd.load_dataset(REPO)
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(9)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.warns(UserWarning, match="'lab/obd-test' was read from the cache, at commit"):
            assert len(minari_obd.load_dataset(REPO)) == 8


@pytest.mark.parametrize("kind", ["dataset", "teacher"])
def test_a_damaged_copy_is_downloaded_once_more(kind: str, hub: HubServer, tmp_path: Path) -> None:
    made, load = {
        "dataset": (make_pairs(), minari_obd.load_dataset),
        "teacher": (make_teacher(), minari_obd.load_teacher),
    }[kind]
    made.push_to_hub(REPO)
    whole = load(REPO)
    for path in [*tmp_path.glob("hub/*/snapshots/*/data/*"), *tmp_path.glob("hub/*/snapshots/*/teacher*")]:
        os.truncate(path.resolve(), 50)
    assert load(REPO).origin == whole.origin
    asked = len(hub.requests)
    load(REPO)  # nothing is downloaded for a copy that is whole
    assert not [each for each in hub.requests[asked:] if each.startswith("GET") and "resolve" in each]


def test_folders_of_this_machine_are_not_published(hub: HubServer) -> None:
    made = make_pairs()
    # Invented paths, which must not be found in what is published.
    recipe = {**made.provenance.recipe, "source": "/home/somebody/x.hdf5"}
    recipe["teacher"] = {**recipe["teacher"], "algorithm": "~/secret/teacher"}
    replace(made, provenance=replace(made.provenance, recipe=recipe)).push_to_hub(REPO)
    published = b"".join(hub.files(REPO).values())
    assert b"somebody" not in published
    assert b"secret/" not in published
    loaded = minari_obd.load_dataset(REPO).provenance.recipe
    assert (loaded["source"], loaded["teacher"]["algorithm"]) == ("x.hdf5", "teacher")
    assert made.provenance.without_folders() == made.provenance


def test_threads_share_one_cache(hub: HubServer) -> None:
    make_pairs().push_to_hub(REPO)
    with ThreadPoolExecutor(8) as pool:
        assert [len(each) for each in pool.map(lambda _: minari_obd.load_dataset(REPO), range(16))] == [8] * 16
