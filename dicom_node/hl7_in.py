"""The MLLP listener: HL7 messages about patients and their values come in here. Acknowledged only after the commit.

Connections are cheap to open and may idle for hours, so they are limited: a new one takes the place of the one that has
been idle longest, which loses nothing, and one that stops in mid-message is dropped.
"""

import ipaddress
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from config.hl7 import mistakes
from config.settings import Hl7, Settings, SettingsError, Tls
from dicom_node import notify, tls
from dicom_node.clinical_codes import load
from dicom_node.elements import escaped
from dicom_node.hl7_ack import Reply, acknowledgement
from dicom_node.hl7_apply import Office, apply
from dicom_node.hl7_reader import INTERNAL_ERROR, SEGMENT_SEQUENCE, Message, Refused, header_of, read
from dicom_node.ledger import Ledger
from dicom_node.mllp import Reader, TooLong, framed
from dicom_node.spool import Spool
from dicom_node.workitem import ConfigError

LOGGER = logging.getLogger(__name__)
_PIECE = 65_536
_ADDRESSES_TOLD = 1000  # refused addresses that are remembered, so that each is logged once


class _Connection:
    """One caller. `idle_since` is None while a message is coming in or being worked on."""

    def __init__(self, sock: socket.socket, address: str, now: float) -> None:
        self.sock, self.address, self.idle_since = sock, address, now
        self.busy = self._ended = False
        self._lock = threading.Lock()

    def secure(self, context: ssl.SSLContext) -> ssl.SSLSocket:
        """TLS around it; no handshake yet. Raises OSError when it was ended before."""
        with self._lock:  # wrapping swaps the socket: `end` in the middle of it would shut down neither
            if self._ended:
                raise OSError("closed here")
            self.sock = secured = context.wrap_socket(self.sock, server_side=True, do_handshake_on_connect=False)
            return secured

    def end(self) -> None:
        """Hang up, from any thread. Its own thread wakes, and closes: a descriptor closed here would be the next
        caller's, while that thread still reads from it."""
        with self._lock, suppress(OSError):
            self._ended = True
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)  # ssl's own also drops the state the thread reads with

    def close(self) -> None:
        """By the thread that owns it."""
        self.end()
        with suppress(OSError):
            self.sock.close()


class Listener:
    """The listening end. `start` returns when the port is open; `port` then says which one it is."""

    def __init__(self, settings: Settings, spool: Spool, clock: Callable[[], float] = time.time) -> None:
        """Raises ConfigError for certificates or codes that cannot be used."""
        self._hl7 = settings.hl7
        self._spool, self._clock = spool, clock
        self._office = Office(settings.hl7, load(settings.clinical.codes))
        self._context = server_context(settings.hl7)
        self._allowed = [ipaddress.ip_network(one, strict=False) for one in settings.hl7.allowed_hosts]
        self._lock = threading.Lock()
        self._connections: set[_Connection] = set()
        self._told: set[str] = set()
        self._server: socket.socket | None = None
        self._passed: socket.socket | None = None
        self._ledger: Ledger | None = None
        self.port = settings.hl7.port

    def start(self) -> None:
        """Open the port. Raises OSError when it is taken, ConfigError for the store, SettingsError for its address."""
        self._ledger = Ledger(self._spool)
        try:
            self._ledger.call(lambda store: None)
            family = socket.AF_INET6 if ":" in self._hl7.host else socket.AF_INET
            self._passed = notify.passed("hl7")
            where = (self._hl7.host, self._hl7.port)
            self._server = self._passed or socket.create_server(where, family=family, backlog=128)
            if self._passed:
                _refuse_if_open(self._hl7, self._passed)
                self._passed.settimeout(1.0)  # it is never shut down: the thread looks up by itself
        except BaseException:
            self.stop()
            raise
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._accept, args=(self._server,), name="hl7", daemon=True).start()
        kind = "MLLPS" if self._context else "MLLP"
        LOGGER.info("hl7.listening %s on %s port %d", kind, self._hl7.host, self.port)

    def ready_for(self, settings: Settings) -> Callable[[], None]:
        """As `reload.Reloadable`: who calls from now on meets these settings."""
        hl7 = settings.hl7
        if self._passed:
            _refuse_if_open(hl7, self._passed)
        office, context = Office(hl7, load(settings.clinical.codes)), server_context(hl7)
        if (context is None) != (self._context is None):
            raise ConfigError("[hl7] certificate: from MLLP in clear to MLLPS, and back, takes a restart")
        allowed = [ipaddress.ip_network(one, strict=False) for one in hl7.allowed_hosts]

        def put_in_force() -> None:
            self._hl7, self._office, self._context, self._allowed = hl7, office, context, allowed
            self._told.clear()

        return put_in_force

    def pulse(self) -> tuple[bool, str]:
        """For the service manager: whether messages are taken."""
        return self._server is not None, f"HL7 on port {self.port}"

    def stop(self, grace_seconds: float = 5.0) -> None:
        """Close the port and the idle connections; let messages at work be answered for `grace_seconds`."""
        if self._server is not None:
            server, self._server = self._server, None
            with suppress(OSError):
                if server is not self._passed:
                    server.shutdown(socket.SHUT_RDWR)
            server.close()
        end = time.monotonic() + grace_seconds
        while self._close_idle() and time.monotonic() < end:
            time.sleep(0.02)
        for connection in self._all():
            connection.end()
        if self._ledger is not None:
            ledger, self._ledger = self._ledger, None
            ledger.close()

    # -- connections -----------------------------------------------------------------------------------------

    def _accept(self, server: socket.socket) -> None:
        while self._server is server:
            try:
                sock, address = server.accept()
            except OSError:
                if self._server is server:
                    time.sleep(0.1)  # out of file descriptors, say: it may pass
                continue
            host = str(address[0])
            if not self._may_send(host):
                self._refuse(host)
                sock.close()
                continue
            connection = _Connection(sock, host, time.monotonic())
            if not self._admit(connection):
                LOGGER.warning("hl7.busy %s: all %d connections are at work", host, self._hl7.maximum_connections)
                connection.close()
                continue
            try:
                threading.Thread(target=self._serve, args=(connection,), name="hl7-sender", daemon=True).start()
            except RuntimeError:  # no thread to be had: it may pass, and must not end the listener
                LOGGER.warning("hl7.busy %s: the host has no thread for it", host)
                self._leave(connection)

    def _may_send(self, host: str) -> bool:
        if not self._allowed:
            return True
        address = ipaddress.ip_address(host)
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in self._allowed)

    def _refuse(self, host: str) -> None:
        if host not in self._told and len(self._told) < _ADDRESSES_TOLD:
            self._told.add(host)
            LOGGER.warning("hl7.connection_refused %s is not among [hl7] allowed_hosts", host)

    def _admit(self, new: _Connection) -> bool:
        """Make room by closing the connection that has been idle longest; False when all are at work."""
        with self._lock:
            if len(self._connections) >= self._hl7.maximum_connections:
                idle = [one for one in self._connections if not one.busy]
                if not idle:
                    return False
                oldest = min(idle, key=lambda one: one.idle_since)
                self._connections.discard(oldest)
                oldest.end()
            self._connections.add(new)
        return True

    def _all(self) -> list[_Connection]:
        with self._lock:
            return list(self._connections)

    def _close_idle(self) -> bool:
        """Close who waits for nothing; whether anybody is left."""
        left = self._all()
        for connection in left:
            if not connection.busy:
                connection.end()
        return any(connection.busy for connection in left)

    def _serve(self, connection: _Connection) -> None:
        try:
            self._shake_hands(connection)
            self._converse(connection)
        except TimeoutError:
            if connection.busy:
                LOGGER.warning("hl7.stalled %s stopped in mid-message", connection.address)
        except OSError as error:
            LOGGER.info("hl7.connection_ended %s: %s", connection.address, error.strerror or type(error).__name__)
        finally:
            self._leave(connection)

    def _leave(self, connection: _Connection) -> None:
        with self._lock:
            self._connections.discard(connection)
        connection.close()

    def _shake_hands(self, connection: _Connection) -> None:
        """TLS, in the caller's own thread: one that says nothing must not keep the others waiting."""
        connection.sock.settimeout(self._hl7.message_timeout_seconds)
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._context is not None:
            try:
                connection.secure(self._context).do_handshake()
            except ssl.SSLError as error:
                why = str(error.reason or "no TLS").replace("_", " ").lower()
                LOGGER.warning("hl7.tls_refused %s: %s", connection.address, why)
                raise OSError("TLS") from None

    def _converse(self, connection: _Connection) -> None:
        reader = Reader(self._hl7.maximum_message_bytes)
        begun_at = 0.0
        while self._server is not None:
            now = time.monotonic()
            if reader.begun:
                connection.sock.settimeout(max(0.001, begun_at + self._hl7.message_timeout_seconds - now))
            else:
                connection.sock.settimeout(self._hl7.idle_timeout_seconds)
                connection.idle_since, connection.busy = now, False
            data = connection.sock.recv(_PIECE)
            if not data:
                return
            if not connection.busy:
                connection.busy, begun_at = True, time.monotonic()
            try:
                blocks = reader.feed(data)
            except TooLong as error:
                self._send(connection, self._too_long(error.beginning, connection.address))
                return
            for block in blocks:
                if not self._send(connection, self._answer(block, connection.address)):
                    return
                begun_at = time.monotonic()

    def _send(self, connection: _Connection, answer: bytes | None) -> bool:
        """False where there is nothing to say to somebody who speaks no HL7: the connection is closed."""
        if answer is None:
            return False
        if answer:
            connection.sock.settimeout(self._hl7.message_timeout_seconds)
            connection.sock.sendall(framed(answer))
        return True

    # -- messages --------------------------------------------------------------------------------------------

    def _answer(self, block: bytes, address: str) -> bytes | None:
        """The acknowledgement; b"" where the sender wants none, None for what is no HL7."""
        try:
            message = read(block)
        except Refused as refusal:
            return self._unreadable(block, refusal, address)
        try:
            reply = self._taken(message, block, address)
        except Refused as refusal:
            reply = Reply("AR", str(refusal), refusal.code)
        except Exception as error:
            LOGGER.error("hl7.postponed %s; the sender was told to try again", type(error).__name__)
            LOGGER.debug("hl7.postponed", exc_info=True)
            reply = Reply("AE", "the node cannot store it just now; send it again", INTERNAL_ERROR)
        self._log(message, reply, address)
        hl7 = self._hl7
        return acknowledgement(message, reply, hl7.sending_application, hl7.sending_facility, self._clock()) or b""

    def _taken(self, message: Message, block: bytes, address: str) -> Reply:
        ledger = self._ledger
        if ledger is None:
            raise RuntimeError("the listener is stopped")
        return ledger.call(lambda store: apply(store, message, block, address, self._office, self._clock()))

    def _unreadable(self, block: bytes, refusal: Refused, address: str) -> bytes | None:
        """A message whose header can be read is refused in its own terms, and anything else has no answer."""
        LOGGER.warning("hl7.refused a message from %s: %s", address, refusal)
        try:
            header = header_of(block)
        except Refused:
            return None
        reply = Reply("AR", str(refusal), refusal.code)
        hl7 = self._hl7
        return acknowledgement(header, reply, hl7.sending_application, hl7.sending_facility, self._clock()) or b""

    def _too_long(self, beginning: bytes, address: str) -> bytes | None:
        words = f"the message is longer than {self._hl7.maximum_message_bytes} bytes ([hl7] maximum_message_bytes)"
        return self._unreadable(beginning, Refused(SEGMENT_SEQUENCE, words), address)

    def _log(self, message: Message, reply: Reply, address: str) -> None:
        kind, sender = escaped(message.kind[:20]), escaped(message.msh.value(3)[:40])
        if reply.code == "AA":
            LOGGER.info("hl7.taken %s from %s at %s: %s", kind, sender, address, reply.text)
        elif reply.code == "AR":
            LOGGER.warning("hl7.refused %s from %s at %s: %s", kind, sender, address, reply.text)


def _refuse_if_open(hl7: Hl7, passed: socket.socket) -> None:
    """Where systemd listens counts, not `hl7.host`. Raises SettingsError."""
    if said := [*mistakes(replace(hl7, host=passed.getsockname()[0]), ())]:
        raise SettingsError(*said)


def server_context(hl7: Hl7) -> ssl.SSLContext | None:
    """For the listener; None where it speaks MLLP in clear. Raises ConfigError."""
    if hl7.certificate is None:
        return None
    try:
        return tls.server_context(
            Tls(certificate=hl7.certificate, private_key=hl7.private_key, client_ca=hl7.client_ca)
        )
    except ConfigError as error:
        raise ConfigError(str(error).replace("[tls]", "[hl7]")) from None
