"""Parsing: turns TOML files and JSON values into typed settings."""

import json
import tomllib
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from minari_obd.errors import FormatError, NotFoundError, did_you_mean

__all__ = ["Problem", "check_values", "parse_settings", "read_toml"]


def read_toml(path: str | Path, kind: str, example: str) -> dict[str, Any]:
    """Read a TOML file. Error messages name its ``kind`` and an ``example`` of it.

    Raises:
        NotFoundError: the file does not exist.
        FormatError: the file is not TOML.
    """
    path = Path(path)
    if not path.is_file():
        raise NotFoundError(
            f"There is no {kind} '{path}'; {kind}s are TOML files such as {example} of "
            "https://github.com/minari-obd/minari-obd, which an installed package does not hold."
        )
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FormatError(f"'{path}' is not TOML: {error}.") from error


_T = TypeVar("_T")


class Problem(NamedTuple):
    """A wrong value, or one that is missing or unknown."""

    location: tuple[int | str, ...]
    """Keys and positions that lead to the value."""
    message: str
    """What is wrong, without a full stop."""
    is_unknown: bool
    """Whether no value of that name is expected."""

    @property
    def place(self) -> str:
        """The location as text; empty at the top level."""
        return ".".join(str(part)[:60] for part in self.location[:6])


def check_values(kind: type[_T], values: Any, explain: Callable[[list[Problem]], str], **options: Any) -> _T:
    """Build a dataclass from nested JSON values.

    Args:
        kind: the dataclass. Its ``__pydantic_config__`` applies.
        values: values as read from a file.
        explain: makes the error's sentence from one or more problems.
        options: options of ``json.dumps``, which decides what counts as JSON.

    Raises:
        FormatError: the values do not fit the dataclass.
        TypeError, ValueError, RecursionError: the values are not JSON.
    """
    from pydantic import TypeAdapter, ValidationError

    # Validated as JSON: in strict mode, pydantic makes dataclasses from JSON objects but not from dicts.
    text = json.dumps(values, **options)
    try:
        return TypeAdapter(kind).validate_json(text)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)
        unknown = "unexpected_keyword_argument"
        problems = [Problem(each["loc"], each["msg"][:200].rstrip("."), each["type"] == unknown) for each in found]
        raise FormatError(explain(problems)) from error


def parse_settings(kind: type[_T], values: Any, origin: str) -> _T:
    """Check TOML values and build the settings of a ``kind``.

    Raises:
        FormatError: a key is unknown, or a value has the wrong type or makes no sense. The message names the first.
    """

    def explain(problems: list[Problem]) -> str:
        first = problems[0]
        if first.is_unknown and len(first.location) == 1 and is_dataclass(kind):
            known = did_you_mean(first.place, [each.name for each in fields(kind)])
            return f"{origin} has a setting '{first.place}' that does not exist; {known}"
        return f"{origin} is wrong at {first.place or 'its top'}: {first.message}."

    return check_values(kind, values, explain, default=str)
