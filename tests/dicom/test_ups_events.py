"""Subscriptions to the UPS worklist, and what subscribers in other processes are told over real sockets."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from config.settings import Deliver, Node, Peer, Receive, Settings, Ups
from dicom_node import items
from dicom_node.identity import Identity
from dicom_node.receive import Receiver
from dicom_node.ups_events import UpsTeller
from dicom_node.ups_worklist import UpsWorklist
from dicom_node.workitem import State
from tests import ups_peer
from tests.road import Road
from tests.ups_peer import FILTERED, WORKLIST, Listener, listening

LIFE = ["SCHEDULED UNAVAILABLE", "SCHEDULED READY", "IN PROGRESS READY", "COMPLETED READY"]
QUICK = Deliver(first_delay_seconds=5.0, delay_factor=2.0, longest_delay_seconds=3600.0, connect_timeout_seconds=1.0)


@dataclass
class Watched:
    """A node with its port, and a watcher in another process; `move` is what a stage does to a work item."""

    road: Road
    port: int
    watcher: Listener

    def add(self, state: State = State.WAITING, roi: str | None = None, patient_id: str = "P1") -> int:
        number = len(self.road.store.items()) + 1
        study = f"1.2.826.0.1.{number}"
        self.road.store.patients.received(study, Identity(patient_id=patient_id), self.road.clock())
        return items.insert(
            self.road.store._db, state, self.road.clock(), study_instance_uid=study, roi_sop_instance_uid=roi
        )

    def move(self, number: int, state: State, detail: str = "") -> None:
        items.move(self.road.store._db, number, state, self.road.clock(), detail)

    def note(self, number: int, name: str) -> None:
        self.road.store.note(number, name, self.road.clock())

    def tell(self) -> None:
        teller = UpsTeller(self.road.store, self.road.spool, self.road.settings, self.road.clock)
        while teller.tell_due():
            pass

    def uid(self, number: int) -> str:
        worklist = UpsWorklist(self.road.store, self.road.spool, self.road.settings)
        while worklist.follow():
            pass
        rows = self.road.store._db.rows("SELECT sop_instance_uid AS uid FROM ups WHERE work_item_id = ?", [number])
        return str(rows[0]["uid"])

    def queue(self) -> int:
        return sum(one.waiting for one in self.road.store.subscriptions.subscribers())


@contextmanager
def watched(folder: Path, watcher: Listener, *more: Peer) -> Iterator[Watched]:
    settings = Settings(
        node=Node(ae_title="PROGNODE", port=0),
        peers=(Peer("WATCHER", port=watcher.port, sends=False), *more),
        receive=Receive(reserve_disk_bytes=0, acse_timeout_seconds=20.0, dimse_timeout_seconds=20.0),
        deliver=QUICK,
        ups=Ups(enabled=True),
    )
    road = Road(folder, settings)
    receiver = Receiver(road.settings, road.spool, road.clock)
    receiver.start()
    try:
        yield Watched(road, receiver.port, watcher)
    finally:
        receiver.stop(grace_seconds=2.0)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Watched]:
    with listening(tmp_path) as watcher, watched(tmp_path, watcher) as made:
        yield made


def through_its_life(node: Watched, number: int) -> None:
    for name in ("scheduled claimed", State.ANALYSED, "analysed claimed", State.REPORTED, State.COMPLETED):
        if isinstance(name, State):
            node.move(number, name)
        else:
            node.note(number, name)


def test_a_subscriber_of_the_worklist_hears_of_every_step_from_its_birth_to_its_end_in_order(node: Watched) -> None:
    assert ups_peer.subscribe(node.port) == 0x0000
    number = node.add(roi="1.2.3")
    node.move(number, State.SCHEDULED)
    through_its_life(node, number)
    node.tell()
    uid = node.uid(number)
    assert node.watcher.states(uid) == LIFE
    assert [one["class"] for one in node.watcher.heard()] == ["1.2.840.10008.5.1.4.34.6.1"] * len(node.watcher.heard())
    assert len(node.watcher.of(uid, 5)) == 1  # assigned, to this node
    progress = [
        one["ProcedureStepProgressInformationSequence"]["00741002"]["Value"][0]["00741004"]["Value"][0]
        for one in node.watcher.of(uid, 3)
    ]
    assert progress == sorted(progress)
    assert progress[-1] == 100
    assert node.queue() == 0


def test_a_step_that_is_canceled_is_told_with_its_reason_and_code_after_in_progress(node: Watched) -> None:
    ups_peer.subscribe(node.port)
    number = node.add()
    node.move(number, State.CANCELED, "a contour came")
    node.tell()
    told = node.watcher.of(node.uid(number))
    assert [one["ProcedureStepState"] for one in told] == ["SCHEDULED", "IN PROGRESS", "CANCELED"]
    assert told[-1]["ReasonForCancellation"] == "a contour came"
    code = told[-1]["ProcedureStepDiscontinuationReasonCodeSequence"]["0074100E"]["Value"][0]
    assert code["00080100"]["Value"] == ["110528"]


def test_a_subscriber_of_one_step_hears_its_state_at_once_and_nothing_of_others(node: Watched) -> None:
    one, other = node.add(roi="1.2.3"), node.add(roi="1.2.4")
    uid = node.uid(one)
    assert ups_peer.subscribe(node.port, uid) == 0x0000
    node.move(other, State.SCHEDULED)
    node.move(one, State.SCHEDULED)
    node.tell()
    assert node.watcher.states(uid) == ["SCHEDULED UNAVAILABLE", "SCHEDULED READY"]
    assert {report["uid"] for report in node.watcher.heard()} == {uid}


def test_with_a_lock_on_the_worklist_the_state_of_every_step_is_told_without_one_it_is_not(node: Watched) -> None:
    numbers = [node.add(), node.add(State.SCHEDULED, roi="1.2.3")]
    through_its_life(node, numbers[1])
    uids = [node.uid(number) for number in numbers]
    assert ups_peer.subscribe(node.port) == 0x0000
    node.tell()
    assert node.watcher.heard() == []
    for _ in range(3):
        assert ups_peer.subscribe(node.port, lock=True) == 0x0000
    assert ups_peer.subscribe(node.port, uids[0], lock=True) == 0x0000
    assert node.queue() == 2, "whoever subscribes over and over makes no queue longer"
    node.tell()
    assert [node.watcher.states(uid) for uid in uids] == [["SCHEDULED INCOMPLETE"], ["COMPLETED READY"]]


def test_a_deletion_lock_lasts_beyond_the_end_of_a_step_until_the_subscriber_gives_it_up(node: Watched) -> None:
    number = node.add(State.SCHEDULED, roi="1.2.3")
    uid = node.uid(number)
    locks = node.road.store.subscriptions
    assert not locks.is_locked(number)
    assert ups_peer.subscribe(node.port, uid, lock=True) == 0x0000
    through_its_life(node, number)
    node.tell()
    assert locks.is_locked(number)
    assert ups_peer.ask(node.port, "get", uid=uid)["data_sets"][0].ProcedureStepState == "COMPLETED"
    assert ups_peer.subscribe(node.port, uid, lock=False) == 0x0000
    assert not locks.is_locked(number)
    assert ups_peer.subscribe(node.port, uid, lock=True) == 0x0000
    assert ups_peer.unsubscribe(node.port, uid) == 0x0000
    assert not locks.is_locked(number)


def test_a_filtered_subscription_is_for_steps_that_match_those_there_are_and_those_to_come(node: Watched) -> None:
    mine, other = node.add(patient_id="P1"), node.add(patient_id="P2")
    node.uid(mine)
    keys = Dataset()
    keys.PatientID = "P1"
    assert ups_peer.subscribe(node.port, FILTERED, keys=keys) == 0x0000
    later = node.add(patient_id="P1")
    node.add(patient_id="P2")
    node.move(mine, State.SCHEDULED)
    node.move(other, State.SCHEDULED)
    node.tell()
    assert {report["uid"] for report in node.watcher.heard()} == {node.uid(mine), node.uid(later)}
    assert node.watcher.states(node.uid(mine)) == ["SCHEDULED READY"]


def test_a_filter_that_nothing_could_match_is_refused_also_while_there_is_no_step_to_try_it_on(node: Watched) -> None:
    keys = Dataset()
    keys.add_new("ScheduledProcedureStepModificationDateTime", "DT", "20269999")
    assert ups_peer.subscribe(node.port, FILTERED, keys=keys) == 0x0115
    node.add()
    node.tell()
    assert node.watcher.heard() == []


def test_a_filter_that_cannot_be_tried_stops_no_other_subscriber(node: Watched) -> None:
    subscriptions = node.road.store.subscriptions
    subscriptions.subscribe_worklist("OTHER", keys='{"00404010":{}}', matching=[], lock=False, now=1.0)
    assert ups_peer.subscribe(node.port) == 0x0000
    number = node.add()
    node.tell()
    assert node.watcher.states(node.uid(number)) == ["SCHEDULED INCOMPLETE"]


def test_suspending_ends_what_is_new_and_keeps_what_there_is(node: Watched) -> None:
    ups_peer.subscribe(node.port)
    old = node.add()
    node.tell()
    assert ups_peer.unsubscribe(node.port, WORKLIST, kind=5) == 0x0000
    new = node.add()
    node.move(old, State.CANCELED)
    node.move(new, State.CANCELED)
    node.tell()
    assert node.watcher.states(node.uid(old))[-1] == "CANCELED INCOMPLETE"
    assert node.watcher.states(node.uid(new)) == []


def test_unsubscribing_from_the_worklist_ends_single_subscriptions_too_and_drops_what_was_not_told(
    node: Watched,
) -> None:
    number = node.add()
    ups_peer.subscribe(node.port, node.uid(number))
    ups_peer.subscribe(node.port)
    node.add()
    assert ups_peer.unsubscribe(node.port) == 0x0000
    node.move(number, State.CANCELED)
    node.tell()
    assert node.watcher.heard() == []
    assert node.road.store.subscriptions.subscribers() == []


def test_unsubscribing_from_one_step_leaves_the_others_of_the_worklist(node: Watched) -> None:
    ups_peer.subscribe(node.port)
    one, other = node.add(), node.add()
    node.tell()
    assert ups_peer.unsubscribe(node.port, node.uid(one)) == 0x0000
    node.move(one, State.CANCELED)
    node.move(other, State.CANCELED)
    node.tell()
    assert len(node.watcher.states(node.uid(one))) == 1
    assert len(node.watcher.states(node.uid(other))) == 3


@pytest.mark.parametrize(
    ("kind", "uid", "receiving", "lock", "status"),
    [
        (3, WORKLIST, "NOBODY", "TRUE", 0xC308),  # Receiving AE is unknown
        (3, "1.2.3.4", "WATCHER", "TRUE", 0xC307),
        (4, "1.2.3.4", "WATCHER", None, 0xC307),
        (5, "1.2.3.4", "WATCHER", None, 0xC314),  # not appropriate for one step
        (3, WORKLIST, "WATCHER", "MAYBE", 0x0115),
        (3, WORKLIST, "", "TRUE", 0x0121),
    ],
)
def test_a_subscription_that_cannot_be_made_is_refused_with_its_status(
    node: Watched, kind: int, uid: str, receiving: str, lock: str | None, status: int
) -> None:
    information = Dataset()
    information.ReceivingAE = receiving
    if lock is not None:
        information.DeletionLock = lock
    assert ups_peer.act(node.port, kind, uid, information) == status
    assert node.road.store.subscriptions.subscribers() == []


def test_one_peer_may_subscribe_another(tmp_path: Path) -> None:
    with listening(tmp_path) as watcher, watched(tmp_path, watcher, Peer("RIS", sends=False)) as node:
        assert ups_peer.subscribe(node.port, calling="RIS", receiving="WATCHER") == 0x0000
        assert [one.ae_title for one in node.road.store.subscriptions.subscribers()] == ["WATCHER"]


# -- a request to cancel -------------------------------------------------------------------------------------------


def cancel(node: Watched, number: int) -> int:
    said = Dataset()
    said.ReasonForCancellation = "wrong patient"
    said.ContactDisplayName = "Dr. Who"
    return ups_peer.act(node.port, 2, node.uid(number), said, context="push")


def test_a_request_to_cancel_what_has_not_begun_is_honoured_told_and_audited(node: Watched) -> None:
    ups_peer.subscribe(node.port)
    number = node.add(State.SCHEDULED, roi="1.2.3")
    assert cancel(node, number) == 0x0000
    node.tell()
    item = node.road.store.item(number)
    assert item is not None
    assert item.state is State.CANCELED
    uid = node.uid(number)
    (asked,) = node.watcher.of(uid, 2)
    assert asked["RequestingAE"] == "WATCHER"
    assert (asked["ReasonForCancellation"], asked["ContactDisplayName"]) == ("wrong patient", "Dr. Who")
    assert [one["ProcedureStepState"] for one in node.watcher.of(uid)] == ["SCHEDULED", "IN PROGRESS", "CANCELED"]
    (entry,) = [one for one in node.road.store.audit.of_item(number) if one.action == "workitem.cancel"]
    assert (entry.actor, entry.origin, entry.outcome, entry.address) == ("WATCHER", "dicom", "done", "127.0.0.1")
    assert cancel(node, number) == 0xB304


@pytest.mark.parametrize(
    ("to", "status"), [("scheduled claimed", 0xC313), (State.ANALYSED, 0xC313), (State.COMPLETED, 0xC311)]
)
def test_a_request_to_cancel_what_has_begun_is_told_and_refused(node: Watched, to: str, status: int) -> None:
    ups_peer.subscribe(node.port)
    number = node.add(State.SCHEDULED, roi="1.2.3")
    node.note(number, "scheduled claimed")
    for state in (State.ANALYSED, State.REPORTED, State.COMPLETED)[: {"ANALYSED": 1, "COMPLETED": 3}.get(str(to), 0)]:
        node.move(number, state)
    assert cancel(node, number) == status
    node.tell()
    assert len(node.watcher.of(node.uid(number), 2)) == (1 if status == 0xC313 else 0)
    (entry,) = [one for one in node.road.store.audit.of_item(number) if one.action == "workitem.cancel"]
    assert entry.outcome == "refused"
    item = node.road.store.item(number)
    assert item is not None
    assert item.state is not State.CANCELED


def test_a_work_item_that_a_worker_has_just_leased_is_not_canceled(node: Watched) -> None:
    number = node.add(State.SCHEDULED, roi="1.2.3")
    node.uid(number)
    assert node.road.store.claim(State.SCHEDULED, "worker", 60.0, time.time()) is not None
    assert cancel(node, number) == 0xC313


# -- outages ---------------------------------------------------------------------------------------------------------


def test_reports_wait_for_a_subscriber_that_is_down_with_growing_delays_and_come_in_order_exactly_once(
    tmp_path: Path,
) -> None:
    with listening(tmp_path) as watcher, watched(tmp_path, watcher) as node:
        ups_peer.subscribe(node.port)
        number = node.add(roi="1.2.3")
        node.tell()
        port = watcher.port
        watcher.stop()

        node.move(number, State.SCHEDULED)
        delays = []
        for _ in range(4):
            before = node.road.clock.now
            node.tell()
            (subscriber,) = node.road.store.subscriptions.subscribers()
            delays.append(subscriber.run_after - before)
            node.tell()  # not due: nothing is tried
            assert node.road.store.subscriptions.attempts("WATCHER") == len(delays)
            node.road.clock.now = subscriber.run_after
        assert delays == [5.0, 10.0, 20.0, 40.0]
        assert "refused the connection" in subscriber.detail
        through_its_life(node, number)
        with listening(tmp_path, port=port):
            node.tell()
            uid = node.uid(number)
            assert watcher.states(uid) == LIFE
            assert node.queue() == 0


def test_what_waits_survives_a_restart_of_the_node(tmp_path: Path) -> None:
    with listening(tmp_path) as watcher, watched(tmp_path, watcher) as node:
        ups_peer.subscribe(node.port)
        port = watcher.port
        watcher.stop()
        number = node.add(roi="1.2.3")
        node.tell()
        assert node.queue() == 2
    with listening(tmp_path, port=port) as again, watched(tmp_path, again) as node:
        node.tell()
        assert again.heard() == []  # the delay survives, too
        node.road.clock.now += 10
        node.tell()
        assert again.states(node.uid(number)) == ["SCHEDULED UNAVAILABLE"]


@pytest.mark.parametrize(("status", "kept"), [(0x0110, True), (0x0213, True), (0x0113, False), (0x0107, False)])
def test_not_now_is_told_again_and_a_refusal_for_good_is_an_answer(tmp_path: Path, status: int, kept: bool) -> None:
    with listening(tmp_path, status=status) as watcher, watched(tmp_path, watcher) as node:
        ups_peer.subscribe(node.port)
        node.add()
        node.tell()
        assert bool(node.queue()) is kept


def test_a_subscriber_that_is_down_keeps_no_other_from_its_reports(tmp_path: Path) -> None:
    with listening(tmp_path) as watcher, listening(tmp_path, ae_title="OTHER") as other:
        down = Peer("DOWN", port=1, sends=False)
        with watched(tmp_path, watcher, Peer("OTHER", port=other.port, sends=False), down) as node:
            for title in ("DOWN", "OTHER", "WATCHER"):
                assert ups_peer.subscribe(node.port, receiving=title) == 0x0000
            number = node.add()
            node.tell()
            uid = node.uid(number)
            assert watcher.states(uid) == other.states(uid) == ["SCHEDULED INCOMPLETE"]
            assert node.queue() == 2


def test_a_report_that_cannot_be_made_keeps_no_other_subscriber_from_its_reports(tmp_path: Path) -> None:
    with listening(tmp_path) as watcher, listening(tmp_path, ae_title="BEFORE") as before:
        first = Peer("BEFORE", port=before.port, sends=False)
        with watched(tmp_path, watcher, first) as node:
            for title in ("BEFORE", "WATCHER"):  # the one with the broken report has its turn first
                assert ups_peer.subscribe(node.port, receiving=title) == 0x0000
            node.road.store.subscriptions.tell(["BEFORE"], WORKLIST, 3, {"said": "nothing that fits"}, 1.0)
            number = node.add()
            node.tell()
            assert node.watcher.states(node.uid(number)) == ["SCHEDULED INCOMPLETE"]
            stuck = next(one for one in node.road.store.subscriptions.subscribers() if one.ae_title == "BEFORE")
            assert (stuck.attempts, "cannot be told" in stuck.detail) == (1, True)


def test_a_subscriber_that_is_no_peer_any_more_loses_nothing_when_it_is_one_again(tmp_path: Path) -> None:
    with listening(tmp_path) as watcher, watched(tmp_path, watcher) as node:
        ups_peer.subscribe(node.port)
        with_it = node.road.settings
        node.road.settings = replace(with_it, peers=())
        number = node.add()
        node.tell()
        assert node.queue() == 2
        node.road.settings = with_it
        node.road.clock.now += 3600
        node.tell()
        assert watcher.states(node.uid(number)) == ["SCHEDULED INCOMPLETE"]


def test_events_of_a_time_when_ups_was_off_are_told_when_it_is_on_again(node: Watched) -> None:
    ups_peer.subscribe(node.port)
    number = node.add(roi="1.2.3")
    node.tell()
    node.move(number, State.SCHEDULED)  # nobody follows
    through_its_life(node, number)
    node.tell()
    assert node.watcher.states(node.uid(number))[-1] == "COMPLETED READY"


def test_a_rolled_back_change_is_not_told(node: Watched) -> None:
    ups_peer.subscribe(node.port)
    number = node.add()
    node.tell()

    def change_and_break() -> None:
        with node.road.store.transaction():
            node.move(number, State.CANCELED)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        change_and_break()
    node.tell()
    assert node.watcher.states(node.uid(number)) == ["SCHEDULED INCOMPLETE"]


def test_start_and_stop_of_the_node_are_told_to_every_subscriber_once(node: Watched) -> None:
    ups_peer.subscribe(node.port)
    teller = UpsTeller(node.road.store, node.road.spool, node.road.settings, node.road.clock)
    teller.announce("RESTARTED")
    teller.announce("RESTARTED")  # twice before anybody could be told
    node.tell()
    teller.say_going_down()
    told = node.watcher.of(WORKLIST, 4)
    assert [one["SCPStatus"] for one in told] == ["RESTARTED", "GOING DOWN"]
    assert told[0]["SubscriptionListStatus"] == told[0]["UnifiedProcedureStepListStatus"] == "WARM START"
