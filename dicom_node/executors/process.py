"""Executor `process`: the job as a child in a network namespace of its own, with limits and a scrubbed environment.

The chain is prlimit -> unshare -> setpriv -> python, each replacing the one before, so there is one process to wait
for and it dies with its worker (PR_SET_PDEATHSIG): a job never outlives a killed node.
"""

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from config.settings import Job

LOG_FILE = "job.log"


@dataclass(frozen=True)
class Isolation:
    """What the kernel allows here. `namespace` are the arguments of unshare; empty: no network namespace."""

    namespace: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Ended:
    """How a job ended: `exit_code` is negative for a signal, None when the wall clock ran out."""

    exit_code: int | None


def probe() -> Isolation:
    """Try what isolates the job from the network: as root directly, else through a user namespace."""
    for namespace, text in (
        (("--net", "--ipc"), "network namespace"),
        (("--user", "--map-root-user", "--net", "--ipc"), "network namespace inside a user namespace"),
    ):
        try:
            done = subprocess.run(
                ["unshare", *namespace, "--", "true"],
                capture_output=True,
                timeout=10,
                check=False,
                env=_environment(None),
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0:
            return Isolation(namespace, text)
    return Isolation((), "none: this kernel or container does not allow a network namespace")


def command(folder_in: Path, folder_out: Path, limits: Job, isolation: Isolation) -> list[str]:
    """The argument list; pure. Only the two folders are passed."""
    # -P: the output folder is the working directory and must not become a place to import from.
    python = [sys.executable, "-P", "-m", "analysis.run", str(folder_in), str(folder_out)]
    return [*_confined(limits, isolation), *python]


def _confined(limits: Job, isolation: Isolation) -> list[str]:
    """What stands before a program that must not reach the network, grow, or outlive us."""
    prlimit = [
        "prlimit",
        f"--as={limits.memory_bytes}",
        f"--cpu={limits.cpu_seconds}",
        f"--fsize={limits.output_bytes}",
        "--core=0",
        "--nofile=1024",
    ]
    unshare = ["unshare", *isolation.namespace, "--"] if isolation.namespace else []
    setpriv = ["setpriv", "--no-new-privs", "--pdeathsig", "KILL", "--"]
    return [*prlimit, "--", *unshare, *setpriv]


def run(folder_in: Path, folder_out: Path, limits: Job, isolation: Isolation) -> Ended:
    """Run one job to its end or to its wall-clock limit. Raises OSError when it cannot be started at all."""
    with (folder_out / LOG_FILE).open("wb") as log:
        child = subprocess.Popen(
            command(folder_in, folder_out, limits, isolation),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder_out,
            env=_environment(folder_out),
            start_new_session=True,
        )
        try:
            return Ended(child.wait(timeout=limits.wall_clock_seconds))
        except subprocess.TimeoutExpired:
            return Ended(None)
        finally:
            _kill_group(child)


def run_module(module: str, arguments: list[str]) -> int:
    """Run a tool of ours (training, the synthetic cohort) in the foreground, with its output on the terminal.

    One thread in each of its processes, as in a job, unless the environment says otherwise; ends when we are killed.
    """
    environment = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **os.environ}
    command = ["setpriv", "--pdeathsig", "TERM", "--", sys.executable, "-P", "-m", module, *arguments]
    return subprocess.run(command, check=False, env=environment).returncode


def ask_module(module: str, arguments: list[str], timeout: float, limits: Job) -> tuple[int | None, str]:
    """Run a tool of ours, confined as a job is, and read what it says: exit status, None out of time, and output."""
    try:
        done = subprocess.run(
            [*_confined(limits, probe()), sys.executable, "-P", "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            check=False,
            env=_environment(None),
        )
    except subprocess.TimeoutExpired:
        return None, ""
    return done.returncode, done.stdout.decode("utf-8", "replace").strip()


def _kill_group(child: "subprocess.Popen[bytes]") -> None:
    """End what is left of the job's session: it, and anything it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _environment(home: Path | None) -> dict[str, str]:
    """Nothing of ours leaks in: no peer, no path of the spool, no secret."""
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime's Linux wheels send telemetry by default since 1.29
        # One thread each: sums in another order would give other last digits, and so other bytes.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "2",
    }
    if home is not None:
        environment["HOME"] = environment["TMPDIR"] = str(home)
    return environment
