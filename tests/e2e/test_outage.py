"""Destinations that are down, lose, refuse or are busy: each object arrives and is proved, or its row says why not."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from dicom_node.deliveries import Delivery
from dicom_node.demo_pacs import DemoPacs
from dicom_node.workitem import WorkItem
from tests.e2e.node import (
    PROGNODE,
    SCORED_OBJECTS,
    SETTINGS,
    Node,
    assert_same_content,
    assert_valid,
    completed,
    deliveries_of,
    destination,
    ended,
    events_of,
    filed,
    items_of,
    kind_of,
    kinds_in,
    log_of,
    send,
    serving,
    store_of,
    wait_for,
    write_settings,
)
from tests.synthetic import ct_series, rtstruct, save, save_all

SR34, SR33, SR22 = (f"1.2.840.10008.5.1.4.1.1.88.{number}" for number in (34, 33, 22))
SC, SEG = "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.66.4"
OPTIONAL = "presentation-state"  # OLD and OLDEST do not store its SOP class


@dataclass
class Hospital:
    """One node, one study, and a destination for each way of going wrong."""

    node: Node
    pacs: dict[str, DemoPacs]
    item: WorkItem
    refused_connections: int
    told: str  # what `prognode status --study` said while DOWN was down

    def rows(self, ae_title: str) -> dict[str, Delivery]:
        return {row.document: row for row in deliveries_of(self.node.folder, self.item, ae_title)}


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    folder = tmp_path_factory.mktemp("outage")
    busy, lost = iter([0xA700] * 2), iter([True] * 4)
    pacs = {
        "DOWN": DemoPacs(folder / "down", "DOWN"),
        "NO_COMMITMENT": DemoPacs(folder / "none", "NO_COMMITMENT", commitment="none"),
        "NO_REPORT": DemoPacs(folder / "never", "NO_REPORT", commitment="never"),
        "LOSES": DemoPacs(folder / "loses", "LOSES", drop=lambda _: next(lost, False)),
        "LOSES_QUIETLY": DemoPacs(folder / "quiet", "LOSES_QUIETLY", commitment="none"),
        "OLD": DemoPacs(folder / "old", "OLD", sop_classes=[SR33, SR22, SC, SEG]),
        "OLDEST": DemoPacs(folder / "oldest", "OLDEST", sop_classes=[SR22, SC, SEG], commitment="same"),
        "BUSY": DemoPacs(folder / "busy", "BUSY", status=lambda _: next(busy, 0x0000)),
        "BARE": DemoPacs(folder / "bare", "BARE", commitment="none", offers_find=False),
    }
    dropped: set[str] = set()

    def drop_once(sop_class: str) -> bool:
        new = sop_class not in dropped
        dropped.add(sop_class)
        return new

    pacs["LOSES_QUIETLY"].drop = drop_once
    with ExitStack() as running:
        for one in pacs.values():
            running.enter_context(one)
        pacs["DOWN"].stop()  # its port is known, and nobody listens there
        peers = [destination(name, one.port) for name, one in pacs.items()]
        write_settings(folder / "node", *peers, deliver={"commitment_wait_seconds": 60.0})
        node = running.enter_context(serving(folder / "node"))
        for one in pacs.values():
            one.report_to = ("127.0.0.1", node.port)
        ct = ct_series(16, 40, 40, seed=41)
        send(node.port, [*save_all(ct, folder / "study"), save(rtstruct(ct), folder / "study")])

        def refusals() -> int:
            return len(re.findall(r"delivery\.postponed .* to DOWN by .* refused the connection", log_of(node.folder)))

        wait_for(lambda: refusals() >= 5, "five tries, a line for all six objects", folder=node.folder)
        assert items_of(node.folder)[0].state == "REPORTED"
        count = refusals()
        told = _prognode("status", "--study", str(ct[0].StudyInstanceUID), folder=node.folder)
        wait_for(lambda: no_more_patience_with("NO_REPORT", node.folder), "it is asked", folder=node.folder)
        pacs["DOWN"].start()
        yield Hospital(node, pacs, completed(node.folder), count, told)


def no_more_patience_with(ae_title: str, folder: Path) -> bool:
    """As if the time for its report were over; False while it has not been asked for all that it got."""
    with store_of(folder) as store:
        rows = store.deliveries.of_item(store.items()[0].id)
        asked = [row.transaction_uid for row in rows if row.destination == ae_title]
        store._db.execute("UPDATE delivery SET run_after = 0 WHERE destination = ? AND state = 'SENT'", [ae_title])
    return len(asked) == len(SCORED_OBJECTS) and all(asked)


def test_a_pacs_that_was_down_gets_each_object_once_when_it_is_up_again(hospital: Hospital) -> None:
    pacs = hospital.pacs["DOWN"]
    assert kinds_in(pacs) == SCORED_OBJECTS
    assert len(pacs.received) == len(SCORED_OBJECTS)
    rows = hospital.rows("DOWN").values()
    assert {str(row.state) for row in rows} == {"COMMITTED"}
    assert log_of(hospital.node.folder).count(f"delivery.postponed {len(SCORED_OBJECTS)} objects to DOWN") >= 3
    assert "library.complained pynetdicom.transport" not in log_of(hospital.node.folder)
    assert_same_content(pacs, hospital.node.folder, hospital.item)


def test_status_says_once_what_keeps_all_objects_of_a_study_from_a_pacs(hospital: Hospital) -> None:
    assert len(re.findall("6 objects to DOWN: PENDING .*refused the connection", hospital.told)) == 1
    assert hospital.told.count("refused the connection") == 1


def test_the_delay_between_two_tries_grows_up_to_its_limit(hospital: Hospital) -> None:
    waits = re.findall(r"delivery\.postponed 6 objects to DOWN by", log_of(hospital.node.folder))
    assert len(waits) >= 3
    times = re.findall(r"(\d\d):(\d\d):(\d\d),(\d{3}) WARNING .* 6 objects to DOWN by", log_of(hospital.node.folder))
    seconds = [int(h) * 3600 + int(m) * 60 + int(s) + int(ms) / 1000 for h, m, s, ms in times]
    gaps = [(b - a) % 86400 for a, b in pairwise(seconds)]
    assert gaps[0] >= 0.2
    assert all(gap >= least for gap, least in zip(gaps, (0.2, 0.3, 0.45, 0.67), strict=False))


@pytest.mark.parametrize("name", ["NO_COMMITMENT", "NO_REPORT"])
def test_without_storage_commitment_an_object_is_proved_by_c_find(hospital: Hospital, name: str) -> None:
    assert kinds_in(hospital.pacs[name]) == SCORED_OBJECTS
    assert len(hospital.pacs[name].received) == len(SCORED_OBJECTS)
    assert {str(row.state) for row in hospital.rows(name).values()} == {"SEEN"}


@pytest.mark.parametrize("name", ["LOSES", "LOSES_QUIETLY"])
def test_what_a_pacs_accepted_and_lost_is_sent_again(hospital: Hospital, name: str) -> None:
    """With storage commitment the report says so; without it, C-FIND does not find the object."""
    pacs = hospital.pacs[name]
    assert kinds_in(pacs) == SCORED_OBJECTS
    assert len(pacs.received) > len(set(pacs.received)) == len(SCORED_OBJECTS)
    proof = "COMMITTED" if name == "LOSES" else "SEEN"
    assert {str(row.state) for row in hospital.rows(name).values()} == {proof}
    assert_same_content(pacs, hospital.node.folder, hospital.item)


@pytest.mark.parametrize(("name", "sr"), [("OLD", SR33), ("OLDEST", SR22)])
def test_a_pacs_that_refuses_comprehensive_3d_sr_gets_the_next_sr_class(hospital: Hospital, name: str, sr: str) -> None:
    pacs = hospital.pacs[name]
    assert kinds_in(pacs) == {name: count for name, count in SCORED_OBJECTS.items() if name != OPTIONAL}
    classes = {kind_of(dataset): str(dataset.SOPClassUID) for dataset, _ in filed(pacs)}
    assert classes == {"risk-sr": sr, "radiomics-sr": sr, "page-1": SC, "page-2": SC, "segmentation": SEG}
    assert_same_content(pacs, hospital.node.folder, hospital.item)
    assert_valid([path for _, path in filed(pacs)])


@pytest.mark.parametrize("name", ["OLD", "OLDEST"])
def test_an_optional_object_that_a_pacs_does_not_store_ends_there_and_fails_nothing(
    hospital: Hospital, name: str
) -> None:
    rows = hospital.rows(name)
    left_out = rows.pop(OPTIONAL)
    assert (str(left_out.state), left_out.final) == ("NOT_ACCEPTED", 1)
    assert left_out.detail == f"not accepted by {name}, which does not store this SOP class"
    assert {str(row.state) for row in rows.values()} == {"COMMITTED"}
    assert hospital.item.state == "COMPLETED"
    assert f"delivery.not_accepted {OPTIONAL} by {name}" in log_of(hospital.node.folder)


def test_the_same_report_in_another_sr_class_has_another_uid(hospital: Hospital) -> None:
    uids = [
        {str(dataset.SOPInstanceUID) for dataset, _ in filed(hospital.pacs[name]) if dataset.Modality == "SR"}
        for name in ("DOWN", "OLD", "OLDEST")
    ]
    assert len(uids[0] | uids[1] | uids[2]) == 6


def test_a_busy_pacs_is_asked_again_and_gets_each_object_once(hospital: Hospital) -> None:
    pacs = hospital.pacs["BUSY"]
    assert kinds_in(pacs) == SCORED_OBJECTS
    assert len(pacs.received) == len(SCORED_OBJECTS) + 2, "only what was refused with A700 came twice"
    assert {str(row.state) for row in hospital.rows("BUSY").values()} == {"COMMITTED"}
    assert "status A700H: the peer is out of resources" in log_of(hospital.node.folder)


def test_a_pacs_that_can_prove_nothing_ends_as_sent_and_the_row_says_so(hospital: Hospital) -> None:
    rows = hospital.rows("BARE").values()
    assert {(str(row.state), row.detail) for row in rows} == {("SENT", "BARE offers nothing that proves it")}
    assert kinds_in(hospital.pacs["BARE"]) == SCORED_OBJECTS


def test_trouble_with_one_destination_does_not_hold_up_another(hospital: Hospital) -> None:
    proved = [row.proved_at or 0 for row in hospital.rows("NO_COMMITMENT").values()]
    assert max(proved) < max(row.proved_at or 0 for row in hospital.rows("DOWN").values())
    assert events_of(hospital.node.folder, hospital.item).count("completed") == 1


def test_a_refusal_for_good_fails_with_a_hint_and_a_retry_sends_only_what_was_refused(tmp_path: Path) -> None:
    with DemoPacs(tmp_path / "pacs", "STRICT", status=lambda sop: 0xA900 if sop == SR34 else 0) as pacs:
        write_settings(tmp_path / "node", destination("STRICT", pacs.port))
        with serving(tmp_path / "node") as node:
            pacs.report_to = ("127.0.0.1", node.port)
            ct = ct_series(16, 40, 40, seed=42)
            send(node.port, [*save_all(ct, tmp_path / "study"), save(rtstruct(ct), tmp_path / "study")])
            (item,) = ended(node.folder)
            assert item.state == "FAILED"
            others = {name: count for name, count in SCORED_OBJECTS.items() if not name.endswith("-sr")}
            assert kinds_in(pacs) == others, "the others went through"
            shown = _prognode("status", "--study", ct[0].StudyInstanceUID, folder=node.folder)
            assert "to do: Administrator: correct the destination" in shown
            assert "risk-sr at STRICT: status A900H" in shown or "A900H" in shown
            pacs.status = lambda _: 0x0000
            before = len(pacs.received)
            assert "1 work item will run again" in _prognode("retry", folder=node.folder)
            wait_for(lambda: items_of(node.folder)[0].state == "COMPLETED", "COMPLETED", folder=node.folder)
            assert kinds_in(pacs) == SCORED_OBJECTS
            assert len(pacs.received) == before + 2, "what was long proved was not sent again"
            assert_same_content(pacs, node.folder, items_of(node.folder)[0])
            assert "Nothing has failed." in _prognode("retry", folder=node.folder)


def _prognode(*arguments: str, folder: Path) -> str:
    command = [str(PROGNODE), *arguments, "--config", str(folder / SETTINGS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
