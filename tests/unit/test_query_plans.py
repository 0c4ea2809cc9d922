"""No question that the node asks all day walks through a table that grows for ever.

What is asked is heard as it is asked: the questions of `benchmarks/million.py`, and what a worker's clock and a
study's way ask beside them. The store is never analysed, so that its plans are the same at a hundred studies as at a
million. Questions of the web pages: tests/web/test_worklist.py; of retention: tests/e2e/test_retention.py.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.million import fill, questions
from dicom_node.audit import AuditEntry
from dicom_node.births import Birth
from dicom_node.identity import Demographics, Identity, PatientKey
from dicom_node.instance import Instance
from dicom_node.store import Store
from dicom_node.workitem import State
from dicom_node.worklist import COUNTED
from tests.unit.test_store import contour, image

STUDIES = COUNTED + 100  # enough for the worklist to walk in its order instead of sorting
# They have a row for each study, image, step, result, message or event, or for each patient.
GROWING = {
    "instance", "reference", "reference_series", "work_item", "event", "delivery", "study", "study_number",
    "identity_change", "patient_merge", "hl7_message", "clinical_value", "audit", "ups", "ups_subscription",
}  # fmt: skip
# Indexes of what is still open: they do not grow.
OPEN = {
    "instance_unplanned", "instance_going", "instance_unaudited", "delivery_open", "delivery_open_by_work_item",
    "work_item_held", "work_item_going", "work_item_leased", "audit_unwritten",
}  # fmt: skip
SORTS = ("USE TEMP B-TREE FOR ORDER BY", "USE TEMP B-TREE FOR GROUP BY", "USE TEMP B-TREE FOR DISTINCT")
ROI = contour()
BIRTH = Birth("1.8", "1.9", "another key", "inputs", "{}", None)
WHO = Identity(patient_id="P1", patient_name="NAME^OF")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    path = tmp_path_factory.mktemp("plans") / "store.sqlite"
    fill(path, STUDIES)
    opened = Store.open(path)
    yield opened
    opened.close()


def others(store: Store) -> dict[str, Callable[[], object]]:
    """What is asked on a study's way and by the worker's clock, beside what the benchmark times."""
    arrivals, births, deliveries, patients = store.arrivals, store.births, store.deliveries, store.patients

    def claimed() -> object:
        item = store.claim(State.SCHEDULED, "me", 60.0, 2e9)
        assert item is not None
        store.renew(item.id, "me", 3e9)
        store.note(item.id, "noted", 1.0)
        return store.advance(item, State.ANALYSED, "me", 1.0, deliveries=[("page-1", "PACS")])

    def removed() -> object:
        uid = f"1.2.3.{STUDIES // 3}"
        return store.retention.remove_contents(uid, store.retention.contents(uid), 1.0)

    return {
        "an arrival of an image": lambda: arrivals.add(image(1), "CT", 1.0, WHO, "a"),
        "an arrival of a contour": lambda: arrivals.add(ROI, "WS", 1.0, WHO, "a"),
        "an arrival of other bytes": lambda: arrivals.add(image(1, "b"), "CT", 2.0, WHO, "a"),
        "an association's audit": lambda: store.audit.of_association("a", AuditEntry(1.0, "CT", "dicom", "received")),
        "associations without audit": store.audit.unaudited_associations,
        "what is not planned": arrivals.unplanned,
        "contours of an image": lambda: arrivals.rois_touched_by("1.2.1", "1.9"),
        "images of a contour": lambda: arrivals.images_for(ROI),
        "images of a contour without references": lambda: arrivals.images_for(Instance(**{
            **vars(ROI), "referenced_sop_instance_uids": (), "referenced_series_instance_uids": (),
        })),
        "a series": lambda: arrivals.series("1.9"),
        "other series": lambda: arrivals.other_ct_series("1.8", "1.9"),
        "the last arrival": lambda: arrivals.last_arrival(["1.9", "1.7"]),
        "contents by digest": lambda: arrivals.contents({"1.2.1": "b1"}),
        "contents that were removed": lambda: store.retention.removed_among({"1.2.1": "b1"}),
        "whose study": lambda: patients.of_study("1.8"),
        "a patient's studies": lambda: patients.studies_of("P1"),
        "an update of a patient": lambda: patients.update([PatientKey("P1")], Demographics(), "HL7 ADT^A08", 2.0),
        "a merge": lambda: patients.merge(PatientKey("P1"), PatientKey("P2"), Demographics(), "HL7 ADT^A40", 3.0),
        "the same person": lambda: patients.same_person({"digest"}),
        "a CT without contour": lambda: births.wait_for_contour(image(1), "NO_CONTOUR", 1.0),
        "a contour that waits": lambda: births.wait(ROI, "1.8", "1.9", "INCOMPLETE", "1 of 3", 1.0),
        "contours that wait": births.waiting_rois,
        "an answered contour": lambda: births.is_answered(ROI.sop_instance_uid, "1.8", "inputs", 2.0),
        "scheduling": lambda: births.schedule(ROI.sop_instance_uid, BIRTH, 2.0),
        "the first study of a patient": lambda: births.first_planned(["1.8"]),
        "a work item's stage": claimed,
        "the work item of a key": lambda: store.item_of("k7"),
        "a work item's row": lambda: store.details(7),
        "a work item's deliveries": lambda: deliveries.of_item(7),
        "a destination that does not answer": lambda: deliveries.hold("PACS", 3e9),
        "attempts at a destination": lambda: deliveries.most_attempts("PACS"),
        "tries that were put off too far": lambda: store.bring_forward(2e9),
        "a commitment report": lambda: deliveries.commitment_report("1.2", ["1"], {"2": 1}, 1.0),
        "a later revision": lambda: deliveries.replaced_by("k7", "PACS"),
        "steps that follow": lambda: store.steps.follow(lambda number, _: f"2.25.9{number}", lambda *_: True),
        "subscribers to tell": lambda: store.subscriptions.due(2e9),
        "clinical values": lambda: store.clinical.current("P1"),
        "a patient's other names": lambda: store.clinical.aliases("P1"),
        "changed clinical values": store.clinical.changes,
        "scores with newer values": store.clinical.newer,
        "questions to FHIR servers": lambda: store.pulls.due(2e9, ["a server"]),
        "a message once": lambda: store.inbox.once("RIS", "1", "d", "ADT^A08", 1.0, lambda: ""),
        "lines to write": store.audit.unwritten,
        "a work item's audit": lambda: store.audit.of_item(7),
        "the newest audit": store.audit.newest,
        "removing a study": removed,
        "what is going": store.retention.contents_going,
        "results that are going": store.retention.results_going,
        "giving up what has failed": lambda: store.retention.give_up(State.FAILED, 0.0, "", 1.0),
        "held work items": store.vitals.held,
        "what stands": store.measures.standing,
        "peers": store.vitals.contacts,
        "the result before": lambda: [store.results.before(item) for item in store.items(limit=1)],
    }  # fmt: skip


Statement = tuple[str, Any]  # and what is bound to it: with literals in its place the plan may be another


def asked(store: Store, question: Callable[[], object]) -> list[Statement]:
    """Every statement that a question runs, those of triggers aside."""
    told: list[Statement] = []
    database = store._db
    real = {name: getattr(database, name) for name in ("rows", "execute", "many")}

    def heard(name: str, sql: str, arguments: Any) -> Any:
        told.extend((sql, one) for one in ([arguments] if name != "many" else list(arguments)[:1]))
        return real[name](sql, arguments)

    for name in real:
        setattr(database, name, lambda sql, arguments=(), name=name: heard(name, sql, arguments))
    try:
        question()
    finally:
        for name in real:
            delattr(database, name)
    return [one for one in told if re.match(r"\s*(SELECT|WITH|UPDATE|DELETE|INSERT)", one[0])]


def walks(store: Store, statement: Statement) -> list[str]:
    """Steps of a plan that go through a growing table from end to end.

    A walk in the wanted order is none: LIMIT ends it. A search that uses nothing is one: for a min or max.
    """
    sql, arguments = statement
    plan = [str(row[3]) for row in store._db.connection.execute(f"EXPLAIN QUERY PLAN {sql}", arguments)]
    in_order = "LIMIT" in sql and not set(plan) & set(SORTS)
    names = {alias: table for table, alias in re.findall(r"(?:FROM|JOIN|,)\s+(\w+)\s+(\w+)", sql)}
    found = []
    for step in plan:
        scanned = re.match(r"(?:SCAN|SEARCH(?= \w+$)) (\w+)(?: USING (?:COVERING )?INDEX (\w+))?", step)
        if scanned and names.get(scanned[1], scanned[1]) in GROWING and scanned[2] not in OPEN and not in_order:
            found.append(f"{step}: {sql}")
    return found


def test_what_is_asked_all_day_walks_through_no_growing_table(store: Store) -> None:
    found = {}
    for ask in (others(store), questions(store, STUDIES)):
        for what, question in ask.items():
            statements = asked(store, question)
            assert statements, what
            found[what] = [walk for one in statements for walk in walks(store, one)]
    assert {what: walked for what, walked in found.items() if walked} == {}


@pytest.mark.parametrize(
    ("sql", "walked"),
    [
        ("SELECT count(*) FROM delivery", True),
        ("SELECT d.id FROM work_item w, delivery d WHERE d.work_item_id = w.id", True),
        ("SELECT id FROM event ORDER BY at LIMIT 1", True),
        ("SELECT max(received_at) FROM instance WHERE series_instance_uid = '1'", True),
        ("SELECT id FROM event ORDER BY id DESC LIMIT 1", False),
        ("SELECT id FROM delivery WHERE final = 0", False),
        ("SELECT id FROM work_item WHERE study_instance_uid = '1'", False),
        ("SELECT * FROM node_status", False),
    ],
)
def test_a_walk_is_told_from_what_is_none(store: Store, sql: str, walked: bool) -> None:
    assert bool(walks(store, (sql, []))) is walked


def test_the_store_is_never_analysed(tmp_path: Path) -> None:
    """Statistics would make plans depend on when they were gathered."""
    opened = Store.open(tmp_path / "store.sqlite")
    tables = {row["name"] for row in opened._db.rows("SELECT name FROM sqlite_master")}
    opened.close()
    assert not tables & {"sqlite_stat1", "sqlite_stat4"}
    assert tables >= GROWING
