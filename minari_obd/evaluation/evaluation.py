"""Evaluation: rolls out students x episodes in lockstep."""

import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from minari_obd.cloning.cloning import clone
from minari_obd.cloning.policy import Policy
from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.environments.making import make_environment
from minari_obd.environments.rollouts import Batch, roll_out
from minari_obd.environments.video import check_video, record_episode
from minari_obd.errors import DataError, SettingError
from minari_obd.evaluation.subjects import LoneTeacher, Students, as_actor, check_fit
from minari_obd.scores.report import EvaluationReport
from minari_obd.settings.checks import whole_number
from minari_obd.settings.protocols import EvaluationProtocol, StudentProtocol, evaluation_protocol_by_name
from minari_obd.support.progress import progress_bar
from minari_obd.support.streams import Stream
from minari_obd.teachers.protocol import Teacher

__all__ = ["evaluate"]

_ROWS = 10
_Part = tuple[slice, slice]


def evaluate(
    subject: DistilledDataset | Policy | Teacher | Callable[[np.ndarray], Any] | Any,
    *,
    env: str | None = None,
    students: int | None = None,
    episodes: int | None = None,
    protocol: EvaluationProtocol | StudentProtocol | str | None = None,
    seed: int = 0,
    workers: int | None = None,
    video: str | Path | None = None,
    progress: bool = False,
) -> EvaluationReport:
    """Measure returns in the environment.

    Args:
        subject: a distilled dataset, from which students are cloned first; a policy, whose students are evaluated one
            by one; a teacher; a function of one raw observation (S,) that returns its action (A,), or a discrete one's
            number; or anything with such a ``predict``, as Stable-Baselines3's models have. All but the first two count
            as one student.
        env: a plain registered Gymnasium id; the subject's own if not given.
        students: number of students to clone from a distilled dataset; the protocol's number if not given. A policy is
            evaluated with all the students that it has. Infinitely wide students of one set are all the same, so one
            is evaluated, over as many episodes as all would have.
        episodes: episodes per student; the protocol's number if not given. All students face the same starts.
        protocol: a name (`paper`, `fast`, `ensemble`, `layers_2`, `residual`, `adam`, ...), an evaluation protocol, or
            a student protocol. If not given, ten students x ten episodes, cloned by the dataset's own protocol.
        seed: seed of students and starts.
        workers: number of processes; one per core if not given. The returns are bit-identical for every number.
        video: an ``.mp4`` or ``.gif`` file to write, with the first student's first episode.
        progress: show a bar.

    Raises:
        MinariObdError: a video was asked for, and this machine cannot draw the environment.
        SettingError: counts or seed make no sense, the environment is unknown, or it does not fit the subject, which
            may be none of these.
        NotFoundError: the environment is not registered.
        DataError: the environment returned observations or rewards that are not finite, or a function no action.
    """
    given = evaluation_protocol_by_name(protocol)
    students = given.students if students is None else students
    episodes = given.episodes if episodes is None else episodes
    students, episodes = whole_number("students", students, 1), whole_number("episodes", episodes, 1)
    seed, workers = whole_number("seed", seed, 0), None if workers is None else whole_number("workers", workers, 1)
    if isinstance(subject, str | Path):
        raise SettingError(
            f"'{subject}' is a name; load it first, with minari_obd.load_dataset, load_policy or load_teacher."
        )
    env_id = env or getattr(subject, "env_id", None)
    if env_id is None:
        raise SettingError(
            "The environment of this subject is not known; name it, as in env='Hopper-v5' or --env Hopper-v5."
        )
    environment = make_environment(env_id)
    if video is not None:
        check_video(Path(video), env_id)
    if isinstance(subject, DistilledDataset):
        check_fit(subject, environment)  # before the students are cloned
        students, episodes = (given.student or subject.protocol).counted(students, episodes)
        told: dict[str, Any] = {"protocol": given.student, "seed": seed, "progress": progress}
        subject = clone(subject, students=students * given.ensemble, **told)
    if isinstance(subject, Policy):
        judged = Students(subject, given.ensemble)
    else:
        is_discrete = isinstance(environment.action_space, gym.spaces.Discrete)
        judged = LoneTeacher(as_actor(subject, is_discrete=is_discrete))
    judged.check(environment)
    starts = Stream.EPISODES.seeds(episodes, seed)
    started = time.perf_counter()
    parts = _parts(judged.count, episodes)
    batches = [Batch(_seeds(starts, part), judged.batch_policy(*part)) for part in parts]
    if workers is None and not judged.can_be_forked:
        workers = 1
    with progress_bar(judged.count * episodes, "evaluating", unit="episode", show=progress) as bar:
        found = roll_out(env_id, batches, workers=workers, progress=bar.update)
    returns, lengths, successes = (np.zeros((judged.count, episodes)) for _ in range(3))
    for part, each in zip(parts, found, strict=True):
        returns[part], lengths[part], successes[part] = (values.reshape(returns[part].shape) for values in each)
    seconds = time.perf_counter() - started
    if not np.isfinite(returns).all():
        raise DataError(f"'{env_id}' returned rewards that are not finite, so there is no mean; check the environment.")
    environment.close()
    if video is not None:
        first = slice(0, 1)
        record_episode(Path(video), env_id, judged.batch_policy(first, first), int(starts[0]))
    packages = ("minari-obd", "gymnasium", "torch", "numpy", *_simulator(environment))
    return EvaluationReport(
        returns=returns,
        env_id=env_id,
        seed=seed,
        reference=judged.reference(env_id),
        seconds=seconds,
        versions={name: version(name) for name in packages},
        environment_steps=int(lengths.sum()),
        protocol=judged.protocol,
        ensemble=judged.ensemble,
        successes=None if np.isnan(successes).any() else successes > 0,
    )


def _simulator(environment: Any) -> Sequence[str]:
    return ("mujoco",) if "mujoco" in type(environment.unwrapped).__module__ else ()


def _parts(students: int, episodes: int) -> list[_Part]:
    """Cut the (students, episodes) matrix into batches of about ten rows: whole students, or some episodes of one.

    The cut depends on nothing else. Every policy call therefore has the same shape and gives the same bits, no matter
    which process steps the environments.
    """
    at_once = max(1, _ROWS // episodes)
    return [
        (slice(i, min(i + at_once, students)), slice(j, min(j + _ROWS, episodes)))
        for i in range(0, students, at_once)
        for j in range(0, episodes, _ROWS)
    ]


def _seeds(starts: np.ndarray, part: _Part) -> list[int]:
    """Return the reset seeds of a part. All students face the same starts."""
    return [int(start) for start in starts[part[1]]] * (part[0].stop - part[0].start)
