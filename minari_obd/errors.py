"""Errors: sentences that name what was wrong, what was expected and what to do next."""

from collections.abc import Iterable
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

__all__ = [
    "DataError",
    "FormatError",
    "MinariObdError",
    "MissingExtraError",
    "NotFoundError",
    "SettingError",
    "check_installed",
    "check_writable",
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


def check_installed(module: str, extra: str) -> None:
    """Make sure that ``module`` can be imported, without importing it.

    Raises:
        MissingExtraError: it is not installed; the sentence says which extra of this package brings it.
    """
    if find_spec(module) is None:
        raise MissingExtraError(
            f"This needs {module}, which is not installed; run `pip install 'minari-obd[{extra}]'`."
        )


def printable(text: str) -> str:
    """Replace control characters, which a downloaded set could aim at a terminal; line breaks and tabs stay."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Return the end of a sentence about an unknown ``name``: the nearest option, then all of them."""
    known = sorted(options)
    near = get_close_matches(name.lower(), known, n=1, cutoff=0.6)
    guess = f"did you mean '{near[0]}'? " if near else ""
    return f"{guess}Known: {', '.join(known) if known else 'none'}."


def check_writable(path: str | Path) -> Path:
    """Make sure, before any long work, that ``path`` can be written later.

    Creates the missing parent folders and nothing else.

    Raises:
        SettingError: a parent is a file, or may not be written.
    """
    path = Path(path)
    probe = path.parent / f".{path.name}.probe"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise SettingError(
            f"The output path '{path}' cannot be written ({error.strerror}); choose a folder that you may write to."
        ) from error
    return path
