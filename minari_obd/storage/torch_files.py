"""Weights: torch checkpoints read as tensors and plain values, with no code but torch's own that makes those."""

import io
import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from minari_obd.errors import FormatError

__all__ = ["MOST_BYTES", "StableBaselines3Zip", "load_weights", "read_stable_baselines3"]

MOST_BYTES = 2 * 2**30
"""Largest checkpoint that is read, as it is in memory."""


def load_weights(file: Path | IO[bytes], origin: str) -> dict[str, Any]:
    """Read what ``torch.save`` wrote of a dict.

    Args:
        file: path, or the opened file.
        origin: what it is called in errors.

    Raises:
        FormatError: not such a file, larger than 2 GiB, or one that names anything but tensors and plain values.
    """
    try:
        if zipfile.is_zipfile(file):  # older versions of torch wrote no zips
            with zipfile.ZipFile(file) as archive:  # a few bytes may stand for gigabytes once they are unpacked
                if sum(member.file_size for member in archive.infolist()) > MOST_BYTES:
                    raise FormatError(f"'{origin}' unpacks to more than 2 GiB; that is too large for a teacher.")
        if not isinstance(file, Path):
            file.seek(0)
        with torch.serialization.safe_globals([_StandIn]):
            found = torch.load(file, map_location="cpu", weights_only=True)
    except FormatError:
        raise
    except Exception as error:  # damaged bytes make torch raise nearly anything
        name = re.search(r"GLOBAL (\S+)", str(error))
        if name:
            raise FormatError(
                f"'{origin}' names {name[1][:100]}, and only tensors and plain values are read, so nothing in it was "
                "run; ask its author for the weights alone."
            ) from None
        raise FormatError(f"'{origin}' cannot be read as a torch checkpoint: {str(error)[:200]}.") from error
    if not isinstance(found, dict):
        raise FormatError(f"'{origin}' holds a {type(found).__name__}, not a dict of weights.")
    return found


class _StandIn:
    """Takes the place of ``__main__.Scalar``, a module of one number that CORL pickles beside its weights."""

    def __setstate__(self, state: Any) -> None:
        """Forget what is handed in: nothing of it is of use."""


# torch finds a class by its own name; that a name be handed over beside the class takes version 2.6.
_StandIn.__module__, _StandIn.__qualname__, _StandIn.__name__ = "__main__", "Scalar", "Scalar"


@dataclass(frozen=True)
class StableBaselines3Zip:
    """What is read of a Stable-Baselines3 zip."""

    weights: dict[str, Any]
    """Tensors by their names, from ``policy.pth``."""
    settings: dict[str, Any]
    """The settings' JSON. Its values hold pickles as text, which stay text, beside what they print as."""

    def activation(self, default: str) -> str:
        """Name of the activation between layers, in lower case, as the settings print it; ``default`` if they do not.

        It is the last part of, for example, ``<class 'torch.nn.modules.activation.Tanh'>``.
        """
        printed = str(self._policy_settings().get("activation_fn", default))
        return re.sub(r"\W+$", "", printed).split(".")[-1].lower()

    def check_plain(self, path: str | Path) -> None:
        """Refuse a policy that its layers do not describe completely.

        Raises:
            FormatError: it extracts features from observations first, or explores with gSDE.
        """
        extractor = str(self._policy_settings().get("features_extractor_class", "FlattenExtractor"))
        if "FlattenExtractor" not in extractor or any("features_extractor." in name for name in self.weights):
            raise FormatError(
                f"'{path}' extracts features with {extractor[:100]}; only plain observations are supported."
            )
        if self.settings.get("use_sde") is True:
            raise FormatError(f"'{path}' explores with gSDE, which is not supported; train it without use_sde.")

    def _policy_settings(self) -> dict[str, Any]:
        printed = self.settings.get("policy_kwargs")
        return printed if isinstance(printed, dict) else {}


def read_stable_baselines3(path: str | Path) -> StableBaselines3Zip:
    """Read weights and printed settings of a Stable-Baselines3 zip; nothing is unpickled but tensors.

    Raises:
        FormatError: not such a zip, or larger than 1 GiB.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if any(archive.getinfo(name).file_size > 2**30 for name in ("policy.pth", "data")):
                raise FormatError(f"'{path}' unpacks to more than 1 GiB; that is too large for a policy.")
            weights = load_weights(io.BytesIO(archive.read("policy.pth")), f"{path}/policy.pth")
            return StableBaselines3Zip(weights, dict(json.loads(archive.read("data"))))
    except Exception as error:  # damaged bytes make zipfile and json raise nearly anything
        problem = str(error)[:500].rstrip(".")
        raise FormatError(f"'{path}' is not a Stable-Baselines3 zip with readable weights: {problem}.") from error
