"""Streams: the random numbers of one seed, apart for each purpose, so that none repeats another's."""

from enum import IntEnum

import numpy as np

__all__ = ["Stream"]


class Stream(IntEnum):
    """What random numbers are for.

    Numbers are drawn from (seed, stream, ...), where the rest is a step, an episode or the like. A stream's number
    never changes and is never used again, since results depend on it.

    Three things draw from other keys: collecting from (seed, policy, episode), k-means and d3rlpy from the seed alone.
    """

    SPLIT = 0
    """Which rows of the data are held out from distillation."""
    INITIAL_PAIRS = 1
    """Rows that the pairs begin as, with ``initial = "random"``."""
    BATCHES = 2
    """States of an outer step; (seed, stream, step)."""
    STUDENTS = 3
    """Students of an outer step; (seed, stream, step from 1). Step 0: those that judge the pairs."""
    TEACHER = 4
    """Minibatches of a teacher's training. (seed, stream, 1): the transitions that choose its actor."""
    CLONES = 5
    """Students that are cloned, before their training."""
    CLONING = 6
    """Minibatches of cloning."""
    EPISODES = 7
    """Starts of an evaluation's episodes."""
    DENSITY = 8
    """Which states are held out from a density's fit.

    (seed, stream, i): their noise (1), the mixture (2), the flow's network (3) and its batches (4).
    """
    REAL_PAIRS = 9
    """Rows that the method ``random`` selects."""
    PROTOCOLS = 10
    """Drawn settings of an outer step's students; (seed, stream, step)."""
    WINDOWS = 11
    """Where an outer step's window ends; (seed, stream, step)."""
    JUDGING_PROTOCOLS = 12
    """Drawn settings of students that judge the pairs; (stream, i), the same for every seed."""
    JUDGING_STUDENTS = 13
    """Those students; (seed, stream, i)."""
    EXPLORATION = 14
    """Exploration while fine-tuning; (seed, stream, environment step)."""
    FINETUNING = 15
    """Minibatches and target noise of fine-tuning; (seed, stream, update)."""
    TRAINING_EPISODES = 16
    """Starts of the episodes that fine-tuning learns from; (seed, stream, episode)."""
    LEARNER = 17
    """Networks of fine-tuning, before their training."""
    STAGES = 18
    """Seeds of continual learning's stages after the first; (seed, stream, stage)."""
    DYNAMICS = 19
    """Networks of the dynamics ensemble and its held-out transitions; (seed, stream, 1, update): its minibatches."""
    VISITS = 20
    """Rollouts of students in the ensemble; (seed, stream, step). (seed, stream): their starts, and the teacher's."""
    VISITORS = 21
    """Students that are rolled out; (seed, stream, step)."""
    KERNEL_BATCHES = 22
    """States of a step of the kernel start; (seed, stream, step)."""
    KERNELS = 23
    """Infinitely wide students of the kernel start; (seed, stream, step)."""
    IMAGINATION = 24
    """Rollouts of a teacher in the dynamics ensemble; (seed, stream, number)."""
    IMITATION = 25
    """States where a network imitates an infinitely wide student. (seed, stream, 1): minibatches of them."""
    COVERAGE = 30
    """Draws of the coverage that diagnostics measure."""
    NEARNESS = 31
    """Held-out states that diagnostics measure distances of."""
    MEMBERSHIP = 32
    """Training rows of the diagnostics' test of membership."""

    def generator(self, seed: int, *rest: int) -> np.random.Generator:
        """Return NumPy's generator of (seed, stream, rest)."""
        return np.random.default_rng([seed, self, *rest])

    def seeds(self, count: int, seed: int, *rest: int) -> np.ndarray:
        """Return ``count`` seeds of (seed, stream, rest), shape (count,), uint32."""
        return np.random.SeedSequence([seed, self, *rest]).generate_state(count)

    def seed(self, seed: int, *rest: int) -> int:
        """Return the first of these seeds."""
        return int(self.seeds(1, seed, *rest)[0])
