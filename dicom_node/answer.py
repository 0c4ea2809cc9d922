"""What came of one attempt to hand a message (HL7, FHIR) to the application at the other end. Leaf of the node."""

from dataclasses import dataclass

from dicom_node.workitem import DeliveryState


@dataclass(frozen=True)
class Answer:
    """ACKNOWLEDGED (taken), PENDING (try again) or FAILED (an operator has to act), and why in words without PHI.

    `identifier` is what the other end knows the message by: MSH-10, or the id of a resource.
    """

    state: DeliveryState
    message: str
    identifier: str = ""
