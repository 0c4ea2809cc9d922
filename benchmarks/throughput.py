"""A backlog of studies, and a receiver beside it: are the processors busy until it is empty, what does receiving pay?

    python -m benchmarks.throughput [--short] [--json FILE]

Phantom studies lie received in the spool when `prognode work` starts, with as many jobs at once as processors. A
receiver on the same spool takes 512x512 CT slices before the worker starts, while jobs run, and after; the rates are
compared. The sender takes its part of the two processors too. Then the backlog is worked off alone. Busy: the
processors' time that was not idle (a wait for the disk is idle) until no study waits; other work on the machine
flatters it. A study that comes late and is set to HIGH must be claimed next. The check: every study ends completed, and
what the receiver acknowledged is there.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import table
from benchmarks.receive import transfer
from benchmarks.receive_servers import DURABLE, Server, servers
from benchmarks.table import Row
from config.settings import Planning
from dicom_node.database import Database
from dicom_node.store import Store
from dicom_node.workitem import PRIORITIES, State, WorkItem
from tests.network import SENDER
from tests.road import Road, road
from tests.synthetic import ct_series, rtstruct

LEAST_BUSY, LEAST_RATIO = 0.90, 0.80
PATIENCE_SECONDS = 3600.0
IMAGES = 60
SETTINGS = '[node]\nspool = "{spool}"\n[plan]\nquiet_seconds = 1.0\n[[peers]]\nae_title = "{sender}"\n'
TICKS = os.sysconf("SC_CLK_TCK")


def idle_of_machine() -> float:
    """CPU seconds in which processors had nothing to do, those that waited for a disk too."""
    values = Path("/proc/stat").read_text().splitlines()[0].split()
    return (int(values[4]) + int(values[5])) / TICKS


def take_study(made: Road, number: int) -> str:
    """One more study in the spool, as received; its Study Instance UID."""
    ct = ct_series(24, 64, 64, seed=5000 + number)
    made.take(*ct, rtstruct(ct))
    return str(ct[0].StudyInstanceUID)


@contextmanager
def working(folder: Path, made: Road) -> Iterator[None]:
    """`prognode work` on the spool."""
    path = folder / "work.toml"
    path.write_text(SETTINGS.format(spool=made.spool.root, sender=SENDER))
    with (folder / "work.log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "dicom_node.cli", "work", "--config", str(path)], stdout=log, stderr=log
        )
    try:
        yield
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.wait(120)


def until(look: Callable[[], object], folder: Path) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not look():
        if time.monotonic() > end:
            raise SystemExit(f"no end: {(folder / 'work.log').read_text()[-2000:]}")
        time.sleep(0.1)


def done(store: Store) -> int:
    counts = store.counts()
    return sum(counts.get(state, 0) for state in (State.COMPLETED, State.FAILED))


def analysed(store: Store) -> int:
    counts = store.counts()
    return done(store) + sum(counts.get(state, 0) for state in (State.ANALYSED, State.REPORTED))


def urgent(made: Road, folder: Path, number: int) -> tuple[WorkItem, float]:
    """A study that comes late and that somebody sets to HIGH: its work item, and when."""
    uid = take_study(made, number)
    found: list[WorkItem] = []

    def planned() -> bool:
        found[:] = [item for item in made.store.items(uid) if item.state == State.SCHEDULED]
        return bool(found)

    until(planned, folder)
    now = time.time()
    made.store.set_priority(found[0].id, PRIORITIES["HIGH"], now, "HIGH by benchmark")
    return found[0], now


def claimed_before(made: Road, item: WorkItem, since: float) -> int:
    """Studies that were claimed for analysis after that moment and before this one."""
    rows = Database(made.spool.store).rows(
        "SELECT work_item_id FROM event WHERE name = 'scheduled claimed' AND at > ? ORDER BY id", [since]
    )
    claimed = [row["work_item_id"] for row in rows]
    return claimed.index(item.id)


def rates(server: Server, rounds: int) -> list[float]:
    return [transfer(server, 1, IMAGES)[0] for _ in range(rounds)]


def measure(folder: Path, studies: int, rounds: int) -> list[Row]:
    server = servers()[DURABLE]
    server.start(folder / "node")
    try:
        made = road(folder / "node", plan=Planning(quiet_seconds=1.0))
        for number in range(studies):
            take_study(made, number)
        quiet = rates(server, rounds)
        with working(folder, made):
            until(lambda: analysed(made.store) >= 1, folder)  # golden case and start are over
            beside = rates(server, rounds)
            began, idle, first = time.monotonic(), idle_of_machine(), analysed(made.store)
            item, since = urgent(made, folder, studies)
            until(lambda: made.store.counts().get(State.SCHEDULED, 0) == 0, folder)
            seconds, idle = time.monotonic() - began, idle_of_machine() - idle
            busy = 1 - idle / seconds / (os.cpu_count() or 1)
            until(lambda: done(made.store) == studies + 1, folder)
        quiet += rates(server, rounds)
    finally:
        server.stop()
    counts = made.store.counts()
    if counts.get(State.COMPLETED) != studies + 1:
        raise SystemExit(f"not every study was completed: {counts}")
    return [
        Row(f"throughput: {studies} studies, rate", (studies + 1 - first) / seconds * 3600, "/h"),
        Row("throughput: processors busy until empty", busy, "", at_least=LEAST_BUSY),
        Row("throughput: studies before one set to HIGH", claimed_before(made, item, since), "", at_most=0),
        Row("throughput: receiving, no jobs", statistics.median(quiet), "img/s"),
        Row("throughput: receiving, jobs run", statistics.median(beside), "img/s"),
        Row(
            "throughput: receiving, jobs run / no jobs",
            statistics.median(beside) / statistics.median(quiet), "", at_least=LEAST_RATIO,
        ),
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="20 studies instead of 200")
    parser.add_argument("--json", type=Path, help="write the table's rows here")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="prognode-throughput-", dir=os.environ.get("BENCHMARK_FOLDER")) as folder:
        rows = measure(Path(folder), *((20, 3) if given.short else (200, 10)))
    print(f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
    table.show(rows)
    table.write(given.json, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
