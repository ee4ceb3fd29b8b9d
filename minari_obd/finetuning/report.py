"""Reports of fine-tuning: the whole curve, what is read from it, and the picture of several."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from minari_obd.cloning.policy import Policy
from minari_obd.errors import DataError, NotFoundError
from minari_obd.scores.estimates import Estimate, estimate_mean
from minari_obd.scores.references import ReferenceScores, check_returns
from minari_obd.settings.checks import check_instance
from minari_obd.settings.finetuning import FinetuningRecipe
from minari_obd.settings.parsing import STRICT_JSON, read_result
from minari_obd.storage.files import check_new, write_text
from minari_obd.support.figures import default_style, make_figure, png

__all__ = ["FinetuneReport", "draw_reports", "mean_curve"]

_FORMAT = 2


@dataclass(frozen=True)
class FinetuneReport:
    """What came out of one run; every aggregate is derived from the whole matrix of returns."""

    env_id: str
    seed: int
    steps: np.ndarray
    """Environment steps before each evaluation, shape (K,); the first is 0, before anything was learned."""
    returns: np.ndarray
    """Undiscounted returns without noise, shape (K, episodes); every evaluation has the same starts."""
    bc_weights: np.ndarray
    """The reminder's weight at each evaluation, shape (K,)."""
    training_steps: np.ndarray
    """Environment steps at the end of each training episode, shape (J,)."""
    training_returns: np.ndarray
    """Undiscounted returns of the training episodes, with exploration noise, shape (J,)."""
    settings: FinetuningRecipe
    reference: ReferenceScores | None = None
    """Reference scores that :attr:`scores` are measured between, if there are any."""
    label: str = "fine-tuned"
    """What the run is called in tables and pictures."""
    subject: str = ""
    """What was cloned, in words."""
    seconds: float = 0.0
    """Wall time, of all parts of an interrupted run together."""
    versions: dict[str, str] = field(default_factory=dict)
    policy: Policy | None = field(default=None, compare=False, repr=False)
    """The actor at the end; None in a report that was read from a file."""

    def __post_init__(self) -> None:
        for name, kind in (("steps", np.int64), ("training_steps", np.int64)):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=kind))
        for name in ("returns", "bc_weights", "training_returns"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float64))
        count = len(self.steps)
        if self.returns.ndim != 2 or len(self.returns) != count or self.bc_weights.shape != (count,) or not count:
            raise DataError(
                f"{count} evaluations have returns of shape {self.returns.shape} and {len(self.bc_weights)} weights; "
                "each needs its returns and a weight."
            )
        if not self.returns.size or self.steps[0] < 0 or (np.diff(self.steps) <= 0).any():
            raise DataError("Evaluations have episodes, and steps that begin at 0 or above and rise.")
        if len(self.training_steps) != len(self.training_returns):
            raise DataError(f"{len(self.training_steps)} ends and {len(self.training_returns)} returns of episodes.")

    @property
    def scores(self) -> np.ndarray:
        """Normalised scores, shape (K, episodes).

        Raises:
            DataError: the environment has no reference scores.
        """
        if self.reference is None:
            raise DataError(f"'{self.env_id}' has no reference scores; use the returns.")
        return self.reference.normalise(self.returns)

    @property
    def curve(self) -> np.ndarray:
        """Mean score of each evaluation, or mean return where there are no reference scores, shape (K,)."""
        return (self.returns if self.reference is None else self.scores).mean(axis=1)

    def steps_to(self, value: float, *, stays: bool = False) -> int | None:
        """Environment steps until an evaluation's mean score reaches ``value``; None if none does.

        Args:
            value: a score, or a return where the environment has no reference scores.
            stays: ask for the first evaluation from which on all do, and not for the first that does.
        """
        reached = self.curve >= value
        if stays:
            reached = np.logical_and.accumulate(reached[::-1])[::-1]
        return int(self.steps[np.argmax(reached)]) if reached.any() else None

    def return_at(self, budget: int) -> float:
        """Mean return of the last evaluation within ``budget`` environment steps.

        Raises:
            DataError: the budget is negative.
        """
        if budget < 0:
            raise DataError(f"A budget of {budget} steps has no evaluation; give 0 or more.")
        return float(self.returns[np.searchsorted(self.steps, budget, side="right") - 1].mean())

    @property
    def largest_drop(self) -> float:
        """How far the curve fell below its start at the worst, 0 if it never did: what was forgotten."""
        return float(max(0.0, self.curve[0] - self.curve.min()))

    def to_json(self) -> dict[str, Any]:
        """All of it but the policy as JSON values, every return among them."""
        arrays = ("steps", "returns", "bc_weights", "training_steps", "training_returns")
        return {
            "format": _FORMAT,
            **{name: getattr(self, name) for name in ("label", "subject", "env_id", "seed")},
            **{name: getattr(self, name).tolist() for name in arrays},
            "reference_scores": None if self.reference is None else asdict(self.reference),
            "settings": asdict(self.settings),
            "seconds": round(self.seconds, 3),
            "versions": self.versions,
        }

    def to_csv(self) -> str:
        """The curve, one line for each evaluation: step, mean return, score, reminder's weight, each return."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        names = [f"return_{i}" for i in range(self.returns.shape[1])]
        writer.writerow(["step", "return", "score", "bc_weight", *names])
        scores = [""] * len(self.steps) if self.reference is None else self.scores.mean(axis=1).tolist()
        for step, row, score, weight in zip(
            self.steps.tolist(), self.returns, scores, self.bc_weights.tolist(), strict=True
        ):
            writer.writerow([step, float(row.mean()), score, weight, *row.tolist()])
        return text.getvalue()

    def save(self, folder: str | Path) -> Path:
        """Write ``curve.csv``, ``policy.safetensors`` and, last, ``report.json`` into a folder, and return it.

        Raises:
            SettingError: the folder cannot be written, or holds a report.
        """
        folder = Path(folder)
        check_new(folder / "report.json")
        write_text(folder / "curve.csv", self.to_csv())
        if self.policy is not None:
            self.policy.save(folder / "policy.safetensors")
        write_text(folder / "report.json", json.dumps(self.to_json(), indent=1) + "\n")
        return folder

    @classmethod
    def read(cls, folder: str | Path) -> "FinetuneReport":
        """Read a report that :meth:`save` wrote.

        Raises:
            NotFoundError: there is none.
            FormatError: it is damaged, or of a newer format.
        """
        path = Path(folder) / "report.json"
        if not path.is_file():
            raise NotFoundError(f"There is no report in '{folder}'; `minari-obd finetune` writes one.")
        return read_result(_Stated, path, lambda stated: _built(stated, path), newest=_FORMAT, oldest=_FORMAT)

    def __repr__(self) -> str:
        unit = "return" if self.reference is None else "score"
        return (
            f"FinetuneReport({self.label}: {unit} {self.curve[0]:.1f} at the start, {self.curve[-1]:.1f} after "
            f"{self.steps[-1]:,} steps in {self.env_id}, seed {self.seed})"
        )


@dataclass(frozen=True)
class _Stated:
    """``report.json``, field by field; format 1 was of another learner."""

    format: int
    label: str
    subject: str
    env_id: str
    seed: int
    steps: list[int]
    returns: list[list[float]]
    bc_weights: list[float]
    training_steps: list[int]
    training_returns: list[float]
    reference_scores: ReferenceScores | None
    settings: FinetuningRecipe
    seconds: float
    versions: dict[str, str]

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT_JSON


def _built(stated: _Stated, path: Path) -> FinetuneReport:
    values = {name: value for name, value in vars(stated).items() if name not in ("format", "reference_scores")}
    report = FinetuneReport(**values, reference=stated.reference_scores)
    for name in ("returns", "training_returns"):
        check_returns(getattr(report, name), report.reference, f"'{path}' is damaged at {name}")
    return report


def mean_curve(reports: Sequence[FinetuneReport]) -> tuple[np.ndarray, list[Estimate]]:
    """Steps (K,) of several seeds' runs and, at each, the mean over seeds with its 95% interval.

    Seeds are resampled, each by its mean over the episodes; with a single seed the interval has no width.

    Raises:
        DataError: no reports, or reports of different environments or evaluation steps.
    """
    if not reports:
        raise DataError("There is no report to draw a curve of.")
    first = reports[0]
    for other in reports[1:]:
        same = other.env_id == first.env_id and (other.reference is None) == (first.reference is None)
        if not same or not np.array_equal(other.steps, first.steps):
            raise DataError("Reports of one curve need one environment and the same steps of evaluation.")
    seeds = np.stack([each.curve for each in reports], axis=1)
    return first.steps, [estimate_mean(row[:, None]) for row in seeds]


@default_style
def draw_reports(reports: Sequence[FinetuneReport], *, target: float | None = None) -> bytes:
    """Draw the mean curve of every label, with its 95% interval over seeds as a band, as a PNG.

    Args:
        reports: of one environment.
        target: a score (return, without reference scores) to be reached, as a dotted line.

    Raises:
        DataError: as :func:`mean_curve`; reports of several environments.
        SettingError: something else than reports of fine-tuning.
    """
    reports = [reports] if isinstance(reports, FinetuneReport) else list(reports)
    for report in reports:
        check_instance("draw_reports", report, FinetuneReport)
    groups: dict[str, list[FinetuneReport]] = {}
    for report in reports:
        groups.setdefault(report.label, []).append(report)
    if len({(report.env_id, report.reference is None) for report in reports}) > 1:
        raise DataError("Reports of several environments make no one picture; draw each environment's own.")
    curves = {label: mean_curve(each) for label, each in groups.items()}
    if not curves:
        raise DataError("There is no report to draw.")
    figure, axes = make_figure(7.0, 4.6, ticks={})
    for label, (steps, estimates) in curves.items():
        seeds = "1 seed" if len(groups[label]) == 1 else f"{len(groups[label])} seeds"
        (line,) = axes.plot(steps, [each.mean for each in estimates], lw=1.6, label=f"{label} ({seeds})")
        band = [each.low for each in estimates], [each.high for each in estimates]
        axes.fill_between(steps, *band, color=line.get_color(), alpha=0.18, lw=0)
    if target is not None:
        axes.axhline(target, color="0.4", lw=1.0, ls=":", label=f"to be reached: {target:.1f}")
    unit = "return" if reports[0].reference is None else "score"
    axes.set(title=reports[0].env_id, xlabel="environment steps", ylabel=unit)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return png(figure)
