"""Objects leave as the bytes they are, in the best form that the peer takes, and every answer has its consequence."""

import hashlib
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian, RLELossless
from pynetdicom.acse import ACSE

from config.settings import Deliver, Node, Peer, Receive, Settings
from dicom_node.deliver import Document, Variant, decide, delay, echo, send
from dicom_node.demo_pacs import DemoPacs
from dicom_node.instance import CT, SEG
from dicom_node.workitem import DeliveryState, Retryable
from tests.network import data_set_bytes, one
from tests.synthetic import ct_series, save, seg, with_meta

COMPREHENSIVE_3D, COMPREHENSIVE, ENHANCED = (f"1.2.840.10008.5.1.4.1.1.88.{n}" for n in (34, 33, 22))
FAILED, PENDING, SENT = DeliveryState.FAILED, DeliveryState.PENDING, DeliveryState.SENT
SETTINGS = Settings(
    node=Node(ae_title="PROGNODE"),
    receive=Receive(acse_timeout_seconds=20.0, dimse_timeout_seconds=20.0, network_timeout_seconds=20.0),
    deliver=Deliver(connect_timeout_seconds=2.0),
)


def sr_document(folder: Path, name: str = "risk-sr") -> Document:
    """The same small SR in three SOP classes, as `compose` leaves them."""
    variants = []
    for sop_class_uid in (COMPREHENSIVE_3D, COMPREHENSIVE, ENHANCED):
        dataset = Dataset()
        dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class_uid, f"1.2.3.{sop_class_uid[-2:]}.{len(name)}"
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3.1", f"1.2.3.2.{len(name)}"
        dataset.Modality, dataset.PatientID, dataset.SpecificCharacterSet = "SR", "P", "ISO_IR 192"
        dataset.PatientName = "Müller^Jörg"
        dataset.ValueType, dataset.ContinuityOfContent = "CONTAINER", "SEPARATE"
        with_meta(dataset)
        variants.append(Variant(sop_class_uid, dataset.SOPInstanceUID, save(dataset, folder / name)))
    return Document(name, tuple(variants))


@pytest.fixture(scope="module")
def segmentation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(seg(ct_series(8, seed=31)), tmp_path_factory.mktemp("seg"))


def peer_of(pacs: DemoPacs) -> Peer:
    return Peer(pacs.ae_title, pacs.host, pacs.port, sends=False, receives_results=True)


def test_the_first_variant_goes_when_the_peer_takes_it_and_its_bytes_are_unchanged(
    tmp_path: Path, segmentation: Path
) -> None:
    document = sr_document(tmp_path)
    with DemoPacs(tmp_path / "pacs") as pacs:
        sent = send(peer_of(pacs), [document, one(segmentation)], SETTINGS)
        assert [(s.name, s.sop_class_uid, s.status, s.state) for s in sent] == [
            ("risk-sr", COMPREHENSIVE_3D, 0, SENT),
            ("segmentation", SEG, 0, SENT),
        ]
        for filed, source in zip(pacs.objects(), (document.variants[0].path, segmentation), strict=True):
            assert data_set_bytes(filed.path) == data_set_bytes(source)


@pytest.mark.parametrize(("accepted", "expected"), [([COMPREHENSIVE], COMPREHENSIVE), ([ENHANCED], ENHANCED)])
def test_an_sr_goes_as_the_first_class_that_the_peer_accepts(
    tmp_path: Path, accepted: list[str], expected: str
) -> None:
    document = sr_document(tmp_path)
    with DemoPacs(tmp_path / "pacs", sop_classes=accepted) as pacs:
        (sent,) = send(peer_of(pacs), [document], SETTINGS)
        assert (sent.sop_class_uid, sent.state) == (expected, SENT)
        (filed,) = pacs.objects()
        assert filed.sop_instance_uid == sent.sop_instance_uid
        assert data_set_bytes(filed.path) == data_set_bytes(document.variants[2 if expected == ENHANCED else 1].path)


def test_a_document_that_the_peer_takes_in_no_form_fails_with_words_and_the_others_go(
    tmp_path: Path, segmentation: Path
) -> None:
    with DemoPacs(tmp_path / "pacs", sop_classes=[SEG]) as pacs:
        refused, sent = send(peer_of(pacs), [sr_document(tmp_path), one(segmentation)], SETTINGS)
        assert (refused.state, refused.status, sent.state) == (FAILED, None, SENT)
        assert "no context for Comprehensive 3D SR Storage" in refused.message


def test_a_peer_that_takes_nothing_at_all_is_no_failure_of_the_association(tmp_path: Path) -> None:
    with DemoPacs(tmp_path / "pacs", sop_classes=[CT]) as pacs:
        (refused,) = send(peer_of(pacs), [sr_document(tmp_path)], SETTINGS)
        assert refused.state is FAILED


def test_a_peer_that_takes_implicit_vr_alone_gets_the_same_content_in_it(tmp_path: Path, segmentation: Path) -> None:
    document = sr_document(tmp_path)
    with DemoPacs(tmp_path / "pacs", transfer_syntaxes=[ImplicitVRLittleEndian]) as pacs:
        sent = send(peer_of(pacs), [document, one(segmentation)], SETTINGS)
        assert [s.state for s in sent] == [SENT, SENT]
        for filed, source in zip(pacs.objects(), (document.variants[0].path, segmentation), strict=True):
            got, original = dcmread(filed.path), dcmread(source)
            assert got.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
            # element by element: implicit VR cannot say whether pixels are OB or OW
            assert [(e.tag, e.value) for e in got.iterall()] == [(e.tag, e.value) for e in original.iterall()]


def test_a_compressed_object_is_not_re_encoded_for_a_peer_that_cannot_take_it(tmp_path: Path) -> None:
    path = save(ct_series(1, seed=32)[0], tmp_path / "out", RLELossless)
    with DemoPacs(tmp_path / "pacs") as pacs:
        assert [s.state for s in send(peer_of(pacs), [one(path)], SETTINGS)] == [FAILED]
    with DemoPacs(tmp_path / "pacs", transfer_syntaxes=[RLELossless]) as pacs:
        assert [s.state for s in send(peer_of(pacs), [one(path)], SETTINGS)] == [SENT]
        assert data_set_bytes(pacs.objects()[0].path) == data_set_bytes(path)


def test_dcmtk_as_the_peer_keeps_the_same_bytes(tmp_path: Path, segmentation: Path) -> None:
    folder = tmp_path / "dcmtk"
    folder.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(["storescp", "-B", "-aet", "DCMTK", "-od", str(folder), str(port)])
    try:
        peer = Peer("DCMTK", "127.0.0.1", port, receives_results=True)
        for _ in range(50):
            if echo(peer, SETTINGS).ok:
                break
        (sent,) = send(peer, [one(segmentation)], SETTINGS)
        assert sent.state is SENT
        (kept,) = folder.iterdir()
        digests = {hashlib.sha256(data_set_bytes(path)).hexdigest() for path in (kept, segmentation)}
        assert len(digests) == 1
    finally:
        server.terminate()
        server.wait()


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (0x0000, SENT), (0xB000, SENT), (0xB006, SENT), (0xB007, SENT), (0x0111, SENT),
        (0xA700, PENDING), (0xA7FF, PENDING), (0x0110, PENDING), (0x0210, PENDING), (0xFE00, PENDING),
        (0xA900, FAILED), (0xC000, FAILED), (0xC211, FAILED), (0x0122, FAILED), (0x0124, FAILED), (0x0117, FAILED),
    ],
)  # fmt: skip
def test_each_status_decides(tmp_path: Path, segmentation: Path, status: int, state: DeliveryState) -> None:
    assert decide(status).state is state
    with DemoPacs(tmp_path / "pacs", status=lambda sop_class_uid: status) as pacs:
        (sent,) = send(peer_of(pacs), [one(segmentation)], SETTINGS)
    assert (sent.state, sent.status) == (state, status)
    assert (sent.message == "") == (status == 0x0000)


@given(st.integers(0, 0xFFFF))
def test_every_status_has_a_decision_in_words(status: int) -> None:
    decision = decide(status)
    assert decision.state in (FAILED, PENDING, SENT)
    assert f"{status:04X}H" in decision.message or status == 0


@given(st.integers(1, 10_000_000))
def test_the_delay_grows_up_to_the_longest(attempt: int) -> None:
    settings = Deliver(first_delay_seconds=3.0, delay_factor=1.7, longest_delay_seconds=500.0)
    assert 3.0 <= delay(attempt, settings) <= delay(attempt + 1, settings) <= 500.0


def test_a_delay_that_does_not_grow_is_possible() -> None:
    assert delay(10_000_000, Deliver(first_delay_seconds=7.0, delay_factor=1.0)) == 7.0


# -- no association: each reason in words ------------------------------------------------------------------------


def test_a_port_where_nothing_listens_is_retried_and_says_so() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    result = echo(Peer("PACS", "127.0.0.1", port), SETTINGS)
    assert not result.ok
    assert f"PACS at 127.0.0.1:{port} refused the connection" in result.message
    assert "[[peers]]" in result.hint


def test_a_wrong_ae_title_of_the_peer_is_said(tmp_path: Path) -> None:
    with DemoPacs(tmp_path / "pacs") as pacs:
        pacs._server.ae.require_called_aet = True
        result = echo(Peer("WRONG", pacs.host, pacs.port), SETTINGS)
        assert "says that WRONG is not its AE title" in result.message
        pacs._server.ae.require_calling_aet = ["SOMEBODY"]
        with pytest.raises(Retryable, match="does not know our AE title PROGNODE") as caught:
            send(peer_of(pacs), [sr_document(tmp_path)], SETTINGS)
        assert "accept AE title PROGNODE" in caught.value.hint


def test_a_rejection_that_comes_before_we_look_is_said_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine pynetdicom's other thread finds the connection closed, and says that there was none."""
    send_request = ACSE.send_request

    def slowly(self: ACSE) -> None:
        send_request(self)
        end = time.monotonic() + 60
        while self.assoc.dul.is_alive() and time.monotonic() < end:  # it ends with the rejection
            time.sleep(0.01)

    monkeypatch.setattr(ACSE, "send_request", slowly)
    with DemoPacs(tmp_path / "pacs") as pacs:
        pacs._server.ae.require_called_aet = True
        assert "says that WRONG is not its AE title" in echo(Peer("WRONG", pacs.host, pacs.port), SETTINGS).message


def test_a_host_name_that_does_not_resolve_is_said() -> None:
    result = echo(Peer("PACS", "no-such-host.invalid", 104), SETTINGS)
    assert "host name of PACS, 'no-such-host.invalid', cannot be resolved" in result.message


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that takes connections and says nothing."""
    listener = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()
    kept: list[socket.socket] = []

    def accept() -> None:
        listener.settimeout(0.1)
        while not stop.is_set():
            try:
                kept.append(listener.accept()[0])
            except TimeoutError:
                continue

    thread = threading.Thread(target=accept)
    thread.start()
    yield int(listener.getsockname()[1])
    stop.set()
    thread.join()
    for each in (listener, *kept):
        each.close()


def test_a_port_that_never_answers_is_left_after_the_time_out(silent: int, tmp_path: Path) -> None:
    settings = Settings(receive=Receive(acse_timeout_seconds=0.5))
    with pytest.raises(Retryable, match="did not answer the association request"):
        send(Peer("PACS", "127.0.0.1", silent), [sr_document(tmp_path)], settings)


def test_a_peer_that_aborts_in_the_middle_leaves_the_rest_to_be_tried_again(tmp_path: Path, segmentation: Path) -> None:
    with DemoPacs(tmp_path / "pacs") as pacs:

        def dying(sop_class_uid: str) -> int:
            if sop_class_uid == SEG:
                for association in pacs._server.active_associations:
                    association.abort()
            return 0x0000

        pacs.status = dying
        documents = [sr_document(tmp_path), one(segmentation), sr_document(tmp_path, "radiomics-sr")]
        sent = send(peer_of(pacs), documents, SETTINGS)
        assert [(s.status, s.state) for s in sent] == [(0, SENT), (None, PENDING)]  # the third has not left
        assert "no answer" in sent[1].message


def test_an_echo_that_is_answered_says_so(tmp_path: Path) -> None:
    with DemoPacs(tmp_path / "pacs") as pacs:
        result = echo(peer_of(pacs), SETTINGS)
        assert (result.ok, result.hint) == (True, "")
        assert "answers C-ECHO" in result.message


def test_no_patient_data_reaches_the_log_when_sending(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("DEBUG")
    document = sr_document(tmp_path)
    for variant in document.variants:
        dataset = dcmread(variant.path)
        dataset.PatientName, dataset.PatientID, dataset.AccessionNumber = "MARKEDNAME", "MARKEDID", "MARKEDACC"
        dataset.save_as(variant.path)
    for syntaxes in ([ImplicitVRLittleEndian], None):
        options = {"transfer_syntaxes": syntaxes} if syntaxes else {"status": lambda sop_class_uid: 0xC000}
        with DemoPacs(tmp_path / "pacs", **options) as pacs:
            send(peer_of(pacs), [document], SETTINGS)
    assert "object.sent risk-sr to DEMOPACS" in caplog.text
    assert "object.failed risk-sr" in caplog.text
    heard = caplog.text + "".join(capfd.readouterr())
    assert "MARKED" not in heard
