"""A Hub on loopback for every test. Importing this points the Hub's clients there; they read their settings once."""

import os
import sys
import tempfile

from hub_server import HubServer

assert "huggingface_hub" not in sys.modules
HUB = HubServer()
HUB.__enter__()
HOME = tempfile.TemporaryDirectory(prefix="hub-home-")
os.environ |= {
    "HF_ENDPOINT": HUB.url,
    "HF_HOME": HOME.name,
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
os.environ.pop("HF_TOKEN", None)
