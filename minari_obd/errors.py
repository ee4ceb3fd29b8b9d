"""Errors: sentences that name what was wrong, what was expected and what to do next."""

import re
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
    "without_secrets",
]

_SECRETS = re.compile(r"hf_[A-Za-z0-9]{12,}|(?<=Bearer )[^\s'\"]+|(?<=://)[^/@\s]+(?=@)")
"""Tokens of the Hub, what follows ``Bearer`` in a header, and the user and password in an address."""


class MinariObdError(Exception):
    """Base of every error that this package raises on purpose."""

    def __str__(self) -> str:
        """The sentence, without secrets and control characters: it may quote a file, a request or an address."""
        return printable(without_secrets(super().__str__()))


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


def without_secrets(text: str, *known: str | None) -> str:
    """Replace these secrets, and whatever looks like a token or a password, with stars."""
    for secret in known:
        if secret and isinstance(secret, str):  # huggingface_hub also takes True and False for a token
            text = text.replace(secret, "***")
    return _SECRETS.sub("***", text)


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Return the end of a sentence about an unknown ``name``: the nearest option, then all of them."""
    known = sorted(options)
    near = get_close_matches(name.lower(), (lowered := {each.lower(): each for each in known}), n=1, cutoff=0.6)
    listed = f"nown: {', '.join(known)}."
    if near:
        return f"did you mean '{lowered[near[0]]}'? K{listed}"
    return f"k{listed}" if known else "none is known."
