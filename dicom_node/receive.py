"""Storage SCP, C-ECHO, listener for storage commitment reports: the first stage, bytes -> spool -> row -> 0x0000.

A success is answered only when file, file name and row are all on disk. What is refused leaves nothing behind.
"""

import logging
import ssl
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from socketserver import BaseRequestHandler
from typing import TYPE_CHECKING, Any

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association

from config.identity import VERSION
from config.settings import Settings
from dicom_node import headers
from dicom_node.acceptor import request_handler
from dicom_node.association_audit import AssociationAudit
from dicom_node.commitment import read_report
from dicom_node.door import Door, Listener
from dicom_node.elements import UnreadableHeader, escaped
from dicom_node.entity import application_entity, limit
from dicom_node.identity import Identity
from dicom_node.incoming import Incoming
from dicom_node.instance import CT_CLASSES, ROI_CLASSES, Instance
from dicom_node.ledger import Ledger
from dicom_node.limits import peer_of
from dicom_node.logs import about, mark_of
from dicom_node.notify import STUCK_SECONDS
from dicom_node.quiet import quiet_libraries
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.tls import complaints, server_context
from dicom_node.traffic import Traffic
from dicom_node.vitals import BEAT_SECONDS
from dicom_node.watermark import Disk

if TYPE_CHECKING:
    from dicom_node.ups_scp import UpsScp

LOGGER = logging.getLogger(__name__)
MOST_STUDIES = 1000  # of one association that its last line in the log knows of

SUCCESS = 0x0000
PROCESSING_FAILURE = 0x0110
INVALID_INSTANCE = 0x0117
CLASS_NOT_SUPPORTED = 0x0122
NOT_AUTHORISED = 0x0124
OUT_OF_RESOURCES = 0xA700
MISMATCH = 0xA900
CANNOT_UNDERSTAND = 0xC000


class Refusal(Exception):
    """An object is not taken; `status` is the C-STORE status (PS3.4 B.2.3), the text its error comment: no values."""

    def __init__(self, status: int, comment: str) -> None:
        super().__init__(comment)
        self.status = status


class Receiver:
    """The listening node. `start` returns when the port is open; `port` then says which one it is.

    Parameters
    ----------
    settings : Settings
        `node.port` 0 takes a free port.
    spool : Spool
        Created, and swept of half-written files, at start.
    clock : callable
        Seconds since the epoch, for the rows.
    """

    def __init__(self, settings: Settings, spool: Spool, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._spool = spool
        self._clock = clock
        self._door: Door | None = None
        self._worklist: UpsScp | None = None
        self._listeners: list[Listener] = []
        self._ledger: Ledger | None = None
        self._disk = Disk(spool.root, settings)
        self._audit = AssociationAudit(self._post, clock)
        self._traffic = Traffic(settings)
        self._turned_away = 0
        self._started, self._beaten = clock(), 0.0
        self._told: dict[str, Any] = {}
        self._locked = ExitStack()
        self.host, self.port = settings.node.host, settings.node.port
        self.tls_port = settings.tls.port

    def start(self) -> None:
        """Open the port. Raises OSError when it is taken or the spool cannot be written, ConfigError for the store."""
        quiet_libraries()
        _config.LOG_HANDLER_LEVEL = "none"  # its handlers format every message, and would log names and numbers
        self._spool.create()
        self._locked.enter_context(self._spool.lock("receive"))  # what lies half-written is nobody's from here on
        if swept := self._spool.sweep_incoming():
            LOGGER.info("spool.swept %d half-written files of an earlier run", swept)
        try:
            self._ledger = Ledger(self._spool)
            self._ledger.call(lambda store: None)  # a store that cannot be opened must stop the start, not a sender
            self._audit.left_over()
            self._listen()
        except BaseException:
            self.stop()
            raise

    def stop(self, grace_seconds: float = 5.0) -> None:
        """Close the port, let running associations end for `grace_seconds`, abort the rest, close the store."""
        opened = self._door is not None
        if self._door is not None:
            door, self._door = self._door, None
            door.close()
            self._turned_away = door.turned_away
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener.server_close()
        # Also those that are still being agreed on: their callers have asked, and expect an answer.
        running = [one for listener in listeners for one in listener.active_associations]
        end = time.monotonic() + grace_seconds
        for association in running:
            association.join(max(0.0, end - time.monotonic()))
        for association in running:
            if association.is_alive() and association.is_established:
                association.abort()
                association.join(self._settings.receive.network_timeout_seconds)
        if self._ledger is not None:
            if opened:
                self._beat(0)
            ledger, self._ledger = self._ledger, None
            ledger.close()
        headers.forget()
        self._locked.close()

    def ready_for(self, settings: Settings) -> Callable[[], None]:
        """As `reload.Reloadable`: new associations go by these settings, those in progress by what they began with."""
        listeners = self._listeners
        context = server_context(settings.tls) if any(one.ssl_context for one in listeners) else None

        def put_in_force() -> None:
            self._settings = settings
            self._disk.go_on_with(settings)
            self._traffic.go_on_with(settings)
            for listener in listeners:
                limit(listener.ae, settings)
                listener.RequestHandlerClass = self._request_handler(settings)
                listener.ssl_context = context if listener.ssl_context else None
            for part in (self._door, self._worklist):
                if part is not None:
                    part.go_on_with(settings)

        return put_in_force

    def pulse(self) -> tuple[bool, str]:
        """For the service manager; counts go to the store when they have changed, for the metrics."""
        door = self._door
        if door is None:
            return False, "the door is closed"
        running = sum(len(listener.active_associations) for listener in self._listeners)
        self._beat(running)
        stored = self._traffic.total("objects")
        words = f"{self._settings.node.ae_title} on port {self.port}: {running} associations, {stored} objects stored"
        return time.monotonic() - door.turned < STUCK_SECONDS, words

    def _beat(self, running: int) -> None:
        turned_away = self._door.turned_away if self._door else self._turned_away
        facts = {"peers": self._traffic.facts(), "running": running, "turned_away": turned_away}
        facts |= {"host": self.host, "port": self.port, "tls_port": self.tls_port}  # a passed socket has its own
        now = self._clock()
        if facts != self._told or abs(now - self._beaten) >= BEAT_SECONDS:  # the clock may be set back
            self._told, self._beaten = facts, now
            self._post(lambda store: store.vitals.beat("receive", VERSION, self._started, now, facts))

    def _listen(self) -> None:
        """Open the plain port, the TLS port or both, and the door behind them. Raises OSError and ConfigError."""
        node, tls = self._settings.node, self._settings.tls
        if tls.certificate is not None:
            for complaint in complaints(tls, time.time()):
                LOGGER.warning("tls.certificate %s", complaint)
        entity = application_entity(self._settings)
        handlers = self._handlers()
        if tls.listen != "only":
            self.port = self._open(entity, handlers, node.port, None)
            LOGGER.info("receive.listening AE title %s, port %d", node.ae_title, self.port)
        if tls.listen != "off":
            self.tls_port = self._open(entity, handlers, tls.port, server_context(tls))
            self.port = self.tls_port if tls.listen == "only" else self.port
            whom = "callers with a certificate" if tls.client_ca else "any caller"
            LOGGER.info("receive.listening AE title %s, TLS port %d, %s", node.ae_title, self.tls_port, whom)
        self._door = Door(self._settings, self._audit.refused)
        self._door.open(self._listeners)

    def _handlers(self) -> list[tuple[Any, Callable[[evt.Event], Any]]]:
        return [
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_N_EVENT_REPORT, self._on_event_report),
            (evt.EVT_ESTABLISHED, self._on_established),
            (evt.EVT_CONN_CLOSE, self._on_closed),
            *self._worklist_handlers(),
        ]

    def _open(
        self,
        entity: AE,
        handlers: list[tuple[Any, Callable[[evt.Event], Any]]],
        port: int,
        context: ssl.SSLContext | None,
    ) -> int:
        listener = entity.make_server(
            (self._settings.node.host, port),
            ssl_context=context,
            evt_handlers=handlers,
            server_class=Listener,
            request_handler=self._request_handler(self._settings),
        )
        self._listeners.append(listener)
        self.host = str(listener.server_address[0])  # a passed socket has an address of its own
        return int(listener.server_address[1])

    def _request_handler(self, settings: Settings) -> type[BaseRequestHandler]:
        return request_handler(self._spool, settings.receive, self._disk, self._store)

    def _worklist_handlers(self) -> list[tuple[Any, Callable[[evt.Event], Any]]]:
        """Those of the UPS worklist; with a store of their own, so that no C-STORE waits for a query."""
        if not self._settings.ups.enabled:
            return []
        from dicom_node.ups_scp import UpsScp  # noqa: PLC0415 - pydantic; few receivers have a worklist

        ledger = Ledger(self._spool)
        self._locked.callback(ledger.close)
        self._worklist = UpsScp(self._settings, self._spool, ledger.call, self._clock)
        return self._worklist.handlers()

    def _on_established(self, event: evt.Event) -> None:
        event.assoc.began_with = self._settings
        self._traffic.add(str(event.assoc.requestor.ae_title), associations=1)
        self._audit.accepted(str(event.assoc.requestor.ae_title), event.assoc.requestor.address_info.address)
        calling = escaped(str(event.assoc.requestor.ae_title))
        accepted = {cx.abstract_syntax for cx in event.assoc.accepted_contexts}
        if not accepted:
            LOGGER.warning('association.useless "%s" proposes nothing that this node takes', calling)
        proposed = {cx.abstract_syntax for cx in event.assoc.requestor.primitive.presentation_context_definition_list}
        for sop_class_uid in sorted((proposed - accepted) & (CT_CLASSES | ROI_CLASSES)):
            LOGGER.warning(
                'association.syntax_refused "%s" offers %s in no transfer syntax that this node can decode; '
                "let it offer Explicit or Implicit VR Little Endian too",
                calling,
                UID(sop_class_uid).name,
            )

    def _on_closed(self, event: evt.Event) -> None:
        provider = event.assoc.dimse
        provider.discard_unfinished()
        if provider.stored:
            address = event.assoc.requestor.address_info.address
            self._audit.ended(provider.mark, str(event.assoc.requestor.ae_title), address, provider.known)
        if provider.stored or provider.refused:
            said = (escaped(str(event.assoc.requestor.ae_title)), provider.stored, provider.refused)
            with about(association=provider.mark, study=tuple(map(mark_of, provider.studies))):
                LOGGER.info('association.ended "%s": %d stored, %d refused', *said)

    def _on_store(self, event: evt.Event) -> int | Dataset:
        """A C-STORE that came by pynetdicom's way."""
        asked = event.request
        uids = str(asked.AffectedSOPClassUID), str(asked.AffectedSOPInstanceUID)
        status, comment = self._store(event.assoc, asked._dataset_file, *uids, str(event.context.abstract_syntax))
        return status if status == SUCCESS else _answer(status, comment)

    def _store(
        self,
        association: Association,
        incoming: Incoming | None,
        sop_class_uid: str,
        sop_instance_uid: str,
        abstract_syntax: str = "",
    ) -> tuple[int, str]:
        """Keep an object or refuse it: C-STORE status and error comment. It is durable when the status is SUCCESS.

        `abstract_syntax`: of its presentation context, where the class has not been held against that.
        """
        calling = str(association.requestor.ae_title)
        try:
            _check_context(abstract_syntax, sop_class_uid)
            instance, new = self._keep(association, incoming, calling, sop_class_uid, sop_instance_uid)
        except Refusal as refusal:
            association.dimse.refused += 1
            self._traffic.add(calling, refused=1)
            said = (escaped(calling), refusal.status, refusal)
            with about(association=association.dimse.mark):
                LOGGER.warning('instance.refused from "%s": status %04XH, %s', *said)
            return refusal.status, str(refusal)
        finally:
            if incoming is not None:
                incoming.discard()
        association.dimse.stored += 1
        if len(association.dimse.studies) < MOST_STUDIES:
            association.dimse.studies[instance.study_instance_uid] = None
        self._traffic.add(calling, objects=1, bytes=incoming.size if incoming else 0)
        if not new:
            association.dimse.known[instance.study_instance_uid, instance.sop_class_uid] += 1
        if LOGGER.isEnabledFor(logging.DEBUG):
            what = (instance.digest[:16], instance.sop_class_uid, escaped(calling), "" if new else ", known already")
            LOGGER.debug("instance.stored %s, class %s, from %s%s", *what)
        return SUCCESS, ""

    def _keep(
        self, association: Association, incoming: Incoming | None, calling: str, *named: str
    ) -> tuple[Instance, bool]:
        settings: Settings = association.began_with
        peer = peer_of(settings, calling)
        if settings.receive.known_callers_only and (peer is None or not peer.sends):
            raise Refusal(NOT_AUTHORISED, "sends = false for this AE title in the node's settings")
        if incoming is None or not incoming.size:
            raise Refusal(CANNOT_UNDERSTAND, "there is no data set")
        if not association.dimse.take(incoming):
            raise Refusal(PROCESSING_FAILURE, "the connection ended")
        if incoming.error is not None:
            raise Refusal(OUT_OF_RESOURCES, incoming.error)
        if not incoming.is_open:
            raise Refusal(INVALID_INSTANCE, "SOP Class or Instance UID of the command is not a UID")
        try:
            descriptor, digest = incoming.complete()
            instance, identity = _read(incoming, digest, *named)
            with self._spool.instances_kept():
                known = partial(self._open_ledger().has, instance)
                if self._spool.keep_arrival(incoming.path, descriptor, instance.sop_instance_uid, digest, known):
                    incoming.kept()
                return instance, self._record(instance, identity, calling, association.dimse.mark)
        except OSError as error:
            raise Refusal(OUT_OF_RESOURCES, f"disk: {error.strerror or type(error).__name__}") from error

    def _record(self, instance: Instance, identity: Identity, calling: str, mark: str) -> bool:
        try:
            now = self._clock()
            return self._open_ledger().commit(lambda store: store.arrivals.add(instance, calling, now, identity, mark))
        except Exception as error:  # whatever the store says, the sender has to hear "try again"
            LOGGER.error("store.failed %s; the sender was told to try again", type(error).__name__)
            raise Refusal(OUT_OF_RESOURCES, "the node's store cannot be written") from error

    def _open_ledger(self) -> Ledger:
        ledger = self._ledger
        if ledger is None:
            raise RuntimeError("the receiver is stopped")
        return ledger

    def _post(self, work: Callable[[Store], object]) -> None:
        if self._ledger is not None:
            self._ledger.post(work)

    def _on_event_report(self, event: evt.Event) -> tuple[int, None]:
        """A storage commitment report (PS3.4 J.3.3) that came on an association of the peer's own."""
        try:
            transaction_uid, committed, failed = read_report(event.event_information)
        except UnreadableHeader as error:
            LOGGER.warning("commitment.unreadable %s", error)
            return PROCESSING_FAILURE, None
        calling = escaped(str(event.assoc.requestor.ae_title))
        try:
            known = self._open_ledger().call(
                lambda store: store.deliveries.commitment_report(transaction_uid, committed, failed, self._clock())
            )
        except Exception as error:  # noqa: BLE001 - whatever the store says, the peer has to hear that it did not take
            LOGGER.error("store.failed %s; the commitment report was not taken", type(error).__name__)
            return PROCESSING_FAILURE, None
        if not known:  # not an error to the peer: it would report for ever
            LOGGER.warning("commitment.unknown from %s: no open delivery has this transaction", calling)
        LOGGER.info("commitment.reported by %s: %d committed, %d failed", calling, len(committed), len(failed))
        return SUCCESS, None


def _answer(status: int, comment: str) -> Dataset:
    answer = Dataset()
    answer.Status = status
    answer.ErrorComment = comment[:64]  # LO: 64 characters (PS3.5 section 6.2)
    return answer


def _check_context(abstract_syntax: str, sop_class_uid: str) -> None:
    if abstract_syntax not in ("", sop_class_uid):
        raise Refusal(CLASS_NOT_SUPPORTED, "another SOP Class than that of the presentation context")


def _read(incoming: Incoming, digest: str, sop_class_uid: str, sop_instance_uid: str) -> tuple[Instance, Identity]:
    try:
        instance, identity = incoming.facts(digest)
    except UnreadableHeader as error:
        raise Refusal(CANNOT_UNDERSTAND, str(error)) from error
    if instance.sop_class_uid != sop_class_uid:
        raise Refusal(MISMATCH, "SOP Class UID of data set and command differ")
    if instance.sop_instance_uid != sop_instance_uid:
        raise Refusal(MISMATCH, "SOP Instance UID of data set and command differ")
    return instance, identity
