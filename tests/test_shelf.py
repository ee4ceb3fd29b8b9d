"""The shelf: sets that come with the package, under names that every verb takes."""

import json
from dataclasses import replace
from pathlib import Path

import fill_shelf
import pytest
from conftest import make_full, make_pairs
from hub_server import HubServer

import minari_obd
from minari_obd.cli.application import main
from minari_obd.distilled.folder import CARD_FILE, PICTURE_FILE
from minari_obd.distilled.loading import find_folder
from minari_obd.distilled.shelf import SHELF, shelf_refs
from minari_obd.errors import NotFoundError, SettingError
from minari_obd.inspection.verification import verify
from minari_obd.settings.recipe import parse_recipe
from minari_obd.sources.benchmark import BENCHMARK

REFS = shelf_refs()
SET = "shelf/halfcheetah-medium-sdw-256"


@pytest.fixture
def shelf_of_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A shelf with two small sets in place of the real one."""
    shelf = tmp_path / "two"
    for seed, name in ((0, "first-8"), (1, "second-8")):
        made = make_full(seed)
        made.save(f"made-{seed}")
        fill_shelf.put(Path(f"made-{seed}"), name, shelf=shelf)
    monkeypatch.setattr("minari_obd.distilled.shelf.SHELF", shelf)
    return shelf


@pytest.mark.parametrize("ref", REFS)
def test_each_set_is_small_evaluated_and_says_how_it_was_made(ref: str) -> None:
    pairs = minari_obd.load_dataset(ref)
    assert pairs.origin == ref
    assert ref.endswith(f"-{len(pairs)}")
    assert pairs.evaluation is not None
    assert pairs.evaluation.returns.size >= 100
    assert pairs.evaluation.score.mean > 0
    recipe = parse_recipe(pairs.provenance.recipe, ref)
    assert recipe.source in BENCHMARK
    assert recipe.source.removeprefix("obd-bench/").removesuffix("-v0").replace("/", "-") in ref
    assert not Path(recipe.teacher.algorithm).is_absolute()
    files = [path for path in (SHELF / ref.removeprefix("shelf/")).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 100e3
    names = {"obd.json", "evaluation.json", "croissant.json", CARD_FILE, "train-00000-of-00001.parquet"}
    assert {path.name for path in files} == names


@pytest.mark.parametrize("ref", REFS)
def test_each_set_verifies(ref: str) -> None:
    checks = {check.name: check.outcome for check in verify(ref).checks}
    assert checks["format"] == checks["recipe"] == "passed"
    assert "failed" not in checks.values()


def test_the_page_says_what_is_there() -> None:
    """After a change of the shelf: put what `python benchmarks/fill_shelf.py` prints into the page."""
    assert fill_shelf.table() in (Path(__file__).parents[1] / "docs" / "shelf.md").read_text()


def test_every_verb_takes_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    main(["show", SET])
    assert f"Loaded from {SET}" in " ".join(capsys.readouterr().out.split())
    main(["show", SET, "--recipe"])
    assert "obd-bench/halfcheetah/medium-v0" in capsys.readouterr().out
    main(["clone", SET])
    main(["evaluate", SET, "--students", "1", "--episodes", "1"])
    assert "score" in capsys.readouterr().out
    main(["verify", SET])
    with pytest.raises(SystemExit):
        main(["evaluate", SET, "--save"])
    assert "is not the folder of a distilled dataset" in capsys.readouterr().err
    main(["list"])
    assert f"{SET} (256 pairs, score 48.6)" in " ".join(capsys.readouterr().out.split())


def test_wrong_names_and_revisions_are_said() -> None:
    with pytest.raises(NotFoundError, match=f"did you mean '{SET}'"):
        minari_obd.load_dataset("shelf/halfcheetah-medium-sdw-265")
    with pytest.raises(NotFoundError, match="no distilled dataset 'shelf/nothing' in this package"):
        find_folder("shelf/nothing")
    with pytest.raises(NotFoundError, match=r"There is no distilled dataset 'shelf/\.\.' in this package"):
        minari_obd.load_dataset("shelf/..")
    with pytest.raises(SettingError, match="has no revisions"):
        minari_obd.load_dataset(SET, revision="main")
    with pytest.raises(NotFoundError, match="nor 'shelf/NAME' of `minari-obd list`"):
        minari_obd.load_dataset("halfcheetah-medium-sdw-256")


def test_a_folder_of_that_name_comes_first() -> None:
    mine = make_pairs()
    mine.save(SET)
    assert minari_obd.load_dataset(SET).content_sha256 == mine.content_sha256
    assert find_folder(SET) == Path(SET)


def test_what_is_put_there_is_what_was_made(tmp_path: Path) -> None:
    made = minari_obd.load_dataset(SET)
    folder = made.save("made")
    assert (folder / PICTURE_FILE).is_file()
    put = fill_shelf.put(folder, shelf=tmp_path / "shelf")
    assert put.name == SET.removeprefix("shelf/")  # after source, method and size
    again = minari_obd.load_dataset(put)
    assert (again.content_sha256, again.provenance) == (made.content_sha256, made.provenance)
    assert again.evaluation is not None
    assert again.evaluation.to_json() == json.loads((folder / "evaluation.json").read_text())
    for path in put.rglob("*"):  # the package's own files are those that this version writes
        relative = path.relative_to(put)
        assert (
            path.is_dir()
            or path.suffix == ".parquet"
            or path.read_bytes() == (SHELF / put.name / relative).read_bytes()
        )
    replace(make_full(), evaluation=None).save("unknown")
    with pytest.raises(SystemExit, match="run `minari-obd evaluate unknown --save`"):
        fill_shelf.put(Path("unknown"))
    make_full().save("elsewhere")
    with pytest.raises(SystemExit, match="was made from lab/source-v0; give it a name"):
        fill_shelf.put(Path("elsewhere"))


def test_all_are_published_with_one_command(
    shelf_of_two: Path, hub: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["push", "--shelf", "lab", "--license", "mit"])
    said = capsys.readouterr().out
    for seed, name in ((0, "first-8"), (1, "second-8")):
        assert f"{hub.url}/datasets/lab/obd-{name}/commit/" in said
        pulled = minari_obd.load_dataset(f"lab/obd-{name}")
        assert pulled.content_sha256 == make_full(seed).content_sha256
        assert pulled.license == "mit"
        assert {PICTURE_FILE, "pairs-v0/data/main_data.hdf5"} <= set(hub.files(f"lab/obd-{name}"))
    before = [hub.commits(f"lab/obd-{name}") for name in ("first-8", "second-8")]
    main(["push", "--shelf", "lab", "--license", "mit"])  # nothing is new
    assert before == [hub.commits(f"lab/obd-{name}") for name in ("first-8", "second-8")]
    for wrong in (["push"], ["push", SET], ["push", SET, "lab/x", "--shelf", "lab"]):
        with pytest.raises(SystemExit):
            main(wrong)
        assert "Name what to publish and where" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["push", "--shelf", "not an organisation"])
    assert "is not a repository id" in capsys.readouterr().err


def test_one_set_is_published_by_its_name(hub: HubServer) -> None:
    main(["push", SET, "lab/one"])
    assert minari_obd.load_dataset("lab/one").content_sha256 == minari_obd.load_dataset(SET).content_sha256
