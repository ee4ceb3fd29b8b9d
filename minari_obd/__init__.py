"""Offline behaviour distillation: a few hundred (state, action) pairs in place of an offline RL dataset."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from minari_obd.version import __version__

# Every public name and where it lives. Nothing is imported before it is used (PEP 562), so that
# `import minari_obd` and `minari-obd --help` wait for neither torch nor d3rlpy.
_EXPORTS = {
    "BenchmarkDataset": "sources.benchmark",
    "ComparisonReport": "scores.comparing",
    "ContinualReport": "continual.report",
    "Diagnostics": "inspection.diagnostics",
    "DistilledDataset": "distilled.dataset",
    "EvaluationProtocol": "settings.protocols",
    "EvaluationReport": "scores.report",
    "FinetuneReport": "finetuning.report",
    "FinetuningRecipe": "settings.finetuning",
    "FrozenTeacher": "teachers.frozen",
    "MinariObdError": "errors",
    "OfflineData": "sources.data",
    "Policy": "cloning.policy",
    "Provenance": "distilled.provenance",
    "Recipe": "settings.recipe",
    "StudentDraws": "settings.protocols",
    "StudentProtocol": "settings.protocols",
    "Targets": "targets.targets",
    "Teacher": "teachers.protocol",
    "Transitions": "distilled.contents",
    "clone": "cloning.cloning",
    "collect": "sources.collecting",
    "compare": "evaluation.comparing",
    "diagnose": "inspection.diagnosis",
    "distill": "distillation.distillation",
    "draw_reports": "finetuning.report",
    "evaluate": "evaluation.evaluation",
    "finetune": "finetuning.run",
    "imitate": "cloning.imitation",
    "learn_continually": "continual.learning",
    "load_dataset": "distilled.loading",
    "load_offline_data": "sources.loading",
    "load_policy": "cloning.loading",
    "load_recipe": "settings.recipe",
    "load_teacher": "teachers.loading",
    "sample_pairs": "cloning.imitation",
    "train_teacher": "teachers.training",
    "verify": "inspection.verification",
}

__all__ = [
    "BenchmarkDataset",
    "ComparisonReport",
    "ContinualReport",
    "Diagnostics",
    "DistilledDataset",
    "EvaluationProtocol",
    "EvaluationReport",
    "FinetuneReport",
    "FinetuningRecipe",
    "FrozenTeacher",
    "MinariObdError",
    "OfflineData",
    "Policy",
    "Provenance",
    "Recipe",
    "StudentDraws",
    "StudentProtocol",
    "Targets",
    "Teacher",
    "Transitions",
    "__version__",
    "clone",
    "collect",
    "compare",
    "diagnose",
    "distill",
    "draw_reports",
    "evaluate",
    "finetune",
    "imitate",
    "learn_continually",
    "load_dataset",
    "load_offline_data",
    "load_policy",
    "load_recipe",
    "load_teacher",
    "sample_pairs",
    "train_teacher",
    "verify",
]

if TYPE_CHECKING:
    from minari_obd.cloning.cloning import clone
    from minari_obd.cloning.imitation import imitate, sample_pairs
    from minari_obd.cloning.loading import load_policy
    from minari_obd.cloning.policy import Policy
    from minari_obd.continual.learning import learn_continually
    from minari_obd.continual.report import ContinualReport
    from minari_obd.distillation.distillation import distill
    from minari_obd.distilled.contents import Transitions
    from minari_obd.distilled.dataset import DistilledDataset
    from minari_obd.distilled.loading import load_dataset
    from minari_obd.distilled.provenance import Provenance
    from minari_obd.errors import MinariObdError
    from minari_obd.evaluation.comparing import compare
    from minari_obd.evaluation.evaluation import evaluate
    from minari_obd.finetuning.report import FinetuneReport, draw_reports
    from minari_obd.finetuning.run import finetune
    from minari_obd.inspection.diagnosis import diagnose
    from minari_obd.inspection.diagnostics import Diagnostics
    from minari_obd.inspection.verification import verify
    from minari_obd.scores.comparing import ComparisonReport
    from minari_obd.scores.report import EvaluationReport
    from minari_obd.settings.finetuning import FinetuningRecipe
    from minari_obd.settings.protocols import EvaluationProtocol, StudentDraws, StudentProtocol
    from minari_obd.settings.recipe import Recipe, load_recipe
    from minari_obd.sources.benchmark import BenchmarkDataset
    from minari_obd.sources.collecting import collect
    from minari_obd.sources.data import OfflineData
    from minari_obd.sources.loading import load_offline_data
    from minari_obd.targets.targets import Targets
    from minari_obd.teachers.frozen import FrozenTeacher
    from minari_obd.teachers.loading import load_teacher
    from minari_obd.teachers.protocol import Teacher
    from minari_obd.teachers.training import train_teacher


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'minari_obd' has no attribute {name!r}")
    value = getattr(import_module(f"minari_obd.{_EXPORTS[name]}"), name)
    globals()[name] = value  # the next access is an ordinary attribute
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
