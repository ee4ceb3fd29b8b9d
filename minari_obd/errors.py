"""Errors: sentences that name what was wrong, what was expected and what to do next."""

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = [
    "DataError",
    "FormatError",
    "MinariObdError",
    "MissingExtraError",
    "NotFoundError",
    "SettingError",
    "did_you_mean",
    "printable",
]


class MinariObdError(Exception):
    """Base of every error that this package raises on purpose."""

    def __str__(self) -> str:
        """The sentence, without control characters: it may quote what somebody else wrote into a file."""
        return printable(super().__str__())


class DataError(MinariObdError, ValueError):
    """The numbers handed in cannot be used: shapes, lengths, non-finite values, unsupported spaces."""


class SettingError(MinariObdError, ValueError):
    """A setting has a value that makes no sense, alone or together with another one."""


class NotFoundError(MinariObdError, LookupError):
    """A dataset, method, teacher or file of that name does not exist."""


class FormatError(MinariObdError, ValueError):
    """A file or folder is not what it claims to be: damaged, incomplete, or of another version."""


class MissingExtraError(MinariObdError, ImportError):
    """An optional dependency is not installed."""


def printable(text: str) -> str:
    """Replace control characters, which a downloaded set could aim at a terminal; line breaks and tabs stay."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Return the end of a sentence about an unknown ``name``: the nearest option, then all of them."""
    known = sorted(options)
    near = get_close_matches(name.lower(), known, n=1, cutoff=0.6)
    guess = f"did you mean '{near[0]}'? " if near else ""
    return f"{guess}Known: {', '.join(known) if known else 'none'}."
