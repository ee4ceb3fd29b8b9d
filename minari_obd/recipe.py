"""Recipe: a whole run as one typed, nested, frozen dataclass; read from TOML, kept as JSON in the provenance.

Plain settings only: this module loads neither torch nor d3rlpy, so that the command line can be built from it
in a moment. The components that read a section validate what only they can know.
"""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from minari_obd.errors import FormatError, NotFoundError, SettingError, did_you_mean
from minari_obd.protocol import STRICT, StudentDraws, StudentProtocol, check_fraction, check_positive

__all__ = [
    "DensityRecipe",
    "DistillationRecipe",
    "EvaluationRecipe",
    "Recipe",
    "TeacherRecipe",
    "ValueRecipe",
    "load_recipe",
    "parse_recipe",
    "read_toml",
    "recipe_toml",
    "source_name",
]


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

    weights: Literal["scaled", "shift_free", "raw"] = "scaled"
    """`scaled`: q scaled to mean 1. `shift_free`: q less its 0.1 percentile, scaled to mean 1, so that a constant added
    to all values changes nothing. `raw`: ``beta`` q, as in the paper's code. What is negative counts as zero."""
    beta: float = 0.02
    """Of `raw`."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    def __post_init__(self) -> None:
        check_positive("values", beta=self.beta)


@dataclass(frozen=True)
class DistillationRecipe:
    """The outer loop, which moves the pairs."""

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


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run's result."""

    source: str
    """Offline dataset: a Minari id (`minari-obd list` shows those at hand) or a D4RL-style HDF5 file."""
    method: str = "sdw"
    """`random`, `kmeans`, `dbc`, `pbc`, `av_pbc` or `sdw`."""
    size: int = 256
    """Pairs to make."""
    seed: int = 0
    """Of every random number."""
    device: str = "auto"
    """`cpu`, `cuda`, or `auto`: CUDA where there is a GPU."""
    threads: int | None = None
    """CPU threads of torch; the faster of one and all, measured at the start, if not given. Results are equal to the
    bit for one number of threads."""
    teacher: TeacherRecipe = field(default_factory=TeacherRecipe)
    values: ValueRecipe = field(default_factory=ValueRecipe)
    density: DensityRecipe = field(default_factory=DensityRecipe)
    student: StudentProtocol = field(default_factory=StudentProtocol)
    distillation: DistillationRecipe = field(default_factory=DistillationRecipe)
    evaluation: EvaluationRecipe = field(default_factory=EvaluationRecipe)

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    def __post_init__(self) -> None:
        check_positive("recipe", size=self.size, threads=self.threads)
        if self.seed < 0:
            raise SettingError(f"The seed is {self.seed}; it must be a whole number from 0 up.")
        if not self.source:
            raise SettingError(
                "The recipe names no source; give a Minari id such as 'obd-bench/halfcheetah/medium-v0'."
            )

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as JSON values, nested as it is."""
        return json.loads(json.dumps(asdict(self)))


def parse_recipe(values: Any, origin: str) -> Recipe:
    """Check nested JSON or TOML values and build the recipe.

    Args:
        values: what was read.
        origin: where it was read, for error messages.

    Raises:
        FormatError: an unknown key, a missing one, a value of the wrong type or one that makes no sense; each is named.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        # By way of JSON: in strict mode only JSON may turn a table into a dataclass.
        return TypeAdapter(Recipe).validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        problems = []
        for problem in error.errors(include_url=False, include_context=False):
            place = ".".join(str(part) for part in problem["loc"]) or "recipe"
            if problem["type"] == "unexpected_keyword_argument":
                known = _keys(values, problem["loc"])
                problems.append(f"there is no setting '{place}' ({did_you_mean(str(problem['loc'][-1]), known)[:-1]})")
            else:
                problems.append(f"{place}: {problem['msg'][:200].rstrip('.')}")
        raise FormatError(f"{origin}: {'; '.join(problems[:5])}.") from error


def _keys(values: Any, location: tuple[int | str, ...]) -> list[str]:
    section: Any = Recipe
    for part in location[:-1]:
        section = section.__dataclass_fields__[part].type
    return list(section.__dataclass_fields__)


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe from a TOML file, which holds only what differs from the defaults.

    Raises:
        NotFoundError: no such file.
        FormatError: not TOML, or not a recipe; every wrong key is named.
    """
    return parse_recipe(read_toml(path, "recipe", "recipes/quickstart.toml"), str(path))


def read_toml(path: str | Path, kind: str, example: str) -> dict[str, Any]:
    """Read a TOML file of a ``kind`` that has an ``example``.

    Raises:
        NotFoundError: no such file.
        FormatError: not TOML.
    """
    path = Path(path)
    if not path.is_file():
        raise NotFoundError(f"There is no {kind} '{path}'; {kind}s are TOML files such as {example}.")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FormatError(f"'{path}' is not TOML: {error}.") from error


def recipe_toml(recipe: Recipe) -> str:
    """Return a recipe as the TOML that :func:`load_recipe` reads: what differs from the defaults of this version.

    Raises:
        FormatError: a text in it holds control characters.
    """
    import tomli_w

    if not all(text.isprintable() for text in _texts(asdict(recipe))):
        raise FormatError("The recipe holds control characters, so it is not printed; do not use it.")

    def differing(settings: Any, defaults: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for each in fields(settings):
            value, default = getattr(settings, each.name), getattr(defaults, each.name)
            if is_dataclass(value):
                found |= {each.name: section} if (section := differing(value, default)) else {}
            elif value != default:
                found[each.name] = list(value) if isinstance(value, tuple) else value
        return found

    return tomli_w.dumps({"source": recipe.source, **differing(recipe, Recipe(recipe.source))})


def _texts(values: Any) -> list[str]:
    if isinstance(values, dict):
        return [text for value in values.values() for text in _texts(value)]
    return [values] if isinstance(values, str) else []


def source_name(source: Any) -> str:
    """Return what a source is called in the recipe; the provenance also holds its content hash."""
    if isinstance(source, str | Path):
        return str(source)
    if isinstance(source, Mapping):
        return str(source.get("dataset_id", "arrays"))
    return getattr(source, "dataset_id", None) or getattr(getattr(source, "spec", None), "dataset_id", "unnamed")
