"""Both ends of an association for the tests: a running receiver, and senders that can misbehave."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID, ExplicitVRLittleEndian
from pynetdicom import AE, _config, build_context, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import PresentationContext

from config.settings import Node, Peer, Receive, Settings
from dicom_node.associate import note_rejection
from dicom_node.deliver import Document, Variant
from dicom_node.instance import Instance
from dicom_node.receive import Receiver
from dicom_node.requestor import associate
from dicom_node.spool import Spool
from dicom_node.store import Store

SENDER = "MODALITY"
NODE = "PROGNODE"


def settings_for(*peers: Peer, port: int = 0, **receive: Any) -> Settings:
    """Settings of a node on a free port that knows MODALITY and the given peers."""
    known = (Peer(SENDER), *peers)
    options = {"reserve_disk_bytes": 0, "acse_timeout_seconds": 20.0, "dimse_timeout_seconds": 20.0, **receive}
    return Settings(node=Node(ae_title=NODE, port=port), peers=known, receive=replace(Receive(), **options))


@contextmanager
def receiving(folder: Path, settings: Settings | None = None) -> Iterator[tuple[Receiver, Spool]]:
    """A receiver on a free port with its spool in `folder`."""
    spool = Spool(folder / "spool")
    receiver = Receiver(settings or settings_for(), spool)
    receiver.start()
    try:
        yield receiver, spool
    finally:
        receiver.stop(grace_seconds=2.0)


def rows(spool: Spool) -> list[Instance]:
    """The instances that the store knows, oldest first."""
    store = Store.open(spool.store)
    try:
        return [instance for _, instance in store.arrivals.unplanned()]
    finally:
        store.close()


def files(spool: Spool) -> list[Path]:
    return sorted(spool.root.glob("instances/*/*.dcm"))


def storescu(
    port: int, paths: Sequence[Path], *options: str, calling: str = SENDER
) -> subprocess.CompletedProcess[str]:
    """DCMTK's storescu, offering just the contexts that the files need."""
    command = ["storescu", "-R", "-aet", calling, "-aec", NODE, *options, "127.0.0.1", str(port), *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def call(
    port: int,
    contexts: Sequence[PresentationContext],
    *,
    calling: str = SENDER,
    called: str = NODE,
    max_pdu: int = 16382,
    roles: Sequence[Any] = (),
    seconds: float = 20.0,
) -> Association:
    """Ask a peer on loopback for an association, established or not; `seconds` for each answer.

    By our own requestor: on a busy machine pynetdicom's loses an answer now and then (tests/dicom/test_requestor.py).
    """
    entity = AE(calling)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = seconds
    heard = [(evt.EVT_PDU_RECV, note_rejection)]
    there = ("127.0.0.1", port)
    return associate(entity, there, called, contexts, maximum_pdu_bytes=max_pdu, roles=roles, handlers=heard)


@contextmanager
def association(
    port: int,
    sop_class_uids: Sequence[str],
    syntax: str = ExplicitVRLittleEndian,
    *,
    calling: str = SENDER,
    called: str = NODE,
    max_pdu: int = 16382,
) -> Iterator[Association]:
    """An association of our own with the receiver; released at the end when it still stands."""
    _config.LOG_HANDLER_LEVEL = "none"
    contexts = [build_context(uid, syntax) for uid in sop_class_uids]
    made = call(port, contexts, calling=calling, called=called, max_pdu=max_pdu)
    try:
        yield made
    finally:
        if made.is_established:
            made.release()


def data_set_bytes(path: Path) -> bytes:
    """What of a Part 10 file goes over the wire: everything after the meta header."""
    data = path.read_bytes()
    length = int.from_bytes(data[140:144], "little")  # (0002,0000) is the first element, UL
    return data[144 + length :]


def store_bytes(
    made: Association, sop_class_uid: str, sop_instance_uid: str, data: bytes | None
) -> tuple[int | None, str]:
    """C-STORE of any bytes under any UIDs. Gives status and error comment; (None, '') when no answer came."""
    request = C_STORE()
    request.MessageID = 7
    request.Priority = 0
    request.AffectedSOPClassUID = UID(sop_class_uid)
    request.AffectedSOPInstanceUID = UID(sop_instance_uid)
    request.DataSet = BytesIO(data) if data is not None else None
    context = next(cx for cx in made.accepted_contexts if cx.abstract_syntax == sop_class_uid)
    made._reactor_checkpoint.clear()
    while not made._is_paused:
        pass
    made.dimse.send_msg(request, context.context_id)
    _, answer = made.dimse.get_msg(block=True)
    made._reactor_checkpoint.set()
    if answer is None:
        return None, ""
    return int(answer.Status), str(getattr(answer, "ErrorComment", None) or "")


def one(path: Path, name: str = "segmentation") -> Document:
    """A document with a single variant, from a file."""
    meta = read_file_meta_info(path)
    variant = Variant(str(meta.MediaStorageSOPClassUID), str(meta.MediaStorageSOPInstanceUID), path)
    return Document(name, (variant,))


def store_file(made: Association, path: Path) -> tuple[int | None, str]:
    meta = read_file_meta_info(path)
    return store_bytes(made, meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID, data_set_bytes(path))
