"""Tensors: safetensors files with a JSON header."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from minari_obd.errors import FormatError, MinariObdError, SettingError
from minari_obd.storage.files import is_there, replacing

_OURS = "minari_obd_"
__all__ = [
    "check_replaceable_file",
    "has_header",
    "read_header",
    "read_plain_tensors",
    "read_tensors",
    "reading",
    "write_plain_tensors",
    "write_tensors",
]


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: dict[str, Any], key: str) -> None:
    """Write tensors of any device to one file, whole or not at all.

    Args:
        path: the file.
        tensors: by their names in the file; no two may share memory.
        header: JSON values.
        key: the name of the header in the file's metadata.

    Raises:
        SettingError: the folder cannot be written.
    """
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        save_file(held, temporary, metadata={key: json.dumps(header)})


def read_tensors(path: Path, key: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return header and tensors, on the CPU, of a file that :func:`write_tensors` wrote; nothing is unpickled.

    Call it within :func:`reading`, which names the file and turns what may be raised into a sentence.
    """
    with safe_open(path, framework="pt") as file:
        text = _said(file, key)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it cannot be iterated
    return json.loads(text), tensors


def read_header(path: Path, key: str) -> dict[str, Any]:
    """Return the header alone, without reading a tensor; call it as :func:`read_tensors`."""
    with safe_open(path, framework="pt") as file:
        return json.loads(_said(file, key))


def _said(file: Any, key: str) -> str:
    """The header of an open file; of another kind of ours, the error says which."""
    metadata = file.metadata() or {}
    if key not in metadata:
        others = [name.removeprefix(_OURS) for name in metadata if name.startswith(_OURS)]
        raise ValueError(f"it is a {others[0]}" if others else f"its metadata has no {key!r}")
    return metadata[key]


def has_header(path: Path, key: str) -> bool:
    """Whether a file is one that :func:`write_tensors` wrote with this key."""
    try:
        with safe_open(path, framework="pt") as file:
            return key in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def check_replaceable_file(path: Path, key: str, what: str) -> None:
    """Make sure that a file, if there is one, may be replaced: it is empty, or :func:`write_tensors` wrote it.

    Args:
        path: of the file.
        key: what it was written with.
        what: what such a file is, for the error.

    Raises:
        SettingError: it is something else.
    """
    if is_there(path) and path.is_file() and path.stat().st_size and not has_header(path, key):
        raise SettingError(f"'{path}' is there already, and is no {what}, so it is not overwritten; name another file.")


def write_plain_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors with no header of ours, as huggingface_hub and transformers write ``model.safetensors``."""
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        save_file(held, temporary, metadata={"format": "pt"})


def read_plain_tensors(path: Path) -> dict[str, Tensor]:
    """Return all tensors of a safetensors file, on the CPU; call it as :func:`read_tensors`."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it cannot be iterated


@contextmanager
def reading(problem: str) -> Iterator[None]:
    """Raise a FormatError for anything that a damaged or foreign file raises while it is read.

    Args:
        problem: how the sentence begins, such as ``'x.safetensors' is not a policy``; the reason follows.
    """
    try:
        yield
    except FormatError:
        raise
    except (
        *(SafetensorError, MinariObdError, OSError),
        *(KeyError, TypeError, ValueError, AttributeError, RecursionError),
    ) as error:
        raise FormatError(f"{problem}: {str(error)[:300].rstrip('.')}.") from error
