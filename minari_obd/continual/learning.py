"""Continual learning: one policy learns tasks in sequence from their pairs, those of old tasks being its rehearsal."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from minari_obd.cloning.cloning import check_joinable, clone, new_policy
from minari_obd.cloning.policy import Policy, load_policy
from minari_obd.continual.report import ContinualReport, ContinualTask
from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.environments.making import make_environment
from minari_obd.errors import DataError, FormatError, NotFoundError, SettingError, did_you_mean
from minari_obd.evaluation.evaluation import evaluate
from minari_obd.evaluation.subjects import check_fit, known_reference
from minari_obd.settings.checks import check_positive
from minari_obd.settings.protocols import StudentProtocol, protocol_by_name
from minari_obd.sources.scaling import Normaliser
from minari_obd.storage.files import check_new, check_writable, write_text
from minari_obd.support.progress import progress_bar
from minari_obd.support.streams import Stream
from minari_obd.version import __version__

__all__ = ["ContinualLearning", "NormaliserChoice", "Strategy", "learn_continually"]

Strategy = Literal["rehearsal", "none", "joint", "single"]


NormaliserChoice = Literal["joint", "own"]


_PACKAGES = ("gymnasium", "torch", "numpy")


def learn_continually(
    tasks: Sequence[DistilledDataset],
    strategy: Strategy = "rehearsal",
    *,
    memory: Sequence[DistilledDataset] | None = None,
    normaliser: NormaliserChoice = "joint",
    protocol: StudentProtocol | str | None = None,
    students: int = 10,
    episodes: int = 10,
    seed: int = 0,
    out: str | Path | None = None,
    label: str | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> ContinualReport:
    """Learn tasks in sequence, and evaluate every task after every stage.

    Args:
        tasks: K distilled datasets, two or more, in the order in which they are learned; observations and actions of
            one shape and bounds. Each names its environment.
        strategy: what a stage learns from. ``rehearsal``: the policy goes on with the new task's pairs and those of
            all old tasks. ``none``: with the new task's pairs alone. The references are ``joint``: a new policy
            from the pairs of all tasks so far, and ``single``: a new policy from the new task's pairs.
        memory: for ``rehearsal``, one dataset for each task, whose pairs stand in for the task's own once it is old
            (as many random real pairs, say); the tasks' own pairs if not given.
        normaliser: how the policy sees states. ``joint``: every task's through the joint normaliser of all tasks, so
            that it need not know which one it is in (domain-incremental learning, van de Ven and Tolias 2019,
            arXiv 1904.07734). ``own``: each task's through its own source's normaliser, as its pairs were made for;
            then it must be told the task (task-incremental learning).
        protocol: how students are trained at each stage, itself or by name; the first task's if not given.
        students: independent runs, each from its own initialisation, the same ones for every strategy.
        episodes: of each student on each task after each stage, from the same starts.
        seed: of initialisations, minibatches and starts.
        out: a folder for ``report.json``, ``report.md`` and each stage's returns and policy. Called again with the
            same arguments, a run that was stopped goes on after its last whole stage.
        label: what the run is called in tables; the strategy if not given.
        workers: processes that evaluate, as in :func:`minari_obd.evaluate`; the returns are the same for every number.
        progress: show a bar.

    Raises:
        DataError: fewer than two tasks, or datasets that do not fit each other.
        SettingError: an unknown strategy, a memory that does not belong to the tasks, a task without an environment
            or with one that does not fit its pairs, or a folder that cannot be written or holds something else.
        NotFoundError: an unknown environment or protocol.
    """
    if not tasks:
        raise DataError("There is no task to learn; give two distilled datasets or more.")
    run = ContinualLearning(
        tasks=tuple(tasks),
        strategy=strategy,
        memory=None if memory is None else tuple(memory),
        normaliser=normaliser,
        protocol=protocol_by_name(tasks[0].protocol if protocol is None else protocol),
        students=students,
        episodes=episodes,
        seed=seed,
        label=label or strategy,
    )
    return run.run(out, workers=workers, progress=progress)


@dataclass(frozen=True)
class _Stage:
    """What a stage leaves behind."""

    policy: Policy
    returns: np.ndarray
    """On each task, shape (K, students, episodes)."""
    versions: dict[str, str]
    seconds: float


@dataclass(frozen=True)
class ContinualLearning:
    """One run of :func:`learn_continually`, with its arguments."""

    tasks: tuple[DistilledDataset, ...]
    strategy: Strategy
    memory: tuple[DistilledDataset, ...] | None
    protocol: StudentProtocol
    normaliser: NormaliserChoice = "joint"
    students: int = 10
    episodes: int = 10
    seed: int = 0
    label: str = "continual"

    def run(
        self, out: str | Path | None = None, *, workers: int | None = None, progress: bool = True
    ) -> ContinualReport:
        """Check everything that can be checked, do what is missing, save the result."""
        folder = None if out is None else Path(out)
        if folder is not None:
            check_new(folder / "report.json")
        self.check()
        if folder is not None:
            check_writable(folder / "report.json")
        stages: list[_Stage] = []
        rounds = len({_judged_by(self._policy_for(task, self._start)) for task in self.tasks})
        with progress_bar(len(self.tasks) * rounds, self.label, unit="evaluation", show=progress) as bar:
            for i in range(len(self.tasks)):
                stage = None if folder is None else self._read_stage(folder, i)
                if stage is None:
                    stage = self._run_stage(i, stages[-1].policy if stages else None, workers, bar.update)
                    if folder is not None:
                        self._write_stage(folder, i, stage)
                else:
                    bar.update(rounds)
                stages.append(stage)
        report = self._report(stages)
        if folder is not None:
            report.save(folder)
        return report

    def check(self) -> None:
        """Make sure, before any work, that everything fits together.

        Raises:
            DataError, SettingError, NotFoundError: as :func:`learn_continually`.
        """
        if len(self.tasks) < 2:
            raise DataError(f"{len(self.tasks)} task(s) make no sequence; give two distilled datasets or more.")
        for name, choices in (("strategy", get_args(Strategy)), ("normaliser", get_args(NormaliserChoice))):
            if (choice := getattr(self, name)) not in choices:
                raise SettingError(f"There is no {name} '{choice}'; {did_you_mean(str(choice), choices)}")
        check_positive("continual", students=self.students, episodes=self.episodes)
        if self.seed < 0:
            raise SettingError(f"The seed is {self.seed}; it must be a whole number from 0 up.")
        check_joinable([*self.tasks, *(self.memory or ())])
        self._check_memory()
        for i, task in enumerate(self.tasks):
            if task.env_id is None:
                raise SettingError(
                    f"Task {i + 1}, {task!r}, names no environment to be evaluated in; "
                    "dataclasses.replace(task, env_id='Hopper-v5'), say, gives it one."
                )
            environment = make_environment(task.env_id)
            check_fit(self._start, environment)
            environment.close()

    def _check_memory(self) -> None:
        if self.memory is None:
            return
        if self.strategy != "rehearsal":
            raise SettingError(
                f"Strategy '{self.strategy}' rehearses nothing; leave the memory out, or use 'rehearsal'."
            )
        theirs, ours = ([each.env_id for each in sets] for sets in (self.memory, self.tasks))
        if theirs != ours:
            raise SettingError(f"The memory is of {theirs} and the tasks of {ours}; give one dataset for each task.")

    @cached_property
    def key(self) -> str:
        """Name of the run after everything that decides its result, so that only the same run resumes from it."""
        identity: list[Any] = [self.strategy, self.normaliser, asdict(self.protocol)]
        identity += [self.students, self.episodes, self.seed]
        identity += [[_identity(each) for each in sets] for sets in (self.tasks, self.memory or ())]
        identity += [{name: version(name) for name in _PACKAGES}, __version__]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]

    @cached_property
    def _start(self) -> Policy:
        """The students before the first stage; a normaliser of all tasks is their fixed first layer."""
        sets = [self._as_seen(each) for each in self.tasks]
        return new_policy(sets, students=self.students, protocol=self.protocol, seed=self.seed)

    def _sets(self, stage: int) -> list[DistilledDataset]:
        """What a stage learns from."""
        if self.strategy in ("none", "single"):
            return [self._as_seen(self.tasks[stage])]
        old = self.tasks if self.memory is None else self.memory
        return [self._as_seen(each) for each in (*old[:stage], self.tasks[stage])]

    def _as_seen(self, pairs: DistilledDataset) -> DistilledDataset:
        """Return pairs to be normalised together; with own normalisers they are normalised already."""
        if self.normaliser == "joint":
            return pairs
        size = pairs.observations.shape[1]
        identity = Normaliser(np.zeros(size), np.ones(size))
        return replace(pairs, observations=pairs.normaliser.normalise(pairs.observations), normaliser=identity)

    def _policy_for(self, task: DistilledDataset, policy: Policy) -> Policy:
        """Return a policy as it acts in a task, on raw observations."""
        normaliser = policy.normaliser if self.normaliser == "joint" else task.normaliser
        return replace(policy, normaliser=normaliser, env_id=task.env_id, reference=task.reference)

    def _train(self, stage: int, policy: Policy | None) -> Policy:
        sets = self._sets(stage)
        if self.strategy in ("joint", "single"):
            return clone(sets, students=self.students, protocol=self.protocol, seed=self.seed)
        # The first stage draws its minibatches as `clone` does, and each later one its own.
        seed = Stream.STAGES.seed(self.seed, stage) if stage else self.seed
        return clone(sets, protocol=self.protocol, seed=seed, start=policy or self._start)

    def _run_stage(
        self, stage: int, policy: Policy | None, workers: int | None, evaluated: Callable[[], object]
    ) -> _Stage:
        begun = time.monotonic()
        policy, found, versions = self._train(stage, policy), {}, {}
        judged = [self._policy_for(task, policy) for task in self.tasks]
        for each in judged:
            if _judged_by(each) not in found:  # tasks of one environment may be the same to be evaluated on
                report = evaluate(each, episodes=self.episodes, seed=self.seed, workers=workers)
                found[_judged_by(each)] = report.returns
                versions |= report.versions
                evaluated()
        returns = np.stack([found[_judged_by(each)] for each in judged])
        return _Stage(policy, returns, versions, time.monotonic() - begun)

    def _write_stage(self, folder: Path, stage: int, done: _Stage) -> None:
        """Write the policy and, last, the returns: a stage with returns is whole."""
        done.policy.save(folder / f"stage-{stage + 1}.safetensors")
        values = {"key": self.key, "returns": done.returns.tolist(), "versions": done.versions, "seconds": done.seconds}
        write_text(folder / f"stage-{stage + 1}.json", json.dumps(values) + "\n")

    def _read_stage(self, folder: Path, stage: int) -> _Stage | None:
        path = folder / f"stage-{stage + 1}.json"
        if not path.is_file():
            return None
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            key, returns = values["key"], np.array(values["returns"], dtype=np.float64)
            found = {"versions": dict(values["versions"]), "seconds": float(values["seconds"])}
        except (ValueError, KeyError, TypeError) as error:
            raise FormatError(f"'{path}' is damaged ({error}); delete it, and the stage is run again.") from error
        if key != self.key:
            raise SettingError(f"'{folder}' holds stages of another run; give another folder, or delete them.")
        if returns.shape != (len(self.tasks), self.students, self.episodes):
            raise FormatError(f"'{path}' has returns of shape {returns.shape}; delete it, and the stage is run again.")
        try:
            policy = load_policy(folder / f"stage-{stage + 1}.safetensors")
        except NotFoundError:
            return None
        return _Stage(policy, returns, **found)

    def _report(self, stages: Sequence[_Stage]) -> ContinualReport:
        last = [stage.policy if self.strategy == "single" else stages[-1].policy for stage in stages]
        policies = tuple(self._policy_for(*each) for each in zip(self.tasks, last, strict=True))
        references = [known_reference(each.env_id or "", each) for each in policies]
        return ContinualReport(
            tasks=tuple(
                ContinualTask(task.provenance.source, task.env_id or "", len(task), reference)
                for task, reference in zip(self.tasks, references, strict=True)
            ),
            strategy=self.strategy,
            normaliser=self.normaliser,
            returns=np.stack([stage.returns for stage in stages]),
            seed=self.seed,
            stage_pairs=tuple(sum(map(len, self._sets(i))) for i in range(len(stages))),
            protocol=self.protocol,
            label=self.label,
            seconds=sum(stage.seconds for stage in stages),
            versions={key: value for stage in stages for key, value in stage.versions.items()},
            policies=policies,
        )


def _judged_by(policy: Policy) -> tuple[str | None, bytes, bytes]:
    """What tells evaluations of the same students apart."""
    return policy.env_id, policy.normaliser.mean.tobytes(), policy.normaliser.scale.tobytes()


def _identity(pairs: DistilledDataset) -> list[Any]:
    bounds = [pairs.normaliser.mean, pairs.normaliser.scale, pairs.action_low, pairs.action_high]
    reference = None if pairs.reference is None else asdict(pairs.reference)
    return [pairs.content_sha256, pairs.env_id, reference, [each.tolist() for each in bounds]]
