"""One HL7 message -> the store, and what its sender is told. Whatever a message changes is one transaction."""

import hashlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass

from analysis.reasons import Reason
from config.settings import Hl7
from dicom_node import clinical_intake
from dicom_node.audit import AuditEntry
from dicom_node.clinical_codes import Codes
from dicom_node.elements import escaped
from dicom_node.hl7_ack import Reply
from dicom_node.hl7_messages import Content, Envelope, content, envelope
from dicom_node.hl7_reader import UNSUPPORTED_PROCESSING_ID, Message, Refused
from dicom_node.patients import HL7_MERGE, HL7_UPDATE
from dicom_node.store import Store
from dicom_node.workitem import State, WorkItem

LOGGER = logging.getLogger(__name__)
_OF_SEVERAL_PATIENTS = (Reason.ROI_PATIENT_DIFFERS, Reason.IDENTITY_DIFFERS)


@dataclass(frozen=True)
class Office:
    """What it takes to apply messages: settings, and which codes mean which clinical variable."""

    settings: Hl7
    codes: Codes


def apply(store: Store, message: Message, data: bytes, address: str, office: Office, now: float) -> Reply:
    """Apply a message; `data` is it as it came. Raises StoreBusy, and Refused for one that cannot be used."""
    about = envelope(message)
    expected = office.settings.processing_id
    if about.processing_id not in ("", expected):
        raise Refused(UNSUPPORTED_PROCESSING_ID, f"MSH-11 must be {expected}: that is what this node is for")
    wanted = content(message, office.settings.assigning_authority)
    said = store.inbox.once(
        about.sender,
        about.control_id,
        digest_of(data),
        about.kind,
        now,
        lambda: _Clerk(store, about, address, office, now).work(wanted),
    )
    return Reply("AA", said)


def digest_of(data: bytes) -> str:
    """SHA-256 of a message without MSH-7: an engine that sends it again may write the time anew."""
    head, end, rest = data.partition(b"\r")
    fields = head.split(head[3:4])
    fields[6:7] = [b""]
    return hashlib.sha256(head[3:4].join(fields) + end + rest).hexdigest()


class _Clerk:
    """Applies one message inside the caller's transaction."""

    def __init__(self, store: Store, about: Envelope, address: str, office: Office, now: float) -> None:
        self._store, self._about, self._address, self._office, self._now = store, about, address, office, now

    def work(self, wanted: Content) -> str:
        """Do it all; gives a sentence for the sender, without PHI."""
        changed: list[str] = []
        for update in wanted.updates:
            changed += self._store.patients.update(update.keys, update.said, self._source(HL7_UPDATE), self._now)
        for merge in wanted.merges:
            for prior, surviving in merge.pairs:
                source = self._source(HL7_MERGE)
                changed += self._store.patients.merge(prior, surviving, merge.said, source, self._now)
                self._plan_again(self._store.patients.studies_of_key(surviving))
        for study in dict.fromkeys(changed):
            self._record(study)
        parts = []
        if wanted.updates or wanted.merges:
            parts.append(f"{len(set(changed))} studies changed")
        if wanted.observations:
            parts.append(self._values(wanted))
        return "; ".join(parts) or "nothing of it is used here"

    def _source(self, usual: str) -> str:
        """study.source: the message's own name; "HL7 ADT^A40"."""
        return usual if usual.endswith(self._about.kind) else f"HL7 {self._about.kind}"

    def _record(self, study: str) -> None:
        """The audit trail, and the history of each work item that people may be looking at."""
        newest = self._store.patients.newest_change(study)
        if newest is None:
            return
        detail = f"{newest.source}: {', '.join(newest.attributes)}"
        self._store.audit.add(
            AuditEntry(
                at=self._now,
                actor=self._about.sender,
                origin="hl7",
                action="identity.changed",
                address=self._address,
                study_instance_uid=study,
                detail=detail,
            )
        )
        for item in self._store.items(study):
            if item.study_instance_uid == study and item.state is not State.CANCELED:
                self._store.note(item.id, "identity changed", self._now, detail)
        LOGGER.info("identity.changed by %s", detail)

    def _plan_again(self, studies: Iterable[str]) -> None:
        """What was refused because two patients seemed to be involved is planned once more: they are one."""
        for study in studies:
            newest: dict[str | None, WorkItem] = {}
            for item in self._store.items(study):  # newest first
                if item.state is not State.CANCELED:
                    newest.setdefault(item.roi_sop_instance_uid, item)
            for item in newest.values():  # an older revision was answered by a newer one
                if item.reason in _OF_SEVERAL_PATIENTS:
                    self._store.births.replan(item.id, "patients were merged", self._now)

    def _values(self, wanted: Content) -> str:
        feed = clinical_intake.Feed("hl7", f"HL7 {self._about.kind}", self._about.sender)
        taken = clinical_intake.take(
            self._store.clinical, self._office.codes, wanted.observations, feed, self._now, self._about.said_at
        )
        for refused in taken.refused:
            LOGGER.warning("hl7.value_refused %s of %s: %s", refused.name, escaped(self._about.sender), refused.why)
        parts = [
            f"{taken.recorded} values recorded",
            *([f"{taken.unchanged} known already"] if taken.unchanged else []),
            *([f"{taken.retracted} taken back"] if taken.retracted else []),
            *(f"{one.name} not taken: {one.why}" for one in taken.refused),
        ]
        return ", ".join(parts)[:1000]
