"""Downloads of Minari datasets, which find out early that nothing answers."""

import os
import socket
from urllib.parse import urlsplit
from urllib.request import getproxies

import minari

__all__ = ["download"]

_SECONDS = 10.0  # to wait for a connection


def download(dataset_id: str) -> None:
    """Let Minari download a dataset to the user's folder.

    Where Minari looks is tried first: if nothing answers there, its client tries for half a minute.

    Raises:
        Exception: anything that the network, the remote or Minari may raise.
    """
    address = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    if os.environ.get("MINARI_REMOTE", "hf://").startswith("hf://") and not getproxies():
        port = address.port or (80 if address.scheme == "http" else 443)
        try:
            socket.create_connection((address.hostname, port), timeout=_SECONDS).close()
        except OSError as error:
            raise ConnectionError(f"{address.hostname} cannot be reached: {error.strerror or error}") from error
    minari.download_dataset(dataset_id)
