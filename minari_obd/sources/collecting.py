"""Collection: rolls out behaviour policies in an environment and stores the steps as a Minari dataset."""

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import numpy as np
from minari.data_collector import EpisodeBuffer

from minari_obd.environments.episodes import Step, run_episodes
from minari_obd.environments.making import is_flat, make_environment
from minari_obd.errors import DataError, NotFoundError, SettingError, did_you_mean
from minari_obd.scores.references import reference_of
from minari_obd.settings.checks import whole_number
from minari_obd.sources.behaviours import (
    ActorBehaviour,
    Behaviour,
    CallableBehaviour,
    RandomBehaviour,
    bundled_names,
    load_bundled,
    takes_generators,
)
from minari_obd.sources.checking import CheckedBehaviour, check_behaviour
from minari_obd.sources.fields import fields_of_space
from minari_obd.sources.mazes import CONTROLLERS
from minari_obd.sources.stable_baselines3 import load_stable_baselines3
from minari_obd.storage.minari_datasets import (
    check_dataset_id,
    check_space,
    episode_buffer,
    has_local_dataset,
    write_dataset,
)
from minari_obd.support.devices import cpu_threads
from minari_obd.support.licences import check_known_license
from minari_obd.support.progress import progress_bar

__all__ = ["collect", "collect_chain", "resolve_behaviour"]

_LOCKSTEP = 20  # environments stepped together, so that the policy costs little per step compared with the simulator


@dataclass
class _Episode:
    """Steps of a running episode."""

    steps: list[Step] = field(default_factory=list)

    @property
    def has_ended(self) -> bool:
        return bool(self.steps) and (self.steps[-1].terminated or self.steps[-1].truncated)

    def buffer(self, length: int) -> EpisodeBuffer:
        """Return the first ``length`` steps in Minari's form: T+1 observations, and a truncation where it is cut."""
        kept = self.steps[:length]
        terminations = np.array([step.terminated for step in kept])
        truncations = np.array([step.truncated for step in kept])
        # Gymnasium may set both flags at the horizon. d3rlpy refuses that, so termination wins.
        truncations &= ~terminations
        truncations[-1] |= not terminations[-1]
        return episode_buffer(
            observations=np.stack([kept[0].observation, *(step.next_observation for step in kept)]),
            actions=np.stack([step.action for step in kept]),
            rewards=np.array([step.reward for step in kept], dtype=np.float64),
            terminations=terminations,
            truncations=truncations,
        )


def resolve_behaviour(policy: object, action_space: gym.Space) -> Behaviour:
    """Make a behaviour of a bundled name, ``random``, a controller's name, a zip's path, a callable or an actor.

    Raises:
        NotFoundError: the name is neither bundled nor a file.
        SettingError: ``policy`` is none of these.
    """
    if isinstance(policy, type):
        raise SettingError(f"The policy is the class {policy.__name__}; give an object of it.")
    if policy == "random":
        assert isinstance(action_space, gym.spaces.Box | gym.spaces.Discrete)
        return RandomBehaviour(action_space)
    if isinstance(policy, str) and policy in bundled_names():
        return load_bundled(policy)
    if isinstance(policy, str) and policy in CONTROLLERS:
        return CONTROLLERS[policy]
    if isinstance(policy, str | Path):
        if Path(policy).is_file():
            return load_stable_baselines3(policy, action_space)
        raise NotFoundError(
            f"There is no policy '{policy}', as a file or as a bundled name; "
            + did_you_mean(str(policy), [*bundled_names(), *CONTROLLERS, "random"])
        )
    if hasattr(policy, "act") and not takes_generators(policy):
        assert isinstance(action_space, gym.spaces.Box | gym.spaces.Discrete)
        return ActorBehaviour(policy, action_space)
    if hasattr(policy, "act"):
        return policy  # pyright: ignore[reportReturnType]  # structural: Behaviour is a protocol
    if callable(policy):
        return CallableBehaviour(cast(Any, policy))
    hint = "; save the model, and give the zip's path" if hasattr(policy, "predict") else ""
    raise SettingError(
        f"The policy is a {type(policy).__name__}; give a bundled name, the path of a Stable-Baselines3 zip, a "
        f"function of one observation, or an object with act{hint}."
    )


def collect(
    dataset_id: str,
    env_id: str,
    policy: object,
    *,
    steps: int = 200_000,
    seed: int = 0,
    description: str | None = None,
    license: str | None = None,
    author: str | None = None,
    author_email: str | None = None,
    progress: bool = True,
) -> str:
    """Roll out a policy and store its steps as a Minari dataset.

    Args:
        dataset_id: a new id, ``(namespace/)name-vN``.
        env_id: a plain registered Gymnasium id, with continuous actions or discrete ones.
        policy: a bundled name (``minari-obd list``), ``"random"``, the path of a Stable-Baselines3 zip, a callable
            from one raw observation to one action (the number of a discrete one), a teacher, or a
            :class:`~minari_obd.sources.behaviours.Behaviour`.
        steps: number of environment steps; the last episode is truncated there.
        seed: seed of environments and actions. The same seed on the same machine gives the same bytes.
        description: a sentence for the dataset's metadata.
        license: the Hub's id of the data's licence, such as ``cc-by-4.0``. Distilled sets inherit it.
        author: who answers for the data, for its metadata; left out if not given.
        author_email: how to reach them; left out if not given.
        progress: show a bar.

    Returns:
        ``dataset_id``, for :func:`minari.load_dataset`.

    Raises:
        DataError: the id is malformed or taken, the environment is not supported, or an action is not finite.
        NotFoundError: the environment or the policy is unknown.
        SettingError: the policy does not fit the environment, or steps or seed make no sense.
    """
    given: dict[str, Any] = {"description": description, "license": license, "progress": progress}
    given |= {"author": author, "author_email": author_email}
    return collect_chain(dataset_id, env_id, [policy], steps=steps, seed=seed, **given)


def collect_chain(
    dataset_id: str,
    env_id: str,
    policies: Sequence[object],
    *,
    steps: int,
    seed: int,
    description: str | None = None,
    algorithm: str | None = None,
    license: str | None = None,
    author: str | None = None,
    author_email: str | None = None,
    progress: bool = True,
) -> str:
    """Roll out several policies in turn, each for an equal share of the steps, as :func:`collect` does for one."""
    check_dataset_id(dataset_id)
    check_known_license(license)
    for what, text in (("description", description), ("author", author), ("author_email", author_email)):
        if not isinstance(text, str | None):  # Minari meets it after the last step
            raise SettingError(f"{what} is {text!r}; expected text.")
    if has_local_dataset(dataset_id):
        raise DataError(
            f"The Minari dataset '{dataset_id}' already exists; remove it with `minari delete {dataset_id}` "
            "or collect another version."
        )
    steps, seed = whole_number("steps", steps, len(policies)), whole_number("seed", seed, 0)
    environments = [make_environment(env_id) for _ in range(min(_LOCKSTEP, steps))]
    space = environments[0].action_space
    behaviours = [
        CheckedBehaviour(resolve_behaviour(policy, space), _public_name(policy), space) for policy in policies
    ]
    sizes = gym.spaces.flatdim(environments[0].observation_space), gym.spaces.flatdim(space)
    for each in behaviours:
        check_behaviour(each.name, each.behaviour, env_id, sizes)
    check_space(8 * steps * (sum(sizes) + 2))
    shares = np.diff(np.linspace(0, steps, len(policies) + 1).astype(int))
    buffers: list[EpisodeBuffer] = []
    with cpu_threads(1), progress_bar(steps, f"collecting {dataset_id}", show=progress) as bar:
        for part, (behaviour, share) in enumerate(zip(behaviours, shares, strict=True)):
            buffers += _roll_out(environments, behaviour, int(share), (seed, part), bar)
    for environment in environments:
        environment.close()
    for each in behaviours:
        if each.outside:
            warnings.warn(
                f"The policy '{each.name}' gave {each.outside:,} actions outside the bounds of '{env_id}', which are "
                "stored as they are; clip them in the policy if that is not meant.",
                stacklevel=3,
            )
    observed = environments[0].observation_space
    names = ", ".join(each.name for each in behaviours)
    scores = reference_of(env_id)
    write_dataset(
        dataset_id,
        buffers,
        # Steps are recorded as policies see them, so the stored observation space is the flat one.
        observation_space=observed if is_flat(observed) else gym.spaces.flatten_space(observed),
        action_space=space,
        algorithm=algorithm or names,
        description=description or f"{steps:,} steps of {names} in {env_id}, seed {seed}, collected by minari-obd.",
        env_id=env_id,
        eval_env_id=env_id,
        author=author,
        author_email=author_email,
        requirements=[f"gymnasium=={version('gymnasium')}", *_mujoco_requirement(environments[0])],
        metadata={
            "collection": {"policies": names, "steps": steps, "seed": seed, "minari_obd": version("minari-obd")},
            **({"ref_min_score": scores.random, "ref_max_score": scores.expert} if scores else {}),
            **({"license": license} if license else {}),
            **({} if is_flat(observed) else {"observation_fields": [asdict(f) for f in fields_of_space(observed)]}),
        },
    )
    return dataset_id


def _public_name(policy: object) -> str:
    """What the dataset's metadata says of a policy; of a file that is its name without the folders."""
    return Path(policy).name if isinstance(policy, str | Path) else type(policy).__name__


def _mujoco_requirement(environment: gym.Env) -> list[str]:
    return [f"mujoco=={version('mujoco')}"] if "mujoco" in type(environment.unwrapped).__module__ else []


def _roll_out(environments, behaviour: Behaviour, steps: int, key: tuple[int, int], bar) -> list[EpisodeBuffer]:
    """Run whole episodes, numbered from 0, until they contain ``steps`` steps, and cut the last one there.

    Episode i draws its start and its noise only from (seed, part, i).
    """
    buffers: list[EpisodeBuffer] = []
    missing = steps
    number = 0
    while missing > 0:
        # Use no more environments than the missing steps would fill if every episode reached its horizon.
        width = min(len(environments), -(-missing // (environments[0].spec.max_episode_steps or 1)))
        generators = [np.random.default_rng([*key, number + i]) for i in range(width)]
        episodes = [_Episode() for _ in range(width)]
        run_episodes(
            environments[:width],
            [int(rng.integers(2**31)) for rng in generators],
            lambda rows, running, g=generators: behaviour.act(rows, [g[i] for i in running]),
            lambda i, step, e=episodes: e[i].steps.append(step),
            lambda e=episodes, n=missing: _has_steps(e, n),
        )
        number += width
        for episode in episodes:
            length = min(len(episode.steps), missing)
            if length:
                buffers.append(episode.buffer(length))
                missing -= length
                bar.update(length)
    return buffers


def _has_steps(episodes: Sequence[_Episode], needed: int) -> bool:
    """Whether the steps that are needed are there, taken in order from the episodes, of which some may still run."""
    for episode in episodes:
        needed -= len(episode.steps)
        if needed <= 0 or not episode.has_ended:
            break
    return needed <= 0
