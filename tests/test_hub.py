"""The Hub: the real huggingface_hub client against a server on loopback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import make_pairs
from hub_server import HubServer

ROOT = Path(__file__).parent


def run(code: str, hub: HubServer, home: Path) -> str:
    """Run ``code`` in a process of its own: huggingface_hub reads its settings when it is imported."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


PUSH = "from conftest import make_pairs; print(make_pairs(seed={seed}).push_to_hub('lab/{name}', token='hf_secret'))"
PULL = """
import minari_obd
loaded = minari_obd.load_dataset('lab/obd-test', revision={revision!r}, token='hf_secret')
print(loaded.observations.tobytes().hex() + loaded.actions.tobytes().hex())
"""


def bits(seed: int) -> str:
    pairs = make_pairs(seed=seed)
    return pairs.observations.tobytes().hex() + pairs.actions.tobytes().hex()


@pytest.mark.parametrize("use_lfs", [False, True], ids=["regular", "lfs"])
def test_what_is_pushed_is_pulled(use_lfs: bool, tmp_path: Path) -> None:
    with HubServer(use_lfs=use_lfs) as hub:
        assert run(PUSH.format(seed=0, name="obd-test"), hub, tmp_path / "a") == f"{hub.url}/datasets/lab/obd-test"
        assert len(hub.repositories["lab/obd-test"]) == 2  # made empty, then one commit with everything
        assert {"README.md", "obd.json", "pairs-v0/data/main_data.hdf5"} <= set(hub.files("lab/obd-test"))
        assert run(PULL.format(revision=None), hub, tmp_path / "b") == bits(0)
        run(PUSH.format(seed=1, name="obd-test"), hub, tmp_path / "a")
        first = hub.repositories["lab/obd-test"][1][0]
        assert run(PULL.format(revision=None), hub, tmp_path / "b") == bits(1)
        assert run(PULL.format(revision=first), hub, tmp_path / "b") == bits(0)
        assert "Bearer hf_secret" in hub.tokens


ERROR = """
import minari_obd
from conftest import make_pairs
try:
    {call}
except minari_obd.MinariObdError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("make_pairs().push_to_hub('no-organisation')", "SettingError 'no-organisation' is not a repository id"),
        ("make_pairs().push_to_hub('lab/other')", "SettingError The repository 'lab/other' holds something other"),
        ("minari_obd.load_dataset('lab/none')", "NotFoundError There is no dataset repository 'lab/none'"),
        ("minari_obd.load_dataset('lab/other')", "FormatError"),
        ("minari_obd.load_dataset('lab/other', revision='v9')", "NotFoundError There is no revision 'v9'"),
        ("minari_obd.load_dataset('lab/bad')", "does not match its hash"),
    ],
)
def test_refusals_are_sentences(call: str, message: str, tmp_path: Path) -> None:
    with HubServer() as hub:
        hub.commit("lab/other", {"model.bin": b"1"})
        folder = make_pairs().save(tmp_path / "bad")
        files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        hub.commit("lab/bad", {**files, "data/train-00000-of-00001.parquet": b"PAR1"})
        before = len(hub.repositories["lab/other"])
        assert message in run(ERROR.format(call=call), hub, tmp_path / "home")
        assert len(hub.repositories["lab/other"]) == before


def test_a_refused_commit_tells_no_token(tmp_path: Path) -> None:
    with HubServer(refuse_commits=True) as hub:
        said = run(ERROR.format(call="make_pairs().push_to_hub('lab/x', token='hf_secret')"), hub, tmp_path / "home")
        assert said.startswith("HubError 'lab/x' could not be pushed")
        assert "hf_secret" not in said
