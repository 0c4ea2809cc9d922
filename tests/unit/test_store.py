"""The store: nothing is taken twice, no illegal move, the same content never makes a second work item."""

import re
import sqlite3
import threading
from itertools import product
from pathlib import Path

import pytest

from dicom_node import local_time, status
from dicom_node.births import Birth
from dicom_node.instance import CT, RTSTRUCT, Instance
from dicom_node.store import Store
from dicom_node.web import views
from dicom_node.workitem import (
    TRANSITIONS,
    ConfigError,
    DeliveryState,
    InvalidTransition,
    LeaseLost,
    State,
    StoreBusy,
    StoreDamaged,
    WorkItem,
)

OWNER, OTHER = "boot:1:1", "boot:2:2"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


@pytest.fixture
def store(path: Path) -> Store:
    return Store.open(path)


def image(number: int, digest: str = "a") -> Instance:
    return Instance(f"1.2.{number}", CT, "1.9", "1.8", "1.2.840.10008.1.2.1", f"{digest}{number}")


def contour(uid: str = "1.5", images: int = 3, digest: str = "r") -> Instance:
    references = tuple(f"1.2.{number}" for number in range(images))
    return Instance(
        uid, RTSTRUCT, "1.7", "1.8", "1.2.840.10008.1.2.1", digest,
        referenced_sop_instance_uids=references, referenced_series_instance_uids=("1.9",),
    )  # fmt: skip


def schedule(store: Store, key: str = "k", now: float = 1.0, roi: Instance | None = None) -> bool:
    birth = Birth("1.8", "1.9", key, f"i-{key}", "{}", None)
    return store.births.schedule((roi or contour()).sop_instance_uid, birth, now)


def wait(store: Store, reason: str = "REFERENCED_CT_INCOMPLETE", detail: str = "2 of 3 images are here") -> bool:
    return store.births.wait(contour(), "1.8", "1.9", reason, detail, 1.0)


def claimed(store: Store, state: State = State.SCHEDULED, now: float = 2.0) -> WorkItem:
    item = store.claim(state, OWNER, 60, now)
    assert item is not None
    return item


def test_the_same_bytes_are_recorded_once_and_other_bytes_of_the_same_uid_beside_them(store: Store) -> None:
    assert store.arrivals.add(image(1), "CT", 1.0)
    assert not store.arrivals.add(image(1), "CT", 2.0)
    assert store.arrivals.add(image(1, "b"), "CT", 3.0)

    newest = store.arrivals.instance("1.2.1")
    assert newest is not None
    assert newest.digest == "b1"
    assert len(store.arrivals.unplanned()) == 2


def test_bytes_that_come_back_after_a_correction_are_current_again(store: Store) -> None:
    for digest in "aba":
        store.arrivals.add(image(1, digest), "CT", 1.0)
    newest = store.arrivals.instance("1.2.1")
    assert newest is not None
    assert newest.digest == "a1"


def test_what_a_contour_references_is_found_in_any_order_of_arrival(store: Store) -> None:
    store.arrivals.add(image(2), "CT", 1.0)
    store.arrivals.add(contour(), "WS", 2.0)
    store.arrivals.add(image(0), "CT", 3.0)
    store.arrivals.add(image(1), "CT", 4.0)
    assert store.arrivals.rois_touched_by("1.2.1", "elsewhere") == {"1.5"}
    assert [i.sop_instance_uid for i in store.arrivals.images_for(contour())] == ["1.2.0", "1.2.1", "1.2.2"]


def test_a_ct_waits_for_its_contour_and_the_contour_takes_its_place(store: Store) -> None:
    store.births.wait_for_contour(image(1), "NO_CONTOUR", 1.0)
    store.births.wait_for_contour(image(2), "NO_CONTOUR", 1.0)
    assert [item.state for item in store.items()] == [State.WAITING]
    schedule(store)
    assert sorted(item.state for item in store.items()) == [State.CANCELED, State.SCHEDULED]
    words = {row.state: views.stage(row) for row in store.worklist.of_study("1.8")}
    assert words[State.CANCELED] == "the contour that it waited for came"


def test_a_waiting_contour_becomes_the_scheduled_work_item_and_keeps_its_history(store: Store) -> None:
    wait(store)
    assert store.births.waiting_rois() == ["1.5"]
    schedule(store, now=5.0)
    (item,) = store.items()
    assert (item.state, item.key, item.scheduled_at, item.reason) == (State.SCHEDULED, "k", 5.0, None)
    assert [event["name"] for event in store.details(item.id)["events"]] == ["waiting", "scheduled"]


def test_the_longer_a_contour_has_waited_the_more_rarely_it_is_looked_at_again(store: Store) -> None:
    wait(store)  # at 1.0
    looks = {}
    for begun, seconds in ((1, 50), (6_000, 2_000), (1_000_000, 20_000)):
        moments = range(begun + 5, begun + seconds, 5)
        looks[begun] = sum(bool(store.births.waiting_rois(now - 5.0, float(now))) for now in moments)
    assert looks == {1: 9, 6_000: 8, 1_000_000: 39}, "at each of 10, each 256 s, each 512 s"
    assert store.births.waiting_rois(1_000_000.0, 1_000_000.0 - 3600) == ["1.5"], "the clock was set back"
    store.births.wait(contour(), "1.8", "1.9", "REFERENCED_CT_INCOMPLETE", "3 of 3 images are here", 1_000_000.0)
    assert store.births.waiting_rois(1_000_002.0, 1_000_007.0) == ["1.5"], "something has changed"


def test_contours_that_wait_are_not_all_looked_at_in_the_same_moment(store: Store) -> None:
    for number in range(40):
        store.births.wait(contour(f"1.5.{number}"), "1.8", "1.9", "REFERENCED_CT_INCOMPLETE", "", 1.0)
    looks = [len(store.births.waiting_rois(now - 5.0, now)) for now in (1e6 + 5 * k for k in range(103))]
    assert sum(looks) >= 40
    assert max(looks) <= 2


def test_a_contour_whose_images_were_removed_is_given_up_in_time(store: Store) -> None:
    wait(store, "INPUTS_REMOVED")
    assert store.retention.give_up(State.WAITING, 0.5, "too long", 100.0) == 0
    assert store.retention.give_up(State.WAITING, 3.0, "too long", 100.0) == 1
    assert wait(store, "REFERENCED_CT_INCOMPLETE"), "what comes for it is a new question"
    assert store.retention.give_up(State.WAITING, 3.0, "too long", 100.0) == 0


def test_the_same_key_never_makes_a_second_work_item(store: Store) -> None:
    assert schedule(store)
    assert not schedule(store)
    assert store.births.is_answered("1.5", "1.2", "i-k", 2.0)
    assert len(store.items()) == 1


def test_other_content_of_a_reported_contour_is_the_next_revision(store: Store) -> None:
    schedule(store)
    store.advance(claimed(store), State.ANALYSED, OWNER, 3.0)
    schedule(store, key="k2")
    newest = store.items()[0]
    assert (newest.revision, newest.predecessor_key) == (2, "k")


def test_other_content_before_the_analysis_supersedes_without_a_revision(store: Store) -> None:
    schedule(store)
    schedule(store, key="k2")
    assert [(item.state, item.revision) for item in store.items()] == [(State.SCHEDULED, 1), (State.CANCELED, 1)]


def test_every_pair_of_states_is_either_in_the_table_or_refused(store: Store) -> None:
    for number, (old, new) in enumerate(product(State, State)):
        schedule(store, key=f"k{number}", roi=contour(f"1.5.{number}"))
        item = store.items()[0]
        store._db.execute("UPDATE work_item SET state = ?, lease_owner = ? WHERE id = ?", [old, OWNER, item.id])
        current = store.item(item.id)
        assert current is not None
        if new in TRANSITIONS[old]:
            store.advance(current, new, OWNER, 3.0)
            moved = store.item(item.id)
            assert moved is not None
            assert moved.state is new
        else:
            with pytest.raises(InvalidTransition):
                store.advance(current, new, OWNER, 3.0)


def test_a_lost_lease_cannot_advance(store: Store) -> None:
    schedule(store)
    item = claimed(store, now=2.0)
    again = store.claim(State.SCHEDULED, OTHER, 60, 100.0)
    assert again is not None
    assert again.attempts == 2
    with pytest.raises(LeaseLost):
        store.advance(item, State.ANALYSED, OWNER, 101.0)
    assert not store.renew(item.id, OWNER, 200.0)


def test_a_leased_item_is_not_claimed_before_its_lease_ends(store: Store) -> None:
    schedule(store)
    claimed(store, now=2.0)
    assert store.claim(State.SCHEDULED, OTHER, 60, 30.0) is None


def test_the_items_of_an_earlier_worker_are_free_at_once(store: Store) -> None:
    schedule(store)
    claimed(store)
    assert store.break_leases_but(OWNER, tuple(State)) == 0
    assert store.break_leases_but(OTHER, tuple(State)) == 1
    assert store.claim(State.SCHEDULED, OTHER, 60, 3.0) is not None


def test_an_attempt_that_does_not_count_is_given_back(store: Store) -> None:
    schedule(store)
    store.postpone(claimed(store), OWNER, 3.0, 2.0, "disk full", counts=False)
    assert claimed(store, now=4.0).attempts == 1


def test_a_postponed_item_is_not_run_before_its_time(store: Store) -> None:
    schedule(store)
    store.postpone(claimed(store), OWNER, 50.0, 2.0, "disk full")
    assert store.claim(State.SCHEDULED, OTHER, 60, 49.0) is None
    assert store.claim(State.SCHEDULED, OTHER, 60, 50.0) is not None


def test_no_work_item_is_claimed_twice_by_competing_threads(path: Path) -> None:
    store = Store.open(path)
    for number in range(60):
        schedule(store, key=f"k{number}", roi=contour(f"1.5.{number}"))
    taken: list[int] = []

    def work(owner: str) -> None:
        mine = Store.open(path)
        while (item := mine.claim(State.SCHEDULED, owner, 600, 2.0)) is not None:
            taken.append(item.id)
        mine.close()

    threads = [threading.Thread(target=work, args=(f"boot:{n}:1",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(set(taken))
    assert len(taken) == 60


def test_a_work_item_is_complete_when_every_delivery_is_at_its_end(store: Store) -> None:
    schedule(store)
    store.advance(claimed(store), State.ANALYSED, OWNER, 2.0)
    store.advance(
        claimed(store, State.ANALYSED), State.REPORTED, OWNER, 2.0, deliveries=[("risk-sr", "PACS"), ("page-1", "PACS")]
    )
    first, second = store.deliveries.due(3.0)
    store.deliveries.record(first.id, state=DeliveryState.SEEN, final=1)
    assert store.complete_delivered(3.0) == []
    store.deliveries.record(second.id, state=DeliveryState.COMMITTED, final=1)
    assert store.complete_delivered(3.0) == [first.work_item_id]
    assert store.items()[0].state is State.COMPLETED


def reported(store: Store, *documents: str) -> WorkItem:
    schedule(store)
    store.advance(claimed(store), State.ANALYSED, OWNER, 2.0)
    rows = [(document, "PACS") for document in documents]
    store.advance(claimed(store, State.ANALYSED), State.REPORTED, OWNER, 2.0, deliveries=rows)
    return store.items()[0]


def test_a_refused_delivery_fails_the_item_and_a_retry_sends_the_same_again(store: Store) -> None:
    item = reported(store, "risk-sr")
    (row,) = store.deliveries.due(3.0)
    store.deliveries.record(row.id, state=DeliveryState.FAILED, final=1, detail="status A900H")
    store.complete_delivered(3.0)
    assert store.items()[0].state is State.FAILED
    assert "A900H" in store.details(item.id)["events"][-1]["detail"]
    assert store.deliveries.troubles() == {"PACS": "1 failed: status A900H"}
    store.retry(item.id, 4.0)
    assert store.items()[0].state is State.REPORTED  # not SCHEDULED: what was composed is sent as it is
    assert store.deliveries.due(5.0)[0].state is DeliveryState.PENDING


def test_a_retry_of_what_was_never_reported_analyses_again(store: Store) -> None:
    schedule(store)
    store.advance(claimed(store), State.FAILED, OWNER, 2.0, "a bug", hint="report this")
    item = store.items()[0]
    assert store.details(item.id)["hint"] == "report this"
    store.retry(item.id, 3.0)
    assert store.items()[0].state is State.SCHEDULED


def test_a_late_question_does_not_hide_the_result_and_ends_when_nothing_has_changed(store: Store) -> None:
    item = reported(store)
    assert wait(store)
    assert not wait(store, detail="3 of 3 images are here")
    assert [each.state for each in store.items()] == [State.WAITING, State.REPORTED]
    assert store.births.is_answered("1.5", "1.2", "i-k", 5.0)
    assert [each.state for each in store.items()] == [State.CANCELED, State.REPORTED]
    assert wait(store)
    schedule(store, key="k2")
    newest = store.items()[0]
    assert (newest.state, newest.revision, newest.predecessor_key) == (State.SCHEDULED, 2, item.key)


def test_the_reason_for_waiting_is_the_one_of_now(store: Store) -> None:
    wait(store)
    assert wait(store, reason="CLINICAL_VALUES_UNAVAILABLE", detail="the table cannot be read")
    (item,) = store.items()
    assert item.reason == "CLINICAL_VALUES_UNAVAILABLE"
    assert store.details(item.id)["hint"] == "the table cannot be read"


def test_a_content_that_was_superseded_before_it_ran_may_come_back(store: Store) -> None:
    schedule(store, key="a")
    schedule(store, key="b")
    assert schedule(store, key="a")
    assert [(item.key, item.state) for item in store.items()] == [
        ("a", State.SCHEDULED), ("b", State.CANCELED), (None, State.CANCELED)
    ]  # fmt: skip


def finish(store: Store) -> None:
    """Bring the newest work item to its end."""
    store.advance(claimed(store), State.ANALYSED, OWNER, 2.0)
    store.advance(claimed(store, State.ANALYSED), State.REPORTED, OWNER, 2.0)
    store.complete_delivered(3.0)


def test_an_older_content_that_comes_back_is_a_revision_each_time(store: Store) -> None:
    for content in ("a", "b", "a", "b", "a"):
        assert schedule(store, key=content)
        finish(store)
    rows = list(reversed(store.items()))
    assert [item.revision for item in rows] == [1, 2, 3, 4, 5]
    assert [item.content_key for item in rows] == ["a", "b", "a", "b", "a"]
    assert [item.predecessor_key for item in rows[1:]] == [item.key for item in rows[:-1]]
    assert len({item.key for item in rows}) == 5
    assert not schedule(store, key="a")


def test_a_content_that_comes_back_before_its_successor_ran_has_its_result_already(store: Store) -> None:
    schedule(store, key="a")
    finish(store)
    schedule(store, key="b")
    assert not schedule(store, key="a")
    assert [item.state for item in store.items()] == [State.CANCELED, State.COMPLETED]


def test_what_was_sent_in_part_stays_the_predecessor(store: Store) -> None:
    item = reported(store, "risk-sr")
    (row,) = store.deliveries.due(3.0)
    store.deliveries.record(row.id, state=DeliveryState.FAILED, final=1, detail="status A900H")
    store.complete_delivered(3.0)
    schedule(store, key="k2")
    newest, before = store.items()
    assert (newest.revision, newest.predecessor_key, before.state, before.key) == (2, item.key, State.CANCELED, "k")
    finish(store)
    assert schedule(store, key="k")
    again = store.items()[0]
    assert (again.revision, again.predecessor_key) == (3, "k2")
    assert again.key not in ("k", "k2")


def test_what_may_be_in_an_archive_is_followed_also_where_its_work_item_is_canceled(store: Store) -> None:
    schedule(store)
    store.advance(claimed(store), State.ANALYSED, OWNER, 3.0)
    rows = [("risk-sr", "PACS"), ("page-1", "PACS")]
    store.advance(claimed(store, State.ANALYSED, 4.0), State.REPORTED, OWNER, 5.0, deliveries=rows)
    left, stayed = store.deliveries.due(6.0)
    store.deliveries.leaving({left.id: ("1.1", "2.25.1")})  # and the node ends before an answer comes
    store.cancel(left.work_item_id, 7.0, "canceled by an operator")
    states = {row.id: (row.state, row.final) for row in store.deliveries.of_item(left.work_item_id)}
    assert states == {left.id: (DeliveryState.PENDING, 0), stayed.id: (DeliveryState.CANCELED, 1)}
    assert schedule(store, "other")
    newest = store.items()[0]
    assert (newest.revision, newest.predecessor_key) == (2, "k")


@pytest.mark.parametrize("change", ["hold", "set_priority"])
def test_what_an_operator_decides_is_written_with_its_event_or_not_at_all(
    store: Store, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise sqlite3.OperationalError("disk full")

    schedule(store)
    (item,) = store.items()
    monkeypatch.setattr("dicom_node.items.note", fails)
    with pytest.raises(sqlite3.OperationalError):
        getattr(store, change)(item.id, 1, 2.0, "by an operator")
    row = store.details(item.id)
    assert (row["held"], row["priority"], row["updated_at"]) == (0, item.priority, 1.0)


def test_a_commitment_that_fails_after_completion_opens_the_work_item_again(store: Store) -> None:
    item = reported(store, "risk-sr")
    (row,) = store.deliveries.due(3.0)
    store.deliveries.record(row.id, state=DeliveryState.SENT, final=1, sop_instance_uid="1.1", transaction_uid="1.7")
    assert store.complete_delivered(3.0) == [item.id]
    store.deliveries.commitment_report("1.7", [], {"1.1": 0x0112}, 9.0)
    assert store.items()[0].state is State.REPORTED


def test_a_row_that_changed_meanwhile_is_not_written_over(store: Store) -> None:
    reported(store, "risk-sr")
    (row,) = store.deliveries.due(3.0)
    store.deliveries.record(row.id, state=DeliveryState.SENT, transaction_uid="1.7", sop_instance_uid="1.1")
    (read,) = store.deliveries.of_item(row.work_item_id)
    store.deliveries.commitment_report("1.7", ["1.1"], {}, 9.0)
    assert not store.deliveries.settle(read, state=DeliveryState.PENDING)
    assert store.deliveries.of_item(row.work_item_id)[0].state is DeliveryState.COMMITTED


def test_a_store_that_another_process_holds_is_busy_and_not_a_bug(path: Path) -> None:
    store = Store.open(path)
    store._db.connection.execute("PRAGMA busy_timeout=10")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusy, match="locked"):
        schedule(store)
    other.execute("ROLLBACK")
    other.close()
    assert schedule(store)


def test_what_an_operator_asks_again_is_not_taken_for_answered(store: Store) -> None:
    item = reported(store)
    store.complete_delivered(3.0)
    done = store.item(item.id)
    assert done is not None
    assert store.births.replan(done.id, "retry asked for by an operator", 4.0)
    assert not store.births.is_answered("1.5", "1.2", "i-k", 5.0)
    assert not schedule(store)  # the same key: nothing has changed, and the question is closed
    assert [each.state for each in store.items()] == [State.CANCELED, State.COMPLETED]
    unchanged, kept = store.worklist.of_study(done.study_instance_uid)
    assert views.stage(unchanged) == "nothing has changed: the result before it stands"
    shown = status.overview(store, False)
    assert f"#{kept.id} " in shown
    local_time.go_by("Asia/Tokyo")
    try:
        assert "changed, JST" in status.overview(store, False)
        assert "1970-01-01 09:00:03" in status.overview(store, False)
        assert views.moment(4.0) == "1970-01-01 09:00:04"
    finally:
        local_time.go_by("")
    assert f"#{unchanged.id} " not in shown, "what counts is the one before it"
    schedule(store, roi=contour("1.6"), key="other")
    store.hold(store.items()[0].id, True, 6.0, "by anna")
    assert re.search(r"#\d+ +SCHEDULED \(held\) +MEDIUM", status.overview(store, False))


def test_what_does_not_come_to_a_destination_is_told_until_something_does(store: Store) -> None:
    item = reported(store, "risk-sr")
    (row,) = store.deliveries.of_item(item.id)
    assert store.deliveries.troubles() == {}
    store.deliveries.record(row.id, attempts=1, detail="it does not answer")
    assert store.deliveries.troubles() == {row.destination: "1 not sent yet: it does not answer"}
    store.deliveries.record(row.id, sent_at=5.0, state=DeliveryState.SENT)
    assert store.deliveries.troubles() == {}


def test_a_failed_item_that_was_never_sent_makes_room_without_a_revision(store: Store) -> None:
    schedule(store)
    store.advance(claimed(store), State.FAILED, OWNER, 2.0, "a bug")
    schedule(store, key="k2")
    assert [(item.state, item.revision) for item in store.items()] == [(State.SCHEDULED, 1), (State.CANCELED, 1)]


def test_failing_commitment_is_answered_with_growing_patience_also_after_the_row_was_final(store: Store) -> None:
    reported(store, "risk-sr")
    (row,) = store.deliveries.due(3.0)
    waits = []
    for now in (10.0, 20.0, 30.0):
        store.deliveries.record(
            row.id, state=DeliveryState.SENT, final=1, sop_instance_uid="1.1", transaction_uid="1.7"
        )
        assert store.deliveries.commitment_report("1.7", [], {"1.1": 0x0112}, now)
        (again,) = store.deliveries.of_item(row.work_item_id)
        assert (again.state, again.final) == (DeliveryState.PENDING, 0)
        waits.append(again.run_after - now)
    assert waits == [30.0, 60.0, 120.0]


def test_a_destination_that_does_not_answer_is_left_alone_for_a_while(store: Store) -> None:
    reported(store, "risk-sr", "page-1")
    store.deliveries.hold("PACS", 100.0)
    assert store.deliveries.due(99.0) == []
    assert len(store.deliveries.due(100.0)) == 2


def test_a_revision_that_is_held_takes_the_place_of_a_message_only_once_it_has_left(store: Store) -> None:
    """It may be withdrawn instead of released: then nobody would have been told of either."""
    reported(store, "message")
    assert schedule(store, "k2", 3.0)
    store.advance(claimed(store, now=4.0), State.ANALYSED, OWNER, 4.0)
    second = claimed(store, State.ANALYSED, 4.0)
    store.advance(second, State.REPORTED, OWNER, 4.0, deliveries=[("message", "PACS")], held=True)
    assert store.deliveries.replaced_by("k", "PACS") is None
    (row,) = store.deliveries.of_item(second.id)
    store.deliveries.record(row.id, sop_instance_uid="MSH-10 OF IT")
    assert store.deliveries.replaced_by("k", "PACS") == 2
    store.deliveries.record(row.id, sop_instance_uid=None)
    store.hold(second.id, False, 5.0, "by a test")
    assert store.deliveries.replaced_by("k", "PACS") == 2


def test_a_message_that_was_sent_is_no_object_that_has_left(store: Store) -> None:
    """The PACS refused everything, the RIS was told: a retry has to ask anew whose study it is."""
    schedule(store)
    item = claimed(store)
    for document, destination in (("risk-sr", "PACS"), ("message", "hl7:RIS")):
        store.deliveries.add(item.id, document, destination)
    refused, message = store.deliveries.of_item(item.id)
    store.deliveries.record(message.id, sop_instance_uid="MSH-10 OF IT")
    assert not store.deliveries.has_left(item.id)
    store.deliveries.leaving({refused.id: ("1.2.3", "1.2.3.4")})
    assert store.deliveries.has_left(item.id)


def test_a_commitment_report_proves_some_objects_and_sends_the_others_again(store: Store) -> None:
    schedule(store)
    item = claimed(store)
    for document, uid in (("risk-sr", "1.1"), ("page-1", "1.3")):
        store.deliveries.add(item.id, document, "PACS")
        row = next(d for d in store.deliveries.of_item(item.id) if d.document == document)
        store.deliveries.record(row.id, state=DeliveryState.SENT, sop_instance_uid=uid, transaction_uid="1.77")
    assert store.deliveries.commitment_report("1.77", ["1.1"], {"1.3": 0x0112}, 9.0)
    assert not store.deliveries.commitment_report("1.78", ["1.1"], {}, 9.0)
    good, bad = store.deliveries.of_item(item.id)
    assert (good.state, good.final, good.proved_at) == (DeliveryState.COMMITTED, 1, 9.0)
    assert (bad.state, bad.final) == (DeliveryState.PENDING, 0)
    assert "0112" in bad.detail


def test_a_file_that_is_no_store_is_refused_in_words(path: Path) -> None:
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(ConfigError, match="not a store of Prognode"):
        Store.open(path)


def _damage(path: Path) -> None:
    """Overwrite everything but the first page, in which SQLite has its own header and the list of tables."""
    with sqlite3.connect(path) as connection:
        (page,) = connection.execute("PRAGMA page_size").fetchone()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    with path.open("r+b") as stream:
        stream.seek(page)
        stream.write(b"\xa5" * (path.stat().st_size - page))


def test_a_store_whose_file_is_damaged_says_so_and_what_to_do(path: Path) -> None:
    Store.open(path).close()
    store = Store.open(path)
    _damage(path)
    for act in (store.items, lambda: schedule(store)):
        with pytest.raises(StoreDamaged, match=r"the store is damaged \(.*stop the node.*prognode restore"):
            act()
    store.close()


def test_a_store_of_a_newer_version_is_refused_in_words(path: Path) -> None:
    Store.open(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(ConfigError, match="newer than this version"):
        Store.open(path)


def test_counts_by_state_are_those_of_the_rows(store: Store) -> None:
    for number in range(5):
        store.births.wait_for_contour(image(number), "NO_CONTOUR", 1.0)
    (item, *_) = store.items()
    store._db.execute("UPDATE work_item SET state = 'CANCELED' WHERE id = ?", [item.id])
    store._db.execute("DELETE FROM event")
    store._db.execute("DELETE FROM work_item WHERE id = (SELECT max(id) FROM work_item WHERE state = 'WAITING')")
    counted = {
        row["state"]: row["n"] for row in store._db.rows("SELECT state, count(*) AS n FROM work_item GROUP BY 1")
    }
    assert store.counts() == counted
