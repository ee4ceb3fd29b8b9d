"""Continual learning: one policy learns tasks in sequence from their pairs, those of old tasks being its rehearsal."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from minari_obd.cloning.cloning import clone
from minari_obd.cloning.policy import Policy
from minari_obd.continual.report import ContinualReport, ContinualTask
from minari_obd.continual.sequence import NormaliserChoice, Strategy, TaskSequence
from minari_obd.continual.stages import Stage, read_stage, write_stage
from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.errors import DataError, SettingError
from minari_obd.evaluation.evaluation import evaluate
from minari_obd.evaluation.subjects import known_reference
from minari_obd.settings.checks import check_instance
from minari_obd.settings.protocols import StudentProtocol, protocol_by_name
from minari_obd.storage.files import check_new, check_writable
from minari_obd.support.progress import progress_bar
from minari_obd.support.streams import Stream

__all__ = ["learn_continually", "learn_sequence"]


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
    for name, given in (("tasks", tasks), ("memory", memory)):
        if isinstance(given, DistilledDataset):
            raise SettingError(f"{name} is one distilled dataset; give a list of them.")
    for each in (*tasks, *(memory or ())):
        check_instance("learn_continually", each, DistilledDataset)
    sequence = TaskSequence(
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
    folder = None if out is None else Path(out)
    if folder is not None:
        check_new(folder / "report.json")
    sequence.check()
    if folder is not None:
        check_writable(folder / "report.json")
    return learn_sequence(sequence, folder, workers=workers, progress=progress)


def learn_sequence(
    sequence: TaskSequence, folder: Path | None = None, *, workers: int | None = None, progress: bool = True
) -> ContinualReport:
    """Run the stages that are not in ``folder`` yet, and save the report there.

    Args:
        sequence: what :meth:`TaskSequence.check` has checked.
        folder: as ``out`` of :func:`learn_continually`.
        workers: processes that evaluate.
        progress: show a bar.

    Raises:
        SettingError: the folder holds another run.
    """
    count, stages = len(sequence.tasks), list[Stage]()
    rounds = len({_judged_by(sequence.policy_for(task, sequence.start)) for task in sequence.tasks})
    shape = count, sequence.students, sequence.episodes
    with progress_bar(count * rounds, sequence.label, unit="evaluation", show=progress) as bar:
        for i in range(count):
            stage = None if folder is None else read_stage(folder, i, sequence.key, shape)
            if stage is not None:
                bar.update(rounds)
            else:
                begun = time.monotonic()
                policy = _train(sequence, i, stages[-1].policy if stages else sequence.start)
                returns, versions = _evaluate(sequence, policy, workers, bar.update)
                stage = Stage(policy, returns, versions, time.monotonic() - begun)
                if folder is not None:
                    write_stage(folder, i, stage, sequence.key)
            stages.append(stage)
    report = _report(sequence, stages)
    if folder is not None:
        report.save(folder)
    return report


def _train(sequence: TaskSequence, stage: int, policy: Policy) -> Policy:
    """Return the policy after a stage that starts from ``policy``; the references start from new students."""
    sets = sequence.sets(stage)
    if sequence.strategy in ("joint", "single"):
        return clone(sets, students=sequence.students, protocol=sequence.protocol, seed=sequence.seed)
    # The first stage draws its minibatches as `clone` does, and each later one its own.
    seed = Stream.STAGES.seed(sequence.seed, stage) if stage else sequence.seed
    return clone(sets, protocol=sequence.protocol, seed=seed, start=policy)


def _evaluate(
    sequence: TaskSequence, policy: Policy, workers: int | None, evaluated: Callable[[], object]
) -> tuple[np.ndarray, dict[str, str]]:
    """Return the returns on each task, shape (K, students, episodes), and the versions that decide them."""
    found, versions = {}, {}
    judged = [sequence.policy_for(task, policy) for task in sequence.tasks]
    for each in judged:
        if _judged_by(each) not in found:  # tasks of one environment may need the same evaluation
            report = evaluate(each, episodes=sequence.episodes, seed=sequence.seed, workers=workers)
            found[_judged_by(each)] = report.returns
            versions |= report.versions
            evaluated()
    return np.stack([found[_judged_by(each)] for each in judged]), versions


def _report(sequence: TaskSequence, stages: Sequence[Stage]) -> ContinualReport:
    last = [stage.policy if sequence.strategy == "single" else stages[-1].policy for stage in stages]
    policies = tuple(sequence.policy_for(*each) for each in zip(sequence.tasks, last, strict=True))
    references = [known_reference(each.env_id or "", each) for each in policies]
    return ContinualReport(
        tasks=tuple(
            ContinualTask(task.provenance.source, task.env_id or "", len(task), reference)
            for task, reference in zip(sequence.tasks, references, strict=True)
        ),
        strategy=sequence.strategy,
        normaliser=sequence.normaliser,
        returns=np.stack([stage.returns for stage in stages]),
        seed=sequence.seed,
        stage_pairs=tuple(sum(map(len, sequence.sets(i))) for i in range(len(stages))),
        protocol=sequence.protocol,
        label=sequence.label,
        seconds=sum(stage.seconds for stage in stages),
        versions={key: value for stage in stages for key, value in stage.versions.items()},
        policies=policies,
    )


def _judged_by(policy: Policy) -> tuple[str | None, bytes, bytes]:
    """Return what tells evaluations of the same students apart."""
    return policy.env_id, policy.normaliser.mean.tobytes(), policy.normaliser.scale.tobytes()
