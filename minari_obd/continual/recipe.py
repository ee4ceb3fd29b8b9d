"""Recipe of continual learning: several strategies on one sequence of tasks, from one TOML file."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from minari_obd.continual.learning import learn_sequence
from minari_obd.continual.report import ContinualReport, continual_table
from minari_obd.continual.sequence import NormaliserChoice, Strategy, TaskSequence
from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.distilled.loading import load_dataset
from minari_obd.errors import FormatError, SettingError
from minari_obd.experiments.kept import kept_pairs
from minari_obd.settings.checks import STRICT, check_positive
from minari_obd.settings.parsing import parse_settings, read_toml
from minari_obd.settings.protocols import protocol_by_name
from minari_obd.settings.recipe import Recipe, parse_recipe
from minari_obd.sources.loading import load_offline_data
from minari_obd.storage.cache import read_kept
from minari_obd.storage.files import check_no_artefact, check_writable, write_text
from minari_obd.support.devices import cpu_threads

__all__ = ["ContinualRecipe", "load_continual", "run_continual"]

_OF_THE_TASKS = ("source", "seed")


_Arm = Literal["none", "rehearsal", "random rehearsal", "joint", "single"]


_ARMS: dict[str, tuple[Strategy, str]] = {
    "none": ("none", "no rehearsal"),
    "rehearsal": ("rehearsal", "rehearsal of the pairs"),
    "random rehearsal": ("rehearsal", "rehearsal of random pairs"),
    "joint": ("joint", "joint training"),
    "single": ("single", "one policy a task"),
}


@dataclass(frozen=True)
class ContinualRecipe:
    """Tasks that are learned in sequence, and the strategies (arms) that are compared on them."""

    tasks: list[str]
    """In the order in which they are learned. With a `recipe`, the offline datasets whose pairs it makes (Minari ids);
    else distilled datasets: folders, Minari ids or Hub repositories."""
    recipe: dict[str, Any] | None = None
    """How the pairs are made, once for each task; as in a recipe, without source and seed."""
    random: list[str] = field(default_factory=list)
    """Without a `recipe`: a distilled dataset of random real pairs for each task, for the arm `random rehearsal`. With
    one they are made, as many as there are distilled ones."""
    arms: list[_Arm] | None = None
    """`none`, `rehearsal`, `random rehearsal`, `joint`, `single`; all for which there are pairs if not given."""
    normaliser: NormaliserChoice = "joint"
    """How the policy sees states: through the joint normaliser of all tasks, or in each task through its `own`."""
    protocol: str | None = None
    """Name of how students are trained; that of the first task's pairs if not given."""
    students: int = 10
    """Independent runs of each arm."""
    episodes: int = 10
    """Of each student on each task after each stage."""
    seed: int = 0
    """Of every random number, the pairs' too if they are made."""
    threads: int = 1
    """CPU threads of torch. Results are equal to the bit for one number of threads."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    def __post_init__(self) -> None:
        check_positive("continual", students=self.students, episodes=self.episodes, threads=self.threads)
        if self.seed < 0:
            raise SettingError(f"The seed is {self.seed}; it must be a whole number from 0 up.")
        if len(self.tasks) < 2:
            raise SettingError(f"tasks is {self.tasks}; a sequence has two or more.")
        if self.arms is not None and (not self.arms or len(set(self.arms)) != len(self.arms)):
            raise SettingError(f"arms is {self.arms}; name one or more of {', '.join(_ARMS)}, each once.")
        if self.protocol is not None:
            protocol_by_name(self.protocol)
        if self.recipe is not None and self.random:
            raise SettingError("With a recipe random pairs are made; leave `random` out.")
        if self.random and len(self.random) != len(self.tasks):
            raise SettingError(f"{len(self.random)} random set(s) for {len(self.tasks)} tasks; name one for each.")
        if "random rehearsal" in (self.arms or ()) and not self.has_random:
            raise SettingError(
                "The arm 'random rehearsal' needs pairs: name a set for each task in `random`, or give a recipe."
            )
        for name in _OF_THE_TASKS:
            if name in (self.recipe or {}):
                raise SettingError(f"The recipe of the pairs has '{name}', which stands beside it; leave it out there.")

    @property
    def has_random(self) -> bool:
        """Whether there are random pairs, or a way to make them."""
        return bool(self.recipe is not None or self.random)

    def pairs_recipe(self, task: str, *, method: str | None = None) -> Recipe:
        """Return the recipe of a task's pairs, or by another method.

        Raises:
            FormatError: the recipe is none; each wrong key is named.
        """
        given = {"source": task, "seed": self.seed, **({} if method is None else {"method": method})}
        return parse_recipe({"threads": self.threads, **(self.recipe or {}), **given}, "the recipe of the pairs")


def load_continual(path: str | Path) -> ContinualRecipe:
    """Read a recipe of continual learning from a TOML file.

    Raises:
        NotFoundError: no such file.
        FormatError: not TOML, or not such a recipe; a wrong key is named.
    """
    toml = read_toml(path, "recipe", "recipes/continual/halfcheetah-behaviours.toml")
    recipe = parse_settings(ContinualRecipe, toml, f"'{path}'")
    if recipe.recipe is not None:
        recipe.pairs_recipe(recipe.tasks[0])
    return recipe


def run_continual(
    recipe: ContinualRecipe | str | Path, out: str | Path, *, workers: int | None = None, progress: bool = True
) -> list[ContinualReport]:
    """Run every arm that has no report in ``out``, and return the reports of all.

    Every run has a folder of its own, named after everything that decides it, so one that was killed goes on after its
    last whole stage, and a recipe that grows keeps what it has.

    Args:
        recipe: the recipe, or its TOML file.
        out: a folder: ``runs/*`` with a report and each stage's policy, ``sets/*`` for pairs that are made,
            ``report.json`` and ``table.md``.
        workers: processes that evaluate, as in :func:`minari_obd.evaluate`.
        progress: show bars.

    Raises:
        NotFoundError, FormatError: the recipe's file, or a dataset.
        MinariObdError: as :func:`minari_obd.learn_continually`, and whatever making the pairs may raise.
    """
    recipe = recipe if isinstance(recipe, ContinualRecipe) else load_continual(recipe)
    folder = Path(out)
    check_no_artefact(folder)
    check_writable(folder / "runs" / "x")
    arms = recipe.arms or [name for name in _ARMS if name != "random rehearsal" or recipe.has_random]
    tasks = _task_sets(recipe, folder, progress)
    memory = _random_sets(recipe, folder, progress) if "random rehearsal" in arms else None
    reports = []
    with cpu_threads(recipe.threads):
        runs = [_run_of(recipe, arm, tasks, memory) for arm in arms]
        for run in runs:
            run.check()
        for run in runs:
            place = folder / "runs" / run.key
            report = read_kept(place / "report.json", lambda path: ContinualReport.read(path.parent))
            if report is None:
                report = learn_sequence(run, place, workers=workers, progress=progress)
            reports.append(replace(report, label=run.label))
    write_text(folder / "table.md", continual_table(reports))
    write_text(folder / "report.json", json.dumps([each.to_json() for each in reports], indent=1) + "\n")
    return reports


def _run_of(
    recipe: ContinualRecipe, arm: str, tasks: tuple[DistilledDataset, ...], memory: tuple[DistilledDataset, ...] | None
) -> TaskSequence:
    strategy, label = _ARMS[arm]
    return TaskSequence(
        tasks=tasks,
        strategy=strategy,
        memory=memory if arm == "random rehearsal" else None,
        protocol=protocol_by_name(recipe.protocol or tasks[0].protocol),
        normaliser=recipe.normaliser,
        students=recipe.students,
        episodes=recipe.episodes,
        seed=recipe.seed,
        label=label,
    )


def _task_sets(recipe: ContinualRecipe, folder: Path, progress: bool) -> tuple[DistilledDataset, ...]:
    if recipe.recipe is None:
        return tuple(load_dataset(ref) for ref in recipe.tasks)
    return _made(recipe, folder, None, progress)


def _random_sets(recipe: ContinualRecipe, folder: Path, progress: bool) -> tuple[DistilledDataset, ...]:
    if recipe.recipe is not None:
        return _made(recipe, folder, "random", progress)
    sets = tuple(load_dataset(ref) for ref in recipe.random)
    for ref, each in zip(recipe.random, sets, strict=True):
        if each.provenance.method != "random":
            raise FormatError(f"'{ref}' was made by '{each.provenance.method}'; `random` is for sets made by 'random'.")
    return sets


def _made(recipe: ContinualRecipe, folder: Path, method: str | None, progress: bool) -> tuple[DistilledDataset, ...]:
    recipes = [recipe.pairs_recipe(task, method=method) for task in recipe.tasks]
    return tuple(
        kept_pairs(each, load_offline_data(each.source, progress=progress), folder, progress) for each in recipes
    )
