"""Sections of a recipe: settings of teacher, weights, density, distiller and evaluation. Does not load torch."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from minari_obd.errors import SettingError
from minari_obd.settings.checks import STRICT, check_fraction, check_positive, check_types
from minari_obd.settings.protocols import StudentDraws, StudentProtocol

__all__ = [
    "DensityRecipe",
    "DistillationRecipe",
    "EvaluationRecipe",
    "OnPolicyRecipe",
    "StudentStatesRecipe",
    "TeacherRecipe",
    "ValueRecipe",
]


@dataclass(frozen=True)
class TeacherRecipe:
    """The offline-RL teacher whose behaviour is distilled."""

    algorithm: str = "auto"
    """Algorithm to train, `bundled` for the teacher that comes with the package for the source, folder of a saved
    teacher, or Hub repository (`organisation/name` or `...@revision`). `auto` is `bundled` where the source has a
    bundled teacher and nothing else is set here, and `bc` otherwise."""
    steps: int | None = None
    """Gradient steps; the algorithm's own default if not given."""
    options: dict[str, bool | int | float | str] = field(default_factory=dict)
    """Settings to change in d3rlpy's configuration of the algorithm, such as `conservative_weight`."""
    average: float = 0.0
    """Share of the updates, counted from the end, over which the actor's weights are averaged. The average is kept if
    it lowers the actor's own loss on the data. 0 keeps the last weights."""
    best_episodes: float | None = None
    """Share of the data's steps that it is trained on, those of the episodes with the highest returns. If not given, a
    quarter for `bc`, half for `discrete_cql`, all for other algorithms and for data with goals. The pairs are still
    made for all of the data."""
    precision: Literal["auto", "float32", "tf32", "bfloat16"] = "auto"
    """Precision of the matrix products in its updates. `auto` is bfloat16 for `cql` and `calql`, whose products are
    large, on CPUs where torch makes products of float32 matrices in it; float32 otherwise."""
    confidence: float | None = None
    """Of discrete actions: the likeliest action's probability, in the mean over the data's states, from which the
    temperature of the teacher's soft labels follows. If not given, the teacher's own; 0.9 if it is trained here or has
    none."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    def __post_init__(self) -> None:
        check_types("teacher", self)
        check_positive("teacher", steps=self.steps)
        if not 0.0 <= self.average <= 1.0:
            raise SettingError(f"teacher.average is {self.average}; it must be from 0 to 1.")
        if self.best_episodes is not None and not 0.0 < self.best_episodes <= 1.0:
            raise SettingError(f"teacher.best_episodes is {self.best_episodes}; it must be above 0 and at most 1.")
        if self.confidence is not None and not 0.0 < self.confidence < 1.0:
            raise SettingError(f"teacher.confidence is {self.confidence}; it must be above 0 and below 1.")


@dataclass(frozen=True)
class DensityRecipe:
    """The state density behind `sdw`'s weights."""

    estimator: str = "knn"
    """`knn` (k nearest neighbours), `maf` (masked autoregressive flow, the paper's) or `gmm` (Gaussian mixture)."""
    effective_fraction: float = 0.5
    """Target effective sample fraction (sum w)^2 / (N sum w^2) of the tempered weights."""
    with_values: bool = True
    """Whether the weights are also proportional to the teacher's value. If not, they depend on density alone."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    def __post_init__(self) -> None:
        check_types("density", self)
        check_fraction("density", effective_fraction=self.effective_fraction)


@dataclass(frozen=True)
class ValueRecipe:
    """How `av_pbc` and `sdw` turn the teacher's values q into weights."""

    weights: Literal["scaled", "shift_free", "tempered", "raw"] = "scaled"
    """`scaled`: q scaled to mean 1. `shift_free`: q minus its 0.1 percentile, scaled to mean 1, so that a constant
    added to all values changes nothing. `tempered`: exp(alpha q), with alpha chosen for ``effective_fraction``, scaled
    to mean 1. `raw`: ``beta`` q, as in the paper's code. All but `tempered` count negative values as zero."""
    effective_fraction: float = 0.2
    """Target effective sample fraction (sum w)^2 / (N sum w^2) of `tempered` weights."""
    beta: float = 0.02
    """Factor of `raw`."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    def __post_init__(self) -> None:
        check_types("values", self)
        check_positive("values", beta=self.beta)
        check_fraction("values", effective_fraction=self.effective_fraction)


@dataclass(frozen=True)
class OnPolicyRecipe:
    """How `opw` finds the states that the teacher would visit."""

    decay: float = 0.9
    """Factor by which a past action's weight falls per step: a past spans about 1 / (1 - ``decay``) actions."""
    temperature: float | None = None
    """Mean squared distance of a state's past actions from the teacher's, on [-1, 1], that gives a weight of 1 / e. If
    not given, 0.05; of discrete actions, which are far from each other wherever they differ, 0.5."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    def __post_init__(self) -> None:
        check_types("on_policy", self)
        check_fraction("on_policy", decay=self.decay)
        check_positive("on_policy", temperature=self.temperature)

    def temperature_for(self, *, is_discrete: bool) -> float:
        """Return the temperature for these actions."""
        return self.temperature or (0.5 if is_discrete else 0.05)


@dataclass(frozen=True)
class StudentStatesRecipe:
    """States that students themselves visit, in a dynamics ensemble learned from the data."""

    share: float | None = None
    """Share of such states in each outer batch; the rest are the data's. 0 leaves them out, and fits no ensemble. If
    not given, it is the method's own: 0.25 for `vgd`, 0 for the others."""
    interval: int = 10
    """Outer steps between rollouts of new students. The kernel start has twelve, evenly over its steps."""
    rounds: int = 8
    """Rollouts whose states are kept to draw from, the last ones."""
    horizon: int = 200
    """Longest rollout, in environment steps."""
    noise: float = 0.1
    """Standard deviation of the noise on students' actions, on [-1, 1]. The actions to imitate there have no noise."""
    dynamics_seed: int = 0
    """Seed of the ensemble. It is not the run's, so that runs with other seeds share one fitted ensemble."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    def __post_init__(self) -> None:
        check_types("student_states", self)
        check_positive("student_states", interval=self.interval, rounds=self.rounds, horizon=self.horizon)
        if self.share is not None and not 0.0 <= self.share < 1.0:
            raise SettingError(f"student_states.share is {self.share}; it must be at least 0 and below 1.")
        if not self.noise >= 0.0 or self.dynamics_seed < 0:
            raise SettingError(
                f"student_states.noise and dynamics_seed must not be negative; got {self.noise} and "
                f"{self.dynamics_seed}."
            )


@dataclass(frozen=True)
class DistillationRecipe:
    """The outer loop, which optimises the pairs."""

    initial: Literal["random", "kmeans", "kernel"] = "kernel"
    """Where the pairs start. `random` (the papers'): at uniformly drawn states. `kmeans`: at those nearest to the
    centres of k-means. `kernel`: from there, moved so that infinitely wide students, whose cloning has a closed form,
    learn most from them. For such students, this is all."""
    kernel_steps: int | None = None
    """Steps of `kernel`. If not given: 3,000 for infinitely wide students, 750 for networks."""
    kernel_steps_alone: int | None = None
    """Steps of `kernel` where there are no student states. If not given, ``kernel_steps``, or else 750, and for
    infinitely wide students from fewer than 256 pairs, which take longer to settle, in inverse proportion more: 3,000
    at 64 pairs and below. More would fit the data's states too well."""
    kernel_batch_size: int | None = None
    """Offline states per step of `kernel`. If not given, ``batch_size``, and at most 1,024."""
    nested: tuple[int, ...] = ()
    """Sizes below the run's at which the first pairs make sets of their own: with 16 and 64, students are also cloned
    from the first 16 and the first 64 pairs, and all three sets are improved together."""
    objective: Literal["auto", "squared", "value_gap"] = "auto"
    """What an error costs. `squared`: the squared difference from the wanted action. `value_gap`: in part, how much
    less the teacher's critics value the student's action than the teacher's. `auto`: `value_gap` for method `vgd` with
    a teacher whose critics can be trusted, `squared` otherwise."""
    gap_share: float = 0.7
    """Share of the value gap in `value_gap`; the squared error has the rest."""
    steps: int | None = None
    """Maximum number of outer steps. If not given: 30, or none after a kernel start for infinitely wide students."""
    optimiser: Literal["adam", "sgd"] = "adam"
    """Outer optimiser; the paper's is `sgd` (momentum 0.9, learning rate 0.1)."""
    learning_rate: float = 0.005
    """Outer step size."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning-rate schedule; `cosine` lowers the rate to a hundredth of its full value."""
    clip: float = 2.0
    """Maximum norm of the gradient of all pairs."""
    clip_to_average: float = 2.0
    """The same limit as a multiple of the norm's running average (RaT-BPTT); long unrolls occasionally explode."""
    batch_size: int = 2_560
    """Offline states per outer step."""
    students: int = 1
    """Students trained and differentiated through per outer step."""
    cloned_width: int | None = None
    """Units in each hidden layer of the students that the finished pairs are for. Pairs made through narrow students,
    in a fraction of the time, also teach wide ones, which act more alike. Adam's rate falls with the root of the width.
    If not given: 1,024 for 100 steps of Adam at 0.001, the default of networks, and the student's own otherwise.
    Infinitely wide students have none."""
    draws: StudentDraws = field(default_factory=StudentDraws)
    """Settings that vary between the students of different outer steps."""
    unroll: Literal["whole", "last", "random"] = "whole"
    """Which inner steps are differentiated through. `whole`: all of them. `last`: the last ``window``. `random`:
    ``window`` steps anywhere; the student's loss is taken where they end (RaT-BPTT, ICLR 2024)."""
    window: int = 40
    """Inner steps that `last` and `random` differentiate through."""
    precision: Literal["auto", "float32", "tf32", "bfloat16"] = "auto"
    """Precision of MLP students' matrix products. `auto`: bfloat16 on CPUs that are faster in it, else float32."""
    average: float = 0.0
    """Decay of the running average of the pairs, which is evaluated and returned instead of the pairs. 0 returns the
    pairs themselves."""
    held_out: float = 0.05
    """Share of the offline states held out to choose the pairs and stop the run. The environment is not used for it."""
    evaluate_every: int = 10
    """Outer steps between evaluations of the held-out loss."""
    patience: int = 20
    """Evaluations without improvement after which the run stops."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    def __post_init__(self) -> None:
        check_types("distillation", self)
        check_positive("distillation", learning_rate=self.learning_rate, clip=self.clip)
        check_positive("distillation", clip_to_average=self.clip_to_average)
        check_positive("distillation", batch_size=self.batch_size, students=self.students)
        check_positive("distillation", cloned_width=self.cloned_width, kernel_steps=self.kernel_steps)
        check_positive("distillation", kernel_batch_size=self.kernel_batch_size)
        check_positive("distillation", kernel_steps_alone=self.kernel_steps_alone)
        check_positive("distillation", evaluate_every=self.evaluate_every, patience=self.patience, window=self.window)
        check_fraction("distillation", held_out=self.held_out)
        if any(size < 1 for size in self.nested) or list(self.nested) != sorted(set(self.nested)):
            raise SettingError(
                f"distillation.nested is {list(self.nested)}; it must be sizes from 1 up, each above the one before it."
            )
        least = 0 if self.initial == "kernel" else 1
        if self.steps is not None and self.steps < least:
            raise SettingError(f"distillation.steps is {self.steps}; it must be at least {least}.")
        if not 0.0 < self.gap_share <= 1.0:
            raise SettingError(f"distillation.gap_share is {self.gap_share}; it must be above 0 and at most 1.")
        if not 0.0 <= self.average < 1.0:
            raise SettingError(f"distillation.average is {self.average}; it must be at least 0 and below 1.")

    @property
    def kernel_batch(self) -> int:
        """Offline states per step of `kernel`."""
        return self.kernel_batch_size or min(self.batch_size, 1_024)

    def steps_through_kernels(self, size: int, student: StudentProtocol, *, is_visited: bool) -> int:
        """Return the number of steps of `kernel` for such pairs and students, with student states or without."""
        if not is_visited and self.kernel_steps_alone is not None:
            return self.kernel_steps_alone
        if self.kernel_steps is not None:
            return self.kernel_steps
        if not student.is_solved:
            return 750
        return 3_000 if is_visited else min(max(750, 750 * 256 // size), 3_000)

    def outer_steps(self, student: StudentProtocol) -> int:
        """Return the number of outer steps for such students."""
        if self.steps is not None:
            return self.steps
        return 0 if self.initial == "kernel" and student.is_solved else 30


@dataclass(frozen=True)
class EvaluationRecipe:
    """How the finished pairs are evaluated."""

    students: int = 10
    """Students to clone."""
    episodes: int = 10
    """Episodes per student."""
    whole_data_steps: int = 3_000
    """Minibatch steps of Adam for the baseline: behavioural cloning on the whole dataset."""
    env: str | None = None
    """Plain Gymnasium id of the environment to evaluate in; the source's own if not given. The pairs are then this
    environment's."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    def __post_init__(self) -> None:
        check_types("evaluation", self)
        check_positive(
            "evaluation", students=self.students, episodes=self.episodes, whole_data_steps=self.whole_data_steps
        )
