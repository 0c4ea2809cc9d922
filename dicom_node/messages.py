"""Results as messages: HL7 to a RIS, FHIR to a server. One delivery row each, beside those of the DICOM objects.

A destination is "hl7:<name>" or "fhir:<name>"; its row waits until the objects have come to their end at every PACS, so
that nobody is told of a result that cannot be opened yet. Of one that no PACS has taken nobody is told at all.
"""

import logging
from collections.abc import Callable

from pydantic import ValidationError

from analysis.contract import RESULT_FILE, JobResult
from config.settings import Settings
from dicom_node import deliver
from dicom_node.answer import Answer, Outgoing, Previous, Withdrawn
from dicom_node.audit import AuditEntry, AuditOutcome
from dicom_node.deliveries import Delivery
from dicom_node.identity import Identity
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.workitem import DeliveryState, WorkItem

LOGGER = logging.getLogger(__name__)
MESSAGE = "message"  # the document name of such a row
REVISIONS_LOOKED_BACK = 50
TAKEN = (DeliveryState.SENT, DeliveryState.COMMITTED, DeliveryState.SEEN)


def _hl7(outgoing: Outgoing) -> Answer:
    from dicom_node import hl7_out  # noqa: PLC0415 - few nodes send these, and coded concepts take a tenth of a second

    return hl7_out.send(outgoing)


def _fhir(outgoing: Outgoing) -> Answer:
    from dicom_node import fhir_out  # noqa: PLC0415 - as above

    return fhir_out.send(outgoing)


CHANNELS: dict[str, Callable[[Outgoing], Answer]] = {"hl7": _hl7, "fhir": _fhir}


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
        objects = [one for one in deliveries.of_item(item.id) if not is_message(one.destination)]
        if not all(one.final for one in objects):
            wait = self._settings.deliver.first_delay_seconds
            deliveries.record(row.id, run_after=now + wait, detail="waits for the objects to be in the PACS")
            return None
        if objects and not any(one.state in TAKEN for one in objects):
            words = "not sent: no PACS has taken the objects that it would point to; correct that, then: prognode retry"
            answer = Answer(DeliveryState.FAILED, words)
        else:
            try:
                answer = self._send(item, row)
            except Withdrawn:
                LOGGER.info("message.withdrawn to %s: it has not left", row.destination)
                return None
        self._record(item, row, answer)
        return answer.message if answer.state is DeliveryState.PENDING and not answer.retry_after else None

    def _send(self, item: WorkItem, row: Delivery) -> Answer:
        scheme, _, name = row.destination.partition(":")
        if row.destination not in self._settings.message_destinations():
            return Answer(DeliveryState.FAILED, f"the settings have no {row.destination}; add it, then: prognode retry")
        identity = self._store.patients.of_study(item.study_instance_uid) or Identity()
        previous = self._previous(item, row.destination)

        def leaving(identifier: str) -> None:
            if not self._store.deliveries.message_leaving(row.id, identifier):
                raise Withdrawn

        going = Outgoing(name, item, self._result(item), identity, self._settings, previous, leaving)
        answer = CHANNELS[scheme](going)
        if not answer.identifier:  # nothing has got there; an earlier try may have
            self._store.deliveries.record(row.id, sop_instance_uid=row.sop_instance_uid)
        return answer

    def _record(self, item: WorkItem, row: Delivery, answer: Answer) -> None:
        deliveries, now = self._store.deliveries, self._clock()
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
            deliveries.settle(row, state=answer.state, final=1, detail=answer.message, attempts=attempts)
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

    def _previous(self, item: WorkItem, destination: str) -> tuple[Previous, ...]:
        """What this destination was told, or may have been, of the same contour, as `Outgoing.previous` wants it."""
        found: list[Previous] = []
        key = item.predecessor_key
        for _ in range(REVISIONS_LOOKED_BACK):
            before = self._store.item_of(key) if key else None
            if before is None:
                break
            for row in self._store.deliveries.of_item(before.id):
                if row.destination == destination and row.sop_instance_uid:
                    found.append(Previous(row.sop_instance_uid, before.revision, self._result_of(before)))
                    if row.state is DeliveryState.ACKNOWLEDGED:
                        return tuple(found)
            key = before.predecessor_key
        return tuple(found)

    def _result_of(self, item: WorkItem) -> JobResult | None:
        """None where retention has removed it, or an older Prognode wrote it."""
        try:
            return self._result(item)
        except (OSError, ValidationError):
            return None
