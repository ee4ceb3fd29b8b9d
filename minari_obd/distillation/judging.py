"""Judging: what students cloned from pairs or whole data are worth, and what their teacher is, as a recipe says."""

import time
from dataclasses import dataclass, replace

from minari_obd.cloning.cloning import clone
from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.evaluation.evaluation import evaluate
from minari_obd.scores.report import EvaluationReport
from minari_obd.settings.protocols import protocol_by_name
from minari_obd.settings.recipe import Recipe
from minari_obd.sources.data import OfflineData
from minari_obd.teachers.protocol import Teacher

__all__ = ["Judged", "judge_pairs", "judge_teacher"]


@dataclass(frozen=True)
class Judged:
    """Students that were cloned and evaluated."""

    report: EvaluationReport
    cloned_seconds: float
    """Wall time to clone one student."""


def judge_pairs(
    pairs: DistilledDataset | OfflineData, recipe: Recipe, *, workers: int | None = None, progress: bool = False
) -> Judged:
    """Clone the recipe's number of students and evaluate them.

    Args:
        pairs: a distilled dataset, cloned as it says, or a whole offline dataset, cloned in minibatches.
        recipe: its ``evaluation`` and seed count.
        workers: processes that evaluate, as in :func:`evaluate`.
        progress: show bars.
    """
    settings, protocol = recipe.evaluation, None
    students, episodes = settings.students, settings.episodes
    if isinstance(pairs, OfflineData):
        protocol = replace(protocol_by_name("whole_data"), steps=settings.whole_data_steps)
    else:
        students, episodes = pairs.protocol.counted(students, episodes)
    begun = time.perf_counter()
    policy = clone(pairs, students=students, protocol=protocol, seed=recipe.seed, progress=progress)
    cloned = (time.perf_counter() - begun) / students
    report = evaluate(policy, episodes=episodes, seed=recipe.seed, workers=workers, progress=progress)
    return Judged(report, cloned)


def judge_teacher(
    teacher: Teacher, data: OfflineData, recipe: Recipe, *, workers: int | None = None, progress: bool = False
) -> EvaluationReport:
    """Evaluate a teacher over as many episodes as all students have together, so that its interval compares.

    Its scores are on the data's own scale, as those of the students are.
    """
    episodes = recipe.evaluation.students * recipe.evaluation.episodes
    report = evaluate(teacher, env=data.env_id, episodes=episodes, seed=recipe.seed, workers=workers, progress=progress)
    return report if data.reference is None else replace(report, reference=data.reference)
