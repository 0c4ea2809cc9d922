"""What a container or a unit keeps of its promises, seen from inside: printed as JSON. Runs with the job's own Python.

`container` and `systemd` hand it to that Python: it imports the standard library alone, and nothing of ours. Its
arguments are IN and OUT, where they are not /in and /out.
"""

import errno
import importlib.metadata
import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

STATUS = Path("/proc/self/status")
GROUPS = Path("/sys/fs/cgroup")
CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


def main(folder_in: str = "/in", folder_out: str = "/out") -> None:
    status = dict(line.split(":\t", 1) for line in STATUS.read_text().splitlines() if ":\t" in line)
    capabilities = [int(status.get(name, "0"), 16) for name in CAPABILITIES]
    found: dict[str, Any] = {
        "uid": os.getuid(),
        "capabilities": sum(each.bit_count() for each in capabilities),
        "no_new_privileges": status.get("NoNewPrivs") == "1",
        "seccomp": status.get("Seccomp") == "2",
        "interfaces": sorted(os.listdir("/sys/class/net")),
        "processes": sum(name.isdigit() for name in os.listdir("/proc")),
        "root": _written(Path("/probe")),
        "in": _written(Path(folder_in, "probe")),
        "out": _written(Path(folder_out, "probe")),
        "read": _read(Path(folder_in, "question")),
        "spool": os.access("/var/lib/prognode", os.R_OK),
        "memory_bytes": _number("memory.max", "memory/memory.limit_in_bytes"),
        "address_space": resource.getrlimit(resource.RLIMIT_AS)[1],
        "swap": _swap(),
        "pids": _number("pids.max", "pids/pids.max"),
        "user_processes": resource.getrlimit(resource.RLIMIT_NPROC)[1],
        "cpu_seconds": resource.getrlimit(resource.RLIMIT_CPU)[1],
        "file_bytes": resource.getrlimit(resource.RLIMIT_FSIZE)[1],
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        "telemetry": os.environ.get("ORT_DISABLE_TELEMETRY") != "1",
        "version": importlib.metadata.version("prognode"),
    }
    print(json.dumps(found))  # noqa: T201 - this is its answer


def _written(path: Path) -> str:
    """ "written", or the name of the error."""
    try:
        path.write_bytes(b"1")
        path.unlink()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "")
    return "written"


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "")


def _number(*names: str) -> int | None:
    """A limit of the control group (cgroup v2's file, then v1's); None where there is none."""
    for name in names:
        for path in (_own(name), GROUPS / name):
            try:
                text = path.read_text().strip()
            except OSError:
                continue
            return int(text) if text.isdigit() else None
    return None


def _own(name: str) -> Path:
    """Where a file of our control group lies if the groups above are in sight, as they are to a unit."""
    controller, slash, file = name.rpartition("/")
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return Path(f"{GROUPS}/{controller}{slash}{path}/{file}")
    return GROUPS / name


def _swap() -> bool:
    """Whether the job may be swapped out, beyond its limit of memory."""
    unified = _number("memory.swap.max")
    if unified is not None:
        return unified > 0
    both, memory = _number("memory/memory.memsw.limit_in_bytes"), _number("memory/memory.limit_in_bytes")
    return both is None or memory is None or both > memory


if __name__ == "__main__":
    main(*sys.argv[1:3])
