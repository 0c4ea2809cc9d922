"""Results as messages: HL7 to a RIS, FHIR to a server. One delivery row each, beside those of the DICOM objects.

A destination is "hl7:<name>" or "fhir:<name>"; its row waits until the objects are in the PACS, so that nobody is told
of a result that cannot be opened yet.
"""

import logging
from collections.abc import Callable

from pydantic import ValidationError

from analysis.contract import RESULT_FILE, JobResult
from config.settings import Settings
from dicom_node import deliver, fhir_out, hl7_out
from dicom_node.answer import Answer, Previous
from dicom_node.audit import AuditEntry, AuditOutcome
from dicom_node.deliveries import Delivery
from dicom_node.identity import Identity
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.workitem import DeliveryState, WorkItem

LOGGER = logging.getLogger(__name__)
Channel = Callable[[str, WorkItem, JobResult, Identity, Settings, Previous | None], Answer]
CHANNELS: dict[str, Channel] = {"hl7": hl7_out.send, "fhir": fhir_out.send}
MESSAGE = "message"  # the document name of such a row
REVISIONS_LOOKED_BACK = 50


def is_message(destination: str) -> bool:
    """Whether a delivery row is of a message, not of a DICOM object."""
    return destination.partition(":")[0] in CHANNELS


class Messenger:
    """Sends messages. One per thread, as its store is."""

    def __init__(self, store: Store, spool: Spool, settings: Settings, clock: Callable[[], float]) -> None:
        self._store, self._spool, self._settings, self._clock = store, spool, settings, clock

    def step(self, item: WorkItem, row: Delivery) -> str | None:
        """Take a message a step further: it waits, is sent, is acknowledged, or is no longer wanted.

        Gives why it has to be tried again later, in words, and None where that is settled. Raises OSError or
        ValueError where the result cannot be read.
        """
        deliveries, now = self._store.deliveries, self._clock()
        newer = deliveries.replaced_by(item.key or "", row.destination)
        if newer is not None:
            detail = f"not sent: revision {newer} has taken its place"
            LOGGER.info("message.superseded to %s: %s", row.destination, detail)
            deliveries.record(row.id, state=DeliveryState.CANCELED, final=1, detail=detail)
            return None
        if not self._objects_are_there(item):
            wait = self._settings.deliver.first_delay_seconds
            deliveries.record(row.id, run_after=now + wait, detail="waits for the objects to be in the PACS")
            return None
        answer = self._send(item, row)
        self._record(item, row, answer)
        return answer.message if answer.state is DeliveryState.PENDING and not answer.retry_after else None

    def _objects_are_there(self, item: WorkItem) -> bool:
        """Whether every DICOM object of the work item has come to its end at every destination."""
        rows = self._store.deliveries.of_item(item.id)
        return all(row.final for row in rows if not is_message(row.destination))

    def _send(self, item: WorkItem, row: Delivery) -> Answer:
        scheme, _, name = row.destination.partition(":")
        if row.destination not in self._settings.message_destinations():
            return Answer(DeliveryState.FAILED, f"the settings have no {row.destination}; add it, then: prognode retry")
        identity = self._store.patients.of_study(item.study_instance_uid) or Identity()
        previous = self._previous(item, row.destination)
        return CHANNELS[scheme](name, item, self._result(item), identity, self._settings, previous)

    def _record(self, item: WorkItem, row: Delivery, answer: Answer) -> None:
        deliveries, now = self._store.deliveries, self._clock()
        if answer.identifier and answer.identifier != row.sop_instance_uid:
            deliveries.record(row.id, sop_instance_uid=answer.identifier)  # also where no answer came: it may be there
        if answer.dead:
            # Finding out has cost a time-out: the other messages need not find out for themselves.
            attempts = deliveries.most_attempts(row.destination) + 1
            deliveries.hold(row.destination, now + deliver.delay(attempts, self._settings.deliver))
        if answer.retry_after:
            LOGGER.warning("delivery.postponed to %s by %.0f s: it asks for that", row.destination, answer.retry_after)
            until, attempts = now + answer.retry_after, row.attempts + 1
            deliveries.record(row.id, run_after=until, attempts=attempts, detail=answer.message)
        if answer.state is DeliveryState.PENDING:
            return
        taken = answer.state is DeliveryState.ACKNOWLEDGED
        if taken:
            LOGGER.info("message.acknowledged to %s: %s", row.destination, answer.message)
            times = {"sent_at": now, "proved_at": now}
            deliveries.record(row.id, state=answer.state, final=1, detail=answer.message, **times)
        else:
            LOGGER.error("delivery.refused %s by %s: %s", row.document, row.destination, answer.message)
            attempts = row.attempts + 1
            deliveries.record(row.id, state=answer.state, final=1, detail=answer.message, attempts=attempts)
        self._audit(item, row, "done" if taken else "refused", answer.message)

    def _audit(self, item: WorkItem, row: Delivery, outcome: AuditOutcome, detail: str) -> None:
        self._store.audit.add(
            AuditEntry(
                at=self._clock(),
                actor="prognode",
                origin="node",
                action="message.sent",
                outcome=outcome,
                work_item_id=item.id,
                study_instance_uid=item.study_instance_uid,
                detail=detail[:500],
                facts={"peer": row.destination},
            )
        )

    def _result(self, item: WorkItem) -> JobResult:
        path = self._spool.results(item.key or "", "analysis") / RESULT_FILE
        return JobResult.model_validate_json(path.read_bytes())

    def _previous(self, item: WorkItem, destination: str) -> Previous | None:
        """What this destination was last told, or may have been, of the same contour."""
        key = item.predecessor_key
        for _ in range(REVISIONS_LOOKED_BACK):
            before = self._store.item_of(key) if key else None
            if before is None:
                return None
            rows = self._store.deliveries.of_item(before.id)
            told = [row for row in rows if row.destination == destination and row.sop_instance_uid]
            if told:
                try:
                    return Previous(told[0].sop_instance_uid or "", before.revision, self._result(before))
                except (OSError, ValidationError):  # retention has removed it, or an older Prognode wrote it
                    return Previous(told[0].sop_instance_uid or "", before.revision, None)
            key = before.predecessor_key
        return None
