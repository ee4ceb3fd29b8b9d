"""Parsing: turns TOML and JSON files into typed values, checked field by field, as anyone may have written them."""

import json
import tomllib
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from minari_obd.errors import FormatError, MinariObdError, NotFoundError, did_you_mean
from minari_obd.storage.files import is_there

__all__ = [
    "NOT_OURS",
    "STRICT_JSON",
    "Problem",
    "check_values",
    "parse_settings",
    "read_json",
    "read_result",
    "read_toml",
    "validated",
]

# For pydantic: no unknown keys, no casts, no number that is not finite, no endless text.
STRICT_JSON: dict[str, Any] = {"extra": "forbid", "strict": True, "allow_inf_nan": False, "str_max_length": 10_000}

NOT_OURS = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)
"""What Python raises of JSON that is damaged, endlessly nested, or of another form than was written."""

_MOST_BYTES = 16 * 2**20


def read_toml(path: str | Path, kind: str, example: str) -> dict[str, Any]:
    """Read a TOML file. Error messages name its ``kind`` and an ``example`` of it.

    Raises:
        NotFoundError: the file does not exist.
        FormatError: the file is not TOML, or may not be read.
    """
    path = Path(path)
    if not (is_there(path) and path.is_file()):
        raise NotFoundError(
            f"There is no {kind} '{path}'; {kind}s are TOML files such as {example} of "
            "https://github.com/minari-obd/minari-obd, which an installed package does not hold."
        )
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FormatError(f"'{path}' cannot be read ({error.strerror}); make sure that you may read it.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"'{path}' is not TOML: {error}.") from error


_T = TypeVar("_T")
_R = TypeVar("_R")


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
        said = [each["msg"].removeprefix("Value error, ")[:200].rstrip(".") for each in found]  # of our own checks
        problems = [Problem(e["loc"], text, e["type"] == unknown) for e, text in zip(found, said, strict=True)]
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
        return f"{origin} is wrong{f' at {first.place}' if first.place else ''}: {first.message}."

    return check_values(kind, values, explain, default=str)


def read_json(path: Path) -> Any:
    """Read a JSON file of a size that metadata may have.

    Raises:
        FormatError: too large, or not JSON.
    """
    if path.stat().st_size > _MOST_BYTES:
        raise FormatError(f"'{path}' is larger than {_MOST_BYTES // 2**20} MiB; that is not metadata of ours.")
    try:
        return json.loads(path.read_bytes().decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"'{path}' is not JSON, so it is damaged ({str(error)[:200]}); get it anew.") from error


def validated(kind: type[_T], values: Any, origin: str) -> _T:
    """Check JSON values against a dataclass, strictly: no unknown keys, no casts, no numbers that are not finite.

    Raises:
        FormatError: the first wrong field, by its place.
    """

    def explain(problems: list[Problem]) -> str:
        return f"'{origin}' is damaged at {problems[0].place or 'its top'}: {problems[0].message}."

    try:
        return check_values(kind, values, explain, allow_nan=False)
    except FormatError:
        raise
    except (ValueError, RecursionError) as error:
        raise FormatError(f"'{origin}' is damaged: {str(error)[:200]}.") from error


def read_result(kind: type[_T], path: Path, build: Callable[[_T], _R], *, newest: int, oldest: int = 1) -> _R:
    """Read a run's result, a JSON object with a ``format``.

    Args:
        kind: the dataclass that it is checked against.
        path: the file.
        build: makes the result of the values.
        newest: the format that this version writes.
        oldest: the oldest one that it reads.

    Raises:
        FormatError: damaged, or of another format. The sentence names the file and the place.
    """
    try:
        values = read_json(path)
        number = values.get("format") if isinstance(values, dict) else None
        if isinstance(number, int) and number > newest:
            raise FormatError(f"'{path}' has report format {number}; this version reads up to {newest}.")
        if isinstance(number, int) and number < oldest:
            raise FormatError(f"'{path}' has report format {number}, which this version no longer reads.")
        return build(validated(kind, values, str(path)))
    except FormatError as error:
        raise FormatError(f"{error} The run that wrote it can make it again.") from error
    except (MinariObdError, ValueError, OverflowError) as error:  # lists of different lengths are a ValueError
        problem = str(error)[:300].rstrip(".")
        raise FormatError(f"'{path}' is damaged: {problem}. The run that wrote it can make it again.") from error
