"""What the events of a work item make of its Unified Procedure Step (PS3.4 CC.1.1). Pure; leaf of the node.

Our states go back and forth (a retry, a late storage commitment report); those of a UPS go one way. A step that was
claimed once stays IN PROGRESS until it is COMPLETED or CANCELED, and then nothing moves it: FAILED is IN PROGRESS with
a description that says so, because an operator may still bring the item to its end.
"""

from dataclasses import dataclass, replace
from enum import StrEnum


class StepState(StrEnum):
    """Procedure Step State (0074,1000)."""

    SCHEDULED = "SCHEDULED"
    IN_PROGRESS = "IN PROGRESS"
    COMPLETED = "COMPLETED"
    CANCELED = "CANCELED"


class Readiness(StrEnum):
    """Input Readiness State (0040,4041), PS3.3 C.30.2."""

    INCOMPLETE = "INCOMPLETE"  # not all inputs are known: a CT without a contour
    UNAVAILABLE = "UNAVAILABLE"  # the contour says which images, and some are not here
    READY = "READY"


FINAL = frozenset({StepState.COMPLETED, StepState.CANCELED})


@dataclass(frozen=True)
class Step:
    """A step at a moment. `progress` is per cent; `modified_at` is of the scheduled part; times in seconds (UTC)."""

    state: StepState
    readiness: Readiness
    modified_at: float
    progress: int = 0
    description: str = ""
    started_at: float | None = None
    ended_at: float | None = None
    reason: str = ""  # why it was canceled


# Event of the work item -> per cent, and what is being done; the event's detail follows where it helps.
_PROGRESS = {
    "scheduled claimed": (10, "analysis"),
    "analysed": (60, "analysed"),
    "analysed claimed": (60, "report"),
    "reported": (80, "reported; on its way to the destinations"),
    "completed": (100, "completed"),
}
_WITH_DETAIL = {"postponed": "tried again later", "failed": "stopped, an operator has to act"}
_WORDS = {"held": "held back by an operator", "released": "released by an operator"}
_BEGUN = frozenset({*_PROGRESS, "failed"})


def born(has_contour: bool, at: float, *, ready: bool = False) -> Step:
    """The step of a work item that has just come to be; `ready`: with all that it needs."""
    return Step(StepState.SCHEDULED, Readiness.READY if ready else _waiting(has_contour), at)


def after(step: Step, name: str, detail: str, at: float, has_contour: bool) -> Step:
    """The step after an event of its work item (`event.name`, `event.detail`); the same one where nothing changes.

    >>> step = after(born(True, 1.0), "scheduled", "", 2.0, True)
    >>> step = after(step, "scheduled claimed", "attempt 1", 3.0, True)
    >>> str(step.state), str(step.readiness), step.started_at
    ('IN PROGRESS', 'READY', 3.0)
    """
    if step.state in FINAL:
        return step
    if name == "waiting":
        return _ready(step, _waiting(has_contour), at) if step.state is StepState.SCHEDULED else step
    if name == "scheduled":
        ready = _ready(step, Readiness.READY, at)
        return ready if step.state is StepState.SCHEDULED else replace(ready, progress=0, description="scheduled again")
    if name == "canceled":
        reason = f"withdrawn {detail}" if detail.startswith("by ") else detail
        return replace(step, state=StepState.CANCELED, ended_at=at, reason=reason)
    if name not in {*_BEGUN, *_WITH_DETAIL, *_WORDS}:
        return step
    if name in _BEGUN and step.state is StepState.SCHEDULED:
        # Also where the claim itself left no event, because the node ended just then.
        step = replace(step, state=StepState.IN_PROGRESS, readiness=Readiness.READY, started_at=at)
    progress, words = _PROGRESS.get(name, (step.progress, _WORDS.get(name, "")))
    if name in _WITH_DETAIL:
        words = f"{_WITH_DETAIL[name]}: {detail}" if detail else _WITH_DETAIL[name]
    step = replace(step, progress=progress, description=words)
    return replace(step, state=StepState.COMPLETED, ended_at=at) if name == "completed" else step


def states_between(old: StepState, new: StepState) -> tuple[StepState, ...]:
    """The states that subscribers hear of; a final state is only reached through IN PROGRESS (Table CC.1.1-2).

    >>> [str(state) for state in states_between(StepState.SCHEDULED, StepState.CANCELED)]
    ['IN PROGRESS', 'CANCELED']
    """
    if old is new:
        return ()
    return (StepState.IN_PROGRESS, new) if old is StepState.SCHEDULED and new in FINAL else (new,)


def _waiting(has_contour: bool) -> Readiness:
    return Readiness.UNAVAILABLE if has_contour else Readiness.INCOMPLETE


def _ready(step: Step, readiness: Readiness, at: float) -> Step:
    return step if step.readiness is readiness else replace(step, readiness=readiness, modified_at=at)
