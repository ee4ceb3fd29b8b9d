"""Tokens of the Hub: made fit for a request, and never quoted."""

import re

from huggingface_hub import constants, get_token

from minari_obd.errors import SettingError

__all__ = ["usable_token"]


def usable_token(token: str | None) -> str | None:
    """Return a token without the white space around it, such as the end of the line of the file that it was in.

    None stays None: huggingface_hub then takes that of ``HF_TOKEN`` or of ``hf auth login``, which is checked too.

    Raises:
        SettingError: it is no text, or has characters that a request's header cannot hold. The token is not quoted.
    """
    if isinstance(token, bool):  # huggingface_hub's own: the kept one, or none
        return token
    if token is not None and not isinstance(token, str):
        raise SettingError(f"The token is a {type(token).__name__}; expected text, such as 'hf_...'.")
    kept = "" if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token() or ""
    found = (kept if token is None else token).strip()
    if not re.fullmatch(r"[!-~]*", found):
        whose = "token" if token is not None else "token of HF_TOKEN or `hf auth login`"
        raise SettingError(
            f"The {whose} has white space, control characters or letters with accents inside; copy it once more from "
            "your settings on the Hub."
        )
    if token is not None and not found:
        raise SettingError("The token is empty; leave it out, or give one from your settings on the Hub.")
    return None if token is None else found
