"""Licences: the ids that the Hugging Face Hub knows them by."""

import re

from minari_obd.errors import SettingError

__all__ = ["check_license"]

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,60}")


def check_license(license: str | None) -> str | None:
    """Return a licence's id if it has the form of the Hub's, such as ``cc-by-4.0``.

    Raises:
        SettingError: it has another form.
    """
    if license is not None and not (isinstance(license, str) and _LICENSE.fullmatch(license)):
        raise SettingError(
            f"{license!r} is not the id of a licence as the Hugging Face Hub writes it, such as 'mit' or 'cc-by-4.0'."
        )
    return license
