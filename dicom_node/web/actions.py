"""An operator's actions as the pages offer them: what each is called, asked and said to do before it is done."""

from collections.abc import Sequence
from dataclasses import dataclass

from dicom_node import operations
from dicom_node.deliveries import Delivery
from dicom_node.web import study_view
from dicom_node.workitem import DeliveryState, State
from dicom_node.worklist import Row

_LABELS = {
    "retry": ("Try again", "Try this work item again?"),
    "rescore": ("Rescore", "Plan and score this contour once more?"),
    "plan": ("Plan now", "Plan this contour now, with what is here?"),
    "hold": ("Hold", "Hold this work item?"),
    "release": ("Release", "Release this work item?"),
    "cancel": ("Cancel", "Withdraw this work item?"),
    "priority": ("Priority", "Change the priority?"),
}


@dataclass(frozen=True)
class Action:
    """One button, and what its confirmation page says."""

    name: str
    label: str
    question: str
    consequences: tuple[str, ...] = ()


def possible(row: Row) -> list[Action]:
    """Buttons of what can be done now."""
    return [Action(name, *_LABELS[name]) for name in operations.ACTIONS if operations.refusal(name, row) is None]


def described(name: str, row: Row, deliveries: Sequence[Delivery]) -> Action:
    """An action with what will happen. Raises KeyError for a name that is no action."""
    label, question = _LABELS[name]
    lines = [*_consequences(name, row, deliveries), "The audit trail will name you, this work item and the time."]
    return Action(name, label, question, tuple(lines))


def _consequences(name: str, row: Row, deliveries: Sequence[Delivery]) -> list[str]:
    if name == "retry":
        return _of_retry(row, deliveries)
    if name == "cancel":
        none = "" if row.outcome else "No score will be made for it. "
        return [f"{none}This cannot be undone.", _sent(row), "New objects of the study begin anew."]
    return _FIXED[name]


def _sent(row: Row) -> str:
    """What is elsewhere already; each destination of an object counts. Only a failed item comes here with any."""
    counts = row.deliveries
    if counts.sent:
        stay = "It stays" if counts.sent == 1 else "They stay"
        return f"Already at a destination: {counts.sent} of {counts.total} objects. {stay} there; nothing more is sent."
    if counts.left:
        return "Objects of it may have come to a destination; those stay there. Nothing more is sent."
    return "Nothing of it has been sent; nothing will be."


def _of_retry(row: Row, deliveries: Sequence[Delivery]) -> list[str]:
    failed = [item for item in deliveries if item.state is DeliveryState.FAILED]
    lines = [
        f"{study_view.document(item.document)} is sent to {item.destination} again, the same bytes as before."
        for item in failed
    ]
    if not failed:
        lines.append("The study is analysed again from the inputs that were frozen when it was planned.")
    if row.state is State.FAILED and row.hint:
        lines.append(f"Before that, the cause has to be mended. {row.hint}")
    return [*lines, "It stays held until it is released."] if row.held else lines


_FIXED = {
    "rescore": [
        "It is planned again with the images, the contour, the clinical values and the model of now.",
        "Where anything differs, a new revision is made and sent; it names this one as its predecessor.",
        "Where nothing differs, nothing is made and nothing is sent.",
    ],
    "plan": [
        "Nothing more is waited for. Where some of the images that it lists are missing, the result is: not scored.",
        "What comes later makes the next revision.",
    ],
    "hold": ["Nothing of it is analysed or sent from now on.", "It stays so until somebody releases it."],
    "release": ["It goes on where it stood: what is due is analysed and sent."],
    "priority": ["Work items of a higher priority are taken first; within one, in the order of their arrival."],
}
