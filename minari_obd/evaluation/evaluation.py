"""Evaluation: students x episodes rollouts in lockstep."""

import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import gymnasium as gym
import numpy as np

from minari_obd.cloning.cloning import clone
from minari_obd.cloning.policy import Policy
from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.environments.episodes import BatchPolicy
from minari_obd.environments.making import make_environment
from minari_obd.environments.rollouts import Batch, roll_out
from minari_obd.errors import DataError, SettingError
from minari_obd.scores.references import REFERENCE_SCORES, ReferenceScores, reference_scores
from minari_obd.scores.report import EvaluationReport
from minari_obd.settings.protocols import EvaluationProtocol, StudentProtocol, evaluation_protocol_by_name
from minari_obd.support.progress import progress_bar
from minari_obd.support.streams import Stream
from minari_obd.teachers.frozen import FrozenTeacher
from minari_obd.teachers.protocol import Teacher

__all__ = ["check_fit", "evaluate", "known_reference"]


def evaluate(
    subject: DistilledDataset | Policy | Teacher,
    *,
    env: str | None = None,
    students: int | None = None,
    episodes: int | None = None,
    protocol: EvaluationProtocol | StudentProtocol | str | None = None,
    seed: int = 0,
    workers: int | None = None,
    progress: bool = False,
) -> EvaluationReport:
    """Measure returns in the environment.

    Args:
        subject: a distilled dataset, from which students are cloned first; a policy, whose students are judged one
            by one; or a teacher, which counts as one student.
        env: a plain registered Gymnasium id; the subject's own if not given.
        students: how many to judge; the protocol's number if not given. Of a distilled dataset they are cloned first; a
            policy's are those that it has.
        episodes: of each; the protocol's number if not given. All face the same starts.
        protocol: a name (`paper`, `fast`, `ensemble`, `layers_2`, `residual`, `adam`, ...), a whole protocol, or only
            how to clone. If not given, ten students x ten episodes, cloned as the dataset says.
        seed: of students and starts.
        workers: processes, one for each core if not given. The returns are the same to
            the bit for every number.
        progress: show a bar.

    Raises:
        SettingError: no environment is known, or it does not fit the subject.
        NotFoundError: the environment is not registered.
    """
    given = evaluation_protocol_by_name(protocol)
    students = given.students if students is None else students
    episodes = given.episodes if episodes is None else episodes
    if min(episodes, students, 1 if workers is None else workers) < 1 or seed < 0:
        raise SettingError(
            f"{students} students x {episodes} episodes, seed {seed}: at least one of each is needed, "
            "and a seed from 0 up."
        )
    env_id = env or getattr(subject, "env_id", None)
    if env_id is None:
        raise SettingError("It is not known what environment this belongs to; name one with env='Hopper-v5', say.")
    environment = make_environment(env_id)
    if isinstance(subject, DistilledDataset):
        subject = clone(subject, students=students * given.ensemble, protocol=given.student, seed=seed)
    ensemble = given.ensemble if isinstance(subject, Policy) else 1
    count = subject.students // ensemble if isinstance(subject, Policy) else 1
    if isinstance(subject, Policy):
        check_fit(subject, environment)
        if count * ensemble != subject.students:
            raise SettingError(f"{subject.students} students cannot be divided into ensembles of {ensemble}.")
    reference = known_reference(env_id, subject)
    starts = Stream.EPISODES.seeds(episodes, seed)
    started = time.perf_counter()
    parts = _parts(count, episodes)
    batches = [Batch(_seeds(starts, part), _batch_policy(subject, part, ensemble)) for part in parts]
    if workers is None and not isinstance(subject, Policy | FrozenTeacher):
        workers = 1  # a user's own teacher may hold what no other process can use, a GPU above all
    with progress_bar(count * episodes, "evaluating", unit="episode", show=progress) as bar:
        found = roll_out(env_id, batches, workers=workers, progress=bar.update)
    returns, lengths = np.zeros((count, episodes)), np.zeros((count, episodes), dtype=np.int64)
    for part, each in zip(parts, found, strict=True):
        returns[part], lengths[part] = (values.reshape(returns[part].shape) for values in each)
    seconds = time.perf_counter() - started
    if not np.isfinite(returns).all():
        raise DataError(f"'{env_id}' returned rewards that are not finite; nothing can be averaged.")
    environment.close()
    return EvaluationReport(
        returns=returns,
        env_id=env_id,
        seed=seed,
        reference=reference,
        seconds=seconds,
        versions={
            name: version(name) for name in ("minari-obd", "gymnasium", "torch", "numpy", *_simulator(environment))
        },
        environment_steps=int(lengths.sum()),
        protocol=subject.protocol if isinstance(subject, Policy) else None,
        ensemble=ensemble,
    )


def known_reference(env_id: str, subject: Policy | Teacher) -> ReferenceScores | None:
    """Return the scores that returns in an environment are measured between, if there are any.

    A policy's own are those of its own environment.
    """
    own = subject.reference if isinstance(subject, Policy) and subject.env_id == env_id else None
    if own is None and env_id.rsplit("-v", 1)[0] in REFERENCE_SCORES:
        return reference_scores(env_id)
    return own


def check_fit(policy: Policy, environment: gym.Env) -> None:
    """Make sure that a policy and an environment have observations and actions of the same size.

    Raises:
        SettingError: they have not.
    """
    spaces = environment.observation_space, environment.action_space
    given = [gym.spaces.flatdim(space) for space in spaces]
    wanted = [policy.normaliser.mean.size, np.asarray(policy.action_low).size]
    if given != wanted:
        raise SettingError(
            f"The policy takes {wanted[0]} observations and gives {wanted[1]} actions, but the environment has "
            f"{given[0]} and {given[1]}; name the environment that the pairs are about."
        )


def _simulator(environment: Any) -> Sequence[str]:
    return ("mujoco",) if "mujoco" in type(environment.unwrapped).__module__ else ()


_ROWS = 10


_Part = tuple[slice, slice]


def _parts(students: int, episodes: int) -> list[_Part]:
    """Cut the (students, episodes) matrix into batches of about ten rows: whole students, or some episodes of one.

    The cut depends on nothing else, so that every policy call has the same shape, and gives the same bits, whoever
    steps the environments.
    """
    at_once = max(1, _ROWS // episodes)
    return [
        (slice(i, min(i + at_once, students)), slice(j, min(j + _ROWS, episodes)))
        for i in range(0, students, at_once)
        for j in range(0, episodes, _ROWS)
    ]


def _seeds(starts: np.ndarray, part: _Part) -> list[int]:
    """All students face the same starts."""
    return [int(start) for start in starts[part[1]]] * (part[0].stop - part[0].start)


def _batch_policy(subject: Policy | Teacher, part: _Part, ensemble: int) -> BatchPolicy:
    """One policy call a step for all rows of a part, student (or ensemble) after student."""
    students, episodes = (each.stop - each.start for each in part)
    if isinstance(subject, Policy):
        rows = slice(part[0].start * ensemble, part[0].stop * ensemble)
        subject = replace(subject, parameters=[p[rows] for p in subject.parameters])

    def act(observations: np.ndarray, running: np.ndarray) -> np.ndarray:
        if not isinstance(subject, Policy):
            return np.asarray(subject.act(observations))
        # Students that have finished keep zero rows, so that the batch keeps its shape and each row its bits.
        if len(running) < students * episodes:
            batch = np.zeros((students * episodes, observations.shape[1]), dtype=np.float32)
            batch[running] = observations
        else:
            batch = observations.astype(np.float32)
        states = batch.reshape(students, 1, episodes, -1).repeat(ensemble, axis=1)
        actions = subject.act_each(states.reshape(students * ensemble, episodes, -1))
        return actions.reshape(students, ensemble, episodes, -1).mean(axis=1).reshape(len(batch), -1)[running]

    return act
