"""Sections of a recipe: the settings of teacher, weights, density, distiller and evaluation. Plain, without torch."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from minari_obd.errors import SettingError
from minari_obd.settings.checks import STRICT, check_fraction, check_positive
from minari_obd.settings.protocols import StudentDraws

__all__ = ["DensityRecipe", "DistillationRecipe", "EvaluationRecipe", "OnPolicyRecipe", "TeacherRecipe", "ValueRecipe"]


@dataclass(frozen=True)
class TeacherRecipe:
    """The offline-RL teacher whose behaviour is distilled."""

    algorithm: str = "calql"
    """Algorithm to train, the folder of a saved teacher, or a Hub repository `organisation/name` or `...@revision`."""
    steps: int | None = None
    """Gradient steps; the algorithm's own default if not given."""
    options: dict[str, bool | int | float | str] = field(default_factory=dict)
    """Settings of d3rlpy's configuration of the algorithm that are to differ, such as `conservative_weight`."""
    average: float = 0.0
    """Share of the updates, the last ones, over which the actor's weights are averaged; the average is kept if the
    actor's own loss on the data is less with it. 0: the last weights."""
    precision: Literal["auto", "float32", "tf32", "bfloat16"] = "auto"
    """Of the matrix products of its updates; `auto` is bfloat16 for `cql` and `calql`, whose products are large, where
    the CPU has it, else float32."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    def __post_init__(self) -> None:
        check_positive("teacher", steps=self.steps)
        if not 0.0 <= self.average <= 1.0:
            raise SettingError(f"teacher.average is {self.average}; it must be from 0 to 1.")


@dataclass(frozen=True)
class DensityRecipe:
    """The state density behind `sdw`'s weights."""

    estimator: str = "knn"
    """`knn` (k nearest neighbours), `maf` (masked autoregressive flow, the paper's) or `gmm` (Gaussian mixture)."""
    effective_fraction: float = 0.5
    """Effective sample fraction (sum w)^2 / (N sum w^2) that the tempered weights are to have."""
    with_values: bool = True
    """Whether the weights are also proportional to the teacher's value; if not, density alone makes them."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    def __post_init__(self) -> None:
        check_fraction("density", effective_fraction=self.effective_fraction)


@dataclass(frozen=True)
class ValueRecipe:
    """What `av_pbc` and `sdw` make of the teacher's values q."""

    weights: Literal["scaled", "shift_free", "tempered", "raw"] = "scaled"
    """`scaled`: q scaled to mean 1. `shift_free`: q less its 0.1 percentile, scaled to mean 1, so that a constant added
    to all values changes nothing. `tempered`: exp(alpha q), alpha chosen for ``effective_fraction``, scaled to mean 1.
    `raw`: ``beta`` q, as in the paper's code. Where q itself weighs, what is negative counts as zero."""
    effective_fraction: float = 0.2
    """Effective sample fraction (sum w)^2 / (N sum w^2) that `tempered` weights are to have."""
    beta: float = 0.02
    """Of `raw`."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    def __post_init__(self) -> None:
        check_positive("values", beta=self.beta)
        check_fraction("values", effective_fraction=self.effective_fraction)


@dataclass(frozen=True)
class OnPolicyRecipe:
    """How `opw` finds the states that the teacher would visit."""

    decay: float = 0.9
    """What an action counts for, once a step later than another: a step's past is about 1 / (1 - ``decay``) actions."""
    temperature: float = 0.05
    """Mean squared distance of a state's past actions from the teacher's, on [-1, 1], at which its weight is 1 / e."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    def __post_init__(self) -> None:
        check_fraction("on_policy", decay=self.decay)
        check_positive("on_policy", temperature=self.temperature)


@dataclass(frozen=True)
class DistillationRecipe:
    """The outer loop, which moves the pairs."""

    initial: Literal["random", "kmeans"] = "random"
    """States that the pairs begin as: drawn evenly, or those nearest to the centres of k-means."""
    steps: int = 300
    """Outer steps at the most."""
    optimiser: Literal["adam", "sgd"] = "adam"
    """Outer optimiser; the paper's is `sgd` (momentum 0.9, learning rate 0.1)."""
    learning_rate: float = 0.1
    """Outer step size."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Of the learning rate, from its full value to a hundredth of it."""
    clip: float = 2.0
    """Largest norm of the gradient of all pairs."""
    clip_to_average: float = 2.0
    """The same, as a multiple of the norm's running average (RaT-BPTT): longer unrolls explode now and then."""
    batch_size: int = 2_560
    """Offline states an outer step."""
    students: int = 1
    """Students trained and differentiated through an outer step."""
    draws: StudentDraws = field(default_factory=StudentDraws)
    """What varies between the students of different outer steps."""
    unroll: Literal["whole", "last", "random"] = "whole"
    """Which inner steps are differentiated through. `whole`: all of them. `last`: the last ``window``. `random`:
    ``window`` steps anywhere, the student being judged where they end (RaT-BPTT, ICLR 2024)."""
    window: int = 40
    """Inner steps that are differentiated through where not all are."""
    precision: Literal["auto", "float32", "tf32", "bfloat16"] = "auto"
    """Of the matrix products of MLP students; `auto` is bfloat16 on CPUs that multiply in it, else float32."""
    average: float = 0.0
    """Decay of the running average of the pairs that is judged and returned in their place; 0 is the pairs
    themselves."""
    held_out: float = 0.05
    """Share of the offline states kept apart: they choose the pairs and stop the run. The environment never does."""
    evaluate_every: int = 25
    """Outer steps between two looks at the held-out loss."""
    patience: int = 20
    """Looks without improvement after which the run stops."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    def __post_init__(self) -> None:
        check_positive("distillation", steps=self.steps, learning_rate=self.learning_rate, clip=self.clip)
        check_positive("distillation", clip_to_average=self.clip_to_average)
        check_positive("distillation", batch_size=self.batch_size, students=self.students)
        check_positive("distillation", evaluate_every=self.evaluate_every, patience=self.patience, window=self.window)
        check_fraction("distillation", held_out=self.held_out)
        if not 0.0 <= self.average < 1.0:
            raise SettingError(f"distillation.average is {self.average}; it must be at least 0 and below 1.")


@dataclass(frozen=True)
class EvaluationRecipe:
    """How the pairs are judged in the end."""

    students: int = 10
    """Students cloned afresh."""
    episodes: int = 10
    """Episodes of each."""
    whole_data_steps: int = 3_000
    """Minibatch steps of Adam for the baseline, behavioural cloning on the whole dataset."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    def __post_init__(self) -> None:
        check_positive(
            "evaluation", students=self.students, episodes=self.episodes, whole_data_steps=self.whole_data_steps
        )
