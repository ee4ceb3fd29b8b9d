"""DistilledDataset: a few hundred (state, action) pairs with all that is needed to clone from them and trust them."""

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minari_obd.distilled.provenance import Provenance
from minari_obd.errors import DataError, printable
from minari_obd.scores.references import ReferenceScores
from minari_obd.settings.protocols import StudentProtocol
from minari_obd.sources.data import QUANTILES
from minari_obd.sources.scaling import ActionScale, Normaliser
from minari_obd.support.licences import check_license

if TYPE_CHECKING:
    import torch
    from d3rlpy.dataset import MDPDataset
    from minari import MinariDataset
    from torch.utils.data import DataLoader, TensorDataset

    from minari_obd.scores.report import EvaluationReport

__all__ = ["DistilledDataset", "Transitions"]


@dataclass(frozen=True)
class Transitions:
    """What the environment answers to each pair: one real step from the pair's state with the pair's action."""

    rewards: np.ndarray
    """Reward of the step, shape (M,), float32."""
    next_observations: np.ndarray
    """Observation after it, shape (M, S), float32, raw units."""
    terminations: np.ndarray
    """Whether the step ended in a terminal state, shape (M,), bool."""

    def __post_init__(self) -> None:
        for name, kind in (("rewards", np.float32), ("next_observations", np.float32), ("terminations", np.bool_)):
            value = np.array(getattr(self, name), dtype=kind)
            if value.ndim != (2 if name == "next_observations" else 1) or len(value) != len(self.rewards):
                raise DataError(f"The {name} of transitions have shape {value.shape}, not one entry a pair.")
            if not np.isfinite(value).all():
                raise DataError(f"The {name} of transitions hold values that are not finite.")
            value.setflags(write=False)
            object.__setattr__(self, name, value)


@dataclass(frozen=True)
class DistilledDataset:
    """M synthetic pairs in the environment's units, ready for behavioural cloning."""

    observations: np.ndarray
    """Observations, shape (M, S), float32, raw units."""
    actions: np.ndarray
    """Actions, shape (M, A), float32, raw units."""
    normaliser: Normaliser
    """Of the source's observations; students see normalised ones."""
    protocol: StudentProtocol
    """The student and training that the pairs were made for."""
    provenance: Provenance
    action_low: np.ndarray
    """Lowest action, shape (A,)."""
    action_high: np.ndarray
    """Highest action, shape (A,)."""
    env_id: str | None = None
    """Plain Gymnasium id of the environment, if known."""
    reference: ReferenceScores | None = None
    """Reference scores of the environment, if there are any."""
    evaluation: dict[str, Any] | None = None
    """The last evaluation report, as JSON values; None if there was none."""
    license: str | None = None
    """The Hub's id of the licence, inherited from the source or given; None if the source names none."""
    source_quantiles: np.ndarray | None = None
    """Quantiles 0, 0.05, 0.25, 0.5, 0.75, 0.95, 1 of the source's observations, shape (7, S), raw units, if known."""
    transitions: Transitions | None = None
    """One simulated step from each pair, see :meth:`with_transitions`."""
    origin: str | None = field(default=None, compare=False)
    """Where it was loaded from: a folder, a Minari id, or ``organisation/name@commit``."""

    def __post_init__(self) -> None:
        for name, dimensions in (("observations", 2), ("actions", 2), ("action_low", 1), ("action_high", 1)):
            value = np.array(getattr(self, name), dtype=np.float32)
            if value.ndim != dimensions:
                raise DataError(f"Distilled {name} have shape {value.shape}; expected {dimensions} dimension(s).")
            if not np.isfinite(value).all():
                raise DataError(f"The distilled {name} hold values that are not finite.")
            value.setflags(write=False)
            object.__setattr__(self, name, value)
        if len(self.observations) == 0 or len(self.observations) != len(self.actions):
            raise DataError(f"{len(self.observations)} observations and {len(self.actions)} actions make no pairs.")
        if self.observations.shape[1] != self.normaliser.mean.size:
            raise DataError(
                f"Observations have {self.observations.shape[1]} dimensions but the normaliser has "
                f"{self.normaliser.mean.size}."
            )
        if not self.actions.shape[1] == self.action_low.size == self.action_high.size:
            raise DataError(f"Actions have {self.actions.shape[1]} dimensions but their bounds {self.action_low.size}.")
        if not (self.action_low < self.action_high).all():
            raise DataError("Each action's lower bound must be below its higher one.")
        self._check_extras()

    def _check_extras(self) -> None:
        shape = self.observations.shape
        check_license(self.license)
        if self.transitions is not None and self.transitions.next_observations.shape != shape:
            raise DataError(f"Successors have shape {self.transitions.next_observations.shape}; expected {shape}.")
        if self.source_quantiles is not None:
            quantiles = np.array(self.source_quantiles, dtype=np.float32)
            if quantiles.shape != (len(QUANTILES), shape[1]) or not np.isfinite(quantiles).all():
                raise DataError(
                    f"source_quantiles have shape {quantiles.shape}; expected finite numbers of shape "
                    f"{(len(QUANTILES), shape[1])}."
                )
            quantiles.setflags(write=False)
            object.__setattr__(self, "source_quantiles", quantiles)

    def __len__(self) -> int:
        return len(self.observations)

    def __repr__(self) -> str:
        return printable(
            f"DistilledDataset({len(self)} pairs by {self.provenance.method} from {self.provenance.source}, "
            f"observations {self.observations.shape[1]}, actions {self.actions.shape[1]}, environment {self.env_id})"
        )

    @cached_property
    def content_sha256(self) -> str:
        """Hash of the pairs (and their transitions): the same on every machine and in every file format."""
        arrays = {"observations": self.observations, "actions": self.actions}
        if self.transitions is not None:
            arrays |= {name: getattr(self.transitions, name) for name in self.transitions.__dataclass_fields__}
        digest = hashlib.sha256()
        for name, value in arrays.items():
            digest.update(f"{name}{value.shape}".encode())
            digest.update(np.ascontiguousarray(value, value.dtype.newbyteorder("<")).tobytes())
        return digest.hexdigest()

    @property
    def action_scale(self) -> ActionScale:
        """Between raw actions and those on [-1, 1]."""
        return ActionScale(self.action_low, self.action_high)

    def scaled_actions(self) -> np.ndarray:
        """Actions in student units, where the bounds are -1 and 1, shape (M, A)."""
        return self.action_scale.scale(self.actions)

    def normalised(self) -> tuple[np.ndarray, np.ndarray]:
        """States and actions as students see them: z-scored (M, S), and on [-1, 1] (M, A)."""
        return self.normaliser.normalise(self.observations), self.scaled_actions()

    def tensors(
        self, device: "torch.device | str" = "cpu", *, normalised: bool = True
    ) -> tuple["torch.Tensor", "torch.Tensor"]:
        """Float32 tensors (M, S) and (M, A), as students see them or, if not ``normalised``, in raw units."""
        import torch

        states, actions = self.normalised() if normalised else (self.observations, self.actions)
        return torch.tensor(states, device=device), torch.tensor(actions, device=device)

    def torch_dataset(self, *, normalised: bool = True) -> "TensorDataset":
        """A ``torch.utils.data.Dataset`` of (state, action)."""
        from torch.utils.data import TensorDataset

        return TensorDataset(*self.tensors(normalised=normalised))

    def dataloader(self, batch_size: int = 64, *, normalised: bool = True, seed: int = 0) -> "DataLoader[Any]":
        """A shuffled ``torch.utils.data.DataLoader`` of (state, action) batches."""
        import torch
        from torch.utils.data import DataLoader

        generator = torch.Generator().manual_seed(seed)
        return DataLoader(
            self.torch_dataset(normalised=normalised), batch_size=batch_size, shuffle=True, generator=generator
        )

    # What follows hands over to modules above this one, so that each is found where a user looks for it.

    def save(self, folder: str | Path) -> Path:
        """Write the dataset as a folder, the same that is published; an older distilled set there is replaced.

        Raises:
            SettingError: the folder holds something else, or cannot be written.
        """
        from minari_obd.distilled.folder import save_folder

        return save_folder(self, Path(folder))

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = False,
        revision: str | None = None,
        license: str | None = None,
        token: str | None = None,
    ) -> str:
        """Publish the folder as a Hugging Face dataset repository, in one commit; return the commit's address.

        Args:
            repo_id: ``organisation/name``; made if it does not exist.
            private: make a new repository private.
            revision: branch to publish on, made if it does not exist; the main one if not given.
            license: the Hub's id of the licence, such as ``cc-by-4.0``; the dataset's own if not given.
            token: a Hugging Face token; that of ``hf auth login`` or ``HF_TOKEN`` if not given.

        Raises:
            SettingError: a malformed id, or a repository that holds something else.
            HubError: the server refused, or cannot be reached.
        """
        from minari_obd.distilled.repository import push

        dataset = self if license is None else replace(self, license=license)
        return push(dataset, repo_id, private=private, revision=revision, token=token)

    def to_minari(self, dataset_id: str, *, data_format: str | None = None) -> "MinariDataset":
        """Store the pairs as a Minari dataset of one-step episodes in the user's Minari folder.

        Args:
            dataset_id: ``(namespace/)name-vN``.
            data_format: ``hdf5`` (the default), ``arrow`` or ``parquet``.

        Raises:
            DataError: a malformed id, or one that exists.
        """
        from minari_obd.distilled.minari import to_minari

        return to_minari(self, dataset_id, data_format=data_format)

    @staticmethod
    def from_minari(dataset: "MinariDataset | str") -> "DistilledDataset":
        """Read pairs that :meth:`to_minari` stored, from a Minari dataset or its id.

        Raises:
            NotFoundError: no such id.
            FormatError: ordinary data, or damaged pairs.
        """
        from minari_obd.distilled.minari import from_minari

        return from_minari(dataset)

    def to_d3rlpy(self) -> "MDPDataset":
        """Return the pairs as d3rlpy's ``MDPDataset``, one transition a pair.

        Raises:
            MissingExtraError: d3rlpy is not installed.
        """
        from minari_obd.distilled.d3rlpy import to_d3rlpy

        return to_d3rlpy(self)

    def with_transitions(self, *, drop: bool = False) -> "DistilledDataset":
        """Simulate each pair one step and add the real reward and successor, for learners of values.

        Args:
            drop: leave pairs out from which no step can be simulated, instead of refusing all.

        Raises:
            DataError: the environment's state cannot be set from an observation, or some pairs are no states of it.
            SettingError: the environment is not known.
        """
        from minari_obd.distilled.transitions import with_transitions

        return with_transitions(self, drop=drop)

    def with_evaluation(self, report: "EvaluationReport") -> "DistilledDataset":
        """Return the dataset with a report to publish.

        The comparisons of the last report, if it was of the same environment, stay.
        """
        last = self.evaluation or {}
        kept = {"comparisons": last["comparisons"]} if last.get("comparisons") else {}
        return replace(self, evaluation=report.to_json() | (kept if last.get("env_id") == report.env_id else {}))
