"""Verification: what a distilled dataset claims of itself, checked as far as that can be done without training."""

from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from minari_obd.distilled.card import dataset_card
from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.distilled.folder import CARD_FILE, EVALUATION_FILE, PICTURE_FILE
from minari_obd.distilled.loading import card_name, find_folder, load_dataset
from minari_obd.distilled.metadata import FORMAT_VERSION, StatedEvaluation, parse_stated_evaluation
from minari_obd.distilled.minari import from_minari, open_rendering, stored_evaluation
from minari_obd.errors import FormatError, MinariObdError, MissingExtraError, NotFoundError, printable
from minari_obd.evaluation.evaluation import evaluate as roll_out
from minari_obd.inspection.origins import load_source
from minari_obd.registry import OBJECTIVES
from minari_obd.scores.report import EvaluationReport
from minari_obd.settings.parsing import read_json
from minari_obd.settings.protocols import PROTOCOLS, EvaluationProtocol
from minari_obd.settings.recipe import Recipe, recorded_recipe
from minari_obd.sources.data import OfflineData
from minari_obd.targets.targets import Selection
from minari_obd.version import __version__

__all__ = ["Check", "Verification", "verify"]

_MOST_EPISODES, _MOST_ENSEMBLE = 10_000, 100


@dataclass(frozen=True)
class Check:
    """One claim and what became of it."""

    name: str
    outcome: Literal["passed", "failed", "skipped"]
    """``skipped``: what it takes is not at hand, or was not asked for."""
    detail: str


@dataclass(frozen=True)
class Verification:
    """Every check of one distilled dataset."""

    ref: str
    checks: list[Check]

    @property
    def passed(self) -> bool:
        """Whether nothing failed; what was skipped does not count."""
        return all(check.outcome != "failed" for check in self.checks)

    def table(self) -> Table:
        """The checks for the terminal."""
        table = Table(box=SIMPLE_HEAD, title=printable(self.ref))
        table.add_column("check", no_wrap=True)
        table.add_column("")
        table.add_column("detail", overflow="fold")
        colours = {"passed": "green", "failed": "bold red", "skipped": "dim"}
        for check in self.checks:
            # Text and not markup: a downloaded set could write links and colours otherwise.
            detail = Text(printable(check.detail))
            table.add_row(check.name, f"[{colours[check.outcome]}]{check.outcome}[/]", detail)
        return table


class _Failed(Exception):  # noqa: N818  # never leaves this file
    """A claim that does not hold."""


class _Skipped(Exception):  # noqa: N818  # the same
    """A claim that cannot be checked here."""


def verify(
    ref: str | Path,
    *,
    revision: str | None = None,
    token: str | None = None,
    source: Any = None,
    evaluate: bool = False,
    progress: bool = False,
) -> Verification:
    """Check a distilled dataset: format and hashes, its renderings, and what its provenance and report claim.

    Args:
        ref: a folder, ``shelf/NAME``, a Minari id, or a Hugging Face repository.
        revision: of the repository: branch, tag or commit.
        token: for private repositories.
        source: the offline dataset it was made from, whatever :func:`load_offline_data` takes. If not given, the
            Minari dataset of the id that the provenance names, where that is on this machine.
        evaluate: repeat the evaluation that the dataset comes with, which takes minutes.
        progress: show a bar while evaluating.

    Raises:
        NotFoundError, SettingError: nothing there; neither a name nor a path.
        HubError: the Hub cannot be reached.
    """
    folder = find_folder(ref, revision=revision, token=token)
    try:
        dataset = load_dataset(ref if folder is None else folder)
    except FormatError as error:
        return Verification(str(ref), [Check("format", "failed", str(error))])
    held = f"format {FORMAT_VERSION} or older, {len(dataset)} pairs, content {dataset.content_sha256[:12]}..."
    checks = [Check("format", "passed", f"schema, hashes, shapes and numbers are right: {held}")]
    claims = _Claims(dataset, folder, str(ref), source, evaluate, progress)
    checks += [_run(name, claim) for name, claim in claims.all()]
    return Verification(str(ref), checks)


def _run(name: str, claim: Callable[[], str]) -> Check:
    try:
        return Check(name, "passed", claim())
    except (_Skipped, MissingExtraError) as reason:
        return Check(name, "skipped", str(reason))
    except (_Failed, MinariObdError) as problem:
        return Check(name, "failed", str(problem))


@dataclass
class _Claims:
    """The claims of one dataset, each a method that says what was found or raises."""

    dataset: DistilledDataset
    folder: Path | None
    ref: str
    given_source: Any
    evaluate: bool
    progress: bool

    def all(self) -> Iterator[tuple[str, Callable[[], str]]]:
        yield "Minari rendering", self.rendering
        yield "card", self.card
        yield "recipe", self.recipe_agrees
        yield "source", self.source_agrees
        if self._is_selection:
            yield "selection", self.selection
        if self.dataset.transitions is not None:
            yield "transitions", self.transitions
        yield "evaluation", self.evaluation

    @property
    def _is_selection(self) -> bool:
        method = self.dataset.provenance.method
        return method in OBJECTIVES.names() and issubclass(OBJECTIVES.get(method), Selection)

    def rendering(self) -> str:
        if self.folder is None:
            raise _Skipped("the set is a Minari dataset itself")
        if not (self.folder / "pairs-v0").exists():
            raise _Skipped("there is none, or it was not fetched")
        if from_minari(open_rendering(self.folder)).content_sha256 != self.dataset.content_sha256:
            raise _Failed("the Minari dataset holds other pairs than the parquet file")
        return "the same pairs, to the bit"

    def card(self) -> str:
        if self.folder is None or not (self.folder / CARD_FILE).is_file():
            raise _Skipped("there is none")
        picture = PICTURE_FILE if (self.folder / PICTURE_FILE).is_file() else None
        with (self.folder / CARD_FILE).open("rb") as file:
            text = file.read(2**20).decode("utf-8", errors="replace")
        if text != dataset_card(self.dataset, card_name(self.ref, self.folder), picture=picture):
            raise _Skipped("edited, or written for another name or by another version: read it as its author's word")
        return "says what the metadata says"

    @cached_property
    def recipe(self) -> Recipe:
        provenance = self.dataset.provenance
        try:
            return recorded_recipe(provenance.recipe, "the recipe in the provenance")
        except FormatError as error:
            if provenance.package_version != __version__:
                raise _Skipped(f"made by version {provenance.package_version}, whose recipes may differ") from error
            raise

    def recipe_agrees(self) -> str:
        provenance = self.dataset.provenance
        claims = {"method": provenance.method, "seed": provenance.seed, "cloned_student": self.dataset.protocol}
        if self.dataset.transitions is None and len(self.dataset) not in self.recipe.distillation.nested:
            claims["size"] = len(self.dataset)  # simulating transitions may leave pairs out
        for name, value in claims.items():
            if getattr(self.recipe, name) != value:
                what = name.replace("_", " ")
                raise _Failed(f"the recipe has {what} {getattr(self.recipe, name)}, the dataset {value}")
        return "a recipe of this version, and the one that the dataset shows"

    @cached_property
    def source(self) -> OfflineData:
        try:
            return load_source(self.dataset, self.given_source, progress=self.progress)
        except NotFoundError as reason:
            if self.given_source is None:
                raise _Skipped(str(reason)) from reason
            raise

    def source_agrees(self) -> str:
        provenance, source = self.dataset.provenance, self.source
        derived = {
            "source_steps": (len(source), provenance.source_steps),
            "observation_mean": (source.normaliser.mean, self.dataset.normaliser.mean),
            "observation_scale": (source.normaliser.scale_like(self.dataset.normaliser), self.dataset.normaliser.scale),
            **{n: (getattr(source, n), getattr(self.dataset, n)) for n in ("action_low", "action_high")},
            "first_action": tuple((each.first_action or 0, each.is_discrete) for each in (source, self.dataset)),
        }
        if (quantiles := self.dataset.source_quantiles) is not None:
            derived["source_quantiles"] = source.observation_quantiles, quantiles
        for name, (found, claimed) in derived.items():
            if np.shape(found) != np.shape(claimed) or not _close(found, claimed):
                raise _Failed(f"{name} is not that of '{source.dataset_id}'")
        return f"'{source.dataset_id}' has the stated content, and its normaliser, bounds and quantiles are these"

    def selection(self) -> str:
        # Only the method's own selection is run, and only of a recipe that is the dataset's: nothing is trained.
        self.recipe_agrees()
        self.source_agrees()
        method: Selection = OBJECTIVES.get(self.recipe.method).of(self.recipe)
        if self.recipe.size > len(self.source):
            raise _Failed(f"the recipe selects {self.recipe.size} of {len(self.source)} steps")
        rows = method.select(self.source, self.recipe.size, self.recipe.seed)
        found = _rows(self.source.observations[rows], self.source.actions[rows])
        held = _rows(self.dataset.observations, self.dataset.actions)
        if self.dataset.transitions is not None:  # making them may have left pairs out
            found = list(filter(set(held).__contains__, found))
        if found != held:
            raise _Failed("selecting again with the stated recipe gives other pairs")
        return "selecting again gives the same pairs, to the bit"

    def transitions(self) -> str:
        held = self.dataset.transitions
        assert held is not None
        again = self.dataset.with_transitions().transitions
        assert again is not None
        for name in ("rewards", "next_observations", "terminations"):
            if not _close(getattr(again, name), getattr(held, name)):
                raise _Failed(f"simulating again gives other {name}")
        return "simulating again gives the same rewards and successors"

    def evaluation(self) -> str:
        report, stated = self.dataset.evaluation, self._stated_evaluation()
        if report is None or stated is None:
            raise _Skipped("no score is claimed")
        _check_stated(stated, report)
        if not self.evaluate:
            raise _Skipped("the report's figures follow from its returns; --evaluate repeats the episodes")
        return _evaluate_again(self.dataset, report, self.progress)

    def _stated_evaluation(self) -> StatedEvaluation | None:
        """The evaluation as its writer stated it; the dataset's own recomputes its aggregates."""
        if self.folder is None:
            return stored_evaluation(self.ref)
        file = self.folder / EVALUATION_FILE
        return parse_stated_evaluation(read_json(file), str(file)) if file.is_file() else None


def _check_stated(stated: StatedEvaluation, report: EvaluationReport) -> None:
    """Compare the figures that are stated with those that follow from the returns."""
    if stated.students * stated.episodes > _MOST_EPISODES:
        raise _Skipped(f"{stated.students} x {stated.episodes} episodes are claimed, too many to check")
    if report.returns.shape != (stated.students, stated.episodes):
        raise _Failed("the report has not as many returns as it claims students x episodes")
    derived = report.mean_return, None if report.reference is None else report.score, report.success
    claims = stated.mean_return, stated.score, stated.success
    for name, found, claim in zip(("return", "score", "success"), derived, claims, strict=True):
        if (found is None) != (claim is None) or (found and claim and not _close(astuple(found), astuple(claim))):
            raise _Failed(f"the report's {name} does not follow from its returns: {claim}, not {found}")


def _evaluate_again(dataset: DistilledDataset, then: EvaluationReport, progress: bool) -> str:
    students, episodes = then.returns.shape
    settings = {"students": students, "episodes": episodes, "seed": then.seed}
    # A file from elsewhere could ask for students of any size.
    if then.protocol not in (None, dataset.protocol, *PROTOCOLS.values()) or not 1 <= then.ensemble <= _MOST_ENSEMBLE:
        raise _Skipped("it is of students that are neither the pairs' own nor of a named protocol")
    protocol = EvaluationProtocol(then.protocol, ensemble=then.ensemble)
    try:
        report = roll_out(dataset, env=then.env_id, protocol=protocol, progress=progress, **settings)
    except NotFoundError as error:  # an environment that is not installed here
        raise _Skipped(str(error)) from error
    if np.array_equal(report.returns, then.returns):
        return f"the same returns, to the bit: mean {report.mean_return}"
    now, stated = report.mean_return, then.mean_return
    text = f"mean return {now}, claimed {stated}"
    if now.low > stated.high or now.high < stated.low:
        raise _Failed(f"the intervals do not meet: {text}")
    return f"other returns, as other versions or threads give, with intervals that meet: {text}"


def _rows(observations: np.ndarray, actions: np.ndarray) -> list[bytes]:
    return [s.tobytes() + a.tobytes() for s, a in zip(observations, actions, strict=True)]


def _close(found: Any, stated: Any) -> bool:
    """Equal up to rounding, as other versions of NumPy or the simulator may round."""
    return np.allclose(found, stated, rtol=1e-4, atol=1e-4)
