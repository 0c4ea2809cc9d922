"""The node's peers in a cell: a RIS in a thread, and a PACS that ends associations or denies what it has."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import hl7
from pydicom import Dataset
from pynetdicom import evt

from dicom_node.demo_pacs import DemoPacs
from dicom_node.mllp import Reader
from tests.hl7.ris import answer_to


class Ris:
    """python-hl7's idea of an acknowledgement behind a plain socket. `modes` are used up first, then it says AA."""

    def __init__(self, *modes: str) -> None:
        self.messages: list[str] = []
        self.modes = list(modes)
        self.port = 0
        self._server: socket.socket | None = None

    def start(self) -> None:
        """Open the port, the same one as before."""
        self._server = socket.create_server(("127.0.0.1", self.port))
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._serve, args=(self._server,), daemon=True).start()

    def stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            server.close()

    @property
    def control_ids(self) -> list[str]:
        return [message.split("|")[9] for message in self.messages]

    def _serve(self, server: socket.socket) -> None:
        while True:
            try:
                caller, _ = server.accept()
            except OSError:
                return
            with caller, suppress(OSError):
                self._converse(caller)

    def _converse(self, caller: socket.socket) -> None:
        caller.settimeout(5.0)
        reader = Reader(1 << 20)
        while data := caller.recv(65_536):
            for block in reader.feed(data):
                self.messages.append(block.decode())
                mode = self.modes.pop(0) if self.modes else "AA"
                if mode == "silent":
                    caller.recv(1)  # until the node has had enough
                    return
                caller.sendall(answer_to(hl7.parse(block.decode()), mode))
                if mode in ("close", "half"):
                    return


@contextmanager
def ris(*modes: str) -> Iterator[Ris]:
    running = Ris(*modes)
    running.start()
    try:
        yield running
    finally:
        running.stop()


class BadPacs(DemoPacs):
    """Aborts at the `aborts_at`-th object, `filed` first or not; denies, or refuses to say, what it holds."""

    aborts_at = 0
    files_first = False
    denials = 0  # commitment reports that call objects lost which are there
    refusals = 0  # requests for commitment answered with a failure

    def _on_store(self, event: evt.Event) -> int:
        aborts = len(self.received) + 1 == self.aborts_at
        if aborts and not self.files_first:
            self.received.append(str(event.request.AffectedSOPInstanceUID))
            event.assoc.abort()
            return 0x0110
        status = super()._on_store(event)
        if aborts:
            event.assoc.abort()
        return status

    def _on_action(self, event: evt.Event) -> tuple[int, None]:
        if self.refusals:
            self.refusals -= 1
            return 0x0110, None
        return super()._on_action(event)

    def _report(self, transaction_uid: str, instances: list[tuple[str, str]]) -> Dataset:
        report: Any = super()._report(transaction_uid, instances)
        if self.denials and report.get("ReferencedSOPSequence"):
            self.denials -= 1
            report.FailedSOPSequence, report.ReferencedSOPSequence = list(report.ReferencedSOPSequence), []
            for item in report.FailedSOPSequence:
                item.FailureReason = 0x0110
        return report  # type: ignore[no-any-return]
