"""PDUs as bytes, for peers that do not keep to the protocol (PS3.8 section 9.3)."""

import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

VERIFICATION, IMPLICIT = "1.2.840.10008.1.1", "1.2.840.10008.1.2"


def item(kind: int, data: bytes) -> bytes:
    return bytes([kind, 0]) + len(data).to_bytes(2, "big") + data


def context(number: int, abstract: str = VERIFICATION, syntaxes: Sequence[str] = (IMPLICIT,)) -> bytes:
    """A presentation context of a request."""
    inner = item(0x30, abstract.encode()) + b"".join(item(0x40, syntax.encode()) for syntax in syntaxes)
    return item(0x20, bytes([number, 0, 0, 0]) + inner)


def user(*more: bytes) -> bytes:
    """User information: maximum length and implementation class UID, and `more` items."""
    return item(0x50, item(0x51, (16384).to_bytes(4, "big")) + item(0x52, b"1.2.3") + b"".join(more))


def request(
    calling: str = "MODALITY", called: str = "PROGNODE", contexts: Sequence[bytes] = (context(1),), end: bytes = b""
) -> bytes:
    """An A-ASSOCIATE-RQ; `end` takes the place of the user information."""
    body = b"\x00\x01\x00\x00" + called.encode().ljust(16) + calling.encode().ljust(16) + b"\0" * 32
    body += item(0x10, b"1.2.840.10008.3.1.1.1") + b"".join(contexts) + (end or user())
    return b"\x01\x00" + len(body).to_bytes(4, "big") + body


def data(part: bytes, *, context_id: int = 1, command: bool = False, last: bool = False) -> bytes:
    """A P-DATA-TF with one fragment."""
    pdv = bytes([context_id, command | last << 1]) + part
    return b"\x04\x00" + (len(pdv) + 4).to_bytes(4, "big") + len(pdv).to_bytes(4, "big") + pdv


def command(kind: int, sop_class_uid: str, *more: tuple[int, bytes], has_data_set: bool = False) -> bytes:
    """A DIMSE command set (PS3.7 annex E): Command Field, class, `more` elements of group 0000."""

    def element(number: int, value: bytes) -> bytes:
        return b"\0\0" + number.to_bytes(2, "little") + len(value).to_bytes(4, "little") + value

    padded = sop_class_uid.encode() + b"\0" * (len(sop_class_uid) % 2)
    elements = [(0x0002, padded), (0x0100, kind.to_bytes(2, "little")), (0x0110, b"\1\0"), *more]
    elements.append((0x0800, (0x0001 if has_data_set else 0x0101).to_bytes(2, "little")))
    body = b"".join(element(number, value) for number, value in sorted(elements))
    return element(0, len(body).to_bytes(4, "little")) + body


def connect(port: int, source: str = "127.0.0.1") -> socket.socket:
    """A plain connection from a loopback address of choice: Linux has all of 127.0.0.0/8."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=60, source_address=(source, 0))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def ask(port: int, source: str = "127.0.0.1", **who: str) -> tuple[socket.socket, bytes]:
    """Ask for an association; the connection and the first ten bytes of the answer (all of a rejection)."""
    connection = connect(port, source)
    connection.sendall(request(**who))  # type: ignore[arg-type]
    return connection, connection.recv(4096)


@contextmanager
def associated(port: int, source: str = "127.0.0.1", **who: str) -> Iterator[socket.socket]:
    connection, answer = ask(port, source, **who)
    with connection:
        assert answer[:1] == b"\x02", answer[:10]
        yield connection


def reason(answer: bytes) -> tuple[int, int, int]:
    """Result, source and reason of an A-ASSOCIATE-RJ."""
    assert answer[:1] == b"\x03", answer[:10]
    return answer[7], answer[8], answer[9]


def seconds_until_closed(
    connection: socket.socket, tick: Callable[[], object] = lambda: None, began: float | None = None
) -> float:
    """How long (since `began`) until the node closes the connection, while `tick` is called; fails after 60 s."""
    started = time.monotonic() if began is None else began
    connection.settimeout(0.05)
    while time.monotonic() - started < 60:
        try:
            tick()
            if not connection.recv(4096):
                return time.monotonic() - started
        except TimeoutError:
            continue
        except OSError:
            return time.monotonic() - started
    raise AssertionError("the connection is still open")


def echo_seconds(port: int, *options: str, calling: str = "MODALITY") -> float:
    """How long DCMTK's echoscu takes in all; it must succeed, within two minutes."""
    command = ["echoscu", *options, "-aet", calling, "-aec", "PROGNODE", "127.0.0.1", str(port)]
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return time.monotonic() - started


def answers(port: int, *options: str) -> bool:
    """Whether a C-ECHO is answered at all; how quickly is the machine's business."""
    return echo_seconds(port, *options) > 0
