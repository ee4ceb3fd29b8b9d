"""What the Hub's client raises, as one sentence with advice and without secrets."""

import errno

import huggingface_hub
from huggingface_hub.errors import GatedRepoError

from minari_obd.errors import MinariObdError, without_secrets

__all__ = ["HubError", "explain"]

_UNWRITABLE = (errno.EROFS, errno.EACCES, errno.ENOSPC)


class HubError(MinariObdError, OSError):
    """The Hub refused a request, or cannot be reached."""


def explain(what: str, error: Exception, token: str | None) -> HubError:
    """What the client said, without secrets, in one sentence with advice."""
    below = "" if error.__cause__ is None else str(error.__cause__)  # "Error while uploading" says too little
    cause = f" ({below})" if below and below.splitlines()[0] not in str(error) else ""
    text = without_secrets(" ".join(f"{error}{cause}".split()), token, huggingface_hub.get_token())
    text = text[:500]  # last, so that no half of a secret is left
    status = getattr(getattr(error, "response", None), "status_code", None)
    advice = "check the connection, HF_ENDPOINT and the token (`hf auth login`)"
    if isinstance(error, GatedRepoError):
        advice = "ask for access on the repository's page, and log in with `hf auth login`"
    elif getattr(error, "errno", None) in _UNWRITABLE:
        advice = "set HF_HOME to a folder that can be written and has room"
    elif status is not None and status >= 500:
        advice = "the Hub has trouble; try again in some minutes"
    elif status == 429:
        advice = "the Hub has had too many requests; wait some minutes, or log in with `hf auth login`"
    elif "xet" in text.lower():
        advice = "this server does not speak Xet; set HF_HUB_DISABLE_XET=1 before Python starts"
    return HubError(f"{what} ({type(error).__name__}: {text}); {advice}.")
