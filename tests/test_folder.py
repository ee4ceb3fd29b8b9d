"""The folder: what is saved comes back to the bit, and what was tampered with does not come back at all."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import make_pairs

import minari_obd
from minari_obd.distilled import DistilledDataset
from minari_obd.errors import DataError, FormatError, NotFoundError, SettingError
from minari_obd.evaluation import EvaluationReport
from minari_obd.folder import METADATA_FILE, PARQUET_FILE, load_folder, save_folder
from minari_obd.statistics import ReferenceScores


def test_a_folder_survives_save_and_load() -> None:
    pairs = make_pairs()
    loaded = minari_obd.load_dataset(pairs.save("out/pairs"))
    for name in ("observations", "actions", "action_low", "action_high"):
        assert getattr(loaded, name).tobytes() == getattr(pairs, name).tobytes()
    assert loaded.normaliser.mean.tobytes() == pairs.normaliser.mean.tobytes()
    assert loaded.normaliser.scale.tobytes() == pairs.normaliser.scale.tobytes()
    for name in ("protocol", "provenance", "env_id", "reference", "evaluation"):
        assert getattr(loaded, name) == getattr(pairs, name)
    assert not [path for path in Path("out").iterdir() if path.name != "pairs"]


def test_the_layout_is_the_one_of_the_design() -> None:
    folder = make_pairs().save("pairs")
    assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()) == [
        "README.md",
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

    def fail(*_) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("minari_obd.folder.dataset_card", fail)
    with pytest.raises(KeyboardInterrupt):
        make_pairs(seed=1).save("pairs")
    np.testing.assert_array_equal(load_folder(folder).actions, pairs.actions)
    assert [path.name for path in Path().iterdir()] == ["pairs"]


def edit(folder: Path, **changes) -> None:
    path = folder / METADATA_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def rewrite(folder: Path, table: pa.Table) -> None:
    """Replace the pairs, and the hash with them, as somebody would who wants to be believed."""
    import hashlib

    pq.write_table(table, folder / PARQUET_FILE)
    edit(folder, parquet_sha256=hashlib.sha256((folder / PARQUET_FILE).read_bytes()).hexdigest())


def columns(observations: np.ndarray, actions: np.ndarray) -> pa.Table:
    def fixed(values: np.ndarray) -> pa.Array:
        return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])

    return pa.table({"observation": fixed(observations), "action": fixed(actions)})


GOOD = (np.zeros((8, 3), np.float32), np.zeros((8, 2), np.float32))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / METADATA_FILE).unlink(), "is not a distilled dataset: it has no obd.json"),
        (lambda f: (f / PARQUET_FILE).unlink(), "the copy is incomplete"),
        (lambda f: (f / METADATA_FILE).write_text("{"), "is not JSON"),
        (lambda f: (f / METADATA_FILE).write_text("[" * 100_000), "is not JSON"),
        (lambda f: (f / METADATA_FILE).write_text("[]"), "damaged at obd.json"),
        (lambda f: edit(f, format=2), "has format 2, and this version of minari-obd reads up to 1"),
        (lambda f: edit(f, size="8"), "damaged at size"),
        (lambda f: edit(f, unknown=1), "damaged at unknown"),
        (lambda f: edit(f, size=9), "has 8 rows; obd.json says 9"),
        (lambda f: edit(f, observation_scale=[1.0, 0.0, 1.0]), "positive scales"),
        (lambda f: edit(f, observation_mean=[float("nan")] * 3), "should be a finite number"),
        (lambda f: edit(f, parquet_sha256="0" * 64), "does not match its hash"),
        (lambda f: (f / PARQUET_FILE).write_bytes(b"PAR1"), "does not match its hash"),
        (lambda f: rewrite(f, columns(np.full((8, 3), np.nan, np.float32), GOOD[1])), "not finite"),
        (lambda f: rewrite(f, columns(GOOD[0].astype(np.float64), GOOD[1])), "no column 'observation' of type"),
        (lambda f: rewrite(f, columns(GOOD[0], np.zeros((8, 5), np.float32))), "no column 'action' of type"),
        (lambda f: rewrite(f, columns(*GOOD).drop_columns(["action"])), "no column 'action'"),
        (lambda f: (f / "evaluation.json").write_text("no"), "is not JSON"),
        (lambda f: (f / "evaluation.json").write_text("[1]"), "evaluation.json' is damaged"),
        (lambda f: (f / "evaluation.json").write_text('{"score": {}}'), "evaluation.json' is damaged"),
    ],
)
def test_damage_is_named(damage, message: str) -> None:
    folder = make_pairs().save("pairs")
    damage(folder)
    with pytest.raises(FormatError, match=message):
        minari_obd.load_dataset(folder)


def test_a_parquet_file_that_is_none_is_named() -> None:
    import hashlib

    folder = make_pairs().save("pairs")
    (folder / PARQUET_FILE).write_bytes(b"none")
    edit(folder, parquet_sha256=hashlib.sha256(b"none").hexdigest())
    with pytest.raises(FormatError, match="cannot be read as parquet"):
        load_folder(folder)


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


def test_the_card_has_valid_yaml_and_the_result() -> None:
    yaml = pytest.importorskip("yaml")
    report = EvaluationReport(np.full((2, 3), 41.23), "E-v0", 0, ReferenceScores(0.0, 100.0, "made up")).to_json()
    folder = save_folder(replace(make_pairs(), evaluation=report), Path("obd-x"), minari=False)
    _, header, body = (folder / "README.md").read_text().split("---\n", 2)
    values = yaml.safe_load(header)
    assert values["task_categories"] == ["reinforcement-learning"]
    assert values["size_categories"] == ["n<1K"]
    assert {"offline-rl", "dataset-distillation", "minari", "minari-obd", "sdw"} <= set(values["tags"])
    assert values["configs"][0]["data_files"][0]["path"] == "data/train-*.parquet"
    assert "41.2" in body
    loaded = minari_obd.load_dataset(folder)
    assert isinstance(loaded, DistilledDataset)
    assert loaded.evaluation == report


def test_a_set_cannot_steer_the_terminal() -> None:
    provenance = replace(make_pairs().provenance, source="\x1b]0;owned\x07\x1b[2J")
    pairs = minari_obd.load_dataset(replace(make_pairs(), provenance=provenance).save("pairs"))
    assert "\x1b" not in repr(pairs) + Path("pairs/README.md").read_text()


def test_a_folder_that_also_holds_something_else_is_not_replaced() -> None:
    folder = make_pairs().save("pairs")
    (folder / "policy.safetensors").write_text("mine")
    with pytest.raises(SettingError, match="is not a distilled dataset alone"):
        make_pairs(seed=1).save("pairs")
    assert (folder / "policy.safetensors").read_text() == "mine"
