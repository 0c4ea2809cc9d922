"""HL7 v2 ORU^R01 over MLLP or MLLPS to one RIS."""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from config.identity import VERSION
from config.settings import Hl7Peer, Settings
from dicom_node.answer import Answer, Outgoing, Previous
from dicom_node.hl7_ack import Acknowledgement, NotOurs, read_acknowledgement
from dicom_node.mllp import NoAnswer, NotReached, exchange
from dicom_node.workitem import DeliveryState, WorkItem
from reports.hl7 import Ends, MessageContext, Replaced, control_id, oru_r01
from reports.uids import device_uid

LOGGER = logging.getLogger(__name__)
PENDING, FAILED, ACKNOWLEDGED = DeliveryState.PENDING, DeliveryState.FAILED, DeliveryState.ACKNOWLEDGED


def send(going: Outgoing) -> Answer:
    """Send a result to an entry of [[hl7_peers]]; never raises for what the peer does; raises Withdrawn.

    The message and its MSH-10 are the same each time, so that a receiver that has it already can tell.
    """
    identity, settings = going.identity, going.settings
    peer = next((one for one in settings.hl7_peers if one.name == going.name), None)
    if peer is None:
        return Answer(FAILED, f"no [[hl7_peers]] entry {going.name}; add it, then: prognode retry")
    context = context_of(peer, going.item, settings, going.previous)
    if not identity.patient_id:
        return Answer(
            FAILED, "the study has no Patient ID, and no RIS could file it; correct it there, then: prognode retry"
        )
    identifier = control_id(identity, context)
    message = oru_r01(going.result, identity, context).encode("utf-8")
    try:
        connect_seconds = settings.deliver.connect_timeout_seconds
        answer = exchange(peer, message, connect_seconds, lambda: going.leaving(identifier))
        acknowledgement = read_acknowledgement(answer, identifier)
    except NotReached as error:
        return Answer(PENDING, str(error), dead=True)
    except NoAnswer as error:
        return Answer(PENDING, f"{peer.name}: {error}; it is sent again", identifier, dead=True)
    except NotOurs as error:
        return Answer(PENDING, f"{peer.name}: {error}; it is sent again", identifier)
    return _decided(peer, acknowledgement, identifier)


def context_of(peer: Hl7Peer, item: WorkItem, settings: Settings, previous: Sequence[Previous]) -> MessageContext:
    """What enters the message beside result and patient; times are of the job's record, not of this moment."""
    node = settings.node
    replaced = None
    if previous:
        results = tuple(one.result for one in previous if one.result is not None)
        replaced = Replaced(previous[0].identifier, previous[0].revision, results)
    return MessageContext(
        key=item.key or "",
        destination=peer.name,
        created=datetime.fromtimestamp(item.scheduled_at or item.created_at, UTC),
        ends=Ends(
            settings.hl7.sending_application,
            settings.hl7.sending_facility,
            peer.receiving_application,
            peer.receiving_facility,
            settings.hl7.processing_id,
        ),
        study_instance_uid=item.study_instance_uid,
        contour=item.roi_sop_instance_uid or item.ct_series_instance_uid or item.study_instance_uid,
        software_version=VERSION,
        ae_title=node.ae_title,
        device_uid=device_uid(node.ae_title, node.site),
        revision=item.revision,
        replaced=replaced,
        language=settings.report.language,
        zone=ZoneInfo(node.time_zone) if node.time_zone else None,
    )


def _decided(peer: Hl7Peer, said: Acknowledgement, identifier: str) -> Answer:
    """What an acknowledgement code means (HL7 table 0008). Unknown ones are tried again: losing a result is worse."""
    condition = f" ({said.words})" if said.words else ""
    if said.code in ("AA", "CA"):
        return Answer(ACKNOWLEDGED, f"{said.code} by {peer.name}", identifier)
    if said.code in ("AR", "CR"):
        remedy = "its log says why; correct the interface, then: prognode retry"
        return Answer(FAILED, f"{peer.name} rejected the message with {said.code}{condition}; {remedy}", identifier)
    code = said.code if said.code in ("AE", "CE") else "an unknown code"
    return Answer(PENDING, f"{peer.name} answered {code}{condition}; it is sent again", identifier)
