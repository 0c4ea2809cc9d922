"""The argument list of podman and docker for one job, and what the answer of the trial means. Pure.

One list for both engines, but for how the job's user is mapped (`as_user`) and for who makes control groups.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.settings import Job
from dicom_node.executors import sandbox

USER = 65532  # "nonroot" of distroless images: nobody's on a Debian or Red Hat machine
PYTHON = "/opt/prognode/bin/python"
PROCESSORS = 2.0  # of a job: ITK's filters have two threads
CPU_SHARES = 256  # beside 1024 of what runs in no container: receiving and delivery go first
JOBS_SLICE = "prognode-jobs.slice"
LATE_SECONDS = 60.0  # after the wall clock: by then its runner has ended it, or is gone
TEMPORARY = "/tmp:rw,noexec,nosuid,nodev,size=536870912,mode=1777"  # noqa: S108 - inside the container
ENGINE_FAILED = frozenset({125, 126, 127})  # what the engines say for "not started"; a job cannot say it, see _FIRST
MAXIMUM_OF_USER = 4096  # processes of all jobs' user; podman would ask for more than it may where the node is confined
NODE_LABEL, TRIAL_LABEL = "prognode.node", "prognode.trial"
_FIRST = '"$@"; code=$?; case $code in 125|126|127) code=70;; esac; exit $code'
_ENVIRONMENT = {
    "HOME": "/tmp",  # noqa: S108
    "TMPDIR": "/tmp",  # noqa: S108
    "PYTHONDONTWRITEBYTECODE": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "2",
}


@dataclass(frozen=True)
class Engine:
    """A container engine of this machine: "podman" or "docker", and who calls it.

    `cgroups`: who makes its control groups, "systemd" or "cgroupfs" (itself).
    """

    name: str
    version: str
    uid: int
    gid: int
    cgroups: str = "cgroupfs"

    @property
    def as_user(self) -> list[str]:
        """Arguments for the user that the job runs as.

        Called by root, the job is 65532, and its folders are given to that user. Called by another user, the job is
        that user, whose files they are: podman shows it as 65532 inside; docker, whose daemon is root, cannot.
        """
        if self.uid == 0:
            return ["--user", f"{USER}:{USER}"]
        if self.name == "podman":
            return ["--user", f"{USER}:{USER}", "--userns", f"keep-id:uid={USER},gid={USER}"]
        return ["--user", f"{self.uid}:{self.gid}"]

    @property
    def gives_way(self) -> list[str]:
        """Arguments by which a job takes the processor after what runs in no container.

        Shares count among neighbours in the tree of control groups, and both engines put containers below a group of
        their own; niceness counts inside one group only (measured: docs/containers.md). So the job becomes a neighbour
        of the services. What a user without privileges starts stays in that user's part of the tree.
        """
        shares = ["--cpu-shares", str(CPU_SHARES)]
        if self.name == "podman" and self.uid != 0:
            return shares
        return [*shares, "--cgroup-parent", JOBS_SLICE if self.cgroups == "systemd" else "/"]


def owner(place: Path) -> str:
    """What tells the containers of this spool from those of another node on the machine.

    >>> owner(Path("/var/lib/prognode"))
    '5c03908b20bc'
    """
    return hashlib.sha256(str(place).encode()).hexdigest()[:12]


def command(
    engine: Engine,
    limits: Job,
    name: str,
    label: str,
    program: Sequence[str],
    *,
    folder_in: Path,
    folder_out: Path | None,
    seconds: float,
) -> list[str]:
    """The whole argument list. `seconds`: after that the container ends by itself, whatever became of its runner.

    Raises ValueError for a folder that the engines' own notation cannot name.
    """
    mounts = ["--volume", _mount(folder_in, "/in", "ro")]
    if folder_out is not None:
        mounts += ["--volume", _mount(folder_out, "/out", "rw")]
    memory = f"{limits.memory_bytes}b"
    return [
        engine.name, "run", "--rm", "--pull", "never", "--name", name, "--label", label, "--hostname", "job",
        "--network", "none", "--read-only", "--tmpfs", TEMPORARY, *engine.as_user, "--cap-drop", "all",
        "--security-opt", "no-new-privileges", "--memory", memory, "--memory-swap", memory,
        "--cpus", f"{min(PROCESSORS, os.cpu_count() or 1):g}", *engine.gives_way,
        "--pids-limit", str(sandbox.MAXIMUM_PROCESSES), *_ulimits(limits), "--log-driver", "none", *_environment(),
        "--workdir", "/", *mounts, "--entrypoint", "/bin/sh", limits.image,
        "-c", _FIRST, "job", "timeout", "--kill-after=5", f"{seconds:.0f}", *program,
    ]  # fmt: skip


def _ulimits(limits: Job) -> list[str]:
    values = {
        "cpu": limits.cpu_seconds,
        "fsize": limits.output_bytes,
        "nofile": sandbox.OPEN_FILES,
        "core": 0,
        "nproc": MAXIMUM_OF_USER,
    }
    return [word for name, value in values.items() for word in ("--ulimit", f"{name}={value}:{value}")]


def _environment() -> list[str]:
    return [word for name, value in _ENVIRONMENT.items() for word in ("--env", f"{name}={value}")]


def _mount(folder: Path, inside: str, how: str) -> str:
    if ":" in str(folder):
        raise ValueError("the path of the spool has a colon, which podman and docker cannot mount")
    return f"{folder}:{inside}:{how}"


@dataclass(frozen=True)
class Kept:
    """What of the promises is kept: `in_force` with how, `missing`; `unfit` says why no job can run at all ("")."""

    in_force: tuple[tuple[str, str], ...]
    missing: tuple[str, ...]
    unfit: str = ""


def judged(
    found: Mapping[str, Any], limits: Job, version: str, question: str, survivors: str = "PID namespace"
) -> Kept:
    """What the trial says (`inside`), against the settings; `question` is what it had to read in IN.

    `survivors`: what ends the processes of a job with it.
    """
    swap = "cgroup, but swap is not limited" if found["swap"] else "cgroup"
    grouped = _within(found["memory_bytes"], limits.memory_bytes)
    counted = _within(found["pids"], sandbox.MAXIMUM_PROCESSES)
    how = {
        sandbox.NETWORK: ("network namespace", not set(found["interfaces"]) - {"lo"}),
        sandbox.PRIVILEGES: (
            "no_new_privs, no capabilities",
            found["uid"] != 0 and not found["capabilities"] and found["no_new_privileges"],
        ),
        sandbox.SYSTEM_CALLS: ("seccomp", found["seccomp"]),
        sandbox.INPUTS: ("read-only mount", found["in"] == "EROFS"),
        sandbox.NOTHING_ELSE: ("mount namespace, read-only root", found["root"] == "EROFS" and not found["spool"]),
        sandbox.NO_SURVIVOR: (survivors, found["processes"] <= 8),  # sh, timeout, Python
        sandbox.PROCESSES: (
            "cgroup" if counted else "RLIMIT_NPROC",
            counted or _within(found["user_processes"], sandbox.MAXIMUM_PROCESSES),
        ),
        sandbox.MEMORY: (
            swap if grouped else "RLIMIT_AS, for each process",
            grouped or _within(found["address_space"], limits.memory_bytes),
        ),
        "CPU time": ("", _within(found["cpu_seconds"], limits.cpu_seconds)),
        "size of files": ("", _within(found["file_bytes"], limits.output_bytes)),
        "open files": ("", _within(found["open_files"], sandbox.OPEN_FILES)),
        "wall clock": ("", True),  # by the runner, which ends the container
        "output in all": ("", True),
    }
    return Kept(
        tuple((name, by) for name, (by, kept) in how.items() if kept),
        tuple(name for name, (_, kept) in how.items() if not kept),
        _unfit(found, version, question),
    )


def _within(found: int | None, limit: int) -> bool:
    return found is not None and 0 <= found <= limit


def _unfit(found: Mapping[str, Any], version: str, question: str) -> str:
    if found["version"] != version:
        return f"the image holds Prognode {found['version']}, this node is {version}: build the image of this version"
    if found["read"] != question:
        return f"a job cannot read its input ({found['read'][:20]}); where SELinux is on, see docs/containers.md"
    if found["out"] != "written":
        return f"a job cannot write its output ({found['out'][:20]}); where SELinux is on, see docs/containers.md"
    return "the image lets onnxruntime send telemetry" if found["telemetry"] else ""
