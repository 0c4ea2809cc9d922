"""What the audit trail hears of the UPS worklist: queries, steps read, subscriptions, requests to cancel. Pure.

`ups.query` is an event Query of PS3.15 A.5.3.10 with the identifier as it came; the others are Procedure Records.
"""

import base64
from dataclasses import dataclass

from dicom_node.audit import AuditEntry, AuditOutcome

LONGEST_QUERY = 1 << 16  # bytes of an identifier; a longer one is not kept


@dataclass(frozen=True)
class Caller:
    """The AE on the other side of the association."""

    ae_title: str
    address: str


def queried(
    caller: Caller, sop_class_uid: str, syntax: str, identifier: bytes, outcome: AuditOutcome, detail: str, now: float
) -> AuditEntry:
    """A C-FIND; `identifier` is its data set as it came, in the transfer syntax `syntax`."""
    kept = identifier if len(identifier) <= LONGEST_QUERY else b""
    facts = {
        "sop_class_uid": sop_class_uid,
        "query": base64.b64encode(kept).decode("ascii"),
        "transfer_syntax_uid": syntax,
    }
    return AuditEntry(now, caller.ae_title, "dicom", "ups.query", outcome, caller.address, detail=detail, facts=facts)


def about_step(
    caller: Caller, action: str, work_item_id: int, study: str, outcome: AuditOutcome, detail: str, now: float
) -> AuditEntry:
    """Something that an AE did with one step: `ups.read`, `ups.subscribed`, `workitem.cancel` ..."""
    return AuditEntry(now, caller.ae_title, "dicom", action, outcome, caller.address, work_item_id, study, detail)


def about_worklist(caller: Caller, action: str, outcome: AuditOutcome, detail: str, now: float) -> AuditEntry:
    """A subscription of the whole worklist."""
    return AuditEntry(now, caller.ae_title, "dicom", action, outcome, caller.address, detail=detail)
