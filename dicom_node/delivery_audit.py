"""What the audit trail hears of deliveries: what was sent where, and what the PACS was asked. Pure."""

import base64
from collections import Counter
from collections.abc import Mapping, Sequence

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import ExplicitVRLittleEndian

from config.settings import Peer
from dicom_node.audit import AuditEntry, AuditOutcome
from dicom_node.deliver import Sent
from dicom_node.workitem import DeliveryState, WorkItem

_OUTCOMES: dict[DeliveryState, AuditOutcome] = {DeliveryState.SENT: "done", DeliveryState.FAILED: "refused"}
_ALL: tuple[AuditOutcome, ...] = ("done", "refused", "failed")


def objects_sent(item: WorkItem, peer: Peer, answers: Sequence[Sent], now: float) -> list[AuditEntry]:
    """One entry for what one destination took of a work item, and one for what it did not: never one for both."""
    entries = []
    for outcome in _ALL:
        those = [answer for answer in answers if _OUTCOMES.get(answer.state, "failed") == outcome]
        if those:
            classes = Counter(answer.sop_class_uid for answer in those)
            facts = {"peer": peer.ae_title, "peer_address": peer.host, "sop_classes": dict(classes)}
            detail = "" if outcome == "done" else "; ".join(sorted({answer.message for answer in those}))[:500]
            entries.append(_entry("instances.sent", item.study_instance_uid, item.id, now, outcome, detail, facts))
    return entries


def query_sent(peer: Peer, sop_class_uid: str, query: Dataset, now: float, work_item_id: int | None) -> AuditEntry:
    """The entry of a C-FIND of ours; `query` is its identifier (of several requests, what all of them ask)."""
    stream = DicomBytesIO()
    stream.is_little_endian, stream.is_implicit_VR = True, False
    write_dataset(stream, query)
    facts = {
        "peer": peer.ae_title,
        "peer_address": peer.host,
        "sop_class_uid": sop_class_uid,
        "query": base64.b64encode(stream.getvalue()).decode("ascii"),
        "transfer_syntax_uid": str(ExplicitVRLittleEndian),
    }
    return _entry("query.sent", str(query.get("StudyInstanceUID", "")), work_item_id, now, "done", "", facts)


def _entry(
    action: str,
    study: str,
    work_item_id: int | None,
    now: float,
    outcome: AuditOutcome,
    detail: str,
    facts: Mapping[str, object],
) -> AuditEntry:
    return AuditEntry(
        now, "prognode", "node", action, outcome,
        work_item_id=work_item_id, study_instance_uid=study, detail=detail, facts=facts,
    )  # fmt: skip
