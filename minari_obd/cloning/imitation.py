"""Imitation: networks that act as an infinitely wide student does, near the pairs that it was cloned from."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from scipy.spatial import KDTree

from minari_obd.cloning.policy import Policy
from minari_obd.errors import SettingError
from minari_obd.settings.checks import check_instance, whole_number
from minari_obd.settings.protocols import StudentProtocol, protocol_by_name
from minari_obd.students.networks import make_student, student_generators
from minari_obd.students.training import train_students
from minari_obd.support.progress import progress_bar
from minari_obd.support.streams import Stream

__all__ = ["IMITATION", "imitate", "sample_pairs"]

IMITATION = StudentProtocol(optimiser="adam", learning_rate=1e-3, steps=4_000, batch_size=256)
"""The network that :func:`imitate` trains. It has the shape of fine-tuning's actors."""

_STATES = 40_000
_NEIGHBOURS = 8
_BETWEEN, _AROUND = 0.1, 0.3
_RATES = (0.6, 1.0), (0.25, 0.3), (0.15, 0.1)
"""Shares of the steps, and the learning rate there in proportion to the protocol's."""


def imitate(
    policy: Policy,
    *,
    protocol: StudentProtocol | str = IMITATION,
    students: int = 1,
    seed: int = 0,
    progress: bool = False,
) -> Policy:
    """Train a network to act as an infinitely wide student does.

    Pairs for infinitely wide students are made to be cloned in closed form. A network that learns from the pairs alone
    errs between them. The closed form has an answer for every state, so this network learns from its answers at 40,000
    states near the pairs (:func:`sample_pairs`). It takes some 15 seconds.

    Args:
        policy: what :func:`minari_obd.clone` makes of pairs for infinitely wide students.
        protocol: the network and its training, as a protocol or its name; the learning rate falls to a tenth.
        students: how many networks, each from its own random initialisation.
        seed: of states, initialisations and minibatches.
        progress: show a bar.

    Returns:
        A policy of the same pairs and this seed, by itself: nothing of the infinitely wide student is part of it.

    Raises:
        SettingError: the policy's students are no infinitely wide ones, or the protocol's are.
    """
    check_instance("The argument policy", policy, Policy)
    protocol = protocol_by_name(protocol).suited(is_discrete=policy.first_action is not None)
    if protocol.is_solved:
        raise SettingError("The protocol is of infinitely wide students; name one of networks, such as 'adam'.")
    students = whole_number("students", students, 1)
    observations, actions = sample_pairs(policy, seed=seed)
    states = torch.from_numpy(policy.normaliser.normalise(observations))
    wanted = torch.from_numpy(policy.action_scale.scale(actions).astype(np.float32))
    generators = student_generators(students, seed, Stream.CLONES)
    student, rng = make_student(protocol), Stream.IMITATION.generator(seed, 1)
    rows = (torch.from_numpy(rng.integers(len(states), size=protocol.batch_size or 256)) for _ in iter(int, 1))
    parameters = student.initialise(states.shape[1], wanted.shape[1], generators)
    with progress_bar(protocol.steps, f"imitating, {students} network(s)", show=progress) as bar:
        for phase in _phases(protocol):
            parameters = train_students(student, parameters, states, wanted, phase, batches=rows, after_step=bar.update)
    lineage = replace(policy.lineage, seed=seed, is_imitation=True)
    return replace(policy, parameters=parameters, protocol=protocol, lineage=lineage, evaluation=None, origin=None)


def sample_pairs(policy: Policy, count: int = _STATES, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw observations near the pairs of an infinitely wide student, with its actions there, to train any network on.

    Half of them lie between a pair and one of its eight nearest, with noise of 0.1 standard deviations of the data; the
    other half around a pair, with noise of up to 0.3 that is correlated as the pairs are.

    Args:
        policy: what :func:`minari_obd.clone` makes of pairs for infinitely wide students.
        count: how many, N.
        seed: of the draws.

    Returns:
        Raw observations (N, S) and raw actions (N, A), or probabilities of discrete ones, float32.

    Raises:
        SettingError: the policy's students are no infinitely wide ones, or a number makes no sense.
    """
    check_instance("The argument policy", policy, Policy)
    if not policy.protocol.is_solved:
        raise SettingError(
            f"The policy's students are networks ('{policy.protocol.network}') already; give what clone makes of pairs "
            "for infinitely wide students."
        )
    count, rng = whole_number("count", count, 1), Stream.IMITATION.generator(whole_number("seed", seed, 0))
    centres = policy.parameters[0][0].numpy()
    states = np.concatenate([_between(centres, (count + 1) // 2, rng), _around(centres, count // 2, rng)])
    observations = policy.normaliser.denormalise(states.astype(np.float32)).astype(np.float32)
    return observations, policy.act_each(observations)[0]


def _between(centres: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """States on the way from centres (M, S) to their neighbours, shape (N, S)."""
    first = rng.integers(len(centres), size=count)
    states = centres[first] + _BETWEEN * rng.normal(size=(count, centres.shape[1]))
    if len(centres) == 1:
        return states
    near = min(1 + _NEIGHBOURS, len(centres))
    nearest = np.asarray(KDTree(centres).query(centres, near)[1])[:, 1:]  # the nearest of all is the centre itself
    second = nearest[first, rng.integers(nearest.shape[1], size=count)]
    return states + rng.random((count, 1)) * (centres[second] - centres[first])


def _around(centres: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """States around centres (M, S), with noise that has a share of their covariance, shape (N, S)."""
    found = np.linalg.svd(centres - centres.mean(0), full_matrices=False)
    factors = found.S[:, None] * found.Vh / np.sqrt(len(centres))  # normal numbers times these are so correlated
    noise = rng.normal(size=(count, len(factors))) @ factors
    return centres[rng.integers(len(centres), size=count)] + _AROUND * rng.random((count, 1)) * noise


def _phases(protocol: StudentProtocol) -> Iterator[StudentProtocol]:
    """Parts of the training, at falling learning rates."""
    left = protocol.steps
    for share, rate in _RATES:
        steps = min(left, max(1, round(share * protocol.steps)))
        if steps:
            yield replace(protocol, steps=steps, learning_rate=rate * protocol.learning_rate)
        left -= steps
