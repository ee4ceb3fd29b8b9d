"""One training of one teacher with d3rlpy. What leaves it is a plain FrozenTeacher."""

import hashlib
import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from minari_obd.dynamics.ensemble import MOST_UNEXPLAINED, DynamicsEnsemble
from minari_obd.dynamics.fitting import LEAST_SUCCESSORS, DynamicsRun, DynamicsSettings
from minari_obd.errors import DataError, MinariObdError, SettingError
from minari_obd.registry import TEACHERS
from minari_obd.settings.checks import whole_number
from minari_obd.sources.data import OfflineData
from minari_obd.sources.transitions import successor_count, transitions
from minari_obd.storage.cache import check_cache, read_kept
from minari_obd.storage.files import write_text
from minari_obd.support.devices import cache_root
from minari_obd.support.interrupts import deferred_interrupts
from minari_obd.support.libraries import check_installed, import_d3rlpy
from minari_obd.support.precision import matmul_precision, product_precision
from minari_obd.support.progress import progress_bar
from minari_obd.support.streams import Stream
from minari_obd.support.tracking import Track
from minari_obd.teachers.algorithms import GAMMA, Algorithm, check_kind, check_options, target_rate
from minari_obd.teachers.averaging import ActorAverage
from minari_obd.teachers.batches import Imagined, minibatches
from minari_obd.teachers.freezing import at_confidence, freeze
from minari_obd.teachers.frozen import FrozenTeacher
from minari_obd.teachers.loading import load_teacher
from minari_obd.teachers.training_state import (
    TrainingRecord,
    contained,
    d3rlpy_device,
    generator_of,
    log_text,
    look,
    read_training,
    write_training,
)

__all__ = ["TeacherRun"]

_CHECKPOINT_SECONDS = 120.0
_LOOK_EVERY, _LOOKED_AT, _CHOSEN_ON = 500, 1_000, 4_096  # updates, states, transitions


@dataclass(frozen=True)
class TeacherRun:
    """One training of one teacher on one dataset: what it is cached under, how long it will take, and the run."""

    data: OfflineData
    algorithm: Algorithm
    steps: int
    seed: int
    device: torch.device
    average: float = 0.0
    precision: str = "float32"
    """Of the matrix products of its updates: ``float32``, ``bfloat16`` or ``tf32``."""
    confidence: float | None = None
    """Of discrete actions; no part of the training, which one cache serves for all."""

    @classmethod
    def of(
        cls,
        data: OfflineData,
        algorithm: str,
        steps: int | None,
        seed: int,
        device: torch.device,
        options: Mapping[str, Any] | None = None,
        average: float = 0.0,
        precision: str = "auto",
        confidence: float | None = None,
    ) -> "TeacherRun":
        """Look the algorithm up, fill in its own number of steps if none is given, and check the settings.

        Raises:
            NotFoundError, MissingExtraError, SettingError: as :func:`train_teacher`.
        """
        found: Algorithm = TEACHERS.get(algorithm)
        check_installed("d3rlpy", "distill")
        check_kind(found, data.is_discrete, data.dataset_id, average, confidence)
        seed, steps = whole_number("seed", seed, 0), whole_number("steps", found.steps if steps is None else steps, 1)
        given = {**found.options, **(options or {})}
        if options:
            check_options(found, options)
        if found.has_targets:
            rate = target_rate(steps, given.get("gamma", GAMMA))
            followed = {"target_update_interval": round(1.0 / rate)} if found.is_discrete else {"tau": rate}
            given = {**followed, **given}
        found = replace(found, options=given)
        if found.split()[1] is not None and (count := successor_count(data)) < LEAST_SUCCESSORS:
            raise DataError(
                f"'{data.dataset_id}' has {count} steps with a known next state, and the dynamics ensemble of "
                f"'{found.name}' needs at least {LEAST_SUCCESSORS}; give more data, or another teacher algorithm."
            )
        if not 0.0 <= average <= 1.0:
            raise SettingError(f"A teacher's average is over a share of its updates, from 0 to 1; got {average}.")
        precision = product_precision(found.precision if precision == "auto" else precision, device)
        return cls(data, found, steps, seed, device, average, precision, confidence)

    @cached_property
    def cache_folder(self) -> Path:
        """Folder of the trained teacher, named by all that decides its weights."""
        identity = json.dumps(self._details(), sort_keys=True)
        return cache_root() / "teachers" / hashlib.sha256(identity.encode()).hexdigest()[:32]

    @property
    def is_cached(self) -> bool:
        """Whether this very teacher has been trained before."""
        return (self.cache_folder / "teacher.safetensors").is_file()

    def cached(self) -> FrozenTeacher | None:
        """Return what an earlier call with the same data and settings trained, if it is there and undamaged."""
        kept = read_kept(self.cache_folder / "teacher.safetensors", load_teacher)
        return None if kept is None else at_confidence(kept, self.data, self.confidence)

    def _details(self) -> dict[str, Any]:
        return {
            "algorithm": self.algorithm.name,
            "options": self.algorithm.options,
            **({"encoders": self.algorithm.encoders} if self.algorithm.encoders else {}),
            **({"imagination": vars(settings)} if (settings := self.algorithm.split()[1]) else {}),
            **({"average": self.average} if self.average else {}),
            **({"best_episodes": self.data.best_share} if self.data.best_share < 1.0 else {}),
            **({"precision": self.precision} if self.precision != "float32" else {}),
            **({"device": self.device.type} if self.device.type != "cpu" else {}),
            "steps": self.steps,
            "seed": self.seed,
            "data": self.data.dataset_id,
            "data_sha256": self.data.content_sha256,
            "d3rlpy": version("d3rlpy"),
        }

    def estimate_seconds(self, steps: int = 20) -> float:
        """Measure a few updates of a throw-away copy on this machine; zero if there is nothing to train."""
        if self.is_cached:
            return 0.0
        imagination, dynamics = self.algorithm.split()[1], self._dynamics
        ensemble = None if dynamics is None else dynamics.begun()
        with contained(self.seed, self.device), matmul_precision(self.precision):
            algo = self._create()
            rng = generator_of(self.seed, TrainingRecord())
            batches = self._batches(algo, rng, imagined=self._imagined(algo, ensemble))
            begun = time.perf_counter()
            algo.impl.update(next(batches), 0)  # it warms caches up, and makes the first rollouts
            start = time.perf_counter()
            for step in range(1, steps + 1):
                algo.impl.update(next(batches), step)
            seconds = (time.perf_counter() - start) / steps * self.steps
        if imagination is None or dynamics is None:
            return seconds
        return seconds + (start - begun) * self.steps / imagination.refresh + dynamics.estimate_seconds()

    @property
    def checkpoint(self) -> Path:
        """The file that an interrupted training goes on from."""
        return cache_root() / "checkpoints" / f"teacher-{self.cache_folder.name}.safetensors"

    def train(self, *, progress: bool = True, track: Track | None = None) -> FrozenTeacher:
        """Train, or load what an earlier call with the same data and settings trained.

        An interrupted training goes on from its checkpoint, and ends with the same bits on the CPU. Beside the
        teacher, ``training.csv`` holds its losses and the mean value of its actions, and the folder ``other`` the same
        teacher with the actor that was not kept, where there is an average.

        Raises:
            MinariObdError: the training diverged, or the cache cannot be written.
        """
        if (cached := self.cached()) is not None:
            return cached
        check_cache()
        ensemble = self._fitted(progress)
        with contained(self.seed, self.device):
            algo = self._create()
            modules = dict(algo.impl.modules.create_checkpointer(d3rlpy_device(self.device)).modules)
            if (imagined := self._imagined(algo, ensemble)) is not None:
                modules["imagined"] = imagined
            average = None
            if self.average:
                average = ActorAverage(algo, self.steps - math.ceil(self.average * self.steps) + 1)
                modules["average"] = average.module
            kept = read_kept(self.checkpoint, lambda path: read_training(path, modules, self.device))
            record = kept or TrainingRecord()
            torch.set_num_threads(record.threads)
            self._update(algo, modules, record, average, progress, track)
            teacher = freeze(algo, self.data, self._details()) if average is None else self._choose(algo, average)
        write_text(self.cache_folder / "training.csv", log_text(record.log))
        teacher.save(self.cache_folder)
        self.checkpoint.unlink(missing_ok=True)
        return at_confidence(teacher, self.data, self.confidence)

    @property
    def _dynamics(self) -> DynamicsRun | None:
        """The fit of the ensemble that a model-based algorithm learns from."""
        settings = self.algorithm.split()[1]
        if settings is None:
            return None
        return DynamicsRun(self.data, self.seed, self.device, DynamicsSettings(updates=settings.ensemble_updates))

    def _fitted(self, progress: bool) -> DynamicsEnsemble | None:
        if self._dynamics is None:
            return None
        ensemble = self._dynamics.fit(progress=progress)
        if ensemble.unexplained > MOST_UNEXPLAINED:
            raise MinariObdError(
                f"The dynamics ensemble predicts {1.0 - ensemble.unexplained:.1%} of the variance of held-out next "
                f"states, too little for '{self.algorithm.name}' to learn from; use another teacher algorithm."
            )
        return ensemble

    def _imagined(self, algo: Any, ensemble: DynamicsEnsemble | None) -> Imagined | None:
        settings = self.algorithm.split()[1]
        if settings is None or ensemble is None:
            return None
        starts = torch.from_numpy(self.data.normaliser.normalise(self.data.observations)).to(self.device)
        return Imagined(algo, ensemble, starts, self.data.actions.shape[1], settings, self.seed)

    def _choose(self, algo: Any, average: ActorAverage) -> FrozenTeacher:
        """Freeze with both actors, and return the one whose loss on the data is less."""
        batch = next(self._batches(algo, Stream.TEACHER.generator(self.seed, 1), _CHOSEN_ON))
        losses = average.losses(batch, self.seed)
        frozen = {"last": freeze(algo, self.data, self._details())}
        algo.impl.policy.load_state_dict(average.weights)
        frozen["average"] = freeze(algo, self.data, self._details())
        kept, other = sorted(frozen, key=lambda name: losses[name])
        told = {"actor_losses": losses, "actor_chosen_by": f"its own loss on {_CHOSEN_ON:,} transitions of the data"}
        frozen[other].with_details(actor=other, **told).save(self.cache_folder / "other")
        return frozen[kept].with_details(actor=kept, **told)

    def _update(
        self, algo: Any, modules: Any, record: TrainingRecord, average: ActorAverage | None, progress: bool, track: Any
    ) -> None:
        """Make the updates that are missing, and write checkpoints."""
        rng, imagined = generator_of(self.seed, record), modules.get("imagined")
        if imagined is not None:
            imagined.step = record.step
        batches = self._batches(algo, rng, imagined=imagined)
        states = self.data.normaliser.normalise(self.data.observations[:: 1 + len(self.data) // _LOOKED_AT])
        saved, title = time.monotonic(), f"training {self.algorithm.name}"
        bar = progress_bar(self.steps, title, unit="update", show=progress, done=record.step)
        with bar, deferred_interrupts() as is_interrupted, matmul_precision(self.precision):
            while record.step < self.steps:
                losses = algo.impl.update(next(batches), record.step)
                record.step += 1
                if average is not None:
                    average.note(record.step)
                bar.update()
                is_look = record.step % _LOOK_EVERY == 0 or record.step == self.steps
                if is_look:
                    value = float(algo.predict_value(states, algo.predict(states)).mean())
                    look(record, losses, value, track)
                    bar.set_postfix_str(f"mean value {value:.3g}")
                if (is_look or record.step % 100 == 1) and not all(np.isfinite(loss) for loss in losses.values()):
                    raise MinariObdError(
                        f"The training of {self.algorithm.name} diverged at update {record.step}: {losses}; "
                        "try another teacher algorithm, or check the scale of the rewards."
                    )
                if is_interrupted() or time.monotonic() - saved > _CHECKPOINT_SECONDS:
                    record.rng = dict(rng.bit_generator.state)
                    write_training(self.checkpoint, modules, self.device, record)
                    saved = time.monotonic()
                    if is_interrupted():
                        raise KeyboardInterrupt

    def _create(self) -> Any:
        d3rlpy = import_d3rlpy()
        encoders = {
            f"{network}_encoder_factory".lstrip("_"): d3rlpy.models.VectorEncoderFactory(**layers)
            for network, layers in self.algorithm.encoders.items()
        }
        config = getattr(d3rlpy.algos, self.algorithm.config)(**self.algorithm.split()[0], **encoders)
        algo = config.create(device=d3rlpy_device(self.device))
        algo.create_impl((self.data.observations.shape[1],), self.data.actions.shape[1])
        return algo

    def _batches(
        self, algo: Any, rng: np.random.Generator, size: int | None = None, imagined: Imagined | None = None
    ) -> Iterator[Any]:
        """Minibatches of the data's transitions, and of imagined ones if there are such."""
        table = transitions(self.data, algo.config.gamma)
        if self.data.is_discrete:
            table |= {name: table[name].argmax(1)[:, None] for name in ("actions", "next_actions")}
        columns = {name: torch.from_numpy(column).to(self.device) for name, column in table.items()}
        count: int = size or algo.config.batch_size
        return minibatches(columns, count, rng, d3rlpy_device(self.device), imagined)
