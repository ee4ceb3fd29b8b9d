"""Settings of online fine-tuning. This file loads neither torch nor a learner."""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from minari_obd.errors import SettingError
from minari_obd.settings.checks import STRICT, check_fraction, check_positive

__all__ = ["FinetuningRecipe"]

_REMINDER = ("bc_schedule", "bc_states", "bc_target", "bc_decay", "bc_recovery")
_REMINDER += ("proportional_gain", "derivative_gain", "target", "expert_return")


@dataclass(frozen=True)
class FinetuningRecipe:
    """How a cloned policy goes on learning in its environment, by TD3 (Fujimoto et al. 2018, arXiv 1802.09477).

    The actor's loss is that of TD3+BC (Fujimoto and Gu 2021, arXiv 2106.06860), with a reminder of the pairs where
    TD3+BC has the minibatch's own actions::

        L(pi) = - mean_b Q(s_b, pi(s_b)) / mean_b |Q(s_b, pi(s_b))| + w mean_i (pi(s_i) - a_i)^2

    with s_b from the replay buffer, s_i the same or the pairs' states (:attr:`bc_states`), a_i the clone's actions or
    the pairs' own (:attr:`bc_target`), actions on [-1, 1], and no gradient through the divisor.
    """

    start: Literal["clone", "scratch"] = "clone"
    """Where the actor starts: at the student cloned from the pairs, or at random weights of the same shape, with
    uniformly random actions for the warm-up."""
    bc_weight: float = 4.0
    """The reminder's weight w at the start, w_0, and its upper limit; 0 for no reminder."""
    bc_schedule: Literal["guarded", "adaptive", "constant"] = "guarded"
    """How the weight follows the training episodes' returns: up while they are worse than the clone's and down while
    they are not, by the rule of Zhao et al. 2022, or not at all."""
    bc_states: Literal["visited", "data"] = "visited"
    """Where the actor is reminded: at the states of the minibatch, which it came to itself, or at those of the pairs
    (or of other data given as ``bc_data``). The clone answers any state, so the pairs are all that has to be kept."""
    bc_target: Literal["clone", "actions"] = "clone"
    """What the reminder's states are to be answered with: the actions that the clone answers them with, or those they
    came with. Distilled actions are made for a certain number of steps of training; trained further on, a student gets
    worse."""
    bc_decay: float = 5_000.0
    """Environment steps in which `guarded` lets the weight fall by a factor of e."""
    bc_recovery: float = 1_000.0
    """Environment steps in which `guarded` raises the weight by a factor of e."""
    proportional_gain: float = 7.5e-5
    """K_P of `adaptive` (Zhao et al. 2022: 3e-5 for w_0 = 0.4), as a share of w_0."""
    derivative_gain: float = 2.5e-4
    """K_D of `adaptive` (Zhao et al. 2022: 1e-4 for w_0 = 0.4), as a share of w_0."""
    target: float = 1.05
    """R* of `adaptive`: the return to be reached, 0 being random actions' and 1 the expert's."""
    expert_return: float | None = None
    """What counts as 1 there, in returns; the reference scores' expert if not given. Of no use to the others."""
    warmup: int = 5_000
    """Environment steps in which the critics learn and the actor stays as it is, exploration noise added."""
    learning_rate: float = 3e-4
    """Of actor and critics, by Adam."""
    batch_size: int = 256
    """Transitions an update; one update an environment step. Also the most pairs a reminder takes at once."""
    discount: float = 0.99
    """Of future rewards."""
    target_rate: float = 0.005
    """How far the target networks follow at each of their updates."""
    policy_delay: int = 2
    """Updates of the critics for each of the actor and the targets."""
    exploration_noise: float = 0.1
    """Standard deviation of the noise on actions, which lie on [-1, 1]."""
    target_noise: float = 0.2
    """The same of the target policy's actions (clipped at 0.5)."""
    buffer_size: int = 1_000_000
    """Transitions kept, the latest ones."""
    critic_depth: int = 2
    """Hidden layers of each of the two critics."""
    critic_width: int = 256
    """Units in each."""
    critic_norm: bool = True
    """Whether each hidden layer of the critics is followed by layer normalisation (Ball et al. 2023, arXiv 2302.02948),
    which bounds what they can promise for actions that nobody has tried."""
    evaluate_every: int = 5_000
    """Environment steps between two evaluations; there is one at the start and one at the end besides."""
    episodes: int = 10
    """Episodes of an evaluation, from the same starts each time, without noise."""
    threads: int = 1
    """CPU threads of torch. Results are equal to the bit for one number of threads."""
    device: str = "cpu"
    """`cpu`, `cuda`, or `auto`."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    def __post_init__(self) -> None:
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
                "finetuning.bc_target is 'actions', but states that the learner visits came with none; use bc_states "
                "'data', or bc_target 'clone'."
            )
        if self.expert_return is not None and self.bc_weight > 0 and self.bc_schedule != "adaptive":
            raise SettingError(
                f"finetuning.expert_return is given, but bc_schedule '{self.bc_schedule}' needs no scale of returns; "
                "leave it out, or use 'adaptive'."
            )
        if self.start == "scratch" and self.bc_weight > 0 and self.bc_schedule == "guarded":
            raise SettingError(
                "finetuning.bc_schedule 'guarded' compares returns with the clone's in the warm-up, where a start from "
                "'scratch' acts at random; use bc_weight 0, or bc_schedule 'constant'."
            )
        if self.buffer_size < self.batch_size:
            raise SettingError(
                f"finetuning.buffer_size is {self.buffer_size}, less than one batch of {self.batch_size}; keep more."
            )

    def deciding(self) -> dict[str, Any]:
        """Return the settings that decide a run's result: none of the reminder's where there is no reminder."""
        settings = asdict(self)
        if self.bc_weight > 0:
            return settings
        return {name: value for name, value in settings.items() if name not in _REMINDER}
