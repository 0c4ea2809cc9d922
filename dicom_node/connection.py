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
from typing import Any, NoReturn, Protocol

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
READ_BYTES = 655_360  # read ahead of an association at most: a whole image of the usual size, with its command
LEAST_ROOM_BYTES = 65_536  # with less of it, what was read ahead moves to the front
MAXIMUM_UNANSWERED = 8  # messages of one association; its window is one operation (PS3.7 annex D.3.3.3)
IDLE_MILLISECONDS = 100  # between two looks at the timers


class UnacceptablePdu(Exception):
    """What came breaks the protocol; it has been said why."""


class FastPath(Protocol):
    """Takes P-DATA-TFs from the socket; see `dicom_node.fast_store`."""

    def take(self) -> bool:
        """False when what comes next is no P-DATA-TF. Raises OSError and UnacceptablePdu."""


class CallerSocket(AssociationSocket):  # type: ignore[misc]  # pynetdicom is not typed here
    """An accepted connection whose association request has been read already; `request` is given out first."""

    def __init__(
        self, association: Association, connection: socket.socket, caller: Caller, request: bytes, limits: Receive
    ) -> None:
        super().__init__(association, client_socket=connection)
        self._caller = caller
        self._buffer = bytearray(request)  # read ahead; what of it was not taken stands from `_start` to `_end`
        self._start, self._end = 0, len(request)
        self._seconds = limits.dimse_timeout_seconds
        self.longest = limits.maximum_pdu_bytes or LARGEST_PDU_BYTES
        self._deadline = 0.0
        self._poll = select.poll()  # select() knows no descriptor above 1023
        self._poll.register(connection, select.POLLIN)
        self._other = -1

    def begin_pdu(self) -> None:
        """The time for a PDU runs from its first byte, whatever dribbles in after it."""
        self._deadline = time.monotonic() + self._seconds

    @property
    def ready(self) -> bool:
        return self.wait(0)

    @property
    def ahead(self) -> int:
        """Bytes that were read and not taken."""
        return self._end - self._start

    def wait(self, milliseconds: int, other: int = -1) -> bool:
        """Whether bytes can be read; waits for them, or for the descriptor `other` (from its first naming on)."""
        if self._end > self._start:
            return True
        if self.socket is None or not self._is_connected:
            return False
        if isinstance(self.socket, ssl.SSLSocket) and self.socket.pending():
            return True
        try:
            if other >= 0 and self._other < 0:
                self._other = other
                self._poll.register(other, select.POLLIN)
            return any(found != self._other for found, _ in self._poll.poll(milliseconds))
        except (OSError, ValueError):
            self.event_queue.put("Evt17")  # the connection is closed
            return False

    def expect(self, nr_bytes: int) -> None:
        """The body of a PDU comes next: bounds its length, and gives it its time. Raises OSError."""
        if nr_bytes > self.longest:
            self._complain(f"a PDU of {nr_bytes} bytes; {self.longest} are the most that is taken")
        self._deadline += nr_bytes / SLOWEST_BYTES_PER_SECOND

    def recv(self, nr_bytes: int) -> bytearray:
        """All of `nr_bytes`, or what came before the peer closed. Raises OSError when it is too much or too slow."""
        self.expect(nr_bytes)
        data = bytearray()
        while len(data) < nr_bytes:
            piece = self.view(1, nr_bytes - len(data))
            if not piece:
                break
            data += piece
            self.take(len(piece))
        return data

    def view(self, least: int, most: int = READ_BYTES) -> memoryview:
        """What was read ahead and not taken yet, at most `most` bytes; waits for `least`, of READ_BYTES at most.

        Fewer when the peer has closed. Valid until the next call. Raises OSError when they come too slowly.
        """
        while self._end - self._start < least:
            if not self._fetch():
                break
        return memoryview(self._buffer)[self._start : min(self._end, self._start + most)]

    def take(self, count: int) -> None:
        """Be done with the first `count` bytes of the view."""
        self._start += count

    def more(self) -> bool:
        """Whether a byte is there without waiting; reads ahead."""
        return self._end > self._start or self._read() > 0

    def _fetch(self) -> bool:
        """Read ahead, waiting until the deadline; False when the peer has closed."""
        while True:
            count = self._read()
            if count >= 0:
                return count > 0
            left = self._deadline - time.monotonic()
            if left <= 0:
                self._complain(f"a PDU that was not whole within {self._seconds:g} s")
            self._poll_for(left)

    def _poll_for(self, seconds: float) -> None:
        if self._other >= 0:  # who wants to be heard waits until the PDU is whole
            self._poll.unregister(self._other)
            self._other = -1
        self._poll.poll(max(1, int(seconds * 1000)))

    def _read(self) -> int:
        """Read ahead what has come: how many bytes; 0 at the end, -1 when there is nothing yet. Raises OSError."""
        if len(self._buffer) < READ_BYTES:
            request, self._buffer = self._buffer, bytearray(READ_BYTES)
            self._buffer[: len(request)] = request
        if self._end == self._start:
            self._start = self._end = 0
        elif self._start and self._end > READ_BYTES - LEAST_ROOM_BYTES:
            self._to_the_front()
        if self.socket.gettimeout() != 0:
            self.socket.settimeout(0)
        count = -1
        try:
            count = self.socket.recv_into(self._space())
            self._end += count
            while isinstance(self.socket, ssl.SSLSocket) and count > 0 and self._end < READ_BYTES:
                got = self.socket.recv_into(self._space())  # one TLS record a call
                if not got:
                    break
                self._end, count = self._end + got, count + got
        except (BlockingIOError, ssl.SSLWantReadError):
            pass
        return count

    def _to_the_front(self) -> None:
        rest = self._buffer[self._start : self._end]
        self._buffer[: len(rest)] = rest
        self._start, self._end = 0, len(rest)

    def _space(self) -> memoryview:
        return memoryview(self._buffer)[self._end :]

    def discard(self) -> None:
        """Drop what has come, so that closing does not take back what we have said last (a TCP reset would)."""
        self._start = self._end = 0
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
            rest = memoryview(bytestream)[self._sent_at_once(bytestream) :]
            if rest:
                self.socket.settimeout(self._seconds)
                self.socket.sendall(rest)
        except Exception:  # noqa: BLE001 - as in pynetdicom: whatever it is, the connection is of no more use
            self.event_queue.put("Evt17")

    def _sent_at_once(self, bytestream: bytes) -> int:
        """How many bytes could be sent without waiting: nearly always all, which saves making the socket wait."""
        if isinstance(self.socket, ssl.SSLSocket) or self.socket.gettimeout() != 0:
            return 0
        try:
            return int(self.socket.send(bytestream))
        except BlockingIOError:
            return 0


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
        self.fast: FastPath | None = None  # who takes P-DATA before pynetdicom does
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
            if not self.socket.wait(IDLE_MILLISECONDS, self._wake):
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wake)
            if not self.to_provider_queue.empty():
                return False  # ours goes first; what came stays in the socket
        return bool(super()._is_transport_event())

    def _read_pdu_data(self) -> None:
        self.socket.begin_pdu()
        if self.fast is None or self.state_machine.current_state != "Sta6" or not self._take_fast(self.fast):
            super()._read_pdu_data()

    def _take_fast(self, fast: "FastPath") -> bool:
        try:
            return fast.take()
        except OSError:
            self.event_queue.put("Evt17")  # as pynetdicom: the connection is closed, or of no more use
        except UnacceptablePdu:
            self.event_queue.put("Evt19")  # invalid PDU: the state machine aborts the association
        return True

    def goes_on(self) -> bool:
        """Whether the fast path may read another PDU: it comes within a moment, and nothing else waits to be done."""
        self._idle_timer.restart()
        if not self._is_free():
            return False
        if not self.socket.more():
            # Waiting here and not in pynetdicom's loop spares its turn, which sleeps: the next object is on its way.
            self.socket.wait(IDLE_MILLISECONDS, self._wake)
            if not self._is_free() or not self.socket.more():
                return False
        self.socket.begin_pdu()
        return True

    def _is_free(self) -> bool:
        alive = self.assoc.is_alive() and not self._kill_thread  # else nobody is left to look at the timers
        return alive and self.event_queue.empty() and self.to_provider_queue.empty()

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
