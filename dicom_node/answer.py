"""What came of one attempt to hand a message (HL7, FHIR) to the application at the other end. Leaf of the node."""

from dataclasses import dataclass

from analysis.contract import JobResult
from dicom_node.workitem import DeliveryState


@dataclass(frozen=True)
class Previous:
    """What this destination was told before about the same contour, by an earlier revision; it is now replaced.

    `identifier` is what the destination knows that message by, `result` what it said; None where that is gone.
    """

    identifier: str
    revision: int
    result: JobResult | None


@dataclass(frozen=True)
class Answer:
    """ACKNOWLEDGED (taken), PENDING (try again) or FAILED (an operator has to act), and why in words without PHI.

    Attributes
    ----------
    identifier : str
        What the other end knows the message by: MSH-10, or the id of a resource. Set as soon as any of the message
        has left, also where no answer came: the other end may have it.
    dead : bool
        Nobody answered, and finding out has cost a time-out: nothing else is tried there for a while.
    retry_after : float
        Seconds that the other end asks to be left alone for (HTTP Retry-After); 0 where it says nothing.
    """

    state: DeliveryState
    message: str
    identifier: str = ""
    dead: bool = False
    retry_after: float = 0.0
