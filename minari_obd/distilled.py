"""DistilledDataset: a few hundred (state, action) pairs with all that is needed to clone from them and trust them."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from minari_obd.card import printable
from minari_obd.errors import DataError
from minari_obd.offline import Normaliser
from minari_obd.protocol import StudentProtocol
from minari_obd.statistics import ReferenceScores

if TYPE_CHECKING:
    import torch
    from minari import MinariDataset
    from torch.utils.data import DataLoader, TensorDataset

__all__ = ["DistilledDataset", "Provenance"]


@dataclass(frozen=True)
class Provenance:
    """Where a distilled dataset comes from; every value is JSON."""

    recipe: dict[str, Any]
    """The full recipe, defaults filled in."""
    method: str
    """How the pairs were made."""
    source: str
    """Id of the offline dataset."""
    source_sha256: str
    """Content hash of the offline dataset, see :attr:`OfflineData.content_sha256`."""
    source_steps: int
    """Steps in the offline dataset."""
    seed: int
    package_version: str
    created: str
    """UTC, ISO 8601."""
    teacher: dict[str, Any] | None = None
    """How the teacher was trained; None if the method needs none."""
    targets: dict[str, Any] = field(default_factory=dict)
    """What the targets' weights were made with, such as `sdw`'s alpha."""
    outer_step: int | None = None
    """Outer step that the pairs are from; None for selected pairs."""
    offline_loss: float | None = None
    """Weighted squared action error of fresh students on held-out states."""
    stop_reason: str | None = None
    """Why the outer loop stopped."""
    history: list[dict[str, float]] = field(default_factory=list)
    """Looks at the held-out loss: step, held_out, training, gradient_norm, rate_factor."""
    device: str = "cpu"
    threads: int | None = None
    """CPU threads of torch: promises to the bit hold for one number of them."""
    precision: str = "float32"
    """Type of the products in the distiller's students: ``bfloat16``, ``tf32`` or ``float32``."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True}


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

    def __len__(self) -> int:
        return len(self.observations)

    def __repr__(self) -> str:
        return printable(
            f"DistilledDataset({len(self)} pairs by {self.provenance.method} from {self.provenance.source}, "
            f"observations {self.observations.shape[1]}, actions {self.actions.shape[1]}, environment {self.env_id})"
        )

    def scaled_actions(self) -> np.ndarray:
        """Actions in student units, where the bounds are -1 and 1, shape (M, A)."""
        return (2.0 * (self.actions - self.action_low) / (self.action_high - self.action_low) - 1.0).astype(np.float32)

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
        from minari_obd.folder import save_folder

        return save_folder(self, Path(folder))

    def push_to_hub(self, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
        """Publish the folder as a Hugging Face dataset repository, in one commit; return its address.

        Raises:
            HubError: the server refused, or cannot be reached.
        """
        from minari_obd.hub import push

        return push(self, repo_id, private=private, token=token)

    def to_minari(self, dataset_id: str) -> "MinariDataset":
        """Store the pairs as a Minari dataset of one-step terminated episodes in the user's Minari folder.

        Raises:
            DataError: a malformed id, or one that exists.
        """
        from minari_obd.minari_bridge import to_minari

        return to_minari(self, dataset_id)

    def provenance_json(self) -> dict[str, Any]:
        """The provenance as JSON values."""
        return asdict(self.provenance)
