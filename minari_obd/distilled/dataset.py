"""DistilledDataset: a few hundred (state, action) pairs, and what can be done with them."""

from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minari import MinariDataset

from minari_obd.distilled.contents import Contents
from minari_obd.distilled.d3rlpy import to_d3rlpy
from minari_obd.distilled.folder import save_folder
from minari_obd.distilled.minari import from_minari, to_minari
from minari_obd.distilled.repository import push
from minari_obd.distilled.transitions import with_transitions
from minari_obd.errors import DataError
from minari_obd.scores.report import EvaluationReport
from minari_obd.settings.checks import check_instance, whole_number
from minari_obd.support.licences import check_known_license

if TYPE_CHECKING:
    import torch
    from d3rlpy.dataset import MDPDataset
    from torch.utils.data import DataLoader, TensorDataset

__all__ = ["DistilledDataset"]


class DistilledDataset(Contents):
    """M synthetic pairs in the environment's units, ready for behavioural cloning."""

    @classmethod
    def of(cls, contents: Contents) -> "DistilledDataset":
        """Wrap what a reader gave."""
        return cls(**{field.name: getattr(contents, field.name) for field in fields(contents)})

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

    def save(self, folder: str | Path) -> Path:
        """Write the dataset as a folder, the same that is published; an older distilled set there is replaced.

        Raises:
            SettingError: the folder holds something else, or cannot be written.
        """
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
        dataset = self if license is None else replace(self, license=check_known_license(license))
        return push(dataset, repo_id, private=private, revision=revision, token=token)

    def to_minari(self, dataset_id: str, *, data_format: str | None = None) -> MinariDataset:
        """Store the pairs as a Minari dataset of one-step episodes in the user's Minari folder.

        Args:
            dataset_id: ``(namespace/)name-vN``.
            data_format: ``hdf5`` (the default), ``arrow`` or ``parquet``.

        Raises:
            DataError: a malformed id, or one that exists.
        """
        return to_minari(self, dataset_id, data_format=data_format)

    @staticmethod
    def from_minari(dataset: MinariDataset | str) -> "DistilledDataset":
        """Read pairs that :meth:`to_minari` stored, from a Minari dataset or its id.

        Raises:
            NotFoundError: no such id.
            FormatError: ordinary data, or damaged pairs.
        """
        return DistilledDataset.of(from_minari(dataset))

    def to_d3rlpy(self) -> "MDPDataset":
        """Return the pairs as d3rlpy's ``MDPDataset``, one transition a pair.

        Raises:
            MissingExtraError: d3rlpy is not installed.
        """
        return to_d3rlpy(self)

    def with_transitions(self, *, drop: bool = False) -> "DistilledDataset":
        """Simulate each pair one step and add the real reward and successor, for learners of values.

        Args:
            drop: leave pairs out from which no step can be simulated, instead of refusing all.

        Raises:
            DataError: the environment's state cannot be set from an observation, or some pairs are no states of it.
            SettingError: the environment is not known.
        """
        return with_transitions(self, drop=drop)

    def first(self, count: int) -> "DistilledDataset":
        """Return the first ``count`` pairs, which make a set of their own if they were distilled as one.

        Raises:
            DataError: they were not; ``distillation.nested`` of its recipe has no such size.
            SettingError: the count is no whole number.
        """
        count = whole_number("count", count)
        if count not in self.nested or count >= len(self) or self.transitions is not None:
            before = ", before with_transitions" if self.transitions is not None else ""
            advice = f"distil with size=[{count}, {len(self)}], or --size {len(self)} --distillation.nested {count}"
            if not 0 < count < len(self):
                advice = f"the set has {len(self)} pairs, so give a number from 1 to {len(self) - 1}"
            raise DataError(
                f"The first {count} pairs make no set of their own here (those that do: "
                f"{list(self.nested) or 'none'}{before}); {advice}."
            )
        pairs = {name: getattr(self, name)[:count] for name in ("observations", "actions")}
        return replace(self, **pairs, evaluation=None)

    def with_evaluation(self, report: EvaluationReport) -> "DistilledDataset":
        """Return the dataset with a report to publish.

        If it has no comparisons, those of the last report stay, where that was of the same environment.

        Raises:
            SettingError: something else than a report.
        """
        check_instance("with_evaluation", report, EvaluationReport)
        last = self.evaluation
        if last is not None and last.env_id == report.env_id and not report.comparisons:
            report = replace(report, comparisons=last.comparisons)
        return replace(self, evaluation=report)
