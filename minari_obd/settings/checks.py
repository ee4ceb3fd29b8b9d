"""Checks shared by the settings of every section."""

from typing import Any

from minari_obd.errors import SettingError

__all__ = ["STRICT", "check_fraction", "check_positive"]

STRICT: dict[str, Any] = {"extra": "forbid", "strict": True}  # for pydantic: no unknown keys, no silent casts


def check_positive(section: str, **values: float | None) -> None:
    """Refuse any setting of a section that is not above zero."""
    for name, value in values.items():
        if value is not None and not value > 0:
            raise SettingError(f"{section}.{name} is {value}; it must be above zero.")


def check_fraction(section: str, **values: float) -> None:
    """Refuse any setting of a section that is not between 0 and 1."""
    for name, value in values.items():
        if not 0.0 < value < 1.0:
            raise SettingError(f"{section}.{name} is {value}; it must lie between 0 and 1.")
