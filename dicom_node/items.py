"""Rows of `work_item` and their history: what `births` and `store` both need. Only `move` writes a state."""

from dataclasses import fields
from typing import Any

from dicom_node.database import Database
from dicom_node.workitem import TRANSITIONS, InvalidTransition, State, WorkItem

COLUMNS = ", ".join(field.name for field in fields(WorkItem))


def same_person(study: str, other: str) -> str:
    """SQL: whether nothing says that two studies are of two patients; the arguments name their UIDs.

    A SOP Instance UID that the objects of two patients bear is a defect of the program that made them: what comes
    under it for one of them replaces nothing of the other.
    """
    return (
        f"NOT EXISTS (SELECT 1 FROM study a, study b WHERE a.study_instance_uid = {study}"  # noqa: S608 - our own names
        f" AND b.study_instance_uid = {other} AND (a.patient_id != b.patient_id OR a.issuer_of_patient_id !="
        " b.issuer_of_patient_id AND '' NOT IN (a.issuer_of_patient_id, b.issuer_of_patient_id)))"
    )


def from_row(row: dict[str, Any]) -> WorkItem:
    return WorkItem(**{**row, "state": State(row["state"])})


def insert(db: Database, state: State, now: float, detail: str = "", **columns: Any) -> int:
    """A new row in its first state, with the event; gives its id."""
    item_id = db.insert("work_item", {"state": state, "created_at": now, "updated_at": now, **columns})
    note(db, item_id, state.lower(), now, detail)
    return item_id


def note(db: Database, item_id: int, name: str, now: float, detail: str = "") -> None:
    """Append to a work item's history."""
    db.insert("event", {"work_item_id": item_id, "at": now, "name": name, "detail": detail[:500]})


def move(db: Database, item_id: int, new: State, now: float, detail: str = "") -> None:
    """Change a state, inside the caller's transaction, by the table and with an event. Raises InvalidTransition."""
    old = State(db.rows("SELECT state FROM work_item WHERE id = ?", [item_id])[0]["state"])
    if new not in TRANSITIONS[old]:
        raise InvalidTransition(f"work item {item_id}: {old} -> {new} is not in TRANSITIONS")
    db.execute(
        "UPDATE work_item SET state = ?, updated_at = ?, lease_owner = NULL, lease_until = NULL, attempts = 0,"
        " run_after = 0, hint = NULL, held = CASE WHEN ? THEN 0 ELSE held END WHERE id = ?",
        [new, now, new in (State.COMPLETED, State.CANCELED), item_id],
    )
    note(db, item_id, new.lower(), now, detail)
