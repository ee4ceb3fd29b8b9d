"""Learner: Stable-Baselines3's TD3, its actor cloned from pairs; everything random is drawn from (seed, step)."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import TD3
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import polyak_update
from stable_baselines3.td3.policies import TD3Policy
from torch import Tensor
from torch.nn.functional import mse_loss

from minari_obd.cloning.policy import Policy
from minari_obd.errors import DataError, MinariObdError
from minari_obd.finetuning.episodes import SeededEpisodes
from minari_obd.finetuning.networks import NormalisedPolicy, Standardise
from minari_obd.finetuning.reminder import Reminder
from minari_obd.settings.finetuning import FinetuningRecipe
from minari_obd.support.devices import choose_device
from minari_obd.support.streams import Stream

__all__ = ["Learner"]

_NOISE_CLIP = 0.5
_BUFFER = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


class Learner(TD3):
    """TD3 that leaves the actor as it is during the warm-up, and reminds it of what it could afterwards.

    No global random number is drawn: exploration has a generator for each environment step, minibatches and target
    noise have one for each update. So a resume has no generator to restore.
    """

    def __init__(
        self,
        environment: gym.Env,
        policy: Policy,
        settings: FinetuningRecipe,
        reminder: Reminder,
        *,
        steps: int,
        seed: int,
    ) -> None:
        """Make a learner whose actor does what ``policy``, of one MLP student, does; with ``scratch``, has its shape.

        Args:
            environment: where it learns.
            policy: the clone.
            settings: everything that is not among the other arguments.
            reminder: holds the actor to what it could at the start.
            steps: environment steps of the whole run; the replay buffer needs to hold no more.
            seed: of every random number.
        """
        protocol = policy.protocol
        layers = {"pi": [protocol.width] * protocol.depth, "qf": [settings.critic_width] * settings.critic_depth}
        arguments: dict[str, Any] = {
            "net_arch": layers,
            "features_extractor_class": Standardise,
            "features_extractor_kwargs": {"mean": policy.normaliser.mean, "scale": policy.normaliser.scale},
            "optimizer_kwargs": {"fused": True},  # Adam in one pass over the weights
        }
        with torch.random.fork_rng(devices=[]):  # networks initialise themselves from the global generator
            torch.manual_seed(Stream.LEARNER.seed(seed))
            super().__init__(
                NormalisedPolicy if settings.critic_norm else TD3Policy,
                SeededEpisodes(environment, seed),
                learning_rate=settings.learning_rate,
                buffer_size=min(settings.buffer_size, steps),
                learning_starts=settings.batch_size,
                batch_size=settings.batch_size,
                tau=settings.target_rate,
                gamma=settings.discount,
                policy_delay=settings.policy_delay,
                target_policy_noise=settings.target_noise,
                target_noise_clip=_NOISE_CLIP,
                policy_kwargs=arguments,
                device=choose_device(settings.device),
            )
        self.set_logger(Logger(None, []))
        assert self.env is not None
        self._last_obs = np.asarray(self.env.reset())  # at once, so that there is a state to save from the start
        self.settings, self.reminder, self.base_seed = settings, reminder, seed
        self.clone = deepcopy(self.actor)
        """The actor as it was cloned, which answers the states that the learner visits."""
        for network in [self.clone, *([self.actor, self.actor_target] if settings.start == "clone" else [])]:
            for ours, theirs in zip(network.mu.parameters(), policy.parameters, strict=True):
                ours.data.copy_(theirs[0].T if ours.dim() == 2 else theirs[0, 0])

    def _sample_action(
        self, learning_starts: int, action_noise: Any = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        rng = Stream.EXPLORATION.generator(self.base_seed, self.num_timesteps)
        if self.settings.start == "scratch" and self.num_timesteps < self.settings.warmup:
            scaled = rng.uniform(-1.0, 1.0, (1, *self._action_shape))
        else:
            with torch.no_grad():
                acted = self.actor(torch.as_tensor(self._last_obs, device=self.device)).cpu().numpy()
            self._check_finite(acted)  # simulators do worse than refuse
            scaled = np.clip(acted + rng.normal(0.0, self.settings.exploration_noise, acted.shape), -1.0, 1.0)
        scaled = scaled.astype(np.float32)
        return self.policy.unscale_action(scaled), scaled

    def train(self, gradient_steps: int, batch_size: int = 256) -> None:
        """Update the critics as TD3 does and, after the warm-up, the actor by the loss of :class:`FinetuningRecipe`."""
        for _ in range(gradient_steps):
            self._n_updates += 1
            rng = Stream.FINETUNING.generator(self.base_seed, self._n_updates)
            self._update(batch_size, rng)

    def _update(self, batch_size: int, rng: np.random.Generator) -> None:
        assert self.replay_buffer is not None
        batch = self.replay_buffer._get_samples(rng.integers(self.replay_buffer.size(), size=batch_size))
        with torch.no_grad():
            drawn = rng.normal(0.0, self.target_policy_noise, tuple(batch.actions.shape)).astype(np.float32)
            noise = torch.from_numpy(drawn).to(self.device).clamp(-_NOISE_CLIP, _NOISE_CLIP)
            following = (self.actor_target(batch.next_observations) + noise).clamp(-1.0, 1.0)
            values = torch.cat(self.critic_target(batch.next_observations, following), dim=1).amin(1, keepdim=True)
            goals = batch.rewards + (1.0 - batch.dones) * self.gamma * values
        loss = torch.stack([mse_loss(q, goals) for q in self.critic(batch.observations, batch.actions)]).sum()
        _descend(self.critic.optimizer, loss)
        if self._n_updates % self.policy_delay == 0:
            if self.num_timesteps > self.settings.warmup:
                _descend(self.actor.optimizer, self._actor_loss(batch.observations, batch_size, rng))
                polyak_update(self.actor.parameters(), self.actor_target.parameters(), self.tau)
            polyak_update(self.critic.parameters(), self.critic_target.parameters(), self.tau)

    def _actor_loss(self, observations: Tensor, batch_size: int, rng: np.random.Generator) -> Tensor:
        acted = self.actor(observations)
        values = self.critic.q1_forward(observations, acted)
        loss = -values.mean() / values.detach().abs().mean().clamp_min(1e-8)
        if self.reminder.weight > 0:
            if self.reminder.pairs is None:
                with torch.no_grad():
                    actions = self.clone(observations)
            else:
                states, actions = self.reminder.pairs.draw(batch_size, rng)
                acted = self.actor(states)
            loss = loss + self.reminder.weight * mse_loss(acted, actions)
        return loss

    def actor_parameters(self) -> list[Tensor]:
        """The actor as one student: W_1 (1, S, H), b_1 (1, 1, H), ..., on the CPU.

        Raises:
            MinariObdError: its weights are not finite.
        """
        found = []
        for each in self.actor.mu.parameters():
            values = each.detach().cpu()
            self._check_finite(values.numpy())
            found.append(values.T.contiguous()[None] if values.dim() == 2 else values.clone()[None, None])
        return found

    def _check_finite(self, values: np.ndarray) -> None:
        if not np.isfinite(values).all():
            raise MinariObdError(
                f"The learner diverged within {self.num_timesteps} steps; use a lower finetuning.learning_rate."
            )

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return everything that changes but the reminder, as tensors and as JSON values."""
        assert self.replay_buffer is not None
        tensors = {f"policy/{name}": value for name, value in self.policy.state_dict().items()}
        for part in ("actor", "critic"):
            for i, values in getattr(self, part).optimizer.state_dict()["state"].items():
                tensors |= {f"{part}_optimiser/{i}/{name}": value for name, value in values.items()}
        size = self.replay_buffer.size()
        tensors |= {f"buffer/{name}": torch.from_numpy(getattr(self.replay_buffer, name)[:size]) for name in _BUFFER}
        actions = np.array(self.episodes.actions, np.float32).reshape(-1, *self._action_shape)
        tensors |= {"episode/actions": torch.from_numpy(actions)}
        tensors |= {"episode/observation": torch.from_numpy(np.array(self._last_obs))}
        numbers = {"step": self.num_timesteps, "updates": self._n_updates, "episode": self.episodes.episode}
        return tensors, {**numbers, "position": self.replay_buffer.pos}

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Go back to a :meth:`state`.

        Raises:
            DataError: the episode, replayed, does not end where it did.
        """
        assert self.replay_buffer is not None
        assert self.env is not None
        self.policy.load_state_dict(_under("policy", tensors))
        for part in ("actor", "critic"):
            optimiser, state = getattr(self, part).optimizer, {}
            for name, value in _under(f"{part}_optimiser", tensors).items():
                index, key = name.split("/")
                state.setdefault(int(index), {})[key] = value
            optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
        kept = _under("buffer", tensors)
        size = len(kept["rewards"])
        for name, value in kept.items():
            getattr(self.replay_buffer, name)[:size] = value.numpy()
        self.replay_buffer.pos, self.replay_buffer.full = numbers["position"], size == self.replay_buffer.buffer_size
        self.num_timesteps, self._n_updates = numbers["step"], numbers["updates"]
        self.episodes.episode = numbers["episode"] - 1
        observation = self.env.reset()
        for action in tensors["episode/actions"].numpy():
            observation = self.env.step(action[None])[0]
        self._last_obs = np.asarray(observation)
        if not np.array_equal(self._last_obs, tensors["episode/observation"].numpy()):
            raise DataError(
                "The environment answered the same actions from the same seed otherwise than before, so the run cannot "
                "go on where it was; restart it with resume=False."
            )
        self.episodes.ended.clear()

    @property
    def _action_shape(self) -> tuple[int, ...]:
        shape = self.action_space.shape
        assert shape is not None
        return shape

    @property
    def episodes(self) -> SeededEpisodes:
        """The environment that it learns in."""
        assert self.env is not None
        found: Any = self.env.envs[0]  # pyright: ignore[reportAttributeAccessIssue]  # a DummyVecEnv has them
        while not isinstance(found, SeededEpisodes):
            found = found.env
        return found


def _descend(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    """Step by the gradient of this optimiser's parameters alone: the actor's loss needs none of the critics'."""
    parameters = optimiser.param_groups[0]["params"]
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        parameter.grad = gradient
    optimiser.step()


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    start = f"{prefix}/"
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
