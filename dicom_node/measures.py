"""Figures for the metrics that no other part of the store gives. Reads only. Reached as `store.measures`.

No query walks a table that grows for ever: what is open is read by its index, what has happened by following events.
"""

from dataclasses import dataclass

from dicom_node.database import Database
from dicom_node.workitem import State

# Event that ends a stage -> the event that began it. An analysis begins when it is claimed.
STAGES = {
    "scheduled": ("wait", "waiting"),
    "scheduled claimed": ("queue", "scheduled"),
    "analysed": ("analyse", "scheduled claimed"),
    "reported": ("report", "analysed"),
    "completed": ("deliver", "reported"),
}
_BEGAN = " ".join(f"WHEN '{end}' THEN '{begin}'" for end, (_, begin) in STAGES.items())
_FOLLOWED = ", ".join(f"'{name}'" for name in (*STAGES, "failed"))


@dataclass(frozen=True)
class Happened:
    """An event of a work item: `seconds` since its stage began, None where that is not known."""

    id: int
    name: str
    work_item_id: int
    seconds: float | None
    total_seconds: float  # since the work item came
    outcome: str | None
    reason: str | None
    outside_range: bool


@dataclass(frozen=True)
class OpenDeliveries:
    """What is on its way to a destination; `oldest_at`: since when the oldest of its work items is as it is, None where
    an operator holds them all."""

    destination: str
    count: int
    oldest_at: float | None


class Measures:
    """Reads events and deliveries."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def last_event(self) -> int:
        return int(self._db.rows("SELECT ifnull(max(id), 0) AS id FROM event")[0]["id"])

    def happened(self, after: int, limit: int = 5000) -> list[Happened]:
        """Ends of stages, and failures, in events after one, oldest first."""
        rows = self._db.rows(
            "SELECT e.id, e.name, e.work_item_id, e.at - w.created_at AS total_seconds, w.outcome, w.reason,"
            " ifnull(json_extract(w.summary, '$.outside_range'), 0) AS outside_range,"
            " e.at - (SELECT b.at FROM event b WHERE b.work_item_id = e.work_item_id AND b.id < e.id"
            f" AND b.name = CASE e.name {_BEGAN} END ORDER BY b.id DESC LIMIT 1) AS seconds"
            f" FROM event e JOIN work_item w ON w.id = e.work_item_id WHERE e.id > ? AND e.name IN ({_FOLLOWED})"
            " ORDER BY e.id LIMIT ?",
            [after, limit],
        )
        return [Happened(**{**row, "outside_range": bool(row["outside_range"])}) for row in rows]

    def standing(self) -> dict[str, float]:
        """State that is work for the node -> since when a work item that nobody holds has been in it the longest."""
        rows = self._db.rows(
            "SELECT w.state, min((SELECT max(e.at) FROM event e WHERE e.work_item_id = w.id"
            " AND e.name = lower(w.state))) AS at FROM work_item w"
            " WHERE w.state IN ('SCHEDULED', 'ANALYSED', 'REPORTED') AND w.held = 0 GROUP BY w.state"
        )
        return {row["state"]: row["at"] for row in rows if row["at"] is not None}

    def open_deliveries(self) -> list[OpenDeliveries]:
        rows = self._db.rows(
            "SELECT d.destination, count(*) AS count, min(iif(w.held, NULL, w.updated_at)) AS oldest_at"
            " FROM delivery d INDEXED BY delivery_open JOIN work_item w ON w.id = d.work_item_id"
            " WHERE d.final = 0 GROUP BY d.destination ORDER BY d.destination"
        )
        return [OpenDeliveries(**row) for row in rows]

    def ended_deliveries(self, happened: Happened) -> dict[tuple[str, str], int]:
        """(destination, state) -> objects and messages, of a work item that has just ended well, or failed."""
        refused = happened.name == State.FAILED.lower()
        rows = self._db.rows(
            "SELECT destination, state, count(*) AS n FROM delivery WHERE work_item_id = ? AND final = 1"
            " AND (state = 'FAILED') = ? GROUP BY destination, state",
            [happened.work_item_id, int(refused)],
        )
        return {(row["destination"], row["state"]): row["n"] for row in rows}
