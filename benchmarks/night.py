"""A night of trials: benches, distillations and a Hub under kills, full disks and troubles of the network.

    python benchmarks/night.py --minutes 480 [--seed 0] [--folder night] [--only hub full]

Every trial is drawn by chance. None may lose a result, leave a half-written file, end in a traceback, or end in
another table than the undisturbed run. Trials of a full disk mount a small tmpfs, which takes root; otherwise they are
left out.
The exit status is the number of faults, each of which is printed.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from hub_server import HubServer

GRID = """
datasets = ["night/pendulum-v0"]
methods = ["random", "dbc"]
sizes = [8]
seeds = [0, 1]
[recipe.student]
depth = 1
width = 16
steps = 10
[recipe.distillation]
steps = 60
batch_size = 64
[recipe.evaluation]
students = 1
episodes = 1
"""
DISTIL = [
    *(
        "distill",
        "night/pendulum-v0",
        "--method",
        "dbc",
        "--size",
        "8",
        "--student.network",
        "mlp",
        "--student.depth",
        "1",
        "--student.width",
        "16",
    ),
    *("--student.steps", "10", "--distillation.steps", "60", "--distillation.batch-size", "64"),
]
TROUBLES = ("hang", "drop", "429", "500", "none")


class Night:
    """The folders, the undisturbed results, and what was found."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random = folder, random.Random(seed)
        self.faults: list[str] = []
        self.number = 0
        self.environment = os.environ | {"OMP_NUM_THREADS": "1"}
        for name, place in (("MINARI_DATASETS_PATH", "minari"), ("MINARI_OBD_CACHE", "cache"), ("HF_HOME", "hub")):
            self.environment[name] = str(folder / place)
        (folder / "grid.toml").write_text(GRID)
        arguments = ["night/pendulum-v0", "--env", "Pendulum-v1", "--policy", "random", "--steps", "600"]
        self.must(self.start("collect", *arguments))
        self.must(self.start(*DISTIL, "--out", str(folder / "reference")))
        self.must(self.start("bench", str(folder / "grid.toml"), "--out", str(folder / "reference-bench")))
        if self.faults:
            sys.exit("The undisturbed runs failed already.")
        self.pairs, self.table = hash_of(folder / "reference"), table_of(folder / "reference-bench")

    def start(self, *arguments: str, **changed: str) -> "subprocess.Popen[str]":
        """Start a command of its own process group."""
        command = [sys.executable, "-c", "from minari_obd.cli.application import main; main()", *arguments]
        pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, env=self.environment | changed, start_new_session=True, **pipes)

    def end(self, process: "subprocess.Popen[str]", limit: float = 1_800) -> tuple[int, str]:
        """Wait for a command; a traceback or a run without an end is a fault."""
        try:
            said = process.communicate(timeout=limit)[1]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            said = process.communicate()[1]
            self.fault(f"no end after {limit:.0f} s")
        if "Traceback" in said:
            self.fault(f"a traceback: {said.strip().splitlines()[-1]}")
        return process.returncode, said

    def must(self, process: "subprocess.Popen[str]") -> None:
        """Wait for a command that nothing disturbs."""
        status, said = self.end(process)
        if status:
            self.fault(f"exit status {status}: {said.strip()[-300:]}")

    def fault(self, text: str) -> None:
        """Note a fault."""
        self.faults.append(text)
        print(f"  FAULT: {text}", flush=True)

    def same(self, found: object, wanted: object, what: str) -> None:
        """Compare a result with the undisturbed one."""
        if found != wanted:
            self.fault(f"{what} differ: {found} in place of {wanted}")

    def place(self, name: str) -> Path:
        """A new folder's name."""
        self.number += 1
        return self.folder / f"{name}-{self.number}"


def hash_of(folder: Path) -> str:
    """The hash of a set's pairs."""
    return json.loads((folder / "obd.json").read_text())["pairs_sha256"]


def table_of(folder: Path) -> dict[str, Any]:
    """Every return of a bench, by cell; a file that is not whole raises."""
    cells = (json.loads(path.read_text()) for path in folder.glob("cells/*.json"))
    return {cell["key"]: cell["report"]["returns"] for cell in cells}


def killed(night: Night) -> None:
    """A bench is killed once or twice, and goes on. Hidden files that it was writing are removed a day later."""
    out, done = night.place("killed"), {}
    for _ in range(night.random.choice((1, 2))):
        process = night.start("bench", str(night.folder / "grid.toml"), "--out", str(out))
        time.sleep(night.random.uniform(2, 20))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        kept = table_of(out)
        night.same({key: kept.get(key) for key in done}, done, "results after a kill")
        done = kept
    night.must(night.start("bench", str(night.folder / "grid.toml"), "--out", str(out)))
    night.same(table_of(out), night.table, "tables after a kill")


def terminated(night: Night) -> None:
    """A distillation is terminated, or interrupted, and goes on."""
    out = night.place("terminated")
    process = night.start(*DISTIL, "--out", str(out))
    time.sleep(night.random.uniform(1, 15))
    os.killpg(process.pid, night.random.choice((signal.SIGTERM, signal.SIGINT)))
    night.end(process)
    night.must(night.start(*DISTIL, "--out", str(out)))
    night.same(hash_of(out), night.pairs, "pairs after a signal")


def together(night: Night) -> None:
    """Two processes run the same bench in the same folder."""
    out = night.place("together")
    for process in [night.start("bench", str(night.folder / "grid.toml"), "--out", str(out)) for _ in range(2)]:
        night.must(process)
    night.same(table_of(out), night.table, "tables of two at once")


def full(night: Night) -> None:
    """The disk of the result, or of the cache, is full."""
    out = night.place("full")
    out.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", out], capture_output=True).returncode:
        return
    try:
        room = night.random.choice((0, 4, 16, 64))
        (out / "filler").write_bytes(b"0" * (2**20 - room * 1024 - 8192))
        changed = {} if night.random.random() < 0.5 else {"MINARI_OBD_CACHE": str(out / "cache")}
        target = night.place("elsewhere") if changed else out / "pairs"
        status, said = night.end(night.start(*DISTIL, "--out", str(target), **changed))
        if status == 0:
            night.same(hash_of(target), night.pairs, "pairs on a full disk")
        elif status != 2 or "space" not in said:
            night.fault(f"a full disk: exit status {status}, {said.strip()[-200:]}")
        if status and target.exists():
            night.fault(f"a full disk leaves {[str(path) for path in target.rglob('*')][:5]}")
        left = [path.name for path in out.rglob(".*")]
        if left:
            night.fault(f"a full disk leaves {left[:3]}")
    finally:
        subprocess.run(["umount", out], check=True)


def hub(night: Night) -> None:
    """Sets are pushed and loaded while the Hub has troubles; then all is well."""
    repo, trouble = f"night/set-{night.number}", night.random.choice(TROUBLES)
    with troubled(trouble, night.random) as (server, state):
        changed = {"HF_ENDPOINT": server.url, "HF_TOKEN": "hf_nightnightnight"}
        push = ("push", str(night.folder / "reference"), repo, "--license", "mit")
        load = ("load", repo, "--recipe")
        for arguments in (push, load):
            status, said = night.end(night.start(*arguments, **changed))
            if status not in (0, 2) or (status == 2 and len(said.strip().splitlines()) > 8):
                night.fault(f"{arguments[0]} with trouble {trouble}: exit status {status}, {said.strip()[-300:]}")
        if "hf_nightnight" in said:
            night.fault("a token is shown")
        state["now"] = "none"
        night.must(night.start(*push, **changed))
        night.must(night.start("verify", repo, **changed))
        kept = json.loads(server.files(repo)["obd.json"])["pairs_sha256"]
        night.same(kept, night.pairs, f"published pairs after trouble {trouble}")


@contextmanager
def troubled(trouble: str, chance: random.Random) -> Iterator[tuple[HubServer, dict[str, str]]]:
    """A Hub on loopback of which a third of the answers is trouble."""
    state = {"now": trouble}
    with HubServer() as server:
        handler: Any = server.server.RequestHandlerClass  # a class known at run time alone

        class Troubled(handler):
            def _handle(self) -> None:
                now = state["now"] if chance.random() < 0.34 else "none"
                if now in ("hang", "drop"):
                    time.sleep(25 if now == "hang" else 0)
                    self.close_connection = True
                    self.connection.close()
                elif now in ("429", "500"):
                    self.rfile.read(int(self.headers.get("Content-Length") or 0))
                    self._answer(int(now), {"error": "trouble"})
                else:
                    super()._handle()

            do_GET = do_POST = do_HEAD = do_PUT = do_DELETE = _handle  # noqa: N815  # http.server's names

        served: Any = server.server
        served.RequestHandlerClass = Troubled
        yield server, state


TRIALS: tuple[Callable[[Night], None], ...] = (killed, terminated, together, full, full, hub, hub)


def main() -> None:
    """Draw trials until the time is over, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=480)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--only", nargs="*", choices=sorted({trial.__name__ for trial in TRIALS}), default=[])
    settings = parser.parse_args()
    folder = settings.folder or Path(tempfile.mkdtemp(prefix="night-"))
    folder.mkdir(parents=True, exist_ok=True)
    night = Night(folder.resolve(), settings.seed)
    trials = [trial for trial in TRIALS if not settings.only or trial.__name__ in settings.only]
    begun, counts = time.monotonic(), Counter[str]()
    while time.monotonic() - begun < 60 * settings.minutes:
        trial = night.random.choice(trials)
        print(f"{(time.monotonic() - begun) / 60:6.1f} min  {trial.__name__}", flush=True)
        try:
            trial(night)
        except (OSError, ValueError, KeyError) as error:  # a file of ours that is not whole
            night.fault(f"{trial.__name__}: {type(error).__name__}: {error}")
        counts[trial.__name__] += 1
    print(f"{sum(counts.values())} trials ({dict(counts)}), {len(night.faults)} faults")
    sys.exit(min(len(night.faults), 99))


if __name__ == "__main__":
    main()
