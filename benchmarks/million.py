"""A store of a million studies: what the node asks of it all day, in milliseconds, beside a store of a thousand.

    python -m benchmarks.million [--studies 1000000]

Rows are written by SQL (a CT image, a contour, a work item with four proved deliveries and four events a study), the
questions are asked through the store's own methods. Each figure is the median of 20.
"""

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from dicom_node.database import Database
from dicom_node.identity import Identity
from dicom_node.instance import CT, RTSTRUCT, Instance
from dicom_node.store import Store
from dicom_node.workitem import State
from dicom_node.worklist import WorklistQuery

TIMES = 20
BATCH = 20_000
FAMILIES = ("MUELLER", "YAMADA", "GARCIA", "SMITH", "KIM", "DUBOIS", "ROSSI", "NOVAK", "SILVA", "JANSEN")
SUMMARY = '{"group":"HIGH","groups":[],"scores":[],"modalities":[],"missing":[],"warnings":0,"synthetic":true}'
CT_FACTS = Instance("1", CT, "1", "1", "1.2.840.10008.1.2.1", "0" * 64, modality="CT")


def fill(path: Path, studies: int) -> None:
    """Studies that have gone their way, a few of each other state, as in a node of some years."""
    Store.open(path).close()
    database = Database(path)
    database.execute("PRAGMA synchronous=OFF")
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
                [
                    (n + 1, float(n), name)
                    for n in numbers
                    for name in ("scheduled", "analysed", "reported", "completed")
                ],
            )
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()


def _state(number: int, studies: int) -> State:
    """The newest hundred are still on their way."""
    behind = studies - number
    if behind > 100:
        return State.COMPLETED
    return (State.SCHEDULED, State.ANALYSED, State.REPORTED, State.WAITING)[behind % 4]


def questions(store: Store, studies: int) -> dict[str, Callable[[], object]]:
    """What receiver, worker, commands and the page ask; each a call without arguments."""
    numbers = iter(range(10_000_000, 20_000_000))
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

    middle = studies // 2
    page = store.worklist.find
    return {
        "record an arrival (durable)": arrive,
        "claim a work item and give it back": take,
        "deliveries that are due": lambda: store.deliveries.due(2e9),
        "complete what is delivered": lambda: store.complete_delivered(2e9),
        "counts by state (status)": store.counts,
        "one study's work items": lambda: store.items(f"1.2.3.{middle}"),
        "worklist: first page": lambda: page(WorklistQuery()),
        "worklist: by study date": lambda: page(WorklistQuery(sort="study_date")),
        "worklist: by patient name": lambda: page(WorklistQuery(sort="patient_name", descending=False)),
        "worklist: search by patient ID": lambda: page(WorklistQuery(text=f"P{middle:08}")),
        "worklist: search by a common name": lambda: page(WorklistQuery(text="garcia")),
        "worklist: what is on its way": lambda: page(WorklistQuery(states=(State.SCHEDULED, State.REPORTED))),
        "worklist: high risk": lambda: page(WorklistQuery(group="HIGH")),
    }


def milliseconds(question: Callable[[], object]) -> float:
    question()
    taken = []
    for _ in range(TIMES):
        began = time.perf_counter()
        question()
        taken.append(1000 * (time.perf_counter() - began))
    return statistics.median(taken)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=1_000_000)
    sizes = (1000, parser.parse_args().studies)
    found: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="prognode-million-") as name:
        for size in sizes:
            path = Path(name) / f"{size}.sqlite"
            began = time.monotonic()
            fill(path, size)
            print(f"{size:,} studies written in {time.monotonic() - began:.0f} s, {path.stat().st_size / 1e9:.2f} GB")
            store = Store.open(path)
            found[size] = {what: milliseconds(question) for what, question in questions(store, size).items()}
            store.close()
    print(f"\n{'median of ' + str(TIMES) + ', ms':<40}" + "".join(f"{size:>14,}" for size in sizes) + f"{'ratio':>8}")
    for what in found[sizes[0]]:
        small, large = (found[size][what] for size in sizes)
        print(f"{what:<40}{small:>14.2f}{large:>14.2f}{large / small:>8.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
