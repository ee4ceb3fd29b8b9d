"""The folder: what is saved comes back to the bit, and what was tampered with does not come back at all."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import make_discrete, make_full, make_pairs

import minari_obd
from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.distilled.folder import METADATA_FILE, PARQUET_FILE, load_folder
from minari_obd.distilled.metadata import FORMAT_VERSION, json_schema
from minari_obd.errors import DataError, FormatError, NotFoundError, SettingError


@pytest.mark.parametrize("make", [make_full, make_discrete])
def test_a_folder_survives_save_and_load(make: Callable[[], DistilledDataset]) -> None:
    pairs = make()
    loaded = minari_obd.load_dataset(pairs.save("out/pairs"))
    assert loaded.content_sha256 == pairs.content_sha256
    assert loaded.origin == str(Path("out/pairs").resolve())
    assert loaded.transitions is not None
    assert pairs.transitions is not None
    for name in ("rewards", "next_observations", "terminations"):
        assert getattr(loaded.transitions, name).tobytes() == getattr(pairs.transitions, name).tobytes()
    np.testing.assert_array_equal(np.asarray(loaded.source_quantiles), np.asarray(pairs.source_quantiles))
    for name in ("observations", "actions", "action_low", "action_high"):
        assert getattr(loaded, name).tobytes() == getattr(pairs, name).tobytes()
    assert loaded.normaliser.mean.tobytes() == pairs.normaliser.mean.tobytes()
    assert loaded.normaliser.scale.tobytes() == pairs.normaliser.scale.tobytes()
    for name in ("protocol", "provenance", "env_id", "reference", "license", "first_action"):
        assert getattr(loaded, name) == getattr(pairs, name)
    assert loaded.evaluation is not None
    assert pairs.evaluation is not None
    assert loaded.evaluation.to_json() == pairs.evaluation.to_json()
    assert not [path for path in Path("out").iterdir() if path.name != "pairs"]


def test_the_layout_is_the_one_of_the_design() -> None:
    folder = make_pairs().save("pairs")
    assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()) == [
        "README.md",
        "coverage.png",
        "croissant.json",
        "data/train-00000-of-00001.parquet",
        "namespace_metadata.json",
        "obd.json",
        "pairs-v0/data/main_data.hdf5",
        "pairs-v0/data/metadata.json",
    ]


def test_datasets_reads_it_without_this_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    pairs = make_pairs()
    folder = pairs.save("pairs")
    rows = datasets.load_dataset(str(folder.resolve()), split="train", cache_dir=str(tmp_path / "hf"))
    assert rows.features["observation"] == datasets.List(datasets.Value("float32"), length=3)
    np.testing.assert_array_equal(rows.with_format("numpy")[:]["action"], pairs.actions)


def test_saving_again_replaces_an_older_set_and_nothing_else() -> None:
    folder = make_pairs().save("pairs")
    newer = make_pairs(seed=1)
    newer.save("pairs")
    np.testing.assert_array_equal(load_folder(folder).actions, newer.actions)
    Path("notes").mkdir()
    Path("notes/thesis.tex").write_text("mine")
    for target in ("notes", "notes/thesis.tex"):
        with pytest.raises(SettingError, match="it is not overwritten"):
            newer.save(target)
    assert Path("notes/thesis.tex").read_text() == "mine"


def test_a_failed_save_leaves_the_older_set(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = make_pairs()
    folder = pairs.save("pairs")

    def fail(*_, **__) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("minari_obd.distilled.folder.dataset_card", fail)
    with pytest.raises(KeyboardInterrupt):
        make_pairs(seed=1).save("pairs")
    np.testing.assert_array_equal(load_folder(folder).actions, pairs.actions)
    assert [path.name for path in Path().iterdir()] == ["pairs"]


def edit(folder: Path, **changes) -> None:
    path = folder / METADATA_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_evaluation(folder: Path, **changes) -> None:
    report = make_full().evaluation
    assert report is not None
    (folder / "evaluation.json").write_text(json.dumps({**report.to_json(), **changes}))


def rename_return(folder: Path) -> None:
    edit_evaluation(folder, mean_return=ONE)


def rewrite(folder: Path, table: pa.Table) -> None:
    """Replace the pairs, and the hash with them, as somebody would who wants to be believed."""
    pq.write_table(table, folder / PARQUET_FILE)
    edit(folder, parquet_sha256=hashlib.sha256((folder / PARQUET_FILE).read_bytes()).hexdigest())


def columns(observations: np.ndarray, actions: np.ndarray) -> pa.Table:
    def fixed(values: np.ndarray) -> pa.Array:
        return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])

    return pa.table({"observation": fixed(observations), "action": fixed(actions)})


ONE = {"mean": 1.0, "low": 1.0, "high": 1.0}
LINE = {"name": "random pairs", "pairs": 8, "students": 2, "episodes": 3, "score": None, "return": ONE}
GOOD = (np.zeros((8, 3), np.float32), np.zeros((8, 2), np.float32))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / METADATA_FILE).unlink(), "is not a distilled dataset: it has no obd.json"),
        (lambda f: (f / PARQUET_FILE).unlink(), "the copy is incomplete"),
        (lambda f: (f / METADATA_FILE).write_text("{"), "is not JSON"),
        (lambda f: (f / METADATA_FILE).write_text("[" * 100_000), "is not JSON"),
        (lambda f: (f / METADATA_FILE).write_text("[]"), "damaged at its top"),
        (lambda f: edit(f, format=FORMAT_VERSION + 1), "has format 5, and this version of minari-obd reads up to 4"),
        (lambda f: edit(f, format=0), "has format 0, which does not exist"),
        (lambda f: edit(f, format=True), "damaged at format"),
        (lambda f: edit(f, pairs_sha256=None), "format 2 has the hash of the pairs"),
        (lambda f: edit(f, pairs_sha256="0" * 64), "pairs in .* do not match the hash in their metadata"),
        (lambda f: edit(f, size=2_000_000), "is not between 1 and 1,000,000"),
        (lambda f: edit(f, env_id="e" * 10_001), "at most 10000 characters"),
        (lambda f: edit(f, license="ALL MINE"), "is not the id of a licence"),
        (lambda f: edit(f, source_quantiles=[[0.0] * 3] * 6), "source_quantiles have shape"),
        (lambda f: edit(f, source_quantiles=[[0.0] * 3] * 6 + [[0.0]]), "is damaged: setting an array element"),
        (lambda f: edit(f, transitions=True), "no column 'reward' of type float"),
        (lambda f: (f / METADATA_FILE).write_bytes(b"{}" + b" " * 2**24), "larger than 16 MiB"),
        (lambda f: edit(f, size="8"), "damaged at size"),
        (lambda f: edit(f, unknown=1), "damaged at unknown"),
        (lambda f: edit(f, size=9), "has 8 rows; obd.json says 9"),
        (lambda f: edit(f, observation_scale=[1.0, 0.0, 1.0]), "positive scales"),
        (lambda f: edit(f, observation_mean=[float("nan")] * 3), "Out of range float values"),
        (lambda f: edit(f, parquet_sha256="0" * 64), "does not match its hash"),
        (lambda f: (f / PARQUET_FILE).write_bytes(b"PAR1"), "does not match its hash"),
        (lambda f: rewrite(f, columns(np.full((8, 3), np.nan, np.float32), GOOD[1])), "not finite"),
        (lambda f: rewrite(f, columns(GOOD[0].astype(np.float64), GOOD[1])), "no column 'observation' of type"),
        (lambda f: rewrite(f, columns(GOOD[0], np.zeros((8, 5), np.float32))), "no column 'action' of type"),
        (lambda f: rewrite(f, columns(*GOOD).drop_columns(["action"])), "no column 'action'"),
        (lambda f: (f / "evaluation.json").write_text("no"), "is not JSON"),
        (lambda f: (f / "evaluation.json").write_text("[1]"), "evaluation.json' is damaged"),
        (lambda f: (f / "evaluation.json").write_text('{"score": {}}'), "evaluation.json' is damaged"),
        (lambda f: rename_return(f), "evaluation.json' is damaged at mean_return"),
        (lambda f: edit_evaluation(f, score={**ONE, "more": 1.0}), "damaged at score.more"),
        (lambda f: edit_evaluation(f, score={**ONE, "mean": "1"}), "damaged at score.mean"),
        (lambda f: edit_evaluation(f, score={**ONE, "mean": float("nan")}), "Out of range float values"),
        (lambda f: edit_evaluation(f, comparisons=[{**LINE, "more": 1}]), "damaged at comparisons.0.more"),
        (lambda f: edit_evaluation(f, comparisons=[{**LINE, "pairs": 1.5}]), "damaged at comparisons.0.pairs"),
        (lambda f: edit_evaluation(f, comparisons=[{**LINE, "return": {**ONE, "x": 1}}]), "comparisons.0.return.x"),
        (lambda f: edit_evaluation(f, comparisons=[{**LINE, "name": "n" * 10_001}]), "at most 10000 characters"),
        (lambda f: edit_evaluation(f, returns=[[1.0], [1.0, 2.0]]), "damaged at returns: setting an array element"),
        (lambda f: edit_evaluation(f, returns=[]), "damaged at returns: .* at least one of each"),
        (lambda f: edit_evaluation(f, returns=[[1e200, 1.0]]), "damaged at returns: some, or their scores, are beyond"),
        (lambda f: edit(f, reference_scores={"random": 1.0, "expert": 1.0, "source": "x"}), "above that of random"),
    ],
)
def test_damage_is_named(damage, message: str) -> None:
    folder = make_pairs().save("pairs")
    damage(folder)
    with pytest.raises(FormatError, match=message):
        minari_obd.load_dataset(folder)


def test_an_older_format_is_read() -> None:
    """A folder that the first format's own code wrote."""
    loaded = minari_obd.load_dataset(Path(__file__).parent / "data" / "format-1")
    pairs = make_pairs()
    assert loaded.content_sha256 == pairs.content_sha256
    assert loaded.provenance.created == pairs.provenance.created
    assert (loaded.license, loaded.source_quantiles, loaded.transitions) == (None, None, None)
    assert loaded.evaluation is not None
    assert loaded.evaluation.returns.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    newer = load_folder(loaded.save("newer"))
    assert newer.content_sha256 == loaded.content_sha256
    assert json.loads(Path("newer", METADATA_FILE).read_text())["format"] == 2


def test_only_discrete_actions_need_the_newest_format() -> None:
    for make, number in ((make_pairs, 2), (make_discrete, FORMAT_VERSION)):
        values = json.loads((make().save(f"of-{number}") / METADATA_FILE).read_text())
        assert (values["format"], "first_action" in values) == (number, number == FORMAT_VERSION)
    with pytest.raises(DataError, match="do not sum to 1"):
        replace(make_discrete(), actions=np.full((8, 3), 0.5))
    with pytest.raises(DataError, match="numbered from beyond"):
        replace(make_discrete(), first_action=10**400)


def test_the_documented_schema_is_the_one_that_is_checked() -> None:
    schema = Path(minari_obd.__file__).parents[1] / "docs" / "obd.schema.json"
    assert json.loads(schema.read_text()) == json_schema(), (
        "run: python -m minari_obd.distilled.metadata > docs/obd.schema.json"
    )


def test_saving_twice_gives_the_same_bytes() -> None:
    for name in ("one", "two"):
        Path(name).mkdir()
        make_full().save(f"{name}/pairs")
    files = [path.relative_to("one") for path in Path("one").rglob("*") if path.is_file()]
    assert len(files) == 9
    for path in files:
        assert ("one" / path).read_bytes() == ("two" / path).read_bytes(), path


def test_a_small_file_that_would_fill_the_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros take next to nothing as parquet; here the limit is lowered, and not the memory filled."""
    monkeypatch.setattr("minari_obd.distilled.folder._MOST_PARQUET_BYTES", 10 * 2**20)
    folder = make_pairs().save("pairs")
    rewrite(folder, columns(np.zeros((30_000, 100), np.float32), np.zeros((30_000, 2), np.float32)))
    assert (folder / PARQUET_FILE).stat().st_size < 100_000
    wide = [0.0] * 100
    edit(folder, size=30_000, observation_mean=wide, observation_scale=[1.0] * 100)
    with pytest.raises(FormatError, match="unpacks to more than"):
        load_folder(folder)


def test_numbers_that_json_cannot_hold_are_refused_wherever_they_are() -> None:
    folder = make_pairs().save("pairs")
    provenance = json.loads((folder / METADATA_FILE).read_text())["provenance"]
    edit(folder, provenance={**provenance, "targets": {"alpha": float("nan")}})
    with pytest.raises(FormatError, match="Out of range float values"):
        load_folder(folder)


def test_errors_cannot_steer_the_terminal() -> None:
    folder = make_pairs().save("pairs")
    edit(folder, **{"\x1b[2J": 1})
    with pytest.raises(FormatError) as error:
        load_folder(folder)
    assert "\x1b" not in str(error.value)


def test_a_parquet_file_that_is_none_is_named() -> None:
    folder = make_pairs().save("pairs")
    (folder / PARQUET_FILE).write_bytes(b"none")
    edit(folder, parquet_sha256=hashlib.sha256(b"none").hexdigest())
    with pytest.raises(FormatError, match="cannot be read as parquet"):
        load_folder(folder)


def test_a_folder_has_no_revisions() -> None:
    with pytest.raises(SettingError, match="has no revisions"):
        minari_obd.load_dataset(make_pairs().save("pairs"), revision="v1")


def test_what_does_not_exist_is_named() -> None:
    for ref in ("nowhere", "a/b/c", "a/lab/none-v0", "./x/y"):
        with pytest.raises(NotFoundError, match="There is no distilled dataset"):
            minari_obd.load_dataset(ref)


def test_pairs_that_do_not_fit_are_refused() -> None:
    pairs = make_pairs()
    for change, message in (
        ({"actions": pairs.actions[:-1]}, "8 observations and 7 actions make no pairs"),
        ({"observations": pairs.observations[:, :2]}, "the normaliser has 3"),
        ({"action_low": np.zeros(3)}, "their bounds 3"),
        ({"action_low": pairs.action_high}, "lower bound"),
        ({"actions": np.full((8, 2), np.inf)}, "not finite"),
        ({"evaluation": {"score": None}}, "evaluation is a dict; expected an EvaluationReport"),
    ):
        with pytest.raises(DataError, match=message):
            replace(pairs, **change)


def test_ready_for_behavioural_cloning() -> None:
    pairs = make_pairs()
    states, actions = pairs.tensors()
    np.testing.assert_allclose(states, (pairs.observations - pairs.normaliser.mean) / pairs.normaliser.scale, rtol=1e-5)
    np.testing.assert_allclose(actions, (pairs.actions + 2) / 3 - 1, atol=1e-6)  # bounds are -2 and 4
    raw, _ = pairs.tensors(normalised=False)
    np.testing.assert_array_equal(raw, pairs.observations)
    batches = list(pairs.dataloader(batch_size=3))
    assert [len(batch[0]) for batch in batches] == [3, 3, 2]
    assert len(pairs.torch_dataset()) == len(pairs) == 8
    assert "8 pairs by sdw" in repr(pairs)


def test_a_folder_that_also_holds_something_else_is_not_replaced() -> None:
    folder = make_pairs().save("pairs")
    (folder / "policy.safetensors").write_text("mine")
    with pytest.raises(SettingError, match="is not a distilled dataset alone"):
        make_pairs(seed=1).save("pairs")
    assert (folder / "policy.safetensors").read_text() == "mine"
