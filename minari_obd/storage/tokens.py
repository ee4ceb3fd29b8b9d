"""Tokens of the Hub: made fit for a request, and never quoted."""

import re

from minari_obd.errors import SettingError

__all__ = ["usable_token"]


def usable_token(token: str | None) -> str | None:
    """Return a token without the white space around it, such as the end of the line of the file that it was in.

    Raises:
        SettingError: it has characters that a request's header cannot hold. The token is not quoted.
    """
    if not isinstance(token, str):
        return token
    token = token.strip()
    if not re.fullmatch(r"[!-~]*", token):
        raise SettingError(
            "The token has white space, control characters or letters with accents inside; copy it once more from "
            "your settings on the Hub."
        )
    return token
