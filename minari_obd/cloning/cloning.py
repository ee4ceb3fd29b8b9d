"""Cloning: policies trained from pairs by behavioural cloning, in seconds."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minari_obd.cloning.policy import Policy
from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.errors import DataError, NotFoundError, SettingError
from minari_obd.registry import STUDENTS
from minari_obd.settings.checks import check_instance, whole_number
from minari_obd.settings.protocols import StudentProtocol, protocol_by_name
from minari_obd.sources.data import OfflineData
from minari_obd.sources.scaling import Normaliser
from minari_obd.students.networks import make_student, student_generators
from minari_obd.students.training import train_students
from minari_obd.support.devices import choose_device
from minari_obd.support.progress import progress_bar
from minari_obd.support.streams import Stream

__all__ = ["check_joinable", "clone", "new_policy"]


def clone(
    pairs: DistilledDataset | OfflineData | Sequence[DistilledDataset],
    *,
    students: int | None = None,
    protocol: StudentProtocol | str | None = None,
    seed: int = 0,
    start: Policy | None = None,
    device: str = "cpu",
    progress: bool = False,
) -> Policy:
    """Train students from pairs by behavioural cloning.

    Args:
        pairs: a distilled dataset, a whole offline dataset, or several distilled datasets with observations and actions
            of one shape. The pairs of several are joined and normalised by their sources' joint normaliser, which
            weights each source by its pairs (:meth:`Normaliser.join`).
        students: how many to train, each from its own random initialisation; by default one, or those of ``start``.
        protocol: how to train them, as a protocol or its name. By default that of ``start``, else the one that the
            pairs were made for, else ``whole_data`` for a whole offline dataset.
        seed: seed of the initialisations and minibatches.
        start: a policy whose students continue to learn from these pairs, instead of new students. They keep its
            normaliser, and the optimiser starts without memory.
        device: where to train, ``cpu``, ``cuda`` or ``auto``. The policy comes back to the CPU, where it acts. For a
            single set of 256 pairs the CPU takes seconds.
        progress: show a bar.

    Raises:
        DataError: the datasets differ in their shapes or action bounds, among themselves or from ``start``.
        SettingError: something else than datasets; the number of students or the seed makes no sense, the number or
            the network differs from that of ``start``, or there is no such device.
    """
    where = choose_device(device)
    sets: list[Any] = [pairs]
    if isinstance(pairs, Iterable) and not isinstance(pairs, str | Mapping):
        sets = list(pairs)
    if not sets:
        raise DataError("Cloning needs at least one dataset.")
    for each in sets:
        check_instance("clone", each, DistilledDataset, OfflineData)
    if start is not None:
        check_instance("The argument start", start, Policy)
    seed, students = whole_number("seed", seed, 0), None if students is None else whole_number("students", students, 1)
    check_joinable(sets)
    first = sets[0]
    if protocol is None and start is not None:
        protocol = start.protocol
    elif protocol is None:
        protocol = first.protocol if isinstance(first, DistilledDataset) else "whole_data"
    protocol = protocol_by_name(protocol).suited(is_discrete=first.is_discrete)
    _check_network(protocol, first)
    if start is None:
        start = new_policy(sets, students=students or 1, protocol=protocol, seed=seed)
    else:
        _check_start(start, first, students, protocol)
    is_one_task = all((each.env_id, each.reference) == (first.env_id, first.reference) for each in sets)
    states = np.concatenate([start.normaliser.normalise(each.observations) for each in sets])
    actions = np.concatenate([each.scaled_actions() for each in sets])
    with progress_bar(protocol.steps, f"cloning {start.students} student(s)", show=progress) as bar:
        trained = train_students(
            make_student(protocol),
            [p.to(where) for p in start.parameters],
            torch.from_numpy(states).to(where),
            torch.from_numpy(actions).to(where),
            protocol,
            batches=_minibatches(len(states), protocol.batch_size, seed, where),
            after_step=bar.update,
        )
    names = ("env_id", "reference", "observation_fields")
    task = {name: getattr(first, name) for name in names} if is_one_task else {}
    bounds = first.action_low, first.action_high
    trained = [p.cpu() for p in trained]
    lineage = start.lineage.cloned(sets, seed)
    return Policy(
        trained, protocol, start.normaliser, *bounds, first_action=first.first_action, lineage=lineage, **task
    )


def new_policy(
    sets: Sequence[DistilledDataset | OfflineData], *, students: int, protocol: StudentProtocol, seed: int
) -> Policy:
    """Return E students as :func:`clone` initialises them for these datasets, before any training."""
    first = sets[0]
    protocol = protocol.suited(is_discrete=first.is_discrete)
    normaliser = Normaliser.join([each.normaliser for each in sets], [len(each) for each in sets])
    generators = student_generators(students, seed, Stream.CLONES)
    sizes = first.observations.shape[1], first.actions.shape[1]
    parameters = make_student(protocol).initialise(*sizes, generators)
    bounds = first.action_low, first.action_high
    return Policy(parameters, protocol, normaliser, *bounds, first_action=first.first_action)


def check_joinable(sets: Sequence[DistilledDataset | OfflineData]) -> None:
    """Make sure that datasets share the size of their observations and their action bounds.

    Raises:
        DataError: they do not.
    """
    ours, *others = [
        (each.observations.shape[1], each.action_low.tolist(), each.action_high.tolist(), each.first_action)
        for each in sets
    ]
    for theirs in others:
        if theirs != ours:
            numbers = f", numbered from {ours[3]} and {theirs[3]}" if theirs[3] != ours[3] else ""
            raise DataError(
                f"The datasets have observations of size {ours[0]} and {theirs[0]} and actions in {ours[1:3]} and "
                f"{theirs[1:3]}{numbers}; only sets that agree in both can be joined."
            )


def _check_start(
    start: Policy, pairs: DistilledDataset | OfflineData, students: int | None, protocol: StudentProtocol
) -> None:
    size, bounds = start.normaliser.mean.size, (np.asarray(start.action_low), np.asarray(start.action_high))
    theirs = pairs.observations.shape[1], pairs.action_low.tolist(), pairs.action_high.tolist(), pairs.first_action
    if theirs != (size, bounds[0].tolist(), bounds[1].tolist(), start.first_action):
        raise DataError(
            f"The policy to start from takes {size} observations and acts in [{bounds[0]}, {bounds[1]}], and the pairs "
            f"have {theirs[0]} and {theirs[1:3]}; start from a policy of their shape."
        )
    given, wanted = ((each.network, each.depth, each.width) for each in (start.protocol, protocol))
    if given != wanted or students not in (None, start.students):
        raise SettingError(
            f"The policy to start from has {start.students} student(s), each a network {given}, but "
            f"{students or start.students} of {wanted} were asked for; leave both to the policy."
        )


def _check_network(protocol: StudentProtocol, pairs: DistilledDataset | OfflineData) -> None:
    """Make sure that the student network is known here. A set says which package brings it."""
    try:
        STUDENTS.check(protocol.network)
    except NotFoundError as error:
        plugins = pairs.provenance.plugins if isinstance(pairs, DistilledDataset) else {}
        package = plugins.get(f"{STUDENTS.kind} '{protocol.network}'")
        hint = f" The set says that the package '{package}' brings it; install that if you trust it." if package else ""
        raise NotFoundError(f"{error}{hint}") from None


def _minibatches(count: int, size: int | None, seed: int, device: torch.device) -> Iterator[Tensor] | None:
    if size is None or size >= count:
        return None
    rng = Stream.CLONING.generator(seed)
    rows = (torch.from_numpy(rng.integers(count, size=size)) for _ in iter(int, 1))
    return (each.to(device, non_blocking=True) for each in rows)
