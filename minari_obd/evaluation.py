"""Evaluation: students x episodes rollouts in lockstep, and the report that keeps every return."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from typing import Any

import gymnasium as gym
import numpy as np

from minari_obd.cloning import Policy, clone
from minari_obd.distilled import DistilledDataset
from minari_obd.environments import BatchPolicy, make_environment
from minari_obd.errors import DataError, SettingError
from minari_obd.progress import progress_bar
from minari_obd.protocol import StudentProtocol
from minari_obd.rollouts import Batch, roll_out
from minari_obd.statistics import (
    REFERENCE_SCORES,
    Estimate,
    ReferenceScores,
    estimate_interquartile_mean,
    estimate_mean,
    probability_of_improvement,
    reference_scores,
)
from minari_obd.teachers import FrozenTeacher, Teacher

__all__ = ["EvaluationReport", "check_fit", "evaluate"]


@dataclass(frozen=True)
class EvaluationReport:
    """What came out of one evaluation; every aggregate is derived from the whole matrix of returns."""

    returns: np.ndarray
    """Undiscounted returns, shape (students, episodes)."""
    env_id: str
    seed: int
    reference: ReferenceScores | None = None
    """Reference scores that :attr:`scores` are measured between, if there are any."""
    seconds: float = 0.0
    """Wall time of the rollouts."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of the packages that decide a return."""
    environment_steps: int = 0
    """Steps of all episodes together."""
    protocol: StudentProtocol | None = None
    """How the students were trained; None for a teacher."""

    @property
    def scores(self) -> np.ndarray:
        """Normalised scores, shape (students, episodes).

        Raises:
            DataError: the environment has no reference scores.
        """
        if self.reference is None:
            raise DataError(f"'{self.env_id}' has no reference scores; use the returns.")
        return self.reference.normalise(self.returns)

    @cached_property
    def score(self) -> Estimate:
        """Mean normalised score and its 95% interval."""
        return estimate_mean(self.scores)

    @cached_property
    def interquartile_mean(self) -> Estimate:
        """Interquartile mean of the scores (of the returns, without reference scores) and its 95% interval."""
        return estimate_interquartile_mean(self.returns if self.reference is None else self.scores)

    def probability_of_improvement(self, other: "EvaluationReport") -> Estimate:
        """Probability that one of these students returns more than one of another report's, with its 95% interval.

        Raises:
            DataError: the reports are of different environments.
        """
        if self.env_id != other.env_id:
            raise DataError(f"Returns in '{self.env_id}' and '{other.env_id}' cannot be compared.")
        return probability_of_improvement(self.returns, other.returns)

    @cached_property
    def mean_return(self) -> Estimate:
        """Mean return and its 95% interval."""
        return estimate_mean(self.returns)

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values, every return among them."""
        students, episodes = self.returns.shape
        return {
            "env_id": self.env_id,
            "students": students,
            "episodes": episodes,
            "seed": self.seed,
            "score": None if self.reference is None else _estimate_json(self.score),
            "return": _estimate_json(self.mean_return),
            "interquartile_mean": _estimate_json(self.interquartile_mean),
            "returns": self.returns.tolist(),
            "reference_scores": None if self.reference is None else vars(self.reference),
            "seconds": round(self.seconds, 3),
            "versions": self.versions,
            "environment_steps": self.environment_steps,
            "protocol": None if self.protocol is None else asdict(self.protocol),
        }

    def to_markdown(self) -> str:
        """The aggregates as a Markdown table."""
        students, episodes = self.returns.shape
        rows = {
            **({} if self.reference is None else {"score": self.score}),
            f"interquartile mean of {'returns' if self.reference is None else 'scores'}": self.interquartile_mean,
            "return": self.mean_return,
        }
        lines = [f"| {name} | {row.mean:.1f} | {row.low:.1f} - {row.high:.1f} |" for name, row in rows.items()]
        head = f"{self.env_id}, {students} students x {episodes} episodes, seed {self.seed}"
        return "\n".join([f"| {head} | mean | 95% interval |", "|---|---|---|", *lines]) + "\n"

    def __repr__(self) -> str:
        students, episodes = self.returns.shape
        what = f"score {self.score}" if self.reference is not None else f"return {self.mean_return}"
        return f"EvaluationReport({what}, {students} students x {episodes} episodes in {self.env_id}, seed {self.seed})"


def _estimate_json(estimate: Estimate) -> dict[str, float]:
    return {"mean": estimate.mean, "low": estimate.low, "high": estimate.high}


def evaluate(
    subject: DistilledDataset | Policy | Teacher,
    *,
    env: str | None = None,
    students: int = 10,
    episodes: int = 10,
    protocol: StudentProtocol | str | None = None,
    seed: int = 0,
    workers: int | None = None,
    progress: bool = False,
) -> EvaluationReport:
    """Measure returns in the environment.

    Args:
        subject: a distilled dataset, from which students are cloned first; a policy, whose students are judged one
            by one; or a teacher, which counts as one student.
        env: a plain registered Gymnasium id; the subject's own if not given.
        students: how many to clone from a distilled dataset.
        episodes: of each student. All students face the same starts.
        protocol: how to clone; the dataset's own if not given.
        seed: of students and starts.
        workers: processes, one for each core if not given. The returns are the same to
            the bit for every number.
        progress: show a bar.

    Raises:
        SettingError: no environment is known, or it does not fit the subject.
        NotFoundError: the environment is not registered.
    """
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
        subject = clone(subject, students=students, protocol=protocol, seed=seed)
    count = subject.students if isinstance(subject, Policy) else 1
    if isinstance(subject, Policy):
        check_fit(subject, environment)
    # A set's own scores are those of its own environment.
    reference = subject.reference if isinstance(subject, Policy) and subject.env_id == env_id else None
    if reference is None and env_id.rsplit("-v", 1)[0] in REFERENCE_SCORES:
        reference = reference_scores(env_id)
    starts = np.random.SeedSequence([seed, 7]).generate_state(episodes)
    started = time.perf_counter()
    parts = _parts(count, episodes)
    batches = [Batch(_seeds(starts, part), _batch_policy(subject, part)) for part in parts]
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
    )


def check_fit(policy: Policy, environment: gym.Env) -> None:
    """Make sure that a policy's observations and actions are the environment's.

    Raises:
        SettingError: they have other sizes.
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


def _batch_policy(subject: Policy | Teacher, part: _Part) -> BatchPolicy:
    """One policy call a step for all rows of a part, student after student."""
    students, episodes = (each.stop - each.start for each in part)
    if isinstance(subject, Policy):
        subject = replace(subject, parameters=[p[part[0]] for p in subject.parameters])

    def act(observations: np.ndarray, running: np.ndarray) -> np.ndarray:
        if not isinstance(subject, Policy):
            return np.asarray(subject.act(observations))
        # Students that have finished keep zero rows, so that the batch keeps its shape and each row its bits.
        if len(running) < students * episodes:
            batch = np.zeros((students * episodes, observations.shape[1]), dtype=np.float32)
            batch[running] = observations
        else:
            batch = observations.astype(np.float32)
        actions = subject.act_each(batch.reshape(students, episodes, -1))
        return actions.reshape(len(batch), -1)[running]

    return act
