"""The store as a whole, for who copies or examines it: which files its rows name, and what is still to be done.

Reached as `store.inspection`. Reads in pieces: a store of years does not fit into memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from dicom_node.database import Database
from dicom_node.workitem import State

PAGE = 2000
WITH_ANALYSIS = (State.ANALYSED, State.REPORTED, State.COMPLETED)
WITH_REPORT = (State.REPORTED, State.COMPLETED)


class InstanceRow(NamedTuple):
    """A content of an instance whose file should be here."""

    id: int
    sop_instance_uid: str
    digest: str
    study_instance_uid: str
    current: int


class ItemRow(NamedTuple):
    """A work item that may have results here. `proved`: all its deliveries are at their end, and none was refused."""

    id: int
    key: str
    state: State
    study_instance_uid: str
    plan: str
    proved: bool


@dataclass(frozen=True)
class Outlook:
    """What a node does with a store when it starts. `to_send` and `done`: objects by destination."""

    items: dict[str, int]
    to_send: dict[str, int]
    done: dict[str, int]
    studies: int
    newest: float | None  # when the last object came


class Inspection:
    """Reads across the tables."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def instances(self) -> Iterator[InstanceRow]:
        """Contents whose files should be here."""
        yield from (
            InstanceRow(row["id"], row["sop_instance_uid"], row["digest"], row["study_instance_uid"], row["current"])
            for row in self._pages(
                "SELECT id, sop_instance_uid, digest, study_instance_uid, current FROM instance"
                " WHERE removed = 0 AND id > ? ORDER BY id LIMIT ?"
            )
        )

    def items_with_results(self) -> Iterator[ItemRow]:
        """Work items with a key whose results retention has not removed."""
        rows = self._pages(
            "SELECT id, key, state, study_instance_uid, coalesce(plan, '') AS plan, NOT EXISTS"
            " (SELECT 1 FROM delivery d WHERE d.work_item_id = w.id AND (d.final = 0 OR d.state = 'FAILED')) AS proved"
            " FROM work_item w WHERE key IS NOT NULL AND results_removed = 0 AND id > ? ORDER BY id LIMIT ?"
        )
        for row in rows:
            state = State(row["state"])
            yield ItemRow(row["id"], row["key"], state, row["study_instance_uid"], row["plan"], bool(row["proved"]))

    def outlook(self) -> Outlook:
        """What is to be done."""
        items = self._db.rows("SELECT state, count(*) AS n FROM work_item GROUP BY state")
        deliveries = self._db.rows(
            "SELECT destination, total(final = 0) AS open, total(final = 1) AS done FROM delivery GROUP BY destination"
        )
        arrived = self._db.rows("SELECT count(DISTINCT study_instance_uid) AS n, max(received_at) AS at FROM instance")
        return Outlook(
            items={row["state"]: row["n"] for row in items},
            to_send={row["destination"]: int(row["open"]) for row in deliveries if row["open"]},
            done={row["destination"]: int(row["done"]) for row in deliveries if row["done"]},
            studies=arrived[0]["n"],
            newest=arrived[0]["at"],
        )

    def well(self) -> list[str]:
        """What SQLite finds wrong with the store; [] when it is well."""
        return self._db.well()

    def copy(self, target: Any) -> None:
        """A consistent copy of the store, as `Database.copy`."""
        self._db.copy(target)

    def end_sessions(self) -> int:
        """End every session of the page; how many."""
        return self._db.execute("DELETE FROM session")

    def _pages(self, sql: str) -> Iterator[dict[str, Any]]:
        last = -1
        while rows := self._db.rows(sql, [last, PAGE]):
            last = rows[-1]["id"]
            yield from rows
