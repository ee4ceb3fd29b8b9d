"""The Croissant file: MLCommons' own library finds nothing wrong with it, and reads the pairs by it."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlcroissant as mlc
import numpy as np
import pytest
from conftest import make_discrete, make_full, make_pairs
from hub_server import HubServer

from minari_obd.distilled.dataset import DistilledDataset

# Of mlcroissant's own dependencies, not of what we wrote.
pytestmark = [
    pytest.mark.filterwarnings("ignore:ConjunctiveGraph is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The inplace keyword"),
]
RAI = (
    *("dataBiases", "dataCollection", "dataCollectionRawData", "dataCollectionType", "dataLimitations"),
    *("dataPreprocessingProtocol", "dataSocialImpact", "dataUseCases", "hasSyntheticData"),
    "personalSensitiveInformation",
)


@contextmanager
def no_word_of_warning(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """mlcroissant logs what it finds wrong by absl, whose logger hands nothing on unless asked to."""
    logger = logging.getLogger("absl")
    before, logger.propagate = logger.propagate, True
    try:
        yield
    finally:
        logger.propagate = before
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


def described(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "croissant.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("make", [make_full, make_discrete, make_pairs])
def test_mlcroissant_has_no_complaint_and_reads_the_pairs(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    pairs: DistilledDataset = make()
    folder = pairs.save("pairs")
    with no_word_of_warning(caplog):
        read = mlc.Dataset(jsonld=str(folder / "croissant.json"))
        assert not read.metadata.ctx.issues.errors
        assert not read.metadata.ctx.issues.warnings
        records = list(read.records("pairs"))
    for name, wanted in (("observation", pairs.observations), ("action", pairs.actions)):
        np.testing.assert_array_equal(np.array([row[f"pairs/{name}"] for row in records], np.float32), wanted)
    assert ("pairs/reward" in records[0]) == (pairs.transitions is not None)
    assert read.metadata.data_limitations
    assert read.metadata.data_biases
    assert read.metadata.data_use_cases
    assert read.metadata.data_collection
    assert read.metadata.data_social_impact
    assert read.metadata.personal_sensitive_information


def test_mlcroissant_notices_a_fault(tmp_path: Path) -> None:
    folder = make_pairs().save("pairs")
    values = described(folder)
    values["recordSet"][0]["field"][0]["source"]["fileObject"]["@id"] = "another"
    (folder / "croissant.json").write_text(json.dumps(values))
    with pytest.raises(mlc.ValidationError):
        mlc.Dataset(jsonld=str(folder / "croissant.json"))


def test_it_says_what_is_synthetic_and_where_it_comes_from() -> None:
    pairs = make_full()
    values = described(pairs.save("distilled"))
    assert {f"rai:{name}" for name in RAI} <= values.keys()
    assert values["rai:hasSyntheticData"] is True
    assert pairs.provenance.source_sha256 in values["rai:dataCollection"]
    assert values["prov:wasDerivedFrom"]["prov:label"] == pairs.provenance.source
    assert pairs.provenance.method in values["prov:wasGeneratedBy"]["prov:label"]
    assert pairs.provenance.package_version in values["prov:wasGeneratedBy"]["prov:wasAssociatedWith"]["prov:label"]
    assert values["license"] == "cc-by-4.0"
    assert "creator" not in values  # of a folder it is not known who publishes it
    real = replace(pairs, provenance=replace(pairs.provenance, outer_step=None, method="random"))
    values = described(real.save("selected"))
    assert values["rai:hasSyntheticData"] is False
    assert "real steps" in values["rai:dataCollection"]
    assert any("what is private there is here" in line for line in values["rai:dataLimitations"])


def test_names_that_anyone_may_have_written_stay_text(caplog: pytest.LogCaptureFixture) -> None:
    pairs = make_pairs()
    named = replace(pairs.provenance, source='a"},{"@id": "b\x1b[31m', method="x\u202e", created="today")
    folder = replace(pairs, provenance=named).save("pairs")
    assert "\x1b" not in json.dumps(described(folder), ensure_ascii=False)
    assert mlc.Dataset(jsonld=str(folder / "croissant.json")).metadata.name == "pairs"


def test_a_published_set_names_its_repository(hub: HubServer) -> None:
    make_pairs().push_to_hub("org/obd-x")
    values = json.loads(hub.files("org/obd-x")["croissant.json"])
    assert values["url"] == "https://huggingface.co/datasets/org/obd-x"
    assert values["creator"]["name"] == "org"
    assert values["name"] == "obd-x"
