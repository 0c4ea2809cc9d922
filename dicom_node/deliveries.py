"""Rows of what is on its way: one per object and destination, with what proves that it arrived."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from typing import Any

from dicom_node import items
from dicom_node.database import Database
from dicom_node.workitem import DeliveryState, State

# A PACS that reports a failed commitment may do so each time: resending at once would be a loop.
FIRST_RESEND_SECONDS, LONGEST_RESEND_SECONDS = 30.0, 3600.0
PENDING, SENT, FAILED = DeliveryState.PENDING, DeliveryState.SENT, DeliveryState.FAILED


@dataclass(frozen=True)
class Delivery:
    """One object on its way to one destination. `sop_*` are those of the variant that was sent."""

    id: int
    work_item_id: int
    document: str
    destination: str
    state: DeliveryState
    sop_class_uid: str | None
    sop_instance_uid: str | None
    status: int | None
    detail: str
    final: int
    attempts: int
    run_after: float
    unseen: int
    transaction_uid: str | None
    sent_at: float | None
    proved_at: float | None


_COLUMNS = ", ".join(field.name for field in dataclass_fields(Delivery))
_MAY_BE_THERE = "sop_class_uid IS NOT NULL AND sop_instance_uid IS NOT NULL"  # an object that has left
_MAY_LEAVE = (
    "state = ? AND final = 0"
    " AND NOT EXISTS (SELECT 1 FROM work_item w WHERE w.id = delivery.work_item_id AND w.held = 1)"
)


class Deliveries:
    """The delivery table. Reached as `store.deliveries`."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def add(self, work_item_id: int, document: str, destination: str) -> None:
        """Ask for a delivery; nothing when the row exists (a stage that runs again)."""
        self._db.execute(
            "INSERT OR IGNORE INTO delivery (work_item_id, document, destination, state) VALUES (?, ?, ?, ?)",
            [work_item_id, document, destination, PENDING],
        )

    def due(self, now: float) -> list[Delivery]:
        """The open deliveries of the (work item, destination) pair that has been due longest; [] when none is."""
        first = self._db.rows(
            "SELECT work_item_id, destination FROM delivery d WHERE final = 0 AND run_after <= ?"
            " AND NOT EXISTS (SELECT 1 FROM work_item w WHERE w.id = d.work_item_id AND w.held = 1)"
            " ORDER BY run_after, id LIMIT 1",
            [now],
        )
        if not first:
            return []
        rows = self._db.rows(
            f"SELECT {_COLUMNS} FROM delivery WHERE work_item_id = ? AND destination = ?"
            " AND final = 0 AND run_after <= ? ORDER BY id",
            [first[0]["work_item_id"], first[0]["destination"], now],
        )
        return [_delivery(row) for row in rows]

    def of_item(self, work_item_id: int) -> list[Delivery]:
        rows = self._db.rows(f"SELECT {_COLUMNS} FROM delivery WHERE work_item_id = ? ORDER BY id", [work_item_id])
        return [_delivery(row) for row in rows]

    def record(self, delivery_id: int, **columns: Any) -> None:
        """Write what happened to a delivery (state, status, detail, attempts, run_after, sent_at, proved_at, ...)."""
        unknown = set(columns) - {field.name for field in dataclass_fields(Delivery)}
        if unknown:
            raise ValueError(f"delivery has no column {', '.join(sorted(unknown))}")
        names = ", ".join(f"{name} = ?" for name in columns)
        self._db.execute(f"UPDATE delivery SET {names} WHERE id = ?", [*columns.values(), delivery_id])

    def commitment_report(
        self, transaction_uid: str, committed: Collection[str], failed: Mapping[str, int], now: float
    ) -> bool:
        """Take a storage commitment report: committed objects are proved, failed ones are sent again.

        `failed` maps SOP Instance UIDs to Failure Reason (0008,1197). False when the transaction is not ours.
        """
        with self._db.immediate():
            rows = self._db.rows(
                "SELECT id, work_item_id, sop_instance_uid, unseen FROM delivery"
                " WHERE transaction_uid = ? AND state = ?",
                [transaction_uid, SENT],
            )
            for row in rows:
                uid = row["sop_instance_uid"]
                if uid in committed:
                    self.record(row["id"], state=DeliveryState.COMMITTED, final=1, proved_at=now, detail="")
                elif uid in failed:
                    # Also where the row had been given up as not provable: the report says that it is not there.
                    wait = min(FIRST_RESEND_SECONDS * 2.0 ** min(row["unseen"], 20), LONGEST_RESEND_SECONDS)
                    self.record(
                        row["id"],
                        state=PENDING,
                        final=0,
                        transaction_uid=None,
                        run_after=now + wait,
                        unseen=row["unseen"] + 1,
                        detail=f"storage commitment failed with reason {failed[uid]:04X}H",
                    )
                    self._reopen(row["work_item_id"], now)
        return bool(rows)

    def _reopen(self, work_item_id: int, now: float) -> None:
        """A work item that was taken for complete has an object to send again."""
        where = "SELECT 1 FROM work_item WHERE id = ? AND state = ?"
        if self._db.rows(where, [work_item_id, State.COMPLETED]):
            items.move(self._db, work_item_id, State.REPORTED, now, "a storage commitment report failed late")

    def settle(self, row: Delivery, **columns: Any) -> bool:
        """`record`, but only while the row is as it was read: the receiver may have taken a report meanwhile."""
        names = ", ".join(f"{name} = ?" for name in columns)
        return (
            self._db.execute(
                f"UPDATE delivery SET {names} WHERE id = ? AND state = ? AND final = ? AND transaction_uid IS ?",
                [*columns.values(), row.id, row.state, row.final, row.transaction_uid],
            )
            == 1
        )

    def hold(self, destination: str, until: float) -> None:
        """Keep everything for a destination that does not answer: each try would cost its time-out again."""
        self._db.execute(
            "UPDATE delivery SET run_after = ? WHERE destination = ? AND final = 0 AND run_after < ?",
            [until, destination, until],
        )

    def leaving(self, variants: Mapping[int, tuple[str, str]]) -> set[int]:
        """Objects are about to be sent as (SOP Class, SOP Instance): from here on they may be at the destination.

        Gives those that may leave: not one that has been withdrawn, or whose work item is held, since it was read. One
        that has left before keeps the UIDs under which it did.
        """
        with self._db.immediate():
            return {
                delivery_id
                for delivery_id, (sop_class, sop_instance) in variants.items()
                if self._db.execute(
                    "UPDATE delivery SET sop_class_uid = coalesce(sop_class_uid, ?),"
                    f" sop_instance_uid = coalesce(sop_instance_uid, ?) WHERE id = ? AND {_MAY_LEAVE}",
                    [sop_class, sop_instance, delivery_id, PENDING],
                )
            }

    def message_leaving(self, delivery_id: int, identifier: str) -> bool:
        """A message is about to be written; False where it has been withdrawn or held since it was read."""
        sql = f"UPDATE delivery SET sop_instance_uid = ? WHERE id = ? AND {_MAY_LEAVE}"
        return self._db.execute(sql, [identifier, delivery_id, PENDING]) == 1

    def stayed(self, delivery_ids: Iterable[int]) -> None:
        """What `leaving` announced did not get there after all."""
        with self._db.immediate():
            self._db.many(
                "UPDATE delivery SET sop_class_uid = NULL, sop_instance_uid = NULL WHERE id = ?",
                [(delivery_id,) for delivery_id in delivery_ids],
            )

    def troubles(self) -> dict[str, str]:
        """Destination -> what does not come to it since it last took something, in words."""
        found = {}
        for row in self._db.rows(
            "SELECT d.destination, count(*) AS n, max(w.updated_at) AS at, d.detail FROM work_item w"
            " JOIN delivery d ON d.work_item_id = w.id WHERE w.state = ? AND d.state = ? GROUP BY d.destination",
            [State.FAILED, FAILED],
        ):
            taken = self._db.rows(
                "SELECT 1 FROM peer_contact WHERE peer = ? AND kind = 'delivered' AND at > ?",
                [row["destination"], row["at"]],
            )
            if not taken:
                found[row["destination"]] = f"{row['n']} failed: {row['detail']}"
        for row in self._db.rows(
            "SELECT destination, count(*) AS n, detail FROM delivery"
            " WHERE final = 0 AND sent_at IS NULL AND attempts > 0 GROUP BY destination"
        ):
            found[row["destination"]] = f"{row['n']} not sent yet: {row['detail']}"
        return found

    def has_left(self, work_item_id: int) -> bool:
        """Whether any object of a work item is, or may be, at any destination; messages (without a class) are none."""
        where = f"work_item_id = ? AND {_MAY_BE_THERE}"
        return bool(self._db.rows(f"SELECT 1 FROM delivery WHERE {where} LIMIT 1", [work_item_id]))

    def most_attempts(self, destination: str) -> int:
        """How often the most tried of the open deliveries of a destination has been tried."""
        rows = self._db.rows(
            "SELECT coalesce(max(attempts), 0) AS n FROM delivery WHERE destination = ? AND final = 0", [destination]
        )
        return int(rows[0]["n"])

    def replaced_by(self, key: str, destination: str) -> int | None:
        """The revision that has something of its own for this destination and came after the work item `key`.

        One that is held does not count before it has left: it may never be released.
        """
        rows = self._db.rows(
            "WITH RECURSIVE later (key, revision, id) AS (SELECT w.key, w.revision, w.id FROM work_item w"
            " WHERE w.predecessor_key = ? AND w.state != 'CANCELED' UNION SELECT w.key, w.revision, w.id"
            " FROM work_item w JOIN later ON w.predecessor_key = later.key WHERE w.state != 'CANCELED')"
            " SELECT max(revision) AS revision FROM later WHERE EXISTS"
            " (SELECT 1 FROM delivery d JOIN work_item h ON h.id = d.work_item_id WHERE d.work_item_id = later.id"
            " AND d.destination = ? AND (h.held = 0 OR d.sop_instance_uid IS NOT NULL))",
            [key, destination],
        )
        newest: int | None = rows[0]["revision"]
        return newest

    def reopen_failed(self, work_item_id: int) -> int:
        """Let failed deliveries of a work item be tried again; how many."""
        return self._db.execute(
            "UPDATE delivery SET state = ?, final = 0, run_after = 0, attempts = 0"
            " WHERE work_item_id = ? AND state = ?",
            [PENDING, work_item_id, FAILED],
        )

    def withdraw(self, work_item_id: int, detail: str) -> int:
        """End what has not been sent; how many. What left, or may have (`leaving`), is still followed to its proof."""
        return self._db.execute(
            "UPDATE delivery SET state = ?, final = 1, detail = ? WHERE work_item_id = ? AND sent_at IS NULL"
            f" AND NOT ({_MAY_BE_THERE}) AND state IN (?, ?)",
            [DeliveryState.CANCELED, detail, work_item_id, PENDING, FAILED],
        )

    def finished_items(self) -> list[tuple[int, str]]:
        """REPORTED work items without an open delivery, each with '' or what failed."""
        rows = self._db.rows(
            "SELECT w.id, (SELECT group_concat(d.document || ' at ' || d.destination || ': ' || d.detail, '; ')"
            " FROM delivery d WHERE d.work_item_id = w.id AND d.state = 'FAILED') AS failed"
            " FROM work_item w WHERE w.state = 'REPORTED' AND NOT EXISTS"
            " (SELECT 1 FROM delivery d WHERE d.work_item_id = w.id AND d.final = 0)"
        )
        return [(row["id"], row["failed"] or "") for row in rows]


def _delivery(row: dict[str, Any]) -> Delivery:
    return Delivery(**{**row, "state": DeliveryState(row["state"])})
