"""Guards of the way of a C-STORE that nothing else holds: each of these fails where its guard is taken out.

Nothing here waits for time to pass: threads are waited for by their end, and clocks are moved by hand.
"""

import errno
import itertools
import os
import queue
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.service_class import VerificationServiceClass

from config.settings import Receive, Tls
from dicom_node import connection, fast_store, incoming
from dicom_node.connection import CallerSocket, UpperLayer, accepted
from dicom_node.fast_store import elements_of
from dicom_node.incoming import Incoming, SpoolingProvider
from dicom_node.limits import Caller
from dicom_node.receive import Receiver
from tests import wire
from tests.certificates import Authority
from tests.dicom.test_fast_store import (
    CONTEXTS,
    Node,
    Object,
    _echo,
    _maker,
    answer,
    associated,
    command,
    fragment,
    is_cut_off,
    kept,
    message,
    pdu,
    pdu_of,
    store,
)
from tests.dicom.test_receive_faults import until
from tests.network import files, receiving, settings_for


@pytest.fixture(params=[True, False], ids=["fast", "stock"])
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Node]:
    with receiving(tmp_path, settings_for(fast=request.param)) as (receiver, spool):
        yield Node(receiver.port, receiver.tls_port, spool, _maker(tmp_path), request.param)


@pytest.fixture
def fast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """Takes the short way also where the association's thread is slow to begin."""
    is_free = SpoolingProvider.is_free
    monkeypatch.setattr(SpoolingProvider, "is_free", lambda self: self._attending.wait(60) and is_free(self))
    with receiving(tmp_path, settings_for(fast=True)) as (receiver, spool):
        yield Node(receiver.port, receiver.tls_port, spool, _maker(tmp_path), True)


class Mortal:
    """Lets the thread of an association raise as a bug would, and waits for its end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._dying = threading.Event()
        real = SpoolingProvider.get_msg

        def get_msg(provider: SpoolingProvider, block: bool = False) -> Any:
            if self._dying.is_set():
                raise RuntimeError("a bug")
            return real(provider, block)

        monkeypatch.setattr(SpoolingProvider, "get_msg", get_msg)
        monkeypatch.setattr(threading, "excepthook", lambda _: None)  # what the thread raises is no surprise here

    def die(self, association: Association) -> None:
        self._dying.set()
        association.dimse.news.set()
        association.join(60)
        assert not association.is_alive()


class Within:
    """Calls something whenever the short way waits for the next PDU, in the thread that waits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, happens: Callable[[UpperLayer], object]) -> None:
        self._inside = threading.local()
        goes_on, wait = UpperLayer.goes_on, CallerSocket.wait

        def goes(layer: UpperLayer) -> bool:
            self._inside.layer = layer
            try:
                return goes_on(layer)
            finally:
                self._inside.layer = None

        def waits(socket_: CallerSocket, milliseconds: int, *other: int) -> bool:
            if getattr(self._inside, "layer", None) is not None:
                happens(self._inside.layer)
            return wait(socket_, milliseconds, *other)

        monkeypatch.setattr(UpperLayer, "goes_on", goes)
        monkeypatch.setattr(CallerSocket, "wait", waits)


def test_an_association_whose_own_thread_has_raised_is_not_served_on(
    fast: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    mortal, goes_on = Mortal(monkeypatch), UpperLayer.goes_on

    def after_the_end(layer: UpperLayer) -> bool:
        mortal.die(layer.assoc)
        return goes_on(layer)

    monkeypatch.setattr(UpperLayer, "goes_on", after_the_end)
    one = fast.make()
    with associated(fast) as made:
        made.sendall(message(one))
        assert pdu_of(made)[0] in (0, 7), "it was answered"
    assert not kept(fast, one)


def test_an_association_whose_own_thread_raises_while_a_pdu_is_waited_for_is_not_served_on(
    fast: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    mortal, one = Mortal(monkeypatch), fast.make()

    def dies(layer: UpperLayer) -> None:
        mortal.die(layer.assoc)
        made.sendall(pdu(fragment(one.data, last=True)))
        assert select.select([layer.socket.socket], [], [], 60)[0]

    Within(monkeypatch, dies)
    with associated(fast) as made:
        made.sendall(pdu(fragment(command(one.uid), command=True, last=True)))
        assert pdu_of(made)[0] in (0, 7), "it was answered"
    assert not kept(fast, one)


def stored_in_two_halves(monkeypatch: pytest.MonkeyPatch, made: socket.socket, one: Object) -> None:
    """The second half is sent when the node waits for it in the middle of a PDU."""
    poll, whole = CallerSocket._poll_for, message(one)
    left = bytearray(whole[-100:])

    def comes(self: CallerSocket, seconds: float) -> None:
        rest, left[:] = bytes(left), b""
        made.sendall(rest)
        poll(self, seconds)

    monkeypatch.setattr(CallerSocket, "_poll_for", comes)
    made.sendall(whole[:-100])
    assert answer(made) == (0x8001, 1, 0)
    assert not left


def test_what_the_node_itself_has_to_say_wakes_who_waits_for_the_next_object(
    fast: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting: queue.Queue[Association] = queue.Queue()
    monkeypatch.setattr(connection, "IDLE_MILLISECONDS", 120_000)  # far longer than the abort is waited for
    Within(monkeypatch, lambda layer: waiting.put(layer.assoc))
    with associated(fast) as made:
        stored_in_two_halves(monkeypatch, made, fast.make())
        aborts = threading.Thread(target=waiting.get(timeout=60).abort, daemon=True)
        aborts.start()
        assert pdu_of(made)[0] == 7
    aborts.join(60)


def test_a_pdu_has_its_time_from_its_own_beginning_and_not_from_that_of_the_one_before(
    fast: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, goes_on = [0.0], UpperLayer.goes_on

    def an_hour_later(layer: UpperLayer) -> bool:
        now[0] += 3600.0
        return goes_on(layer)

    monkeypatch.setattr(connection, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=time.sleep))
    monkeypatch.setattr(UpperLayer, "goes_on", an_hour_later)
    with associated(fast) as made:
        stored_in_two_halves(monkeypatch, made, fast.make())


@pytest.mark.parametrize(
    ("happens", "ends"),
    [
        pytest.param(lambda layer: layer.assoc.acse.send_abort(0), 7, id="the node aborts"),
        pytest.param(lambda layer: layer.event_queue.put("Evt19"), 7, id="a message was found wrong"),
        pytest.param(lambda layer: layer.kill_dul(), 0, id="the upper layer is told to end"),
    ],
)
def test_what_has_to_be_done_goes_before_the_next_pdu(
    fast: Node, monkeypatch: pytest.MonkeyPatch, happens: Callable[[UpperLayer], object], ends: int
) -> None:
    goes_on = UpperLayer.goes_on
    monkeypatch.setattr(UpperLayer, "goes_on", lambda layer: (happens(layer), goes_on(layer))[1])
    one = fast.make()
    with associated(fast) as made:
        made.sendall(message(one))
        assert pdu_of(made)[0] == ends
    assert not kept(fast, one)


@pytest.mark.parametrize("node", [True], ids=["fast"], indirect=True)
@pytest.mark.parametrize("stage", ["waits", "is served", "is answered"])
def test_an_object_does_not_overtake_the_message_before_it(
    node: Node, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """The echo waits for its thread, is held by its service, or has its answer in the queue, as the object comes."""
    armed, fetch, serving, serve = (threading.Event() for _ in range(4))
    is_free, scp = SpoolingProvider.is_free, VerificationServiceClass.SCP
    free: list[bool] = []

    def looks(provider: SpoolingProvider) -> bool:
        if not armed.is_set():
            clear = provider._attending.clear
            monkeypatch.setattr(provider._attending, "clear", lambda: (armed.is_set() and fetch.wait(60), clear())[1])
            return is_free(provider)
        if stage != "waits":
            fetch.set()
            assert serving.wait(60)
        if stage == "is answered":
            serve.set()
            assert until(lambda: not provider.dul.to_provider_queue.empty() and provider._attending.is_set())
        free.append(is_free(provider))
        fetch.set()
        serve.set()
        return free[-1]

    def serves(*arguments: Any) -> None:
        serving.set()
        serve.wait(60)
        scp(*arguments)

    monkeypatch.setattr(SpoolingProvider, "is_free", looks)
    monkeypatch.setattr(VerificationServiceClass, "SCP", serves)
    first, one = node.make(), node.make()
    with associated(node) as made:
        made.sendall(message(first))
        assert answer(made) == (0x8001, 1, 0)
        armed.set()
        made.sendall(_echo(7) + message(one, message_id=8))
        assert [answer(made) for _ in range(2)] == [(0x8030, 7, 0), (0x8001, 8, 0)]
    assert free == [False]
    assert kept(node, one)


def test_who_does_not_wait_for_answers_is_made_to_wait(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    most, serve, waiting = 20, threading.Event(), [0]
    scp, take = VerificationServiceClass.SCP, SpoolingProvider.receive_primitive

    def serves(*arguments: Any) -> None:
        serve.wait(60)
        scp(*arguments)

    def takes(provider: SpoolingProvider, primitive: Any) -> None:
        take(provider, primitive)
        waiting.append(provider.msg_queue.qsize())
        if len(waiting) > most:
            serve.set()

    def sleeps(seconds: float) -> None:
        if max(waiting) >= connection.MAXIMUM_UNANSWERED:
            serve.set()
        time.sleep(seconds)

    monkeypatch.setattr(VerificationServiceClass, "SCP", serves)
    monkeypatch.setattr(SpoolingProvider, "receive_primitive", takes)
    monkeypatch.setattr(connection, "time", SimpleNamespace(monotonic=time.monotonic, sleep=sleeps))
    with associated(node) as made:
        made.sendall(_echo() * most)
        assert {answer(made) for _ in range(most)} == {(0x8030, 1, 0)}
    assert max(waiting) == connection.MAXIMUM_UNANSWERED


def test_an_association_that_brings_objects_is_not_idle(fast: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on, counts = UpperLayer.goes_on, []

    def looks(layer: UpperLayer) -> bool:
        layer._idle_timer._start_time = None
        try:
            return goes_on(layer)
        finally:
            counts.append(layer._idle_timer._start_time is not None)

    monkeypatch.setattr(UpperLayer, "goes_on", looks)
    one = fast.make()
    store(fast, one, message(one))
    assert set(counts) == {True}


def test_an_answer_is_cut_into_pdus_that_its_sender_takes(node: Node) -> None:
    most, one = 64, node.make()
    end = wire.item(0x50, wire.item(0x51, most.to_bytes(4, "big")) + wire.item(0x52, b"1.2.3"))
    with wire.associated(node.port, contexts=CONTEXTS, end=end) as made:  # type: ignore[arg-type]
        made.sendall(message(one))
        said, control = b"", 0
        while not control & 2:
            kind, body = pdu_of(made)
            assert (kind, len(body) <= most) == (4, True)
            said, control = said + body[6:], body[5]
    elements = elements_of(said)
    assert elements is not None
    assert (elements[0x0100], elements[0x0900]) == (b"\x01\x80", b"\0\0")
    assert kept(node, one)


@pytest.mark.parametrize("beyond", [3, 8], ids=["a PDU's head", "a fragment's head"])
def test_what_is_read_ahead_may_end_anywhere_in_the_next_message(
    node: Node, monkeypatch: pytest.MonkeyPatch, beyond: int
) -> None:
    sent = [node.make() for _ in range(8)]
    most = len(message(sent[0])) + beyond
    monkeypatch.setattr(connection, "READ_BYTES", most)
    monkeypatch.setattr(fast_store, "READ_BYTES", most)
    monkeypatch.setattr(connection, "LEAST_ROOM_BYTES", 16)
    with associated(node) as made:
        made.sendall(b"".join(message(one, message_id=number) for number, one in enumerate(sent)))
        assert {answer(made) for _ in sent} == {(0x8001, number, 0) for number in range(len(sent))}
    assert all(kept(node, one) for one in sent)


def test_a_data_set_that_trickles_in_whole_pdus_of_a_byte_is_cut_off(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    late, opens = [0.0], Incoming.open

    def opens_an_hour_ago(self: Incoming, *names: str) -> None:
        opens(self, *names)
        late[0] += 3600.0

    monkeypatch.setattr(incoming, "time", SimpleNamespace(monotonic=lambda: late[0]))
    monkeypatch.setattr(Incoming, "open", opens_an_hour_ago)
    one = node.make()
    bytes_ = (pdu(fragment(one.data[at : at + 1], last=at + 1 == len(one.data))) for at in range(len(one.data)))
    is_cut_off(node, pdu(fragment(command(one.uid), command=True, last=True)), b"".join(bytes_))


def test_a_message_has_its_time_from_its_own_beginning(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    late = [0.0]
    monkeypatch.setattr(incoming, "time", SimpleNamespace(monotonic=lambda: late[0]))
    sent = [node.make() for _ in range(3)]
    with associated(node) as made:
        for one in sent:
            late[0] += 3600.0
            made.sendall(message(one))
            assert answer(made) == (0x8001, 1, 0)
    assert all(kept(node, one) for one in sent)


def test_a_bug_while_an_object_is_kept_is_answered_and_leaves_no_file(
    node: Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> NoReturn:
        raise LookupError("a bug")

    lost, one = node.make(), node.make()
    with associated(node) as made:
        with monkeypatch.context() as during:
            during.setattr(Receiver, "_keep", broken)
            made.sendall(message(lost))
            assert answer(made) == (0x8001, 1, 0xC211)
        assert list(node.spool.incoming.iterdir()) == []
        made.sendall(message(one))
        assert answer(made) == (0x8001, 1, 0)
    assert (kept(node, lost), kept(node, one)) == (False, True)
    assert "a bug" not in caplog.text


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "stock"])
def test_what_tls_has_decrypted_already_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    issued = Authority(tmp_path / "ca").issue("node")
    tls = Tls(listen="only", port=0, certificate=issued.certificate, private_key=issued.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    once = 2048 // len(_echo())
    monkeypatch.setattr(connection, "READ_BYTES", once * len(_echo()))  # the end of a message, in mid-record
    with (
        receiving(tmp_path, replace(settings_for(fast=fast), tls=tls)) as (receiver, _),
        context.wrap_socket(wire.connect(receiver.tls_port)) as made,
    ):
        made.sendall(wire.request(contexts=CONTEXTS))
        assert pdu_of(made)[0] == 2
        made.sendall(_echo() * 2 * once)
        assert {answer(made) for _ in range(2 * once)} == {(0x8030, 1, 0)}


def test_a_disk_that_takes_seven_bytes_at_a_time_has_the_whole_file(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    writev, sizes = os.writev, []

    def seven(descriptor: int, parts: list[memoryview]) -> int:
        whole = b"".join(parts)
        sizes.append(len(whole))
        return writev(descriptor, [whole[:7]])

    monkeypatch.setattr(os, "writev", seven)
    monkeypatch.setattr(incoming, "BUFFER_BYTES", 600)  # so that what was gathered goes out together with what comes
    one = node.make()
    parts = [one.data[at : at + 450] for at in range(0, len(one.data), 450)]
    head = pdu(fragment(command(one.uid), command=True, last=True))
    store(node, one, head, *(pdu(fragment(part, last=part is parts[-1])) for part in parts))
    assert max(sizes) >= 600
    assert len(sizes) > 100


def test_an_object_of_which_one_write_failed_is_refused_even_if_the_disk_is_well_again(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    writev, calls = os.writev, itertools.count()

    def fails_once(descriptor: int, parts: list[memoryview]) -> int:
        if not next(calls):
            raise OSError(errno.ENOSPC, "No space left on device")
        return writev(descriptor, parts)

    monkeypatch.setattr(incoming, "BUFFER_BYTES", 600)
    lost, one = node.make(), node.make()
    head = pdu(fragment(command(lost.uid), command=True, last=True))
    with associated(node) as made:
        monkeypatch.setattr(os, "writev", fails_once)
        made.sendall(head + pdu(fragment(lost.data[:700])) + pdu(fragment(lost.data[700:], last=True)))
        assert answer(made) == (0x8001, 1, 0xA700)
        assert list(node.spool.incoming.iterdir()) == []
        made.sendall(message(one))
        assert answer(made) == (0x8001, 1, 0)
    assert (len(files(node.spool)), kept(node, one)) == (1, True)


def test_the_rest_of_an_answer_that_the_socket_took_in_part_is_sent() -> None:
    association = Association(AE("PROGNODE"), "acceptor")
    ours, theirs = socket.socketpair()
    said, heard = os.urandom(3_000_000), bytearray()

    def listen() -> None:
        while piece := theirs.recv(1 << 20):
            heard.extend(piece)

    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        accepted(association, ours, Caller("MODALITY", "PROGNODE", "127.0.0.1"), b"", Receive())
        ours.settimeout(0)  # as it is once something was read from it
        listener = threading.Thread(target=listen)
        at_once: list[int] = []
        send = association.dul.socket._sent_at_once

        def counted(data: bytes) -> int:
            at_once.append(send(data))
            listener.start()  # nothing makes room before
            return at_once[-1]

        association.dul.socket._sent_at_once = counted
        association.dul.socket.send(said)
        ours.shutdown(socket.SHUT_WR)
        listener.join(60)
    assert 0 < at_once[0] < len(said)
    assert bytes(heard) == said
    assert list(association.dul.event_queue.queue) == ["Evt5"]  # connected, and not closed
