"""Cells in processes: each is a child that runs ``python -m minari_obd.experiments.processes``."""

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from minari_obd.errors import MinariObdError
from minari_obd.experiments.cell import Task, run_task
from minari_obd.support.children import child_of
from minari_obd.support.modules import import_named

__all__ = ["ProcessRunner", "last_line", "start_process"]

_PAUSE = 0.2  # seconds between two looks at the processes


def main() -> None:
    """Run the cell that standard input describes, and write its result; the last line of an error names it."""
    given = json.load(sys.stdin)
    try:
        import_named()
        run_task(Task.from_json(given["task"]), Path(given["folder"]), workers=1)
    except MinariObdError as error:
        sys.exit(f"{type(error).__name__}: {error}")


class ProcessRunner:
    """Runs cells in processes on this machine."""

    def __init__(self, folder: Path, jobs: int) -> None:
        """Run up to ``jobs`` cells at a time, with their results and logs in ``folder``."""
        self.slots = jobs
        self._folder, self._running = folder, dict[str, "subprocess.Popen[bytes]"]()
        (folder / "logs").mkdir(parents=True, exist_ok=True)

    def start(self, task: Task) -> None:
        """Start a process for a cell."""
        with self._log(task.key).open("wb") as log:
            self._running[task.key] = start_process(task, self._folder, log)

    def finished(self) -> dict[str, str | None]:
        """Wait a little, and return the keys of cells that have ended since, with the last line of a failure."""
        time.sleep(_PAUSE)
        ended = {key: process for key, process in self._running.items() if process.poll() is not None}
        for key in ended:
            del self._running[key]
        return {key: last_line(self._log(key)) if process.returncode else None for key, process in ended.items()}

    def stop(self) -> None:
        """Terminate every process that still runs."""
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            process.wait()

    def _log(self, key: str) -> Path:
        return self._folder / "logs" / f"{key}.log"


def start_process(
    task: Task, folder: Path, log: IO[bytes], variables: Mapping[str, str] | None = None
) -> "subprocess.Popen[bytes]":
    """Start a process that runs a cell and writes its result; ``log`` takes its output and its errors."""
    arguments, environment = child_of("minari_obd.experiments.processes", variables=variables)
    process = subprocess.Popen(arguments, env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log)
    assert process.stdin is not None
    process.stdin.write(json.dumps({"task": task.to_json(), "folder": str(folder.resolve())}).encode())
    process.stdin.close()
    return process


def last_line(log: Path) -> str:
    """Return the last line that a process wrote, at most 300 characters."""
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "it ended without a word"


if __name__ == "__main__":
    main()
