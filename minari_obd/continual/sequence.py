"""Sequence: the tasks of continual learning and how they are learned, checked, named, and shown to a policy."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.metadata import version
from typing import Any, Literal, get_args

import numpy as np

from minari_obd.cloning.cloning import check_joinable, new_policy
from minari_obd.cloning.policy import Policy
from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.environments.making import make_environment
from minari_obd.errors import DataError, SettingError, did_you_mean
from minari_obd.evaluation.subjects import check_fit
from minari_obd.settings.checks import whole_number
from minari_obd.settings.protocols import StudentProtocol
from minari_obd.sources.scaling import Normaliser
from minari_obd.version import __version__

__all__ = ["NormaliserChoice", "Strategy", "TaskSequence"]

Strategy = Literal["rehearsal", "none", "joint", "single"]
NormaliserChoice = Literal["joint", "own"]

_PACKAGES = ("gymnasium", "torch", "numpy")


@dataclass(frozen=True)
class TaskSequence:
    """What decides one run of :func:`minari_obd.learn_continually`; its docstring says what each argument is."""

    tasks: tuple[DistilledDataset, ...]
    strategy: Strategy
    memory: tuple[DistilledDataset, ...] | None
    protocol: StudentProtocol
    normaliser: NormaliserChoice = "joint"
    students: int = 10
    episodes: int = 10
    seed: int = 0
    label: str = "continual"

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
        for name, least in (("students", 1), ("episodes", 1), ("seed", 0)):
            object.__setattr__(self, name, whole_number(name, getattr(self, name), least))
        check_joinable([*self.tasks, *(self.memory or ())])
        self._check_memory()
        for i, task in enumerate(self.tasks):
            if task.env_id is None:
                raise SettingError(
                    f"Task {i + 1}, {task!r}, names no environment to be evaluated in; "
                    "dataclasses.replace(task, env_id='Hopper-v5'), say, gives it one."
                )
            environment = make_environment(task.env_id)
            check_fit(self.start, environment)
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
    def start(self) -> Policy:
        """The students before the first stage; a normaliser of all tasks is their fixed first layer."""
        sets = [self._as_seen(each) for each in self.tasks]
        return new_policy(sets, students=self.students, protocol=self.protocol, seed=self.seed)

    def sets(self, stage: int) -> list[DistilledDataset]:
        """What a stage learns from."""
        if self.strategy in ("none", "single"):
            return [self._as_seen(self.tasks[stage])]
        old = self.tasks if self.memory is None else self.memory
        return [self._as_seen(each) for each in (*old[:stage], self.tasks[stage])]

    def policy_for(self, task: DistilledDataset, policy: Policy) -> Policy:
        """Return a policy as it acts in a task, on raw observations."""
        normaliser = policy.normaliser if self.normaliser == "joint" else task.normaliser
        task_of = {name: getattr(task, name) for name in ("env_id", "reference", "observation_fields")}
        return replace(policy, normaliser=normaliser, **task_of)

    def _as_seen(self, pairs: DistilledDataset) -> DistilledDataset:
        """Return pairs to be normalised together; with own normalisers they are normalised already."""
        if self.normaliser == "joint":
            return pairs
        size = pairs.observations.shape[1]
        identity = Normaliser(np.zeros(size), np.ones(size))
        return replace(pairs, observations=pairs.normaliser.normalise(pairs.observations), normaliser=identity)


def _identity(pairs: DistilledDataset) -> list[Any]:
    bounds = [pairs.normaliser.mean, pairs.normaliser.scale, pairs.action_low, pairs.action_high]
    reference = None if pairs.reference is None else asdict(pairs.reference)
    return [pairs.content_sha256, pairs.env_id, reference, [each.tolist() for each in bounds]]
