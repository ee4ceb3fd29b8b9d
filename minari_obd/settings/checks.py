"""Checks shared by the settings of every section."""

import os
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from minari_obd.errors import SettingError

__all__ = [
    "STRICT",
    "check_fraction",
    "check_instance",
    "check_positive",
    "check_reference",
    "check_types",
    "number",
    "whole_number",
]

STRICT: dict[str, Any] = {"extra": "forbid", "strict": True}  # for pydantic: no unknown keys, no silent casts


def check_types(section: str, settings: Any) -> None:
    """Refuse values of another type than their fields have, as for values from a file.

    Settings are also made in Python, where nothing else checks them before they are used. Scalars of NumPy become
    Python's, and lists become tuples.

    Args:
        section: its name in messages; empty for the recipe itself.
        settings: a dataclass of settings.

    Raises:
        SettingError: a value does not fit. It says what does.
    """
    hints = get_type_hints(type(settings))
    for name in (each.name for each in fields(settings)):
        given, kind = getattr(settings, name), hints[name]
        is_tuple = get_origin(kind) is tuple and isinstance(given, list | tuple)
        value = tuple(map(_plain, given)) if is_tuple else _plain(given)
        if value is not given:
            object.__setattr__(settings, name, value)
        if not _fits(value, kind):
            place = f"{section}.{name}" if section else name
            raise SettingError(f"{place} is {value!r}; expected {_said(kind)}{_advice(value, kind)}.")


def _advice(value: Any, kind: Any) -> str:
    """What to do with a text in the place of settings: the first of a section's is a name, a student's is not."""
    name = getattr(kind, "__name__", "")
    if not (is_dataclass(kind) and isinstance(value, str)):
        return ""
    if name == "StudentProtocol":
        return f"; those with names are in minari_obd.settings.protocols: protocol_by_name({value!r})"
    return f", such as {name}({value!r})"


def _plain(value: Any) -> Any:
    """Python's number for one of NumPy's, or an array of one; anything else as it is."""
    return value.item() if type(value).__module__ == "numpy" and getattr(value, "size", None) == 1 else value


def _fits(value: Any, kind: Any) -> bool:
    if get_origin(kind) in (Union, UnionType):
        return any(_fits(value, each) for each in get_args(kind))
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if kind in (int, float):
        return isinstance(value, (int, float) if kind is float else int) and not isinstance(value, bool)
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_fits(each, get_args(kind)[0]) for each in value)
    return isinstance(value, get_origin(kind) or kind)


def _said(kind: Any) -> str:
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(map(_said, get_args(kind)))
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(repr, get_args(kind)))
    if get_origin(kind) is tuple:
        return f"a tuple, each {_said(get_args(kind)[0])}"
    known = {int: "a whole number", float: "a number", str: "text", bool: "True or False", type(None): "None"}
    return known.get(kind) or f"a {(get_origin(kind) or kind).__name__}"


def check_instance(verb: str, value: Any, *kinds: type) -> None:
    """Refuse what a verb cannot take; of a name or arrays, say how such a thing is loaded.

    Raises:
        SettingError: the value is none of these kinds.
    """
    if isinstance(value, kinds):
        return
    loaders = {"DistilledDataset": "load_dataset", "OfflineData": "load_offline_data", "Policy": "load_policy"}
    loaders["Recipe"] = "load_recipe"
    hint = " or ".join(f"minari_obd.{loaders[kind.__name__]}" for kind in kinds if kind.__name__ in loaders)
    hint = f"; load it first, with {hint}" if hint and isinstance(value, str | Path | Mapping) else ""
    wanted, given = (
        " or ".join(kind.__name__ for kind in kinds),
        repr(value) if isinstance(value, str) else "what was given",
    )
    raise SettingError(f"{verb} takes {wanted}, and {given[:60]} is a {type(value).__name__}{hint}.")


def check_reference(verb: str, ref: Any) -> None:
    """Refuse what is neither a name nor a path, where a verb takes one; of our own objects, say that they are loaded.

    Raises:
        SettingError: it is something else.
    """
    if isinstance(ref, str | os.PathLike):
        return
    kind = type(ref).__name__
    hint = f"; a {kind} is loaded already" if type(ref).__module__.startswith("minari_obd.") else ""
    hint += ", so save it, and give its folder" if hint and verb == "verify" else ""
    raise SettingError(f"{verb} takes a name or a path, and what was given is a {kind}{hint}.")


def number(name: str, value: Any) -> float:
    """Return a number that a caller gave, as Python's; NumPy's are taken as well, and arrays of one.

    Raises:
        SettingError: it is none.
    """
    value = _plain(value)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise SettingError(f"{name} is {value!r}; expected a number.")
    return value


def whole_number(name: str, value: Any, least: int | None = None) -> int:
    """Return a whole number that a caller gave, as Python's; NumPy's are taken as well, and arrays of one.

    Raises:
        SettingError: it is none, or below the ``least``.
    """
    value = _plain(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise SettingError(f"{name} is {value!r}; expected a whole number.")
    if least is not None and value < least:
        raise SettingError(f"{name} is {value}; it must be at least {least}.")
    return value


def check_positive(section: str, **values: float | None) -> None:
    """Refuse any setting of a section (empty: of the recipe itself) that is not above zero."""
    for name, value in values.items():
        if value is not None and not value > 0:
            place = f"{section}.{name}" if section else name
            raise SettingError(f"{place} is {value}; it must be above zero.")


def check_fraction(section: str, **values: float) -> None:
    """Refuse any setting of a section that is not between 0 and 1."""
    for name, value in values.items():
        if not 0.0 < value < 1.0:
            raise SettingError(f"{section}.{name} is {value}; it must lie between 0 and 1.")
