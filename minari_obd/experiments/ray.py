"""Bench on a Ray cluster: its workers run the cells, and the files come back to this machine.

Machines need no shared folder: a cell travels with the files it needs, and the files it made travel back. Every node
needs this package, and all datasets other than `obd-bench/*`, whose content is checked.
"""

import os
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from minari_obd.errors import SettingError
from minari_obd.experiments.cell import Task
from minari_obd.experiments.processes import last_line, start_process
from minari_obd.storage.files import write_bytes
from minari_obd.support.libraries import check_installed
from minari_obd.support.modules import VARIABLE

__all__ = ["RayRunner"]

_PAUSE = 1.0  # seconds to wait for a cell in each poll


_Files = dict[str, bytes]


class RayRunner:
    """Runs cells on the workers of a Ray cluster, one core per cell. Ray decides where and when."""

    slots = float("inf")

    def __init__(self, folder: Path) -> None:
        """Join the running cluster at ``RAY_ADDRESS`` or on this machine.

        Raises:
            MissingExtraError: Ray is not installed.
            SettingError: there is no cluster.
        """
        check_installed("ray", "ray")
        import ray

        self._ray, self._folder = ray, folder
        self._running: dict[Any, Task] = {}
        self._joined = not ray.is_initialized()
        if self._joined:
            address = os.environ.get("RAY_ADDRESS", "auto")
            try:
                _check_answers(address)
                ray.init(address=address, log_to_driver=False)
            except OSError as error:
                raise SettingError(
                    f"There is no Ray cluster to join at '{address}'; start one with `ray start --head`, or set "
                    "RAY_ADDRESS."
                ) from error
        self._work = ray.remote(num_cpus=1, max_retries=1)(_work)

    def start(self, task: Task) -> None:
        """Submit a cell to the cluster, with the files that it needs."""
        needed = [f"teachers/{task.teacher_key}"] if task.cell.needs_teacher() else []
        if task.cell.protocol is not None:
            needed.append(f"sets/{task.set_key}")
        files = {name: content for place in needed for name, content in _read(self._folder, place).items()}
        self._running[self._work.remote(task.to_json(), files, os.environ.get(VARIABLE, ""))] = task

    def finished(self) -> dict[str, str | None]:
        """Wait briefly, and take the files of one finished cell."""
        ended = {}
        for reference in self._ray.wait(list(self._running), timeout=_PAUSE)[0]:
            task = self._running.pop(reference)
            try:
                problem, files = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                problem, files = f"{type(error).__name__}: {str(error).strip().splitlines()[-1][:300]}", {}
            # Write the result last: its presence means that all other files are complete.
            for name in sorted(files, key=lambda name: name.startswith("cells/")):
                write_bytes(self._folder / name, files[name])
            ended[task.key] = problem
        return ended

    def stop(self) -> None:
        """Cancel the cells that are still running, and leave the cluster if this runner joined it."""
        for reference in self._running:
            self._ray.cancel(reference)
        if self._joined:
            self._ray.shutdown()


def _check_answers(address: str) -> None:
    """Make sure that something listens at ``host:port``. Ray itself would try for minutes."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if separator and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def _work(given: dict[str, Any], files: _Files, modules: str) -> tuple[str | None, _Files]:
    """Run a cell on a worker, in a separate process.

    Returns:
        The error, if any, and the files that the cell made.
    """
    with tempfile.TemporaryDirectory(prefix="minari-obd-") as name:
        folder = Path(name)
        for path, content in files.items():
            write_bytes(folder / path, content)
        log = folder / "log"
        with log.open("wb") as said:
            process = start_process(Task.from_json(given), folder, said, {VARIABLE: modules})
        if _wait(process):
            return last_line(log), {}
        log.unlink()
        return None, {path: content for path, content in _read(folder, ".").items() if files.get(path) != content}


def _wait(process: "subprocess.Popen[bytes]") -> int:
    try:
        return process.wait()
    except BaseException:  # Ray cancels a task by raising an exception in it
        process.terminate()
        process.wait()
        raise


def _read(folder: Path, place: str) -> _Files:
    """Return the files below ``folder / place`` by their paths in ``folder``."""
    files = (path for path in (folder / place).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
