"""The worklist's rows: what a search finds, what a filter leaves, and that no page needs more than an index."""

import os
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dicom_node.identity import Identity
from dicom_node.store import Store
from dicom_node.workitem import DeliveryState, State
from dicom_node.worklist import COUNTED, WorklistQuery
from tests.web.items import YAMADA, Items


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store.sqlite")


@pytest.fixture
def items(store: Store) -> Items:
    return Items(store)


def found(store: Store, **query: object) -> list[int]:
    return [row.id for row in store.worklist.find(WorklistQuery(**query)).rows]  # type: ignore[arg-type]


def test_a_row_tells_of_the_work_item_its_patient_and_its_deliveries(store: Store, items: Items) -> None:
    items.study("1.2.840.7")
    item = items.at(State.REPORTED, study="1.2.840.7", destinations=("PACS", "ARCHIVE"))
    first, second, *_ = store.deliveries.of_item(item.id)
    store.deliveries.record(first.id, state=DeliveryState.SEEN, final=1, sent_at=5.0, proved_at=6.0)
    store.deliveries.record(second.id, state=DeliveryState.FAILED, final=1)
    store.hold(item.id, True, items.tick(), "")

    (row,) = store.worklist.find(WorklistQuery()).rows
    assert (row.id, row.state, row.ups_state, row.outcome, row.held) == (
        item.id,
        "REPORTED",
        "IN PROGRESS",
        "SCORED",
        True,
    )
    assert row.summary is not None
    assert row.summary.group == "HIGH"
    assert (row.patient_name, row.patient_id, row.study_date) == (YAMADA.patient_name, "PAT-0012", "20260105")
    counts = row.deliveries
    assert (counts.open, counts.refused, counts.sent, counts.proved, counts.total) == (2, 1, 1, 1, 4)
    assert store.worklist.row(item.id) == row
    assert store.worklist.row(item.id + 1) is None
    assert store.worklist.of_study("1.2.840.7") == [row]


def test_a_lease_is_in_progress_until_it_runs_out(store: Store, items: Items) -> None:
    item = items.scheduled()
    items.now = time.time()
    items.claim(State.SCHEDULED)
    row = store.worklist.row(item.id)
    assert row is not None
    assert (row.leased, row.ups_state) == (True, "IN PROGRESS")
    store.renew(item.id, "test:1", time.time() - 1.0)
    row = store.worklist.row(item.id)
    assert row is not None
    assert (row.leased, row.ups_state) == (False, "SCHEDULED")


@pytest.mark.parametrize(
    "text",
    [
        "yamada", "YAMADA", "Yama", "tarou", "yamada tarou", "tar yam", "山田", "山", "太郎", "やまだ", "PAT-0012",
        "pat-00", "a77", "A77-001", "1.2.840.7", "1.2.840", "  yamada  ", "Yamada^Tarou",
    ],
)  # fmt: skip
def test_a_search_matches_the_beginning_of_any_word(store: Store, items: Items, text: str) -> None:
    items.study("1.2.840.7")
    item = items.at(State.SCHEDULED, study="1.2.840.7")
    items.study("1.3.1", replace(YAMADA, patient_name="Sørensen^Åse", patient_id="X9", accession_number="B1"))
    items.at(State.SCHEDULED, study="1.3.1")
    assert found(store, text=text) == [item.id]


@pytest.mark.parametrize(
    "text", ["amada", "0012x", "1.2.841", '"', '" OR 1', "*", "yamada hanako", "NEAR(yamada)", "^"]
)
def test_a_search_that_matches_nothing_finds_nothing_and_breaks_nothing(store: Store, items: Items, text: str) -> None:
    items.study("1.2.840.7")
    items.at(State.SCHEDULED, study="1.2.840.7")
    assert found(store, text=text) == []


@pytest.mark.parametrize(
    ("text", "name"), [("muller", "Müller^Jörg"), ("МИХ", "Михайлов^Иван"), ("김", "Kim^Min=김^민")]
)
def test_case_and_accents_do_not_matter_in_any_script(store: Store, items: Items, text: str, name: str) -> None:
    items.study("1.2.3", Identity(patient_name=name))
    item = items.at(State.SCHEDULED, study="1.2.3")
    assert found(store, text=text) == [item.id]


def test_a_search_follows_a_change_of_identity(store: Store, items: Items) -> None:
    items.study("1.2.3")
    item = items.at(State.SCHEDULED, study="1.2.3")
    store.patients.change("1.2.3", replace(YAMADA, patient_name="Suzuki^Hanako"), "HL7 ADT^A08", items.tick())
    assert found(store, text="suzuki") == [item.id]
    assert found(store, text="yamada") == []


def test_filters_combine(store: Store, items: Items) -> None:
    high, low = items.at(State.COMPLETED, "HIGH"), items.at(State.REPORTED, "LOW")
    none = items.at(State.COMPLETED, "")
    failed, waiting = items.at(State.FAILED), items.at(State.WAITING)
    store.hold(low.id, True, items.tick(), "")
    assert found(store) == [waiting.id, failed.id, none.id, low.id, high.id]
    assert found(store, descending=False, limit=2) == [high.id, low.id]
    assert found(store, descending=False, limit=2, offset=3) == [failed.id, waiting.id]
    assert found(store, states=(State.FAILED, State.WAITING)) == [waiting.id, failed.id]
    assert found(store, group="HIGH") == [high.id]
    assert found(store, group="HIGH", states=(State.REPORTED,)) == []
    assert found(store, outcome="NOT_SCORED") == [none.id]
    assert found(store, held=True) == [low.id]
    assert low.id not in found(store, held=False)
    assert found(store, since=failed.created_at, until=waiting.created_at) == [failed.id]


def test_sorts_follow_their_column(store: Store, items: Items) -> None:
    by_name = []
    for name, date in (("Chen^A", "20250103"), ("Abe^B", "20250101"), ("Berg^C", "20250102")):
        uid = f"1.2.{len(by_name)}"
        items.study(uid, Identity(patient_name=name, study_date=date))
        by_name.append(items.at(State.SCHEDULED, study=uid).id)
    chen, abe, berg = by_name
    store.set_priority(berg, 1, items.tick(), "")
    assert found(store, sort="patient_name", descending=False) == [abe, berg, chen]
    assert found(store, sort="study_date") == [chen, berg, abe]
    assert found(store, sort="priority")[0] == berg
    assert found(store, sort="updated")[0] == berg


def test_what_a_revision_has_replaced_is_left_out_unless_asked_for(store: Store, items: Items) -> None:
    old = items.at(State.COMPLETED, roi="1.3.5", study="1.2.5")
    new = items.at(State.COMPLETED, roi="1.3.5", study="1.2.5")
    assert new.revision == 2
    assert found(store) == [new.id]
    assert found(store, newest_only=False) == [new.id, old.id]
    assert [row.newest for row in store.worklist.of_study("1.2.5")] == [True, False]


def test_a_question_that_was_closed_does_not_hide_the_result(store: Store, items: Items) -> None:
    done = items.at(State.COMPLETED, roi="1.3.5", study="1.2.5", key="k")
    store.births.replan(done.id, "", items.tick())
    waiting = store.items()[0]
    assert found(store) == [waiting.id]
    store.cancel(waiting.id, items.tick(), "nothing has changed")
    assert found(store) == [done.id]


def test_a_ct_that_waits_is_replaced_by_the_contour_that_comes(store: Store, items: Items) -> None:
    waiting = items.waiting()
    assert found(store) == [waiting.id]
    item = items.scheduled(study=waiting.study_instance_uid)
    assert found(store) == [item.id]


def test_a_study_whose_contour_lies_in_another_study_is_found_by_both(store: Store, items: Items) -> None:
    from tests.unit.test_store import contour

    store.arrivals.add(replace(contour("1.3.77"), study_instance_uid="1.2.contour"), "WS", items.tick())
    item = items.scheduled(roi="1.3.77", study="1.2.ct")
    for uid in ("1.2.ct", "1.2.contour"):
        assert [row.id for row in store.worklist.of_study(uid)] == [item.id]


# -- a long list -----------------------------------------------------------------------------------------------

STUDIES = int(os.environ.get("PROGNODE_TEST_STUDIES", "50000"))  # docs/web.md has a million
QUERIES = {
    "everything": WorklistQuery(),
    "the hundredth page": WorklistQuery(offset=5_000),
    "open": WorklistQuery(states=(State.WAITING, State.SCHEDULED, State.ANALYSED, State.REPORTED, State.FAILED)),
    "completed": WorklistQuery(states=(State.COMPLETED,)),
    "high risk, oldest first": WorklistQuery(group="HIGH", descending=False),
    "not scored": WorklistQuery(outcome="NOT_SCORED"),
    "no match": WorklistQuery(states=(State.SCHEDULED,), group="HIGH"),
    "held": WorklistQuery(held=True),
    "of a day": WorklistQuery(since=1e9 + (STUDIES - 1000) * 60),
    "by name": WorklistQuery(sort="patient_name", descending=False),
    "failed by name": WorklistQuery(states=(State.FAILED,), sort="patient_name"),
    "by study date": WorklistQuery(sort="study_date"),
    "by priority": WorklistQuery(sort="priority"),
    "by update": WorklistQuery(sort="updated"),
    "a common name": WorklistQuery(text="yamada"),
    "a letter": WorklistQuery(text="s"),
    "a character": WorklistQuery(text="山"),
    "a Patient ID": WorklistQuery(text="pat-000123"),
    "nobody": WorklistQuery(text="nobody"),
    "the root of all UIDs": WorklistQuery(text="1.2.840"),
    "a study": WorklistQuery(text="1.2.840.99.77"),
}
LONGEST_SECONDS = 0.25  # on a busy machine; docs/web.md has what was measured


@pytest.fixture(scope="module")
def long_list(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Many studies, two per cent of them not at their end. Written as rows: stage by stage it takes hours."""
    store = Store.open(tmp_path_factory.mktemp("long") / "store.sqlite")
    chance = random.Random(4)
    families = ["Yamada^Tarou=山田^太郎", "Müller^Jörg", "Smith^John", "Hong^Gildong=洪^吉洞=홍^길동", "Иванов^Иван"]
    db = store._db
    db.execute("PRAGMA synchronous=OFF")
    from tests.web.items import summary

    summaries = {group: summary(group) for group in ("HIGH", "LOW", "UNCERTAIN")}
    with db.immediate():
        for number in range(STUDIES):
            uid, ended = f"1.2.840.99.{number}", chance.random() < 0.98
            state = "COMPLETED" if ended else chance.choice(["WAITING", "SCHEDULED", "REPORTED", "FAILED", "CANCELED"])
            scored = state in ("COMPLETED", "REPORTED") and chance.random() < 0.8
            date = f"20{chance.randrange(10, 26)}{chance.randrange(1, 13):02d}{chance.randrange(1, 29):02d}"
            identity = Identity(patient_id=f"PAT-{number:06d}", patient_name=chance.choice(families), study_date=date)
            store.patients.received(uid, identity, 1.0)
            row = {
                "state": state, "study_instance_uid": uid, "ct_series_instance_uid": f"{uid}.1",
                "roi_sop_instance_uid": f"{uid}.2", "key": f"k{number}", "created_at": 1e9 + number * 60,
                "outcome": "SCORED" if scored else "NOT_SCORED" if ended else None,
                "priority": int(chance.random() < 0.02),
                "summary": summaries[chance.choice(["HIGH", "LOW", "UNCERTAIN"])] if scored else None,
                "updated_at": 1e9 + number * 60 + chance.randrange(9000),
            }  # fmt: skip
            item_id = db.insert("work_item", row)
            for document in ("risk-sr", "page-1"):
                store.deliveries.add(item_id, document, "PACS")
    return store


@pytest.mark.parametrize("name", list(QUERIES))
def test_a_page_of_a_long_list_takes_milliseconds(long_list: Store, name: str) -> None:
    taken = []
    for _ in range(3):
        began = time.process_time()
        page = long_list.worklist.find(QUERIES[name])
        taken.append(time.process_time() - began)
    print(f"{name}: {min(taken) * 1000:.1f} ms, {len(page.rows)} rows of {page.total}{'+' if page.more else ''}")
    assert min(taken) < LONGEST_SECONDS
    assert page.total <= COUNTED
    assert bool(page.rows) == (name not in ("no match", "held", "nobody"))


@pytest.mark.parametrize("name", list(QUERIES))
def test_no_query_of_the_worklist_scans_a_table(long_list: Store, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """EXPLAIN QUERY PLAN of each: a SCAN is only a walk along an index, or over the rows that a subquery gives."""
    plans: list[str] = []
    rows = type(long_list._db).rows

    def explained(self: Any, sql: str, arguments: Any = ()) -> Any:
        if sql.startswith("SELECT"):
            plans.extend(str(row["detail"]) for row in rows(self, f"EXPLAIN QUERY PLAN {sql}", arguments))
        return rows(self, sql, arguments)

    monkeypatch.setattr(type(long_list._db), "rows", explained)
    long_list.worklist.find(QUERIES[name])
    walks = [plan for plan in plans if plan.startswith("SCAN")]
    harmless = ("USING INDEX", "USING COVERING INDEX", "VIRTUAL TABLE INDEX", "json_each", "(subquery", "SCAN (")
    # Without any filter the rows are counted along the table itself, and only as far as COUNTED.
    bounded = {"SCAN w"} if QUERIES[name].states == () and not QUERIES[name].text else set()
    assert plans
    assert [walk for walk in walks if not any(one in walk for one in harmless) and walk not in bounded] == []
