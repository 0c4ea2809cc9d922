"""Storage commitment on either association, and C-FIND read-back: what the peer can prove."""

import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import build_context, build_role
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from config.settings import Node, Peer, Receive, Settings
from dicom_node import deliver
from dicom_node.associate import association_with
from dicom_node.deliver import find, request_commitment, send
from dicom_node.demo_pacs import DemoPacs
from dicom_node.instance import CT
from dicom_node.requestor import Checkpoint
from dicom_node.store import Store
from dicom_node.workitem import DeliveryState, Retryable
from tests.network import call, one, receiving, settings_for, storescu
from tests.synthetic import ct_series, save

PACS = Peer("DEMOPACS", sends=False, receives_results=True)


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("objects")
    return [save(dataset, folder) for dataset in ct_series(3, seed=41)]


def reach(pacs: DemoPacs) -> Peer:
    return Peer(pacs.ae_title, pacs.host, pacs.port, sends=False, receives_results=True)


def uids(paths: list[Path]) -> list[tuple[str, str]]:
    return [(CT, path.stem) for path in paths]


class Heard:
    """Takes the place of Deliveries.commitment_report and remembers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, known: bool = True) -> None:
        self.calls: list[tuple[str, set[str], dict[str, int]]] = []

        def report(_: Any, transaction: str, committed: Any, failed: Any, now: float) -> bool:
            assert abs(now - time.time()) < 60
            self.calls.append((transaction, set(committed), dict(failed)))
            return known

        monkeypatch.setattr("dicom_node.deliveries.Deliveries.commitment_report", report)

    def wait(self) -> tuple[str, set[str], dict[str, int]]:
        end = time.monotonic() + 60
        while not self.calls and time.monotonic() < end:
            time.sleep(0.02)
        (call,) = self.calls
        return call


def test_a_report_on_the_same_association_is_the_answer(
    tmp_path: Path, objects: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver, "SAME_ASSOCIATION_SECONDS", 60.0)
    with DemoPacs(tmp_path / "pacs", commitment="same") as pacs:
        send(reach(pacs), [one(path) for path in objects[:2]], Settings())
        answer = request_commitment(reach(pacs), uids(objects), generate_uid(), Settings())
    assert answer.kind == "REPORTED"
    assert answer.committed == {path.stem for path in objects[:2]}
    assert answer.failed == {objects[2].stem: 0x0112}


def test_a_report_that_has_come_while_the_machine_stood_still_is_heard() -> None:
    turns: list[float] = []

    class Arrived(threading.Event):
        def wait(self, seconds: float | None = None) -> bool:
            turns.append(time.sleep(0.2) or 0.0)
            return len(turns) == 2

    association: Any = SimpleNamespace(is_established=True)
    deliver._wait(Arrived(), association, 0.1)
    assert len(turns) == 2


def test_a_report_on_an_association_of_the_peers_own_reaches_the_store(
    tmp_path: Path, objects: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = Heard(monkeypatch)
    transaction = generate_uid()
    with receiving(tmp_path, settings_for(PACS)) as (receiver, _), DemoPacs(tmp_path / "pacs") as pacs:
        pacs.report_to = ("127.0.0.1", receiver.port)
        send(reach(pacs), [one(path) for path in objects[:2]], Settings())
        answer = request_commitment(reach(pacs), uids(objects), transaction, Settings())
        assert answer.kind == "PENDING"
        stems = [path.stem for path in objects]
        assert heard.wait() == (transaction, set(stems[:2]), {stems[2]: 0x0112})


def test_the_report_of_our_delivery_row_proves_it(tmp_path: Path, objects: list[Path]) -> None:
    transaction = generate_uid()
    with receiving(tmp_path, settings_for(PACS)) as (receiver, spool), DemoPacs(tmp_path / "pacs") as pacs:
        store = Store.open(spool.store)
        store._db.execute(
            "INSERT INTO work_item (state, study_instance_uid, created_at, updated_at) VALUES ('REPORTED', '1.2', 0, 0)"
        )
        store.deliveries.add(1, "page-1", "DEMOPACS")
        (row,) = store.deliveries.of_item(1)
        store.deliveries.record(
            row.id, state=DeliveryState.SENT, sop_class_uid=CT, sop_instance_uid=objects[0].stem,
            transaction_uid=transaction,
        )  # fmt: skip
        pacs.report_to = ("127.0.0.1", receiver.port)
        send(reach(pacs), [one(objects[0])], Settings())
        request_commitment(reach(pacs), uids(objects[:1]), transaction, Settings())
        end = time.monotonic() + 60
        while store.deliveries.of_item(1)[0].state is not DeliveryState.COMMITTED and time.monotonic() < end:
            time.sleep(0.05)
        assert store.deliveries.of_item(1)[0].state is DeliveryState.COMMITTED
        store.close()


@pytest.mark.parametrize(
    "roles",
    [
        [build_role(StorageCommitmentPushModel, scp_role=True)],
        [build_role(StorageCommitmentPushModel, scu_role=True, scp_role=True)],
        [build_role(StorageCommitmentPushModel, scu_role=False, scp_role=True)],
        [],
    ],
    ids=["scp", "both", "scp-not-scu", "none-proposed"],
)
def test_a_report_is_heard_whatever_role_the_peer_proposes(
    tmp_path: Path, roles: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = Heard(monkeypatch)
    with receiving(tmp_path, settings_for(PACS)) as (receiver, _):
        assert _report(receiver.port, _committed("1.2.3", "1.2.4"), roles, 1) == 0x0000
        assert heard.wait() == ("1.2.3", {"1.2.4"}, {})


def _committed(transaction: str, *instances: str) -> Dataset:
    report = Dataset()
    report.TransactionUID = transaction
    report.ReferencedSOPSequence = []
    for uid in instances:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CT, uid
        report.ReferencedSOPSequence.append(item)
    return report


def _report(port: int, report: Dataset, roles: list[Any], event_type: int) -> int | None:
    made = call(port, [build_context(StorageCommitmentPushModel)], calling="DEMOPACS", roles=roles)
    assert made.is_established
    status, _ = made.send_n_event_report(
        report, event_type, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
    )
    made.release()
    return int(status.Status) if "Status" in status else None


def test_an_unknown_transaction_is_answered_with_success_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with receiving(tmp_path, settings_for(PACS)) as (receiver, _):
        assert _report(receiver.port, _committed("1.2.3", "1.2.4"), [], 1) == 0x0000
    assert "commitment.unknown from DEMOPACS" in caplog.text


def test_a_report_that_cannot_be_read_is_a_processing_failure(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with receiving(tmp_path, settings_for(PACS)) as (receiver, _):
        assert _report(receiver.port, _committed("MARKEDNAME"), [], 1) == 0x0110
    assert "commitment.unreadable TransactionUID" in caplog.text
    assert "MARKEDNAME" not in caplog.text


def test_a_peer_without_storage_commitment_says_so(tmp_path: Path, objects: list[Path]) -> None:
    with DemoPacs(tmp_path / "pacs", commitment="none") as pacs:
        assert request_commitment(reach(pacs), uids(objects), "1.2.3", Settings()).kind == "NOT_OFFERED"


def test_a_peer_that_never_reports_leaves_it_pending(tmp_path: Path, objects: list[Path]) -> None:
    with DemoPacs(tmp_path / "pacs", commitment="never") as pacs:
        started = time.monotonic()
        assert request_commitment(reach(pacs), uids(objects), "1.2.3", Settings()).kind == "PENDING"
        assert time.monotonic() - started < 60


class Fault(Checkpoint):
    """A checkpoint that ends the reactor."""

    def wait(self) -> None:
        raise RuntimeError("a fault")


@pytest.mark.timeout(240)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_association_whose_reactor_a_fault_has_ended_holds_up_nobody(tmp_path: Path) -> None:
    with DemoPacs(tmp_path / "pacs") as pacs:
        with association_with(reach(pacs), Settings(), []) as association:
            association._reactor_checkpoint = Fault()
            association.join(60)
            assert association.is_established
        association.dul.join(60)
        assert not association.dul.is_alive()


def test_commitment_of_a_peer_that_is_down_is_retried() -> None:
    with pytest.raises(Retryable):
        request_commitment(Peer("PACS", "127.0.0.1", 1), [(CT, "1.2.3")], "1.2.4", Settings())


# -- C-FIND ------------------------------------------------------------------------------------------------------


def facts(paths: list[Path]) -> tuple[str, dict[str, str]]:
    first = dcmread(paths[0], stop_before_pixels=True)
    return str(first.StudyInstanceUID), {path.stem: str(first.SeriesInstanceUID) for path in paths}


def test_what_is_there_is_seen_and_what_was_lost_is_not(tmp_path: Path, objects: list[Path]) -> None:
    study, wanted = facts(objects)
    with DemoPacs(tmp_path / "pacs") as pacs:
        send(reach(pacs), [one(path) for path in objects[:2]], Settings())
        pacs.drop = lambda sop_class_uid: True
        (lost,) = send(reach(pacs), [one(objects[2])], Settings())
        assert lost.state is DeliveryState.SENT  # a claim, not a proof
        assert find(reach(pacs), study, wanted, Settings()) == {path.stem for path in objects[:2]}
        assert find(reach(pacs), "1.2.3.4", wanted, Settings()) == frozenset()
        assert find(reach(pacs), study, {"1.2.3": "1.2.4", **wanted}, Settings()) == {p.stem for p in objects[:2]}


def test_a_peer_without_c_find_gives_none(tmp_path: Path, objects: list[Path]) -> None:
    with DemoPacs(tmp_path / "pacs", offers_find=False) as pacs:
        assert find(reach(pacs), *facts(objects), Settings()) is None


def test_a_peer_that_is_down_during_the_search_is_retried() -> None:
    with pytest.raises(Retryable):
        find(Peer("PACS", "127.0.0.1", 1), "1.2", {"1.2.3": "1.2.4"}, Settings())


def test_what_a_pacs_held_before_its_restart_is_seen(tmp_path: Path, objects: list[Path]) -> None:
    with DemoPacs(tmp_path / "pacs") as pacs:
        send(reach(pacs), [one(objects[0])], Settings())
    with DemoPacs(tmp_path / "pacs") as pacs:
        assert find(reach(pacs), *facts(objects), Settings()) == {objects[0].stem}


@pytest.fixture
def dcmqrscp(tmp_path: Path) -> Iterator[int]:
    """DCMTK's strict little PACS."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path / "archive"
    folder.mkdir()
    configuration = tmp_path / "dcmqrscp.cfg"
    configuration.write_text(
        f"NetworkTCPPort = {port}\nMaxPDUSize = 16384\nMaxAssociations = 8\nHostTable BEGIN\nHostTable END\n"
        f"VendorTable BEGIN\nVendorTable END\nAETable BEGIN\nARCHIVE {folder} RW (20, 1024mb) ANY\nAETable END\n"
    )
    server = subprocess.Popen(["dcmqrscp", "-c", str(configuration)])
    for _ in range(1000):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except ConnectionRefusedError:
            time.sleep(0.05)
    yield port
    server.terminate()
    server.wait()


def test_dcmtks_archive_is_read_back(dcmqrscp: int, objects: list[Path]) -> None:
    study, wanted = facts(objects)
    peer = Peer("ARCHIVE", "127.0.0.1", dcmqrscp, receives_results=True)
    settings = Settings(node=Node(ae_title="PROGNODE"), receive=Receive())
    sent = send(peer, [one(path) for path in objects[:2]], settings)
    assert {s.state for s in sent} == {DeliveryState.SENT}
    assert find(peer, study, wanted, settings) == {path.stem for path in objects[:2]}


def test_the_demo_pacs_takes_from_dcmtk_and_answers_its_findscu(tmp_path: Path, objects: list[Path]) -> None:
    study, _ = facts(objects)
    with DemoPacs(tmp_path / "pacs", ae_title="PROGNODE") as pacs:
        assert storescu(pacs.port, objects).returncode == 0
        assert sorted(pacs.received) == sorted(path.stem for path in objects)
        command = ["findscu", "-S", "-aec", "PROGNODE", "-k", "QueryRetrieveLevel=IMAGE", "-k", "SOPInstanceUID"]
        command += ["-k", f"StudyInstanceUID={study}", "127.0.0.1", str(pacs.port)]
        said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        assert all(path.stem in said.stdout + said.stderr for path in objects)
