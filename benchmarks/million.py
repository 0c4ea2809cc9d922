"""A store of a million studies: what the node asks of it all day, in milliseconds, beside a store of a thousand.

    python -m benchmarks.million [--studies 1000000] [--keep DIR] [--only TEXT]

Rows are written by SQL (a CT image, a contour, a work item with four proved deliveries, four events and its procedure
step a study), the questions are asked through the store's own methods. "warm" is the median of 20; "cold" is the first
time on a connection of its own, with nothing of the file in the page cache, the median of 3. Needs 4 GB of disk.
`--keep` leaves the stores in a folder, and asks those that are there; `--only` asks what has a text in its name.
"""

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from pydicom import Dataset

from config.settings import Node, Settings
from dicom_node import status
from dicom_node.database import Database
from dicom_node.identity import Identity
from dicom_node.instance import CT, RTSTRUCT, Instance
from dicom_node.result_index import ResultQuery
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.ups_worklist import UpsWorklist
from dicom_node.workitem import State
from dicom_node.worklist import WorklistQuery

TIMES, COLD_TIMES = 20, 3
BATCH = 20_000
FAMILIES = ("MUELLER", "YAMADA", "GARCIA", "SMITH", "KIM", "DUBOIS", "ROSSI", "NOVAK", "SILVA", "JANSEN")
EVENTS = ("scheduled", "analysed", "reported", "completed")
SUMMARY = '{"group":"HIGH","groups":[],"scores":[],"modalities":[],"missing":[],"warnings":0,"synthetic":true}'
CT_FACTS = Instance("1", CT, "1", "1", "1.2.840.10008.1.2.1", "0" * 64, modality="CT")


def fill(path: Path, studies: int) -> None:
    """Studies that have gone their way, a few of each other state, as in a node of some years."""
    Store.open(path).close()
    database = Database(path)
    database.execute("PRAGMA synchronous=OFF")
    database.execute("PRAGMA cache_size=-500000")
    shuffled = random.Random(1)
    for first in range(0, studies, BATCH):
        numbers = range(first, min(first + BATCH, studies))
        with database.immediate():
            database.many(
                "INSERT INTO study (study_instance_uid, patient_id, issuer_of_patient_id, patient_name,"
                " patient_birth_date, patient_sex, accession_number, study_id, study_date, study_time,"
                " study_description, referring_physician_name, received, source, updated_at)"
                " VALUES (?, ?, '', ?, '19500101', 'F', ?, '', ?, '120000', 'CHEST', '', '{}', 'DICOM', ?)",
                [
                    (f"1.2.3.{n}", f"P{n:08}", f"{shuffled.choice(FAMILIES)}^N{n}", f"A{n:08}",
                     f"20{10 + n * 15 // max(studies, 1):02}0{1 + n % 9}1{n % 9}", float(n))
                    for n in numbers
                ],
            )  # fmt: skip
            header = CT_FACTS.to_json()
            database.many(
                "INSERT INTO instance (sop_instance_uid, digest, sop_class_uid, series_instance_uid,"
                " study_instance_uid, frame_of_reference_uid, header, calling_ae_title, received_at, own, planned)"
                " VALUES (?, ?, ?, ?, ?, '1', ?, 'CT', ?, 0, 1)",
                [
                    (f"1.2.3.{n}.{kind}", f"{n:064}", sop, f"1.2.3.{n}.9{kind}", f"1.2.3.{n}", header, float(n))
                    for n in numbers
                    for kind, sop in ((1, CT), (2, RTSTRUCT))
                ],
            )
            database.many(
                "INSERT INTO work_item (id, state, study_instance_uid, ct_series_instance_uid, roi_sop_instance_uid,"
                " key, content_key, outcome, summary, scheduled_at, created_at, updated_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, 'SCORED', ?, ?, ?, ?)",
                [
                    (n + 1, _state(n, studies), f"1.2.3.{n}", f"1.2.3.{n}.91", f"1.2.3.{n}.2", f"k{n}", f"k{n}",
                     SUMMARY, float(n), float(n), float(n))
                    for n in numbers
                ],
            )  # fmt: skip
            database.many(
                "INSERT INTO delivery (work_item_id, document, destination, state, final, sop_instance_uid)"
                " VALUES (?, ?, 'PACS', 'SEEN', ?, ?)",
                [
                    (n + 1, document, int(_state(n, studies) is not State.REPORTED), f"2.25.{n}{place}")
                    for n in numbers
                    for place, document in enumerate(("segmentation", "risk-sr", "radiomics-sr", "page-1"))
                ],
            )
            database.many(
                "INSERT INTO event (work_item_id, at, name) VALUES (?, ?, ?)",
                [(n + 1, float(n), name) for n in numbers for name in EVENTS],
            )
            database.many(
                "INSERT INTO ups (work_item_id, sop_instance_uid, state, readiness, modified_at, progress, description,"
                " started_at, ended_at, reason) VALUES (?, ?, ?, 'READY', ?, 0, '', ?, ?, '')",
                [(n + 1, f"2.25.7{n}", *_step(_state(n, studies)), *[float(n)] * 3) for n in numbers],
            )
    database.execute("INSERT INTO ups_cursor SELECT 1, max(id) FROM event")
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()


def _state(number: int, studies: int) -> State:
    """The newest hundred are still on their way."""
    behind = studies - number
    if behind > 100:
        return State.COMPLETED
    return (State.SCHEDULED, State.ANALYSED, State.REPORTED, State.WAITING)[behind % 4]


def _step(state: State) -> list[str]:
    return ["COMPLETED" if state is State.COMPLETED else "SCHEDULED"]


def questions(store: Store, studies: int) -> dict[str, Callable[[], object]]:
    """What receiver, worker, commands and the page ask; each a call without arguments."""
    numbers = iter(range(time.time_ns(), sys.maxsize))  # a kept store has those of earlier runs
    identity = Identity(patient_id="NEW", patient_name="NEW^PATIENT")

    def arrive() -> object:
        n = next(numbers)
        uid = f"1.2.9.{n}"
        fresh = replace(CT_FACTS, sop_instance_uid=uid, series_instance_uid=f"{uid}.1", study_instance_uid=f"{uid}.2")
        return store.arrivals.add(fresh, "CT", float(n), identity)

    def take() -> object:
        item = store.claim(State.SCHEDULED, "bench", 60.0, 2e9)
        assert item is not None
        return store.postpone(item, "bench", 0.0, 2e9, "")

    def steps(**keys: object) -> object:
        wanted = Dataset()
        for keyword, value in ({"SOPInstanceUID": "", "PatientName": "", "ProcedureStepState": ""} | keys).items():
            setattr(wanted, keyword, value)
        return ups.page(wanted, 0)

    middle = studies // 2
    patient = f"P{middle:08}"
    page, results, retention = store.worklist.find, store.results.find, store.retention
    nowhere = Spool(Path("/nonexistent"))
    ups = UpsWorklist(store, nowhere, Settings(node=Node(time_zone="UTC")))
    return {
        "record an arrival (durable)": arrive,
        "claim a work item and give it back": take,
        "deliveries that are due": lambda: store.deliveries.due(2e9),
        "complete what is delivered": lambda: store.complete_delivered(2e9),
        "counts by state (status)": store.counts,
        "prognode status": lambda: status.overview(store, synthetic=True),
        "prognode status --study": lambda: status.of_study(store, nowhere, f"1.2.3.{middle}"),
        "worklist: first page": lambda: page(WorklistQuery()),
        "worklist: by study date": lambda: page(WorklistQuery(sort="study_date")),
        "worklist: by patient name": lambda: page(WorklistQuery(sort="patient_name", descending=False)),
        "worklist: search by patient ID": lambda: page(WorklistQuery(text=patient)),
        "worklist: search by a common name": lambda: page(WorklistQuery(text="garcia")),
        "worklist: what is on its way": lambda: page(WorklistQuery(states=(State.SCHEDULED, State.REPORTED))),
        "worklist: high risk": lambda: page(WorklistQuery(group="HIGH")),
        "retention: studies that may go": lambda: retention.studies_here(2e9, (float("-inf"), "")),
        "retention: results that may go": lambda: retention.results_here(2e9, (float("-inf"), 0)),
        "retention: may one study go": lambda: retention.condition(f"1.2.3.{middle}"),
        "UPS C-FIND: scheduled steps": lambda: steps(ProcedureStepState="SCHEDULED"),
        "UPS C-FIND: by patient ID": lambda: steps(PatientID=patient),
        "UPS C-FIND: by patient name": lambda: steps(PatientName=f"*^N{middle}"),
        "UPS C-FIND: by part of a word of a name": lambda: steps(PatientName=f"*{middle}*"),
        "FHIR: newest results": lambda: results(ResultQuery(), 21),
        "FHIR: results of a patient": lambda: results(ResultQuery(patients=[(patient, None)]), 21),
        "FHIR: results since a moment": lambda: results(ResultQuery(since=float(studies - 500)), 21),
        "metrics: what has happened": lambda: store.measures.happened(len(EVENTS) * studies - 1000),
        "metrics: open deliveries": store.measures.open_deliveries,
        "start: studies without an identity": store.patients.missing,
        "system page: oldest of each state": store.vitals.oldest,
    }


def milliseconds(question: Callable[[], object]) -> float:
    began = time.perf_counter()
    question()
    return 1000 * (time.perf_counter() - began)


def warm(path: Path, studies: int, only: str = "") -> dict[str, float]:
    """Medians on one connection, after a first time that does not count."""
    store = Store.open(path)
    found = {}
    for what, question in questions(store, studies).items():
        if only not in what:
            continue
        question()
        found[what] = statistics.median(milliseconds(question) for _ in range(TIMES))
    store.close()
    return found


def cold(path: Path, studies: int, only: str = "") -> dict[str, float]:
    """Medians of the first time, with nothing of the file in memory."""

    def once(what: str) -> float:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
        store = Store.open(path)
        try:
            return milliseconds(questions(store, studies)[what])
        finally:
            store.close()

    store = Store.open(path)
    names = [what for what in questions(store, studies) if only in what]
    store.close()
    return {what: statistics.median(once(what) for _ in range(COLD_TIMES)) for what in names}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=1_000_000)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--only", default="")
    given = parser.parse_args()
    sizes = (1000, given.studies)
    found: dict[int, tuple[dict[str, float], dict[str, float]]] = {}
    with nullcontext(given.keep) if given.keep else tempfile.TemporaryDirectory(prefix="prognode-million-") as name:
        for size in sizes:
            path = Path(name) / f"{size}.sqlite"
            began = time.monotonic()
            if not path.exists():
                fill(path, size)
                print(f"{size:,} studies written in {time.monotonic() - began:.0f} s", flush=True)
            print(f"{size:,} studies: {path.stat().st_size / 1e9:.2f} GB", flush=True)
            found[size] = warm(path, size, given.only), cold(path, size, given.only)
    small, large = (found[size] for size in sizes)
    print(f"\n{'ms':<40}" + "".join(f"{size:>11,}{'cold':>8}" for size in sizes) + f"{'ratio, warm':>13}")
    for what in small[0]:
        figures = "".join(f"{warm_ms[what]:>11.2f}{cold_ms[what]:>8.1f}" for warm_ms, cold_ms in (small, large))
        print(f"{what:<40}{figures}{large[0][what] / small[0][what]:>13.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
