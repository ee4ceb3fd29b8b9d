"""Subjects that can be evaluated in an environment: students (alone or as ensembles) and teachers."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np

from minari_obd.cloning.policy import Policy
from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.environments.episodes import BatchPolicy
from minari_obd.environments.making import check_sizes
from minari_obd.errors import DataError, SettingError
from minari_obd.scores.references import ReferenceScores, reference_of
from minari_obd.settings.protocols import StudentProtocol
from minari_obd.teachers.frozen import FrozenTeacher
from minari_obd.teachers.protocol import Teacher

__all__ = ["Function", "LoneTeacher", "Students", "as_actor", "check_fit", "check_subject", "known_reference"]


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
class Function:
    """A user's function of one observation (S,), called row by row."""

    function: Callable[[np.ndarray], Any]
    is_discrete: bool = False
    """Whether it returns the number of an action, and not a vector."""

    def act(self, states: np.ndarray) -> np.ndarray:
        """Actions (B, A) for raw observations (B, S).

        Raises:
            DataError: what the function returns is no action.
        """
        actions = [_numbers(self.function(state)) for state in states]
        if actions[0].ndim != 1 - self.is_discrete or any(action.shape != actions[0].shape for action in actions):
            raise DataError(
                f"The function returned an array of shape {actions[0].shape} for one observation of shape "
                f"{states[0].shape}; it must return one action, a {'whole number' if self.is_discrete else 'vector'}."
            )
        if not np.isfinite(actions).all():
            raise DataError("The function returned an action that is not finite; check it, and what it was given.")
        return np.stack(actions)


def _numbers(action: Any) -> np.ndarray:
    try:
        return np.asarray(action, dtype=np.float32)
    except (ValueError, TypeError, RuntimeError) as error:  # text, ragged lists, tensors with gradients or on a GPU
        raise DataError(f"The function returned {str(action)[:60]!r}; it must return one action. ({error})") from error


def as_actor(subject: Any, *, is_discrete: bool = False) -> Teacher | Function:
    """Return what a user brought as something that acts in a batch of observations.

    Args:
        subject: the user's.
        is_discrete: whether the environment takes numbers of actions.

    Raises:
        SettingError: it does not act.
    """
    if hasattr(subject, "act"):
        return subject
    if callable(getattr(subject, "predict", None)):
        return Function(lambda observation: subject.predict(observation, deterministic=True)[0], is_discrete)
    if callable(subject):
        return Function(subject, is_discrete)
    raise SettingError(
        f"A {type(subject).__name__} cannot be evaluated; give a distilled dataset, a policy, a teacher, or a function "
        "of one observation."
    )


@dataclass(frozen=True)
class LoneTeacher:
    """A teacher or a user's function, which counts as one student."""

    teacher: Teacher | Function

    count = 1
    ensemble = 1
    protocol = None

    @property
    def can_be_forked(self) -> bool:
        """Whether forked processes can act for it. A user's teacher may hold what they cannot use, such as a GPU."""
        return isinstance(self.teacher, FrozenTeacher)

    def check(self, environment: gym.Env) -> None:
        """Make sure that a function's actions have the environment's size, and a teacher's are of its kind.

        Raises:
            SettingError: they have not.
        """
        is_discrete = isinstance(environment.action_space, gym.spaces.Discrete)
        if isinstance(self.teacher, FrozenTeacher):
            sizes = self.teacher.normaliser.mean.size, np.asarray(self.teacher.action_low).size
            check_sizes(environment, sizes, "The teacher")
        if isinstance(self.teacher, FrozenTeacher) and self.teacher.is_discrete != is_discrete:
            raise SettingError(
                f"The teacher's actions are {'discrete' if self.teacher.is_discrete else 'continuous'}, and the "
                f"environment's are {environment.action_space}; name the environment that it was trained for."
            )
        if isinstance(self.teacher, Function):
            observation, _ = environment.reset(seed=0)
            flat = np.asarray(gym.spaces.flatten(environment.observation_space, observation))
            action, space = self.teacher.act(flat[None])[0], environment.action_space
            found = action.shape
            if isinstance(space, gym.spaces.Discrete) and not (action.is_integer() and space.contains(int(action))):
                raise SettingError(f"The function returned the action {action}; the environment has {space}.")
            if found != space.shape:
                raise SettingError(
                    f"The function returned an action of shape {found}; the environment has "
                    f"{environment.action_space.shape}."
                )

    def reference(self, env_id: str) -> ReferenceScores | None:
        """Return the reference scores of an environment, if there are any."""
        return known_reference(env_id)

    def batch_policy(self, students: slice, episodes: slice) -> BatchPolicy:
        """Return a policy that gives the teacher's actions for the running rows."""
        return lambda observations, _: np.asarray(self.teacher.act(observations))


def known_reference(env_id: str, policy: Policy | DistilledDataset | None = None) -> ReferenceScores | None:
    """Return the reference scores of an environment, if there are any.

    In a policy's own environment, or that of pairs, their own reference scores take precedence.
    """
    own = policy.reference if policy is not None and policy.env_id == env_id else None
    return reference_of(env_id) if own is None else own


def check_subject(subject: Any, environment: gym.Env) -> None:
    """Make sure, before any student is cloned, that what :func:`minari_obd.evaluate` takes fits an environment.

    Raises:
        SettingError: it does not.
    """
    if isinstance(subject, DistilledDataset | Policy):
        check_fit(subject, environment)
    else:
        is_discrete = isinstance(environment.action_space, gym.spaces.Discrete)
        LoneTeacher(as_actor(subject, is_discrete=is_discrete)).check(environment)


def check_fit(policy: Policy | DistilledDataset, environment: gym.Env) -> None:
    """Make sure that a policy, or those of pairs, and an environment have observations and actions of the same size.

    Raises:
        SettingError: the sizes differ.
    """
    sizes = policy.normaliser.mean.size, np.asarray(policy.action_low).size
    check_sizes(environment, sizes, "The policy" if isinstance(policy, Policy) else "The set of pairs")
    space = environment.action_space
    start = int(space.start) if isinstance(space, gym.spaces.Discrete) else None
    if start != policy.first_action:
        kinds = ["continuous" if each is None else f"discrete, from {each}" for each in (policy.first_action, start)]
        raise SettingError(
            f"The policy's actions are {kinds[0]}, and the environment's are {kinds[1]}; name the environment that the "
            "pairs were made for."
        )
