"""Audit messages to a collector: syslog (RFC 5424) over TLS with octet counting (RFC 5425), as PS3.15 A.6 has it.

The trail's files are the queue, and the store remembers how far the collector certainly has them: an outage costs
nothing but time. Syslog has no acknowledgement; a line counts as delivered when the collector's host has confirmed its
bytes (TCP) and the connection still stood a moment later. What was sent before a connection broke is sent again: a
collector may get a line twice, never not at all, and `sequenceId` in its structured data tells.
"""

import contextlib
import fcntl
import json
import logging
import os
import socket
import ssl
import struct
import termios
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from config.keeping import Syslog
from config.settings import Settings, Tls
from dicom_node.audit import TrailFile
from dicom_node.audit_trail import source_of, trail_path
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.tls import client_context
from dicom_node.workitem import ConfigError

LOGGER = logging.getLogger(__name__)
BATCH = 500
SETTLED_SECONDS = 2.0  # how long a connection must have stood after a line for it to count
FIRST_DELAY_SECONDS = 2.0
NOTICE, WARNING, FACILITY = 5, 4, 10  # security/authorization messages
_BOM = b"\xef\xbb\xbf"  # RFC 5424 section 6.4: the message is UTF-8
_DECLARATION = b'<?xml version="1.0" encoding="UTF-8"?>'


@dataclass(frozen=True)
class Line:
    """A line of the trail that is to be sent. `place`: its file, by its first line, and where the next one begins."""

    number: int
    message: str
    place: tuple[int, int] = (0, 0)


def frame(line: Line, host: str, process_id: int) -> bytes:
    """One syslog message with its length before it (RFC 5425 section 4.3)."""
    message = line.message.encode("utf-8", "replace")
    moment = attribute(line.message, "EventDateTime")
    severity = NOTICE if attribute(line.message, "EventOutcomeIndicator") == "0" else WARNING
    sequence = (line.number - 1) % 2_147_483_647 + 1
    header = (
        f"<{8 * FACILITY + severity}>1 {moment or '-'} {_printable(host, 255)} prognode {process_id} DICOM+RFC3881 "
        f'[meta sequenceId="{sequence}"] '
    )
    data = header.encode("ascii") + _BOM + _DECLARATION + message
    return f"{len(data)} ".encode("ascii") + data


def attribute(message: str, name: str) -> str:
    """An attribute of a message of ours, where its value needs no unescaping."""
    return message.partition(f'{name}="')[2].partition('"')[0]


def _printable(text: str, limit: int) -> str:
    return "".join(c for c in text if "!" <= c <= "~")[:limit] or "-"


def lines_after(
    folder: Path, files: list[TrailFile], line: int, place: tuple[int, int] = (0, 0), limit: int = BATCH
) -> Iterator[Line]:
    """The lines after a line, as far as the store has them recorded; a file that is gone or cut is passed over.

    `place` is that of the line, where it is known: its file is not read from the beginning then.
    """
    for file in files:
        path = trail_path(folder, file.first)
        if file.last <= line or not path.is_file():
            continue
        with path.open("rb") as stream:
            stream.seek(place[1] if place[0] == file.first else 0)
            while stream.tell() < file.bytes and limit > 0:
                raw = stream.readline()
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    data = json.loads(raw)
                    if line < int(data["line"]) <= file.last:
                        line, limit = int(data["line"]), limit - 1
                        yield Line(line, str(data["message"]), (file.first, stream.tell()))
                if not raw:
                    break


class Forwarder:
    """Sends the trail to the collector. Belongs to one thread; `step` never waits longer than the time-out."""

    def __init__(self, store: Store, spool: Spool, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self._store, self._folder, self._clock = store, spool.audit, clock
        self._settings = settings.audit.syslog
        self._host = source_of(settings).host
        self.name = f"{self._settings.host}:{self._settings.port}"
        self._connection: ssl.SSLSocket | None = None
        self._sent: list[tuple[float, int]] = []  # (when, up to which line), not yet certain
        self._place = (0, 0)  # of the last line that was sent
        self._next_attempt = 0.0
        self._failures = 0

    def step(self) -> bool:
        """Send what is new. False when there is nothing to do now, or the collector cannot be reached."""
        wait = self._next_attempt - self._clock()
        # Longer than any delay: the clock was set back.
        if not self._settings.host or 0 < wait <= self._settings.longest_delay_seconds:
            return False
        try:
            return self._step()
        except (OSError, ConfigError) as error:  # ssl.SSLError is an OSError
            self._failed(error)
            return False

    def settle(self, seconds: float = SETTLED_SECONDS) -> None:
        """Before the end: wait until what was sent is certain, but not long."""
        end = time.monotonic() + seconds + 0.5
        over = False
        while self._sent and not over and self._clock() >= self._next_attempt:
            time.sleep(0.05)
            over = time.monotonic() >= end  # looked at before: a machine that stood still meanwhile asks once more
            with contextlib.suppress(OSError):
                self._confirm()
        self.close()

    def close(self) -> None:
        """End the connection; what is not certain is sent again by the next one."""
        connection, self._connection, self._sent, self._place = self._connection, None, [], (0, 0)
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.close()

    def _step(self) -> bool:
        if self._connection is not None:
            self._confirm()
        after = self._sent[-1][1] if self._sent else self._store.audit.sent(self.name)
        lines = list(lines_after(self._folder, self._store.audit.files(), after, self._place))
        if not lines:
            return False
        if self._connection is None:
            self._connection = connect(self._settings)
        self._connection.sendall(b"".join(frame(line, self._host, os.getpid()) for line in lines))
        self._sent.append((self._clock(), lines[-1].number))
        self._place = lines[-1].place
        if self._failures:
            LOGGER.info("audit.collector_up %s takes messages again", self.name)
            self._failures = 0
        return len(lines) == BATCH

    def _confirm(self) -> None:
        """Record what has become certain. Raises OSError when the connection has ended."""
        connection = self._connection
        if connection is None:
            return
        self._raise_if_ended(connection)
        if _unconfirmed_bytes(connection):
            if self._sent and abs(self._clock() - self._sent[0][0]) > self._settings.timeout_seconds:
                raise TimeoutError("the collector does not confirm what is sent")
            return
        settled = [line for when, line in self._sent if abs(self._clock() - when) >= SETTLED_SECONDS]
        if settled:
            self._store.audit.record_sent(self.name, settled[-1])
            self._sent = self._sent[len(settled) :]

    def _raise_if_ended(self, connection: ssl.SSLSocket) -> None:
        connection.settimeout(0.0)
        try:
            if not connection.recv(4096):
                raise ConnectionResetError("the collector has ended the connection")
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
            pass
        finally:
            connection.settimeout(self._settings.timeout_seconds)

    def _failed(self, error: Exception) -> None:
        self.close()
        self._failures += 1
        delay = min(FIRST_DELAY_SECONDS * 2.0 ** min(self._failures - 1, 20), self._settings.longest_delay_seconds)
        self._next_attempt = self._clock() + delay
        if self._failures == 1:
            why = str(error) if isinstance(error, ConfigError) else _words(error)
            LOGGER.warning("audit.collector_down %s: %s; the messages wait in the spool", self.name, why)


def connect(settings: Syslog) -> ssl.SSLSocket:
    """A connection with the collector, once each has shown its certificate. Raises OSError and ConfigError."""
    try:
        ours = Tls(ca=settings.ca, certificate=settings.certificate, private_key=settings.private_key)
        context = client_context(ours)
    except ConfigError as error:
        raise ConfigError(str(error).replace("[tls]", "[audit.syslog]")) from None
    plain = socket.create_connection((settings.host, settings.port), settings.timeout_seconds)
    try:
        connection = context.wrap_socket(plain, server_hostname=settings.host)
    except BaseException:
        plain.close()
        raise
    connection.settimeout(settings.timeout_seconds)
    return connection


def why_unreachable(settings: Settings) -> str:
    """For `prognode check`: why no connection with the collector comes about; '' when one does."""
    try:
        connect(settings.audit.syslog).close()
    except (OSError, ConfigError) as error:
        return f"cannot be reached: {error if isinstance(error, ConfigError) else _words(error)}"
    return ""


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted ({error.verify_message}); look at [audit.syslog] ca"
    return str(getattr(error, "strerror", None) or type(error).__name__)


def _unconfirmed_bytes(connection: ssl.SSLSocket) -> int:
    """What the other host has not confirmed yet of what was sent (tcp(7), SIOCOUTQ)."""
    answer = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, struct.pack("i", 0))
    return int(struct.unpack("i", answer)[0])
