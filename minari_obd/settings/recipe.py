"""Recipe: a whole run as one typed, nested, frozen dataclass. It is read from TOML and kept as JSON in the provenance.

This module loads neither torch nor d3rlpy, so the command line can be built from it quickly. Each component that reads
a section checks what only that component can know.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from minari_obd.errors import FormatError, SettingError, did_you_mean
from minari_obd.registry import OBJECTIVES, TEACHERS
from minari_obd.settings.checks import STRICT, check_positive, check_reference, check_types
from minari_obd.settings.parsing import Problem, check_values, read_toml
from minari_obd.settings.protocols import ADAM_STUDENT, KERNEL_STUDENT, SOFTMAX, WIDE, StudentProtocol
from minari_obd.settings.sections import (
    DensityRecipe,
    DistillationRecipe,
    EvaluationRecipe,
    OnPolicyRecipe,
    StudentStatesRecipe,
    TeacherRecipe,
    ValueRecipe,
)
from minari_obd.storage.bundled import bundled_teacher_file

__all__ = ["Recipe", "load_recipe", "parse_recipe", "recipe_toml", "recorded_recipe", "source_name"]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run's result."""

    source: str
    """Offline dataset: a Minari id (`minari-obd list` shows the available ones) or the path of a D4RL-style HDF5 file
    or an OGBench npz file."""
    method: str = "vgd"
    """`random`, `kmeans`, `dbc`, `pbc`, `av_pbc`, `sdw`, `opw` or `vgd`."""
    size: int = 256
    """Number of pairs to make."""
    seed: int = 0
    """Random seed."""
    device: str = "auto"
    """`cpu`, `cuda`, or `auto`: CUDA if there is a GPU."""
    threads: int | None = None
    """CPU threads of torch; if not given, the faster of one and all, measured at the start. Results are bit-identical
    for the same number of threads."""
    teacher: TeacherRecipe = field(default_factory=TeacherRecipe)
    values: ValueRecipe = field(default_factory=ValueRecipe)
    density: DensityRecipe = field(default_factory=DensityRecipe)
    on_policy: OnPolicyRecipe = field(default_factory=OnPolicyRecipe)
    student: StudentProtocol = KERNEL_STUDENT
    distillation: DistillationRecipe = field(default_factory=DistillationRecipe)
    student_states: StudentStatesRecipe = field(default_factory=StudentStatesRecipe)
    evaluation: EvaluationRecipe = field(default_factory=EvaluationRecipe)

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    def __post_init__(self) -> None:
        check_types("", self)
        check_positive("", size=self.size, threads=self.threads)
        if self.distillation.nested and self.distillation.nested[-1] >= self.size:
            raise SettingError(
                f"distillation.nested is {list(self.distillation.nested)}; these sizes must be below the recipe's, "
                f"{self.size}."
            )
        known = replace(KERNEL_STUDENT, network=self.student.network, depth=self.student.depth)
        if self.student.is_solved and self.student != known:
            raise SettingError(
                f"student.network is '{self.student.network}', which is infinitely wide, solved for, and has a depth "
                "alone; for a student with other settings, set student.network to 'mlp'."
            )
        if not 0 <= self.seed < 2**32:  # scikit-learn takes no other
            raise SettingError(f"The seed is {self.seed}; it must be a whole number from 0 to {2**32 - 1}.")
        if not self.source:
            raise SettingError(
                "The recipe names no source; give a Minari id such as 'obd-bench/halfcheetah/medium-v0'."
            )

    @property
    def name(self) -> str:
        """A name for the result's folder: source, method, size and seed."""
        source = Path(self.source).stem if self.source.lower().endswith((".hdf5", ".h5", ".npz")) else self.source
        source = source.replace("/", "-").strip("-.") or "data"  # a folder that begins with a dot is hidden
        return f"{source}-{self.method}-{self.size}-seed-{self.seed}"

    @property
    def cloned_student(self) -> StudentProtocol:
        """How students are cloned from the finished pairs: the outer loop's student, or a wider one.

        Raises:
            SettingError: as :meth:`StudentProtocol.widened`.
        """
        width, network = self.distillation.cloned_width, self.student.network.removeprefix(SOFTMAX)
        if width is None:
            width = WIDE if replace(self.student, network=network) == ADAM_STUDENT else self.student.width
        return self.student.widened(width)

    @property
    def student_share(self) -> float:
        """Share of student states in outer batches: the recipe's, or else the method's own."""
        return self._own_share if self.student_states.share is None else self.student_states.share

    @property
    def _own_share(self) -> float:
        """The share of the method's class; none of a method that is not installed."""
        if self.method not in OBJECTIVES.names():
            return 0.0
        return getattr(OBJECTIVES.get(self.method), "student_share", 0.0)

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as nested JSON values."""
        return json.loads(json.dumps(asdict(self)))

    def resolved(self) -> "Recipe":
        """Return the recipe with the teacher that ``auto`` stands for, and what else depends on other settings."""
        width, steps = self.cloned_student.width, self.distillation.outer_steps(self.student)
        kernel = {
            "kernel_steps": self.distillation.steps_through_kernels(self.size, self.student, is_visited=True),
            "kernel_steps_alone": self.distillation.steps_through_kernels(self.size, self.student, is_visited=False),
            "kernel_batch_size": self.distillation.kernel_batch,
        }
        distillation = replace(self.distillation, cloned_width=width, steps=steps, **kernel)
        teacher = self.teacher
        if teacher.algorithm == "auto":
            is_bundled = teacher == TeacherRecipe() and bundled_teacher_file(self.source) is not None
            teacher = replace(teacher, algorithm="bundled" if is_bundled else "bc")
        on_policy = replace(self.on_policy, temperature=self.on_policy.temperature_for(is_discrete=False))
        return replace(self, teacher=teacher, distillation=distillation, on_policy=on_policy)

    def suited(self, *, is_discrete: bool, may_choose: bool) -> "Recipe":
        """Return the recipe with what it leaves to the kind of data: student, teacher and its episodes, temperature."""
        teacher, on_policy, algorithm = self.teacher, self.on_policy, self.resolved().teacher.algorithm
        if is_discrete and teacher.algorithm == "auto" and algorithm == "bc":
            algorithm = "discrete_cql"
        if (is_discrete or not may_choose) and algorithm in TEACHERS.names():
            share = getattr(TEACHERS.get(algorithm), "best_episodes", 1.0) if may_choose else 1.0
            share = share if teacher.best_episodes is None else teacher.best_episodes
            teacher = replace(teacher, algorithm=algorithm, best_episodes=share)
        if is_discrete:
            on_policy = replace(on_policy, temperature=on_policy.temperature_for(is_discrete=True))
        student = self.student.suited(is_discrete=is_discrete)
        return replace(self, teacher=teacher, on_policy=on_policy, student=student)

    def deciding(self) -> dict[str, Any]:
        """Return the settings that name a result: without those that came later and are not used here.

        A result that was made before such a setting existed is so found under its old name.
        """
        settings = self.resolved().to_json()
        bundled = bundled_teacher_file(self.source) if settings["teacher"]["algorithm"] == "bundled" else None
        if bundled is not None:  # another version of the package may bring another one
            settings["teacher"]["sha256"] = hashlib.sha256(bundled.read_bytes()).hexdigest()
        late = {"distillation": ("objective", "gap_share", "nested"), "evaluation": ("env",)}
        late |= {"student_states": tuple(settings["student_states"]), "teacher": ("confidence", "best_episodes")}
        for section, names in late.items():
            default = json.loads(json.dumps(asdict(getattr(Recipe(self.source), section))))
            if section == "student_states" and (self._own_share or self.student_states.share):
                default["noise"] = 0.3  # the default when names were given first
            for name in names:
                if settings[section][name] == default[name]:
                    del settings[section][name]
        if settings["distillation"]["cloned_width"] == self.student.width:
            del settings["distillation"]["cloned_width"]
        alone = settings["distillation"].pop("kernel_steps_alone")
        if not self.student_share:
            settings["distillation"]["kernel_steps"] = alone
        elif settings["distillation"]["kernel_steps"] != alone:
            settings["distillation"]["kernel_steps_alone"] = alone
        if self.distillation.initial != "kernel":
            del settings["distillation"]["kernel_steps"], settings["distillation"]["kernel_batch_size"]
            settings["distillation"].pop("kernel_steps_alone", None)
        elif self.distillation.kernel_batch == self.distillation.batch_size:
            del settings["distillation"]["kernel_batch_size"]
        if self.distillation.objective == "squared":
            settings["distillation"].pop("gap_share", None)
        if not settings["student_states"]:
            del settings["student_states"]
        return settings


def parse_recipe(values: Any, origin: str) -> Recipe:
    """Check nested JSON or TOML values and build the recipe.

    Args:
        values: the values to check.
        origin: where they were read, for error messages.

    Raises:
        FormatError: a key is unknown or missing, or a value has the wrong type or makes no sense. Each is named.
    """

    def told(problem: Problem) -> str:
        if problem.is_unknown:
            known = did_you_mean(str(problem.location[-1]), _keys(problem.location))[:-1]
            return f"there is no setting '{problem.place}' ({known})"
        return f"{problem.place}: {problem.message}" if problem.place else problem.message

    def explain(problems: list[Problem]) -> str:
        return f"{origin}: {'; '.join(map(told, problems[:5]))}."

    if isinstance(values, dict) and isinstance(values.get("student"), dict):  # who names a student means a network
        values = {**values, "student": {**asdict(ADAM_STUDENT), **values["student"]}}
    return check_values(Recipe, values, explain, default=str)


def recorded_recipe(values: dict[str, Any], origin: str) -> Recipe:
    """Return the recipe that a provenance holds, with what went without saying before there was a setting for it.

    Raises:
        FormatError: as :func:`parse_recipe`.
    """
    recipe, given = parse_recipe(values, origin), values.get("distillation")
    before = {"cloned_width": recipe.student.width, "kernel_batch_size": recipe.distillation.batch_size}
    before["kernel_steps_alone"] = recipe.distillation.kernel_steps or 750
    missing = {name: then for name, then in before.items() if not isinstance(given, dict) or name not in given}
    return replace(recipe, distillation=replace(recipe.distillation, **missing)) if missing else recipe


def _keys(location: tuple[int | str, ...]) -> list[str]:
    section: Any = Recipe
    for part in location[:-1]:
        section = section.__dataclass_fields__[part].type
    return [each.name for each in fields(section)]


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe from a TOML file, which only needs the settings that differ from the defaults.

    Raises:
        NotFoundError: the file does not exist.
        FormatError: the file is not TOML, or not a recipe. Every wrong key is named.
        SettingError: what was given is no path.
    """
    check_reference("load_recipe", path)
    values = read_toml(path, "recipe", "recipes/quickstart.toml")
    if "datasets" in values and "source" not in values:
        raise FormatError(f"'{path}' is a grid, of many runs; run it by `minari-obd bench`, or name a recipe.")
    return parse_recipe(values, str(path))


def recipe_toml(recipe: Recipe) -> str:
    """Return a recipe as TOML for :func:`load_recipe`: the settings that differ from this version's defaults.

    Raises:
        FormatError: a string in it contains control characters.
    """
    import tomli_w

    if not all(text.isprintable() for text in _texts(asdict(recipe))):
        raise FormatError("The recipe contains control characters, so it is not printed; do not use it.")

    def differing(settings: Any, defaults: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for each in fields(settings):
            value, default = getattr(settings, each.name), getattr(defaults, each.name)
            if is_dataclass(value):
                found |= {each.name: section} if (section := differing(value, default)) else {}
            elif value != default:
                found[each.name] = list(value) if isinstance(value, tuple) else value
        return found

    found = differing(recipe, replace(Recipe(recipe.source), student=recipe.student))
    if recipe.student != KERNEL_STUDENT:  # who names a student means a network, by Adam where nothing else is said
        found["student"] = {"network": recipe.student.network, **differing(recipe.student, ADAM_STUDENT)}
    return tomli_w.dumps({"source": recipe.source, **found})


def _texts(values: Any) -> list[str]:
    if isinstance(values, dict):
        return [text for value in values.values() for text in _texts(value)]
    return [values] if isinstance(values, str) else []


def source_name(source: Any) -> str:
    """Return a source's name in the recipe. The provenance also holds its content hash."""
    if isinstance(source, str | Path):
        return str(source)
    if isinstance(source, Mapping):
        return str(source.get("dataset_id", "arrays"))
    return getattr(source, "dataset_id", None) or getattr(getattr(source, "spec", None), "dataset_id", "unnamed")
