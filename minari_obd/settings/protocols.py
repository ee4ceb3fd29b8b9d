"""Protocols: how students are trained from pairs, and how they are evaluated. Plain settings, without torch."""

from dataclasses import dataclass, replace
from math import sqrt
from typing import Any, ClassVar, Literal

from minari_obd.errors import NotFoundError, SettingError, did_you_mean
from minari_obd.settings.checks import STRICT, check_instance, check_positive, check_types

__all__ = [
    "ADAM_STUDENT",
    "EVALUATION_PROTOCOLS",
    "KERNEL",
    "KERNEL_STUDENT",
    "PROTOCOLS",
    "SOFTMAX",
    "WIDE",
    "EvaluationProtocol",
    "StudentDraws",
    "StudentProtocol",
    "evaluation_protocol_by_name",
    "protocol_by_name",
]


SOFTMAX = "softmax_"
"""What the names of networks for discrete actions begin with."""
KERNEL = "kernel"
"""The infinitely wide student network."""


@dataclass(frozen=True)
class StudentProtocol:
    """How a student is cloned from pairs. The defaults are the paper's (Offline Behavior Distillation, 2410.22728)."""

    network: str = "mlp"
    """Name of the student network: `kernel` (infinitely wide, cloned in closed form), `mlp` or `residual`. For discrete
    actions, `softmax_` goes before the name."""
    depth: int = 3
    """Hidden layers."""
    width: int = 256
    """Units in each hidden layer."""
    steps: int = 100
    """Gradient steps."""
    optimiser: Literal["sgd", "adam", "adamw"] = "sgd"
    """Inner optimiser; `adamw` is Adam with a weight decay of 0.01."""
    learning_rate: float = 0.1
    """Step size of the inner optimiser."""
    momentum: float = 0.0
    """Momentum of SGD."""
    batch_size: int | None = None
    """Pairs per step; all of them if not given."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    def __post_init__(self) -> None:
        check_types("student", self)
        check_positive(
            "student", depth=self.depth, width=self.width, steps=self.steps, learning_rate=self.learning_rate
        )
        check_positive("student", batch_size=self.batch_size)
        if not 0.0 <= self.momentum < 1.0:
            raise SettingError(f"student.momentum is {self.momentum}; it must be at least 0 and below 1.")
        if self.momentum and self.optimiser != "sgd":
            raise SettingError(f"student.momentum only works with 'sgd'; leave it out with '{self.optimiser}'.")

    def widened(self, width: int) -> "StudentProtocol":
        """Return the protocol with hidden layers of ``width`` units, for Adam at its rate times sqrt(old / new width).

        Wider layers move a student's actions further for the same change of each weight. The root of the ratio lies
        between the narrow student's rate and the one that falls with the width itself (Tensor Programs V, 2203.03466).
        Two trials did not tell it from the latter (docs/results-networks.md).

        Raises:
            SettingError: the optimiser is SGD, for which no such rule is known here, and the width is another one.
        """
        if width == self.width or self.is_solved:
            return self
        if self.optimiser == "sgd":
            raise SettingError(
                f"distillation.cloned_width is {width}, but the student has {self.width} units and learns by SGD, "
                "whose rate does not carry over to other widths; use optimiser 'adam', or set student.width instead."
            )
        return replace(self, width=width, learning_rate=self.learning_rate * sqrt(self.width / width))

    @property
    def is_solved(self) -> bool:
        """Whether such students have a closed form, so that no inner loop trains them."""
        return self.network.removeprefix(SOFTMAX) == KERNEL

    def counted(self, students: int, episodes: int) -> tuple[int, int]:
        """Return how many students to judge over how many episodes each; of equal ones, one over all episodes."""
        return (1, students * episodes) if self.is_solved else (students, episodes)

    def suited(self, *, is_discrete: bool) -> "StudentProtocol":
        """Return the protocol with the network for these actions; one for discrete actions has a softmax."""
        network = f"{SOFTMAX if is_discrete else ''}{self.network.removeprefix(SOFTMAX)}"
        return self if network == self.network else replace(self, network=network)


@dataclass(frozen=True)
class StudentDraws:
    """Student settings that are redrawn at each outer step, so that the pairs do not fit only one kind of student.

    An empty list, or a share of 0 for Adam, leaves that setting to the protocol. By default nothing is drawn.
    """

    depths: tuple[int, ...] = ()
    """Numbers of hidden layers to draw from."""
    steps: tuple[float, ...] = ()
    """Numbers of gradient steps to draw from, as multiples of the protocol's."""
    learning_rates: tuple[float, ...] = ()
    """Step sizes to draw from, as multiples of the protocol's."""
    adam: float = 0.0
    """Share of students that are trained by Adam instead of the protocol's optimiser."""
    adam_learning_rate: float = 1e-3
    """Adam's step size."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    def __post_init__(self) -> None:
        check_types("distillation.draws", self)
        for name in ("depths", "steps", "learning_rates"):
            for value in getattr(self, name):
                check_positive("distillation.draws", **{name: value})
        check_positive("distillation.draws", adam_learning_rate=self.adam_learning_rate)
        if not 0.0 <= self.adam <= 1.0:
            raise SettingError(f"distillation.draws.adam is {self.adam}; it must lie between 0 and 1.")

    def __bool__(self) -> bool:
        """Whether anything is drawn."""
        return bool(self.depths or self.steps or self.learning_rates or self.adam)

    def draw(self, protocol: StudentProtocol, *key: int) -> StudentProtocol:
        """Return the protocol with drawn settings. The same ``key`` gives the same draw."""
        if not self:
            return protocol
        import numpy as np

        rng = np.random.default_rng(list(key))
        drawn: dict[str, Any] = {}
        for name, choices in (("depth", self.depths), ("steps", self.steps), ("learning_rate", self.learning_rates)):
            choice = rng.random()  # always drawn, so that one list does not change another's draw
            if choices:
                drawn[name] = choices[int(choice * len(choices))]
        if "steps" in drawn:
            drawn["steps"] = max(1, round(drawn["steps"] * protocol.steps))
        if "learning_rate" in drawn:
            drawn["learning_rate"] *= protocol.learning_rate
        if rng.random() < self.adam:
            drawn |= {"optimiser": "adam", "learning_rate": self.adam_learning_rate, "momentum": 0.0}
        return replace(protocol, **drawn)


@dataclass(frozen=True)
class EvaluationProtocol:
    """How pairs are evaluated."""

    student: StudentProtocol | None = None
    """How students are trained; the pairs' own protocol if not given."""
    students: int = 10
    """Students to evaluate, each from its own initialisation."""
    episodes: int = 10
    """Episodes per student."""
    ensemble: int = 1
    """Students that act together, by the mean of their actions, and are evaluated as one."""

    def __post_init__(self) -> None:
        check_types("evaluation", self)
        check_positive("evaluation", students=self.students, episodes=self.episodes, ensemble=self.ensemble)


_PAPER = StudentProtocol()

ADAM_STUDENT = StudentProtocol(optimiser="adam", learning_rate=1e-3)
"""The student of a recipe that names no other: a hundred steps of Adam fit teachers that a hundred of SGD cannot."""

KERNEL_STUDENT = replace(ADAM_STUDENT, network=KERNEL, depth=2)
"""The student of a recipe that sets nothing of `student`: infinitely wide, cloned in closed form. It has a depth alone;
the other settings are those of :data:`ADAM_STUDENT`, for who names another network."""

WIDE = 1024
"""Units of the students that are cloned from the pairs of a recipe that names no student."""


PROTOCOLS = {
    "paper": _PAPER,
    # From the paper's tables of other architectures and optimisers; its "4-layer MLP" has three hidden layers.
    **{f"layers_{layers}": replace(_PAPER, depth=layers - 1) for layers in (2, 3, 5, 6)},
    "residual": replace(_PAPER, network="residual"),
    "momentum": replace(_PAPER, momentum=0.9, learning_rate=0.03),
    "adam": ADAM_STUDENT,
    "kernel": KERNEL_STUDENT,
    "adamw": replace(_PAPER, optimiser="adamw", learning_rate=1e-3),
    # Behavioural cloning on a whole dataset needs minibatches and more steps.
    "whole_data": StudentProtocol(optimiser="adam", learning_rate=1e-3, steps=3_000, batch_size=256),
}


EVALUATION_PROTOCOLS = {
    **{name: EvaluationProtocol(student) for name, student in PROTOCOLS.items()},
    "fast": EvaluationProtocol(students=4, episodes=5),
    "ensemble": EvaluationProtocol(ensemble=10),
}


def protocol_by_name(protocol: StudentProtocol | str) -> StudentProtocol:
    """Return a student protocol, given the protocol itself or its name.

    Raises:
        NotFoundError: the name is unknown.
        SettingError: it is neither.
    """
    if isinstance(protocol, StudentProtocol):
        return protocol
    check_instance("A student's protocol", protocol, str, StudentProtocol)
    if protocol not in PROTOCOLS:
        raise NotFoundError(f"There is no student protocol '{protocol}'; {did_you_mean(protocol, PROTOCOLS)}")
    return PROTOCOLS[protocol]


def evaluation_protocol_by_name(protocol: EvaluationProtocol | StudentProtocol | str | None) -> EvaluationProtocol:
    """Return an evaluation protocol, given the protocol itself, its name, or a student protocol.

    Raises:
        NotFoundError: the name is unknown.
        SettingError: it is none of these.
    """
    if isinstance(protocol, EvaluationProtocol):
        return protocol
    if protocol is None or isinstance(protocol, StudentProtocol):
        return EvaluationProtocol(protocol)
    check_instance("An evaluation's protocol", protocol, str, EvaluationProtocol, StudentProtocol)
    if protocol not in EVALUATION_PROTOCOLS:
        known = did_you_mean(protocol, EVALUATION_PROTOCOLS)
        raise NotFoundError(f"There is no evaluation protocol '{protocol}'; {known}")
    return EVALUATION_PROTOCOLS[protocol]
