"""How soon the node is there, and how much room it takes.

    python -m benchmarks.startup [--runs N] [--short] [--json FILE]

Wall-clock of `prognode --help`; of `prognode receive` and `prognode work` until they say that they are ready (to
systemd's socket, as a unit does); of a job's process until it may read its first slice; memory of the idle node (PSS: a
page that processes share counts once); and the installed size of all that `pip install prognode` brings, by the
packages' own lists of files. Files are in the page cache. A worker that is ready has not begun to analyse: the bundle's
golden case runs beside it, and comes first.
"""

import argparse
import contextlib
import importlib.metadata
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from packaging.requirements import Requirement

from benchmarks import table

PROGNODE = [sys.executable, "-m", "dicom_node.cli"]
PATIENCE_SECONDS = 60.0
SETTLED_SECONDS = 4.0  # until what a start leaves behind (the golden case, say) is gone
TARGETS = {"help": 0.150, "ready": 1.0, "job": 0.5, "memory": 250.0, "size": 650.0}
JOB = """
import time, sys
import analysis.run
print(time.time())
"""


def seconds_of(arguments: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def until_useful() -> float:
    """Seconds until a job's process has imported what it needs to read its first slice."""
    environment = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "LANG": "C.UTF-8"}
    began = time.time()
    done = subprocess.run([sys.executable, "-P", "-c", JOB], check=True, capture_output=True, env=environment)
    return float(done.stdout) - began


@contextmanager
def started(work: Path, command: str) -> Iterator[tuple[float, "subprocess.Popen[bytes]"]]:
    """A process of the node, once it has said READY=1: seconds from its start, and the process."""
    address = work / "notify"
    with contextlib.suppress(FileNotFoundError):
        address.unlink()
    environment = {**os.environ, "NOTIFY_SOCKET": str(address)}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening, (work / f"{command}.log").open("wb") as log:
        listening.bind(str(address))
        listening.settimeout(PATIENCE_SECONDS)
        began = time.perf_counter()
        arguments = [*PROGNODE, command, "--config", str(work / "node.toml")]
        process = subprocess.Popen(arguments, stdout=log, stderr=log, env=environment)
        try:
            while b"READY=1" not in listening.recv(4096):
                pass
            yield time.perf_counter() - began, process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def megabytes(pid: int) -> float:
    """Proportional set size of a process."""
    found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) / 1000


def idle(work: Path, commands: list[str]) -> float:
    """Memory of these processes, started and left alone, in MB."""
    with contextlib.ExitStack() as running:
        processes = [running.enter_context(started(work, command))[1] for command in commands]
        time.sleep(SETTLED_SECONDS)
        return sum(megabytes(process.pid) for process in processes)


def packages() -> set[str]:
    """What the distribution needs, without extras, by normal name."""
    found: set[str] = set()
    wanted = ["prognode"]
    while wanted:
        name = wanted.pop().lower().replace("_", "-")
        if name in found:
            continue
        found.add(name)
        for text in importlib.metadata.requires(name) or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                wanted.append(requirement.name)
    return found


def installed_megabytes() -> dict[str, float]:
    """Size of each package, without compiled bytecode, which is made where it runs."""
    sizes = {}
    for name in packages():
        files = importlib.metadata.files(name) or []
        paths = {Path(str(path.locate())).resolve() for path in files if path.suffix != ".pyc"}
        sizes[name] = sum(path.stat().st_size for path in paths if path.is_file()) / 1e6
    return sizes


def write_settings(work: Path) -> None:
    (work / "node.toml").write_text('[node]\nport = 0\nspool = "spool"\n[web]\nport = 0\n')


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=0, help="default 7, short 3")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    runs = given.runs or (3 if given.short else 7)

    ready: dict[str, list[float]] = {"receive": [], "work": [], "serve": []}
    helps, jobs = [], []
    with tempfile.TemporaryDirectory(prefix="prognode-startup-") as name:
        work = Path(name)
        write_settings(work)
        for number in range(runs + 1):  # the first fills the page cache
            counts = number > 0
            helped, useful = seconds_of([*PROGNODE, "--help"]), until_useful()
            helps += [helped] * counts
            jobs += [useful] * counts
            for command, times in ready.items():
                with started(work, command) as (seconds, _):
                    times += [seconds] * counts
        embedded, apart = idle(work, ["serve", "web"]), idle(work, ["receive", "work", "web"])
    sizes = installed_megabytes()
    print(f"medians of {runs} runs, load average {os.getloadavg()[0]:.1f}")
    print("largest packages, MB: " + ", ".join(f"{name} {size:.0f}" for name, size in _largest(sizes)))
    rows = [
        table.Row("start: prognode --help", statistics.median(helps), "s", at_most=TARGETS["help"]),
        *(
            table.Row(f"start: prognode {command} ready", statistics.median(times), "s", at_most=TARGETS["ready"])
            for command, times in ready.items()
        ),
        table.Row("start: a job's process until its first slice", statistics.median(jobs), "s", at_most=TARGETS["job"]),
        table.Row("room: memory idle, serve and web", embedded, "MB", at_most=TARGETS["memory"]),
        table.Row("room: memory idle, receive, work and web", apart, "MB", at_most=TARGETS["memory"]),
        table.Row("room: installed, without bytecode", sum(sizes.values()), "MB", at_most=TARGETS["size"]),
    ]
    table.write(given.json, rows)
    table.show(rows)
    return 0


def _largest(sizes: dict[str, float]) -> list[tuple[str, float]]:
    return sorted(sizes.items(), key=lambda one: -one[1])[:8]


if __name__ == "__main__":
    sys.exit(main())
