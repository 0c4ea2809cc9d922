"""`prognode web` as a process of its own that need not import everything again: forked from one that has."""

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["dicom_node.cli", "dicom_node.keeper", "dicom_node.web.server"])


def _run(config: str, log: str) -> None:
    """What the command `prognode web` does, with its words in a file."""
    stream = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for number in (1, 2):
        os.dup2(stream, number)
    sys.argv = ["prognode", "web", "--config", config]
    from dicom_node import cli

    cli.main()


class Forked:
    """Answers like subprocess.Popen."""

    def __init__(self, config: Path, log: Path) -> None:
        self._process = _FORKS.Process(target=_run, args=(str(config), str(log)), daemon=True)
        self._process.start()
        self.pid: int = self._process.pid  # type: ignore[assignment]

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("prognode web", timeout)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
        self._process.join(30)
