"""Settings of online fine-tuning. This file loads neither torch nor a learner."""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from minari_obd.errors import SettingError
from minari_obd.settings.checks import STRICT, check_fraction, check_positive, check_types

__all__ = ["FinetuningRecipe"]

_REMINDER = ("bc_schedule", "bc_states", "bc_target", "bc_decay", "bc_recovery")
_REMINDER += ("proportional_gain", "derivative_gain", "target", "expert_return")


@dataclass(frozen=True)
class FinetuningRecipe:
    """How a cloned policy keeps learning in its environment, by TD3 (Fujimoto et al. 2018, arXiv 1802.09477).

    The actor's loss is that of TD3+BC (Fujimoto and Gu 2021, arXiv 2106.06860), with a reminder of the pairs instead
    of the minibatch's own actions::

        L(pi) = - mean_b Q(s_b, pi(s_b)) / mean_b |Q(s_b, pi(s_b))| + w mean_i (pi(s_i) - a_i)^2

    The s_b come from the replay buffer, the s_i are the same states or the pairs' (:attr:`bc_states`), and the a_i are
    the clone's actions or the pairs' (:attr:`bc_target`). Actions lie on [-1, 1]. The divisor passes no gradient.
    """

    start: Literal["clone", "scratch"] = "clone"
    """Where the actor starts. `clone`: at the student cloned from the pairs. `scratch`: at random weights of the same
    shape; its warm-up takes uniformly random actions."""
    bc_weight: float = 4.0
    """Initial weight w_0 of the reminder, and its upper limit. 0 turns the reminder off."""
    bc_schedule: Literal["guarded", "adaptive", "constant"] = "guarded"
    """How the weight follows the returns of training episodes. `guarded`: it rises while they are worse than the
    clone's and falls otherwise. `adaptive`: by the rule of Zhao et al. 2022. `constant`: not at all."""
    bc_states: Literal["visited", "data"] = "visited"
    """States of the reminder. `visited`: the minibatch's, which the learner reached itself. `data`: those of the pairs,
    or of ``bc_data`` if given. The clone answers any state, so only the pairs must be stored."""
    bc_target: Literal["clone", "actions"] = "clone"
    """Actions of the reminder: the clone's at its states, or those stored with the states. Distilled actions are tuned
    for a certain number of training steps; a student trained on them for longer gets worse."""
    bc_decay: float = 5_000.0
    """Environment steps over which `guarded` lets the weight fall by a factor of e."""
    bc_recovery: float = 1_000.0
    """Environment steps over which `guarded` raises the weight by a factor of e."""
    proportional_gain: float = 7.5e-5
    """K_P of `adaptive`, as a share of w_0 (Zhao et al. 2022: 3e-5 for w_0 = 0.4)."""
    derivative_gain: float = 2.5e-4
    """K_D of `adaptive`, as a share of w_0 (Zhao et al. 2022: 1e-4 for w_0 = 0.4)."""
    target: float = 1.05
    """R* of `adaptive`: the target return, on a scale where 0 is random actions and 1 is the expert."""
    expert_return: float | None = None
    """Return that counts as 1 on the scale of `adaptive`; if not given, the expert's in the reference scores. The other
    schedules do not use it."""
    warmup: int = 5_000
    """Environment steps during which the critics learn and the actor stays fixed, with exploration noise added."""
    learning_rate: float = 3e-4
    """Adam's step size, for actor and critics."""
    batch_size: int = 256
    """Transitions per update, with one update per environment step. Also the maximum number of pairs per reminder."""
    discount: float = 0.99
    """Discount factor of future rewards."""
    target_rate: float = 0.005
    """Share of the way that the target networks move at each of their updates."""
    policy_delay: int = 2
    """Critic updates per update of the actor and the target networks."""
    exploration_noise: float = 0.1
    """Standard deviation of the noise on actions, which lie on [-1, 1], during training."""
    target_noise: float = 0.2
    """Standard deviation of the noise on the target policy's actions. The noise is clipped at 0.5."""
    buffer_size: int = 1_000_000
    """Capacity of the replay buffer, in transitions. It keeps the latest ones."""
    critic_depth: int = 2
    """Hidden layers of each of the two critics."""
    critic_width: int = 256
    """Units in each of these layers."""
    critic_norm: bool = True
    """Whether layer normalisation follows each hidden layer of the critics (Ball et al. 2023, arXiv 2302.02948). It
    bounds their values of untried actions."""
    evaluate_every: int = 5_000
    """Environment steps between evaluations. The start and the end are evaluated as well."""
    episodes: int = 10
    """Episodes per evaluation, without noise and from the same starts each time."""
    threads: int = 1
    """CPU threads of torch. Results are bit-identical for the same number of threads."""
    device: str = "cpu"
    """`cpu`, `cuda`, or `auto`."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    def __post_init__(self) -> None:
        check_types("finetuning", self)
        positive = ("learning_rate", "batch_size", "policy_delay", "buffer_size", "critic_depth", "critic_width")
        positive += ("evaluate_every", "episodes", "threads", "bc_decay", "bc_recovery")
        check_positive("finetuning", **{name: getattr(self, name) for name in positive})
        check_fraction("finetuning", discount=self.discount, target_rate=self.target_rate)
        for name in ("bc_weight", "proportional_gain", "derivative_gain", "warmup", "exploration_noise"):
            if not getattr(self, name) >= 0:
                raise SettingError(f"finetuning.{name} is {getattr(self, name)}; it must be 0 or more.")
        if not self.target_noise >= 0:
            raise SettingError(f"finetuning.target_noise is {self.target_noise}; it must be 0 or more.")
        if self.bc_weight > 0 and self.bc_states == "visited" and self.bc_target == "actions":
            raise SettingError(
                "finetuning.bc_target is 'actions', but the states that the learner visits come without any; use "
                "bc_states 'data' or bc_target 'clone'."
            )
        if self.expert_return is not None and self.bc_weight > 0 and self.bc_schedule != "adaptive":
            raise SettingError(
                f"finetuning.expert_return is set, but bc_schedule '{self.bc_schedule}' does not use it; leave it out "
                "or use 'adaptive'."
            )
        if self.start == "scratch" and self.bc_weight > 0 and self.bc_schedule == "guarded":
            raise SettingError(
                "finetuning.bc_schedule 'guarded' compares returns with the clone's during the warm-up, but a start "
                "from 'scratch' acts at random there; use bc_weight 0 or bc_schedule 'constant'."
            )
        if self.buffer_size < self.batch_size:
            raise SettingError(
                f"finetuning.buffer_size is {self.buffer_size}; it must hold at least one batch of {self.batch_size}."
            )

    def deciding(self) -> dict[str, Any]:
        """Return the settings that decide a run's result, without the reminder's if there is no reminder."""
        settings = asdict(self)
        if self.bc_weight > 0:
            return settings
        return {name: value for name, value in settings.items() if name not in _REMINDER}
