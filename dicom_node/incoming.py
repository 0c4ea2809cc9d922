"""The receiving end of `receive`: a C-STORE's data set goes from the socket to a file in the spool, hashed on the way.

pynetdicom's own chunked mode writes to the system's temporary folder: another file system, so a second copy, and a leak
when the sender aborts. Here its DIMSE provider is subclassed, and nothing of an object is ever held in memory.
"""

import hashlib
import logging
import os
import struct
import threading
import time
import uuid
from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import C_STORE_RQ, DIMSEMessage
from pynetdicom.pdu_primitives import P_DATA

from config.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from config.settings import Receive
from dicom_node import headers
from dicom_node.connection import IDLE_MILLISECONDS
from dicom_node.elements import UnreadableHeader, is_uid
from dicom_node.identity import Identity
from dicom_node.instance import Instance
from dicom_node.outline import check_structure
from dicom_node.spool import Spool
from dicom_node.watermark import Disk

LOGGER = logging.getLogger(__name__)
BUFFER_BYTES = 1 << 16  # shorter pieces are gathered before they are written
BEGINNING_BYTES = 1 << 16  # kept in memory: most headers are shorter
ROOM_BYTES = 1 << 24  # how much room an object asks for at a time
MAXIMUM_COMMAND_BYTES = 1 << 16  # a real command set has a few hundred
MAXIMUM_MESSAGE_BYTES = 1 << 22  # data sets of everything but C-STORE stay in memory; a commitment report has 1.5 MB
SLOWEST_BYTES_PER_SECOND = 1024.0  # of a message as a whole, on top of the time for a PDU


EMPTY_PDU = "is in a PDU without any fragment"


class Unacceptable(Exception):
    """A message that is not taken; the text says why and quotes nothing."""


class Incoming:
    """One object being written: Part 10 header, then the data set's bytes as they come.

    `name`, `write`, `close` and `file.flush` are what pynetdicom expects of its temporary file. A disk error is kept in
    `error` for the answer (the rest of the object is read and dropped); raising here would abort the association.
    """

    def __init__(self, path: Path, disk: Disk) -> None:
        self.path = path
        self.name = str(path)
        self.file = self
        self.error: str | None = None
        self.size = 0
        self._disk = disk
        self._promised = False
        self._asked_at = 0
        self._kept = False
        self._digest = hashlib.sha256()
        self._descriptor = -1
        self._gathered = bytearray()  # written to the file with what comes next
        self._beginning = bytearray()
        self.transfer_syntax_uid = ""

    @property
    def is_open(self) -> bool:
        return self._descriptor >= 0

    def open(self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, sender: str) -> None:
        """Begin the file with a correct meta header (PS3.10 section 7.1) of our own making; `sender`: its AE title."""
        self.transfer_syntax_uid = transfer_syntax_uid
        try:
            self._ask_for_room()
            if self.error is None:
                self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
                self._gathered += part10_head(sop_class_uid, sop_instance_uid, transfer_syntax_uid, sender)
        except OSError as error:
            self._fail(error)

    def write(self, data: bytes | memoryview) -> int:
        """Take a fragment of the data set."""
        if self.size < BEGINNING_BYTES:
            self._beginning += data[: BEGINNING_BYTES - self.size]
        self.size += len(data)
        if self._descriptor >= 0 and self.error is None:
            self._digest.update(data)
            try:
                if self.size - self._asked_at > ROOM_BYTES:
                    self._asked_at = self.size
                    self._ask_for_room()
                if len(self._gathered) + len(data) < BUFFER_BYTES:
                    self._gathered += data
                else:
                    self._write_out(data)
            except OSError as error:
                self._fail(error)
        return len(data)

    def _write_out(self, data: bytes | memoryview = b"") -> None:
        """What was gathered, and `data`, in one call where the disk takes it in one."""
        parts = [memoryview(part) for part in (self._gathered, data) if part]
        self._gathered = bytearray()
        while parts:
            written = os.writev(self._descriptor, parts)
            while parts and written >= len(parts[0]):
                written -= len(parts.pop(0))
            if parts:
                parts[0] = parts[0][written:]

    def flush(self) -> None:
        """Called by pynetdicom after every fragment: the buffer is ours to empty."""

    def close(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            try:
                os.close(descriptor)
            except OSError as error:
                self._fail(error)
        self._give_room_back()

    def complete(self) -> tuple[int, str]:
        """All bytes are in the file, which stays open: its descriptor, the SHA-256 of the data set. Raises OSError.

        They are not durable yet.
        """
        self._write_out()
        return self._descriptor, self._digest.hexdigest()

    def facts(self, digest: str) -> tuple[Instance, Identity]:
        """What its header says, once it is complete. Raises UnreadableHeader and OSError."""
        found = headers.read_beginning(bytes(self._beginning), self.size, self.transfer_syntax_uid, digest)
        return found or headers.read_with_identity(self.path, digest)

    def kept(self) -> None:
        """It has another name by now, and this one is gone."""
        self._kept = True

    def discard(self) -> None:
        """Close it, and remove it unless it was kept."""
        self.close()
        if not self._kept:
            self.path.unlink(missing_ok=True)

    def _ask_for_room(self) -> None:
        self._give_room_back()
        self._promised = self._disk.take(ROOM_BYTES)
        if not self._promised:
            self.error = "disk space is below the reserve"

    def _give_room_back(self) -> None:
        if self._promised:
            self._promised = False
            self._disk.give(ROOM_BYTES)

    def _fail(self, error: OSError) -> None:
        self.error = f"disk: {error.strerror or type(error).__name__}"


def part10_head(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, sender: str) -> bytes:
    """Preamble and meta header (PS3.10 section 7.1). Made by hand: pydicom takes 20 times as long, for each object.

    By the sender's AE title `fsck --repair` knows which rule a file belongs to whose row was lost.
    """
    elements = b"".join(
        struct.pack("<HH2sH", 0x0002, number, vr, len(value)) + value
        for number, vr, value in (
            (0x0002, b"UI", _even(sop_class_uid, b"\0")),
            (0x0003, b"UI", _even(sop_instance_uid, b"\0")),
            (0x0010, b"UI", _even(transfer_syntax_uid, b"\0")),
            (0x0012, b"UI", _even(IMPLEMENTATION_CLASS_UID, b"\0")),
            (0x0013, b"SH", _even(IMPLEMENTATION_VERSION_NAME, b" ")),
            (0x0017, b"AE", _even(sender.encode("ascii", "replace").decode(), b" ")),
        )
    )
    version = struct.pack("<HH2sHL", 0x0002, 0x0001, b"OB", 0, 2) + b"\0\1"
    length = struct.pack("<HH2sHL", 0x0002, 0x0000, b"UL", 4, len(version) + len(elements))
    return b"\0" * 128 + b"DICM" + length + version + elements


def _even(text: str, padding: bytes) -> bytes:
    return text.encode() + padding * (len(text) % 2)


class Pace:
    """A message must come on: many tiny PDUs, each in its time, would hold an association for ever."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._began, self._came = 0.0, 0

    def begin(self) -> None:
        """The first bytes of a message are here."""
        self._began, self._came = time.monotonic(), 0

    def came(self, count: int) -> None:
        """`count` bytes more. Raises Unacceptable when the message takes too long by now."""
        self._came += count
        if time.monotonic() - self._began > self._seconds + self._came / SLOWEST_BYTES_PER_SECOND:
            raise Unacceptable("comes too slowly")


class SpoolingProvider(DIMSEServiceProvider):  # type: ignore[misc]  # pynetdicom is not typed here
    """A DIMSE provider that gives each C-STORE a file in the spool. `stored` and `refused` count for the log."""

    def __init__(self, association: Association, spool: Spool, limits: Receive, disk: Disk) -> None:
        super().__init__(association)
        self.message: Any = None
        self._spool = spool
        self._disk = disk
        self.pace = Pace(limits.dimse_timeout_seconds)
        self.stored = 0
        self.refused = 0
        self.mark = uuid.uuid4().hex[:16]  # of the association, for the audit
        self.studies: dict[str, None] = {}  # those that came, in their order, for the log
        self.known: Counter[tuple[str, str]] = Counter()  # what was here already, by study and SOP class
        self._attending = threading.Event()  # the association's thread has nothing to do but to wait for messages
        self._is_new = True
        self.news = threading.Event()  # set by the upper layer when anything has happened
        self._lock = threading.Lock()
        self._open: set[Incoming] = set()

    def get_msg(self, block: bool = False) -> Any:
        """The next message, (None, None) without one. pynetdicom asks 1000 times a second: it is made to wait."""
        if block:
            return super().get_msg(block)
        self._attending.set()
        if self.msg_queue.empty():
            self.news.wait(IDLE_MILLISECONDS / 1000)
            self.news.clear()
        if self.msg_queue.empty():
            return None, None
        self._attending.clear()
        context_id, message = super().get_msg(block)
        if message is not None and not message.is_valid_request:
            self._turn_away()
            return None, None
        return context_id, message

    def _turn_away(self) -> None:
        """A message without what its kind must have: pynetdicom would drop it, keep its file, and answer nothing."""
        LOGGER.warning("association.aborted a message lacks an element of its command set, or is no request")
        self.refused += 1
        self.dul.event_queue.put("Evt19")

    def is_free(self) -> bool:
        """Whether no message waits or is being served; for the upper layer's thread, which alone brings new ones."""
        if self._is_new:  # the association's thread is still busy with its beginning; what comes first waits for it
            self._is_new = False
            self._attending.wait(1.0)
        return self.msg_queue.empty() and self._attending.is_set() and self.dul.to_provider_queue.empty()

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take P-DATA, one PDV at a time: the file has to stand before the first byte of its data set."""
        try:
            self._check_filled(primitive)
            for context_id, data in primitive.presentation_data_value_list:
                if self.message is None:
                    self.pace.begin()
                self.pace.came(len(data))
                self._prepare(context_id, data)
                single = P_DATA()
                single.presentation_data_value_list = [[context_id, data]]
                super().receive_primitive(single)
        except Exception as error:  # noqa: BLE001 - the boundary to hostile bytes: else pynetdicom's thread dies of it
            why = str(error) if isinstance(error, Unacceptable) else f"cannot be understood ({type(error).__name__})"
            LOGGER.warning("association.aborted a message %s", why)
            self.message = None
            self.dul.event_queue.put("Evt19")  # invalid PDU: the state machine aborts the association

    @staticmethod
    def _check_filled(primitive: P_DATA) -> None:
        if not primitive.presentation_data_value_list:
            raise Unacceptable(EMPTY_PDU)

    def _prepare(self, context_id: int, data: bytes) -> None:
        """Before a fragment (PS3.8 annex E.2: a control byte, then a part) is added to the message."""
        message = self.message
        self._check_order(message, context_id, is_command=bool(data[0] & 1))
        if data[0] & 1:
            if message is not None and message.encoded_command_set.tell() + len(data) > MAXIMUM_COMMAND_BYTES:
                raise Unacceptable(f"has a command set of more than {MAXIMUM_COMMAND_BYTES} bytes")
        elif isinstance(message, C_STORE_RQ):
            if message._data_set_file is None:
                message._data_set_file = self._begin(message)
                message._data_set_path = message._data_set_file.path
        elif message.data_set.tell() + len(data) > MAXIMUM_MESSAGE_BYTES:
            raise Unacceptable(f"other than C-STORE has more than {MAXIMUM_MESSAGE_BYTES} bytes")
        elif data[0] & 2:
            self._check_structure(message, data[1:])

    @staticmethod
    def _check_order(message: Any, context_id: int, *, is_command: bool) -> None:
        """A message is its command set, then its data set, in one presentation context, and then comes the next."""
        knows_what_it_is = message is not None and type(message) is not DIMSEMessage
        if message is not None and message.context_id not in (None, context_id):
            raise Unacceptable("changes its presentation context")
        if is_command and knows_what_it_is:
            raise Unacceptable("begins before the one before it is whole")
        if not is_command and not knows_what_it_is:
            raise Unacceptable("begins with its data set")

    def _check_structure(self, message: Any, last: bytes) -> None:
        """Depth and number of elements of a whole data set, before pydicom parses it for a handler."""
        context = self.assoc._accepted_cx.get(message.context_id)
        implicit = context is not None and str(context.transfer_syntax[0]) == ImplicitVRLittleEndian
        whole = message.data_set.getvalue() + last
        try:
            check_structure(BytesIO(whole), len(whole), implicit=implicit)
        except UnreadableHeader as error:
            raise Unacceptable(f"has a data set that is not taken: {error}") from None

    def new_incoming(self) -> Incoming:
        """A file for an object that begins, removed with the association unless somebody takes it."""
        incoming = Incoming(self._spool.new_incoming(), self._disk)
        with self._lock:
            self._open.add(incoming)
        return incoming

    def _begin(self, message: C_STORE_RQ) -> Incoming:
        incoming = self.new_incoming()
        command = message.command_set
        uids = [str(command.get(k, "")) for k in ("AffectedSOPClassUID", "AffectedSOPInstanceUID")]
        context = self.assoc._accepted_cx.get(message.context_id)
        if context is not None and all(map(is_uid, uids)):  # else the answer is a refusal and needs no file
            sender = str(self.assoc.requestor.ae_title)
            incoming.open(uids[0], uids[1], str(context.transfer_syntax[0]), sender)
        return incoming

    def take(self, incoming: Incoming | None) -> bool:
        """Whether a complete object is the caller's to keep; it is not when the connection has ended already."""
        with self._lock:
            if incoming not in self._open:
                return False
            self._open.discard(incoming)
            return True

    def discard_unfinished(self) -> None:
        """Remove what an ended connection left half-written."""
        with self._lock:
            left, self._open = self._open, set()
        for incoming in left:
            incoming.discard()
