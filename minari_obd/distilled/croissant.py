"""Croissant: a distilled dataset described for machines, with the fields of responsible AI.

The vocabularies are Croissant 1.1 (http://mlcommons.org/croissant/1.1), its extension RAI 1.0
(http://mlcommons.org/croissant/RAI/1.0), and PROV-O (https://www.w3.org/TR/prov-o/) for where synthetic data come from.
"""

import json
import re
from typing import Any

from minari_obd.distilled.card import PAPERS, limits
from minari_obd.distilled.contents import Contents
from minari_obd.errors import printable

__all__ = ["croissant"]

_FILE_ID = "pairs.parquet"

_DATE = re.compile(r"\d{4}-\d\d-\d\dT")

_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "prov": "http://www.w3.org/ns/prov#",
    "sc": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    **{
        name: f"cr:{name}"
        for name in (
            *("arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract", "field", "fileObject"),
            *("fileProperty", "fileSet", "format", "includes", "isArray", "isLiveDataset", "jsonPath", "key", "md5"),
            *("parentField", "path", "recordSet", "references", "regex", "repeated", "replace", "samplingRate"),
            *("separator", "source", "subField", "transform"),
        )
    },
}


def croissant(dataset: Contents, repo_id: str, parquet: str, *, size: int, sha256: str) -> dict[str, Any]:
    """Return the description as JSON-LD.

    Args:
        dataset: the pairs.
        repo_id: ``organisation/name``; the organisation ``ORG`` stands for none.
        parquet: path of the parquet file in the folder.
        size: of that file, bytes.
        sha256: of that file.
    """
    organisation, name = repo_id.split("/")
    p, s = dataset.provenance, dataset.observations.shape[1]
    where = dataset.env_id or "an unknown environment"
    published: dict[str, Any] = {"datePublished": p.created[:10]} if _DATE.match(p.created) else {}
    if organisation != "ORG":
        published |= {
            "url": f"https://huggingface.co/datasets/{repo_id}",
            "creator": {"@type": "sc:Organization", "name": organisation},
        }
    fields = [
        _field("observation", "In the environment's units.", s),
        _field(
            "action", "In the environment's units, or a probability of each discrete action.", dataset.actions.shape[1]
        ),
    ]
    if dataset.transitions is not None:
        fields += [
            _field("reward", "Of one step simulated from the pair.", None),
            _field("next_observation", "After that step.", s),
            _field("termination", "Whether that step ended in a terminal state.", None, "sc:Boolean"),
        ]
    described = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"],
        "name": name,
        "description": (
            f"{len(dataset)} (observation, action) pairs that stand for {p.source} ({p.source_steps:,} steps, "
            f"{where}), made with the method {p.method}. A policy is cloned from them in seconds."
        ),
        "license": dataset.license or "unknown",
        "version": "1.0.0",
        "citeAs": PAPERS,
        "keywords": ["offline reinforcement learning", "dataset distillation", "behavioural cloning", "minari"],
        **published,
        **_responsible(dataset),
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": _FILE_ID,
                "name": _FILE_ID,
                "description": "One row a pair.",
                "contentUrl": parquet,
                "contentSize": f"{size} B",
                "encodingFormat": "application/x-parquet",
                "sha256": sha256,
            }
        ],
        "recordSet": [{"@type": "cr:RecordSet", "@id": "pairs", "name": "pairs", "field": fields}],
    }
    return json.loads(json.dumps(described), object_hook=_printable)


def _field(name: str, meaning: str, size: int | None, kind: str = "cr:Float32") -> dict[str, Any]:
    shape = {} if size is None else {"isArray": True, "arrayShape": str(size)}
    return {
        "@type": "cr:Field",
        "@id": f"pairs/{name}",
        "name": name,
        "description": meaning,
        "dataType": kind,
        **shape,
        "source": {"fileObject": {"@id": _FILE_ID}, "extract": {"column": name}},
    }


def _responsible(dataset: Contents) -> dict[str, Any]:
    """Return what RAI and PROV-O have words for: how the data came about, what they are good for, and where not."""
    p, is_synthetic = dataset.provenance, dataset.provenance.outer_step is not None
    origin = f"{p.source} ({p.source_steps:,} steps, content sha256 {p.source_sha256})"
    teacher = (p.teacher or {}).get("algorithm")
    wanted = f"the actions of a teacher trained by {teacher}" if teacher else "the actions of the data"
    if is_synthetic:
        collection = (
            f"No data was collected for this set. {len(dataset)} pairs were synthesised from the offline dataset "
            f"{origin}: they started at its states, and gradient descent through the training of students moved them "
            f"until students trained on them give {wanted}."
        )
    else:
        collection = (
            f"No data was collected for this set. {len(dataset)} real steps were selected from the offline dataset "
            f"{origin} by the method {p.method}."
        )
    entity = {"@type": "prov:Entity", "prov:label": p.source, "sc:sha256": p.source_sha256}
    activity = {
        "@type": "prov:Activity",
        "prov:label": f"{'distillation' if is_synthetic else 'selection'} by the method {p.method}, seed {p.seed}",
        "prov:endedAtTime": p.created,
        "prov:wasAssociatedWith": {"@type": "prov:SoftwareAgent", "prov:label": f"minari-obd {p.package_version}"},
    }
    return {
        "rai:hasSyntheticData": is_synthetic,
        "rai:dataCollection": collection,
        "rai:dataCollectionType": ["Secondary Data Analysis", "Software Collection"],
        "rai:dataCollectionRawData": f"The offline dataset {origin}.",
        "rai:dataPreprocessingProtocol": [
            "Students see observations normalised by the source's mean and scale, and actions on [-1, 1]; the pairs "
            "are stored in the environment's units."
        ],
        "rai:dataLimitations": limits(dataset, students="one kind of student, described on the card", named=""),
        "rai:dataBiases": [
            "States that the policies behind the source rarely reached are rare or missing here as well.",
            f"Students of the pairs imitate {wanted}, errors and all; other ways to solve the task are not shown.",
            f"The method {p.method} decides which states count more; pairs are not a sample of the source and say "
            "nothing of how often states occur there.",
        ],
        "rai:dataUseCases": [
            f"Cloning policies for {dataset.env_id or 'the source environment'} by behavioural cloning, and starting "
            "or reminding learners that go on from there.",
            "Research on dataset distillation, offline reinforcement learning and continual learning.",
            "Not for statistics of the source, and not for controlling real machines without tests of its own.",
        ],
        "rai:dataSocialImpact": (
            "Training from a few hundred pairs takes seconds instead of hours, which saves energy and lets more people "
            "repeat experiments. A policy cloned from them is only as safe as its tests."
        ),
        "rai:personalSensitiveInformation": [
            "None is known: the pairs are states and actions of a control task. Distillation is no anonymisation: if "
            "the source holds what is private, pairs may tell of it."
        ],
        "prov:wasDerivedFrom": entity,
        "prov:wasGeneratedBy": activity,
    }


def _printable(values: dict[str, Any]) -> dict[str, Any]:
    """Leave control characters of names out, since anyone may have written them."""
    return {key: printable(value) if isinstance(value, str) else value for key, value in values.items()}
