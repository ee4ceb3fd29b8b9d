"""Subjects that can be evaluated in an environment: students (alone or as ensembles) and teachers."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np

from minari_obd.cloning.policy import Policy
from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.environments.episodes import BatchPolicy
from minari_obd.environments.making import check_sizes, is_flat
from minari_obd.errors import DataError, SettingError
from minari_obd.scores.references import ReferenceScores, reference_of
from minari_obd.settings.protocols import StudentProtocol
from minari_obd.sources.behaviours import call
from minari_obd.sources.data import OfflineData
from minari_obd.teachers.frozen import FrozenTeacher
from minari_obd.teachers.protocol import Teacher, acted

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
        actions = [_numbers(call(self.function, state)) for state in states]
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
    if isinstance(subject, type):
        raise SettingError(f"The class {subject.__name__} cannot be evaluated; give an object of it.")
    if hasattr(subject, "act"):
        return subject
    if callable(getattr(subject, "predict", None)):
        return Function(_predicting(subject), is_discrete)
    if callable(subject):
        return Function(subject, is_discrete)
    hint = "; clone it first, with minari_obd.clone" if isinstance(subject, OfflineData) else ""
    raise SettingError(
        f"What was given, a {type(subject).__name__}, cannot be evaluated; give a distilled dataset, a policy, a "
        f"teacher, or a function of one observation{hint}."
    )


def _predicting(model: Any) -> Callable[[np.ndarray], Any]:
    """What a model of Stable-Baselines3 does in one flat observation: it takes the dicts that it was trained on."""
    space = getattr(model, "observation_space", None)
    is_whole = not isinstance(space, gym.Space) or is_flat(space) or not space.is_np_flattenable

    def act(observation: np.ndarray) -> Any:
        if isinstance(space, gym.Space) and not is_whole:
            if gym.spaces.flatdim(space) != observation.size:
                raise SettingError(
                    f"The model takes {gym.spaces.flatdim(space)} observations, but the environment has "
                    f"{observation.size}; name the environment that it was trained in."
                )
            return model.predict(gym.spaces.unflatten(space, observation), deterministic=True)[0]
        return model.predict(observation, deterministic=True)[0]

    return act


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
        """Make sure that actions have the environment's size, and are of its kind.

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
        if not isinstance(self.teacher, FrozenTeacher):
            self._check_action(environment)

    def _check_action(self, environment: gym.Env) -> None:
        """Ask for one action, in a state that the environment starts in."""
        observation, _ = environment.reset(seed=0)
        flat = np.asarray(gym.spaces.flatten(environment.observation_space, observation))
        space, found = environment.action_space, acted(self.teacher, flat[None])
        whose = "The function" if isinstance(self.teacher, Function) else "The teacher"
        if found.shape[:1] != (1,):
            raise SettingError(
                f"{whose} returned an array of shape {found.shape} for a batch of one observation, {flat[None].shape}; "
                "its act must return one action for each."
            )
        action = found[0]
        if isinstance(space, gym.spaces.Discrete):
            if action.shape == (space.n,) and whose == "The teacher":  # probabilities
                return
            if action.size != 1 or not (float(action.item()).is_integer() and space.contains(int(action.item()))):
                raise SettingError(f"{whose} returned the action {action}; the environment has {space}.")
        elif action.shape != space.shape:
            raise SettingError(
                f"{whose} returned an action of shape {action.shape}; the environment has {space.shape}."
            )

    def reference(self, env_id: str) -> ReferenceScores | None:
        """Return the reference scores of an environment, if there are any."""
        return known_reference(env_id)

    def batch_policy(self, students: slice, episodes: slice) -> BatchPolicy:
        """Return a policy that gives the teacher's actions for the running rows."""
        return lambda observations, _: acted(self.teacher, observations)


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
