"""Results as messages: HL7 to a RIS, FHIR to a server. One delivery row each, beside those of the DICOM objects.

A destination is "hl7:<name>" or "fhir:<name>"; its row waits until the objects are in the PACS, so that nobody is told
of a result that cannot be opened yet.
"""

from collections.abc import Callable

from analysis.contract import RESULT_FILE, JobResult
from config.settings import Settings
from dicom_node import fhir_out, hl7_out
from dicom_node.answer import Answer, Previous
from dicom_node.deliveries import Delivery
from dicom_node.identity import Identity
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.workitem import DeliveryState, WorkItem

Channel = Callable[[str, WorkItem, JobResult, Identity, Settings, Previous | None], Answer]
CHANNELS: dict[str, Channel] = {"hl7": hl7_out.send, "fhir": fhir_out.send}
MESSAGE = "message"  # the document name of such a row


def is_message(destination: str) -> bool:
    """Whether a delivery row is of a message, not of a DICOM object."""
    return destination.partition(":")[0] in CHANNELS


class Messenger:
    """Sends messages. One per thread, as its store is."""

    def __init__(self, store: Store, spool: Spool, settings: Settings) -> None:
        self._store, self._spool, self._settings = store, spool, settings

    def objects_are_there(self, item: WorkItem) -> bool:
        """Whether every DICOM object of the work item has come to its end at every destination."""
        rows = self._store.deliveries.of_item(item.id)
        return all(row.final for row in rows if not is_message(row.destination))

    def send(self, item: WorkItem, row: Delivery) -> Answer:
        """One attempt. Raises OSError or ValueError where the result cannot be read."""
        scheme, _, name = row.destination.partition(":")
        known = self._settings.message_destinations()
        if row.destination not in known:
            return Answer(DeliveryState.FAILED, f"the settings have no {row.destination}; add it, then: prognode retry")
        path = self._spool.results(item.key or "", "analysis") / RESULT_FILE
        result = JobResult.model_validate_json(path.read_bytes())
        identity = self._store.patients.of_study(item.study_instance_uid) or Identity()
        return CHANNELS[scheme](name, item, result, identity, self._settings, None)
