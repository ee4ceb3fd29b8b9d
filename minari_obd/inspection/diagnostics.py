"""The report of a diagnosis: the definitions of its quantities, and a table that compares each with a reference."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from minari_obd.distilled.folder import METADATA_FILE
from minari_obd.errors import SettingError, printable
from minari_obd.inspection.density_errors import ErrorByDensity
from minari_obd.inspection.neighbours import Coverage, Nearness
from minari_obd.scores.estimates import Estimate
from minari_obd.storage.files import check_writable, write_text
from minari_obd.support.tables import markdown_table

__all__ = ["ActionError", "Diagnostics", "Membership", "check_report"]

_SHOWN_DECILES = {0: "rarest tenth of", 4: "fifth tenth of", 9: "commonest tenth of"}


@dataclass(frozen=True)
class ActionError:
    """Squared difference of actions on [-1, 1], averaged over action dimensions, of E students at T states."""

    mean: Estimate
    """Mean over states, then over students. Its 95% interval resamples students."""
    quartiles: tuple[float, float, float]
    """Quartiles over all students and states."""
    constant: float
    """Error of the best constant action: the variance of the wanted actions, averaged over dimensions."""
    states: int
    """T. On students' own trajectories, the total over all students."""


@dataclass(frozen=True)
class Membership:
    """How well an observer who has the pairs can tell which rows were used to make them.

    Each value is the probability that a member scores higher than another row, with DeLong's 95% interval. Chance is
    0.5. It is an average: single rows may be exposed even at chance level (Carlini et al. 2022, arXiv 2112.03570).
    """

    by_distance: Estimate
    """A row scores minus the distance of its state to the nearest pair (Chen et al. 2020, arXiv 1909.03935)."""
    by_loss: Estimate
    """A row scores minus the mean squared error of students on it (Yeom et al. 2018, arXiv 1709.01604)."""
    members: int
    """Rows that were used."""
    others: int
    """Held-out rows."""


class _Row(NamedTuple):
    name: str
    value: str
    beside: str


@dataclass(frozen=True)
class Diagnostics:
    """Measurements that explain a distilled dataset's score.

    Held-out rows are those that the recipe kept out of the pairs' gradient, without any rows that were selected as
    pairs. They did choose the outer step of the pairs, and teacher, density and normaliser saw them.
    """

    source: str
    """Id of the offline dataset."""
    method: str
    """How the pairs were made."""
    pairs: int
    """M."""
    students: int
    """Students cloned, with the dataset's own protocol."""
    episodes: int
    """Episodes per student, and of the teacher."""
    seed: int
    """Seed of students, starts and draws of rows."""
    offline_error: ActionError
    """Error at held-out states, against the dataset's actions. It includes any noise of the behaviour."""
    offline_error_to_teacher: ActionError | None
    """Error at held-out states, against the teacher's actions."""
    error_on_teacher_trajectories: ActionError | None
    """Error at the states that the teacher visits, against its actions."""
    error_on_own_trajectories: ActionError | None
    """Error at the states that the students visit, against the teacher's actions. It is larger if their errors lead
    them to states on which they were not trained (Ross et al. 2011, arXiv 1011.0686)."""
    is_scored: bool
    """Whether the scores are normalised. They are plain returns if the dataset has no reference scores."""
    student_score: Estimate | None
    """Mean score of these students' episodes, and its 95% interval over students (or over a single one's episodes)."""
    teacher_score: Estimate | None
    """Mean score of the teacher's episodes, and its 95% interval over episodes."""
    coverage: Coverage | None
    nearness: Nearness
    membership: Membership
    """Random training rows against held-out rows."""
    initial_membership: Membership | None
    """The harder case: the rows from which the pairs were initialised against held-out rows. Pairs that are real rows
    give 1 by construction."""
    error_by_density: ErrorByDensity | None = None
    """Error at held-out states by decile of density, against the teacher's actions, or the data's without a teacher."""
    notes: tuple[str, ...] = ()
    """Reasons why values are None."""

    def to_json(self) -> dict[str, Any]:
        """Return the whole report as JSON values."""
        return json.loads(json.dumps(asdict(self), allow_nan=False))

    def save(self, path: str | Path) -> Path:
        """Write the JSON to a file and return its path.

        Raises:
            SettingError: as in :func:`check_report`.
        """
        path = check_report(path)
        write_text(path, json.dumps(self.to_json(), indent=1) + "\n")
        return path

    def to_markdown(self) -> str:
        """Return the table as Markdown."""
        table = markdown_table([self._title, "", "beside"], [list(row) for row in self._rows()])
        return printable("\n\n".join([table, *self.notes])) + "\n"

    def table(self) -> Table:
        """Return the table for the terminal."""
        table = Table(box=SIMPLE_HEAD, title=Text(printable(self._title)))
        for name in ("", "", "beside"):
            table.add_column(name, overflow="fold")
        for row in self._rows():
            table.add_row(*row)
        table.caption = Text(
            printable("\n".join(["Intervals: 95%. States in z-scores, actions on -1 to 1.", *self.notes]))
        )
        return table

    @property
    def _title(self) -> str:
        return f"{self.pairs} pairs by {self.method} from {self.source}, {self.students} students"

    def _rows(self) -> list[_Row]:
        rows = []
        for name, error in (
            ("action error, held-out states, to the data", self.offline_error),
            ("action error, held-out states, to the teacher", self.offline_error_to_teacher),
            ("action error, teacher's trajectories", self.error_on_teacher_trajectories),
            ("action error, own trajectories", self.error_on_own_trajectories),
        ):
            if error is not None:
                quartiles = ", ".join(f"{value:.2g}" for value in error.quartiles)
                value = f"{_interval(error.mean)}; quartiles {quartiles}"
                rows.append(_Row(name, value, f"best constant action: {error.constant:.3f}"))
        if (by := self.error_by_density) is not None:
            for place, name in _SHOWN_DECILES.items():
                tenth = by.deciles[place]
                beside = f"best constant action: {tenth.constant:.3f}; mean log-density {tenth.log_density:.1f}"
                rows.append(
                    _Row(f"action error, {name} held-out states, to the {by.against}", _interval(tenth.error), beside)
                )
        if self.student_score is not None:
            kind, teacher = "score" if self.is_scored else "return", self.teacher_score
            beside = "" if teacher is None else f"teacher: {_interval(teacher, 1)}"
            rows.append(
                _Row(f"{kind}, {self.students} x {self.episodes} episodes", _interval(self.student_score, 1), beside)
            )
        if (held := self.coverage) is not None:
            of = f"{held.states} random real states: "
            rows.append(_Row("coverage", _interval(held.coverage, 2), of + _interval(held.attainable_coverage, 2)))
            rows.append(_Row("precision", _interval(held.precision, 2), of + _interval(held.attainable_precision, 2)))
        near = self.nearness
        relative = "" if near.relative_distance is None else f"; median {near.relative_distance:.2g} times theirs"
        quartiles = ", ".join(f"{value:.2g}" for value in near.distance)
        beside = f"held-out states: median {near.real_distance:.2g}"
        rows.append(_Row("distance to nearest training state", f"quartiles {quartiles}{relative}", beside))
        value, beside = (
            f"{middle:.2f}; 5% below {low:.2f}"
            for middle, low in ((near.ratio, near.ratio_low), (near.real_ratio, near.real_ratio_low))
        )
        rows.append(_Row("nearest over second nearest", value, f"held-out states: {beside}"))
        rows.append(_Row("copies of training states", f"{100 * near.copies:.1f}%", ""))
        for name, test in (("training rows", self.membership), ("initial rows", self.initial_membership)):
            if test is not None:
                beside = f"chance: 0.5; {test.members:,} against {test.others:,} held-out rows"
                rows.append(_Row(f"{name} told by distance, AUC", _interval(test.by_distance), beside))
                rows.append(_Row(f"{name} told by loss, AUC", _interval(test.by_loss), beside))
        return rows


def check_report(path: str | Path) -> Path:
    """Make sure, before any long work, that a report can be written to ``path``.

    Raises:
        SettingError: the path is a folder, lies in a distilled dataset's folder, or cannot be written.
    """
    path = Path(path)
    if path.is_dir() or (path.parent / METADATA_FILE).exists():
        raise SettingError(
            f"'{path}' is a folder, or lies in a distilled dataset's folder, which may hold nothing else; name a file "
            "beside it."
        )
    return check_writable(path)


def _interval(estimate: Estimate, digits: int = 3) -> str:
    return f"{estimate.mean:.{digits}f} ({estimate.low:.{digits}f} to {estimate.high:.{digits}f})"
