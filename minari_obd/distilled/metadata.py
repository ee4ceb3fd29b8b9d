"""Metadata: what ``obd.json`` and a Minari rendering hold, checked field by field, as anyone may have written it."""

import json
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field, TypeAdapter

from minari_obd.distilled.contents import Contents, Transitions
from minari_obd.distilled.provenance import Provenance
from minari_obd.errors import DataError, FormatError
from minari_obd.scores.estimates import Estimate
from minari_obd.scores.references import ReferenceScores, check_returns
from minari_obd.scores.report import Comparison, EvaluationReport
from minari_obd.settings.parsing import STRICT_JSON, validated
from minari_obd.settings.protocols import StudentProtocol
from minari_obd.sources.fields import ObservationField
from minari_obd.sources.scaling import Normaliser

__all__ = [
    "FORMAT_VERSION",
    "MOST_PAIRS",
    "Metadata",
    "StatedEvaluation",
    "json_schema",
    "parse_evaluation",
    "parse_metadata",
    "parse_stated_evaluation",
]

FORMAT_VERSION = 4
"""The newest. A dataset is written in the oldest from 2 on that can hold it, for older versions of this package."""


MOST_PAIRS = 1_000_000

_LATE = ("plugins", "source_changed_settings")  # of the provenance, since format 3


@dataclass(frozen=True)
class Metadata:
    """``obd.json``, field by field: everything about a distilled dataset but its pairs and its evaluation."""

    format: int
    """Version of this format."""
    size: int
    """M, the number of pairs."""
    observation_mean: list[float]
    """Students see (observation - mean) / scale; one number a dimension of the observation."""
    observation_scale: list[float]
    """Standard deviation + 0.001; 1 where the source never changes."""
    action_low: list[float]
    """Students' actions on [-1, 1] are stretched to these bounds."""
    action_high: list[float]
    env_id: str | None
    """Plain Gymnasium id of the environment."""
    reference_scores: ReferenceScores | None
    """The returns that count as 0 and 100."""
    student: StudentProtocol
    """The student and training that the pairs were made for."""
    provenance: Provenance
    """Where the pairs come from and how they were made."""
    license: str | None = None
    """The Hub's id of the licence. Since format 2."""
    source_quantiles: list[list[float]] | None = None
    """Quantiles 0, 0.05, 0.25, 0.5, 0.75, 0.95 and 1 of the source's observations, (7, S). Since format 2."""
    observation_fields: list[ObservationField] | None = None
    """Which columns hold which part of an observation that was a dict or tuple, in order; left out if it was flat.
    Since format 3."""
    first_action: int | None = None
    """Of discrete actions, the number of the first: an action then is the probability of each, in order. Left out if
    actions are continuous. Since format 4."""
    transitions: bool = False
    """Whether each pair has a simulated reward and successor. Since format 2."""
    pairs_sha256: str | None = None
    """Of the pairs, whatever file holds them, see :attr:`Contents.content_sha256`. Since format 2."""
    parquet_sha256: str | None = None
    """Of the parquet file; null in a Minari dataset, which has none."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT_JSON

    @classmethod
    def of(cls, dataset: Contents, *, parquet_sha256: str | None = None) -> "Metadata":
        """Describe a dataset."""
        is_late = any(getattr(dataset.provenance, name) for name in _LATE)
        quantiles = dataset.source_quantiles
        is_newest = dataset.is_discrete or getattr(dataset.evaluation, "successes", None) is not None
        return cls(
            format=4 if is_newest else 3 if dataset.observation_fields or is_late else 2,
            size=len(dataset),
            observation_mean=dataset.normaliser.mean.tolist(),  # float32 as Python floats: JSON keeps every bit
            observation_scale=dataset.normaliser.scale.tolist(),
            action_low=dataset.action_low.tolist(),
            action_high=dataset.action_high.tolist(),
            env_id=dataset.env_id,
            reference_scores=dataset.reference,
            student=dataset.protocol,
            provenance=dataset.provenance,
            license=dataset.license,
            source_quantiles=None if quantiles is None else quantiles.tolist(),
            observation_fields=list(dataset.observation_fields) or None,
            first_action=dataset.first_action,
            transitions=dataset.transitions is not None,
            pairs_sha256=dataset.content_sha256,
            parquet_sha256=parquet_sha256,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the metadata as JSON values."""
        values = json.loads(json.dumps(asdict(self), allow_nan=False))
        for holder, name in ((values, "observation_fields"), *((values["provenance"], name) for name in _LATE)):
            if not holder[name]:  # unknown to older versions
                del holder[name]
        if self.first_action is None:
            del values["first_action"]
        return values

    def contents(
        self,
        observations: np.ndarray,
        actions: np.ndarray,
        transitions: Transitions | None,
        evaluation: EvaluationReport | None,
        *,
        origin: str,
    ) -> Contents:
        """Put a dataset together, and check its pairs against their hash.

        Raises:
            FormatError: the parts do not fit, or the pairs are not those that the hash is of.
        """
        quantiles = self.source_quantiles
        try:
            with np.errstate(over="ignore"):  # 1e300 becomes infinite as float32, which is refused by name
                dataset = Contents(
                    observations=observations,
                    actions=actions,
                    normaliser=Normaliser(np.array(self.observation_mean), np.array(self.observation_scale)),
                    protocol=self.student,
                    provenance=self.provenance,
                    action_low=np.array(self.action_low),
                    action_high=np.array(self.action_high),
                    env_id=self.env_id,
                    reference=self.reference_scores,
                    evaluation=evaluation,
                    license=self.license,
                    source_quantiles=None if quantiles is None else np.array(quantiles),
                    observation_fields=tuple(self.observation_fields or ()),
                    first_action=self.first_action,
                    transitions=transitions,
                    origin=origin,
                )
        except (DataError, ValueError, OverflowError) as error:  # a ragged list of quantiles is a ValueError
            raise FormatError(f"'{origin}' is damaged: {error}") from error
        if len(dataset) != self.size:
            raise FormatError(f"'{origin}' has {len(dataset)} pairs; its metadata says {self.size}.")
        if self.pairs_sha256 is not None and dataset.content_sha256 != self.pairs_sha256:
            raise FormatError(
                f"The pairs in '{origin}' do not match the hash in their metadata (expected "
                f"{self.pairs_sha256[:12]}..., found {dataset.content_sha256[:12]}...); the copy is damaged or was "
                "changed, fetch it again."
            )
        return dataset


@dataclass(frozen=True)
class StatedEvaluation:
    """``evaluation.json``, field by field: a report with the aggregates that its writer stated.

    It is what :meth:`EvaluationReport.to_json` gives. A report derives its aggregates from its returns; what is stated
    beside them is for readers without this package, and for :func:`verify` to compare.
    """

    env_id: str
    students: int
    episodes: int
    seed: int
    score: Estimate | None
    mean_return: Annotated[Estimate, Field(alias="return")]
    returns: list[list[float]]
    reference_scores: ReferenceScores | None
    seconds: float
    versions: dict[str, str]
    interquartile_mean: Estimate | None = None
    environment_steps: int | None = None
    protocol: StudentProtocol | None = None
    ensemble: int = 1
    comparisons: list[Comparison] = field(default_factory=list)
    success: Estimate | None = None
    successes: list[list[bool]] | None = None

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT_JSON


def parse_metadata(values: Any, origin: str) -> Metadata:
    """Check JSON values; an older format is read as it was meant, a newer one refused.

    Raises:
        FormatError: a newer format, or a field that is unknown, missing, too long or of the wrong kind; it is named.
    """
    version = values.get("format") if isinstance(values, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise FormatError(
            f"'{origin}' has format {version}, and this version of minari-obd reads up to {FORMAT_VERSION}; "
            "upgrade it with `pip install --upgrade minari-obd`."
        )
    metadata = validated(Metadata, values, origin)
    if metadata.format < 1:
        raise FormatError(f"'{origin}' has format {metadata.format}, which does not exist; the copy is damaged.")
    if metadata.format > 1 and metadata.pairs_sha256 is None:
        raise FormatError(f"'{origin}' is damaged at pairs_sha256: format {metadata.format} has the hash of the pairs.")
    if not 0 < metadata.size <= MOST_PAIRS:
        raise FormatError(f"'{origin}' is damaged at size: {metadata.size} is not between 1 and {MOST_PAIRS:,}.")
    return metadata


def parse_evaluation(values: Any, origin: str) -> EvaluationReport:
    """Check the JSON values of an evaluation report and return the report, with its aggregates recomputed.

    Raises:
        FormatError: a field that is unknown, missing or of the wrong kind, which is named; or returns that are not a
            matrix, or are too large.
    """
    parse_stated_evaluation(values, origin)
    try:
        report = EvaluationReport.from_json(values)
    except (ValueError, DataError) as error:  # rows of different lengths, or none
        raise FormatError(f"'{origin}' is damaged at returns: {error}") from error
    check_returns(report.returns, report.reference, f"'{origin}' is damaged at returns")
    return report


def parse_stated_evaluation(values: Any, origin: str) -> StatedEvaluation:
    """Check the JSON values of an evaluation report and return them with the aggregates that they state.

    Raises:
        FormatError: a field that is unknown, missing or of the wrong kind; it is named.
    """
    return validated(StatedEvaluation, values, origin)


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of ``obd.json``, which docs/obd.schema.json shows."""
    return TypeAdapter(Metadata).json_schema()


if __name__ == "__main__":  # python -m minari_obd.distilled.metadata > docs/obd.schema.json
    print(json.dumps(json_schema(), indent=2))
