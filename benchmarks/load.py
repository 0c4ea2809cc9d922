"""Many modalities at once against one node with a stub job: is throughput flat, is memory flat, is anything lost?

    python -m benchmarks.load [--minutes 30] [--modalities 8]

Each modality is a process that sends one study after another (CT slices, then the contour, each study an association
of its own). The node receives, plans, reports and delivers for real; only the job is a stub that gives the result of
an earlier run. One line a minute; at the end: acknowledged = kept, and each study's results in the PACS exactly once.
"""

import argparse
import copy
import logging
import multiprocessing
import queue
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid
from pynetdicom import AE, _config

from dicom_node.demo_pacs import DemoPacs
from dicom_node.store import Store
from dicom_node.workitem import State
from tests.e2e.node import NODE, PACS, SENDER, destination, write_settings
from tests.faults import child
from tests.faults.points import Trap
from tests.faults.prepare import study_and_answers

CONTEXT = multiprocessing.get_context("forkserver")
DRAIN_SECONDS = 1800.0


def another(study: list[Dataset], number: str) -> list[Dataset]:
    """The same study under UIDs of its own, and another patient's."""
    mapped: dict[str, str] = {}

    def renewed(value: str) -> str:
        return mapped.setdefault(value, generate_uid(prefix="2.25.", entropy_srcs=[number, value]))

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


def modality(number: int, files: list[str], port: int, until: float, said: Any) -> None:
    """Send studies until the end; tell, study by study, seconds of each C-STORE, acknowledged UIDs and refusals."""
    _config.LOG_HANDLER_LEVEL = "none"
    logging.disable(logging.CRITICAL)
    study = [dcmread(path) for path in files]
    entity = AE(SENDER)
    for dataset in study:
        if dataset.SOPClassUID not in {context.abstract_syntax for context in entity.requested_contexts}:
            entity.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
    count = 0
    while time.time() < until:
        objects = another(study, f"{number}.{count}")
        count += 1
        waiting = list(objects)
        while waiting:  # as a modality does: what was not taken is sent again
            association = entity.associate("127.0.0.1", port, ae_title=NODE)
            seconds, taken, refused = [], [], 0
            while waiting and association.is_established:
                began = time.perf_counter()
                try:
                    status = association.send_c_store(waiting[0]).get("Status")
                except (RuntimeError, ValueError):
                    break
                if status != 0x0000:
                    refused += 1
                    break
                seconds.append(time.perf_counter() - began)
                taken.append(str(waiting.pop(0).SOPInstanceUID))
            if association.is_established:
                association.release()
            said.put((time.time(), seconds, taken, refused, str(objects[0].StudyInstanceUID)))
            if waiting:
                time.sleep(0.2)


def resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    return 0


def run(minutes: float, modalities: int) -> int:
    with tempfile.TemporaryDirectory(prefix="prognode-load-") as name:
        folder = Path(name)
        files, answers = study_and_answers(folder)
        with DemoPacs(folder / "pacs", PACS, commitment="same") as pacs:
            settings = write_settings(folder, destination(PACS, pacs.port))
            port_file = folder / "port"
            arguments = (str(settings), str(answers), Trap(), str(port_file), "/dev/null")
            node = CONTEXT.Process(target=child.run, args=arguments, daemon=True)
            node.start()
            while not port_file.exists() or not port_file.read_text():
                time.sleep(0.05)
            port = int(port_file.read_text())
            pacs.report_to = ("127.0.0.1", port)
            said = CONTEXT.Queue()
            until = time.time() + 60 * minutes
            names = [str(path) for path in files]
            senders = [
                CONTEXT.Process(target=modality, args=(n, names, port, until, said), daemon=True)
                for n in range(modalities)
            ]
            for sender in senders:
                sender.start()
            acknowledged, studies, rates, sizes = _watch(senders, said, int(node.pid or 0), folder)
            well = _judge(folder, pacs, acknowledged, studies, rates, sizes)
            node.terminate()
            node.join(30)
            return 0 if well else 1


def _watch(senders: list[Any], said: Any, pid: int, folder: Path) -> tuple[set[str], set[str], list[float], list[int]]:
    """Gather what the modalities say; a line a minute."""
    acknowledged: set[str] = set()
    studies: set[str] = set()
    rates: list[float] = []
    sizes: list[int] = []
    seconds: list[float] = []
    refused, since, before = 0, time.time(), 0
    print("minute  objects/s  p50 ms  p95 ms  p99 ms  max ms  refused  RSS MB  open items")
    while any(sender.is_alive() for sender in senders) or not said.empty():
        try:
            _, took, taken, no, study = said.get(timeout=1.0)
            seconds += took
            acknowledged.update(taken)
            studies.add(study)
            refused += no
        except queue.Empty:
            pass
        passed = time.time() - since
        if passed >= 60.0 and seconds:
            rates.append((len(acknowledged) - before) / passed)
            sizes.append(resident_bytes(pid))
            cuts = statistics.quantiles(seconds, n=100)
            values = [1000 * value for value in (cuts[49], cuts[94], cuts[98], max(seconds))]
            print(f"{len(rates):>6}{rates[-1]:>11.0f}" + "".join(f"{value:>8.1f}" for value in values)
                  + f"{refused:>9}{sizes[-1] / 1e6:>8.0f}{_open_items(folder):>12}", flush=True)  # fmt: skip
            seconds, refused, since, before = [], 0, time.time(), len(acknowledged)
    return acknowledged, studies, rates, sizes


def _open_items(folder: Path) -> int:
    store = Store.open(folder / "spool" / "store.sqlite")
    try:
        counts = store.counts()
    finally:
        store.close()
    return sum(counts.values()) - counts.get(State.COMPLETED, 0) - counts.get(State.CANCELED, 0)


def _judge(
    folder: Path, pacs: DemoPacs, acknowledged: set[str], studies: set[str], rates: list[float], sizes: list[int]
) -> bool:
    """Wait until the node has worked off what came, then count what is missing or double."""
    began = time.monotonic()
    while _open_items(folder) and time.monotonic() - began < DRAIN_SECONDS:
        time.sleep(1.0)
    store = Store.open(folder / "spool" / "store.sqlite")
    lost = sum(store.arrivals.instance(uid) is None for uid in acknowledged)
    done = [item for item in store.items(limit=10_000_000) if item.state is State.COMPLETED]
    sent = {row.sop_instance_uid for item in done for row in store.deliveries.of_item(item.id)}
    store.close()
    filed = {one.sop_instance_uid for one in pacs.objects()}
    scored = {item.study_instance_uid for item in done}
    unscored = len(studies - scored)
    print(f"{len(acknowledged)} objects of {len(studies)} studies acknowledged; {lost} lost; {len(done)} work items "
          f"completed {time.monotonic() - began:.0f} s after the last; {unscored} studies without a result; "
          f"{len(sent - filed)} results missing in the PACS, {len(filed - sent)} there twice")  # fmt: skip
    third = max(1, len(rates) // 3)
    if len(rates) >= 3:
        speed = statistics.median(rates[-third:]) / statistics.median(rates[:third])
        growth = statistics.median(sizes[-third:]) / statistics.median(sizes[:third])
        print(f"last third against first third: throughput {speed:.2f}, memory {growth:.2f}")
    return not (lost or unscored or sent - filed or filed - sent or len(done) != len(scored))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--modalities", type=int, default=8)
    given = parser.parse_args()
    sys.exit(run(given.minutes, given.modalities))
