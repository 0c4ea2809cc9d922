"""One message (HL7, FHIR) on its way to the application at the other end, and what came of it. Leaf of the node."""

from collections.abc import Callable
from dataclasses import dataclass

from analysis.contract import JobResult
from config.settings import Settings
from dicom_node.identity import Identity
from dicom_node.workitem import DeliveryState, WorkItem


class Withdrawn(Exception):
    """The message must not leave any more: it has been withdrawn or held since its row was read."""


@dataclass(frozen=True)
class Previous:
    """What this destination was told, or may have been, of the same contour by an earlier revision; it is replaced now.

    `identifier` is what the destination knows that message by, `result` what it said; None where that is gone.
    """

    identifier: str
    revision: int
    result: JobResult | None


@dataclass(frozen=True)
class Outgoing:
    """A result on its way to the entry `name` of the settings.

    Attributes
    ----------
    previous : tuple of Previous
        Newest first, back to the last that the destination has acknowledged: any of them may be what it holds.
    leaving : callable
        Is told the identifier of the message when the connection stands and nothing of it has left: should this node
        end in between, the next revision still names it. Raises Withdrawn.
    """

    name: str
    item: WorkItem
    result: JobResult
    identity: Identity
    settings: Settings
    previous: tuple[Previous, ...] = ()
    leaving: Callable[[str], None] = lambda identifier: None


@dataclass(frozen=True)
class Answer:
    """ACKNOWLEDGED (taken), PENDING (try again) or FAILED (an operator has to act), and why in words without PHI.

    Attributes
    ----------
    identifier : str
        What the other end knows the message by: MSH-10, or the id of a resource. '' where nothing of it has got
        there; set where no answer came, too: the other end may have it.
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
