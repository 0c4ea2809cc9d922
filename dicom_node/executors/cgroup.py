"""A control group for each job, where the node may make one: memory, processes and processor of all of it together.

Under systemd with `Delegate=yes` (cgroup v2), as root in a container, or on a machine with cgroup v1.
"""

import contextlib
import itertools
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
OWN = Path("/proc/self/cgroup")
PREFIX = "prognode-job-"
BELOW = "node"  # the group that the node itself moves to
KILL_SECONDS = 10.0
NICENESS, SHARES = "10", "110"  # the same weight for cgroup v2 and v1: a tenth of the usual one
_numbers = itertools.count()


@dataclass(frozen=True)
class Parent:
    """Where a job's group may be made: a folder, and its files for memory and processes ("" when it has none)."""

    folder: Path
    memory: str
    processes: str


def parents() -> tuple[Parent, ...]:
    """One for cgroup v2, up to three for v1; () where the node may not make any with limits. May move the node down."""
    try:
        own = dict(_own_groups(OWN.read_text()))
        mounts = _mounted(MOUNTS.read_text())
    except OSError:
        return ()
    return _unified(own, mounts) or _separate(own, mounts)


def _own_groups(text: str) -> list[tuple[str, str]]:
    """(controller, path) of each line "number:controllers:path"; "" is cgroup v2."""
    lines = (line.split(":", 2) for line in text.splitlines() if line.count(":") >= 2)
    return [(name, path) for _, names, path in lines for name in names.split(",")]


def _mounted(text: str) -> dict[str, Path]:
    """Mount point of each controller; "" is cgroup v2."""
    found: dict[str, Path] = {}
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.partition(" ")
        names = [""] if kind == "cgroup2" else options.split()[-1].split(",") if kind == "cgroup" else []
        for name in names:
            found.setdefault(name, Path(left.split()[4]))
    return found


def _unified(own: dict[str, str], mounts: dict[str, Path]) -> tuple[Parent, ...]:
    if "" not in own or "" not in mounts:
        return ()
    folder, path = mounts[""] / own[""].lstrip("/"), own[""]
    if folder.name == BELOW and _delegated(folder.parent, str(Path(path).parent)):
        folder, path = folder.parent, str(Path(path).parent)  # we have moved already
    try:
        offered = set((folder / "cgroup.controllers").read_text().split())
    except OSError:
        return ()
    if not {"memory", "pids"} <= offered or not _delegated(folder, path):
        return ()
    try:
        _enable(folder)
    except OSError:
        return ()
    return (Parent(folder, "memory.max", "pids.max"),)


def _delegated(folder: Path, path: str) -> bool:
    """Whether this part of the tree is ours: systemd says so, or it is a container's own root."""
    if not os.access(folder / "cgroup.procs", os.W_OK):
        return False
    try:
        return path == "/" or os.geteuid() != 0 or os.getxattr(folder, "user.delegate") == b"1"
    except OSError:
        return False


def _enable(folder: Path) -> None:
    """Give groups below their limits. A group with processes may not: those (the node) move one down first."""
    switch = folder / "cgroup.subtree_control"
    try:
        _switch_on(switch)
    except OSError:
        below = folder / BELOW
        below.mkdir(exist_ok=True)
        for process in (folder / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):  # it has ended
                (below / "cgroup.procs").write_text(process)
        _switch_on(switch)


def _switch_on(switch: Path) -> None:
    """Raises OSError. A job can do without the processor's controller, which is not always delegated."""
    if "cpu" in (switch.parent / "cgroup.controllers").read_text().split():
        with contextlib.suppress(OSError):
            switch.write_text("+cpu +memory +pids")
            return
    switch.write_text("+memory +pids")


def _separate(own: dict[str, str], mounts: dict[str, Path]) -> tuple[Parent, ...]:
    found = []
    for name, memory, processes in (("memory", "memory.limit_in_bytes", ""), ("pids", "", "pids.max")):
        if name not in own or name not in mounts:
            return ()
        folder = mounts[name] / own[name].lstrip("/")
        if not os.access(folder / "cgroup.procs", os.W_OK):
            return ()
        found.append(Parent(folder, memory, processes))
    if "cpu" in own and "cpu" in mounts:
        folder = mounts["cpu"] / own["cpu"].lstrip("/")
        if os.access(folder / "cgroup.procs", os.W_OK):
            found.append(Parent(folder, "", ""))
    return tuple(found)


def memory_of_the_machine() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def memory() -> int:
    """Bytes that the node and its children may take: the machine's, or what a control group around us allows."""
    found = [memory_of_the_machine()]
    try:
        own, mounts = dict(_own_groups(OWN.read_text())), _mounted(MOUNTS.read_text())
    except OSError:
        return found[0]
    for name, file in (("", "memory.max"), ("memory", "memory.limit_in_bytes")):
        if name in own and name in mounts:
            folder = mounts[name] / own[name].lstrip("/")
            for each in (folder, *folder.parents):
                with contextlib.suppress(OSError, ValueError):  # none there, or "max"
                    found.append(int((each / file).read_text()))
    return min(found)


def slots(memory_bytes: int, available: int) -> int:
    """Jobs that there is room for side by side here: a processor for each, and its limit of memory."""
    return max(1, min(len(os.sched_getaffinity(0)), available // memory_bytes))


def sweep(above: tuple[Parent, ...]) -> None:
    """Remove the groups of nodes that were killed; one that still holds a process stays (the kernel sees to it)."""
    for folder in (folder for parent in above for folder in parent.folder.glob(f"{PREFIX}*")):
        owner = folder.name.removeprefix(PREFIX).partition("-")[0]
        if not Path("/proc", owner).exists():
            with contextlib.suppress(OSError):
                folder.rmdir()


class Cgroup:
    """The group of one job. `join` goes in front of its command; `end` kills what is left and removes the group."""

    def __init__(self, above: tuple[Parent, ...], memory_bytes: int, processes: int) -> None:
        """Raises OSError where the kernel refuses."""
        name = f"{PREFIX}{os.getpid()}-{next(_numbers)}"
        self._folders = [parent.folder / name for parent in above]
        try:
            for parent, folder in zip(above, self._folders, strict=True):
                folder.mkdir()
                if parent.memory:
                    (folder / parent.memory).write_text(str(memory_bytes))
                if parent.processes:
                    (folder / parent.processes).write_text(str(processes))
                with contextlib.suppress(OSError):
                    (folder / "memory.swap.max").write_text("0")
        except OSError:
            self.end()
            raise

    @property
    def join(self) -> list[str]:
        """A shell that enters the groups and becomes the command."""
        files = [str(folder / "cgroup.procs") for folder in self._folders]
        enter = 'while [ "$1" != -- ]; do echo $$ > "$1" || exit 126; shift; done; shift; exec "$@"'
        return ["/bin/sh", "-c", enter, "join", *files, "--"]

    def give_way(self, *, wholly: bool) -> None:
        """Whether its processes have the processor only while nobody beside the group wants it, or a small share.

        Wholly: who wakes up has it at once (Linux 5.15), and does not wait for a share to be used up. Nothing happens
        where the node has no such controller.
        """
        names = {"cpu.idle": "1"} if wholly else {"cpu.idle": "0", "cpu.weight.nice": NICENESS, "cpu.shares": SHARES}
        for path in (folder / name for name in names for folder in self._folders):
            with contextlib.suppress(OSError):
                if path.exists():
                    path.write_text(names[path.name])

    def processes(self) -> list[int]:
        found = set()
        for folder in self._folders:
            with contextlib.suppress(OSError):
                found |= {int(word) for word in (folder / "cgroup.procs").read_text().split()}
        return sorted(found)

    def end(self) -> None:
        for folder in self._folders:
            with contextlib.suppress(OSError):
                (folder / "cgroup.kill").write_text("1")
        limit = time.monotonic() + KILL_SECONDS
        while (left := self.processes()) and time.monotonic() < limit:
            for process in left:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.01)
        for folder in self._folders:
            with contextlib.suppress(OSError):
                folder.rmdir()
