"""How the analysis grows with machines: studies per hour with 1, 2 and 4 workers, and what a study costs the node.

    python -m benchmarks.scale [--short] [--json FILE]

Jobs sleep for a fixed time, so that two cores are enough for four workers; all else is real: planning, claiming, the
parcel over TLS, the sandbox, the harvest, the report. The rate is that of a long backlog: from a worker's start of a
job to its next. Efficiency: the rate with n workers over n times the rate with one. The check: every study is
analysed once. Then a parcel with the bytes of a full chest, for the rate at which series travel through the
scheduler.
"""

import argparse
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks import table
from benchmarks.table import Row
from config.settings import Job, Planning
from dicom_node.analyst import RunnerProcess
from dicom_node.bundles import Bundles
from dicom_node.executors.choice import chosen
from dicom_node.job import Runner
from dicom_node.worker import Worker
from dicom_node.workitem import State
from models.bundle import DEMO
from tests.cluster import TestCluster
from tests.road import Road, road
from tests.synthetic import ct_series, rtstruct

WORKERS = (1, 2, 4)
LEAST_EFFICIENCY = 0.95
CHEST = (300, 512 * 512 * 2 + 2000)  # images, and bytes of one
PATIENCE_SECONDS = 600.0


def cpu_seconds() -> float:
    """Of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def until(look: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not look():
        if time.monotonic() > end:
            raise SystemExit("the cluster does not come to an end")
        time.sleep(0.05)


def planned(folder: Path, studies: int) -> tuple[Road, float]:
    """A node with so many studies that wait for their analysis; CPU seconds of planning one."""
    made = road(folder, plan=Planning(quiet_seconds=0.1))
    for number in range(studies):
        ct = ct_series(8, 24, 24, seed=2000 + number)
        made.take(*ct, rtstruct(ct))
    began = cpu_seconds()
    while made.worker.step_plan():
        pass
    made.clock.now += 60
    while made.worker.step_plan():
        pass
    return made, (cpu_seconds() - began) / studies


def analysed(made: Road, cluster: TestCluster, workers: int, studies: int) -> float:
    """CPU seconds of this process for one of the studies, all of which are analysed."""
    limits = Job(executor="dask", dask=cluster.dask, at_once=workers)
    settings = replace(made.settings, job=limits)
    runner = Runner(made.spool, limits, made.bundle)
    process = RunnerProcess(settings, made.spool, Bundles(made.bundle), runner)
    counts = made.store.counts
    process.start()
    try:
        until(lambda: bool(made.store.items()) and counts().get(State.ANALYSED, 0) >= workers)  # golden cases are done
        first, used = counts()[State.ANALYSED], cpu_seconds()
        until(lambda: counts().get(State.ANALYSED, 0) == studies)
        used = cpu_seconds() - used
    finally:
        process.stop()
    return used / (studies - first)


def reported(made: Road, studies: int) -> float:
    """CPU seconds of writing the report of one."""
    worker = Worker(made.settings, made.spool, Bundles(made.bundle), None)
    began = cpu_seconds()
    while worker.step_report():
        pass
    return (cpu_seconds() - began) / studies


def carried(folder: Path, cluster: TestCluster, job_seconds: float) -> float:
    """Megabytes a second of a series that travels to a worker and is written there, beyond the length of the job."""
    (folder / "in" / "ct").mkdir(parents=True)
    shutil.copytree(DEMO, folder / "in" / "bundle", ignore=shutil.ignore_patterns("__*"))
    (folder / "out").mkdir()
    (folder / "in" / "job.json").write_text('{"key": "' + "c" * 64 + '"}')
    for number in range(CHEST[0]):
        (folder / "in" / "ct" / f"{number:05d}.dcm").write_bytes(os.urandom(CHEST[1]))
    executor = chosen(Job(executor="dask", dask=cluster.dask))
    began = time.monotonic()
    ended = executor.run(folder / "in", folder / "out", "c" * 64)
    if ended.exit_code != 0:
        raise SystemExit(f"the parcel of a chest was not taken: {ended}")
    return CHEST[0] * CHEST[1] / 1e6 / (time.monotonic() - began - job_seconds)


def measure(folder: Path, seconds: float, each: int) -> list[Row]:
    rows: list[Row] = []
    rates: dict[int, float] = {}
    costs: dict[int, tuple[float, float, float]] = {}
    with TestCluster(folder / "cluster", tls=True, seconds=seconds) as cluster:
        for workers in WORKERS:
            for _ in range(workers - max(rates, default=0)):
                cluster.start_worker()
            cluster.wait_for(workers)
            studies = workers * (each + 1)
            made, planning = planned(folder / f"node-{workers}", studies)
            running = analysed(made, cluster, workers, studies)
            keys = [key for key, _ in cluster.runs()]
            if made.store.counts() != {State.ANALYSED: studies} or len(keys) != len(set(keys)):
                raise SystemExit(f"a study was lost or analysed twice: {made.store.counts()}")
            rates[workers] = workers * 3600 / cluster.cycle_seconds()
            cluster.log.unlink()
            costs[workers] = (planning, running, reported(made, studies))
            rows.append(Row(f"scale: {workers} workers, jobs of {seconds:g} s", rates[workers], "/h"))
            print(f"{rows[-1].what}: {rates[workers]:.0f} studies an hour", flush=True)
        mb = carried(folder / "chest", cluster, seconds)
    for workers in WORKERS[1:]:
        efficiency = rates[workers] / (workers * rates[1])
        rows.append(Row(f"scale: efficiency of {workers} workers", efficiency, "", at_least=LEAST_EFFICIENCY))
    ideal = WORKERS[-1] * 3600 / seconds
    rows.append(Row(f"scale: {WORKERS[-1]} workers, share of the ideal", rates[WORKERS[-1]] / ideal, ""))
    for name, cost in zip(("planning", "sending and taking", "the (short) report"), costs[WORKERS[-1]], strict=True):
        rows.append(Row(f"scale: the node's CPU for {name} of a study", cost, "s"))
    rows.append(Row("scale: a chest of 158 MB from disk to disk", mb, "MB/s"))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="under a minute")
    parser.add_argument("--json", type=Path, help="write the table's rows here")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="prognode-scale-") as folder:
        rows = measure(Path(folder), *((3.0, 2) if given.short else (10.0, 6)))
    print(f"\nload average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
    table.show(rows)
    table.write(given.json, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
