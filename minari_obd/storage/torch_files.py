"""Weights: torch checkpoints read as tensors and plain values, with no code but torch's own that makes those."""

import io
import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from minari_obd.errors import FormatError

__all__ = [
    "MOST_BYTES",
    "StableBaselines3Zip",
    "load_weights",
    "plain_layer",
    "plain_layers",
    "plain_tensor",
    "read_stable_baselines3",
]

MOST_BYTES = 2 * 2**30
"""Largest checkpoint that is read, as it is in memory."""

_MOST_RATIO = 20
"""How much larger than its file a checkpoint may be in memory, beyond 1 MiB: weights hardly shrink in a zip."""

_MOST_TIMES = 4
"""How often the numbers of a checkpoint may be named on average, as by networks that share layers."""


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
                size = _unpacked_bytes(archive, _size_of(file), origin)
        else:
            size = _size_of(file)
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
    _check_claims(found, size, origin)
    return found


def _size_of(file: Path | IO[bytes]) -> int:
    return file.stat().st_size if isinstance(file, Path) else file.seek(0, io.SEEK_END)


def _unpacked_bytes(archive: zipfile.ZipFile, size: int, origin: str) -> int:
    """How many bytes a zip of ``size`` bytes says that it unpacks to."""
    unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > MOST_BYTES:
        raise FormatError(f"'{origin}' unpacks to more than 2 GiB; that is too large for a teacher.")
    if unpacked > _MOST_RATIO * size + 2**20:
        raise FormatError(
            f"'{origin}' unpacks to {unpacked:,} bytes, {unpacked / size:.0f} times its size; weights do not shrink "
            "like that, so nothing of it is read."
        )
    return unpacked


def _check_claims(values: dict[Any, Any], size: int, origin: str) -> None:
    """Refuse tensors of a checkpoint of ``size`` bytes that claim numbers which it does not hold.

    With strides of zero a tensor can claim any shape for a few bytes, and the same numbers can have any count of names.
    """
    claimed = 0
    for tensor in _tensors_of(values):
        if tensor.layout == torch.strided:
            taken = tensor.numel() * tensor.element_size()
            if tensor.is_meta or taken > tensor.untyped_storage().nbytes():
                raise FormatError(
                    f"A weight in '{origin}' claims the shape {tuple(tensor.shape)} and lacks the numbers."
                )
            claimed += taken
    if claimed > _MOST_TIMES * size:
        raise FormatError(f"The weights in '{origin}' claim {claimed:,} bytes, and it holds {size:,}.")


def _tensors_of(values: Any) -> Iterator[Tensor]:
    """All tensors in nested dicts and lists, each as often as it is named; no container twice."""
    found, seen = [values], set[int]()
    while found:
        each = found.pop()
        if isinstance(each, Tensor):
            yield each
        elif isinstance(each, dict | list | tuple) and id(each) not in seen:
            seen.add(id(each))
            found.extend(each.values() if isinstance(each, dict) else each)


def plain_layers(state: Any, what: str, *prefixes: str, beside: tuple[str, ...] = ()) -> list[tuple[Tensor, ...]]:
    """Weight (out, in) and bias (out,), float32, of the layers of a sequential network.

    Their names are one of the prefixes, a number, and ``weight`` or ``bias``. Any other name makes the network invalid,
    so that no layer is left out, except names that begin as ``beside`` says.

    Args:
        state: tensors by their names.
        what: the network and its file, for errors.
        prefixes: what the names may begin with.
        beside: what the names of other networks begin with.

    Raises:
        FormatError: other names, or what is no tensor.
    """
    names = [str(name) for name in state] if isinstance(state, dict) else []
    first = re.compile(rf"({'|'.join(map(re.escape, prefixes))})[0-9]{{1,4}}\.weight")
    prefix = next((found[1] for name in names if (found := first.fullmatch(name))), "")
    own = re.compile(rf"{re.escape(prefix)}([0-9]{{1,4}})\.weight")
    numbers = sorted(int(found[1]) for name in names if (found := own.fullmatch(name)))
    expected = {f"{prefix}{number}.{part}" for number in numbers for part in ("weight", "bias")}
    strange = [name for name in names if name not in expected and not name.startswith(beside)]
    if not numbers or strange or not expected <= set(names):
        raise FormatError(
            f"{what[0].upper()}{what[1:]} is not a plain multi-layer perceptron of the known names: it has "
            f"{', '.join((strange or names)[:6])[:300] or 'none'}."
        )
    return [plain_layer(state, f"{prefix}{number}", what) for number in numbers]


def plain_layer(state: dict[Any, Any], name: str, what: str) -> tuple[Tensor, Tensor]:
    """Weight (out, in) and bias (out,), float32, of one layer; as :func:`plain_layers`."""
    weight, bias = (plain_tensor(state.get(f"{name}.{part}"), what) for part in ("weight", "bias"))
    if weight.dim() != 2 or not weight.numel() or bias.shape != weight.shape[:1]:
        raise FormatError(
            f"A layer of {what} has a weight of shape {tuple(weight.shape)} and a bias of shape {tuple(bias.shape)}; "
            "expected (out, in) and (out,)."
        )
    return weight, bias


def plain_tensor(value: Any, what: str) -> Tensor:
    """Return a weight of a foreign file as float32, on its own.

    Raises:
        FormatError: not a tensor of real numbers.
    """
    if not isinstance(value, Tensor) or value.layout != torch.strided or not value.is_floating_point():
        raise FormatError(f"A weight of {what} is not a tensor of real numbers.")
    return value.detach().to(torch.float32).contiguous()


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
        printed = str(self._policy_settings().get("activation_fn", default))[-200:]
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
        FormatError: not such a zip, larger than 2 GiB, or much larger than its file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _unpacked_bytes(archive, Path(path).stat().st_size, str(path))
            weights = load_weights(io.BytesIO(archive.read("policy.pth")), f"{path}/policy.pth")
            settings = dict(json.loads(archive.read("data")))
        if not all(isinstance(name, str) for name in weights):
            raise FormatError("a weight has no name")
        return StableBaselines3Zip(weights, settings)
    except Exception as error:  # damaged bytes make zipfile and json raise nearly anything
        problem = str(error)[:500].rstrip(".")
        raise FormatError(f"'{path}' is not a Stable-Baselines3 zip with readable weights: {problem}.") from error
