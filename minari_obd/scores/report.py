"""The evaluation report. It keeps every return and derives everything else from them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from minari_obd.errors import DataError
from minari_obd.scores.estimates import Estimate, estimate_interquartile_mean, estimate_mean, probability_of_improvement
from minari_obd.scores.references import ReferenceScores
from minari_obd.settings.checks import check_instance
from minari_obd.settings.protocols import StudentProtocol
from minari_obd.support.tables import markdown_table

__all__ = ["Comparison", "EvaluationReport"]


@dataclass(frozen=True)
class Comparison:
    """One line of a results table: what students were cloned from, and their scores."""

    name: str
    pairs: int | None
    """(state, action) pairs from which the students were cloned; None for a teacher."""
    students: int
    episodes: int
    """Episodes per student."""
    score: Estimate | None
    """Mean normalised score; None without reference scores."""
    mean_return: Annotated[Estimate, Field(alias="return")]
    """Called ``return`` in JSON."""
    success: Estimate | None = None
    """Episodes that succeeded, in percent; None where the environment does not say."""

    @classmethod
    def of(cls, name: str, pairs: int | None, report: "EvaluationReport") -> "Comparison":
        """Summarise a report."""
        students, episodes = report.returns.shape
        score = None if report.reference is None else report.score
        return cls(name, pairs, students, episodes, score, report.mean_return, report.success)

    def to_json(self) -> dict[str, Any]:
        """Return the line as JSON values."""
        values = {"return" if name == "mean_return" else name: value for name, value in asdict(self).items()}
        return values if self.success is not None else {k: v for k, v in values.items() if k != "success"}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Comparison":
        """Read the values of :meth:`to_json`.

        Raises:
            KeyError, TypeError: the values have another form.
        """
        score, success = (None if values.get(k) is None else Estimate(**values[k]) for k in ("score", "success"))
        mean_return = Estimate(**values["return"])
        return cls(values["name"], values["pairs"], values["students"], values["episodes"], score, mean_return, success)


@dataclass(frozen=True)
class EvaluationReport:
    """Result of one evaluation. Every aggregate is derived from the whole matrix of returns."""

    returns: np.ndarray
    """Undiscounted returns, shape (students, episodes)."""
    env_id: str
    seed: int
    reference: ReferenceScores | None = None
    """Reference scores that define the scale of :attr:`scores`, if there are any."""
    seconds: float = 0.0
    """Wall time of the rollouts."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of the packages that affect returns."""
    environment_steps: int = 0
    """Total steps of all episodes."""
    protocol: StudentProtocol | None = None
    """How the students were trained; None for a teacher."""
    ensemble: int = 1
    """Students that acted together as one. Each row of returns belongs to one such ensemble."""
    comparisons: tuple[Comparison, ...] = ()
    """What else was evaluated in the same run, for the results table of a distilled dataset's card."""
    successes: np.ndarray | None = None
    """Whether each episode succeeded at any of its steps, shape (students, episodes), bool; None where the
    environment's infos have neither ``success`` nor ``is_success``."""

    def __post_init__(self) -> None:
        if self.returns.ndim != 2 or self.returns.size == 0:
            raise DataError(
                f"The returns of a report have shape {self.returns.shape}; expected (students, episodes), at least one "
                "of each."
            )
        if self.successes is not None and (self.successes.shape, self.successes.dtype) != (self.returns.shape, bool):
            raise DataError(
                f"The successes of a report have shape {self.successes.shape} and type {self.successes.dtype}; "
                f"expected {self.returns.shape} and bool, one for each return."
            )

    @property
    def scores(self) -> np.ndarray:
        """Normalised scores, shape (students, episodes).

        Raises:
            DataError: the environment has no reference scores.
        """
        if self.reference is None:
            raise DataError(f"'{self.env_id}' has no reference scores; use the returns.")
        return self.reference.normalise(self.returns)

    @cached_property
    def score(self) -> Estimate:
        """Mean normalised score and its 95% interval."""
        return estimate_mean(self.scores)

    @cached_property
    def interquartile_mean(self) -> Estimate:
        """Interquartile mean and its 95% interval: of scores, or of returns if there are no reference scores."""
        return estimate_interquartile_mean(self.returns if self.reference is None else self.scores)

    def probability_of_improvement(self, other: "EvaluationReport") -> Estimate:
        """Probability that a student of this report gets a higher return than one of the other, with its 95% interval.

        Raises:
            DataError: the reports are from different environments.
            SettingError: the other is no report.
        """
        check_instance("probability_of_improvement", other, EvaluationReport)
        if self.env_id != other.env_id:
            raise DataError(
                f"Returns in '{self.env_id}' and '{other.env_id}' cannot be compared; use two reports from the same "
                "environment."
            )
        return probability_of_improvement(self.returns, other.returns)

    @cached_property
    def mean_return(self) -> Estimate:
        """Mean return and its 95% interval."""
        return estimate_mean(self.returns)

    @cached_property
    def success(self) -> Estimate | None:
        """Episodes that succeeded, in percent, and the 95% interval; None where the environment does not say."""
        return None if self.successes is None else estimate_mean(100.0 * self.successes)

    def to_json(self) -> dict[str, Any]:
        """Return the whole report as JSON values, including every return."""
        students, episodes = self.returns.shape
        return {
            "env_id": self.env_id,
            "students": students,
            "episodes": episodes,
            "seed": self.seed,
            "score": None if self.reference is None else _estimate_json(self.score),
            "return": _estimate_json(self.mean_return),
            "interquartile_mean": _estimate_json(self.interquartile_mean),
            "returns": self.returns.tolist(),
            "reference_scores": None if self.reference is None else vars(self.reference),
            "seconds": round(self.seconds, 3),
            "versions": self.versions,
            "environment_steps": self.environment_steps,
            "protocol": None if self.protocol is None else asdict(self.protocol),
            "ensemble": self.ensemble,
            **({"comparisons": [line.to_json() for line in self.comparisons]} if self.comparisons else {}),
            **self._successes_json(),
        }

    def _successes_json(self) -> dict[str, Any]:
        if self.successes is None or self.success is None:
            return {}
        return {"success": _estimate_json(self.success), "successes": self.successes.tolist()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "EvaluationReport":
        """Read the values of :meth:`to_json`. The aggregates are computed again.

        Raises:
            KeyError, TypeError, ValueError: the values are not a report.
        """
        reference, protocol = values["reference_scores"], values.get("protocol")
        successes = values.get("successes")
        return cls(
            returns=np.array(values["returns"], dtype=np.float64),
            env_id=values["env_id"],
            seed=values["seed"],
            reference=None if reference is None else ReferenceScores(**reference),
            seconds=values["seconds"],
            versions=dict(values["versions"]),
            environment_steps=values.get("environment_steps") or 0,
            protocol=None if protocol is None else StudentProtocol(**protocol),
            ensemble=values.get("ensemble", 1),
            comparisons=tuple(map(Comparison.from_json, values.get("comparisons", ()))),
            successes=None if successes is None else np.array(successes),
        )

    def to_markdown(self) -> str:
        """Return the aggregates as a Markdown table."""
        students, episodes = self.returns.shape
        rows = {
            **({} if self.reference is None else {"score": self.score}),
            f"interquartile mean of {'returns' if self.reference is None else 'scores'}": self.interquartile_mean,
            "return": self.mean_return,
            **({} if self.success is None else {"success, %": self.success}),
        }
        cells = [[name, f"{row.mean:.1f}", f"{row.low:.1f} - {row.high:.1f}"] for name, row in rows.items()]
        head = f"{self.env_id}, {students} {self._judged} x {episodes} episodes, seed {self.seed}"
        return markdown_table([head, "mean", "95% interval"], cells) + "\n"

    def __repr__(self) -> str:
        students, episodes = self.returns.shape
        what = f"score {self.score}" if self.reference is not None else f"return {self.mean_return}"
        what += "" if self.success is None else f", success {self.success} %"
        size = f"{students} {self._judged} x {episodes} episodes"
        return f"EvaluationReport({what}, {size} in {self.env_id}, seed {self.seed})"

    @property
    def _judged(self) -> str:
        return "students" if self.ensemble == 1 else f"ensembles of {self.ensemble} students"


def _estimate_json(estimate: Estimate) -> dict[str, float]:
    return {"mean": estimate.mean, "low": estimate.low, "high": estimate.high}
