"""A collector of audit messages for the tests: syslog over TLS with octet counting (RFC 5425), and moods of its own."""

import contextlib
import re
import socket
import ssl
import threading
from pathlib import Path
from typing import NamedTuple

from tests.certificates import Authority, Issued

_HEADER = re.compile(
    rb"<(?P<priority>\d{1,3})>1 (?P<time>\S+) (?P<host>\S+) (?P<app>\S+) (?P<pid>\S+) (?P<id>\S+) (?P<data>-|\[.*?\]) "
)


class Message(NamedTuple):
    """A syslog message, taken apart (RFC 5424 section 6)."""

    priority: int
    time: str
    host: str
    app: str
    message_id: str
    sequence: int
    text: str


class Collector:
    """Listens on a port that stays its own when it is down. `deaf`: takes connections and reads nothing."""

    def __init__(self, folder: Path, *, client_ca: Path | None = None, authority: Authority | None = None) -> None:
        self.authority = authority or Authority(folder)
        ours = self.authority.issue("collector")
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(ours.certificate, ours.key)
        if client_ca is not None:
            self._context.load_verify_locations(client_ca)
            self._context.verify_mode = ssl.CERT_REQUIRED
        self.messages: list[Message] = []
        self.raw = bytearray()
        self.connections = 0
        self.deaf = False
        self.drop_after: int | None = None  # so many messages of a connection are taken, then it is reset
        self.dropped = 0
        self._listener: socket.socket | None = None
        self._open: list[socket.socket] = []
        self.port = 0
        self.start()

    def start(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen()
        self.port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._serve, args=(listener,), daemon=True).start()

    def stop(self) -> None:
        """The collector's host is gone: nothing listens, and what stands is reset."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
                socket.socket.shutdown(connection, socket.SHUT_RDWR)  # ssl's own pulls its state from under the reader
                connection.close()
        self._open.clear()

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._talk, args=(plain,), daemon=True).start()

    def _talk(self, plain: socket.socket) -> None:
        if self.deaf:
            self._open.append(plain)
            return
        with contextlib.suppress(OSError):
            connection = self._context.wrap_socket(plain, server_side=True)
            self._open.append(connection)
            taken = 0
            with connection.makefile("rb") as stream:
                while (length := self._length(stream)) is not None:
                    if self.drop_after is not None and taken >= self.drop_after:
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
                        stream.close()
                        connection.close()
                        self.dropped += 1
                        return
                    if len(data := stream.read(length)) < length:  # the connection broke
                        return
                    self.messages.append(parsed(data))
                    taken += 1

    @staticmethod
    def _length(stream: object) -> int | None:
        digits = b""
        while (byte := stream.read(1)) not in (b" ", b""):  # type: ignore[attr-defined]
            assert byte.isdigit(), byte
            digits += byte
        return int(digits) if digits else None

    @property
    def sequences(self) -> list[int]:
        return [message.sequence for message in self.messages]


def parsed(data: bytes) -> Message:
    found = _HEADER.match(data)
    assert found is not None, data[:200]
    rest = data[found.end() :]
    assert rest.startswith(b"\xef\xbb\xbf"), "a BOM goes before UTF-8"
    sequence = re.fullmatch(rb'\[meta sequenceId="(\d+)"\]', found["data"])
    assert sequence is not None
    return Message(
        int(found["priority"]),
        found["time"].decode(),
        found["host"].decode(),
        found["app"].decode(),
        found["id"].decode(),
        int(sequence[1]),
        rest[3:].decode("utf-8"),
    )


__all__ = ["Authority", "Collector", "Issued", "Message"]
