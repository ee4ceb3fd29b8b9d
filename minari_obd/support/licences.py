"""Licences: the ids that the Hugging Face Hub knows them by."""

import re
from difflib import get_close_matches

from minari_obd.errors import SettingError

__all__ = ["check_known_license", "check_license"]

_TEXT = """
afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5 cc-by-3.0
cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0
cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0
cdla-sharing-1.0 creativeml-openrail-m ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 gfdl gpl gpl-2.0 gpl-3.0
h-research intel-research isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1
openmdw-1.0 openrail openrail++ osl-3.0 other pddl postgresql unknown unlicense wtfpl zlib
"""
_KNOWN = frozenset(_TEXT.split())

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


def check_known_license(license: str | None) -> str | None:
    """Return a licence that a user names, if the Hub knows it. What is read may have a newer one.

    Raises:
        SettingError: it does not. The nearest one is named.
    """
    if check_license(license) is not None and license not in _KNOWN:
        near = get_close_matches(str(license), _KNOWN, n=1)
        guess = f"did you mean '{near[0]}'?" if near else "see huggingface.co/docs/hub/repositories-licenses."
        raise SettingError(f"The Hub knows no licence '{license}'; {guess} Use 'other' for any that it does not know.")
    return license
