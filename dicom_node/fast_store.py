"""The short way of a C-STORE-RQ: from the socket's buffer to the file, and its answer, in the upper layer's own thread.

pynetdicom copies a data set six times on its way and hands it through three queues. Here the P-DATA-TFs of an
association are looked at first: a plain C-STORE-RQ is taken in place, and every other message goes to pynetdicom byte
for byte. So does a C-STORE-RQ with anything unusual about it, or that comes while another message is being served.
`[receive] fast = false` leaves all of it to pynetdicom.
"""

import logging
import struct
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from pynetdicom.association import Association
from pynetdicom.pdu_primitives import P_DATA

from dicom_node.connection import READ_BYTES, UnacceptablePdu
from dicom_node.elements import is_uid
from dicom_node.incoming import EMPTY_PDU, MAXIMUM_COMMAND_BYTES, Incoming, Unacceptable
from dicom_node.instance import CT_CLASSES, ROI_CLASSES

LOGGER = logging.getLogger(__name__)
P_DATA_TF = 4
C_STORE_RQ, C_STORE_RSP = 0x0001, 0x8001
NO_DATA_SET = 0x0101
SHORTEST_PDU_BYTES = 1024  # an answer must fit into one of the peer's
HANDLER_FAILED = 0xC211  # as pynetdicom answers where its handler raises
# Each of them must be there, in this length; UIDs in any.
_NUMBERS = {0x0100: 2, 0x0110: 2, 0x0800: 2}
_UIDS = (0x0002, 0x1000)
_HEAD = struct.Struct(">BBL")
_FRAGMENT = struct.Struct(">LBB")
_BOTH_HEADS = struct.Struct(">BBLLBB")
_ELEMENT = struct.Struct("<HHL")

Keep = Callable[[Association, Incoming, str, str], tuple[int, str]]
"""Takes an object for good: association, file, SOP Class UID, SOP Instance UID -> C-STORE status, error comment."""


class _Request(NamedTuple):
    """What counts of a C-STORE-RQ (PS3.7 section 9.3.1.1)."""

    context_id: int
    message_id: bytes
    sop_class_uid: str
    sop_instance_uid: str


class FastStore:
    """The fast path of one association; used by its upper layer's thread alone."""

    def __init__(self, association: Association, keep: Keep) -> None:
        self._association = association
        self._dul, self._provider, self._socket = association.dul, association.dimse, association.dul.socket
        self._keep = keep
        self._command = bytearray()  # of a message whose command set has not ended
        self._begun = False  # there is such a message, be it without a byte so far
        self._request: _Request | None = None
        self._incoming: Incoming | None = None
        self._context_id = 0  # of the message that is coming
        self._aside = False  # something was handed to pynetdicom

    def take(self) -> bool:
        """Take P-DATA-TFs for as long as they are there. False when what comes next is something else.

        Raises OSError when the connection is of no more use, UnacceptablePdu when the association has to be aborted.
        """
        self._aside = False
        if not self._pdu():
            return False
        while not self._aside and self._dul.goes_on():
            if not self._pdu():
                break  # the upper layer will look at it again
        return True

    def _pdu(self) -> bool:
        head = self._socket.view(6, 6)
        if len(head) < 6 or head[0] != P_DATA_TF:
            return False  # also an end in mid-header: pynetdicom says what is to be said
        left = _HEAD.unpack(head)[2]
        self._socket.expect(left)
        if self._incoming is not None and self._request is not None and self._plain_pdus(self._incoming, left):
            return True
        self._socket.take(6)
        if not left:
            self._abort(EMPTY_PDU)
        while left:
            head = self._view(6) if left >= 6 else b""
            size, context_id, control = _FRAGMENT.unpack(head) if head else (0, 0, 0)
            if size < 2 or size + 4 > left:
                self._abort("is in a PDU whose fragments do not fit into it")
            self._socket.take(6)
            self._fragment(context_id, control, size - 2)
            left -= size + 4
        return True

    def _plain_pdus(self, incoming: Incoming, length: int) -> bool:
        """Take a PDU of the usual kind, and those behind it that have come: False where the next one is another.

        One write to the file and one piece for the digest, not one for each PDU. `length` is the next one's.
        """
        if length > READ_BYTES - 6:
            return False
        view = self._socket.view(length + 6)
        taken, size, last = unwrapped(view, self._context_id, self._socket.longest)
        if taken:
            self._come_on(size)
            incoming.write(view[:size])
            self._socket.take(taken)
            if last:
                self._answer()
        return taken > 0

    def _view(self, count: int) -> memoryview:
        """Exactly `count` bytes, at most 4096."""
        view: memoryview = self._socket.view(count, count)
        if len(view) < count:
            raise ConnectionError("the peer closed the connection in mid-PDU")
        return view

    def _whole(self, count: int) -> bytes:
        """Exactly `count` bytes, as many as a PDU may have."""
        data = bytearray()
        while len(data) < count:
            view = self._view_some(count - len(data))
            data += view
            self._socket.take(len(view))
        return bytes(data)

    def _view_some(self, most: int) -> memoryview:
        view: memoryview = self._socket.view(1, most)
        if not view:
            raise ConnectionError("the peer closed the connection in mid-PDU")
        return view

    # -- fragments (PS3.8 annex E.2: bit 0 of the control byte says command, bit 1 last) -----------------------------

    def _fragment(self, context_id: int, control: int, count: int) -> None:
        if self._provider.message is not None:
            self._hand_over(context_id, control, self._whole(count))
        elif self._incoming is not None and self._request is not None:
            if control & 1:
                self._abort("begins before the one before it is whole")
            if context_id != self._context_id:
                self._abort("changes its presentation context")
            self._data_set(self._incoming, count, last=bool(control & 2))
        elif control & 1:
            self._command_set(context_id, count, last=bool(control & 2))
        else:
            self._abort("begins with its data set")

    def _command_set(self, context_id: int, count: int, *, last: bool) -> None:
        if not self._begun:
            self._begun = True
            self._provider.pace.begin()
            self._context_id = context_id
        elif context_id != self._context_id:
            self._abort("changes its presentation context")
        if len(self._command) + count > MAXIMUM_COMMAND_BYTES:
            self._abort(f"has a command set of more than {MAXIMUM_COMMAND_BYTES} bytes")
        self._come_on(count)
        self._command += self._whole(count)
        if last:
            command, self._command, self._begun = bytes(self._command), bytearray(), False
            self._request = self._plain_store(context_id, command)
            if self._request is None:
                self._hand_over(context_id, 3, command)
            else:
                self._incoming = self._begin(self._request)

    def _data_set(self, incoming: Incoming, count: int, *, last: bool) -> None:
        self._come_on(count)
        while count:
            view = self._view_some(count)
            incoming.write(view)
            self._socket.take(len(view))
            count -= len(view)
        if last:
            self._answer()

    def _answer(self) -> None:
        incoming, request = self._incoming, self._request
        self._incoming = self._request = None
        if incoming is not None and request is not None:
            self._socket.send(_response(request, *self._kept(incoming, request)))

    def _kept(self, incoming: Incoming, request: _Request) -> tuple[int, str]:
        try:
            return self._keep(self._association, incoming, request.sop_class_uid, request.sop_instance_uid)
        except Exception as error:  # noqa: BLE001 - the peer has to hear that it was not taken, whatever happened
            LOGGER.error("store.failed %s; the sender was told that the object was not taken", type(error).__name__)
            incoming.discard()
            return HANDLER_FAILED, "the node failed"

    def _come_on(self, count: int) -> None:
        try:
            self._provider.pace.came(count)
        except Unacceptable as error:
            self._abort(str(error))

    def _begin(self, request: _Request) -> Incoming:
        syntax = str(self._association._accepted_cx[request.context_id].transfer_syntax[0])
        incoming: Incoming = self._provider.new_incoming()
        sender = str(self._association.requestor.ae_title)
        incoming.open(request.sop_class_uid, request.sop_instance_uid, syntax, sender)
        return incoming

    def _plain_store(self, context_id: int, command: bytes) -> _Request | None:
        """The request, where this command set is a C-STORE-RQ of the usual kind and nothing else is going on."""
        elements = elements_of(command)
        if elements is None or any(len(elements.get(tag, b"")) != length for tag, length in _NUMBERS.items()):
            return None
        if _number(elements[0x0100]) != C_STORE_RQ or _number(elements[0x0800]) == NO_DATA_SET:
            return None
        sop_class, instance = (elements.get(tag, b"").rstrip(b" \0").decode("latin-1") for tag in _UIDS)
        context = self._association._accepted_cx.get(context_id)
        if context is None or sop_class != context.abstract_syntax or sop_class not in CT_CLASSES | ROI_CLASSES:
            return None
        longest = self._association.requestor.maximum_length or SHORTEST_PDU_BYTES
        if not is_uid(instance) or longest < SHORTEST_PDU_BYTES or not self._provider.is_free():
            return None
        return _Request(context_id, elements[0x0110], sop_class, instance)

    def _hand_over(self, context_id: int, control: int, part: bytes) -> None:
        """Give a fragment to pynetdicom."""
        self._aside = True
        primitive = P_DATA()
        primitive.presentation_data_value_list = [[context_id, bytes([control]) + part]]
        self._provider.receive_primitive(primitive)

    def _abort(self, why: str) -> NoReturn:
        LOGGER.warning("association.aborted a message %s", why)
        raise UnacceptablePdu(why)


def unwrapped(view: memoryview, context_id: int, longest: int) -> tuple[int, int, bool]:
    """Move the data set's bytes of whole P-DATA-TFs to the front of `view`: bytes taken, bytes at the front, last one.

    Up to the last fragment of the data set, or to a PDU that has not wholly come, is longer than `longest`, or has
    anything but one fragment of this presentation context's data set (PS3.8 section 9.3.5.1, annex E.2): that one is
    left as it is.
    """
    taken = size = 0
    while len(view) - taken >= 12:
        kind, _, length, fragment, context, control = _BOTH_HEADS.unpack_from(view, taken)
        end = taken + 6 + length
        usual = kind == P_DATA_TF and fragment == length - 4 and fragment >= 2 and control in (0, 2)
        if not usual or context != context_id or end > len(view) or length > longest:
            break
        count = fragment - 2
        view[size : size + count] = view[taken + 12 : end]
        size, taken = size + count, end
        if control == 2:
            return taken, size, True
    return taken, size, False


def elements_of(command: bytes) -> dict[int, bytes] | None:
    """Elements of a command set by their number in group 0000 (Implicit VR Little Endian, PS3.7 section 6.3.1).

    None where it is anything but such elements end to end, each once. The group length is not looked at.
    """
    elements: dict[int, bytes] = {}
    position = 0
    while position + 8 <= len(command):
        group, number, length = _ELEMENT.unpack_from(command, position)
        end = position + 8 + length
        if group or number in elements or end > len(command):
            return None
        elements[number] = command[position + 8 : end]
        position = end
    return elements if position == len(command) else None


def _number(value: bytes) -> int:
    return int.from_bytes(value, "little")


def _element(number: int, value: bytes) -> bytes:
    padding = b"\0" * (len(value) % 2)
    return _ELEMENT.pack(0, number, len(value) + len(padding)) + value + padding


def _response(request: _Request, status: int, comment: str) -> bytes:
    """A C-STORE-RSP (PS3.7 section 9.3.1.2) as the one P-DATA-TF that it takes; the comment is an LO: 64 characters."""
    body = _element(0x0002, request.sop_class_uid.encode())
    body += _element(0x0100, C_STORE_RSP.to_bytes(2, "little")) + _element(0x0120, request.message_id)
    body += _element(0x0800, NO_DATA_SET.to_bytes(2, "little")) + _element(0x0900, status.to_bytes(2, "little"))
    if comment:
        text = comment[:64].encode("ascii", "replace")
        body += _element(0x0902, text + b" " * (len(text) % 2))
    body += _element(0x1000, request.sop_instance_uid.encode())
    command = _element(0x0000, len(body).to_bytes(4, "little")) + body
    return (
        _HEAD.pack(P_DATA_TF, 0, len(command) + 6) + _FRAGMENT.pack(len(command) + 2, request.context_id, 3) + command
    )
