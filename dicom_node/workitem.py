"""The life of a work item: its states, the table of allowed moves, and the exceptions that decide what comes next.

Leaf of the node: standard library only. `store.advance` is the only writer of a state.
"""

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """States of a work item. IN PROGRESS is not among them: it is a lease, so a crash needs no repair."""

    WAITING = "WAITING"  # inputs are missing: a contour, or CT instances that the contour references
    SCHEDULED = "SCHEDULED"  # inputs are complete (or the study is known not to be scorable)
    ANALYSED = "ANALYSED"  # result.json is in the spool
    REPORTED = "REPORTED"  # the DICOM objects are in the spool
    COMPLETED = "COMPLETED"  # every delivery is proved, as far as its destination can prove it
    CANCELED = "CANCELED"  # superseded by a revision, or withdrawn by an operator
    FAILED = "FAILED"  # an operator has to act; the hint says what


TRANSITIONS: dict[State, frozenset[State]] = {
    State.WAITING: frozenset({State.SCHEDULED, State.CANCELED, State.FAILED}),
    State.SCHEDULED: frozenset({State.ANALYSED, State.CANCELED, State.FAILED}),
    State.ANALYSED: frozenset({State.REPORTED, State.CANCELED, State.FAILED}),
    State.REPORTED: frozenset({State.COMPLETED, State.CANCELED, State.FAILED}),  # canceled: before anything was sent
    State.COMPLETED: frozenset({State.REPORTED}),  # a storage commitment report that fails comes late
    State.CANCELED: frozenset(),
    # Back to REPORTED where objects were sent already: the same bytes go out again, never other ones under their UIDs.
    State.FAILED: frozenset({State.SCHEDULED, State.REPORTED, State.CANCELED}),
}


UNCHANGED = "nothing has changed: the result before it stands"  # of what was planned once more, and is no new answer
PRIORITIES = {"HIGH": 1, "MEDIUM": 0, "LOW": -1}  # Scheduled Procedure Step Priority (0074,1200)


def ups_state(state: State, *, leased: bool) -> str:
    """Procedure Step State (0074,1000) of a work item: SCHEDULED, IN PROGRESS, COMPLETED or CANCELED (PS3.4 CC.1.1).

    FAILED is IN PROGRESS: the two last states are for ever, and an operator's retry goes on from FAILED.

    >>> ups_state(State.SCHEDULED, leased=True)
    'IN PROGRESS'
    """
    if state in (State.COMPLETED, State.CANCELED):
        return str(state)
    return "SCHEDULED" if state in (State.WAITING, State.SCHEDULED) and not leased else "IN PROGRESS"


class DeliveryState(StrEnum):
    """How far one object has come at one destination."""

    PENDING = "PENDING"
    SENT = "SENT"  # C-STORE answered with success: a claim, not a proof; final only where nothing can prove it
    COMMITTED = "COMMITTED"  # storage commitment reported success
    SEEN = "SEEN"  # found by C-FIND in the right study
    ACKNOWLEDGED = "ACKNOWLEDGED"  # the application at the other end has taken it (HL7 AA, FHIR 2xx)
    FAILED = "FAILED"  # refused for good; an operator has to act
    NOT_ACCEPTED = "NOT_ACCEPTED"  # an optional object of a SOP class that the destination does not store
    CANCELED = "CANCELED"  # withdrawn with its work item before it was sent


@dataclass(frozen=True)
class WorkItem:
    """A row of `work_item`: score this ROI object against the CT series it references, with this bundle.

    `key` is the content digest of everything that decides the result; None while the item is WAITING.
    """

    id: int
    state: State
    study_instance_uid: str
    ct_series_instance_uid: str | None
    roi_sop_instance_uid: str | None
    key: str | None
    revision: int
    predecessor_key: str | None
    content_key: str | None
    inputs_digest: str | None  # the part of the key that only images and contours can change
    plan: str | None  # JSON of ticket.Ticket
    outcome: str | None
    reason: str | None
    hint: str | None
    replan: int
    priority: int
    held: int  # 1: an operator holds it; nothing is claimed or sent
    summary: str | None  # JSON: groups and scores of a scored result
    identity: str | None  # JSON of the Identity that its objects were made under
    shadow: int  # 1: nothing of it is sent, and nobody outside is told
    attempts: int
    run_after: float
    scheduled_at: float | None
    created_at: float
    updated_at: float


class InvalidTransition(Exception):
    """A bug: a move that TRANSITIONS does not allow."""


class LeaseLost(Exception):
    """A race: another worker took the item over, because this one's lease had run out."""


class StageError(Exception):
    """A stage could not do its work. `hint` tells the operator what to do; no PHI in either text.

    `code`: of FailureReason in analysis/reasons.py, '' where it is not one of a work item.
    """

    def __init__(self, message: str, hint: str = "", code: str = "") -> None:
        super().__init__(message)
        self.hint = hint
        self.code = code


class Retryable(StageError):
    """Try again later: the cause may pass (peer down, disk full, job killed)."""


class EngineDown(Retryable):
    """No job can be started just now: that does not count as an attempt of a study's."""


class TwinAtWork(Retryable):
    """A job of the same content has been running for a while: no attempt either, and no reason to hold the others."""


class StoreBusy(Retryable):
    """The store cannot be used just now: locked by another process, full, or its disk fails."""


class Permanent(StageError):
    """Trying again cannot help before an operator acts."""


class ConfigError(Exception):
    """The settings or the installation are wrong; the text names the key and the remedy."""


class StoreDamaged(ConfigError):
    """The store's file is damaged: nothing that it says can be relied on."""
