"""The node's front door: connections wait here, with no thread of their own, until their association request is whole.

One thread accepts, shakes hands (TLS), reads each request and has it judged; only who is let in costs two threads. So
idle, half-open and dribbling connections cost a descriptor until their time is up, and refusing costs ten bytes.
"""

import contextlib
import errno
import logging
import selectors
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from pynetdicom.pdu import A_ABORT_RQ, A_ASSOCIATE_RJ
from pynetdicom.transport import ThreadedAssociationServer

from config.settings import Settings
from dicom_node import notify
from dicom_node.connection import callers
from dicom_node.limits import (
    MAXIMUM_REQUEST_BYTES,
    Buckets,
    Caller,
    Gate,
    NotARequest,
    network_of,
    plain_address,
    read_request,
)

LOGGER = logging.getLogger(__name__)
LAST_WORD_SECONDS = 0.5  # for an association request that is on its way when the node ends
ACCEPT_AT_ONCE = 64  # before those that wait have their turn again
LINES_PER_SECOND, LINES_IN_A_ROW = 0.2, 20  # written about one caller; ten times as many about all together
OUT_OF_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


@dataclass(frozen=True)
class Arrived:
    """A connection that is let in: what the server's request handler gets."""

    connection: socket.socket
    caller: Caller
    request: bytes


@dataclass(eq=False)
class _Visitor:
    """A connection before its association request is whole."""

    connection: socket.socket
    address: str
    server: "Listener"
    deadline: float
    shaking_hands: bool
    data: bytearray = field(default_factory=bytearray)

    @property
    def missing(self) -> int:
        """Bytes of the request that have not come yet; those of its head first (PS3.8 section 9.3.1)."""
        whole = 6 + int.from_bytes(self.data[2:6], "big") if len(self.data) >= 6 else 6
        return whole - len(self.data)


class Listener(ThreadedAssociationServer):  # type: ignore[misc]  # pynetdicom is not typed here
    """One open port. Its connections are accepted by the door, which sees to the TLS handshake too."""

    request_queue_size = 128

    def server_bind(self) -> None:
        passed = notify.passed("dicom" if self.ssl_context is None else "dicom-tls")
        self._passed = passed is not None
        if passed is None:
            super().server_bind()
        else:
            self.socket.close()  # type: ignore[has-type]
            self.socket = passed
            self.server_address = passed.getsockname()
        self.socket.setblocking(False)

    def server_activate(self) -> None:
        if not self._passed:
            super().server_activate()

    def server_close(self) -> None:
        if self._passed:  # systemd's: callers wait in it until the next start
            self.socket.close()
        else:
            super().server_close()


class Door:
    """Watches the ports in a thread of its own. `open` starts it, `close` ends it and closes visitors, not ports.

    Who has come when it closes may still say what it wants, for a moment: what it asks may be on its way already.

    `alert` hears of each line that is logged: the caller's address, and the words.
    """

    def __init__(self, settings: Settings, alert: Callable[[str, str], None] = lambda address, words: None) -> None:
        self._alert = alert
        self._limits = settings.receive
        self._gate = Gate(settings)
        # A handshake costs more than a request and cannot be refused in words: twice the rate, so requests go first.
        self._handshakes = Buckets(2 * self._limits.associations_per_second, 2 * self._limits.association_burst)
        self._lines = Buckets(LINES_PER_SECOND, LINES_IN_A_ROW)
        self._all_lines = Buckets(10 * LINES_PER_SECOND, 10 * LINES_IN_A_ROW)
        self._unsaid = 0
        self._selector = selectors.DefaultSelector()
        self._listeners: list[Listener] = []
        self._visitors: dict[_Visitor, None] = {}  # in the order they came
        self._woken, self._waker = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="door", daemon=True)
        self._closing = False
        self.turned = time.monotonic()  # when the thread was last seen at work
        self.turned_away = 0  # connections that were not let in

    def go_on_with(self, settings: Settings) -> None:
        """Judge whoever comes from now on by other settings."""
        self._limits, self._gate = settings.receive, Gate(settings)

    def open(self, listeners: list[Listener]) -> None:
        self._listeners = listeners
        for listener in listeners:
            self._selector.register(listener.socket, selectors.EVENT_READ, listener)
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        self._thread.start()

    def close(self) -> None:
        self._closing = True
        self._waker.send(b"x")
        if self._thread.ident is not None:
            self._thread.join()
        for visitor in list(self._visitors):
            self._drop(visitor)
        self._selector.close()
        self._woken.close()
        self._waker.close()

    def _run(self) -> None:
        last = float("inf")
        while time.monotonic() < last and (self._visitors or not self._closing):
            if self._closing and last == float("inf"):
                last = time.monotonic() + LAST_WORD_SECONDS
                for port in (*(listener.socket for listener in self._listeners), self._woken):
                    self._selector.unregister(port)
            self.turned = time.monotonic()
            try:
                for key, _ in self._selector.select(self._patience()):
                    if isinstance(key.data, Listener):
                        self._accept(key.data)
                    elif isinstance(key.data, _Visitor) and key.data in self._visitors:
                        self._attend(key.data)
                self._show_out()
            except Exception as error:  # noqa: BLE001 - the one thread that must never end
                LOGGER.error("door.failed %s; it goes on", type(error).__name__)
                time.sleep(0.1)

    def _patience(self) -> float:
        first = next(iter(self._visitors), None)
        if self._closing:
            return LAST_WORD_SECONDS / 10
        return 1.0 if first is None else max(0.0, min(1.0, first.deadline - time.monotonic()))

    # -- coming in -----------------------------------------------------------------------------------------------

    def _accept(self, listener: Listener) -> None:
        for _ in range(ACCEPT_AT_ONCE):
            try:
                connection, address = listener.socket.accept()
            except OSError as error:
                if error.errno in OUT_OF_DESCRIPTORS:
                    self._say(
                        "", "connection.dropped no descriptor is left; raise the limit of open files (LimitNOFILE)"
                    )
                    if not self._make_room():
                        time.sleep(0.05)
                return
            self._welcome(listener, connection, plain_address(address[0]))

    def _welcome(self, listener: Listener, connection: socket.socket, address: str) -> None:
        tls = listener.ssl_context is not None
        if tls and not self._handshakes.take(network_of(address), time.monotonic()):
            self._say(address, f"tls.refused {address}: too many TLS handshakes a second")
            _close(connection)
            return
        if len(self._visitors) >= self._limits.maximum_waiting_connections:
            self._make_room()
        try:
            connection.setblocking(False)
            # Without it every answer waits for the peer's delayed acknowledgement, up to 50 ms an object.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls:
                context = listener.ssl_context
                connection = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        except OSError:
            connection.close()
            return
        deadline = time.monotonic() + self._limits.acse_timeout_seconds
        visitor = _Visitor(connection, address, listener, deadline, shaking_hands=tls)
        self._visitors[visitor] = None
        self._selector.register(connection, selectors.EVENT_READ, visitor)

    def _make_room(self) -> bool:
        """Drop who has waited longest of those from the address that has most waiting; others need not suffer."""
        if not self._visitors:
            return False
        busiest = Counter(visitor.address for visitor in self._visitors).most_common(1)[0][0]
        visitor = next(one for one in self._visitors if one.address == busiest)
        self._say(busiest, f"connection.dropped {busiest}: too many connections wait without an association request")
        self._drop(visitor)
        return True

    def _show_out(self) -> None:
        """Those whose time is up; all have the same time, so the first came first."""
        now = time.monotonic()
        for visitor in list(self._visitors):
            if visitor.deadline > now:
                return
            missing = "TLS handshake" if visitor.shaking_hands else "association request"
            seconds = self._limits.acse_timeout_seconds
            self._say(visitor.address, f"connection.dropped {visitor.address}: no whole {missing} within {seconds:g} s")
            self._drop(visitor)

    # -- being attended to ---------------------------------------------------------------------------------------

    def _attend(self, visitor: _Visitor) -> None:
        """Go on with a visitor as far as its bytes go."""
        wanted = selectors.EVENT_READ
        try:
            if visitor.shaking_hands and isinstance(visitor.connection, ssl.SSLSocket):
                visitor.connection.do_handshake()
                visitor.shaking_hands = False
            while visitor.missing:
                data = visitor.connection.recv(min(visitor.missing, 65536))
                if not data:
                    self._drop(visitor)
                    return
                visitor.data += data
                self._check_head(visitor)
            self._let_in(visitor)
            return
        except (ssl.SSLWantReadError, BlockingIOError):
            pass
        except ssl.SSLWantWriteError:
            wanted = selectors.EVENT_WRITE
        except NotARequest as error:
            self._say(visitor.address, f"association.refused what {visitor.address} sent {error}")
            self._leave(visitor, _abort())
            return
        except OSError as error:
            if visitor.shaking_hands and isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
                self._say(visitor.address, f"tls.refused {visitor.address}: {_why(error)}")
            self._drop(visitor)
            return
        self._selector.modify(visitor.connection, wanted, visitor)

    def _check_head(self, visitor: _Visitor) -> None:
        if visitor.data[0] != 1:
            raise NotARequest("is no DICOM association request")
        if visitor.missing > MAXIMUM_REQUEST_BYTES:
            raise NotARequest("claims to be an association request longer than any")

    def _let_in(self, visitor: _Visitor) -> None:
        tls = isinstance(visitor.connection, ssl.SSLSocket)
        caller = read_request(visitor.data, visitor.address, tls=tls)
        running = callers([one for listener in self._listeners for one in listener.active_associations])
        rejection = self._gate.judge(caller, running, time.monotonic())
        if rejection is not None:
            self._say(visitor.address, f"association.refused {rejection.words}")
            answer = A_ASSOCIATE_RJ()
            answer.result, answer.source = rejection.result, rejection.source
            answer.reason_diagnostic = rejection.reason
            self._leave(visitor, answer.encode())
            return
        self._forget(visitor)
        arrived = Arrived(visitor.connection, caller, bytes(visitor.data))
        try:
            visitor.server.finish_request(arrived, visitor.connection.getpeername())
            visitor.server.service_actions()  # collects what ended associations leave in cycles, now and then
        except Exception as error:  # noqa: BLE001 - no thread, no memory: this caller's bad luck alone
            LOGGER.error("association.failed %s; the caller was cut off", type(error).__name__)
            _close(visitor.connection)

    # -- leaving -------------------------------------------------------------------------------------------------

    def _leave(self, visitor: _Visitor, answer: bytes) -> None:
        with contextlib.suppress(OSError):
            visitor.connection.send(answer)
        self._drop(visitor)

    def _drop(self, visitor: _Visitor) -> None:
        self._forget(visitor)
        _close(visitor.connection)

    def _forget(self, visitor: _Visitor) -> None:
        self._visitors.pop(visitor, None)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(visitor.connection)

    def _say(self, address: str, words: str) -> None:
        """Log a line about an address, unless there were many: the log must not fill the disk either."""
        self.turned_away += 1
        now = time.monotonic()
        if not (self._lines.take(network_of(address), now) and self._all_lines.take("", now)):
            self._unsaid += 1
            return
        unsaid, self._unsaid = self._unsaid, 0
        words += f" ({unsaid} lines before this one were left out)" if unsaid else ""
        LOGGER.warning("%s", words)
        self._alert(address, words)


def _abort() -> bytes:
    answer = A_ABORT_RQ()
    answer.source, answer.reason_diagnostic = 2, 6  # by the provider: invalid PDU parameter value (PS3.8 9.3.8)
    return bytes(answer.encode())


def _why(error: ssl.SSLError) -> str:
    """OpenSSL's own word for it; what the peer sent is not in it."""
    word = (error.reason or type(error).__name__).replace("_", " ").lower()
    if error.reason == "HTTP_REQUEST":
        return "spoke HTTP on the TLS port"
    if error.reason == "WRONG_VERSION_NUMBER":
        return "spoke no TLS on the TLS port; set TLS at the sender, or let it call the plain port"
    if error.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return "showed no certificate; install one of the authority in [tls] client_ca there"
    if error.reason in ("NO_SHARED_CIPHER", "UNSUPPORTED_PROTOCOL"):
        return f"offered no TLS 1.2 or newer with a suite of BCP 195 ({word})"
    return f"the TLS handshake failed ({word})"


def _close(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
