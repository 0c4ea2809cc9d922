"""The node's memory: work items here, what came in `arrivals`, what goes out in `deliveries`. All SQL is in these.

One `Store` per thread. Only `advance` and the births below write a state.
"""

from collections.abc import Collection
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Any

from dicom_node.arrivals import Arrivals
from dicom_node.database import Database
from dicom_node.deliveries import Deliveries
from dicom_node.instance import Instance
from dicom_node.workitem import TRANSITIONS, InvalidTransition, LeaseLost, State, WorkItem

_ITEM_COLUMNS = ", ".join(field.name for field in dataclass_fields(WorkItem))


class Store:
    """Work items; `arrivals` and `deliveries` share its connection."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self.arrivals = Arrivals(database)
        self.deliveries = Deliveries(database)

    @classmethod
    def open(cls, path: Path) -> "Store":
        """Open (and create or migrate) the store; raises ConfigError when a newer Prognode wrote it."""
        return cls(Database(path))

    def close(self) -> None:
        self._db.close()

    def add_instance(self, instance: Instance, calling_ae_title: str, now: float) -> bool:
        """Record a stored instance; durable when this returns. False when these very bytes were here already."""
        return self.arrivals.add(instance, calling_ae_title, now)

    # -- work items: birth -----------------------------------------------------------------------------------

    def waiting_rois(self) -> list[str]:
        """Contour objects that wait: to be looked at again when time, not an object, may have decided them."""
        rows = self._db.rows(
            "SELECT roi_sop_instance_uid AS uid FROM work_item WHERE state = ? AND uid IS NOT NULL", [State.WAITING]
        )
        return [row["uid"] for row in rows]

    def wait_for_contour(self, ct: Instance, reason: str, now: float) -> None:
        """Show a CT series that has no contour yet; nothing when a work item for the series exists."""
        with self._db.immediate():
            if not self._db.rows("SELECT 1 FROM work_item WHERE ct_series_instance_uid = ?", [ct.series_instance_uid]):
                self._insert_item(
                    State.WAITING,
                    ct.study_instance_uid,
                    now,
                    "waiting",
                    ct_series_instance_uid=ct.series_instance_uid,
                    reason=reason,
                )

    def wait_for_images(
        self, roi: Instance, study: str, series: str | None, reason: str, detail: str, now: float
    ) -> None:
        """Show a contour object whose images are not all here; only its newest waiting row is kept."""
        with self._db.immediate():
            latest = self._latest(roi.sop_instance_uid)
            if latest is None:
                self._insert_item(
                    State.WAITING,
                    study,
                    now,
                    "waiting",
                    detail,
                    reason=reason,
                    ct_series_instance_uid=series,
                    roi_sop_instance_uid=roi.sop_instance_uid,
                )
                self._contour_came(series, now)
            elif latest.state is State.WAITING and latest.ct_series_instance_uid != series:
                self._db.execute(
                    "UPDATE work_item SET ct_series_instance_uid = ?, study_instance_uid = ? WHERE id = ?",
                    [series, study, latest.id],
                )

    def waiting_without_contour(self) -> list[WorkItem]:
        rows = self._db.rows(
            f"SELECT {_ITEM_COLUMNS} FROM work_item WHERE state = ? AND roi_sop_instance_uid IS NULL", [State.WAITING]
        )
        return [_item(row) for row in rows]

    def schedule_waiting(
        self,
        item_id: int,
        *,
        key: str,
        inputs_digest: str,
        plan: str,
        reason: str | None,
        now: float,
        **more: str | None,
    ) -> None:
        """Make a WAITING work item runnable."""
        columns: dict[str, str | float | None] = {
            "key": key,
            "inputs_digest": inputs_digest,
            "plan": plan,
            "reason": reason,
            "scheduled_at": now,
            **more,
        }
        names = ", ".join(f"{name} = ?" for name in columns)
        self._db.execute(f"UPDATE work_item SET {names} WHERE id = ?", [*columns.values(), item_id])
        self._move(item_id, State.SCHEDULED, now, reason or "")

    def already_planned(self, inputs_digest: str) -> bool:
        """True when these very inputs have a work item: a re-send never runs twice."""
        return bool(
            self._db.rows(
                "SELECT 1 FROM work_item WHERE inputs_digest = ? AND state != ?", [inputs_digest, State.CANCELED]
            )
        )

    def schedule(
        self,
        roi: Instance,
        *,
        study: str,
        series: str | None,
        key: str,
        inputs_digest: str,
        plan: str,
        reason: str | None,
        now: float,
    ) -> bool:
        """Make the work item of a contour object runnable, or its next revision when an earlier one has run.

        Returns False when this key exists: the same content never makes a second result.
        """
        with self._db.immediate():
            if self._db.rows("SELECT 1 FROM work_item WHERE key = ?", [key]):
                return False
            latest = self._latest(roi.sop_instance_uid)
            if latest is not None and latest.state is State.WAITING:
                self.schedule_waiting(
                    latest.id,
                    key=key,
                    inputs_digest=inputs_digest,
                    plan=plan,
                    reason=reason,
                    now=now,
                    study_instance_uid=study,
                    ct_series_instance_uid=series,
                )
            else:
                self._insert_revision(
                    roi.sop_instance_uid,
                    latest,
                    study,
                    now,
                    ct_series_instance_uid=series,
                    key=key,
                    inputs_digest=inputs_digest,
                    plan=plan,
                    reason=reason,
                )
            self._contour_came(series, now)
        return True

    def _insert_revision(
        self, roi_sop_instance_uid: str, latest: WorkItem | None, study: str, now: float, **columns: str | None
    ) -> None:
        """A new row: the first of this contour, or the next revision of what has been reported."""
        revision, predecessor = 1, None
        if latest is not None:
            revision, predecessor = latest.revision, latest.predecessor_key
            if latest.state is State.SCHEDULED:
                self._move(latest.id, State.CANCELED, now, "superseded before it was reported")
            elif latest.key is not None and latest.state is not State.CANCELED:
                revision, predecessor = latest.revision + 1, latest.key
        self._insert_item(
            State.SCHEDULED,
            study,
            now,
            "scheduled",
            "",
            roi_sop_instance_uid=roi_sop_instance_uid,
            scheduled_at=now,
            revision=revision,
            predecessor_key=predecessor,
            **columns,
        )

    def _contour_came(self, series: str | None, now: float) -> None:
        rows = self._db.rows(
            "SELECT id FROM work_item WHERE ct_series_instance_uid = ? AND roi_sop_instance_uid IS NULL AND state = ?",
            [series, State.WAITING],
        )
        for row in rows:
            self._move(row["id"], State.CANCELED, now, "a contour came")

    def _latest(self, roi_sop_instance_uid: str) -> WorkItem | None:
        rows = self._db.rows(
            f"SELECT {_ITEM_COLUMNS} FROM work_item WHERE roi_sop_instance_uid = ? ORDER BY id DESC LIMIT 1",
            [roi_sop_instance_uid],
        )
        return _item(rows[0]) if rows else None

    def _insert_item(self, state: State, study: str, now: float, name: str, detail: str = "", **columns: Any) -> None:
        row = {"state": state, "study_instance_uid": study, "created_at": now, "updated_at": now, **columns}
        self._event(self._db.insert("work_item", row), now, name, detail)

    def _event(self, item_id: int, now: float, name: str, detail: str = "") -> None:
        self._db.execute(
            "INSERT INTO event (work_item_id, at, name, detail) VALUES (?, ?, ?, ?)", [item_id, now, name, detail[:500]]
        )

    def _move(self, item_id: int, new: State, now: float, detail: str) -> None:
        """Change a state inside the caller's transaction, by the table and with an event."""
        old = State(self._db.rows("SELECT state FROM work_item WHERE id = ?", [item_id])[0]["state"])
        if new not in TRANSITIONS[old]:
            raise InvalidTransition(f"work item {item_id}: {old} -> {new} is not in TRANSITIONS")
        self._db.execute(
            "UPDATE work_item SET state = ?, updated_at = ?, lease_owner = NULL, lease_until = NULL,"
            " attempts = 0, run_after = 0 WHERE id = ?",
            [new, now, item_id],
        )
        self._event(item_id, now, new.lower(), detail)

    # -- work items: life ------------------------------------------------------------------------------------

    def claim(self, state: State, owner: str, lease_seconds: float, now: float) -> WorkItem | None:
        """Lease the next runnable work item in `state`, highest priority first; one statement, so never taken twice."""
        rows = self._db.rows(
            "UPDATE work_item SET lease_owner = ?, lease_until = ?, attempts = attempts + 1, updated_at = ?"
            " WHERE id = (SELECT id FROM work_item WHERE state = ? AND run_after <= ?"
            " AND (lease_until IS NULL OR lease_until < ?) ORDER BY priority DESC, id LIMIT 1)"
            f" RETURNING {_ITEM_COLUMNS}",
            [owner, now + lease_seconds, now, state, now, now],
        )
        return _item(rows[0]) if rows else None

    def note(self, item_id: int, name: str, now: float, detail: str = "") -> None:
        """Append to a work item's history without moving it."""
        self._event(item_id, now, name, detail)

    def renew(self, item_id: int, owner: str, until: float) -> bool:
        """Keep a lease alive while its stage works. False when it was lost."""
        return (
            self._db.execute(
                "UPDATE work_item SET lease_until = ? WHERE id = ? AND lease_owner = ?", [until, item_id, owner]
            )
            == 1
        )

    def lease_owners(self) -> set[str]:
        return {
            row["lease_owner"]
            for row in self._db.rows("SELECT DISTINCT lease_owner FROM work_item WHERE lease_owner IS NOT NULL")
        }

    def break_leases(self, owner: str) -> int:
        """Free the work items of a worker that is known to be dead; they run again at once."""
        return self._db.execute(
            "UPDATE work_item SET lease_owner = NULL, lease_until = NULL WHERE lease_owner = ?", [owner]
        )

    def advance(
        self,
        item: WorkItem,
        new: State,
        owner: str,
        now: float,
        detail: str = "",
        *,
        outcome: str | None = None,
        reason: str | None = None,
        hint: str | None = None,
        deliveries: Collection[tuple[str, str]] = (),
    ) -> None:
        """Move a leased work item on, with its event and its delivery rows (document, destination), in one transaction.

        Raises
        ------
        InvalidTransition
            When TRANSITIONS does not allow the move.
        LeaseLost
            When another worker holds the item or has moved it already.
        """
        with self._db.immediate():
            held = self._db.rows(
                "SELECT 1 FROM work_item WHERE id = ? AND state = ? AND lease_owner = ?", [item.id, item.state, owner]
            )
            if not held:
                raise LeaseLost(f"work item {item.id} is no longer ours in state {item.state}")
            self._move(item.id, new, now, detail)
            self._db.execute(
                "UPDATE work_item SET outcome = coalesce(?, outcome), reason = coalesce(?, reason), hint = ?"
                " WHERE id = ?",
                [outcome, reason, hint, item.id],
            )
            for document, destination in deliveries:
                self.deliveries.add(item.id, document, destination)

    def postpone(self, item: WorkItem, owner: str, run_after: float, now: float, detail: str) -> None:
        """Give a leased work item back, to be tried again at `run_after`. Raises LeaseLost."""
        with self._db.immediate():
            changed = self._db.execute(
                "UPDATE work_item SET lease_owner = NULL, lease_until = NULL, run_after = ?, updated_at = ?"
                " WHERE id = ? AND lease_owner = ?",
                [run_after, now, item.id, owner],
            )
            if changed != 1:
                raise LeaseLost(f"work item {item.id} is no longer ours")
            self._event(item.id, now, "postponed", detail)

    def retry(self, item_id: int, now: float) -> None:
        """An operator's retry of a FAILED work item: every stage runs again, into the same bytes and UIDs."""
        with self._db.immediate():
            self._move(item_id, State.SCHEDULED, now, "retry asked for by an operator")
            self._db.execute("UPDATE work_item SET hint = NULL WHERE id = ?", [item_id])
            self.deliveries.reopen_failed(item_id)

    def complete_delivered(self, now: float) -> list[int]:
        """Complete every REPORTED work item whose deliveries are all at their end; fail those with a refused one."""
        finished: list[int] = []
        with self._db.immediate():
            for item_id, refused in self.deliveries.finished_items():
                self._move(item_id, State.FAILED if refused else State.COMPLETED, now, refused)
                if refused:
                    self._db.execute(
                        "UPDATE work_item SET hint = ? WHERE id = ?",
                        ["correct the destination, then: prognode retry", item_id],
                    )
                finished.append(item_id)
        return finished

    # -- queries ---------------------------------------------------------------------------------------------

    def item(self, item_id: int) -> WorkItem | None:
        rows = self._db.rows(f"SELECT {_ITEM_COLUMNS} FROM work_item WHERE id = ?", [item_id])
        return _item(rows[0]) if rows else None

    def items(self, study_instance_uid: str | None = None, limit: int = 200) -> list[WorkItem]:
        """Work items, newest first; of one study when its UID is given (the CT's study or the contour's)."""
        where = (
            (
                "WHERE study_instance_uid = :uid OR roi_sop_instance_uid IN"
                " (SELECT sop_instance_uid FROM instance WHERE study_instance_uid = :uid)"
            )
            if study_instance_uid
            else ""
        )
        rows = self._db.rows(
            f"SELECT {_ITEM_COLUMNS} FROM work_item {where} ORDER BY id DESC LIMIT :limit",
            {"uid": study_instance_uid, "limit": limit},
        )
        return [_item(row) for row in rows]

    def details(self, item_id: int) -> dict[str, Any]:
        """The whole row of a work item with its events, for a status print."""
        row = self._db.rows("SELECT * FROM work_item WHERE id = ?", [item_id])[0]
        row["events"] = self._db.rows(
            "SELECT at, name, detail FROM event WHERE work_item_id = ? ORDER BY id", [item_id]
        )
        row["received"] = self._db.rows(
            "SELECT count(*) AS instances, min(received_at) AS first, max(received_at) AS last FROM instance"
            " WHERE current = 1 AND (series_instance_uid = ? OR sop_instance_uid = ?)",
            [row["ct_series_instance_uid"], row["roi_sop_instance_uid"]],
        )[0]
        return row

    def counts(self) -> dict[str, int]:
        """Work items by state."""
        return {
            row["state"]: row["n"] for row in self._db.rows("SELECT state, count(*) AS n FROM work_item GROUP BY state")
        }


def _item(row: dict[str, Any]) -> WorkItem:
    return WorkItem(**{**row, "state": State(row["state"])})
