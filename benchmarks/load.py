"""Many modalities at once against one node with a stub job: is throughput flat, is memory flat, is anything lost?

    python -m benchmarks.load [--minutes 30] [--modalities 8] [--record FILE.csv] [--plot FILE.svg]

`prognode receive` and `prognode work` are processes of their own; only the job is a stub that gives at once the result
of an earlier run. Each modality is a process that sends one study after another (16 CT slices, then the contour; one
association a study) and has at most two under way: the next begins when the SR of an earlier one is in the PACS. So
the node always has as much to do as it can, and no backlog hides what a study takes. Retention is on, with minutes for
days. One line a minute; at the end: acknowledged = kept, each study's results in the PACS exactly once, and whether
throughput, cost and memory have changed over the run (`benchmarks/trend.py`).
"""

import argparse
import copy
import logging
import multiprocessing
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid
from pynetdicom import AE, _config, build_context

from benchmarks import trend
from benchmarks.trend import Minute
from dicom_node.demo_pacs import DemoPacs
from dicom_node.requestor import associate
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.workitem import State
from tests.e2e.node import (
    NODE,
    PACS,
    SCORED_OBJECTS,
    SENDER,
    SETTINGS,
    Node,
    destination,
    kind_of,
    wait_for,
    write_settings,
)
from tests.faults.prepare import study_and_answers

CONTEXT = multiprocessing.get_context("forkserver")
UNDER_WAY = 2  # studies of one modality whose SR is not yet in the PACS
DRAIN_SECONDS = 600.0
LEAST_FREE_BYTES = 5_000_000_000
KEPT_DAYS = 0.002  # about three minutes
STORAGE = dict.fromkeys(("received_days", "results_days", "superseded_days", "canceled_days"), KEPT_DAYS)
WORKER = (
    "import sys; from pathlib import Path; from dicom_node import cli; from tests.faults import child;"
    " child.stand_in_for_jobs(Path(sys.argv.pop(1))); cli.app()"
)


class WatchedPacs(DemoPacs):
    """Says when a study's SR has come, and keeps no files: only what came, how often."""

    def __init__(self, folder: Path, places: list[Any]) -> None:
        super().__init__(folder, PACS, commitment="same")
        self._places = places
        self.scored_at: dict[str, float] = {}

    def _add(self, dataset: Dataset, path: Path) -> None:
        super()._add(dataset, path)
        path.unlink()
        if kind_of(dataset) == "risk-sr" and dataset.StudyInstanceUID not in self.scored_at:
            self.scored_at[dataset.StudyInstanceUID] = time.time()
            self._places[int(dataset.PatientID[4:].split(".")[0])].release()


# -- a modality, in a process of its own -----------------------------------------------------------------------


def another(study: list[Dataset], number: str) -> list[Dataset]:
    """The same study under UIDs of its own, and another patient's."""

    def renewed(value: str) -> str:
        return str(generate_uid(prefix="2.25.", entropy_srcs=[number, value]))

    def walk(dataset: Dataset) -> None:
        for element in dataset:
            if element.VR == "SQ":
                for item in element.value:
                    walk(item)
            elif element.VR == "UI" and not element.keyword.endswith("ClassUID"):
                element.value = renewed(str(element.value))

    copies = copy.deepcopy(study)
    for dataset in copies:
        walk(dataset)
        dataset.PatientID = f"LOAD{number}"
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return copies


def modality(number: int, files: list[str], port: int, seconds: float, ready: Any, place: Any, said: Any) -> None:
    """Send studies for some time; tell of each: its UID, seconds of each C-STORE, acknowledged UIDs, refusals, when."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _config.LOG_HANDLER_LEVEL = "none"
    logging.disable(logging.CRITICAL)
    study = [dcmread(path) for path in files]
    entity = AE(SENDER)
    contexts = [
        build_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
        for dataset in {one.SOPClassUID: one for one in study}.values()
    ]
    ready.wait()
    until, count = time.time() + seconds, 0
    while time.time() < until:
        if not place.acquire(timeout=0.5):
            continue
        objects = another(study, f"{number}.{count}")
        count += 1
        waits, taken, refused = [], [], 0
        while objects:  # as a modality does: what was not taken is sent again
            association = associate(entity, ("127.0.0.1", port), NODE, contexts, maximum_pdu_bytes=16382)
            while objects and association.is_established:
                began = time.perf_counter()
                if (association.send_c_store(objects[0]).get("Status")) != 0x0000:
                    break
                waits.append(time.perf_counter() - began)
                sent = objects.pop(0)
                taken.append(str(sent.SOPInstanceUID))
            at = time.time()
            if association.is_established:
                association.release()
            if objects:
                refused += 1
                time.sleep(0.2)
        said.put((str(sent.StudyInstanceUID), waits, taken, refused, at))


# -- the node ------------------------------------------------------------------------------------------------------


@contextmanager
def node(folder: Path, answers: Path) -> Iterator[dict[str, int]]:
    """`prognode receive` and `prognode work`, with their process ids by name, and the receiver's "port"."""
    receiver = Node(folder, ("receive",))
    log = folder / "work.log"
    with log.open("wb") as stream:
        command = [sys.executable, "-c", WORKER, str(answers), "work", "--config", str(folder / SETTINGS)]
        worker = subprocess.Popen(command, stdout=stream, stderr=stream, stdin=subprocess.DEVNULL)
    try:
        wait_for(lambda: "worker.started" in log.read_text("utf-8"), "the worker starts", folder=folder)
        yield {"receive": receiver.process.pid, "work": worker.pid, "port": receiver.port}
    finally:
        worker.terminate()
        receiver.stop()
        try:
            worker.wait(60)
        except subprocess.TimeoutExpired:
            print("the worker did not end when it was asked to")
            worker.kill()


class Gathered:
    """What the modalities have said, and what was seen each minute."""

    def __init__(self) -> None:
        self.acknowledged: set[str] = set()
        self.ended_at: dict[str, float] = {}  # study -> its last acknowledgement
        self.minutes: list[Minute] = []
        self.waits: list[float] = []  # of C-STORE, since the last minute
        self.all_waits: list[float] = []
        self.refused = 0

    def take(self, study: str, seconds: list[float], taken: list[str], refused: int, at: float) -> None:
        self.waits += seconds
        self.acknowledged.update(taken)
        self.ended_at[study] = at
        self.refused += refused


class Watch:
    """Looks at the processes and the machine; `minute` gives what has changed since the last look."""

    def __init__(self, folder: Path, pids: Mapping[str, int], others: list[int], pacs: WatchedPacs) -> None:
        self._folder, self._pids, self._pacs = folder, pids, pacs
        self._ours = [os.getpid(), *pids.values(), *others]
        self._store = Store.open(folder / "spool" / "store.sqlite")
        self.began = time.time()
        self._told = 0  # SRs that an earlier minute has counted
        self._before = self._clocks()

    def _clocks(self) -> tuple[float, float, float, float, float]:
        node = sum(trend.cpu_seconds(pid) for pid in self._pids.values())
        return (time.time(), node, sum(map(trend.cpu_seconds, self._ours)), *trend.machine_seconds())

    def minute(self, seen: Gathered) -> Minute:
        now = self._clocks()
        passed, node, ours, busy, total = (b - a for a, b in zip(self._before, now, strict=True))
        self._before = now
        scored = list(self._pacs.scored_at.items())
        new, self._told = scored[self._told :], len(scored)
        cores = os.cpu_count() or 1
        made = Minute(
            minute=len(seen.minutes) + 1,
            studies_per_minute=60 * len(new) / passed,
            objects_per_second=len(seen.waits) / passed,
            node_seconds_per_study=node / max(1, len(new)),
            cores_of_others=max(0.0, busy - ours) / total * cores,
            cores_of_node=node / passed,
            load_average=os.getloadavg()[0],
            store_ms=trend.percentiles(1000 * wait for wait in seen.waits),
            score_seconds=trend.percentiles(at - seen.ended_at[study] for study, at in new if study in seen.ended_at),
            refused=seen.refused,
            megabytes={name: trend.resident_bytes(pid) / 1e6 for name, pid in self._pids.items()},
            open_items=self.open_items(),
            free_gigabytes=shutil.disk_usage(self._folder).free / 1e9,
        )
        seen.all_waits += seen.waits
        seen.waits, seen.refused = [], 0
        seen.minutes.append(made)
        return made

    def open_items(self) -> int:
        counts = self._store.counts()
        return sum(counts.values()) - counts.get(State.COMPLETED, 0) - counts.get(State.CANCELED, 0)


def _gather(watch: Watch, senders: list[Any], said: Any, every: float) -> Gathered:
    """Until all modalities have ended; a line a minute."""
    seen = Gathered()
    print(trend.HEAD, flush=True)
    last = time.time()
    while any(sender.is_alive() for sender in senders) or not said.empty():
        with suppress(queue.Empty):
            seen.take(*said.get(timeout=0.5))
        if time.time() - last >= every:
            last += every
            made = watch.minute(seen)
            print(made.line(), flush=True)
            if made.free_gigabytes < LEAST_FREE_BYTES / 1e9:
                print("ended: the disk is nearly full")
                for sender in senders:
                    sender.terminate()
    return seen


def run(minutes: float, modalities: int, record: Path | None, plot: Path | None) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    places = [CONTEXT.Semaphore(UNDER_WAY) for _ in range(modalities)]
    with tempfile.TemporaryDirectory(prefix="prognode-load-") as name, WatchedPacs(Path(name) / "pacs", places) as pacs:
        folder = Path(name)
        files, answers = study_and_answers(folder)
        write_settings(folder, destination(PACS, pacs.port), storage=STORAGE)
        with node(folder, answers) as pids:
            port = pids.pop("port")
            pacs.report_to = ("127.0.0.1", port)
            said, ready = CONTEXT.Queue(), CONTEXT.Barrier(modalities + 1)
            fixed = ([str(path) for path in files], port, 60 * minutes, ready)
            senders = [
                CONTEXT.Process(target=modality, args=(number, *fixed, place, said), daemon=True)
                for number, place in enumerate(places)
            ]
            for sender in senders:
                sender.start()
            ready.wait()
            watch = Watch(folder, pids, [int(sender.pid or 0) for sender in senders], pacs)
            seen = _gather(watch, senders, said, min(60.0, 20 * minutes))
            began = time.monotonic()
            while watch.open_items() and time.monotonic() - began < DRAIN_SECONDS:
                time.sleep(0.5)
            print(f"worked off {time.monotonic() - began:.0f} s after the last object")
            well = judge(folder, pacs, seen)
    if record:
        trend.write(seen.minutes, record)
    if plot:
        trend.plot(seen.minutes, plot)
    return 0 if well else 1


def judge(folder: Path, pacs: WatchedPacs, seen: Gathered) -> bool:
    """Count what is missing or double, and say what has changed over the run."""
    spool, store = Spool(folder / "spool"), Store.open(folder / "spool" / "store.sqlite")
    lost = sum(not _kept(store, spool, uid) for uid in seen.acknowledged)
    items = [item for item in store.items(limit=10_000_000) if item.state is not State.CANCELED]
    well_done = Counter(item.study_instance_uid for item in items if item.state is State.COMPLETED)
    store.close()
    filed = Counter(one.study_instance_uid for one in pacs.objects())
    wrong = sum((well_done[study], filed[study]) != (1, sum(SCORED_OBJECTS.values())) for study in seen.ended_at)
    twice = len(pacs.received) - len(set(pacs.received))
    print(
        f"{len(seen.acknowledged)} objects of {len(seen.ended_at)} studies acknowledged, {lost} lost; {len(items)} work"
        f" items; {wrong} studies whose results are not in the PACS exactly once; {twice} objects sent there twice"
    )
    waits = [pacs.scored_at[study] - at for study, at in seen.ended_at.items() if study in pacs.scored_at]
    print(f"C-STORE answered, ms: {trend.words(1000 * wait for wait in [*seen.all_waits, *seen.waits])}")
    print(f"last object to SR accepted, s: {trend.words(waits)}")
    trend.verdicts(seen.minutes)
    return not (lost or wrong or twice or len(items) != len(seen.ended_at))


def _kept(store: Store, spool: Spool, uid: str) -> bool:
    """Whether an object has its row, and its file unless retention has removed that."""
    row = store.arrivals.instance(uid)
    if row is None:
        return False
    return not store.inspection.has_file(uid, row.digest) or spool.instance_path(uid, row.digest).is_file()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--modalities", type=int, default=8)
    parser.add_argument("--record", type=Path, help="a row a minute, as CSV")
    parser.add_argument("--plot", type=Path, help="the same as a picture (SVG or PNG)")
    given = parser.parse_args()
    sys.exit(run(given.minutes, given.modalities, given.record, given.plot))
