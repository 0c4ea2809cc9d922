"""The upper layer of an association that we accepted: pynetdicom's, with a deadline for each PDU and no polling.

pynetdicom reads a begun PDU to its end however long that takes and however long it claims to be, looks at the socket
1000 times a second, and leaves a thread behind when a peer makes it raise. Here its classes are subclassed.
"""

import contextlib
import logging
import os
import select
import socket
import ssl
import threading
import time
from typing import Any, NoReturn

from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider
from pynetdicom.fsm import StateMachine
from pynetdicom.transport import AssociationSocket

from config.settings import Receive
from dicom_node.elements import escaped
from dicom_node.limits import Caller

LOGGER = logging.getLogger(__name__)
LARGEST_PDU_BYTES = 16_777_216  # taken where no limit is announced; real ones have 16 to 128 KiB, some 1 MiB
SLOWEST_BYTES_PER_SECOND = 32_768.0  # of a PDU, on top of its time-out
READ_BYTES = 262_144
MAXIMUM_UNANSWERED = 8  # messages of one association; its window is one operation (PS3.7 annex D.3.3.3)
IDLE_MILLISECONDS = 100  # between two looks at the timers


class CallerSocket(AssociationSocket):  # type: ignore[misc]  # pynetdicom is not typed here
    """An accepted connection whose association request has been read already; `request` is given out first."""

    def __init__(
        self, association: Association, connection: socket.socket, caller: Caller, request: bytes, limits: Receive
    ) -> None:
        super().__init__(association, client_socket=connection)
        self._caller = caller
        self._unread = request
        self._seconds = limits.dimse_timeout_seconds
        self._longest = limits.maximum_pdu_bytes or LARGEST_PDU_BYTES
        self._deadline = 0.0

    def begin_pdu(self) -> None:
        """The time for a PDU runs from its first byte, whatever dribbles in after it."""
        self._deadline = time.monotonic() + self._seconds

    @property
    def ready(self) -> bool:
        return self.wait(0)

    def wait(self, milliseconds: int, other: int = -1) -> bool:
        """Whether bytes can be read; waits for them, or for the descriptor `other`."""
        if self._unread:
            return True
        if self.socket is None or not self._is_connected:
            return False
        if isinstance(self.socket, ssl.SSLSocket) and self.socket.pending():
            return True
        try:
            poll = select.poll()  # select() knows no descriptor above 1023
            poll.register(self.socket, select.POLLIN)
            if other >= 0:
                poll.register(other, select.POLLIN)
            return any(found != other for found, _ in poll.poll(milliseconds))
        except (OSError, ValueError):
            self.event_queue.put("Evt17")  # the connection is closed
            return False

    def recv(self, nr_bytes: int) -> bytearray:
        """All of `nr_bytes`, or what came before the peer closed. Raises OSError when it is too much or too slow."""
        if self._unread:
            piece, self._unread = bytearray(self._unread[:nr_bytes]), self._unread[nr_bytes:]
            return piece
        if nr_bytes > self._longest:
            self._complain(f"a PDU of {nr_bytes} bytes; {self._longest} are the most that is taken")
        try:
            return self._recv_until(self._deadline + nr_bytes / SLOWEST_BYTES_PER_SECOND, nr_bytes)
        except TimeoutError:
            self._complain(f"a PDU that was not whole within {self._seconds:g} s")

    def _recv_until(self, deadline: float, nr_bytes: int) -> bytearray:
        data = bytearray()
        while len(data) < nr_bytes:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self.socket.settimeout(left)
            piece = self.socket.recv(min(nr_bytes - len(data), READ_BYTES))
            if not piece:
                break
            data += piece
        return data

    def discard(self) -> None:
        """Drop what has come, so that closing does not take back what we have said last (a TCP reset would)."""
        self._unread = b""
        with contextlib.suppress(OSError):
            self.socket.settimeout(0)
            for _ in range(64):
                if not self.socket.recv(READ_BYTES):
                    break

    def _complain(self, what: str) -> NoReturn:
        LOGGER.warning('association.aborted "%s" at %s: %s', escaped(self._caller.calling), self._caller.address, what)
        raise OSError(what)

    def send(self, bytestream: bytes) -> None:
        """Send all of it in the time of a PDU, or take the connection for closed."""
        try:
            self.socket.settimeout(self._seconds)
            self.socket.sendall(bytestream)
        except Exception:  # noqa: BLE001 - as in pynetdicom: whatever it is, the connection is of no more use
            self.event_queue.put("Evt17")


class NewsGivingMachine(StateMachine):  # type: ignore[misc]  # pynetdicom is not typed here
    """Tells the association's own thread that something has happened, so that it need not look all the time."""

    def do_action(self, event: str) -> None:
        super().do_action(event)
        self.dul.assoc.dimse.news.set()


class UpperLayer(DULServiceProvider):  # type: ignore[misc]  # pynetdicom is not typed here
    """A DUL provider that sleeps until something comes, and never leaves a connection or a thread behind."""

    def __init__(self, association: Association) -> None:
        super().__init__(association)
        self.state_machine = NewsGivingMachine(self)
        self._run_loop_delay = 0.0
        self._waking = threading.Lock()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def send_pdu(self, primitive: Any) -> None:
        super().send_pdu(primitive)
        self._wake_up()

    def kill_dul(self) -> None:
        super().kill_dul()
        self._wake_up()

    def _wake_up(self) -> None:
        with self._waking:  # else its descriptor may be somebody else's by now
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    def _is_transport_event(self) -> bool:
        if not self.assoc.is_alive():  # it raised; nobody is left to look at the timers
            self._kill_thread = True
            return False
        if self.state_machine.current_state == "Sta13":  # all is said: what still comes is of no interest
            self.socket.discard()
        elif self.assoc.dimse.msg_queue.qsize() >= MAXIMUM_UNANSWERED:
            time.sleep(0.01)
            return False  # who does not wait for answers is made to wait
        elif self.event_queue.empty():
            self.socket.wait(IDLE_MILLISECONDS, self._wake)
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake)
            if not self.to_provider_queue.empty():
                return False  # ours goes first; what came stays in the socket
        return bool(super()._is_transport_event())

    def _read_pdu_data(self) -> None:
        self.socket.begin_pdu()
        super()._read_pdu_data()

    def run_reactor(self) -> None:
        try:
            super().run_reactor()
        except Exception as error:  # noqa: BLE001 - the boundary to hostile bytes
            LOGGER.warning("association.aborted its state machine cannot go on (%s)", type(error).__name__)
        finally:
            self.assoc.dimse.discard_unfinished()
            if self.socket is not None and self.socket.socket is not None:
                self.socket.close()
            self.to_user_queue.put(None)  # an association that still waits for its request need not wait on
            with self._waking:
                wake, self._wake = self._wake, -1
                os.close(wake)


def accepted(
    association: Association, connection: socket.socket, caller: Caller, request: bytes, limits: Receive
) -> None:
    """Give a new association our upper layer and its connection; before it is started."""
    association.caller = caller
    association.dul = UpperLayer(association)
    association.acse_timeout = limits.acse_timeout_seconds  # the timers belong to the upper layer
    association.network_timeout = limits.network_timeout_seconds
    association.set_socket(CallerSocket(association, connection, caller, request, limits))


def callers(associations: list[Association]) -> list[Caller]:
    """Who the running associations are with."""
    return [association.caller for association in associations if hasattr(association, "caller")]
