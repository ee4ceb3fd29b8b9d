"""Cloning: policies trained from pairs by behavioural cloning, in about a second."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from minari_obd.distilled import DistilledDataset
from minari_obd.errors import DataError, FormatError, MinariObdError, NotFoundError, SettingError, check_writable
from minari_obd.inner_loop import train_students
from minari_obd.offline import Normaliser, OfflineData
from minari_obd.progress import progress_bar
from minari_obd.protocol import StudentProtocol, protocol_by_name
from minari_obd.statistics import ReferenceScores
from minari_obd.students import Student, make_student, student_generators

__all__ = ["Policy", "check_joinable", "clone", "load_policy", "new_policy"]

_FORMAT = 1


@dataclass(frozen=True)
class Policy:
    """E cloned students; called as one policy, they act by the mean of their actions."""

    parameters: list[Tensor]
    """Trained parameters; every tensor has E rows."""
    protocol: StudentProtocol
    normaliser: Normaliser
    action_low: np.ndarray
    """Lowest action, shape (A,)."""
    action_high: np.ndarray
    """Highest action, shape (A,)."""
    env_id: str | None = None
    """Environment that the pairs are about, if known."""
    reference: ReferenceScores | None = None
    """Reference scores of that environment, if there are any."""

    @property
    def students(self) -> int:
        """E, the number of students."""
        return len(self.parameters[0])

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        """Raw observations (B, S), or one (S,), to raw actions (B, A), or one (A,)."""
        observations = np.asarray(observations)
        single = observations.ndim == 1
        actions = self.act_each(observations[None] if single else observations).mean(axis=0)
        return actions[0] if single else actions

    @torch.no_grad()
    def act_each(self, observations: np.ndarray) -> np.ndarray:
        """Raw actions of every student, shape (E, B, A), for raw observations (B, S) or (E, B, S)."""
        size = self.normaliser.mean.size
        if observations.ndim not in (2, 3) or observations.shape[-1] != size:
            raise DataError(f"The policy takes observations (B, {size}); got {observations.shape}.")
        states = torch.from_numpy(self.normaliser.normalise(observations))
        scaled = self._student.apply(self.parameters, states).numpy()
        return self.action_low + 0.5 * (scaled + 1.0) * (self.action_high - self.action_low)

    @cached_property
    def _student(self) -> Student:
        return make_student(self.protocol)

    def save(self, path: str | Path) -> Path:
        """Write the policy to one safetensors file and return its path."""
        path = check_writable(path)
        if path.is_dir():
            raise SettingError(f"'{path}' is a folder; give the name of a file, such as policy.safetensors.")
        tensors = {f"parameters/{i}": p.contiguous() for i, p in enumerate(self.parameters)}
        for name, value in self._arrays().items():
            tensors[name] = torch.tensor(value)
        header = {"format": _FORMAT, "protocol": asdict(self.protocol), "env_id": self.env_id}
        header["reference_scores"] = None if self.reference is None else asdict(self.reference)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        save_file(tensors, temporary, metadata={"minari_obd_policy": json.dumps(header)})
        temporary.replace(path)
        return path

    def _arrays(self) -> dict[str, np.ndarray]:
        return {
            "mean": self.normaliser.mean,
            "scale": self.normaliser.scale,
            "action_low": np.asarray(self.action_low, np.float32),
            "action_high": np.asarray(self.action_high, np.float32),
        }


def load_policy(path: str | Path) -> Policy:
    """Read a policy that :meth:`Policy.save` wrote.

    Raises:
        NotFoundError: no such file.
        FormatError: not a policy, or of a newer format.
    """
    path = Path(path)
    if not path.is_file():
        raise NotFoundError(f"There is no policy '{path}'; `minari-obd clone` writes one.")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["minari_obd_policy"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no iterator of its own
        if header["format"] > _FORMAT:
            raise FormatError(f"'{path}' has policy format {header['format']}; this version reads up to {_FORMAT}.")
        count = sum(name.startswith("parameters/") for name in tensors)
        return Policy(
            parameters=[tensors[f"parameters/{i}"] for i in range(count)],
            protocol=StudentProtocol(**header["protocol"]),
            normaliser=Normaliser(tensors["mean"].numpy(), tensors["scale"].numpy()),
            action_low=tensors["action_low"].numpy(),
            action_high=tensors["action_high"].numpy(),
            env_id=header["env_id"],
            reference=None if header["reference_scores"] is None else ReferenceScores(**header["reference_scores"]),
        )
    except FormatError:
        raise
    except (SafetensorError, MinariObdError, KeyError, TypeError, ValueError) as error:
        raise FormatError(f"'{path}' is not a policy of this package: {error}.") from error


def clone(
    pairs: DistilledDataset | OfflineData | Sequence[DistilledDataset],
    *,
    students: int | None = None,
    protocol: StudentProtocol | str | None = None,
    seed: int = 0,
    start: Policy | None = None,
    progress: bool = False,
) -> Policy:
    """Train students from pairs by behavioural cloning.

    Args:
        pairs: a distilled dataset; several with observations and actions of one shape, whose pairs are joined and
            normalised by their sources' joint normaliser, each source weighted by its pairs (:meth:`Normaliser.join`);
            or a whole offline dataset.
        students: how many, each from its own random initialisation; one if not given, or those of ``start``.
        protocol: how to train them, itself or by name. If not given, that of ``start``, or the one that the pairs were
            made for, or ``whole_data`` for a whole offline dataset.
        seed: of the initialisations and minibatches.
        start: a policy whose students go on learning from these pairs, in place of new ones. They keep its
            normaliser, and the optimiser starts without memory.
        progress: show a bar.

    Raises:
        DataError: datasets that do not share their shapes and action bounds, with one another or with ``start``.
        SettingError: a number of students or a network that is not that of ``start``.
    """
    sets = [pairs] if isinstance(pairs, DistilledDataset | OfflineData) else list(pairs)
    if not sets or (students is not None and students < 1) or seed < 0:
        raise DataError("Cloning needs at least one dataset, one student, and a seed from 0 up.")
    check_joinable(sets)
    first = sets[0]
    if protocol is None and start is not None:
        protocol = start.protocol
    elif protocol is None:
        protocol = first.protocol if isinstance(first, DistilledDataset) else "whole_data"
    protocol = protocol_by_name(protocol)
    if start is None:
        start = new_policy(sets, students=students or 1, protocol=protocol, seed=seed)
    else:
        _check_start(start, first, students, protocol)
    is_one_task = all((each.env_id, each.reference) == (first.env_id, first.reference) for each in sets)
    states = torch.from_numpy(np.concatenate([start.normaliser.normalise(each.observations) for each in sets]))
    actions = torch.from_numpy(np.concatenate([each.scaled_actions() for each in sets]))
    with progress_bar(protocol.steps, f"cloning {start.students} student(s)", show=progress) as bar:
        trained = train_students(
            make_student(protocol),
            start.parameters,
            states,
            actions,
            protocol,
            batches=_minibatches(len(states), protocol.batch_size, seed),
            after_step=bar.update,
        )
    task = {"env_id": first.env_id, "reference": first.reference} if is_one_task else {}
    return Policy(trained, protocol, start.normaliser, first.action_low, first.action_high, **task)


def new_policy(
    sets: Sequence[DistilledDataset | OfflineData], *, students: int, protocol: StudentProtocol, seed: int
) -> Policy:
    """Return E students as :func:`clone` initialises them for these datasets, before any training."""
    first = sets[0]
    normaliser = Normaliser.join([each.normaliser for each in sets], [len(each) for each in sets])
    generators = student_generators(students, seed, 5)
    sizes = first.observations.shape[1], first.actions.shape[1]
    parameters = make_student(protocol).initialise(*sizes, generators)
    return Policy(parameters, protocol, normaliser, first.action_low, first.action_high)


def check_joinable(sets: Sequence[DistilledDataset | OfflineData]) -> None:
    """Make sure that datasets share the size of their observations and their action bounds.

    Raises:
        DataError: they do not.
    """
    ours, *others = [(each.observations.shape[1], each.action_low.tolist(), each.action_high.tolist()) for each in sets]
    for theirs in others:
        if theirs != ours:
            raise DataError(
                f"The datasets have observations of size {ours[0]} and {theirs[0]} and actions in {ours[1:]} and "
                f"{theirs[1:]}; only sets that agree in both can be joined."
            )


def _check_start(
    start: Policy, pairs: DistilledDataset | OfflineData, students: int | None, protocol: StudentProtocol
) -> None:
    size, bounds = start.normaliser.mean.size, (np.asarray(start.action_low), np.asarray(start.action_high))
    theirs = pairs.observations.shape[1], pairs.action_low.tolist(), pairs.action_high.tolist()
    if theirs != (size, bounds[0].tolist(), bounds[1].tolist()):
        raise DataError(
            f"The policy to start from takes {size} observations and acts in [{bounds[0]}, {bounds[1]}], and the pairs "
            f"have {theirs[0]} and {theirs[1:]}; start from a policy of their shape."
        )
    given, wanted = ((each.network, each.depth, each.width) for each in (start.protocol, protocol))
    if given != wanted or students not in (None, start.students):
        raise SettingError(
            f"The policy to start from has {start.students} student(s), each a network {given}, but "
            f"{students or start.students} of {wanted} were asked for; leave both to the policy."
        )


def _minibatches(count: int, size: int | None, seed: int) -> Iterator[Tensor] | None:
    if size is None or size >= count:
        return None
    rng = np.random.default_rng([seed, 6])
    return (torch.from_numpy(rng.integers(count, size=size)) for _ in iter(int, 1))
