"""What an operator may do with a work item, and what is said when it is not possible now. Page, API and CLI use these.

Each is one transaction with its audit entry; a refused one leaves an entry too.
"""

from dataclasses import dataclass

from dicom_node.audit import Origin
from dicom_node.store import Store
from dicom_node.worklist import Row


@dataclass(frozen=True)
class Actor:
    """Who acts: an account, a token ("token:<name>") or the system user of a command."""

    name: str
    origin: Origin
    address: str = ""


class Refused(Exception):
    """The action is not possible for this work item now; the text says why, `remedy` what to do instead."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


ACTIONS = ("retry", "rescore", "hold", "release", "cancel", "priority")


def refusal(action: str, row: Row) -> Refused | None:
    """Why an action of ACTIONS is not possible for this work item now; None when it is. For buttons."""
    raise NotImplementedError


def act(store: Store, action: str, work_item_id: int, actor: Actor, now: float, value: str = "") -> str:
    """Do it; gives a sentence about what happens next. `value`: HIGH, MEDIUM or LOW with "priority".

    Raises Refused; KeyError when there is no such work item.
    """
    raise NotImplementedError
