"""Connections that idle, dribble, claim too much or stop half-way: each ends in its time, and none stops the others."""

import re
import resource
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from pynetdicom import AE
from pynetdicom.association import Association

from config.settings import Receive
from dicom_node import door
from dicom_node.connection import accepted
from dicom_node.instance import CT
from dicom_node.limits import Caller
from tests import wire
from tests.certificates import Authority
from tests.dicom.test_receive_faults import resident, until
from tests.network import association, receiving, settings_for, store_file
from tests.paths import ROOT
from tests.synthetic import ct_series, save

SOON = 40.0  # seconds: well before the time-outs that would end it otherwise, on a busy machine too

CHILD = """
import sys, time
from dataclasses import replace
from pathlib import Path
from config.settings import Tls
from dicom_node.receive import Receiver
from dicom_node.spool import Spool
from tests.network import settings_for
folder, authority, certificate, key = map(Path, sys.argv[1:5])
tls = Tls(listen="beside", port=0, certificate=certificate, private_key=key, client_ca=authority)
receiver = Receiver(replace(settings_for(**eval(sys.argv[5])), tls=tls), Spool(folder))
receiver.start()
print(receiver.port, receiver.tls_port, flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


class Node:
    """A receiver with a plain and a TLS port in a process of its own."""

    def __init__(self, folder: Path, authority: Authority, descriptors: int | None, receive: dict[str, object]) -> None:
        node = authority.issue("node")
        self.modality = authority.issue("modality")
        command = [sys.executable, "-c", CHILD, folder, authority.path, node.certificate, node.key, repr(receive)]
        limit = (
            (lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))) if descriptors else None
        )
        self.log = folder.with_suffix(".log")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                list(map(str, command)), stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT, preexec_fn=limit
            )
        assert self.process.stdout is not None
        self.port, self.tls_port = map(int, self.process.stdout.readline().split())
        self.tls_options = ["+tls", str(self.modality.key), str(self.modality.certificate), "+cf", str(authority.path)]

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    def threads(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"Threads:\s+(\d+)", status)[1])  # type: ignore[index]


@contextmanager
def node(folder: Path, authority: Authority, descriptors: int | None = None, **receive: object) -> Iterator[Node]:
    made = Node(folder / "spool", authority, descriptors, receive)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.wait()
        assert made.process.stdout is not None
        made.process.stdout.close()


def test_a_c_echo_answers_within_a_second_while_200_idle_and_50_half_open_tls_sockets_hang(
    tmp_path: Path, authority: Authority
) -> None:
    with node(tmp_path, authority, acse_timeout_seconds=60.0) as running, ExitStack() as open_:
        threads = running.threads()
        for _ in range(200):
            open_.enter_context(wire.connect(running.port))
        for number in range(50):
            half = open_.enter_context(wire.connect(running.tls_port))
            half.sendall((b"\x16\x03\x01\x02\x00\x01", b"\x16", b"")[number % 3])
        plain = [wire.echo_seconds(running.port) for _ in range(5)]
        secure = [wire.echo_seconds(running.tls_port, *running.tls_options) for _ in range(5)]
        assert until(lambda: running.threads() <= threads + 2)  # what hangs has no thread; an echo may just be ending
    print(f"C-ECHO with 250 hanging sockets: plain {max(plain):.3f} s, TLS {max(secure):.3f} s at most")
    assert max(plain + secure) < 40.0  # were one of them waited for, it would be the 60 s of acse_timeout_seconds


def test_45_associations_that_say_nothing_cost_next_to_no_time(tmp_path: Path, authority: Authority) -> None:
    with node(tmp_path, authority, maximum_associations_per_peer=50) as running, ExitStack() as open_:
        for _ in range(45):
            open_.enter_context(wire.associated(running.port))
        time.sleep(0.3)
        before, began = running.cpu_seconds(), time.monotonic()
        time.sleep(1.5)
        used = (running.cpu_seconds() - before) / (time.monotonic() - began)
        assert wire.answers(running.port)
    print(f"45 idle associations: {100 * used:.0f} % of a processor")
    assert used < 0.3  # pynetdicom's own loops take a whole one


def test_an_association_request_that_does_not_become_whole_ends_at_its_time_out(tmp_path: Path) -> None:
    with receiving(tmp_path, settings_for(acse_timeout_seconds=1.0)) as (receiver, _), ExitStack() as open_:
        began = time.monotonic()
        silent = [open_.enter_context(wire.connect(receiver.port)) for _ in range(5)]
        for connection, part in zip(silent, (0, 1, 6, 60, 0), strict=True):
            connection.sendall(wire.request()[:part])
        whole = iter(wire.request())
        ticks = [lambda: None] * 4 + [lambda: silent[-1].sendall(bytes([next(whole)]))]  # the last one dribbles
        assert all(0.8 < seconds < SOON for seconds in until_closed(silent, ticks, began))
        assert wire.answers(receiver.port)


def test_a_pdu_that_does_not_become_whole_ends_its_association(tmp_path: Path) -> None:
    begun = (b"\x04", b"\x04\x00\x00\x00", b"\x04\x00\x00\x00\x10\x00" + b"\0\0\x0f\xfc\1\1" + b"\0" * 3)
    settings = settings_for(dimse_timeout_seconds=1.0, network_timeout_seconds=60.0)
    with receiving(tmp_path, settings) as (receiver, _), ExitStack() as open_:
        began = time.monotonic()
        made = [open_.enter_context(wire.associated(receiver.port)) for _ in range(6)]
        for connection, part in zip(made, begun * 2, strict=True):
            connection.sendall(part)
        ticks = [lambda: None] * 3 + [lambda one=one: one.sendall(b"\0") for one in made[3:]]
        closed = until_closed(made, ticks, began)
    assert all(0.8 < seconds < SOON for seconds in closed[:3])
    assert all(seconds < SOON for seconds in closed[3:])  # what dribbles in may make it whole, and no PDU, before that


def until_closed(connections: list[socket.socket], ticks: list[Callable[[], object]], began: float) -> list[float]:
    """`wire.seconds_until_closed` of all of them at once."""
    with ThreadPoolExecutor(len(connections)) as pool:
        return list(pool.map(wire.seconds_until_closed, connections, ticks, [began] * len(connections)))


def test_a_message_in_many_tiny_pdus_may_not_take_for_ever(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = settings_for(dimse_timeout_seconds=1.0, network_timeout_seconds=60.0)
    began = time.monotonic()
    with receiving(tmp_path, settings) as (receiver, _), wire.associated(receiver.port) as made:
        tick = partial(made.sendall, wire.data(b"\0", command=True))
        assert 0.8 < wire.seconds_until_closed(made, tick, began) < SOON
    assert "association.aborted a message comes too slowly" in caplog.text


@pytest.mark.parametrize("announced", [131072, 0], ids=["131072", "no limit announced"])
def test_a_pdu_that_claims_4_gb_is_refused_before_it_is_read(
    tmp_path: Path, announced: int, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_for(maximum_pdu_bytes=announced, dimse_timeout_seconds=60.0)
    with receiving(tmp_path, settings) as (receiver, _), wire.associated(receiver.port) as made:
        made.sendall(b"\x04\x00\xff\xff\xff\xff" + b"\0" * 1000)
        assert wire.seconds_until_closed(made) < SOON
    assert "a PDU of 4294967295 bytes" in caplog.text


def test_with_no_limit_announced_a_pdu_of_4_mb_is_taken(tmp_path: Path) -> None:
    dataset = ct_series(1, 1448, 1448, seed=33)[0]
    path = save(dataset, tmp_path / "out")
    with (
        receiving(tmp_path, settings_for(maximum_pdu_bytes=0)) as (receiver, _),
        association(receiver.port, [CT]) as made,
    ):
        assert made.acceptor.maximum_length == 0  # and so this sender puts the whole object into one PDU
        assert store_file(made, path)[0] == 0x0000


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (wire.data(b"\0" * 70_000, command=True), "has a command set of more than 65536 bytes"),
        (b"\x04\x00\x00\x00\x00\x06\x00\x00\x00\x00\x01\x03", ""),  # a fragment of no length
        (b"\x09\x00\x00\x00\x00\x04\x00\x00\x00\x00", ""),  # no such PDU
        (wire.request(), ""),  # a second request
    ],
)
def test_what_is_no_message_ends_its_own_association_and_no_other(
    tmp_path: Path, sent: bytes, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with receiving(tmp_path) as (receiver, _), association(receiver.port, [CT]) as other:
        path = save(ct_series(1, seed=34)[0], tmp_path / "out")
        with wire.associated(receiver.port) as made:
            made.sendall(wire.data(b"\0" * 100, command=True) + sent)
            assert wire.seconds_until_closed(made) < SOON
        assert store_file(other, path)[0] == 0x0000
    assert said in caplog.text


MALFORMED = {
    "no transfer syntax": wire.request(contexts=[wire.context(1, syntaxes=[])]),
    "even number": wire.request(contexts=[wire.context(2)]),
    "no abstract syntax": wire.request(contexts=[wire.item(0x20, b"\1\0\0\0" + wire.item(0x40, b"1.2"))]),
    "129 contexts": wire.request(contexts=[wire.context(1)] * 129),
    "65 transfer syntaxes": wire.request(contexts=[wire.context(1, syntaxes=[wire.IMPLICIT] * 65)]),
    "513 user items": wire.request(end=wire.user(*[wire.item(0x55, b"x")] * 511)),
    "item past its end": wire.request(contexts=[b"\x20\x00\xff\xff\x01\0\0\0"]),
    "too short": b"\x01\x00\x00\x00\x00\x04\x00\x01\x00\x00",
    "claims 4 GB": b"\x01\x00\xff\xff\xff\xff",
    "release before request": b"\x05\x00\x00\x00\x00\x04\x00\x00\x00\x00",
}


@pytest.mark.parametrize("sent", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_association_request_is_aborted_at_once(
    tmp_path: Path, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with receiving(tmp_path) as (receiver, _):
        with wire.connect(receiver.port) as hostile:
            hostile.sendall(sent)
            assert hostile.recv(100) == b"\x07\x00\x00\x00\x00\x04\x00\x00\x02\x06"  # A-ABORT, invalid parameter
            assert wire.seconds_until_closed(hostile) < SOON
        assert wire.answers(receiver.port)
    assert "association.refused what 127.0.0.1 sent" in caplog.text


def test_requests_that_only_pynetdicom_finds_malformed_leave_no_thread_behind(tmp_path: Path) -> None:
    odd = [
        wire.request(end=b"\x00"),  # no user information, and a byte too many
        wire.request(end=wire.item(0x50, b"")),
        wire.request(end=wire.item(0x50, wire.item(0x51, b"\0"))),
        wire.request(end=wire.item(0x50, wire.item(0x58, b"\xff" * 40))),
        wire.request(end=wire.item(0x50, wire.item(0x54, b"\x00\xff1.2"))),
        wire.request(end=wire.item(0x77, b"?")),
        wire.request(contexts=[wire.context(1, abstract="\0" * 80)]),
        wire.request(contexts=[wire.context(1), wire.context(1)]),
        wire.request(contexts=[wire.context(3, abstract="../../etc")]),
        wire.request(contexts=[]),
    ]
    settings = settings_for(acse_timeout_seconds=1.0, network_timeout_seconds=1.0)
    with receiving(tmp_path, settings) as (receiver, _):
        before = threading.active_count()
        for sent in odd:
            with wire.connect(receiver.port) as hostile:
                hostile.sendall(sent)
                hostile.settimeout(0.2)
                with suppress(OSError):
                    hostile.recv(100)
        assert until(lambda: threading.active_count() <= before), threading.enumerate()
        assert wire.answers(receiver.port)


def test_connections_beyond_the_waiting_room_push_out_their_own_kind_and_not_the_known(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_for(maximum_waiting_connections=20, acse_timeout_seconds=60.0)
    with receiving(tmp_path, settings) as (receiver, _), ExitStack() as open_:
        slow = open_.enter_context(wire.connect(receiver.port, "127.0.0.9"))
        slow.sendall(wire.request()[:50])
        crowd = [open_.enter_context(wire.connect(receiver.port, "127.0.0.5")) for _ in range(60)]
        assert wire.answers(receiver.port)
        slow.sendall(wire.request()[50:])
        assert slow.recv(100)[:1] == b"\x02"
        assert all(wire.seconds_until_closed(each) < SOON for each in crowd[:40])
    assert "connection.dropped 127.0.0.5: too many connections wait" in caplog.text


def test_a_node_without_descriptors_left_still_answers(tmp_path: Path, authority: Authority) -> None:
    with node(tmp_path, authority, descriptors=64, acse_timeout_seconds=30.0) as running, ExitStack() as open_:
        for _ in range(100):
            open_.enter_context(wire.connect(running.port))
        assert wire.answers(running.port)
        assert "connection.dropped no descriptor is left" in running.log.read_text()


def test_a_flood_of_refusals_does_not_fill_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    monkeypatch.setattr(door, "time", SimpleNamespace(monotonic=lambda: now, sleep=time.sleep))  # however slow we are
    with receiving(tmp_path) as (receiver, _):
        for _ in range(120):
            connection, answer = wire.ask(receiver.port, calling="STRANGER")
            connection.close()
            assert wire.reason(answer) == (1, 1, 3)
    lines = [record for record in caplog.records if "association.refused" in record.getMessage()]
    assert 15 <= len(lines) <= 40


def test_a_peer_that_reads_no_answer_is_left() -> None:
    """Its window is full: the node must not wait for it with a thread for ever."""
    association = Association(AE("PROGNODE"), "acceptor")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        limits = replace(Receive(), dimse_timeout_seconds=0.5)
        accepted(association, ours, Caller("GREEDY", "PROGNODE", "127.0.0.1"), b"", limits)
        started = time.monotonic()
        association.dul.socket.send(b"x" * 50_000_000)
        assert time.monotonic() - started < SOON
        assert list(association.dul.event_queue.queue) == ["Evt5", "Evt17"]  # connected; closed


def test_a_peer_that_leaves_with_many_requests_unanswered_leaves_no_thread_behind(tmp_path: Path) -> None:
    echo = wire.data(wire.command(0x30, wire.VERIFICATION), command=True, last=True)
    with receiving(tmp_path) as (receiver, _):
        before = threading.active_count()
        for number, seconds in ((1, 0.0), (20, 0.01), (2000, 0.0), (2000, 0.1)):
            for reset in (False, True):
                with wire.associated(receiver.port) as made:
                    made.sendall(echo * number)
                    time.sleep(seconds)
                    if reset:
                        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert until(lambda: threading.active_count() <= before), threading.enumerate()
        assert wire.answers(receiver.port)


def test_memory_is_given_back_after_hostile_connections(tmp_path: Path, authority: Authority) -> None:
    with node(tmp_path, authority, acse_timeout_seconds=1.0) as running:
        wire.echo_seconds(running.port)
        before = resident(running.process.pid, "VmRSS")
        for _ in range(300):
            connection = wire.connect(running.port)
            connection.sendall(
                b"\x01\x00\x00\x03\xff\xff" + b"\0" * 200_000
            )  # a request of the largest size, unfinished
            connection.close()
        for _ in range(100):
            with wire.associated(running.port) as made:
                made.sendall(b"\x04\x00\x00\x01\x00\x00" + b"\0" * 60_000)
        assert until(lambda: running.threads() < 10)
        growth = resident(running.process.pid, "VmRSS") - before
    assert growth < 40_000_000, f"{growth / 1e6:.0f} MB"
