"""Aborts, kills, idle and hostile connections, and objects bigger than memory: nothing acknowledged is ever lost."""

import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom import dcmread

from config.settings import Peer
from dicom_node.instance import CT, ENHANCED_CT
from dicom_node.spool import Spool
from tests import wire
from tests.network import (
    association,
    data_set_bytes,
    files,
    receiving,
    rows,
    settings_for,
    store_bytes,
    store_file,
    storescu,
)
from tests.paths import ROOT
from tests.synthetic import ct_series, enhanced_ct, save

CHILD = """
import sys, time
from pathlib import Path
from dicom_node.receive import Receiver
from dicom_node.spool import Spool
from tests.network import settings_for
receiver = Receiver(settings_for(), Spool(Path(sys.argv[1])))
receiver.start()
print(receiver.port, flush=True)
time.sleep(600)
"""


@contextmanager
def child(folder: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A receiver in a process of its own; killed at the end."""
    process = subprocess.Popen([sys.executable, "-c", CHILD, str(folder)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def resident(pid: int, field: str) -> int:
    """VmRSS or VmHWM (the peak) in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]


def until(condition: object, seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():  # type: ignore[operator]
            return True
        time.sleep(0.02)
    return False


def test_an_association_aborted_in_mid_object_leaves_no_instance_and_no_file(tmp_path: Path) -> None:
    path = save(enhanced_ct(ct_series(40, seed=21)), tmp_path / "out")
    data = data_set_bytes(path)
    with receiving(tmp_path) as (receiver, spool):
        with association(receiver.port, [ENHANCED_CT], max_pdu=4096) as made:
            raw = made.dul.socket.socket
            _start_storing(made, "1.2.3", data[: len(data) // 2])
            assert until(lambda: list(spool.incoming.iterdir()))
            raw.shutdown(socket.SHUT_RDWR)
            assert until(lambda: not list(spool.incoming.iterdir()))
        assert (files(spool), rows(spool)) == ([], [])
        assert storescu(receiver.port, [path]).returncode == 0
        assert len(rows(spool)) == 1


def test_a_sender_that_falls_silent_in_mid_object_is_cut_off_and_its_file_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Path] = []
    new_incoming = Spool.new_incoming
    monkeypatch.setattr(Spool, "new_incoming", lambda spool: begun.append(new_incoming(spool)) or begun[-1])
    with receiving(tmp_path, settings_for(network_timeout_seconds=0.7)) as (receiver, spool):
        for _ in range(5):
            with association(receiver.port, [ENHANCED_CT], max_pdu=4096) as made:
                _start_storing(made, "1.2.3", b"x" * 200_000)
                assert until(lambda: made.is_aborted)
            if begun:  # else we were so slow that it was cut off before the object
                break
        assert begun
        assert until(lambda: not list(spool.incoming.iterdir()))


def _start_storing(made: object, sop_instance_uid: str, part: bytes) -> None:
    """The command set and the first part of a data set, with no last fragment."""
    from pydicom.uid import UID
    from pynetdicom.dimse_messages import C_STORE_RQ
    from pynetdicom.dimse_primitives import C_STORE
    from pynetdicom.pdu_primitives import P_DATA

    request = C_STORE()
    request.MessageID, request.Priority = 1, 0
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = UID(ENHANCED_CT), UID(sop_instance_uid)
    from io import BytesIO

    request.DataSet = BytesIO(part)
    message = C_STORE_RQ()
    message.primitive_to_message(request)
    context_id = made.accepted_contexts[0].context_id  # type: ignore[attr-defined]
    pieces: list[P_DATA] = list(message.encode_msg(context_id, 4096))
    for piece in pieces[:-1]:
        made.dul.send_pdu(piece)  # type: ignore[attr-defined]


def test_half_written_files_of_a_killed_run_are_swept_at_start(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.create()
    (spool.incoming / "0123").write_bytes(b"half")
    with receiving(tmp_path) as (_, again):
        assert list(again.incoming.iterdir()) == []


def test_what_was_acknowledged_survives_sigkill(tmp_path: Path) -> None:
    paths = [save(dataset, tmp_path / "out") for dataset in ct_series(60, 64, 64, seed=22)]
    uid_of = {str(path): str(dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in paths}
    with child(tmp_path / "spool") as (process, port):
        command = ["storescu", "-v", "-R", "-aet", "MODALITY", "-aec", "PROGNODE", "127.0.0.1", str(port)]
        sender = subprocess.Popen([*command, *uid_of], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert until(lambda: len(list((tmp_path / "spool").glob("instances/*/*.dcm"))) > 12)
        os.kill(process.pid, signal.SIGKILL)
        said = sender.communicate(timeout=120)[0]
    sent = re.findall(r"Sending file: (\S+)", said)
    acknowledged = {uid_of[path] for path in sent[: said.count("Received Store Response (Success)")]}
    assert len(acknowledged) > 10
    with receiving(tmp_path) as (receiver, spool):
        stored = {instance.sop_instance_uid: instance for instance in rows(spool)}
        assert acknowledged <= set(stored)
        for instance in stored.values():
            kept = spool.instance_path(instance.sop_instance_uid, instance.digest)
            assert hashlib.sha256(data_set_bytes(kept)).hexdigest() == instance.digest
        assert list(spool.incoming.iterdir()) == []
        assert storescu(receiver.port, paths).returncode == 0
        assert len(rows(spool)) == len(files(spool)) == 60


@pytest.mark.parametrize(
    "begun", [b"\x01\x00\x00\x00", b"\x01\x00\xff\xff\xff\xff"], ids=["half a head", "4 GB claimed"]
)
def test_peers_that_stop_in_the_middle_of_a_pdu_do_not_hold_the_associations(tmp_path: Path, begun: bytes) -> None:
    settings = settings_for(
        Peer("MODALITY"), maximum_associations=2, acse_timeout_seconds=1.0, dimse_timeout_seconds=1.0
    )
    path = save(ct_series(1, seed=25)[0], tmp_path / "out")
    with receiving(tmp_path, settings) as (receiver, spool):
        silent = [socket.create_connection(("127.0.0.1", receiver.port)) for _ in range(2)]
        for each in silent:
            each.sendall(begun)
        deadline = time.monotonic() + 60
        while storescu(receiver.port, [path]).returncode != 0:
            assert time.monotonic() < deadline, "the associations are still held"
        assert len(rows(spool)) == 1
        for each in silent:
            each.close()


@pytest.mark.parametrize(
    "noise", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00" * 40, b"\x01\x00\xff\xff\xff\xff" + b"\0" * 200, b"\0"]
)
def test_noise_on_the_port_does_not_stop_the_next_sender(tmp_path: Path, noise: bytes) -> None:
    path = save(ct_series(1, seed=25)[0], tmp_path / "out")
    with receiving(tmp_path) as (receiver, spool):
        with socket.create_connection(("127.0.0.1", receiver.port)) as hostile:
            hostile.sendall(noise)
            assert storescu(receiver.port, [path]).returncode == 0
        assert len(rows(spool)) == 1


def test_a_message_that_cannot_be_understood_aborts_its_association_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from pynetdicom.pdu_primitives import P_DATA

    path = save(ct_series(1, seed=26)[0], tmp_path / "out")
    with receiving(tmp_path) as (receiver, spool), association(receiver.port, [CT]) as other:
        with association(receiver.port, [CT]) as made:
            piece = P_DATA()
            piece.presentation_data_value_list = [[made.accepted_contexts[0].context_id, b"\x03MARKEDNAME" * 9]]
            made.dul.send_pdu(piece)
            assert until(lambda: made.is_aborted)
        assert store_file(other, path)[0] == 0x0000
        assert len(rows(spool)) == 1
    assert "association.aborted a message cannot be understood" in caplog.text
    assert "MARKEDNAME" not in caplog.text


def test_a_sender_that_leaves_before_the_answer_gets_its_whole_object_kept_or_none(tmp_path: Path) -> None:
    path = save(ct_series(1, seed=27)[0], tmp_path / "out")
    data, uid = data_set_bytes(path), path.stem
    with receiving(tmp_path) as (receiver, spool):
        for _ in range(5):
            with association(receiver.port, [CT]) as made:
                raw = made.dul.socket.socket
                made.dimse.get_msg = lambda block=False: (None, None)  # type: ignore[method-assign]
                store_bytes(made, CT, uid, data)
                raw.shutdown(socket.SHUT_RDWR)
                assert until(lambda: not made.is_established)
        assert until(lambda: not list(spool.incoming.iterdir()))
        assert len(rows(spool)) == len(files(spool)) <= 1


def test_the_receiver_stops_with_an_association_open(tmp_path: Path) -> None:
    started = time.monotonic()
    with receiving(tmp_path) as (receiver, _), association(receiver.port, [CT]) as made:
        receiver.stop(grace_seconds=0.2)
        assert until(lambda: not made.is_established)
    assert time.monotonic() - started < 50.0  # the time-out of an idle connection is 60 s


def test_who_has_come_when_the_receiver_stops_is_still_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restart loses nobody: the request of a caller that was accepted may be on its way."""
    monkeypatch.setattr("dicom_node.door.LAST_WORD_SECONDS", 60.0)
    with receiving(tmp_path) as (receiver, _):
        door = receiver._door
        assert door is not None
        with wire.connect(receiver.port) as caller:
            assert until(lambda: len(door._visitors) == 1)
            stop = threading.Thread(target=receiver.stop)
            stop.start()
            assert until(lambda: door._closing)
            caller.sendall(wire.request())
            assert caller.recv(1) == b"\x02", "A-ASSOCIATE-AC"
        stop.join(60)
        assert not stop.is_alive()


def test_a_port_that_is_taken_is_an_os_error_at_start(tmp_path: Path) -> None:
    from dicom_node.receive import Receiver

    with receiving(tmp_path) as (receiver, _):
        other = Receiver(settings_for(port=receiver.port), Spool(tmp_path / "other"))
        with pytest.raises(OSError, match="in use"):
            other.start()
        other.stop()


def test_the_receiver_imports_nothing_that_the_job_needs() -> None:
    code = "import sys, dicom_node.receive; print([m for m in sys.modules if m.split('.')[0] in sys.argv[1:]])"
    # Not in the list: pydantic, for the worklist and the UPS speak the job's contract.
    heavy = ["pandas", "SimpleITK", "radiomics", "scipy", "skimage", "highdicom", "matplotlib", "nibabel", "sksurv"]
    result = subprocess.run(
        [sys.executable, "-c", code, *heavy], capture_output=True, text=True, cwd=ROOT, check=True, timeout=60
    )
    assert result.stdout.strip() == "[]"
