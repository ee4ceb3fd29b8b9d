"""Fine-tuning: a policy cloned from pairs goes on learning in its environment, reminded of what it could."""

import contextlib
import hashlib
import io
import json
import time
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from minari_obd.cloning.cloning import clone
from minari_obd.cloning.policy import Policy
from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.environments.making import make_environment
from minari_obd.errors import DataError, SettingError
from minari_obd.evaluation.evaluation import evaluate
from minari_obd.evaluation.subjects import check_fit, known_reference
from minari_obd.finetuning.checkpoint import RunRecord, read_checkpoint, write_checkpoint
from minari_obd.finetuning.report import FinetuneReport
from minari_obd.scores.references import ReferenceScores
from minari_obd.settings.finetuning import FinetuningRecipe
from minari_obd.sources.data import OfflineData
from minari_obd.sources.loading import load_offline_data
from minari_obd.storage.files import check_no_report, check_writable, write_text
from minari_obd.support.devices import cache_root, cpu_threads
from minari_obd.support.interrupts import deferred_interrupts
from minari_obd.support.libraries import check_installed
from minari_obd.support.progress import progress_bar
from minari_obd.version import __version__

if TYPE_CHECKING:
    from minari_obd.finetuning.learner import Learner

__all__ = ["Finetuning", "finetune"]

_CHECKPOINT_SECONDS = 120.0


_PACKAGES = ("stable-baselines3", "gymnasium", "torch", "numpy")


_Pairs = DistilledDataset | OfflineData


def finetune(
    ds: DistilledDataset | OfflineData,
    env_id: str | None = None,
    *,
    steps: int,
    seed: int = 0,
    settings: FinetuningRecipe | None = None,
    bc_data: DistilledDataset | OfflineData | str | None = None,
    out: str | Path | None = None,
    label: str = "fine-tuned",
    resume: bool = True,
    progress: bool = True,
) -> FinetuneReport:
    """Clone a policy from pairs and let it go on learning in its environment.

    The learner is Stable-Baselines3's TD3 with the loss of :class:`FinetuningRecipe`. A checkpoint is written every two
    minutes and at an interrupt; called again with the same arguments, a run goes on from it and ends as if it had
    never stopped, to the bit on the CPU.

    Args:
        ds: what the policy is cloned from: distilled pairs, or a whole offline dataset.
        env_id: a plain registered Gymnasium id; the dataset's own if not given.
        steps: environment steps; there is one update a step.
        seed: of the clone, the learner, its episodes and the evaluations' starts.
        settings: everything else; the defaults of :class:`FinetuningRecipe` if not given.
        bc_data: with ``bc_states="data"`` in the settings, whose states the actor is reminded at, itself or as a Minari
            id; ``ds`` if not given. They are answered as the clone answers them, or by their own actions with
            ``bc_target="actions"``.
        out: a folder for ``curve.csv`` (after every evaluation), ``report.json`` and ``policy.safetensors``.
        label: what the run is called in tables and pictures.
        resume: go on from a checkpoint of the same run, if there is one.
        progress: show a bar.

    Raises:
        MissingExtraError: Stable-Baselines3 is not installed.
        SettingError: settings that make no sense together, an environment that does not fit the pairs, or a folder
            that cannot be written or holds a report.
        NotFoundError: the environment or ``bc_data`` does not exist.
        DataError: pairs that do not fit each other.
        MinariObdError: the learner diverged.
    """
    settings = settings or FinetuningRecipe()
    if bc_data is not None:
        settings.check_reminder_data()
    reminder = ds if bc_data is None else load_offline_data(bc_data) if isinstance(bc_data, str) else bc_data
    run = Finetuning(ds, env_id or ds.env_id, steps, seed, settings, reminder, label)
    return run.run(out, resume=resume, progress=progress)


@dataclass(frozen=True)
class Finetuning:
    """One run of :func:`finetune`, with its arguments."""

    ds: _Pairs
    env_id: str | None
    steps: int
    seed: int
    settings: FinetuningRecipe
    bc_data: _Pairs
    label: str = "fine-tuned"

    def run(self, out: str | Path | None = None, *, resume: bool = True, progress: bool = True) -> FinetuneReport:
        """Check everything that can be checked, do the work, save the result."""
        folder = None if out is None else Path(out)
        if folder is not None:
            check_no_report(folder)
        self.check()
        if folder is not None:
            check_writable(folder / "report.json")
        with cpu_threads(self.settings.threads):
            learner, record = self._start(resume)
            try:
                report = self._loop(learner, record, folder, progress)
            finally:
                learner.episodes.close()
        if folder is not None:
            report.save(folder)
        self.checkpoint.unlink(missing_ok=True)
        return report

    def check(self) -> None:
        """Make sure, before any long work, that everything fits together.

        Raises:
            MissingExtraError, SettingError, NotFoundError, DataError: as :func:`finetune`.
        """
        check_installed("stable_baselines3", "finetune")
        if self.env_id is None:
            raise SettingError(
                "It is not known what environment this belongs to; name one with env_id='Hopper-v5', say."
            )
        if self.seed < 0 or self.steps <= self.settings.warmup:
            raise SettingError(
                f"{self.steps} steps, a warm-up of {self.settings.warmup} and seed {self.seed}: the actor moves only "
                "after the warm-up, so more steps than that are needed, and a seed from 0 up."
            )
        if self.bc_data is not self.ds:
            self.settings.check_reminder_data()
        shapes = [(each.observations.shape[1], each.actions.shape[1]) for each in (self.ds, self.bc_data)]
        if shapes[0] != shapes[1]:
            raise DataError(
                f"The pairs have sizes {shapes[0]} and those to be reminded of {shapes[1]}; take one task's."
            )
        environment = make_environment(self.env_id)
        check_fit(self.policy, environment)
        space: Any = environment.action_space
        for each in (self.ds, self.bc_data):
            if not (np.array_equal(space.low, each.action_low) and np.array_equal(space.high, each.action_high)):
                raise SettingError(
                    f"Actions lie in [{each.action_low}, {each.action_high}] in the pairs and in [{space.low}, "
                    f"{space.high}] in '{self.env_id}'; name the environment that the pairs are about."
                )
        environment.close()
        if self.policy.protocol.network != "mlp":
            raise SettingError(
                f"TD3's actor is an MLP, and the pairs were made for the network '{self.policy.protocol.network}'; use "
                "pairs whose protocol has network 'mlp'."
            )
        if self.settings.follows_returns:
            _ = self._controlled(0.0)

    @cached_property
    def policy(self) -> Policy:
        """The clone that the actor starts from, or has the shape of."""
        with cpu_threads(self.settings.threads):
            return clone(self.ds, seed=self.seed)

    @cached_property
    def key(self) -> str:
        """Name of the run after everything that decides its result, so that only the same run resumes from it."""
        check_installed("stable_baselines3", "finetune")
        packages = {name: version(name) for name in _PACKAGES}
        identity = [self.env_id, self.steps, self.seed, self.settings.deciding(), packages, __version__]
        identity.append(_identity(self.ds))
        if self.settings.bc_weight > 0 and self.settings.bc_states == "data":
            identity.append(_identity(self.bc_data))
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]

    @property
    def checkpoint(self) -> Path:
        """The file that an interrupted run goes on from."""
        return cache_root() / "checkpoints" / f"finetuning-{self.key}.safetensors"

    @cached_property
    def _reference(self) -> ReferenceScores | None:
        return known_reference(self.env_id or "", self.policy)

    @cached_property
    def _control(self) -> ReferenceScores:
        """What returns the rule `adaptive` calls 0 and 1."""
        expert, reference = self.settings.expert_return, self._reference
        if expert is not None:
            return ReferenceScores(0.0 if reference is None else reference.random, expert, "finetuning.expert_return")
        if reference is None:
            raise SettingError(
                f"'{self.env_id}' has no reference scores for bc_schedule 'adaptive' to go by; say what an expert "
                "returns with finetuning.expert_return, or use bc_schedule 'guarded', which needs no scale."
            )
        return reference

    def _start(self, resume: bool) -> tuple["Learner", "RunRecord"]:
        with contextlib.redirect_stderr(io.StringIO()):  # Gym's notice, where Gym is installed
            from minari_obd.finetuning.learner import Reminder, make_learner

        observations = torch.tensor(self.bc_data.observations)
        actions = torch.tensor(self.bc_data.scaled_actions())
        if self.settings.bc_target == "clone":
            actions = torch.tensor(self._clone_actions())
        environment = make_environment(self.env_id or "")
        reminder = Reminder(observations, actions)
        learner = make_learner(environment, self.policy, reminder, self.settings, steps=self.steps, seed=self.seed)
        if resume and self.checkpoint.is_file():
            return learner, read_checkpoint(self.checkpoint, learner)
        return learner, RunRecord()

    def _clone_actions(self) -> np.ndarray:
        rows = np.array_split(self.bc_data.observations, 1 + len(self.bc_data.observations) // 10_000)
        actions = np.concatenate([self.policy(each) for each in rows])
        return self.policy.action_scale.scale(actions).astype(np.float32)

    def _loop(self, learner: "Learner", record: "RunRecord", folder: Path | None, progress: bool) -> FinetuneReport:
        bar = progress_bar(self.steps, self.label, show=progress)
        clock = saved = time.monotonic()
        with bar, deferred_interrupts() as is_interrupted:
            bar.update(learner.num_timesteps)
            while True:
                step = learner.num_timesteps
                is_last = step == self.steps
                if (step % self.settings.evaluate_every == 0 or is_last) and step not in record.steps[-1:]:
                    report = self._look(learner, record)
                    bar.set_postfix_str(f"{report.curve[-1]:.1f}, reminder {learner.bc_weight:.3f}")
                    if folder is not None:
                        write_text(folder / "curve.csv", report.to_csv())
                record.seconds += time.monotonic() - clock
                clock = time.monotonic()
                if is_interrupted() or clock - saved > _CHECKPOINT_SECONDS:
                    write_checkpoint(self.checkpoint, learner, record)
                    saved = time.monotonic()
                    if is_interrupted():
                        raise KeyboardInterrupt
                if is_last:
                    return self._report(learner, record)
                learner.learn(1, log_interval=1_000_000_000, reset_num_timesteps=False)
                self._adapt(learner, record)
                bar.update()

    def _look(self, learner: "Learner", record: "RunRecord") -> FinetuneReport:
        judged = evaluate(self._policy_of(learner), env=self.env_id, episodes=self.settings.episodes, seed=self.seed)
        record.steps.append(learner.num_timesteps)
        record.returns.append(judged.returns[0].tolist())
        record.bc_weights.append(learner.bc_weight)
        return self._report(learner, record)

    def _adapt(self, learner: "Learner", record: "RunRecord") -> None:
        for length, value in learner.episodes.ended:
            if self.settings.follows_returns and learner.num_timesteps > self.settings.warmup:
                if record.floor is None:  # as yet all episodes are the warm-up's
                    warm = [self._controlled(each) for each in record.training_returns or record.returns[0]]
                    record.floor, record.average = self.settings.return_floor(warm), fmean(warm)
                learner.bc_weight, record.average = self.settings.next_bc_weight(
                    learner.bc_weight, record.average, self._controlled(value), length, floor=record.floor
                )
            record.training_steps.append(learner.num_timesteps)
            record.training_returns.append(value)
        learner.episodes.ended.clear()

    def _controlled(self, value: float) -> float:
        """A return in the units of the rule that moves the reminder's weight."""
        if self.settings.bc_schedule == "guarded":
            return value
        return 0.01 * float(self._control.normalise(np.array(value)))

    def _policy_of(self, learner: "Learner") -> Policy:
        return replace(
            self.policy, parameters=learner.actor_parameters(), env_id=self.env_id, reference=self._reference
        )

    def _report(self, learner: "Learner", record: "RunRecord") -> FinetuneReport:
        measured = {name: value for name, value in vars(record).items() if name not in ("floor", "average")}
        return FinetuneReport(
            env_id=self.env_id or "",
            seed=self.seed,
            settings=self.settings,
            reference=self._reference,
            label=self.label,
            subject=repr(self.ds),
            versions={name: version(name) for name in ("minari-obd", *_PACKAGES)},
            policy=self._policy_of(learner),
            **measured,
        )


def _identity(pairs: _Pairs) -> list[Any]:
    bounds = [pairs.normaliser.mean, pairs.normaliser.scale, pairs.action_low, pairs.action_high]
    protocol = asdict(pairs.protocol) if isinstance(pairs, DistilledDataset) else None
    return [pairs.content_sha256, protocol, [each.tolist() for each in bounds]]
