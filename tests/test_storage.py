"""Files are written whole or not at all, and tensors come back as they went."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import make_pairs
from safetensors import SafetensorError
from safetensors.torch import save_file

import minari_obd
from minari_obd.errors import DataError, FormatError, SettingError
from minari_obd.storage.building import check_room
from minari_obd.storage.files import check_writable, replacing, write_bytes, write_text
from minari_obd.storage.tensors import read_tensors, reading, write_tensors


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_a_file_is_written_in_a_folder_that_is_made_and_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "down" / "a.txt"
    write_text(path, "früher")
    write_bytes(path, b"now")
    assert path.read_bytes() == b"now"
    assert names(path.parent) == ["a.txt"]


@pytest.mark.parametrize(
    "failure",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_said_in_a_sentence(tmp_path: Path, failure: Exception) -> None:
    def write() -> None:
        with replacing(tmp_path / "a.txt"):
            raise failure

    with pytest.raises(SettingError, match=r"no space left for '.*a\.txt'; free some"):
        write()
    assert not names(tmp_path)


def test_what_a_killed_process_left_is_removed_a_day_later(tmp_path: Path) -> None:
    old, new, other = tmp_path / ".a.txt.12-0123abcd", tmp_path / ".b.13-0123abcd", tmp_path / ".mine.old-file"
    old.mkdir()
    for path in (old / "x", new, other):
        path.touch()
    for path in (old, other):
        os.utime(path, (0, 0))
    write_text(tmp_path / "c", "c")
    assert sorted(names(tmp_path)) == [".b.13-0123abcd", ".mine.old-file", "c"]


@pytest.mark.parametrize("failure", [OSError("disk full"), KeyboardInterrupt(), MemoryError()])
def test_an_interrupted_write_keeps_the_old_file_and_leaves_nothing(tmp_path: Path, failure: BaseException) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def write() -> None:
        with replacing(path) as temporary:
            temporary.write_text("ne")
            raise failure

    with pytest.raises(type(failure)):
        write()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_an_interrupted_folder_leaves_nothing_and_a_whole_one_appears_at_once(tmp_path: Path) -> None:
    path = tmp_path / "folder"

    def write(ends: bool) -> None:
        with replacing(path) as temporary:
            temporary.mkdir()
            (temporary / "inside").touch()
            assert not path.exists()
            if not ends:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(ends=False)
    assert names(tmp_path) == []
    write(ends=True)
    assert names(tmp_path) == ["folder"]
    assert names(path) == ["inside"]


def test_a_folder_replaces_the_old_one_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "folder"

    def write(name: str) -> None:
        with replacing(path) as temporary:
            temporary.mkdir()
            (temporary / name).touch()

    write("first")
    write("second")
    assert names(path) == ["second"]
    assert names(tmp_path) == ["folder"]
    rename = Path.rename

    def fail(old: Path, new: Path) -> Path:
        if (old / "third").exists():
            raise OSError("no space left")
        return rename(old, new)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="no space left"):
        write("third")
    assert names(path) == ["second"]
    assert names(tmp_path) == ["folder"]


def test_a_name_that_a_folder_has_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(SettingError, match=r"'.*a' is a folder; name a file to write"):
        write_text(tmp_path / "a", "text")
    assert names(tmp_path) == ["a"]


def test_two_writers_of_one_path_do_not_share_a_temporary_name(tmp_path: Path) -> None:
    with replacing(tmp_path / "a") as first, replacing(tmp_path / "a") as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "a").read_text() == "first"  # the outer block ends last
    assert names(tmp_path) == ["a"]


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for write in (check_writable, lambda path: write_text(path, "text")):
        with pytest.raises(SettingError, match="cannot be written"):
            write(tmp_path / "file" / "a.txt")


@pytest.mark.parametrize("name", ["a\0b", "x" * 5_000])
def test_names_that_no_file_can_have_are_refused(name: str) -> None:
    for save in (
        make_pairs().save,
        minari_obd.clone(make_pairs()).save,
        minari_obd.clone(make_pairs()).save_pretrained,
    ):
        with pytest.raises(SettingError, match="cannot be written"):
            save(name)


def test_tensors_and_header_come_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.safetensors"
    tensors = {
        "a/0": torch.arange(6.0).reshape(2, 3).T,  # not contiguous
        "b": torch.tensor(3, dtype=torch.int64),
        "c": torch.ones(2, requires_grad=True),
        "empty": torch.zeros(0, 4, dtype=torch.uint8),
    }
    write_tensors(path, tensors, {"format": 1, "none": None, "list": [0.1]}, "header")
    header, found = read_tensors(path, "header")
    assert header == {"format": 1, "none": None, "list": [0.1]}
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    assert names(path.parent) == ["a.safetensors"]


def test_a_header_that_is_not_json_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"a": torch.zeros(1)}, {}, "header")
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_tensors(path, {"a": torch.ones(1)}, {"path": path}, "header")
    assert path.read_bytes() == before
    assert names(tmp_path) == ["a.safetensors"]


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda path: path.write_bytes(b"nothing of the kind"), "header"),
        (lambda path: save_file({"a": torch.zeros(1)}, path), "'key'"),
        (lambda path: save_file({"a": torch.zeros(1)}, path, metadata={"other": "{}"}), "'key'"),
        (lambda path: save_file({"a": torch.zeros(1)}, path, metadata={"key": "{"}), "property name"),
        (lambda path: save_file({"a": torch.zeros(1)}, path, metadata={"key": "[" * 100_000}), "recursion"),
        (lambda path: path.mkdir(), "No such device|directory"),
    ],
)
def test_what_is_no_file_of_tensors_is_named(tmp_path: Path, write: Callable[[Path], object], reason: str) -> None:
    write(path := tmp_path / "a")
    with pytest.raises(FormatError, match=f"^'a' is damaged: .*{reason}"), reading("'a' is damaged"):
        read_tensors(path, "key")


def test_a_reader_tells_what_is_wrong_with_the_content_in_one_sentence() -> None:
    with pytest.raises(FormatError, match=r"^It is damaged: No rows\.$"), reading("It is damaged"):
        raise DataError("No rows.")
    with pytest.raises(FormatError, match=r"^Newer\.$"), reading("It is damaged"):
        raise FormatError("Newer.")
    with pytest.raises(KeyboardInterrupt), reading("It is damaged"):
        raise KeyboardInterrupt


def test_a_rendering_that_would_not_fit_names_the_folder_of_the_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own Minari folder is hidden in an unfinished folder, of which the reader knows nothing."""
    monkeypatch.setattr("minari_obd.storage.building.shutil.disk_usage", lambda _: type("Usage", (), {"free": 0}))
    said = r"^There is no space left for '.*/made'; free some"
    with pytest.raises(SettingError, match=said), replacing(tmp_path / "made"):
        check_room(1, tmp_path / "hidden")
