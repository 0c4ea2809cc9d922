"""C-STORE by the short way and by pynetdicom's: whatever shape the PDUs have, both do the same (`[receive] fast`)."""

import hashlib
import itertools
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.dimse_messages import C_STORE_RSP
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification

from config.settings import Tls
from dicom_node.connection import CallerSocket
from dicom_node.fast_store import elements_of
from dicom_node.incoming import SpoolingProvider, part10_head
from dicom_node.instance import CT
from dicom_node.spool import Spool
from tests import wire
from tests.certificates import Authority
from tests.network import data_set_bytes, files, receiving, rows, settings_for
from tests.synthetic import ct_series, save

IMPLICIT_CONTEXT, CT_CONTEXT, ECHO_CONTEXT, COMMITMENT_CONTEXT = 1, 3, 5, 7
CONTEXTS = (
    wire.context(IMPLICIT_CONTEXT, CT, [ImplicitVRLittleEndian]),
    wire.context(CT_CONTEXT, CT, [ExplicitVRLittleEndian]),
    wire.context(ECHO_CONTEXT, Verification),
    wire.context(COMMITMENT_CONTEXT, StorageCommitmentPushModel),
)
RELEASE = bytes.fromhex("05000000000400000000")
_numbers = itertools.count(1)


class Object(NamedTuple):
    uid: str
    data: bytes


class Node(NamedTuple):
    port: int
    tls_port: int
    spool: Spool
    make: Callable[..., Object]
    fast: bool


@pytest.fixture(scope="module", params=[True, False], ids=["fast", "stock"])
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("node")
    issued = Authority(folder / "ca").issue("node")
    settings = settings_for(fast=request.param, maximum_associations_per_peer=50)
    tls = Tls(listen="beside", port=0, certificate=issued.certificate, private_key=issued.key)
    with receiving(folder, replace(settings, tls=tls)) as (receiver, spool):
        yield Node(receiver.port, receiver.tls_port, spool, _maker(folder), request.param)


def _maker(folder: Path) -> Callable[..., Object]:
    dataset = ct_series(1, 8, 8, seed=5)[0]

    def make(syntax: str = ExplicitVRLittleEndian, uid: str = "") -> Object:
        """A CT slice of its own."""
        dataset.SOPInstanceUID = uid or f"1.2.826.0.1.3680043.8.498.5.{next(_numbers)}"
        return Object(dataset.SOPInstanceUID, data_set_bytes(save(dataset, folder / "made", syntax)))

    return make


def command(uid: str, *, message_id: int = 1, sop_class_uid: str = CT, **changed: bytes) -> bytes:
    """A C-STORE-RQ's command set; `changed`: elements by number, as e0700=b"..."."""
    made = {int(name[1:], 16): value for name, value in changed.items()}
    padded = uid.encode() + b"\0" * (len(uid) % 2)
    more = {0x0700: b"\0\0", 0x1000: padded} | made
    whole = wire.command(0x0001, sop_class_uid, *more.items(), has_data_set=True)
    at = whole.index(b"\0\0\x10\x01\x02\0\0\0") + 8
    return whole[:at] + message_id.to_bytes(2, "little") + whole[at + 2 :]


def fragment(part: bytes, *, context_id: int = CT_CONTEXT, command: bool = False, last: bool = False) -> bytes:
    """A PDV, without a PDU around it."""
    return wire.data(part, context_id=context_id, command=command, last=last)[6:]


def pdu(*fragments: bytes) -> bytes:
    whole = b"".join(fragments)
    return b"\x04\x00" + len(whole).to_bytes(4, "big") + whole


def message(one: Object, *, message_id: int = 1, context_id: int = CT_CONTEXT) -> bytes:
    """A C-STORE-RQ as most senders make it: a PDU for the command set, one for the data set."""
    return pdu(fragment(command(one.uid, message_id=message_id), context_id=context_id, command=True, last=True)) + pdu(
        fragment(one.data, context_id=context_id, last=True)
    )


@contextmanager
def associated(node: Node) -> Iterator[socket.socket]:
    with wire.associated(node.port, contexts=CONTEXTS) as connection:  # type: ignore[arg-type]
        yield connection


def pdu_of(connection: socket.socket) -> tuple[int, bytes]:
    """Type and body of the next PDU; (0, b"") when the connection is closed."""
    head = _exactly(connection, 6)
    return (head[0], _exactly(connection, int.from_bytes(head[2:], "big"))) if head else (0, b"")


def _exactly(connection: socket.socket, count: int) -> bytes:
    got = b""
    while len(got) < count:
        try:
            piece = connection.recv(count - len(got))
        except ConnectionError:
            return b""
        if not piece:
            return b""
        got += piece
    return got


def answer(connection: socket.socket) -> tuple[int, int, int]:
    """Command Field, Message ID Being Responded To and Status of the next answer."""
    kind, body = pdu_of(connection)
    assert kind == 4, kind
    elements = elements_of(body[6:])
    assert elements is not None
    return tuple(int.from_bytes(elements[number], "little") for number in (0x0100, 0x0120, 0x0900))  # type: ignore[return-value]


def kept(node: Node, one: Object, syntax: str = ExplicitVRLittleEndian) -> bool:
    """Whether an object is there, byte for byte, with its row."""
    path = node.spool.instance_path(one.uid, hashlib.sha256(one.data).hexdigest())
    known = {instance.sop_instance_uid for instance in rows(node.spool)}
    return (
        path.is_file()
        and path.read_bytes() == part10_head(CT, one.uid, syntax, "MODALITY") + one.data
        and one.uid in known
    )


def store(node: Node, one: Object, *pieces: bytes) -> None:
    """Send an object in these pieces; it must be stored, and the association released in good order."""
    with associated(node) as connection:
        for piece in pieces:
            connection.sendall(piece)
        assert answer(connection) == (0x8001, 1, 0)
        connection.sendall(RELEASE)
        assert pdu_of(connection)[0] == 6
    assert kept(node, one)


def is_cut_off(node: Node, *pieces: bytes) -> None:
    """What breaks the protocol is answered with A-ABORT or the end of the connection, and leaves no file."""
    before = files(node.spool)
    with associated(node) as connection:
        with suppress(ConnectionError):  # cut off before the last of them
            for piece in pieces:
                connection.sendall(piece)
        assert pdu_of(connection)[0] in (7, 0)
    end = time.monotonic() + 60
    while time.monotonic() < end and list(node.spool.incoming.iterdir()):
        time.sleep(0.01)
    assert (files(node.spool), list(node.spool.incoming.iterdir())) == (before, [])


def test_only_the_short_way_avoids_pynetdicom_s(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    took = SpoolingProvider.receive_primitive
    monkeypatch.setattr(SpoolingProvider, "receive_primitive", lambda self, one: (seen.append(one), took(self, one))[1])
    one = node.make()
    store(node, one, message(one))
    assert bool(seen) is not node.fast


def test_the_meta_header_is_what_pydicom_reads(node: Node) -> None:
    from pydicom import dcmread

    from config.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

    one = node.make()
    store(node, one, message(one))
    path = node.spool.instance_path(one.uid, hashlib.sha256(one.data).hexdigest())
    meta = dcmread(path).file_meta
    assert (meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID) == (CT, one.uid)
    assert (meta.TransferSyntaxUID, meta.FileMetaInformationVersion) == (ExplicitVRLittleEndian, b"\0\1")
    assert meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
    assert meta.ImplementationVersionName == IMPLEMENTATION_VERSION_NAME
    again = path.with_name("again")
    dcmread(path).save_as(again, enforce_file_format=True)
    assert again.read_bytes()[:200] == path.read_bytes()[:200]  # pydicom writes the same beginning, group length too
    again.unlink()


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_bytes_that_come_in_small_pieces(node: Node, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    one = node.make()
    space = CallerSocket._space
    monkeypatch.setattr(CallerSocket, "_space", lambda self: space(self)[:size])
    store(node, one, message(one))


def _at_every_split(node: Node, monkeypatch: pytest.MonkeyPatch, every: int) -> None:
    """The receiver sees each message up to a place, then the rest: at the next place each time."""
    space = CallerSocket._space
    left = [1 << 20]

    def until_the_split(self: CallerSocket) -> memoryview:
        return space(self)[: max(1, left[0])]

    read = CallerSocket._read

    def reading(self: CallerSocket) -> int:
        count = read(self)
        if count > 0:
            left[0] = left[0] - count if left[0] > count else 1 << 20
        return count

    with associated(node) as connection:
        monkeypatch.setattr(CallerSocket, "_space", until_the_split)
        monkeypatch.setattr(CallerSocket, "_read", reading)
        sent = []
        place = 1
        while True:
            one = node.make()
            whole = _many_shapes(one)
            if place >= len(whole):
                break
            left[0] = place
            connection.sendall(whole)
            assert answer(connection) == (0x8001, 1, 0)
            sent.append(one)
            place += every
    assert len(sent) > 20
    known = {instance.sop_instance_uid for instance in rows(node.spool)}
    assert {one.uid for one in sent} <= known
    assert all(node.spool.instance_path(o.uid, hashlib.sha256(o.data).hexdigest()).is_file() for o in sent)


def _many_shapes(one: Object) -> bytes:
    """Command set in two PDVs of a PDU, a data set in three PDUs, one of them with two PDVs."""
    whole, data = command(one.uid), one.data
    return (
        pdu(fragment(whole[:50], command=True), fragment(whole[50:], command=True, last=True))
        + pdu(fragment(data[:101]), fragment(data[101:333]))
        + pdu(fragment(data[333:-1]))
        + pdu(fragment(data[-1:], last=True))
    )


def test_a_message_split_at_places_all_over_it(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    _at_every_split(node, monkeypatch, 41)


@pytest.mark.exhaustive
def test_a_message_split_at_every_byte(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    _at_every_split(node, monkeypatch, 1)


def test_packets_with_pauses_in_the_middle_of_heads(node: Node) -> None:
    one = node.make()
    whole = _many_shapes(one)
    with associated(node) as connection:
        for start, end in itertools.pairwise((0, 3, 9, 30, 190, 195, 201, len(whole) - 3, len(whole))):
            connection.sendall(whole[start:end])
            time.sleep(0.02)
        assert answer(connection) == (0x8001, 1, 0)
    assert kept(node, one)


@pytest.mark.parametrize("sizes", [(1,), (0, 5), (3, 0, 17), (255,), (1021, 1)], ids=str)
def test_fragments_of_odd_sizes_and_of_none(node: Node, sizes: Sequence[int]) -> None:
    one = node.make()
    pieces, start = [pdu(fragment(command(one.uid), command=True, last=True))], 0
    for size in itertools.cycle(sizes):
        pieces.append(pdu(fragment(one.data[start : start + size])))
        start += size
        if start >= len(one.data):
            break
    store(node, one, b"".join(pieces), pdu(fragment(b"", last=True)))


def test_several_fragments_in_a_pdu_and_the_whole_message_in_one(node: Node) -> None:
    one = node.make()
    head = fragment(command(one.uid), command=True, last=True)
    parts = [fragment(one.data[at : at + 100]) for at in range(0, len(one.data), 100)]
    store(node, one, pdu(head, *parts, fragment(b"", last=True)))


def test_two_messages_and_a_half_in_one_go(node: Node) -> None:
    made = [node.make() for _ in range(3)]
    whole = b"".join(message(one, message_id=number) for number, one in enumerate(made))
    half = len(whole) - len(pdu(fragment(made[2].data, last=True)))  # pynetdicom answers when no PDU is begun
    with associated(node) as connection:
        connection.sendall(whole[:half])
        assert [answer(connection) for _ in range(2)] == [(0x8001, 0, 0), (0x8001, 1, 0)]
        connection.sendall(whole[half:])
        assert answer(connection) == (0x8001, 2, 0)
    assert all(kept(node, one) for one in made)


@pytest.mark.parametrize("size", [1, 7, 60])
def test_a_command_set_in_pieces(node: Node, size: int) -> None:
    one = node.make()
    whole = command(one.uid)
    parts = [fragment(whole[at : at + size], command=True) for at in range(0, len(whole), size)]
    ends = fragment(b"", command=True, last=True)
    store(node, one, *(pdu(part) for part in parts), pdu(ends), pdu(fragment(one.data, last=True)))


def test_an_empty_pdu_ends_the_association(node: Node, tmp_path: Path) -> None:
    with receiving(tmp_path, settings_for(fast=node.fast, dimse_timeout_seconds=1.0)) as (receiver, spool):
        impatient = node._replace(port=receiver.port, spool=spool)
        is_cut_off(impatient, message(node.make())[:-20], pdu())
        is_cut_off(impatient, pdu())


def test_implicit_vr_too(node: Node) -> None:
    one = node.make(ImplicitVRLittleEndian)
    with associated(node) as connection:
        connection.sendall(message(one, context_id=IMPLICIT_CONTEXT))
        assert answer(connection) == (0x8001, 1, 0)
    assert kept(node, one, ImplicitVRLittleEndian)


def test_an_encoding_that_the_context_does_not_have_is_refused(node: Node) -> None:
    one = node.make(ImplicitVRLittleEndian)
    with associated(node) as connection:
        connection.sendall(message(one))
        assert answer(connection) == (0x8001, 1, 0xC000)
    assert not kept(node, one)


def test_over_tls(node: Node) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    made = [node.make() for _ in range(3)]
    with context.wrap_socket(wire.connect(node.tls_port)) as connection:
        connection.sendall(wire.request(contexts=CONTEXTS))
        assert pdu_of(connection)[0] == 2
        for one in made:
            for piece in (_many_shapes(one)[:70], _many_shapes(one)[70:]):
                connection.sendall(piece)
            assert answer(connection) == (0x8001, 1, 0)
    assert all(kept(node, one) for one in made)


def _echo(message_id: int = 1) -> bytes:
    whole = wire.command(0x0030, Verification)
    at = whole.index(b"\0\0\x10\x01\x02\0\0\0") + 8
    whole = whole[:at] + message_id.to_bytes(2, "little") + whole[at + 2 :]
    return pdu(fragment(whole, context_id=ECHO_CONTEXT, command=True, last=True))


def test_c_echo_and_n_action_between_objects(node: Node) -> None:
    made = [node.make() for _ in range(3)]
    action = wire.command(
        0x0130, StorageCommitmentPushModel, (0x0003, StorageCommitmentPushModel.encode() + b"\0"),
        (0x1001, b"1.2.840.10008.1.20.1.1"), (0x1008, b"\1\0"), has_data_set=True,
    )  # fmt: skip
    asked = fragment(action, context_id=COMMITMENT_CONTEXT, command=True, last=True)
    body = b"\x08\x00\x95\x11" + (4).to_bytes(4, "little") + b"1.2\0"
    asked_data = fragment(body, context_id=COMMITMENT_CONTEXT, last=True)
    with associated(node) as connection:
        for one in made:
            connection.sendall(message(one))
            assert answer(connection) == (0x8001, 1, 0)
            connection.sendall(_echo())
            assert answer(connection) == (0x8030, 1, 0)
            connection.sendall(pdu(asked) + pdu(asked_data))
            assert answer(connection)[:2] == (0x8130, 1)
    assert all(kept(node, one) for one in made)


def test_what_is_sent_without_waiting_is_all_answered(node: Node) -> None:
    made = [node.make() for _ in range(3)]
    whole = b"".join(_echo(10 + n) + message(one, message_id=n) for n, one in enumerate(made))
    with associated(node) as connection:
        connection.sendall(whole)
        answers = {answer(connection) for _ in range(6)}
    assert answers == {(0x8001, n, 0) for n in range(3)} | {(0x8030, 10 + n, 0) for n in range(3)}
    assert all(kept(node, one) for one in made)


def _cancel() -> bytes:
    body = b"".join(
        b"\0\0" + number.to_bytes(2, "little") + (2).to_bytes(4, "little") + value
        for number, value in ((0x0100, b"\xff\x0f"), (0x0120, b"\1\0"), (0x0800, b"\1\1"))
    )
    return pdu(fragment(body, command=True, last=True))


def test_c_cancel_before_and_after_an_object_changes_nothing(node: Node) -> None:
    one = node.make()
    store(node, one, _cancel() + message(one) + _cancel())


def test_c_cancel_in_the_middle_of_an_object_ends_the_association(node: Node) -> None:
    one = node.make()
    begun = pdu(fragment(command(one.uid), command=True, last=True)) + pdu(fragment(one.data[:300]))
    is_cut_off(node, begun + _cancel() + pdu(fragment(one.data[300:], last=True)))
    assert not kept(node, one)


def test_an_abort_in_the_middle_of_an_object_leaves_nothing(node: Node) -> None:
    one = node.make()
    begun = pdu(fragment(command(one.uid), command=True, last=True)) + pdu(fragment(one.data[:300]))
    is_cut_off(node, begun + bytes.fromhex("07000000000400000000"))
    assert not kept(node, one)


def test_a_connection_that_ends_in_the_middle_of_a_pdu_leaves_nothing(node: Node) -> None:
    one = node.make()
    with associated(node) as connection:
        connection.sendall(message(one)[:-50])
        connection.shutdown(socket.SHUT_WR)
        assert pdu_of(connection)[0] in (0, 7)
    end = time.monotonic() + 60
    while time.monotonic() < end and list(node.spool.incoming.iterdir()):
        time.sleep(0.01)
    assert not list(node.spool.incoming.iterdir())
    assert not kept(node, one)


@pytest.mark.parametrize(
    "uid", ["1.2.826.0.1.3680043." + "9" * 44, "1.2.826.0.1.3680043." + "9" * 43, "1.23"], ids=["64", "63", "4"]
)
def test_uids_of_the_greatest_length_of_odd_length_and_short_ones(node: Node, uid: str) -> None:
    one = node.make(uid=uid)
    store(node, one, message(one))


@pytest.mark.parametrize("uid", ["../../etc", "1.2 3"])
def test_what_is_no_uid_is_refused(node: Node, uid: str) -> None:
    one = node.make()
    with associated(node) as connection:
        connection.sendall(message(Object(uid, one.data)))
        assert answer(connection) == (0x8001, 1, 0x0117)


@pytest.mark.parametrize("length", [0, 7, 0xFFFFFFFF])
def test_a_wrong_group_length_of_the_command_set_does_not_matter(node: Node, length: int) -> None:
    one = node.make()
    whole = bytearray(command(one.uid))
    whole[8:12] = length.to_bytes(4, "little")
    store(node, one, pdu(fragment(bytes(whole), command=True, last=True)) + pdu(fragment(one.data, last=True)))


def test_a_command_set_without_a_group_length_and_one_with_more_elements(node: Node) -> None:
    one, other = node.make(), node.make()
    store(node, one, pdu(fragment(command(one.uid)[12:], command=True, last=True)), pdu(fragment(one.data, last=True)))
    more = command(other.uid, e1030=b"ELSEWHERE ", e1031=b"\5\0")
    store(node, other, pdu(fragment(more, command=True, last=True)) + pdu(fragment(other.data, last=True)))


def test_answers_are_the_same_byte_for_byte_as_pynetdicom_s(node: Node) -> None:
    one = node.make()
    wrong = Object("1.2.826.0.1.3680043.8.498.98", one.data)
    with associated(node) as connection:
        connection.sendall(message(one, message_id=258))
        assert pdu_of(connection)[1] == _pynetdicom_s(one.uid, 258, 0, None)
        connection.sendall(message(wrong))
        words = "SOP Instance UID of data set and command differ"
        assert pdu_of(connection)[1] == _pynetdicom_s(wrong.uid, 1, 0xA900, words)


def _pynetdicom_s(uid: str, message_id: int, status: int, comment: str | None) -> bytes:
    """The body of the P-DATA-TF that pynetdicom makes of a C-STORE-RSP."""
    answered = C_STORE()
    answered.MessageIDBeingRespondedTo, answered.Status = message_id, status
    answered.AffectedSOPClassUID, answered.AffectedSOPInstanceUID = UID(CT), UID(uid)
    if comment:
        answered.ErrorComment = comment
    made = C_STORE_RSP()
    made.primitive_to_message(answered)
    (primitive,) = made.encode_msg(CT_CONTEXT, 16384)
    return bytes(P_DATA_TF(primitive).encode())[6:]


def _pdv(size: int, body: bytes = b"\3\3abc") -> bytes:
    return size.to_bytes(4, "big") + body


@pytest.mark.parametrize(
    "body", [_pdv(0), _pdv(1), _pdv(100), _pdv(0xFFFFFFFF), b"\0\0", b"\0\0\0\3\3\3a\0\0"],
    ids=["none", "one", "longer", "longest", "half a head", "rest"],
)  # fmt: skip
def test_fragments_that_do_not_fit_into_their_pdu_end_the_association(node: Node, body: bytes) -> None:
    is_cut_off(node, b"\x04\x00" + len(body).to_bytes(4, "big") + body)


def test_a_pdu_longer_than_announced_ends_the_connection(node: Node) -> None:
    is_cut_off(node, b"\x04\x00" + (131_073).to_bytes(4, "big") + b"\0" * 2000)


def test_a_data_set_that_no_command_announced_ends_the_association(node: Node) -> None:
    is_cut_off(node, pdu(fragment(b"x" * 100, last=True)))


@pytest.mark.parametrize("other", [IMPLICIT_CONTEXT, 99])
def test_a_message_that_changes_its_context_ends_the_association(node: Node, other: int) -> None:
    one = node.make()
    begun = pdu(fragment(command(one.uid), command=True, last=True)) + pdu(fragment(one.data[:300]))
    is_cut_off(node, begun, pdu(fragment(one.data[300:], context_id=other, last=True)))


def test_a_context_that_was_not_accepted_ends_the_association(node: Node) -> None:
    is_cut_off(node, message(node.make(), context_id=99))


def test_a_uid_longer_than_any_ends_the_association(node: Node) -> None:
    one = node.make()
    is_cut_off(node, message(Object("1.2.826.0.1.3680043." + "9" * 45, one.data)))


@pytest.mark.parametrize("element", ["0002", "0110", "1000"])
def test_a_command_set_that_lacks_what_an_answer_needs_ends_the_association(node: Node, element: str) -> None:
    """pynetdicom would answer nothing, and keep the file open."""
    one = node.make()
    elements = elements_of(command(one.uid))
    assert elements is not None
    lacking = b"".join(
        number.to_bytes(4, "little")[:0]
        + b"\0\0"
        + number.to_bytes(2, "little")
        + len(value).to_bytes(4, "little")
        + value
        for number, value in elements.items()
        if number != int(element, 16)
    )
    is_cut_off(node, pdu(fragment(lacking, command=True, last=True)) + pdu(fragment(one.data, last=True)))


def test_a_class_that_is_not_its_context_s_is_refused(node: Node) -> None:
    one = node.make()
    with associated(node) as connection:
        connection.sendall(message(one, context_id=ECHO_CONTEXT))
        assert answer(connection)[2] == 0x0122
    assert not kept(node, one)


def test_a_command_set_without_end_ends_the_association(node: Node) -> None:
    is_cut_off(node, *(pdu(fragment(b"\0" * 60_000, command=True)) for _ in range(2)))


def test_a_data_set_of_another_class_or_without_a_byte_is_refused(node: Node) -> None:
    one = node.make()
    empty = pdu(fragment(command(one.uid), command=True, last=True)) + pdu(fragment(b"", last=True))
    with associated(node) as connection:
        connection.sendall(empty)
        assert answer(connection) == (0x8001, 1, 0xC000)
        connection.sendall(message(one))
        assert answer(connection) == (0x8001, 1, 0)


def test_what_was_kept_before_survives_what_breaks_off(node: Node) -> None:
    first, second = node.make(), node.make()
    with associated(node) as connection:
        connection.sendall(message(first) + pdu(fragment(command(second.uid), command=True, last=True)))
        assert answer(connection) == (0x8001, 1, 0)
    assert kept(node, first)
    assert not kept(node, second)
    assert UID(first.uid).is_valid
