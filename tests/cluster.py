"""A Dask cluster for the tests and benchmarks: a scheduler and workers as processes of their own, TLS or not."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.sleeper import VARIABLE
from config.job import Dask
from dicom_node.executors.contract import NotStarted
from dicom_node.executors.dask import Cluster
from tests.certificates import Authority
from tests.paths import ROOT

DASK = Path(sys.executable).with_name("dask")
# What docs/scaling.md says for a hospital, in seconds that a test can wait for.
CONFIGURED = {
    "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1",
    "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "10s",
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "12s",
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "5s",
}


class TestCluster:
    """`seconds`: how long a job sleeps; None: jobs are real. Everything ends with `close`."""

    __test__ = False

    def __init__(
        self, folder: Path, *, tls: bool = False, seconds: float | None = None, poison: bool = False,
        host: str = "127.0.0.1", inside: Sequence[str] = (),
    ) -> None:  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._host, self._inside = folder, host, list(inside)
        self.port = _free_port()
        self._sleeps = seconds is not None
        self.log = folder / "runs.txt"
        told = {"seconds": seconds, "log": str(self.log), "poison": poison}
        self._environment = {**os.environ, **CONFIGURED, "PYTHONPATH": str(ROOT), VARIABLE: json.dumps(told)}
        self.processes: list[subprocess.Popen[bytes]] = []
        self._tls: list[str] = []
        self.dask = Dask(f"tcp://{host}:{self.port}", insecure=True)
        if tls:
            authority = Authority(folder / "tls", "Cluster authority")
            ours = authority.issue("cluster", hosts=(host,))
            node = authority.issue("node", hosts=(host,))
            self._tls = [f"--tls-ca-file={authority.path}", f"--tls-cert={ours.certificate}", f"--tls-key={ours.key}"]
            self.dask = Dask(
                f"tls://{host}:{self.port}", certificate=node.certificate, private_key=node.key, ca=authority.path
            )
        self.scheduler = self.start_scheduler()

    def start_scheduler(self) -> "subprocess.Popen[bytes]":
        self.scheduler = self._start(
            "scheduler", "--host", self._host, "--port", str(self.port), "--no-dashboard", inside=self._inside
        )
        return self.scheduler

    def start_worker(
        self, threads: int = 1, *options: str, inside: Sequence[str] = (), keeps: bool = False
    ) -> "subprocess.Popen[bytes]":
        """One worker process, without a nanny that would start it again, unless it `keeps` its place."""
        nanny = "--nanny" if keeps else "--no-nanny"
        preload = ["--preload", "benchmarks.sleeper"] if self._sleeps else []
        return self._start(
            "worker", self.dask.scheduler, "--nthreads", str(threads), nanny, "--memory-limit", "0",
            "--no-dashboard", "--local-directory", str(self.folder / "workers"), *preload, *options, inside=inside,
        )  # fmt: skip

    def _start(self, what: str, *arguments: str, inside: Sequence[str]) -> "subprocess.Popen[bytes]":
        with (self.folder / f"{what}.log").open("ab") as log:
            started = subprocess.Popen(
                [*inside, str(DASK), what, *arguments, *self._tls], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                env=self._environment, cwd=ROOT,
            )  # fmt: skip
        self.processes.append(started)
        return started

    def wait_for(self, places: int, seconds: float = 60.0) -> None:
        """Until so many jobs can run side by side."""
        connection, end = Cluster(self.dask), time.monotonic() + seconds
        found = -1
        try:
            while found != places:
                assert time.monotonic() < end, f"{found} places, not {places}: {self.said()}"
                with contextlib.suppress(NotStarted):
                    found = connection.room()
                time.sleep(0.1)
        finally:
            connection.close()

    def said(self) -> str:
        return "".join(path.read_text(errors="replace")[-1500:] for path in self.folder.glob("*.log"))

    def runs(self) -> list[tuple[str, int]]:
        """(key, worker's process) of each job that was started."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [(line.split()[0], int(line.split()[1])) for line in lines]

    def cycle_seconds(self) -> float:
        """From a worker's start of a job to its next, all workers together."""
        starts: dict[str, list[float]] = {}
        for line in self.log.read_text().splitlines():
            starts.setdefault(line.split()[1], []).append(float(line.split()[2]))
        return sum(max(each) - min(each) for each in starts.values()) / sum(len(each) - 1 for each in starts.values())

    def kill(self, process: "subprocess.Popen[bytes]") -> None:
        process.kill()
        process.wait(30)

    def close(self) -> None:
        for process in reversed(self.processes):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            if process.poll() is None:
                self.kill(process)

    def __enter__(self) -> "TestCluster":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
