"""Offline behaviour distillation: a few hundred (state, action) pairs in place of an offline RL dataset."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Every public name and where it lives. Nothing is imported before it is used (PEP 562), so that
# `import minari_obd` and `minari-obd --help` wait for neither torch nor d3rlpy.
_EXPORTS = {
    "BenchmarkDataset": "benchmark",
    "ContinualReport": "continual_report",
    "Diagnostics": "diagnostics_report",
    "DistilledDataset": "distilled",
    "EvaluationProtocol": "protocol",
    "EvaluationReport": "evaluation",
    "FinetuneReport": "finetuning_report",
    "FinetuningRecipe": "finetuning_recipe",
    "FrozenTeacher": "teachers",
    "MinariObdError": "errors",
    "OfflineData": "offline",
    "Policy": "cloning",
    "Provenance": "provenance",
    "Recipe": "recipe",
    "StudentDraws": "protocol",
    "StudentProtocol": "protocol",
    "Targets": "objectives",
    "Teacher": "teachers",
    "Transitions": "distilled",
    "clone": "cloning",
    "collect": "benchmark",
    "diagnose": "diagnostics",
    "distill": "distillation",
    "draw_reports": "finetuning_report",
    "evaluate": "evaluation",
    "finetune": "finetuning",
    "learn_continually": "continual_learning",
    "load_dataset": "loading",
    "load_offline_data": "offline",
    "load_policy": "cloning",
    "load_recipe": "recipe",
    "load_teacher": "teachers",
    "train_teacher": "teachers.d3rlpy_teacher",
    "verify": "verification",
}

__all__ = [
    "BenchmarkDataset",
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
    "diagnose",
    "distill",
    "draw_reports",
    "evaluate",
    "finetune",
    "learn_continually",
    "load_dataset",
    "load_offline_data",
    "load_policy",
    "load_recipe",
    "load_teacher",
    "train_teacher",
    "verify",
]

if TYPE_CHECKING:
    from minari_obd.benchmark import BenchmarkDataset, collect
    from minari_obd.cloning import Policy, clone, load_policy
    from minari_obd.continual_learning import learn_continually
    from minari_obd.continual_report import ContinualReport
    from minari_obd.diagnostics import diagnose
    from minari_obd.diagnostics_report import Diagnostics
    from minari_obd.distillation import distill
    from minari_obd.distilled import DistilledDataset, Transitions
    from minari_obd.errors import MinariObdError
    from minari_obd.evaluation import EvaluationReport, evaluate
    from minari_obd.finetuning import finetune
    from minari_obd.finetuning_recipe import FinetuningRecipe
    from minari_obd.finetuning_report import FinetuneReport, draw_reports
    from minari_obd.loading import load_dataset
    from minari_obd.objectives import Targets
    from minari_obd.offline import OfflineData, load_offline_data
    from minari_obd.protocol import EvaluationProtocol, StudentDraws, StudentProtocol
    from minari_obd.provenance import Provenance
    from minari_obd.recipe import Recipe, load_recipe
    from minari_obd.teachers import FrozenTeacher, Teacher, load_teacher
    from minari_obd.teachers.d3rlpy_teacher import train_teacher
    from minari_obd.verification import verify


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'minari_obd' has no attribute {name!r}")
    value = getattr(import_module(f"minari_obd.{_EXPORTS[name]}"), name)
    globals()[name] = value  # the next access is an ordinary attribute
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
