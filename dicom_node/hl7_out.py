"""HL7 v2 ORU^R01 over MLLP or MLLPS to one RIS."""

from analysis.contract import JobResult
from config.settings import Settings
from dicom_node.answer import Answer, Previous
from dicom_node.identity import Identity
from dicom_node.workitem import WorkItem


def send(
    name: str,
    item: WorkItem,
    result: JobResult,
    identity: Identity,
    settings: Settings,
    previous: Previous | None = None,
) -> Answer:
    """Send the result of a work item to the [[hl7_peers]] entry `name`; never raises for what the peer does."""
    raise NotImplementedError
