"""Arguments of a fine-tuning run: whether they fit together, and the name that follows from them."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from minari_obd.cloning.cloning import clone, new_policy
from minari_obd.cloning.imitation import IMITATION, imitate
from minari_obd.cloning.policy import Policy
from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.environments.making import check_environment, make_environment
from minari_obd.errors import DataError, SettingError
from minari_obd.evaluation.subjects import known_reference
from minari_obd.finetuning.reminder import return_scale
from minari_obd.scores.references import ReferenceScores
from minari_obd.settings.finetuning import FinetuningRecipe
from minari_obd.settings.protocols import ADAM_STUDENT, WIDE, protocol_by_name
from minari_obd.sources.data import OfflineData
from minari_obd.storage.cache import check_cache
from minari_obd.support.devices import cache_root
from minari_obd.support.libraries import check_installed
from minari_obd.version import __version__

__all__ = ["PACKAGES", "Arguments", "Pairs"]

PACKAGES = ("stable-baselines3", "gymnasium", "torch", "numpy")
"""The packages whose versions decide a result."""

Pairs = DistilledDataset | OfflineData


@dataclass(frozen=True)
class Arguments:
    """What decides one run of :func:`minari_obd.finetune`; its docstring says what each argument is."""

    ds: Pairs
    env_id: str | None
    steps: int
    seed: int
    settings: FinetuningRecipe
    bc_data: Pairs
    """What the actor is reminded of with ``bc_states="data"``; usually ``ds``."""

    def check(self) -> None:
        """Make sure, before any long work, that everything fits together.

        Raises:
            MissingExtraError, SettingError, NotFoundError, DataError: as :func:`minari_obd.finetune`.
        """
        check_installed("stable_baselines3", "finetune")
        if self.steps <= self.settings.warmup:
            raise SettingError(
                f"{self.steps} steps and a warm-up of {self.settings.warmup}: the actor moves only after the warm-up, "
                "so more steps than that are needed."
            )
        if self.ds.is_discrete or self.bc_data.is_discrete:
            raise SettingError(
                "Fine-tuning is by TD3, which has continuous actions, and these are discrete; evaluate the clone as it "
                "is, or go on from `pairs.to_d3rlpy()` with a learner of your own."
            )
        shapes = [(each.observations.shape[1], each.actions.shape[1]) for each in (self.ds, self.bc_data)]
        if shapes[0] != shapes[1]:
            raise DataError(
                f"The pairs have sizes {shapes[0]} and those to be reminded of {shapes[1]}; take one task's."
            )
        check_environment(self.env_id, shapes[0], "The set of pairs")
        check_cache()
        environment = make_environment(self.env_id or "")
        space: Any = environment.action_space
        for each in (self.ds, self.bc_data):
            if not (np.array_equal(space.low, each.action_low) and np.array_equal(space.high, each.action_high)):
                raise SettingError(
                    f"Actions lie in [{each.action_low}, {each.action_high}] in the pairs and in [{space.low}, "
                    f"{space.high}] in '{self.env_id}'; name the environment that the pairs are about."
                )
        environment.close()
        if self.untrained.protocol.network != "mlp":
            raise SettingError(
                f"TD3's actor is an MLP, and the pairs were made for the network '{self.untrained.protocol.network}'; "
                "use pairs whose protocol has network 'mlp'."
            )
        return_scale(self.settings, self.env_id, self.reference)

    @cached_property
    def key(self) -> str:
        """Name of the run after everything that decides its result, so that only the same run resumes from it."""
        check_installed("stable_baselines3", "finetune")
        packages = {name: version(name) for name in PACKAGES}
        identity = [self.env_id, self.steps, self.seed, self.settings.deciding(), packages, __version__]
        identity += [_identity(self.ds), *(["imitation"] if self.is_imitation else [])]
        if self.settings.bc_weight > 0 and self.settings.bc_states == "data":
            identity.append(_identity(self.bc_data))
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]

    @property
    def checkpoint(self) -> Path:
        """The file that an interrupted run goes on from."""
        return cache_root() / "checkpoints" / f"finetuning-{self.key}.safetensors"

    @cached_property
    def untrained(self) -> Policy:
        """The network that the clone is trained from: it has the clone's shape, normaliser and bounds."""
        protocol = self.ds.protocol if isinstance(self.ds, DistilledDataset) else protocol_by_name("whole_data")
        if self.is_imitation:
            protocol = IMITATION
        elif protocol == ADAM_STUDENT.widened(WIDE):  # actors that learn online are narrow MLPs
            protocol = ADAM_STUDENT
        policy = new_policy([self.ds], students=1, protocol=protocol, seed=self.seed)
        return replace(policy, env_id=self.ds.env_id, reference=self.ds.reference)

    @property
    def is_imitation(self) -> bool:
        """Whether the pairs are for infinitely wide students, which a network then imitates."""
        return isinstance(self.ds, DistilledDataset) and self.ds.protocol.is_solved

    def cloned(self, *, progress: bool = False) -> Policy:
        """Return the policy to start from, one network."""
        if self.is_imitation:
            return imitate(clone(self.ds), protocol=IMITATION, seed=self.seed, progress=progress)
        return clone(self.ds, seed=self.seed, start=self.untrained)

    @cached_property
    def reference(self) -> ReferenceScores | None:
        """The returns that scores are measured between, if there are any."""
        return known_reference(self.env_id or "", self.untrained)


def _identity(pairs: Pairs) -> list[Any]:
    bounds = [pairs.normaliser.mean, pairs.normaliser.scale, pairs.action_low, pairs.action_high]
    protocol = asdict(pairs.protocol) if isinstance(pairs, DistilledDataset) else None
    return [pairs.content_sha256, protocol, [each.tolist() for each in bounds]]
