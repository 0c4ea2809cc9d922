"""FHIR R4 RiskAssessment and DiagnosticReport to one server."""

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
    """Send the result of a work item to the [[fhir_servers]] entry `name`; never raises for what the peer does."""
    raise NotImplementedError
