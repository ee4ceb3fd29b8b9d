"""Fitting the ensemble to the transitions of an offline dataset: cached, resumable, the same for a seed."""

import hashlib
import json
import time
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from minari_obd.dynamics.ensemble import DynamicsEnsemble, draw_parameters, predict
from minari_obd.errors import MinariObdError
from minari_obd.sources.data import OfflineData
from minari_obd.sources.transitions import transitions
from minari_obd.storage.cache import check_cache, read_kept
from minari_obd.storage.tensors import read_tensors, reading, write_tensors
from minari_obd.support.devices import cache_root
from minari_obd.support.interrupts import deferred_interrupts
from minari_obd.support.precision import matmul_precision
from minari_obd.support.progress import progress_bar
from minari_obd.support.streams import Stream

__all__ = ["LEAST_SUCCESSORS", "DynamicsRun", "DynamicsSettings"]

LEAST_SUCCESSORS = 40
"""Steps with a known next state that an ensemble needs. Of fewer, less than two could be held out to judge it."""

_CHECKPOINT_SECONDS = 60.0
_FORMAT = 1  # part of the cache key: raised when the same settings would give another ensemble
_GAMMA = 0.99  # `transitions` wants a discount; none of the columns used here depends on it
_KEY = "record"
_MARGIN = 0.5  # standard deviations beyond the data's own range that states may reach
_MOST_HELD_OUT = 4_000


@dataclass(frozen=True)
class DynamicsSettings:
    """Settings of the fit, which are part of the cache key. Others' ensembles: OfflineRL-Kit, 2512.04341."""

    members: int = 5
    depth: int = 3
    width: int = 200
    updates: int = 6_000
    batch_size: int = 256
    """Transitions per update and member."""
    learning_rate: float = 1e-3
    """Initial step size of AdamW; it falls to zero along a cosine."""
    weight_decay: float = 5e-5
    evaluate_every: int = 500
    """Updates between looks at held-out transitions."""
    patience: int = 5
    """Looks without a gain of 1% after which the fit stops. The parameters of the best look are kept."""

    @classmethod
    def suited(cls, count: int) -> Self:
        """Return settings for so many transitions: of fewer than 3,000, two updates for each, at least 1,000.

        Of 360 and of 1,052 steps of Hopper medium, the best look is at 500 and at 1,000 updates in any case.
        """
        settings = cls()
        return replace(settings, updates=min(settings.updates, max(1_000, 2 * count)))


@dataclass
class _Record:
    """What a resume needs besides the tensors."""

    update: int = 0
    best_loss: float = float("inf")
    best_update: int = 0
    waited: int = 0
    threads: int = field(default_factory=torch.get_num_threads)


@dataclass(frozen=True)
class DynamicsRun:
    """One fit of one ensemble to one dataset."""

    data: OfflineData
    seed: int
    device: torch.device
    settings: DynamicsSettings = field(default_factory=lambda: DynamicsSettings())

    @cached_property
    def path(self) -> Path:
        """File of the fitted ensemble, named by all that decides its weights."""
        identity = [_FORMAT, asdict(self.settings), self.seed, self.data.content_sha256, self.device.type]
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        return cache_root() / "dynamics" / f"{digest[:32]}.safetensors"

    @property
    def checkpoint(self) -> Path:
        """The file that an interrupted fit goes on from."""
        return cache_root() / "checkpoints" / f"dynamics-{self.path.name}"

    @property
    def is_cached(self) -> bool:
        """Whether this very ensemble has been fitted before."""
        return self.path.is_file()

    def estimate_seconds(self, updates: int = 10) -> float:
        """Measure a few updates of a throw-away copy on this machine; zero if there is nothing to fit."""
        if self.is_cached:
            return 0.0
        fit = _Fit.begin(self)
        fit.update(0)  # the first one warms caches up
        begun = time.perf_counter()
        for update in range(1, updates + 1):
            fit.update(update)
        float(fit.parameters[0].detach().sum())  # waits for the device
        return (time.perf_counter() - begun) / updates * self.settings.updates

    def begun(self) -> DynamicsEnsemble:
        """Return the ensemble as it is before its first update, to try what it costs."""
        return _Fit.begin(self).finished(_Record())

    def fit(self, *, progress: bool = True) -> DynamicsEnsemble:
        """Fit the ensemble, or load what an earlier call with the same data and settings fitted.

        An interrupted fit goes on from its checkpoint, and ends with the same bits on the CPU.

        Raises:
            DataError: no step of the data has a known successor.
            MinariObdError: the fit diverged.
        """
        if (kept := read_kept(self.path, DynamicsEnsemble.load)) is not None:
            return kept.to(self.device)
        check_cache()
        fit, settings = _Fit.begin(self), self.settings
        record = read_kept(self.checkpoint, fit.read) or _Record()
        torch.set_num_threads(record.threads)  # bits depend on it
        saved = time.monotonic()
        bar = progress_bar(settings.updates, "fitting dynamics", unit="update", show=progress, done=record.update)
        with bar, deferred_interrupts() as is_interrupted, matmul_precision("float32"):
            while record.update < settings.updates and record.waited < settings.patience:
                fit.update(record.update)
                record.update += 1
                bar.update()
                if record.update % settings.evaluate_every == 0 or record.update == settings.updates:
                    fit.look(record)
                    bar.set_postfix_str(f"held-out loss {record.best_loss:.3g}")
                if is_interrupted() or time.monotonic() - saved > _CHECKPOINT_SECONDS:
                    fit.write(self.checkpoint, record)
                    saved = time.monotonic()
                    if is_interrupted():
                        raise KeyboardInterrupt
        ensemble = fit.finished(record)
        ensemble.save(self.path)
        self.checkpoint.unlink(missing_ok=True)
        return ensemble


class _Fit:
    """The fit while it runs."""

    def __init__(self, run: DynamicsRun, table: dict[str, Tensor], split: tuple[np.ndarray, np.ndarray]) -> None:
        self.run, self.split = run, split
        states, following = table["observations"], table["next_observations"]
        goes_on = 1.0 - table["terminals"]
        outcome = torch.cat([following - states, table["rewards"]], dim=1)
        # A terminated step may have no recorded successor, so its change is no target.
        known = outcome[goes_on[:, 0] > 0] if bool(goes_on.any()) else outcome
        self.offset, self.scale = known.mean(0), known.std(0).clamp_min(1e-6)
        self.inputs = torch.cat([states, table["actions"]], dim=1)
        self.wanted = torch.cat([(outcome - self.offset) / self.scale, table["terminals"]], dim=1)
        self.states, self.goes_on = states, goes_on[:, 0]
        settings, sizes = run.settings, [self.inputs.shape[1], self.wanted.shape[1]]
        generator = torch.Generator().manual_seed(Stream.DYNAMICS.seed(run.seed))
        sizes[1:1] = [settings.width] * settings.depth
        drawn = draw_parameters(sizes, settings.members, generator)
        self.parameters = [p.to(run.device).requires_grad_() for p in drawn]
        self.best = [p.detach().clone() for p in self.parameters]
        self.optimiser = torch.optim.AdamW(
            self.parameters, settings.learning_rate, weight_decay=settings.weight_decay, foreach=True
        )

    @classmethod
    def begin(cls, run: DynamicsRun) -> "_Fit":
        """Put the transitions on the device and hold some out."""
        columns = transitions(run.data, _GAMMA)
        names = "observations", "actions", "rewards", "next_observations", "terminals"
        table = {name: torch.from_numpy(columns[name]).to(run.device) for name in names}
        order = Stream.DYNAMICS.generator(run.seed).permutation(len(columns["rewards"]))
        held_out = max(1, min(_MOST_HELD_OUT, len(order) // 20))
        return cls(run, table, (order[held_out:] if len(order) > 1 else order, order[:held_out]))

    def update(self, number: int) -> None:
        """Make one update of every member, each on transitions of its own."""
        settings, training = self.run.settings, self.split[0]
        rng = Stream.DYNAMICS.generator(self.run.seed, 1, number)
        rows = training[rng.integers(len(training), size=(settings.members, settings.batch_size))]
        rate = settings.learning_rate * 0.5 * (1.0 + np.cos(np.pi * number / settings.updates))
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad()
        self._losses(self.parameters, torch.from_numpy(rows).to(self.run.device, non_blocking=True)).sum().backward()
        self.optimiser.step()

    @torch.no_grad()
    def look(self, record: _Record) -> None:
        """Judge the members by held-out transitions, and keep them if they are the best so far."""
        loss = float(self._losses(self.parameters, self._held_out).mean())
        if not np.isfinite(loss):
            raise MinariObdError(
                f"The dynamics ensemble diverged at update {record.update}; check the data for extreme values, or "
                "leave it out with student_states.share = 0."
            )
        record.waited = 0 if loss < 0.99 * record.best_loss else record.waited + 1
        if loss < record.best_loss:
            record.best_loss, record.best_update = loss, record.update
            for best, now in zip(self.best, self.parameters, strict=True):
                best.copy_(now)

    @property
    def _held_out(self) -> Tensor:
        rows = torch.from_numpy(self.split[1]).to(self.run.device)
        return rows.expand(self.run.settings.members, -1)

    def _losses(self, parameters: list[Tensor], rows: Tensor) -> Tensor:
        """Squared error of changes and rewards, and cross-entropy of the end, for rows (K, B); shape (K,)."""
        found, wanted = predict(parameters, self.inputs[rows]), self.wanted[rows]
        error = (found[..., :-1] - wanted[..., :-1]).square().mean(-1) * self.goes_on[rows]
        ending = binary_cross_entropy_with_logits(found[..., -1], wanted[..., -1], reduction="none")
        return (error + ending).mean(-1)

    @torch.no_grad()
    def finished(self, record: _Record) -> DynamicsEnsemble:
        """Return the best ensemble, with what the held-out transitions say of it."""
        size = self.states.shape[1]
        low, high = (torch.quantile(self.states[:: 1 + len(self.states) // 50_000], q, 0) for q in (0.0005, 0.9995))
        zero = torch.zeros((), device=self.run.device)
        ensemble = DynamicsEnsemble(
            self.best, self.offset, self.scale, low - _MARGIN, high + _MARGIN, zero, self._details(record, size)
        )
        rows = torch.from_numpy(self.split[0]).to(self.run.device)
        count = min(4_000, len(rows) // ensemble.members)
        some = rows[torch.linspace(0, len(rows) - 1, count * ensemble.members).long()].reshape(ensemble.members, count)
        inputs = self.inputs[some]
        apart = ensemble.step(inputs[..., :size], inputs[..., size:]).disagreement
        return DynamicsEnsemble(**{**vars(ensemble), "limit": torch.quantile(apart.flatten(), 0.999)})

    def _details(self, record: _Record, size: int) -> dict[str, Any]:
        """How the ensemble was fitted and how well it predicts held-out next states."""
        return {
            **asdict(self.run.settings),
            "seed": self.run.seed,
            "data_sha256": self.run.data.content_sha256,
            "best_update": record.best_update,
            "held_out_loss": record.best_loss,
            "unexplained": self._unexplained(size),
        }

    def _unexplained(self, size: int) -> float:
        """Share of the variance of held-out next states that stays unexplained; 1 if nothing tells it."""
        rows = self._held_out
        found = predict(self.best, self.inputs[rows])[..., :size].mean(0) * self.scale[:size]
        wanted = self.wanted[rows[0]][:, :size] * self.scale[:size]
        kept = self.goes_on[rows[0]] > 0
        if int(kept.sum()) < 2:
            return 1.0
        error = (found - wanted)[kept].square().mean(0)
        # Of independent noise, half of a step's change can be predicted from the state alone. So the errors are
        # compared with the lesser of two variances: that of the change and that of the next state.
        following = (self.states[rows[0]] + wanted)[kept]
        least = torch.minimum(wanted[kept].var(0), following.var(0))
        moving = least > 1e-8
        unexplained = float((error[moving] / least[moving]).mean()) if bool(moving.any()) else 0.0
        return min(1.0, unexplained) if np.isfinite(unexplained) else 1.0

    def write(self, path: Path, record: _Record) -> None:
        """Write a checkpoint."""
        state = self.optimiser.state_dict()["state"]
        tensors = {f"optimiser/{i}/{name}": t for i, each in state.items() for name, t in each.items()}
        for i, (now, best) in enumerate(zip(self.parameters, self.best, strict=True)):
            tensors |= {f"parameters/{i}": now, f"best/{i}": best}
        write_tensors(path, {name: t.detach().clone() for name, t in tensors.items()}, asdict(record), _KEY)

    def read(self, path: Path) -> _Record:
        """Go back to where a checkpoint was written."""
        with reading(f"The checkpoint '{path}' is damaged"):
            values, tensors = read_tensors(path, _KEY)
            record, count = _Record(**values), len(self.parameters)
            parameters, best = ([tensors[f"{name}/{i}"] for i in range(count)] for name in ("parameters", "best"))
        state: dict[int, dict[str, Tensor]] = {}
        with torch.no_grad():
            for i in range(count):
                self.parameters[i].copy_(parameters[i])
                self.best[i].copy_(best[i])
                below = f"optimiser/{i}/"
                state[i] = {n.removeprefix(below): t for n, t in tensors.items() if n.startswith(below)}
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": state})
        return record
