"""A small PACS for `prognode demo` and the tests: files what it gets, answers C-ECHO, C-FIND and storage commitment.

Not for patients: no access control, an index in memory. What it refuses can be switched, to show what the node does.
"""

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydicom.dataset import Dataset
from pydicom.filereader import dcmread
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, AllStoragePresentationContexts, _config, build_context, build_role, evt
from pynetdicom.sop_class import (
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    StudyRootQueryRetrieveInformationModelFind,
    Verification,
)
from pynetdicom.transport import ThreadedAssociationServer

from dicom_node.commitment import read_request
from dicom_node.elements import ascii_text, is_uid
from dicom_node.headers import identity_of
from dicom_node.identity import KEYWORDS, Identity
from dicom_node.quiet import quiet_libraries
from dicom_node.requestor import Checkpoint, associate

LOGGER = logging.getLogger(__name__)
NO_SUCH_INSTANCE = 0x0112
CANNOT_UNDERSTAND = 0xC000
UNABLE_TO_PROCESS = 0xC000
Commitment = Literal["new", "same", "never", "none"]


@dataclass(frozen=True)
class Filed:
    """One stored object."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    identity: Identity
    path: Path


class DemoPacs:
    """A listening PACS; a context manager. `port` is the one taken when 0 was asked for.

    Parameters
    ----------
    folder : Path
        Objects lie here as <digest of the SOP Instance UID>.dcm; what it holds at start is known.
    status : callable
        C-STORE status for a SOP class UID; anything but success and warnings is not filed.
    sop_classes : collection of str, optional
        The storage SOP classes it accepts; all when None.
    drop : callable
        SOP class UID -> True for objects to acknowledge and lose.
    commitment : {"new", "same", "never", "none"}
        Reports on an association of its own, on the asking one, not at all, or does not offer it.
    report_to : (host, port), optional
        Where the asking AE listens, for "new"; may be set later.
    offers_find : bool
        Whether C-FIND is offered.
    """

    def __init__(
        self,
        folder: Path,
        ae_title: str = "DEMOPACS",
        port: int = 0,
        *,
        host: str = "127.0.0.1",
        status: Callable[[str], int] = lambda sop_class_uid: 0x0000,
        sop_classes: Collection[str] | None = None,
        drop: Callable[[str], bool] = lambda sop_class_uid: False,
        commitment: Commitment = "new",
        report_to: tuple[str, int] | None = None,
        offers_find: bool = True,
        transfer_syntaxes: Collection[str] = (ExplicitVRLittleEndian, ImplicitVRLittleEndian),
    ) -> None:
        self.folder = folder
        self.ae_title = ae_title
        self.host = host
        self.port = port
        self.status = status
        self.drop = drop
        self.commitment = commitment
        self.report_to = report_to
        self.studies: dict[str, Identity] = {}  # by Study Instance UID, beside what its objects say
        self.received: list[str] = []  # SOP Instance UIDs in the order of arrival, with repeats
        self._contexts = (sop_classes, offers_find, list(transfer_syntaxes))
        self._index: dict[str, Filed] = {}
        self._lock = threading.Lock()
        self._server: Any = None
        self._reports: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Open the port. Raises OSError."""
        quiet_libraries()
        _config.LOG_HANDLER_LEVEL = "none"
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.glob("*.dcm"):
            self._add(dcmread(path, stop_before_pixels=True), path)
        handlers = [
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_C_FIND, self._on_find),
            (evt.EVT_N_ACTION, self._on_action),
        ]
        entity = self._entity()
        self._server = entity.make_server(
            (self.host, self.port), evt_handlers=handlers, server_class=ThreadedAssociationServer
        )
        entity._servers.append(self._server)  # as AE.start_server does, which looks for its end twice a second only
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="demo-pacs", daemon=True).start()
        self.port = int(self._server.server_address[1])

    def stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.ae.shutdown()
        for thread in self._reports:
            thread.join(10.0)

    def objects(self) -> list[Filed]:
        """What is filed now."""
        with self._lock:
            return list(self._index.values())

    def _entity(self) -> AE:
        sop_classes, offers_find, syntaxes = self._contexts
        entity = AE(self.ae_title)
        entity.maximum_associations = 20
        entity.maximum_pdu_size = 131072
        for context in AllStoragePresentationContexts:
            if sop_classes is None or context.abstract_syntax in sop_classes:
                entity.add_supported_context(context.abstract_syntax, syntaxes)
        entity.add_supported_context(Verification)
        if offers_find:
            entity.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
        if self.commitment != "none":
            entity.add_supported_context(StorageCommitmentPushModel)
        return entity

    def _add(self, dataset: Dataset, path: Path) -> None:
        filed = Filed(
            sop_class_uid=ascii_text(dataset, "SOPClassUID"),
            sop_instance_uid=ascii_text(dataset, "SOPInstanceUID"),
            series_instance_uid=ascii_text(dataset, "SeriesInstanceUID"),
            study_instance_uid=ascii_text(dataset, "StudyInstanceUID"),
            identity=identity_of(dataset),
            path=path,
        )
        with self._lock:
            self._index[filed.sop_instance_uid] = filed

    def _on_store(self, event: evt.Event) -> int:
        sop_class_uid = str(event.request.AffectedSOPClassUID)
        sop_instance_uid = str(event.request.AffectedSOPInstanceUID)
        self.received.append(sop_instance_uid)
        status = self.status(sop_class_uid)
        if status & 0xF000 not in (0x0000, 0xB000) or 0x0100 <= status <= 0x0FFF or not is_uid(sop_instance_uid):
            return status or CANNOT_UNDERSTAND
        if not self.drop(sop_class_uid):
            path = self.folder / f"{hashlib.sha256(sop_instance_uid.encode()).hexdigest()[:32]}.dcm"
            path.write_bytes(event.encoded_dataset())
            self._add(dcmread(path, stop_before_pixels=True), path)
        return status

    def _on_find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        """STUDY and IMAGE level of Study Root; keys are UIDs or lists of them, empty ones match everything."""
        query = event.identifier
        level = ascii_text(query, "QueryRetrieveLevel")
        if level not in ("STUDY", "IMAGE"):
            yield UNABLE_TO_PROCESS, None
            return
        keys = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
        wanted = [set(ascii_text(query, key, 1 << 16).split("\\")) - {""} for key in keys]
        for match in self._studies(wanted[0]) if level == "STUDY" else self._images(keys, wanted):
            match.QueryRetrieveLevel = level
            match.RetrieveAETitle = self.ae_title
            yield 0xFF00, match

    def _studies(self, wanted: Collection[str]) -> Iterator[Dataset]:
        """Whose each study is: as told in `studies`, else as its first object says."""
        filed = {one.study_instance_uid: one.identity for one in reversed(self.objects())} | self.studies
        for study, identity in filed.items():
            if not wanted or study in wanted:
                match = Dataset()
                match.SpecificCharacterSet = "ISO_IR 192"
                match.StudyInstanceUID = study
                for name, keyword in KEYWORDS.items():
                    setattr(match, keyword, getattr(identity, name))
                yield match

    def _images(self, keys: Sequence[str], wanted: Sequence[Collection[str]]) -> Iterator[Dataset]:
        for filed in self.objects():
            values = (filed.study_instance_uid, filed.series_instance_uid, filed.sop_instance_uid)
            if all(not uids or value in uids for value, uids in zip(values, wanted, strict=True)):
                match = Dataset()
                for key, value in zip(keys, values, strict=True):
                    setattr(match, key, value)
                yield match

    def _on_action(self, event: evt.Event) -> tuple[int, None]:
        transaction_uid, instances = read_request(event.action_information)
        report = self._report(transaction_uid, instances)
        calling = str(event.assoc.requestor.ae_title)
        if self.commitment == "same":
            event.assoc._reactor_checkpoint = held = Checkpoint()  # pynetdicom's own may let go of the answer to come
            held.clear()
            self._later(self._report_on_same, event.assoc, held, report)
        elif self.commitment == "new" and self.report_to is not None:
            self._later(self._report_to, calling, *self.report_to, report)
        return 0x0000, None

    def _later(self, work: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, name="commitment", daemon=True)
        self._reports = [*(one for one in self._reports if one.is_alive()), thread]
        thread.start()

    def _report(self, transaction_uid: str, instances: list[tuple[str, str]]) -> Dataset:
        with self._lock:
            here = {uid: self._index[uid].sop_class_uid for _, uid in instances if uid in self._index}
        report = Dataset()
        report.TransactionUID = transaction_uid
        report.ReferencedSOPSequence, failed = [], []
        for sop_class_uid, sop_instance_uid in instances:
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, sop_instance_uid
            if here.get(sop_instance_uid) == sop_class_uid:
                report.ReferencedSOPSequence.append(item)
            else:
                item.FailureReason = NO_SUCH_INSTANCE
                failed.append(item)
        if failed:
            report.FailedSOPSequence = failed
        return report

    def _report_on_same(self, association: Any, held: Checkpoint, report: Dataset) -> None:
        """On the asking association, once its reactor has answered the N-ACTION, and stands."""
        while not held.stands and association.is_alive():
            time.sleep(0.001)
        self._report_on(association, report)

    def _report_on(self, association: Any, report: Dataset) -> None:
        if association.is_established:
            event_type = 2 if "FailedSOPSequence" in report else 1
            association.send_n_event_report(
                report, event_type, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
            )

    def _report_to(self, ae_title: str, host: str, port: int, report: Dataset) -> None:
        """On an association of our own, with the SCP role proposed (PS3.7 D.3.3.4)."""
        time.sleep(0.1)  # so that the N-ACTION has been answered
        entity = AE(self.ae_title)
        entity.connection_timeout = 10.0
        contexts = [build_context(StorageCommitmentPushModel)]
        role = build_role(StorageCommitmentPushModel, scp_role=True)
        association = associate(entity, (host, port), ae_title, contexts, maximum_pdu_bytes=16382, roles=[role])
        if not association.is_established:
            LOGGER.warning("demo.commitment no association with %s port %d", ae_title, port)
            return
        self._report_on(association, report)
        association.release()
