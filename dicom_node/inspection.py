"""The store as a whole, for who copies or examines it: which files its rows name, and what is still to be done.

Reached as `store.inspection`. Reads in pieces: a store of years does not fit into memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from dicom_node import items
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


class ProvedRow(NamedTuple):
    """An object that is proved to be somewhere. `removed`: its file is not here any more."""

    id: int
    work_item_id: int
    key: str
    study_instance_uid: str
    document: str
    destination: str
    sop_instance_uid: str
    removed: bool


@dataclass(frozen=True)
class Outlook:
    """What a node does with a store when it starts. `to_send` and `done`: objects by destination."""

    items: dict[str, int]
    to_send: dict[str, int]
    done: dict[str, int]
    studies: int
    newest: float | None  # when the last object came


_ITEM = (
    "SELECT id, key, state, study_instance_uid, coalesce(plan, '') AS plan, NOT EXISTS"
    " (SELECT 1 FROM delivery d WHERE d.work_item_id = w.id AND (d.final = 0 OR d.state = 'FAILED')) AS proved"
    " FROM work_item w"
)


def _item(row: dict[str, Any]) -> ItemRow:
    state = State(row["state"])
    return ItemRow(row["id"], row["key"], state, row["study_instance_uid"], row["plan"], bool(row["proved"]))


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
        for row in self._pages(f"{_ITEM} WHERE key IS NOT NULL AND results_removed = 0 AND id > ? ORDER BY id LIMIT ?"):
            yield _item(row)

    def has_file(self, sop_instance_uid: str, digest: str) -> bool:
        """Whether a row says that this content is here (or just going)."""
        where = "sop_instance_uid = ? AND digest = ? AND removed != 2"
        return bool(self._db.rows(f"SELECT 1 FROM instance WHERE {where}", [sop_instance_uid, digest]))

    def newer_than(self, sop_instance_uid: str, moment: float) -> bool:
        """Whether a current content of this instance came after a moment."""
        where = "sop_instance_uid = ? AND current = 1 AND received_at > ?"
        return bool(self._db.rows(f"SELECT 1 FROM instance WHERE {where}", [sop_instance_uid, moment]))

    def item_of_key(self, key: str) -> ItemRow | None:
        """The work item with this key, whatever became of its results."""
        rows = self._db.rows(f"{_ITEM} WHERE w.key = ?", [key])
        return _item(rows[0]) if rows else None

    def state_with_results(self, item_id: int) -> State | None:
        """The state of a work item now; None where retention has removed its results, or is at it."""
        rows = self._db.rows("SELECT state FROM work_item WHERE id = ? AND results_removed = 0", [item_id])
        return State(rows[0]["state"]) if rows else None

    def stale_leases(self, now: float) -> list[tuple[int, float]]:
        """Work items that a worker holds longer than it may: id, and since when its lease has run out."""
        rows = self._db.rows(
            "SELECT id, lease_until AS until FROM work_item WHERE lease_owner IS NOT NULL AND lease_until < ?", [now]
        )
        return [(row["id"], row["until"]) for row in rows]

    def proved(self) -> Iterator[ProvedRow]:
        """Objects that are proved to be in a destination, work item by work item."""
        rows = self._pages(
            "SELECT d.id, d.work_item_id AS item, w.key, w.study_instance_uid AS study, d.document, d.destination,"
            " d.sop_instance_uid AS uid, w.results_removed AS removed FROM delivery d JOIN work_item w"
            " ON w.id = d.work_item_id WHERE d.state IN ('SEEN', 'COMMITTED') AND w.state = 'COMPLETED'"
            " AND w.key IS NOT NULL AND d.id > ? ORDER BY d.id LIMIT ?"
        )
        for row in rows:
            yield ProvedRow(
                row["id"], row["item"], row["key"], row["study"], row["document"], row["destination"], row["uid"],
                bool(row["removed"]),
            )  # fmt: skip

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

    # -- repairs; each inside the caller's transaction -------------------------------------------------------

    def mark_lost(self, instance_id: int) -> None:
        """The file of a content is not here: it is no input any more, and is taken as new when it comes again."""
        self._db.execute("UPDATE instance SET current = 0, removed = 2 WHERE id = ?", [instance_id])

    def schedule_again(self, work_item_id: int, now: float, why: str) -> None:
        """Back to SCHEDULED, by the moves that TRANSITIONS allows."""
        state = State(self._db.rows("SELECT state FROM work_item WHERE id = ?", [work_item_id])[0]["state"])
        ways = {State.COMPLETED: (State.REPORTED, State.FAILED), State.FAILED: (), State.SCHEDULED: ()}
        for step in ways.get(state, (State.FAILED,)):
            items.move(self._db, work_item_id, step, now, why)
        if state is not State.SCHEDULED:
            items.move(self._db, work_item_id, State.SCHEDULED, now, why)

    def free(self, work_item_id: int) -> None:
        """Take a lease away."""
        self._db.execute("UPDATE work_item SET lease_owner = NULL, lease_until = NULL WHERE id = ?", [work_item_id])

    def send_again(self, delivery_id: int, now: float, why: str) -> None:
        """A proved delivery is open again, and its work item too."""
        self._db.execute(
            "UPDATE delivery SET state = 'PENDING', final = 0, transaction_uid = NULL, run_after = 0, attempts = 0,"
            " proved_at = NULL, detail = ? WHERE id = ?",
            [why, delivery_id],
        )
        rows = self._db.rows(
            "SELECT w.id, w.state FROM work_item w JOIN delivery d ON d.work_item_id = w.id WHERE d.id = ?",
            [delivery_id],
        )
        if rows and rows[0]["state"] == State.COMPLETED:
            items.move(self._db, rows[0]["id"], State.REPORTED, now, why)

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
