"""Reports of continual learning: every task's returns after every stage, and what is read from them."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from minari_obd.cloning.policy import Policy
from minari_obd.errors import DataError, NotFoundError, printable
from minari_obd.scores.estimates import Estimate, estimate_mean
from minari_obd.scores.references import ReferenceScores, check_returns
from minari_obd.settings.parsing import STRICT_JSON, read_result
from minari_obd.settings.protocols import StudentProtocol
from minari_obd.storage.files import check_new, write_text
from minari_obd.support.tables import markdown_table

__all__ = ["ContinualReport", "ContinualTask", "backward_transfer", "continual_table", "forgetting"]

_FORMAT = 1


def forgetting(scores: np.ndarray) -> np.ndarray:
    r"""Mean over old tasks of the best score at any earlier stage minus the last (Chaudhry et al. 2018).

    F = 1/(K-1) sum_{j<K} (max_{l<K} R_{l,j} - R_{K,j}), in the scores' units; above 0: something was lost
    (arXiv 1801.10112). With three tasks or more the maximum over noisy scores makes it larger than it is.

    Args:
        scores: R, shape (K, K, ...): after stage i, on task j.

    Returns:
        Shape (...).
    """
    return (scores[:-1, :-1].max(axis=0) - scores[-1, :-1]).mean(axis=0)


def backward_transfer(scores: np.ndarray) -> np.ndarray:
    r"""Mean over old tasks of the last score minus the one right after learning (Lopez-Paz and Ranzato 2017).

    BWT = 1/(K-1) sum_{j<K} (R_{K,j} - R_{j,j}), in the scores' units; below 0: later tasks did harm (arXiv 1706.08840).

    Args:
        scores: as for :func:`forgetting`.

    Returns:
        Shape (...).
    """
    old = np.arange(len(scores) - 1)
    return (scores[-1, :-1] - scores[old, old]).mean(axis=0)


@dataclass(frozen=True)
class ContinualTask:
    """A task of a sequence."""

    name: str
    """The offline data that its pairs come from."""
    env_id: str
    pairs: int
    """How many it is learned from."""
    reference: ReferenceScores | None = None
    """Reference scores that its scores are measured between, if there are any."""


@dataclass(frozen=True)
class ContinualReport:
    """What became of K tasks that were learned in sequence; every aggregate is derived from the whole array of returns.

    Students are independent runs: aggregates are computed for each and then averaged, with 95% intervals that resample
    students.
    """

    tasks: tuple[ContinualTask, ...]
    """The K tasks in the order in which they were learned."""
    strategy: str
    """`rehearsal`, `none`, `joint` or `single`."""
    normaliser: str
    """`joint` or `own`."""
    returns: np.ndarray
    """Undiscounted returns after stage i on task j, shape (K, K, students, episodes); starts are always the same."""
    seed: int
    stage_pairs: tuple[int, ...]
    """Pairs trained on at each stage."""
    protocol: StudentProtocol
    """How the students were trained at each stage."""
    label: str = "continual"
    """What the run is called in tables."""
    seconds: float = 0.0
    """Wall time of all stages, evaluations included."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of the packages that decide a return."""
    policies: tuple[Policy, ...] = field(default=(), compare=False, repr=False)
    """The students in the end as they act in each task, K policies of the same parameters (for `single`, of their own);
    none in a report that was read from a file."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "returns", np.asarray(self.returns, dtype=np.float64))
        count = len(self.tasks)
        if count < 2 or self.returns.ndim != 4 or self.returns.shape[:2] != (count, count) or not self.returns.size:
            raise DataError(
                f"{count} task(s) with returns of shape {self.returns.shape}: a report has two tasks or more, and "
                f"returns of shape (tasks, tasks, students, episodes)."
            )
        if len(self.stage_pairs) != count:
            raise DataError(f"{count} stages, and sizes of {len(self.stage_pairs)}; each stage has one.")

    @property
    def unit(self) -> str:
        """``score`` if every task has reference scores, else ``return``, for all of them."""
        return "score" if all(task.reference is not None for task in self.tasks) else "return"

    @cached_property
    def values(self) -> np.ndarray:
        """Normalised scores, or returns (see :attr:`unit`), shape (K, K, students, episodes)."""
        if self.unit == "return":
            return self.returns
        columns = [task.reference.normalise(self.returns[:, j]) for j, task in enumerate(self.tasks) if task.reference]
        return np.stack(columns, axis=1)

    @cached_property
    def student_scores(self) -> np.ndarray:
        """R of each student: mean value after stage i on task j, shape (K, K, students)."""
        return self.values.mean(axis=3)

    @cached_property
    def matrix(self) -> list[list[Estimate]]:
        """R: ``matrix[i][j]`` is the mean value after stage i on task j, with its 95% interval."""
        return [[estimate_mean(field) for field in row] for row in self.values]

    @property
    def final(self) -> list[Estimate]:
        """Value of each task in the end: the last row of R; its diagonal for `single`."""
        return [row[j] if self._is_single else self.matrix[-1][j] for j, row in enumerate(self.matrix)]

    @cached_property
    def average(self) -> Estimate:
        """Mean of :attr:`final` over tasks."""
        scores = self.student_scores
        rows = scores[np.arange(len(scores)), np.arange(len(scores))] if self._is_single else scores[-1]
        return estimate_mean(rows.mean(axis=0)[:, None])

    @cached_property
    def forgetting(self) -> Estimate | None:
        """See :func:`forgetting`; None for `single`, whose policies have nothing to forget."""
        return self._over_students(forgetting)

    @cached_property
    def backward_transfer(self) -> Estimate | None:
        """See :func:`backward_transfer`; None for `single`."""
        return self._over_students(backward_transfer)

    @property
    def _is_single(self) -> bool:
        return self.strategy == "single"

    def _over_students(self, metric: Callable[[np.ndarray], np.ndarray]) -> Estimate | None:
        return None if self._is_single else estimate_mean(metric(self.student_scores)[:, None])

    def to_json(self) -> dict[str, Any]:
        """All of it but the policy as JSON values, every return among them."""
        derived = {"average": self.average, "forgetting": self.forgetting, "backward_transfer": self.backward_transfer}
        return {
            "format": _FORMAT,
            **{name: getattr(self, name) for name in ("label", "strategy", "normaliser", "seed", "unit")},
            "tasks": [asdict(task) for task in self.tasks],
            "matrix": [[asdict(each) for each in row] for row in self.matrix],
            **{name: None if value is None else asdict(value) for name, value in derived.items()},
            "student_scores": self.student_scores.tolist(),
            "returns": self.returns.tolist(),
            "stage_pairs": list(self.stage_pairs),
            "protocol": asdict(self.protocol),
            "seconds": round(self.seconds, 3),
            "versions": self.versions,
        }

    def save(self, folder: str | Path) -> Path:
        """Write ``task-1.safetensors``, ..., ``report.md`` and, last, ``report.json`` into a folder, and return it.

        The policies are for :func:`minari_obd.load_policy` and ``minari-obd evaluate``, each with its environment.

        Raises:
            SettingError: the folder cannot be written, or holds a report.
        """
        folder = Path(folder)
        check_new(folder / "report.json")
        for i, policy in enumerate(self.policies):
            policy.save(folder / f"task-{i + 1}.safetensors")
        write_text(folder / "report.md", self.to_markdown())
        write_text(folder / "report.json", json.dumps(self.to_json(), indent=1) + "\n")
        return folder

    @classmethod
    def read(cls, folder: str | Path) -> "ContinualReport":
        """Read a report that :meth:`save` wrote; the aggregates are recomputed.

        Raises:
            NotFoundError: there is none.
            FormatError: it is damaged, or of a newer format.
        """
        path = Path(folder) / "report.json"
        if not path.is_file():
            raise NotFoundError(f"There is no report in '{folder}'; `minari-obd continual` writes one for each arm.")
        return read_result(_Stated, path, lambda stated: _built(stated, path), newest=_FORMAT)

    def to_markdown(self) -> str:
        """R as a Markdown table, one line for each stage, and below it the aggregates."""
        rows = [
            [f"{self._stage_name(i)} ({self.stage_pairs[i]} pairs)", *map(str, row)]
            for i, row in enumerate(self.matrix)
        ]
        said = [f"average in the end {self.average}"]
        if self.forgetting is not None:
            said += [f"forgetting {self.forgetting}", f"backward transfer {self.backward_transfer}"]
        table = markdown_table([f"{self.label}: {self.unit}", *_heads(self.tasks)], rows)
        return f"{table}\n\n{'; '.join(said).capitalize()}.\n"

    def _stage_name(self, stage: int) -> str:
        words = {"single": f"task {stage + 1} alone", "joint": f"tasks up to {stage + 1} together"}
        return words.get(self.strategy, f"after task {stage + 1}")

    def __repr__(self) -> str:
        lost = "" if self.forgetting is None else f", forgetting {self.forgetting}"
        names = " -> ".join(task.name for task in self.tasks)
        return printable(f"ContinualReport({self.label}: average {self.unit} {self.average}{lost}; {names})")


def continual_table(reports: Sequence[ContinualReport]) -> str:
    """Return what several runs over the same tasks come to, and R of each, as Markdown.

    Raises:
        DataError: no report, or reports of different tasks.
    """
    if not reports or any(each.tasks != reports[0].tasks for each in reports):
        raise DataError("A table needs one report or more, all of the same tasks in the same order.")
    header = [f"{reports[0].unit} in the end", *_heads(reports[0].tasks), "average", "forgetting", "backward transfer"]
    rows = []
    for each in reports:
        found = [*each.final, each.average, each.forgetting, each.backward_transfer]
        rows.append([each.label, *("-" if value is None else str(value) for value in found)])
    return "\n\n".join([markdown_table(header, rows), *(each.to_markdown().rstrip() for each in reports)]) + "\n"


def _heads(tasks: Sequence[ContinualTask]) -> list[str]:
    return [f"{i + 1}: {printable(task.name)} ({task.env_id})" for i, task in enumerate(tasks)]


@dataclass(frozen=True)
class _Stated:
    """``report.json``, field by field. What is derived from the returns stands there for other readers."""

    format: int
    label: str
    strategy: Literal["rehearsal", "none", "joint", "single"]
    normaliser: Literal["joint", "own"]
    seed: int
    tasks: list[ContinualTask]
    returns: list[list[list[list[float]]]]
    stage_pairs: list[int]
    protocol: StudentProtocol
    seconds: float
    versions: dict[str, str]
    unit: Any = None
    matrix: Any = None
    average: Any = None
    forgetting: Any = None
    backward_transfer: Any = None
    student_scores: Any = None

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT_JSON


_KEPT = ("label", "strategy", "normaliser", "seed", "protocol", "seconds", "versions")


def _built(stated: _Stated, path: Path) -> ContinualReport:
    report = ContinualReport(
        **{name: getattr(stated, name) for name in _KEPT},
        tasks=tuple(stated.tasks),
        returns=np.array(stated.returns, dtype=np.float64),
        stage_pairs=tuple(stated.stage_pairs),
    )
    for j, task in enumerate(report.tasks):
        check_returns(report.returns[:, j], task.reference, f"'{path}' is damaged at returns")
    return report
