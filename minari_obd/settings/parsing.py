"""Parsing: TOML files and JSON values into typed settings."""

import json
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from minari_obd.errors import FormatError, NotFoundError

__all__ = ["parse_settings", "read_toml"]


def read_toml(path: str | Path, kind: str, example: str) -> dict[str, Any]:
    """Read a TOML file of a ``kind`` that has an ``example``.

    Raises:
        NotFoundError: no such file.
        FormatError: not TOML.
    """
    path = Path(path)
    if not path.is_file():
        raise NotFoundError(f"There is no {kind} '{path}'; {kind}s are TOML files such as {example}.")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FormatError(f"'{path}' is not TOML: {error}.") from error


_Settings = TypeVar("_Settings")


def parse_settings(kind: type[_Settings], values: Any, origin: str) -> _Settings:
    """Check TOML values and build the settings of a ``kind``.

    Raises:
        FormatError: an unknown key, a value of the wrong type or one that makes no sense; the first is named.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in problem["loc"]) or "its top"
        raise FormatError(f"{origin} is wrong at {place}: {problem['msg'].rstrip('.')}.") from error
