"""What a job is confined by: the argument lists of bubblewrap, or of util-linux where that is not to be had. Pure.

With bubblewrap the job sees the system's libraries, our Python, its own two folders, and nothing else of the machine;
its inputs are mounted read-only. Without, it has no network and ends with its children, but files are guarded by their
modes alone: it runs as the node's user.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from config.settings import Job
from dicom_node.executors.cgroup import Parent

MAXIMUM_PROCESSES = 256  # of a job, threads included; the analysis has about 10
MAXIMUM_FILES = 10_000  # that a job may leave in OUT; the analysis writes 6
OPEN_FILES = 1024
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/lib32")
SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime", "/sys/devices/system/cpu")
NAMESPACES = ("--net", "--ipc", "--uts", "--mount", "--pid", "--fork", "--kill-child")
NETWORK, PRIVILEGES, SYSTEM_CALLS = "no network", "no new privileges", "system calls filtered"
INPUTS, NOTHING_ELSE, NO_SURVIVOR = "inputs read-only", "other files unseen", "no process outlives the job"
PROCESSES, MEMORY = "number of processes", "memory"
ALWAYS = ("CPU time", "wall clock", "size of files", "output in all", "open files")
LIMITS = (PROCESSES, MEMORY, *ALWAYS)


@dataclass(frozen=True)
class Isolation:
    """What the kernel allows here.

    `wrap` are bwrap's own arguments ("" in front: util-linux's unshare), () where there is neither. `in_force` names
    each promise that is kept, with what keeps it; `missing` those that are not. `groups`: where those of jobs are made.
    """

    wrap: tuple[str, ...]
    in_force: tuple[tuple[str, str], ...]
    missing: tuple[str, ...]
    filtered: bool = False
    groups: tuple[Parent, ...] = ()
    root: bool = False

    @property
    def bubblewrap(self) -> bool:
        return bool(self.wrap) and self.wrap[0] == "bwrap"

    @property
    def text(self) -> str:
        """For the log, the System page and `prognode check`: who starts jobs, the limits, and what confines them."""
        who = "root" if self.root else "a user without privileges"
        return f"as {who}, {told(self.in_force, self.missing)}"


def told(in_force: Sequence[tuple[str, str]], missing: Sequence[str]) -> str:
    """The promises in words: those that are kept, with how, and those that are not."""
    limits: list[str] = []
    walls: list[str] = []
    for name, how in in_force:
        (limits if name in LIMITS else walls).append(f"{name} ({how})" if how else name)
    kept = f"in force: limits of {', '.join(limits)}" + "".join(f"; {wall}" for wall in walls)
    return kept + (f"; NOT in force: {', '.join(missing)}" if missing else "")


def candidates(*, root: bool) -> list[tuple[str, ...]]:
    """What to try, best first. /proc cannot be mounted everywhere where the rest is to be had (inside Docker)."""
    bwrap = (
        "bwrap", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try",
        "--die-with-parent", "--cap-drop", "ALL", "--hostname", "job",
    )  # fmt: skip
    # Without any capability, root may still write into /proc/sys.
    proc = ("--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys")
    users = () if root else ("--unshare-user",)
    mapped = () if root else ("--user", "--map-current-user")
    return [
        (*bwrap, *users, *proc),
        (*bwrap, "--unshare-user", *proc),
        (*bwrap, "--unshare-user"),
        ("unshare", *mapped, *NAMESPACES),
        ("unshare", "--user", "--map-current-user", *NAMESPACES),
        ("unshare", "--user", "--map-root-user", "--net", "--ipc", "--mount"),
    ]


def promises(wrap: tuple[str, ...], *, root: bool, filtered: bool, groups: tuple[Parent, ...]) -> Isolation:
    """Which promises are kept by what was found to work. Root is exempt from RLIMIT_NPROC (setrlimit(2))."""
    inside = bool(wrap) and wrap[0] == "bwrap"
    how = {
        NETWORK: "network namespace" if wrap else None,
        PRIVILEGES: "no_new_privs, no capabilities" if inside or not root else None,  # root may still write /proc/sys
        SYSTEM_CALLS: "seccomp" if filtered and inside else None,
        INPUTS: "read-only mount" if inside else None,
        NOTHING_ELSE: "mount namespace" if inside else None,
        NO_SURVIVOR: "PID namespace" if inside or "--pid" in wrap else "cgroup" if groups else None,
        PROCESSES: "cgroup" if groups else None if root else "RLIMIT_NPROC",
        MEMORY: "cgroup" if groups else "RLIMIT_AS, for each process",
    }
    in_force = tuple((name, by) for name, by in how.items() if by is not None) + tuple((name, "") for name in ALWAYS)
    missing = tuple(name for name, by in how.items() if by is None)
    return Isolation(wrap, in_force, missing, filtered, groups, root)


def confined(
    isolation: Isolation,
    limits: Job,
    *,
    readable: Sequence[Path],
    writable: Path | None,
    program: Sequence[str],
    root: bool = False,
) -> list[str]:
    """The whole argument list for `program`, which may read `readable` and write into `writable`; `root` starts it."""
    resources = [
        "prlimit", f"--as={limits.memory_bytes}", f"--cpu={limits.cpu_seconds}", f"--fsize={limits.output_bytes}",
        f"--nofile={OPEN_FILES}", f"--nproc={MAXIMUM_PROCESSES}", "--core=0", "--",
    ]  # fmt: skip
    bare = ["setpriv", "--no-new-privs", "--inh-caps=-all"]
    # Who is root keeps every capability otherwise, and could mount over the machine's own folders.
    bare += ["--bounding-set=-all", "--"] if root or "--map-root-user" in isolation.wrap else ["--"]
    if not isolation.bubblewrap:
        # RLIMIT_NPROC counts all processes of the node's user where there is no user namespace: it would stop the node.
        if "--user" not in isolation.wrap:
            resources = [each for each in resources if not each.startswith("--nproc")]
        # A first process for the PID namespace: the job as such would get no signal, and unshare hides how it ended.
        namespace = [*isolation.wrap, "--", "/bin/sh", "-c", '"$@"; exit $?', "init"] if isolation.wrap else []
        return ["setpriv", "--pdeathsig", "KILL", "--", *namespace, *resources, *bare, *program]
    return [*isolation.wrap, *_mounts(readable, writable), "--", *resources, *program]


def _mounts(readable: Sequence[Path], writable: Path | None) -> list[str]:
    """Nothing but this is there; the root itself is read-only, so that no memory can be filled through it."""
    mounts: list[str] = []
    for system in (*SYSTEM, *SYSTEM_FILES):
        link = Path(system).readlink() if Path(system).is_symlink() else None
        mounts += ["--symlink", str(link), system] if link else ["--ro-bind-try", system, system]
    mounts += ["--dev", "/dev", "--remount-ro", "/dev"]
    for ours in _ours():
        mounts += ["--ro-bind", str(ours), str(ours)]
    for path in readable:
        mounts += ["--ro-bind", str(path), str(path)]
    if writable is not None:
        mounts += ["--bind", str(writable), str(writable), "--chdir", str(writable)]
    return [*mounts, "--remount-ro", "/"]


def _ours() -> list[Path]:
    """Python with its packages, and our own where they are not among those (an editable install)."""
    python = [Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve().parent.parent]
    here = Path(__file__).parent.parent.parent
    packages = [here / name for name in ("analysis", "models", "config")]
    found = [path for path in (*python, *packages) if path.is_dir() and not _in_system(path)]
    return [path for path in dict.fromkeys(found) if not any(other in path.parents for other in found)]


def _in_system(path: Path) -> bool:
    return any(path == Path(system) or Path(system) in path.parents for system in SYSTEM)
