"""Damaged and hostile reports of fine-tuning and continual learning: our own errors, which name file and place."""

import json
import re
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing import changed, damage, often, seldom
from hypothesis import given
from hypothesis import strategies as st

from minari_obd.continual.report import ContinualReport, ContinualTask, continual_table
from minari_obd.continual.stages import read_stage
from minari_obd.errors import FormatError, MinariObdError
from minari_obd.finetuning.grid import arms_table
from minari_obd.finetuning.report import FinetuneReport, mean_curve
from minari_obd.scores.references import ReferenceScores
from minari_obd.settings.finetuning import FinetuningRecipe
from minari_obd.settings.protocols import StudentProtocol

REFERENCE = ReferenceScores(0.0, 200.0, "made up")
TUNED = FinetuneReport(
    env_id="Hopper-v5",
    seed=0,
    steps=np.array([0, 100, 200]),
    returns=np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]),
    bc_weights=np.array([0.4, 0.2, 0.0]),
    training_steps=np.array([40, 90]),
    training_returns=np.array([3.0, 4.0]),
    settings=FinetuningRecipe(warmup=10),
    reference=REFERENCE,
    versions={"torch": "2"},
)
LEARNED = ContinualReport(
    tasks=(ContinualTask("a", "Hopper-v5", 8, REFERENCE), ContinualTask("b", "Hopper-v5", 8, REFERENCE)),
    strategy="rehearsal",
    normaliser="joint",
    returns=np.arange(16.0).reshape(2, 2, 2, 2),
    seed=0,
    stage_pairs=(8, 16),
    protocol=StudentProtocol(depth=1, width=4, steps=2),
)


def use_tuned(folder: Path) -> None:
    report = FinetuneReport.read(folder)
    assert np.isfinite(report.curve).all()
    _ = repr(report), report.to_csv(), report.steps_to(0.5, stays=True), report.return_at(50), report.largest_drop
    json.dumps(report.to_json(), allow_nan=False)
    mean_curve([report])
    arms_table([report], budget=10, target=1.0)


def use_learned(folder: Path) -> None:
    report = ContinualReport.read(folder)
    repr(report)
    json.dumps(report.to_json(), allow_nan=False)
    continual_table([report])


def use_stage(folder: Path) -> None:
    (folder / "report.json").rename(folder / "stage-1.json")
    with pytest.warns(UserWarning, match="set aside as 'stage-1.json.damaged'") as told:
        assert read_stage(folder, 0, "key", (2, 2, 2)) is None
    raise FormatError(str(told[0].message))


STAGE = {"key": "key", "returns": np.arange(8.0).reshape(2, 2, 2).tolist(), "versions": {}, "seconds": 1.0}
KINDS = pytest.mark.parametrize(
    ("values", "use"), [(TUNED.to_json(), use_tuned), (LEARNED.to_json(), use_learned)], ids=["tuned", "learned"]
)


def try_out(content: bytes, use: Callable[[Path], None]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        path.write_bytes(content)
        said = None
        try:
            use(Path(folder))
        except MinariObdError as error:
            said = str(error)
        assert said is None or (str(path) in said and len(said) < 1_000)


@often
@given(st.data())
@KINDS
def test_any_value_anywhere_in_a_report(values: dict[str, Any], use: Callable, data: st.DataObject) -> None:
    try_out(json.dumps(changed(data, values)).encode(), use)


@seldom
@given(st.data())
@KINDS
def test_any_bytes_in_a_report(values: dict[str, Any], use: Callable, data: st.DataObject) -> None:
    try_out(damage(data, json.dumps(values).encode()), use)


HOSTILE = [
    *("", "[]", "null", "[" * 100_000, '{"format": ' + "9" * 5_000 + "}"),
    '{"format": true}',
    '{"format": 2, "format": 1e999}',
]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("use", [use_tuned, use_learned, use_stage])
def test_what_is_no_report_is_refused_with_its_place(text: str, use: Callable, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(FormatError, match=rf"'{re.escape(str(tmp_path))}/(report|stage-1)\.json'"):
        use(tmp_path)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"returns": [[1.0, 2.0], [3.0], [5.0, 6.0]]}, "is damaged: "),
        ({"returns": [[], [], []]}, "Evaluations have episodes"),
        ({"returns": [[1e200, 0.0]] * 3}, "is damaged at returns"),
        ({"training_returns": [1e200, 0.0]}, "is damaged at training_returns"),
        ({"steps": [0, 100, 100]}, "steps that begin at 0"),
        ({"steps": [0, 100, 10**30]}, "is damaged"),
        ({"seed": "0"}, "is damaged at seed"),
        ({"settings": {"warmup": -1}}, r"is damaged at settings: .*finetuning\.warmup is -1"),
        ({"format": 1}, "has report format 1, which this version no longer reads"),
    ],
)
def test_a_report_of_fine_tuning_names_the_place(change: dict[str, Any], place: str, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(json.dumps({**TUNED.to_json(), **change}))
    with pytest.raises(FormatError, match=f"report.json' {place}|report.json' is damaged: .*{place}"):
        use_tuned(tmp_path)


def test_a_stage_of_other_sizes_or_with_an_endless_number_is_set_aside(tmp_path: Path) -> None:
    for change in ({"returns": [[[1.0]]]}, {"returns": [[[10**400, 1], [1, 1]]] * 2}, {"versions": [1]}):
        (tmp_path / "report.json").write_text(json.dumps({**STAGE, **change}))
        with pytest.raises(FormatError, match="is damaged at"):
            use_stage(tmp_path)


@pytest.mark.parametrize("use", [use_tuned, use_learned, use_stage])
def test_a_large_file_is_refused_unread(use: Callable, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    with path.open("wb") as file:
        file.truncate(2**30)
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match="is larger than 16 MiB"):
            use(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
