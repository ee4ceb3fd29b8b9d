"""Algorithms of d3rlpy and the settings that they are run with."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from minari_obd.errors import SettingError, did_you_mean
from minari_obd.registry import TEACHERS
from minari_obd.sources.data import OfflineData
from minari_obd.support.libraries import import_d3rlpy

__all__ = [
    "BC",
    "CAL_QL",
    "CQL",
    "DISCRETE_BCQ",
    "DISCRETE_CQL",
    "GAMMA",
    "IQL",
    "MOBILE",
    "REBRAC",
    "TD3_BC",
    "Algorithm",
    "Imagination",
    "check_kind",
    "check_options",
    "episodes_for",
    "target_rate",
]

GAMMA = 0.99
"""Discount of d3rlpy's, for every one of them."""


_TARGET_RATES = 0.005, 0.05


@dataclass(frozen=True)
class Imagination:
    """How a model-based algorithm makes transitions in the dynamics ensemble, beside those of the data.

    Every so many updates the actor acts for a few steps from states of the data. A reward is lowered by ``penalty``
    times the standard deviation, over the members, of the discounted value of what follows (MOBILE, Sun et
    al. 2023): where members disagree on what an action is worth, the data does not say.
    """

    penalty: float = 1.0
    """Of the members' disagreement; none at 0."""
    horizon: int = 5
    """Steps of a rollout."""
    real_share: float = 0.05
    """Share of a minibatch that comes from the data."""
    rollouts: int = 5_000
    """Made at a time."""
    refresh: int = 1_000
    """Updates between new rollouts."""
    kept: int = 5
    """Rounds of rollouts that are kept, the newest ones."""
    ensemble_updates: int = 6_000
    """Most updates of the ensemble's fit. As many as for student states, so that both share one ensemble."""

    def __post_init__(self) -> None:
        for name in ("horizon", "rollouts", "refresh", "kept", "ensemble_updates"):
            if getattr(self, name) < 1:
                raise SettingError(f"teacher.options.{name} is {getattr(self, name)}; it must be at least 1.")
        if not 0.0 <= self.penalty < float("inf"):
            raise SettingError(f"teacher.options.penalty is {self.penalty}; it must be zero or a positive number.")
        if not 0.0 <= self.real_share <= 1.0:
            raise SettingError(f"teacher.options.real_share is {self.real_share}; it must be from 0 to 1.")


@dataclass(frozen=True)
class Algorithm:
    """An offline-RL algorithm of d3rlpy and the settings it is run with."""

    name: str
    config: str
    """Name of its configuration class in ``d3rlpy.algos``."""
    options: dict[str, Any] = field(default_factory=dict)
    """What differs from d3rlpy's defaults."""
    encoders: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Hidden layers of `actor` and `critic` (of discrete actions: of both, named by an empty string), as of
    ``d3rlpy.models.VectorEncoderFactory``; two of 256 if not given."""
    has_targets: bool = True
    """Whether it has target networks. :func:`target_rate` then chooses ``tau``, the rate at which they follow or, for
    discrete actions, ``target_update_interval``, its inverse."""
    steps: int = 20_000
    """Gradient steps by default: what is worth waiting for on two CPU cores, far below the papers' 10^6."""
    best_episodes: float = 1.0
    """Share of the data's steps that it is trained on by default, those of the episodes with the highest returns; all
    of data with goals."""
    precision: str = "float32"
    """Of its matrix products by default. ``auto``, where these products are large and most of an update:
    :func:`~minari_obd.support.precision.product_precision` says what it means."""

    is_discrete: bool = False
    """Whether it is for discrete actions, and not for continuous ones."""
    imagination: Imagination | None = None
    """How it learns from a dynamics ensemble's transitions, if it does; ``options`` may change this, too."""

    def split(self) -> tuple[dict[str, Any], Imagination | None]:
        """Return the options that are d3rlpy's, and the imagination with those that are its own."""
        if self.imagination is None:
            return self.options, None
        own = {f.name for f in fields(self.imagination)}
        changed = {name: value for name, value in self.options.items() if name in own}
        return {n: v for n, v in self.options.items() if n not in own}, replace(self.imagination, **changed)


BC = Algorithm("bc", "TD3PlusBCConfig", {"alpha": 0.0}, steps=5_000, best_episodes=0.25)
"""Cloning of the best episodes (%BC, Chen et al. 2021, arXiv 2106.01345). TD3+BC whose actor does not follow its
critics, which say what the clone is worth."""


TD3_BC = Algorithm("td3_bc", "TD3PlusBCConfig")
"""TD3+BC (Fujimoto & Gu 2021, arXiv 2106.06860)."""


IQL = Algorithm("iql", "IQLConfig")
"""Implicit Q-learning (Kostrikov et al. 2021, arXiv 2110.06169)."""


CQL = Algorithm("cql", "CQLConfig", {"alpha_learning_rate": 0.0}, precision="auto")
"""Conservative Q-learning (Kumar et al. 2020, arXiv 2006.04779), with a fixed penalty as in d3rlpy's reproduction."""


CAL_QL = Algorithm("calql", "CalQLConfig", {"alpha_learning_rate": 0.0}, precision="auto")
"""Calibrated Q-learning (Nakamoto et al. 2023, arXiv 2303.05479), with a fixed penalty."""


REBRAC = Algorithm(
    "rebrac",
    "ReBRACConfig",
    {"actor_beta": 0.01},
    {
        "actor": {"hidden_units": [256, 256, 256]},
        "critic": {"hidden_units": [256, 256, 256], "use_layer_norm": True},
    },
)
"""ReBRAC (Tarasov et al. 2023, arXiv 2305.09836): TD3+BC with deeper networks, layer norm in the critics, batches of
1,024, and penalties of actor and critic apart, both 0.01 as its authors have them for Hopper medium."""


MOBILE = Algorithm(
    "mobile",
    "SACConfig",
    {"batch_size": 128, "tau": 0.02, "initial_temperature": 0.2},
    {"critic": {"hidden_units": [256, 256], "use_layer_norm": True}},
    steps=60_000,
    imagination=Imagination(),
)
"""SAC on short rollouts in a dynamics ensemble, with penalised rewards (MOBILE, Sun et al. 2023, ICML). Ours in two
things: rewards are penalised when a transition is made, not at every update, and members do not predict variances."""


_DISCRETE: dict[str, Any] = {
    "options": {"learning_rate": 1e-3, "batch_size": 128, "n_critics": 2},
    "encoders": {"": {"hidden_units": [256, 256], "use_layer_norm": True}},
    "is_discrete": True,
}
"""What is usual for vectors; d3rlpy's defaults are for pictures. Two critics can be compared with each other. Without
layer norm, values diverge as soon as the targets follow fast enough for a short training (see :func:`target_rate`)."""


DISCRETE_CQL = Algorithm("discrete_cql", "DiscreteCQLConfig", **_DISCRETE, best_episodes=0.5)
"""Conservative Q-learning on double DQN (Kumar et al. 2020, arXiv 2006.04779), of the better half of the data. Its
penalty draws the policy to the data, random actions included: from all of LunarLander's replay it scores 17, from the
better half 108 (one seed each)."""


DISCRETE_BCQ = Algorithm("discrete_bcq", "DiscreteBCQConfig", **_DISCRETE)
"""Batch-constrained double DQN (Fujimoto et al. 2019, arXiv 1910.01708): greedy among actions that the data takes."""


def target_rate(updates: int, gamma: float = GAMMA) -> float:
    """Rate tau at which the target networks follow, for a training of so many updates.

    A value sums rewards over 1 / (1 - gamma) steps, and in an update a share tau of what was learned passes one step
    back; values therefore settle like 1 - exp(-updates tau (1 - gamma)). With the usual 0.005, which belongs to a
    million updates, 20,000 of them reach 63% at the most. So a short training has faster targets: as fast as it takes
    for the exponent to be 4 (98%), between 0.005 and 0.05.
    """
    slowest, fastest = _TARGET_RATES
    return min(max(round(4.0 / (updates * max(1.0 - gamma, 1e-6)), 6), slowest), fastest)


def episodes_for(algorithm: Any, data: OfflineData, share: float | None) -> OfflineData:
    """Return the episodes that an algorithm is trained on: this share of the best ones, or its own share if None.

    Who already chose among the episodes gets no second choice by the algorithm's own share. Nor does data with goals,
    whose returns say how far the goal was: the best episodes would be those of near goals.
    """
    own: float = getattr(algorithm, "best_episodes", 1.0) if data.may_choose else 1.0
    return data.best_episodes(own if share is None else share)


def check_kind(
    algorithm: Algorithm, is_discrete: bool, dataset_id: str, average: float, confidence: float | None
) -> None:
    """Make sure that an algorithm, and the settings that only one kind of actions has, are for the data's actions.

    Raises:
        SettingError: they are not.
    """
    if algorithm.is_discrete != is_discrete:
        mine, theirs = ("discrete", "continuous")[:: 1 if algorithm.is_discrete else -1]
        known = [(name, TEACHERS.get(name)) for name in TEACHERS.builtin]
        names = " or ".join(f"'{name}'" for name, found in known if found.is_discrete == is_discrete)
        raise SettingError(
            f"The teacher '{algorithm.name}' is for {mine} actions, and those of '{dataset_id}' are {theirs}; "
            f"use {names}."
        )
    if is_discrete and average:
        raise SettingError(
            f"teacher.average is {average}, but '{algorithm.name}' has no actor to average; set it to 0."
        )
    if not is_discrete and confidence is not None:
        raise SettingError(
            f"teacher.confidence is {confidence}, but the actions of '{dataset_id}' are continuous; leave it out."
        )


def check_options(algorithm: Algorithm, options: Mapping[str, Any]) -> None:
    """Refuse what is not a plain setting of d3rlpy's configuration.

    Raises:
        SettingError: an unknown name, or a value of another kind than the default.
    """
    defaults = getattr(import_d3rlpy().algos, algorithm.config)()
    plain = {f.name: getattr(defaults, f.name) for f in fields(defaults)}
    plain = {name: value for name, value in plain.items() if isinstance(value, bool | int | float | str)}
    if algorithm.imagination is not None:
        plain |= vars(algorithm.imagination)
    for name, value in options.items():
        if name not in plain:
            raise SettingError(f"teacher.options has no '{name}' for {algorithm.name}; {did_you_mean(name, plain)}")
        wanted = type(plain[name])
        if type(value) is not wanted and not (wanted is float and type(value) is int):
            raise SettingError(
                f"teacher.options.{name} is {value!r}; {algorithm.name} takes a {wanted.__name__} there."
            )
