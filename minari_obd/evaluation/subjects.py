"""Subjects that can be evaluated in an environment: students (alone or as ensembles) and teachers."""

from dataclasses import dataclass, replace

import gymnasium as gym
import numpy as np

from minari_obd.cloning.policy import Policy
from minari_obd.environments.episodes import BatchPolicy
from minari_obd.errors import SettingError
from minari_obd.scores.references import REFERENCE_SCORES, ReferenceScores, reference_scores
from minari_obd.settings.protocols import StudentProtocol
from minari_obd.teachers.frozen import FrozenTeacher
from minari_obd.teachers.protocol import Teacher

__all__ = ["LoneTeacher", "Students", "check_fit", "known_reference"]


@dataclass(frozen=True)
class Students:
    """Cloned students, evaluated one by one or in ensembles that act by their mean action."""

    policy: Policy
    ensemble: int
    """Students that act together as one."""

    can_be_forked = True
    """Whether forked processes can act for the subject."""

    @property
    def count(self) -> int:
        """Number of students, or of ensembles, to evaluate."""
        return self.policy.students // self.ensemble

    @property
    def protocol(self) -> StudentProtocol | None:
        """How the students were trained."""
        return self.policy.protocol

    def check(self, environment: gym.Env) -> None:
        """Make sure that the students fit the environment and can be divided into ensembles.

        Raises:
            SettingError: they do not fit, or cannot be divided.
        """
        check_fit(self.policy, environment)
        if self.count * self.ensemble != self.policy.students:
            raise SettingError(
                f"{self.policy.students} students cannot be divided into ensembles of {self.ensemble}; use a multiple "
                "of it."
            )

    def reference(self, env_id: str) -> ReferenceScores | None:
        """Return the reference scores of an environment, if there are any."""
        return known_reference(env_id, self.policy)

    def batch_policy(self, students: slice, episodes: slice) -> BatchPolicy:
        """Return a policy that acts for all rows of a part in one call, student (or ensemble) after student."""
        count, starts = (each.stop - each.start for each in (students, episodes))
        rows = slice(students.start * self.ensemble, students.stop * self.ensemble)
        policy = replace(self.policy, parameters=[p[rows] for p in self.policy.parameters])

        def act(observations: np.ndarray, running: np.ndarray) -> np.ndarray:
            # Finished episodes keep zero rows, so the batch keeps its shape and each row its bits.
            if len(running) < count * starts:
                batch = np.zeros((count * starts, observations.shape[1]), dtype=np.float32)
                batch[running] = observations
            else:
                batch = observations.astype(np.float32)
            states = batch.reshape(count, 1, starts, -1).repeat(self.ensemble, axis=1)
            actions = policy.act_each(states.reshape(count * self.ensemble, starts, -1))
            return actions.reshape(count, self.ensemble, starts, -1).mean(axis=1).reshape(len(batch), -1)[running]

        return act


@dataclass(frozen=True)
class LoneTeacher:
    """A teacher, which counts as one student."""

    teacher: Teacher

    count = 1
    ensemble = 1
    protocol = None

    @property
    def can_be_forked(self) -> bool:
        """Whether forked processes can act for it. A user's teacher may hold what they cannot use, such as a GPU."""
        return isinstance(self.teacher, FrozenTeacher)

    def check(self, environment: gym.Env) -> None:
        """Accept any environment. The teacher itself refuses observations of another size."""

    def reference(self, env_id: str) -> ReferenceScores | None:
        """Return the reference scores of an environment, if there are any."""
        return known_reference(env_id)

    def batch_policy(self, students: slice, episodes: slice) -> BatchPolicy:
        """Return a policy that gives the teacher's actions for the running rows."""
        return lambda observations, _: np.asarray(self.teacher.act(observations))


def known_reference(env_id: str, policy: Policy | None = None) -> ReferenceScores | None:
    """Return the reference scores of an environment, if there are any.

    In a policy's own environment, the policy's own reference scores take precedence.
    """
    own = policy.reference if policy is not None and policy.env_id == env_id else None
    if own is None and env_id.rsplit("-v", 1)[0] in REFERENCE_SCORES:
        return reference_scores(env_id)
    return own


def check_fit(policy: Policy, environment: gym.Env) -> None:
    """Make sure that a policy and an environment have observations and actions of the same size.

    Raises:
        SettingError: the sizes differ.
    """
    spaces = environment.observation_space, environment.action_space
    given = [gym.spaces.flatdim(space) for space in spaces]
    wanted = [policy.normaliser.mean.size, np.asarray(policy.action_low).size]
    if given != wanted:
        raise SettingError(
            f"The policy takes {wanted[0]} observations and gives {wanted[1]} actions, but the environment has "
            f"{given[0]} and {given[1]}; name the environment that the pairs were made for."
        )
