"""Comparing: sets, policies, teachers and saved reports, evaluated alike and put beside the first."""

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from minari_obd.cloning.policy import Policy
from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.environments.making import make_environment
from minari_obd.errors import SettingError
from minari_obd.evaluation.evaluation import evaluate
from minari_obd.evaluation.loading import load_report, load_subject, sources_of
from minari_obd.evaluation.subjects import check_subject, known_reference
from minari_obd.scores.comparing import ComparisonReport, one_reference
from minari_obd.scores.report import EvaluationReport
from minari_obd.settings.protocols import EvaluationProtocol, StudentProtocol
from minari_obd.teachers.protocol import Teacher

__all__ = ["compare"]

_Comparable = DistilledDataset | Policy | Teacher | EvaluationReport | Callable[[np.ndarray], Any] | str | Path | Any


def compare(
    *subjects: _Comparable,
    names: Sequence[str] | None = None,
    env: str | None = None,
    students: int | None = None,
    episodes: int | None = None,
    protocol: EvaluationProtocol | StudentProtocol | str | None = None,
    seed: int = 0,
    workers: int | None = None,
    progress: bool = False,
) -> ComparisonReport:
    """Evaluate subjects alike, and compare each with the first: mean, difference, probability of improvement.

    Args:
        subjects: at least two of what :func:`evaluate` takes, of evaluation reports, or of references: ``.json`` files
            of saved reports, and what :func:`load_dataset`, :func:`load_policy` and :func:`load_teacher` take.
            Reports are compared as they are.
        names: one for each; references are their own names.
        env: a plain registered Gymnasium id; the subjects' own if not given.
        students: see :func:`evaluate`, as of the remaining arguments. All are rolled out from the same starts.
        episodes: episodes per student.
        protocol: how students are cloned and evaluated.
        seed: seed of students and starts.
        workers: number of processes.
        progress: show bars.

    Raises:
        SettingError: fewer than two subjects, names that are not as many or not different, subjects of different
            datasets or environments, or of an unknown one.
        MinariObdError: as :func:`evaluate` and the verbs that load.
    """
    if isinstance(names, str):
        raise SettingError(f"names is the text '{names}'; give one name for each subject, such as ['first', 'second'].")
    named = [*(names or map(_name, subjects, range(1, len(subjects) + 1)))]
    if not all(isinstance(name, str) for name in named):
        raise SettingError(f"names are {named}; expected text, such as ['first', 'second'].")
    if len(subjects) < 2 or len(named) != len(subjects) or len(set(named)) != len(named):
        raise SettingError(
            f"Got {len(subjects)} subjects named {', '.join(named) or 'nothing'}; a comparison takes at least two, "
            "each with a name of its own."
        )
    loaded = {name: _load(subject) for name, subject in zip(named, subjects, strict=True)}
    env_id = _one_environment(loaded, env)
    _check_sources(loaded)
    _check_all(loaded, env_id)
    given: dict[str, Any] = {"episodes": episodes, "protocol": protocol, "seed": seed, "workers": workers}
    reports = {
        name: subject
        if isinstance(subject, EvaluationReport)
        else evaluate(subject, env=env_id, students=students, progress=progress, **given)
        for name, subject in loaded.items()
    }
    return ComparisonReport(reports)


def _name(subject: Any, number: int) -> str:
    if isinstance(subject, str | Path):
        return str(subject)
    kinds = {DistilledDataset: "pairs", Policy: "policy", EvaluationReport: "report"}
    other = "teacher" if hasattr(subject, "act") else "model" if hasattr(subject, "predict") else "function"
    kind = next((word for each, word in kinds.items() if isinstance(subject, each)), other)
    return f"{kind} {number}"


def _load(subject: Any) -> Any:
    if not isinstance(subject, str | Path):
        return subject
    return load_report(subject) if str(subject).endswith(".json") else load_subject(subject)


def _one_environment(loaded: dict[str, Any], env: str | None) -> str:
    own = {name: found for name, each in loaded.items() if (found := getattr(each, "env_id", None)) is not None}
    if env is not None:  # subjects go anywhere; reports were made where they were made
        own = {name: found for name, found in own.items() if isinstance(loaded[name], EvaluationReport)} | {
            "--env": env
        }
    if not own:
        raise SettingError(
            "The environment of these subjects is not known; name it, as in env='Hopper-v5' or --env Hopper-v5."
        )
    if len(set(own.values())) > 1:
        said = ", ".join(f"'{name}' in {found}" for name, found in own.items())
        raise SettingError(
            f"Only what acts in one environment can be compared, and these do not: {said}. Compare those of one, or "
            "name it with env."
        )
    return next(iter(own.values()))


def _check_all(loaded: dict[str, Any], env_id: str) -> None:
    """Find what would fail after the first evaluation: an environment, sizes, and reference scores."""
    references = {}
    with closing(make_environment(env_id)) as environment:
        for name, each in loaded.items():
            if isinstance(each, EvaluationReport):
                references[name] = each.reference
                continue
            try:
                check_subject(each, environment)
            except SettingError as error:
                raise SettingError(f"'{name}': {error}") from error
            references[name] = known_reference(env_id, each if isinstance(each, DistilledDataset | Policy) else None)
    one_reference(references, env_id)


def _check_sources(loaded: dict[str, Any]) -> None:
    """Refuse subjects made from different datasets: what differs then is the data, and not the method."""
    known = {name: found for name, each in loaded.items() if (found := sources_of(each))}
    if len(set(known.values())) > 1:
        said = ", ".join(f"'{name}' from {' and '.join(found)}" for name, found in known.items())
        raise SettingError(
            f"These were made from different datasets, so a difference would say nothing of the methods: {said}. "
            "Compare those of one dataset; if the data are what you compare, evaluate each (`--out report.json`) and "
            "compare the reports."
        )
