"""Results on their way to a RIS: after the objects, once, and never for what was replaced; the RIS is a process of its
own that is refused, deaf, killed and up again. Stages run in this process, jobs do not."""

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from config.settings import Deliver, Hl7Peer, Peer
from dicom_node import mllp, operations
from dicom_node.deliveries import Delivery
from dicom_node.demo_pacs import DemoPacs
from dicom_node.workitem import DeliveryState, State, WorkItem
from tests import synthetic
from tests.hl7.ris import Ris, ris
from tests.hl7_inputs import observations, segments
from tests.road import Road, road

CT = synthetic.ct_series(16, 40, 40, seed=1)
QUICK = Deliver(first_delay_seconds=1.0, longest_delay_seconds=4.0, connect_timeout_seconds=2.0)


@dataclass
class Site:
    """A node with a RIS, and with a PACS where there is one."""

    node: Road
    ris: Ris

    def row(self, item: WorkItem | None = None) -> Delivery:
        rows = self.node.store.deliveries.of_item((item or self.node.items[0]).id)
        (found,) = [row for row in rows if row.destination == "hl7:RIS"]
        return found

    def later(self, seconds: float = 5.0) -> None:
        """Time passes; the next try is due."""
        self.node.later(seconds)

    def is_silent(self) -> None:
        """The RIS takes a message and says nothing; until `answers`, no test waits long for it."""
        self.ris.answers("silent")
        self._wait_for_it(0.5)

    def answers(self, mode: str) -> None:
        self.ris.answers(mode)
        self._wait_for_it(30.0)

    def _wait_for_it(self, seconds: float) -> None:
        settings = self.node.settings
        peers = tuple(replace(peer, timeout_seconds=seconds) for peer in settings.hl7_peers)
        self.node.restart(settings=replace(settings, hl7_peers=peers))

    def score(self, radius: float = 10.0) -> WorkItem:
        self.node.take(*CT, synthetic.rtstruct(CT, radius=radius))
        self.node.later()
        return self.node.items[0]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with ris(tmp_path / "ris") as running:
        peer = Hl7Peer("RIS", port=running.port)
        yield Site(road(tmp_path, hl7_peers=(peer,), deliver=QUICK), running)


def test_a_ris_that_is_down_deaf_or_killed_gets_each_message_once_when_it_is_up(site: Site) -> None:
    site.ris.kill()  # refused connections
    item = site.score()
    assert item.state is State.REPORTED
    assert "refused the connection" in site.row().detail
    site.later()
    assert site.row().attempts == 2
    assert site.row().sop_instance_uid is None, "nothing has left"

    site.ris.start()
    site.is_silent()
    site.later()
    assert "no acknowledgement within 0.5 s" in site.row().detail
    known = site.row().sop_instance_uid
    assert known

    site.answers("close")  # the process ends in mid-conversation
    site.later()
    site.ris.kill()
    site.later()
    assert site.row().state is DeliveryState.PENDING

    site.ris.start()
    site.answers("AE")
    site.later()
    assert "RIS answered AE" in site.row().detail

    site.node.restart()
    site.answers("AA")
    site.later()
    assert (site.row().state, site.node.items[0].state) == (DeliveryState.ACKNOWLEDGED, State.COMPLETED)
    site.later(3600.0)
    assert set(site.ris.control_ids) == {known}, "one message, however often it had to be sent"
    assert len(set(site.ris.messages)) == 1
    assert len(site.ris.messages) == 4


def test_the_history_and_the_audit_trail_have_it(site: Site) -> None:
    item = site.score()
    assert site.row().state is DeliveryState.ACKNOWLEDGED
    (entry,) = [one for one in site.node.store.audit.of_item(item.id) if one.action == "message.sent"]
    assert (entry.outcome, entry.detail, entry.facts["peer"]) == ("done", "AA by RIS", "hl7:RIS")
    assert site.row().sent_at
    assert site.row().sop_instance_uid == site.ris.control_ids[0]


def test_what_the_ris_rejects_fails_with_a_hint_and_a_retry_sends_the_same_message(site: Site) -> None:
    site.answers("AR")
    item = site.score()
    assert item.state is State.FAILED
    assert "correct the interface, then: prognode retry" in site.row().detail
    site.later(3600.0)
    assert len(site.ris.messages) == 1, "a rejected message is not sent again by itself"
    site.answers("AA")
    assert site.node.store.retry(item.id, site.node.clock())
    site.node.work()
    assert site.node.items[0].state is State.COMPLETED
    assert len(set(site.ris.control_ids)) == 1


def test_a_revision_is_a_correction_of_what_the_ris_has(site: Site) -> None:
    first, second = site.score(), site.score(radius=8.0)
    assert second.revision == first.revision + 1
    said = observations(site.ris.messages[1])
    assert said["REPLACES"][5] == site.ris.control_ids[0]
    assert said["OS_12M_EVENT"][11] == "P"
    assert said["OS_12M_EVENT"][4] == observations(site.ris.messages[0])["OS_12M_EVENT"][4]


def test_a_revision_without_a_score_takes_the_numbers_back(site: Site) -> None:
    site.score()
    known = {image.SOPInstanceUID for image in CT}
    (extra,) = [image for image in synthetic.localizer(CT) if image.SOPInstanceUID not in known]
    site.node.take(extra)
    site.node.later(60.0)
    said = observations(site.ris.messages[-1])
    assert said["REASON"][5].startswith("LOCALIZER_IN_SE") or "ocalizer" in said["REASON"][5]
    assert (said["OS_12M_EVENT"][5], said["OS_12M_EVENT"][11]) == ("", "X")


def test_what_was_replaced_before_it_was_sent_is_never_sent(site: Site) -> None:
    site.ris.kill()
    first = site.score()
    second = site.score(radius=8.0)
    assert [item.state for item in site.node.items] == [State.REPORTED, State.REPORTED]
    site.ris.start()
    site.later(10.0)
    site.later(10.0)
    assert site.row(first).state is DeliveryState.CANCELED
    assert f"revision {second.revision} has taken its place" in site.row(first).detail
    assert [item.state for item in site.node.items] == [State.COMPLETED, State.COMPLETED]
    (message,) = site.ris.messages
    assert observations(message)["REVISION"][5] == "2"
    assert "REPLACES" not in observations(message), "the RIS was never told of the first"


def test_what_may_have_arrived_is_corrected_and_not_forgotten(site: Site) -> None:
    site.is_silent()
    first = site.score()
    left = site.row(first).sop_instance_uid
    site.ris.kill()
    site.ris.start()
    site.answers("AA")
    site.score(radius=8.0)
    site.later(10.0)
    assert observations(site.ris.messages[-1])["REPLACES"][5] == left
    assert site.row(first).state is not DeliveryState.PENDING


def send_and_die(site: Site) -> None:
    """In a process of its own: the message is sent and acknowledged, and the process ends before it can note that."""
    script = f"""
import os
from pathlib import Path
from config.settings import Hl7Peer, Settings
from dicom_node import hl7_out
from dicom_node.messages import Messenger
from dicom_node.spool import Spool
from dicom_node.store import Store

def exchange(*arguments, real=hl7_out.exchange):
    real(*arguments)
    os._exit(9)

hl7_out.exchange = exchange
spool = Spool(Path({str(site.node.spool.root)!r}))
store = Store.open(spool.store)
settings = Settings(hl7_peers=(Hl7Peer("RIS", port={site.ris.port}),))
item = store.item({site.row().work_item_id})
(row,) = [row for row in store.deliveries.of_item(item.id) if row.destination == "hl7:RIS"]
Messenger(store, spool, settings, lambda: {site.node.clock()}).step(item, row)
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=120).returncode == 9


def test_a_message_whose_node_was_killed_before_it_noted_the_acknowledgement_is_named_by_the_revision(
    site: Site,
) -> None:
    site.ris.kill()
    first = site.score()
    site.ris.start()
    send_and_die(site)
    (known,) = site.ris.control_ids
    assert site.row(first).state is DeliveryState.PENDING
    site.node.restart()
    site.node.take(*CT, synthetic.rtstruct(CT, radius=8.0))
    site.node.clock.now += 60.0
    worker = site.node.worker
    while any([worker.step_plan(), worker.step_analyse(), worker.step_report()]):
        pass  # the second takes the first one's place before anything is sent again
    site.node.work()
    assert site.row(first).state is DeliveryState.CANCELED
    assert len(site.ris.messages) == 2
    assert observations(site.ris.messages[-1])["REPLACES"][5] == known


@pytest.mark.parametrize("action", ["hold", "cancel"])
def test_what_is_held_or_withdrawn_while_the_node_connects_does_not_leave(
    site: Site, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    store, operator = site.node.store, operations.Actor("it", "cli")

    def connected(*arguments: Any, real: Callable[..., socket.socket] = mllp._connected) -> socket.socket:
        monkeypatch.undo()
        operations.act(store, action, site.node.items[0].id, operator, site.node.clock())
        return real(*arguments)

    monkeypatch.setattr(mllp, "_connected", connected)
    ct = synthetic.DEFECTS["without rescale"](
        synthetic.ct_series(16, 40, 40, seed=1)
    )  # not scored: no job is waited for
    site.node.take(*ct, synthetic.rtstruct(ct))
    site.later()
    site.later()
    (row,) = store.deliveries.of_item(1)
    assert (site.ris.messages, row.sop_instance_uid) == ([], None)
    assert row.state is (DeliveryState.PENDING if action == "hold" else DeliveryState.CANCELED)
    if action == "hold":
        operations.act(store, "release", 1, operator, site.node.clock())
        site.later()
        assert (len(site.ris.messages), site.row().state) == (1, DeliveryState.ACKNOWLEDGED)


def test_a_dead_ris_costs_one_time_out_for_all_that_waits_for_it(site: Site) -> None:
    site.is_silent()
    others = [synthetic.ct_series(16, 40, 40, seed=seed) for seed in (2, 3)]
    for ct in others:
        site.node.take(*ct, synthetic.rtstruct(ct))
    worker = site.node.worker
    while any([worker.step_plan(), worker.step_analyse(), worker.step_report()]):
        pass
    site.node.work()
    assert len(site.ris.messages) == 1
    rows = [site.row(item) for item in site.node.items]
    assert sorted(row.attempts for row in rows) == [0, 1]
    assert all(row.run_after > site.node.clock() for row in rows)


def test_the_ris_hears_of_a_result_when_the_pacs_has_it(tmp_path: Path) -> None:
    with ris(tmp_path / "ris") as running, DemoPacs(tmp_path / "pacs", "PACS", commitment="none") as pacs:
        peer = Hl7Peer("RIS", port=running.port)
        destination = Peer("PACS", port=pacs.port, sends=False, receives_results=True, proof="find")
        node = road(tmp_path, hl7_peers=(peer,), peers=(destination,), deliver=QUICK)
        site = Site(node, running)
        pacs.stop()
        item = site.score()
        assert site.row().detail == "waits for the objects to be in the PACS"
        assert site.row().attempts == 0, "waiting is no failure"
        for _ in range(3):
            site.later()
        assert running.messages == []
        pacs.start()
        for _ in range(4):
            site.later()
        assert node.items[0].state is State.COMPLETED
        assert len(running.messages) == 1
        rows = node.store.deliveries.of_item(item.id)
        assert {str(row.state) for row in rows} == {"SEEN", "ACKNOWLEDGED"}


def test_the_ris_hears_nothing_of_a_result_that_no_pacs_has_taken(tmp_path: Path) -> None:
    with ris(tmp_path / "ris") as running, DemoPacs(tmp_path / "pacs", "PACS", commitment="none") as pacs:
        peer = Hl7Peer("RIS", port=running.port)
        destination = Peer("PACS", port=pacs.port, sends=False, receives_results=True, proof="find")
        site = Site(road(tmp_path, hl7_peers=(peer,), peers=(destination,), deliver=QUICK), running)
        pacs.status = lambda sop_class_uid: 0xA900  # for good
        item = site.score()
        site.later()
        assert site.node.items[0].state is State.FAILED
        assert (site.row().state, site.row().attempts) == (DeliveryState.FAILED, 1)
        assert "no PACS has taken the objects" in site.row().detail
        assert running.messages == []
        pacs.status = lambda sop_class_uid: 0x0000
        assert site.node.store.retry(item.id, site.node.clock())
        for _ in range(3):
            site.later()
        assert site.node.items[0].state is State.COMPLETED
        assert len(running.messages) == 1


def test_the_message_is_about_the_patient_as_he_is_now(site: Site) -> None:
    site.answers("AE")
    item = site.score()
    known = site.node.store.patients.of_study(item.study_instance_uid)
    assert known is not None
    site.node.store.patients.change(
        item.study_instance_uid, replace(known, patient_id="SURVIVING"), "HL7 ADT^A40", site.node.clock()
    )
    site.answers("AA")
    site.later()
    assert segments(site.ris.messages[-1], "PID")[0][3].startswith("SURVIVING^")
    first, last = site.ris.control_ids
    assert first != last, "another message, so another number"
