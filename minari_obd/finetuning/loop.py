"""The loop of fine-tuning: learn, evaluate, keep checkpoints. It needs Stable-Baselines3."""

import time
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from minari_obd.cloning.policy import Policy
from minari_obd.environments.making import make_environment
from minari_obd.evaluation.evaluation import evaluate
from minari_obd.finetuning.arguments import PACKAGES, Arguments
from minari_obd.finetuning.checkpoint import RunRecord, read_checkpoint, write_checkpoint
from minari_obd.finetuning.learner import Learner
from minari_obd.finetuning.reminder import Reminder, ReminderPairs, return_scale
from minari_obd.finetuning.report import FinetuneReport
from minari_obd.storage.cache import read_kept
from minari_obd.storage.files import write_text
from minari_obd.support.devices import choose_device
from minari_obd.support.interrupts import deferred_interrupts
from minari_obd.support.progress import progress_bar
from minari_obd.support.tracking import Track, named

__all__ = ["Learning"]

_CHECKPOINT_SECONDS = 120.0


@dataclass
class Learning:
    """A run under way: its learner, and what was measured so far."""

    arguments: Arguments
    policy: Policy
    """The clone."""
    learner: Learner
    record: RunRecord

    @classmethod
    def start(cls, arguments: Arguments, policy: Policy, *, resume: bool) -> "Learning":
        """Make the learner; with ``resume``, as the checkpoint of the same run left it, if there is one.

        Raises:
            DataError: as :meth:`Learner.restore`.
        """
        environment = make_environment(arguments.env_id or "")
        scale = return_scale(arguments.settings, arguments.env_id, arguments.reference)
        reminder = Reminder(arguments.settings, _reminder_pairs(arguments, policy), scale)
        learner = Learner(environment, policy, arguments.settings, reminder, steps=arguments.steps, seed=arguments.seed)
        kept = read_kept(arguments.checkpoint, lambda path: read_checkpoint(path, learner)) if resume else None
        return cls(arguments, policy, learner, kept or RunRecord())

    def run(
        self, *, label: str, folder: Path | None = None, progress: bool = True, track: Track | None = None
    ) -> FinetuneReport:
        """Learn to the end, and return the report; the curve so far is kept in ``folder``.

        Raises:
            MinariObdError: the learner diverged.
            KeyboardInterrupt: after a checkpoint was written.
        """
        steps, every = self.arguments.steps, self.arguments.settings.evaluate_every
        learner, record = self.learner, self.record
        bar = progress_bar(steps, label, show=progress, done=learner.num_timesteps)
        clock = saved = time.monotonic()
        with bar, deferred_interrupts() as is_interrupted:
            while True:
                step = learner.num_timesteps
                is_last = step == steps
                if (step % every == 0 or is_last) and step not in record.steps[-1:]:
                    self.evaluate()
                    report = self.report(label)
                    bar.set_postfix_str(f"{report.curve[-1]:.1f}, reminder {learner.reminder.weight:.3f}")
                    told = {"evaluation": report.curve[-1], "reminder_weight": learner.reminder.weight}
                    named(track, "finetuning", step, told)
                    if folder is not None:
                        write_text(folder / "curve.csv", report.to_csv())
                record.seconds += time.monotonic() - clock
                clock = time.monotonic()
                if is_interrupted() or clock - saved > _CHECKPOINT_SECONDS:
                    write_checkpoint(self.arguments.checkpoint, learner, record)
                    saved = time.monotonic()
                    if is_interrupted():
                        raise KeyboardInterrupt
                if is_last:
                    return self.report(label)
                learner.learn(1, log_interval=1_000_000_000, reset_num_timesteps=False)
                for value in self.record_episodes():
                    named(track, "finetuning", learner.num_timesteps, {"training_return": value})
                bar.update()

    def evaluate(self) -> None:
        """Measure the actor's returns without noise, and record them."""
        given = self.arguments
        judged = evaluate(self._actor(), env=given.env_id, episodes=given.settings.episodes, seed=given.seed)
        self.record.steps.append(self.learner.num_timesteps)
        self.record.returns.append(judged.returns[0].tolist())
        self.record.bc_weights.append(self.learner.reminder.weight)

    def record_episodes(self) -> list[float]:
        """Record the training episodes that have ended, and let the reminder follow them after the warm-up.

        Returns:
            Their returns.
        """
        learner, record = self.learner, self.record
        before = len(record.training_returns)
        for length, value in learner.episodes.ended:
            if learner.num_timesteps > self.arguments.settings.warmup:
                # At the first such episode, all that are recorded ended in the warm-up.
                learner.reminder.after_episode(value, length, warm=record.training_returns or record.returns[0])
            record.training_steps.append(learner.num_timesteps)
            record.training_returns.append(value)
        learner.episodes.ended.clear()
        return record.training_returns[before:]

    def report(self, label: str) -> FinetuneReport:
        """Return the report of what was measured so far."""
        return FinetuneReport(
            env_id=self.arguments.env_id or "",
            seed=self.arguments.seed,
            settings=self.arguments.settings,
            reference=self.arguments.reference,
            label=label,
            subject=repr(self.arguments.ds),
            versions={name: version(name) for name in ("minari-obd", *PACKAGES)},
            policy=self._actor(),
            **vars(self.record),
        )

    def _actor(self) -> Policy:
        task = {"env_id": self.arguments.env_id, "reference": self.arguments.reference}
        lineage = replace(self.policy.lineage, environment_steps=int(self.learner.num_timesteps))
        return replace(self.policy, parameters=self.learner.actor_parameters(), lineage=lineage, **task)


def _reminder_pairs(arguments: Arguments, policy: Policy) -> ReminderPairs | None:
    """Return the pairs that the reminder draws from, answered as the settings say."""
    settings, data = arguments.settings, arguments.bc_data
    if settings.bc_weight == 0 or settings.bc_states == "visited":
        return None
    actions = data.scaled_actions() if settings.bc_target == "actions" else _answers(policy, data.observations)
    device = choose_device(settings.device)
    return ReminderPairs(torch.tensor(data.observations, device=device), torch.tensor(actions, device=device))


def _answers(policy: Policy, observations: np.ndarray) -> np.ndarray:
    """Return a policy's actions on [-1, 1], shape (M, A), for observations of shape (M, S)."""
    rows = np.array_split(observations, 1 + len(observations) // 10_000)
    actions = np.concatenate([policy(each) for each in rows])
    return policy.action_scale.scale(actions).astype(np.float32)
