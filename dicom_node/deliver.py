"""SCU side of the last stage: C-STORE, storage commitment, C-FIND read-back and C-ECHO towards one peer.

Knows no store: the worker reads the delivery rows, calls these, and writes what came of it.
"""

import logging
import math
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, cast

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID, ImplicitVRLittleEndian
from pynetdicom import build_context, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import (
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    StudyRootQueryRetrieveInformationModelFind,
    Verification,
)
from pynetdicom.status import code_to_category

from config.settings import Deliver, Peer, Settings
from dicom_node.associate import association_with
from dicom_node.commitment import read_report, request_dataset
from dicom_node.elements import UnreadableHeader, ascii_text
from dicom_node.entity import NATIVE
from dicom_node.headers import identity_of
from dicom_node.identity import FILED_BY, KEYWORDS, Identity
from dicom_node.workitem import DeliveryState, Retryable

LOGGER = logging.getLogger(__name__)
STUDY_ROOT_FIND = str(StudyRootQueryRetrieveInformationModelFind)
TURN_SECONDS = 0.02
SAME_ASSOCIATION_SECONDS = 0.5  # how long a commitment report on the asking association is waited for


class Variant(NamedTuple):
    """One encoding of a document as a Part 10 file."""

    sop_class_uid: str
    sop_instance_uid: str
    path: Path


@dataclass(frozen=True)
class Document:
    """What is to arrive: variants in the order of preference, of which one is sent (an SR has three, a SEG one)."""

    name: str
    variants: tuple[Variant, ...]


@dataclass(frozen=True)
class Decision:
    """What a C-STORE answer means: SENT, PENDING (try again) or FAILED (an operator has to act), and why in words."""

    state: DeliveryState
    message: str


@dataclass(frozen=True)
class Sent:
    """What came of one document. `status` is None when no answer came; the UIDs are those of the variant tried."""

    name: str
    sop_class_uid: str
    sop_instance_uid: str
    status: int | None
    state: DeliveryState
    message: str

    @property
    def unsupported(self) -> bool:
        """Whether the peer does not store objects of this kind at all."""
        if self.state is not DeliveryState.FAILED:
            return False
        return self.status is None or self.status == 0x0122 or self.status & 0xFF00 == 0xA800


@dataclass(frozen=True)
class CommitmentAnswer:
    """REPORTED on the same association, PENDING (it will come on the peer's own) or NOT_OFFERED."""

    kind: Literal["REPORTED", "PENDING", "NOT_OFFERED"]
    committed: frozenset[str] = frozenset()
    failed: Mapping[str, int] | None = None  # SOP Instance UID -> Failure Reason (0008,1197)
    message: str = ""


@dataclass(frozen=True)
class EchoResult:
    """Whether a peer answered C-ECHO, and the reason and remedy in words when it did not."""

    ok: bool
    message: str
    hint: str = ""


class Unanswered(Retryable):
    """The peer takes an association, and does not do what it is asked (a status of failure, or none): it is up."""

    words = "the peer could not take the request for storage commitment"

    def __init__(self, why: str) -> None:
        super().__init__(f"{self.words} ({why})", _ASKED_AGAIN)


class QueryFailed(Unanswered):
    """Of a C-FIND."""

    words = "the peer could not answer C-FIND"


def delay(attempt: int, settings: Deliver) -> float:
    """Seconds to wait after the `attempt`-th failed try (1, 2, ...): growing, up to the longest.

    >>> [delay(n, Deliver()) for n in (1, 2, 3, 100_000)]
    [5.0, 10.0, 20.0, 3600.0]
    """
    if settings.first_delay_seconds <= 0 or settings.delay_factor <= 1:
        return min(settings.first_delay_seconds, settings.longest_delay_seconds)
    grown = settings.first_delay_seconds
    for _ in range(attempt - 1):
        grown *= settings.delay_factor
        if grown >= settings.longest_delay_seconds:
            break
    return min(grown, settings.longest_delay_seconds)


_GENERAL = {  # PS3.7 Annex C
    0x0111: (DeliveryState.SENT, "the peer says that it has this object already"),
    0x0117: (DeliveryState.FAILED, "the peer says that the SOP Instance UID is not valid"),
    0x0122: (DeliveryState.FAILED, "the peer does not store this SOP class; enable it there"),
    0x0124: (DeliveryState.FAILED, "the peer does not let this node store; allow its AE title there"),
    0x0211: (DeliveryState.FAILED, "the peer does not know C-STORE"),
    0x0212: (DeliveryState.FAILED, "the peer calls the request mistyped"),
}
_RANGES = {  # PS3.4 B.2.3
    0xA700: (DeliveryState.PENDING, "the peer is out of resources; it is asked again later"),
    0xA800: (DeliveryState.FAILED, "the peer does not store this SOP class; enable it there"),
    0xA900: (DeliveryState.FAILED, "the peer says that the object does not match its SOP class"),
}


def decide(status: int | None) -> Decision:
    """What a C-STORE status means for the delivery. Unknown ones are tried again: losing a result is worse.

    >>> [decide(status).state.name for status in (0x0000, 0xB000, 0xA700, 0xA900, 0xC000, 0x0110, None)]
    ['SENT', 'SENT', 'PENDING', 'FAILED', 'FAILED', 'PENDING', 'PENDING']
    """
    if status is None:
        return Decision(DeliveryState.PENDING, "no answer: the connection ended or the peer took too long")
    category = code_to_category(status)
    if category == "Success":
        return Decision(DeliveryState.SENT, "")
    if category == "Warning":
        return Decision(DeliveryState.SENT, f"stored with warning {status:04X}H: the peer may have changed elements")
    if status in _GENERAL:
        state, words = _GENERAL[status]
    elif status & 0xFF00 in _RANGES:
        state, words = _RANGES[status & 0xFF00]
    elif status & 0xF000 == 0xC000:
        state, words = DeliveryState.FAILED, "the peer says that it cannot understand the object; its log says why"
    else:
        state, words = DeliveryState.PENDING, "the peer could not store the object; it is asked again later"
    return Decision(state, f"status {status:04X}H: {words}")


_NOT_ANSWERED = (0x0122, 0x0124, 0x0211, 0xA900)  # C-FIND at all, or such an identifier (PS3.7 C.5, PS3.4 C.4.1.1.4)
_ASKED_AGAIN = "it is asked again; where this stays, look into the peer's log"


def send(peer: Peer, documents: Sequence[Document], settings: Settings) -> list[Sent]:
    """Send each document as its first variant that the peer accepts; the files' bytes go out unchanged.

    What is not among the answers has not left: the association ended before its turn.

    A peer that takes Implicit VR Little Endian alone gets the object re-encoded so (PS3.5 section 10.1).
    Raises Retryable when no association comes about, OSError when a file cannot be read.
    """
    if not documents:
        return []
    syntaxes = {v.path: _transfer_syntax(v.path) for document in documents for v in document.variants}
    wanted = {(v.sop_class_uid, syntaxes[v.path]): None for document in documents for v in document.variants}
    wanted.update({(cls, ImplicitVRLittleEndian): None for cls, ts in list(wanted) if not ts.is_encapsulated})
    contexts = [build_context(cls, ts) for cls, ts in wanted]
    sent: list[Sent] = []
    with association_with(peer, settings, contexts) as association:
        offered = {(str(cx.abstract_syntax), cx.transfer_syntax[0]) for cx in association.accepted_contexts}
        for document in documents:
            sent.append(_send_one(association, document, syntaxes, offered))
            said = f" {sent[-1].message}" if sent[-1].message else ""
            LOGGER.info("object.%s %s to %s%s", sent[-1].state.lower(), document.name, peer.ae_title, said)
            if sent[-1].status is None and sent[-1].state is DeliveryState.PENDING:
                break  # the association has ended: what comes after it has not left
    return sent


def _transfer_syntax(path: Path) -> UID:
    return UID(str(read_file_meta_info(path).TransferSyntaxUID))


def _send_one(
    association: Association, document: Document, syntaxes: Mapping[Path, UID], offered: Collection[tuple[str, UID]]
) -> Sent:
    for variant in document.variants:
        syntax = syntaxes[variant.path]
        unchanged = (variant.sop_class_uid, syntax) in offered
        as_implicit = (variant.sop_class_uid, ImplicitVRLittleEndian) in offered and not syntax.is_encapsulated
        if unchanged or as_implicit:
            return _sent(document, variant, _store(association, variant.path if unchanged else dcmread(variant.path)))
    first = document.variants[0]
    names = ", ".join(UID(variant.sop_class_uid).name for variant in document.variants)
    words = f"the peer accepts no context for {names}; enable one there, then retry"
    return Sent(document.name, first.sop_class_uid, first.sop_instance_uid, None, DeliveryState.FAILED, words)


def _sent(document: Document, variant: Variant, answer: Dataset) -> Sent:
    status = int(answer.Status) if "Status" in answer else None
    decision = decide(status)
    uids = variant.sop_class_uid, variant.sop_instance_uid
    return Sent(document.name, *uids, status, decision.state, decision.message)


def _store(association: Association, what: Path | Dataset) -> Dataset:
    """One C-STORE; an empty data set when the association has ended."""
    try:
        return cast(Dataset, association.send_c_store(what))
    except RuntimeError:  # pynetdicom: no longer established
        return Dataset()


def request_commitment(
    peer: Peer, instances: Sequence[tuple[str, str]], transaction_uid: str, settings: Settings
) -> CommitmentAnswer:
    """Ask for storage commitment of (SOP class, SOP instance) pairs; note the transaction before calling this.

    A report on the asking association is waited for shortly; PENDING means that it will come to `receive`.
    Raises Unanswered, and Retryable when no association comes about.
    """
    reports: list[tuple[str, list[str], dict[str, int]]] = []
    arrived = threading.Event()

    def on_report(event: evt.Event) -> tuple[int, None]:
        try:
            report = read_report(event.event_information)
        except UnreadableHeader:
            return 0x0110, None
        if report[0] == transaction_uid:
            reports.append(report)
            arrived.set()
        return 0x0000, None

    contexts = [build_context(StorageCommitmentPushModel, NATIVE)]
    with association_with(peer, settings, contexts, [(evt.EVT_N_EVENT_REPORT, on_report)]) as association:
        if not _accepts(association, StorageCommitmentPushModel):
            return CommitmentAnswer("NOT_OFFERED", message="the peer does not offer storage commitment")
        with _standing(Unanswered("the connection ended before it")):
            request = request_dataset(transaction_uid, instances)
            answer, _ = association.send_n_action(
                request, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
            )
        if "Status" not in answer:
            raise Unanswered("the connection ended, or it took too long")
        if code_to_category(answer.Status) not in ("Success", "Warning"):
            raise Unanswered(f"status {answer.Status:04X}H")
        _wait(arrived, association, min(SAME_ASSOCIATION_SECONDS, settings.deliver.commitment_wait_seconds))
    if not reports:
        return CommitmentAnswer("PENDING")
    _, committed, failed = reports[0]
    return CommitmentAnswer("REPORTED", frozenset(committed), failed)


def _wait(arrived: threading.Event, association: Association, seconds: float) -> None:
    """By turns and not by the clock: what has come while the machine stood still is heard."""
    for _ in range(math.ceil(seconds / TURN_SECONDS)):
        if arrived.wait(TURN_SECONDS) or not association.is_established:
            return


def find(
    peer: Peer, study_instance_uid: str, instances: Mapping[str, str], settings: Settings
) -> frozenset[str] | None:
    """Which SOP Instance UIDs the peer finds in this study; `instances` maps each to its Series Instance UID.

    IMAGE level of the Study Root model (PS3.4 C.6.2): one request per series, with every unique key, which the
    strictest SCP needs. None when the peer does not offer it or such a query. Raises QueryFailed and Retryable.
    """
    seen: set[str] = set()
    with association_with(peer, settings, [build_context(STUDY_ROOT_FIND, NATIVE)]) as association:
        if not _accepts(association, StudyRootQueryRetrieveInformationModelFind):
            return None
        for series in sorted(set(instances.values())):
            uids = sorted(uid for uid, in_series in instances.items() if in_series == series)
            found = _find_in_series(association, study_instance_uid, series, uids)
            if found is None:
                return None
            seen |= found
    return frozenset(seen & set(instances))


def image_query(study: str, series: str, uids: list[str]) -> Dataset:
    """The identifier of a C-FIND at IMAGE level."""
    query = Dataset()
    query.QueryRetrieveLevel = "IMAGE"
    query.StudyInstanceUID = study
    if series:
        query.SeriesInstanceUID = series
    query.SOPInstanceUID = uids
    return query


def _find_in_series(association: Association, study: str, series: str, uids: list[str]) -> set[str] | None:
    answers = _answers(association, image_query(study, series, uids))
    if answers is None:
        return None
    in_study = [one for one in answers if ascii_text(one, "StudyInstanceUID") in ("", study)]
    return {ascii_text(one, "SOPInstanceUID") for one in in_study}


def study_query(study: str) -> Dataset:
    """The identifier of a C-FIND at STUDY level for whose study it is; the answer may come in any script."""
    query = Dataset()
    query.SpecificCharacterSet = "ISO_IR 192"
    query.QueryRetrieveLevel = "STUDY"
    query.StudyInstanceUID = study
    for name in FILED_BY:
        setattr(query, KEYWORDS[name], "")
    return query


def find_identities(peer: Peer, study: str, settings: Settings) -> list[Identity] | None:
    """Whom the peer files this study under; several where it is of two minds, [] where it does not have the study.

    STUDY level of the Study Root model (PS3.4 C.6.2.1). None when the peer does not offer it or such a query.
    Raises QueryFailed and Retryable.
    """
    with association_with(peer, settings, [build_context(STUDY_ROOT_FIND, NATIVE)]) as association:
        if not _accepts(association, StudyRootQueryRetrieveInformationModelFind):
            return None
        answers = _answers(association, study_query(study))
    if answers is None:
        return None
    return [identity_of(one, over=1) for one in answers if ascii_text(one, "StudyInstanceUID") == study]


def _answers(association: Association, query: Dataset) -> list[Dataset] | None:
    """What a C-FIND gives; None where the peer does not answer such a question at all.

    Raises QueryFailed where it does not answer it now.
    """
    found: list[Dataset] = []
    status: int | None = None
    with _standing(QueryFailed("the connection ended before it")):
        for answer, identifier in association.send_c_find(query, StudyRootQueryRetrieveInformationModelFind):
            status = int(answer.Status) if "Status" in answer else None
            found += [] if identifier is None else [identifier]
    if status is None:
        raise QueryFailed("the connection ended, or it took too long")
    if code_to_category(status) in ("Success", "Warning", "Pending"):
        return found
    if status in _NOT_ANSWERED:
        return None
    raise QueryFailed(f"status {status:04X}H")


@contextmanager
def _standing(failure: Retryable) -> Iterator[None]:
    """Raises `failure` where the association has ended before the request: pynetdicom's is a RuntimeError."""
    try:
        yield
    except RuntimeError as error:
        raise failure from error


def echo(peer: Peer, settings: Settings) -> EchoResult:
    """C-ECHO, for `prognode check`: says in words what is wrong and what to do."""
    try:
        with association_with(peer, settings, []) as association:
            if not _accepts(association, Verification):
                return EchoResult(True, f"{peer.ae_title} accepts an association, but offers no C-ECHO")
            with _standing(Retryable("the connection ended before C-ECHO", _ASKED_AGAIN)):
                answer = association.send_c_echo()
    except Retryable as error:
        return EchoResult(False, str(error), error.hint)
    if "Status" in answer and answer.Status == 0x0000:
        return EchoResult(True, f"{peer.ae_title} at {peer.host}:{peer.port} answers C-ECHO")
    return EchoResult(False, f"{peer.ae_title} accepted the association, but not C-ECHO", "look into the peer's log")


def _accepts(association: Association, abstract_syntax: UID) -> bool:
    return any(cx.abstract_syntax == abstract_syntax for cx in association.accepted_contexts)
