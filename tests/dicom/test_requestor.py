"""Who takes an answer, when the reactor of our own association is slow: the one who asked."""

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pynetdicom import AE, build_context, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance, Verification

from config.settings import Peer, Receive, Settings
from dicom_node.associate import association_with
from dicom_node.commitment import request_dataset
from dicom_node.demo_pacs import DemoPacs
from dicom_node.instance import CT
from dicom_node.requestor import Checkpoint

SLOW_SECONDS = 0.4


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[DemoPacs]:
    with DemoPacs(tmp_path / "pacs", commitment="same") as pacs:
        yield pacs


def reach(pacs: DemoPacs) -> Peer:
    return Peer(pacs.ae_title, pacs.host, pacs.port, sends=False, receives_results=True)


def on_a_loaded_machine(association: Association, seconds: float = SLOW_SECONDS) -> None:
    """The reactor has passed the checkpoint, but looks for messages a moment later; the asker, later still."""
    passes, there, send = association._reactor_checkpoint.wait, threading.Event(), association.dimse.send_msg

    def wait() -> None:
        passes()
        there.set()
        time.sleep(seconds)

    def send_msg(*arguments: Any) -> None:
        send(*arguments)
        time.sleep(2 * seconds)

    association._reactor_checkpoint.wait, association.dimse.send_msg = wait, send_msg
    assert there.wait(60)


def test_a_slow_reactor_takes_no_answer_away_from_a_slow_asker(pacs: DemoPacs) -> None:
    with association_with(reach(pacs), Settings(), []) as association:
        association.dimse_timeout = 60.0
        on_a_loaded_machine(association)
        for _ in range(3):
            assert association.send_c_echo().Status == 0x0000
            time.sleep(0.01)  # it goes on
    assert association.is_released


def test_pynetdicoms_own_reactor_takes_it_so_that_ours_is_still_needed(pacs: DemoPacs) -> None:
    lost = False
    for trial in range(6):  # a machine that is really loaded may be slow in another order
        entity = AE("PROGNODE")
        association = entity.associate(pacs.host, pacs.port, [build_context(Verification)], ae_title=pacs.ae_title)
        association.dimse_timeout = 1.0
        on_a_loaded_machine(association, SLOW_SECONDS * 2**trial)
        lost = lost or "Status" not in association.send_c_echo()
        if lost:
            break
    assert lost


def test_a_release_waits_until_a_report_has_been_answered(pacs: DemoPacs) -> None:
    begun, said = threading.Event(), []

    def on_report(_: evt.Event) -> tuple[int, None]:
        begun.set()
        time.sleep(SLOW_SECONDS)
        return 0x0000, None

    def note(event: evt.Event) -> None:
        said.append(type(getattr(event, "message", None) or event.primitive).__name__)

    handlers: list[tuple[Any, ...]] = [
        (evt.EVT_N_EVENT_REPORT, on_report), (evt.EVT_DIMSE_SENT, note), (evt.EVT_ACSE_SENT, note),
    ]  # fmt: skip
    contexts = [build_context(StorageCommitmentPushModel)]
    with association_with(reach(pacs), Settings(), contexts, handlers) as association:
        question = request_dataset("1.2.3", [(CT, "1.2.4")])
        association.send_n_action(question, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance)
        assert begun.wait(60)
    assert said == ["A_ASSOCIATE", "N_ACTION_RQ", "N_EVENT_REPORT_RSP", "A_RELEASE"]
    assert association.is_released


def test_who_asks_when_the_connection_has_just_ended_is_not_kept_waiting(pacs: DemoPacs) -> None:
    patient = Settings(receive=Receive(dimse_timeout_seconds=180.0))
    with association_with(reach(pacs), patient, []) as association:
        association.dul.socket.close()
        association.join(60)
        assert not association.is_established
        association.is_established = True  # as it was when send_c_echo looked
        began = time.monotonic()
        assert "Status" not in association.send_c_echo()
        assert time.monotonic() - began < patient.receive.dimse_timeout_seconds / 3
        association.is_established = False


@pytest.mark.timeout(240)
def test_a_reactor_that_stands_stays_even_where_it_was_let_go_a_moment_before() -> None:
    """Open and closed again faster than it wakes: it has gone on, or it stands; never "stands" and goes on."""
    checkpoint, passed, ending = Checkpoint(), [0], threading.Event()

    def reactor() -> None:
        while not ending.is_set():
            checkpoint.wait()
            passed[0] += 1

    thread = threading.Thread(target=reactor)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        thread.start()
        for _ in range(3000):
            checkpoint.set()
            checkpoint.clear()
            while not checkpoint.stands:
                time.sleep(0)
            before = passed[0]
            for _ in range(5):
                time.sleep(0)
            assert passed[0] == before
    finally:
        ending.set()
        checkpoint.set()
        thread.join()
        sys.setswitchinterval(interval)
