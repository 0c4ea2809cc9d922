"""How work items come to be: waiting rows, scheduling, and the next revision of a contour. Reached as `store.births`.

Of each contour object there is at most one WAITING row (a question that is still open) and one newest row that has been
planned. The same content never makes a second result; other content makes the next revision.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from dicom_node import items
from dicom_node.database import Database
from dicom_node.instance import Instance
from dicom_node.workitem import State, WorkItem


@dataclass(frozen=True)
class Birth:
    """What a decision makes of a contour object: everything the row of its work item has to say."""

    study_instance_uid: str
    ct_series_instance_uid: str | None
    key: str
    inputs_digest: str  # the part of the key that only images and contours can change
    plan: str
    reason: str | None


class Births:
    """Writes new rows of `work_item`, and ends those that they replace."""

    def __init__(self, database: Database) -> None:
        self._db = database

    # -- what waits ------------------------------------------------------------------------------------------

    def wait_for_contour(self, ct: Instance, reason: str, now: float) -> None:
        """Show a CT series that has no contour yet; nothing when a work item for the series exists."""
        series = ct.series_instance_uid
        with self._db.immediate():
            if not self._db.rows("SELECT 1 FROM work_item WHERE ct_series_instance_uid = ?", [series]):
                columns = {"study_instance_uid": ct.study_instance_uid, "ct_series_instance_uid": series}
                items.insert(self._db, State.WAITING, now, reason=reason, **columns)

    def wait(self, roi: Instance, study: str, series: str | None, reason: str, detail: str, now: float) -> bool:
        """Keep a contour object's question open, also where an earlier content of it has its result.

        Returns whether the reason is a new one.
        """
        uid = roi.sop_instance_uid
        columns = {"study_instance_uid": study, "ct_series_instance_uid": series, "reason": reason, "hint": detail}
        with self._db.immediate():
            waiting = self._waiting(uid)
            if waiting is None:
                self._insert_next(uid, State.WAITING, now, detail, **columns)
                self._contour_came(series, now)
                return True
            self._update(waiting.id, columns)
            if waiting.reason == reason:
                return False
            items.note(self._db, waiting.id, "waiting", now, detail)
            return True

    def waiting_rois(self) -> list[str]:
        """Contour objects that wait: to be looked at again when time, not an object, may have decided them."""
        rows = self._db.rows(
            "SELECT roi_sop_instance_uid AS uid FROM work_item WHERE state = ? AND uid IS NOT NULL", [State.WAITING]
        )
        return [row["uid"] for row in rows]

    def waiting_without_contour(self) -> list[WorkItem]:
        return self._items("state = ? AND roi_sop_instance_uid IS NULL", [State.WAITING])

    # -- what can run ----------------------------------------------------------------------------------------

    def is_answered(self, roi_sop_instance_uid: str, inputs_digest: str, now: float) -> bool:
        """Whether these very inputs are what the newest work item of the contour has: a re-send never runs twice.

        An open question about them is closed; but not one that an operator has asked (`replan`).
        """
        with self._db.immediate():
            newest, waiting = self._newest(roi_sop_instance_uid), self._waiting(roi_sop_instance_uid)
            if newest is None or newest.inputs_digest != inputs_digest or (waiting is not None and waiting.replan):
                return False
            if waiting is not None:
                items.move(self._db, waiting.id, State.CANCELED, now, "nothing has changed")
        return True

    def rival(self, roi_sop_instance_uid: str, key: str) -> str | None:
        """Key of the contour's newest work item when another row has `key` already: an older content has come back."""
        newest = self._newest(roi_sop_instance_uid)
        taken = self._db.rows("SELECT 1 FROM work_item WHERE key = ? AND state != ?", [key, State.CANCELED])
        return newest.key if taken and newest is not None and newest.key != key else None

    def schedule(self, roi_sop_instance_uid: str, birth: Birth, now: float) -> bool:
        """Make the work item of a contour object runnable, as the next revision when an earlier one was reported.

        False when this key has its work item: the same content never makes a second result.
        """
        columns = {**vars(birth), "scheduled_at": now}
        with self._db.immediate():
            waiting = self._waiting(roi_sop_instance_uid)
            if self._db.rows("SELECT 1 FROM work_item WHERE key = ? AND state != ?", [birth.key, State.CANCELED]):
                if waiting is not None:
                    items.move(self._db, waiting.id, State.CANCELED, now, "nothing has changed")
                return False
            # A content that was superseded before it ran has left no result: its key is free again.
            self._db.execute("UPDATE work_item SET key = NULL WHERE key = ?", [birth.key])
            if waiting is None:
                self._insert_next(roi_sop_instance_uid, State.SCHEDULED, now, birth.reason or "", **columns)
            else:
                revision, predecessor = self._succession(roi_sop_instance_uid, now)
                columns |= {"revision": revision, "predecessor_key": predecessor}
                self._update(waiting.id, columns)
                items.move(self._db, waiting.id, State.SCHEDULED, now, birth.reason or "")
            self._contour_came(birth.ct_series_instance_uid, now)
        return True

    def schedule_without_contour(self, item_id: int, birth: Birth, now: float) -> None:
        """Make the row of a CT that waits for a contour runnable, to say that none came."""
        with self._db.immediate():
            self._update(item_id, {**vars(birth), "scheduled_at": now})
            items.move(self._db, item_id, State.SCHEDULED, now, birth.reason or "")

    def replan(self, item: WorkItem, why: str, now: float) -> bool:
        """Ask the planner again about the same images: clinical values, bundle or settings may have changed.

        False for a work item without a contour, and for one that is at work.
        """
        if item.roi_sop_instance_uid is None or item.state in (State.ANALYSED, State.REPORTED, State.CANCELED):
            return False
        with self._db.immediate():
            if item.state in (State.SCHEDULED, State.FAILED):
                items.move(self._db, item.id, State.CANCELED, now, why)
            waiting = self._waiting(item.roi_sop_instance_uid)
            if waiting is not None:
                self._update(waiting.id, {"replan": 1})
            else:
                self._insert_next(
                    item.roi_sop_instance_uid,
                    State.WAITING,
                    now,
                    why,
                    study_instance_uid=item.study_instance_uid,
                    ct_series_instance_uid=item.ct_series_instance_uid,
                    replan=1,
                )
        return True

    # -- rows ------------------------------------------------------------------------------------------------

    def _insert_next(self, roi_sop_instance_uid: str, state: State, now: float, detail: str, **columns: object) -> None:
        if state is State.SCHEDULED:
            revision, predecessor = self._succession(roi_sop_instance_uid, now)
            columns |= {"revision": revision, "predecessor_key": predecessor}
        items.insert(self._db, state, now, detail, roi_sop_instance_uid=roi_sop_instance_uid, **columns)

    def _succession(self, roi_sop_instance_uid: str, now: float) -> tuple[int, str | None]:
        """Revision and predecessor of the contour's next result; ends the one before where it has not been reported."""
        before = self._newest(roi_sop_instance_uid)
        if before is None:
            return 1, None
        if before.state in (State.SCHEDULED, State.FAILED):
            items.move(self._db, before.id, State.CANCELED, now, "superseded")
            sent = self._db.rows("SELECT 1 FROM delivery WHERE work_item_id = ?", [before.id])
            if not sent:
                return before.revision, before.predecessor_key
        return before.revision + 1, before.key

    def _newest(self, roi_sop_instance_uid: str) -> WorkItem | None:
        """The newest row that has been planned and not ended without a result."""
        found = self._items(
            "roi_sop_instance_uid = ? AND key IS NOT NULL AND state != ? ORDER BY id DESC LIMIT 1",
            [roi_sop_instance_uid, State.CANCELED],
        )
        return found[0] if found else None

    def _waiting(self, roi_sop_instance_uid: str) -> WorkItem | None:
        found = self._items("roi_sop_instance_uid = ? AND state = ? LIMIT 1", [roi_sop_instance_uid, State.WAITING])
        return found[0] if found else None

    def _contour_came(self, series: str | None, now: float) -> None:
        where = "ct_series_instance_uid = ? AND roi_sop_instance_uid IS NULL AND state = ?"
        for item in self._items(where, [series, State.WAITING]):
            items.move(self._db, item.id, State.CANCELED, now, "a contour came")

    def _items(self, where: str, arguments: list[str | None]) -> list[WorkItem]:
        rows = self._db.rows(f"SELECT {items.COLUMNS} FROM work_item WHERE {where}", arguments)
        return [items.from_row(row) for row in rows]

    def _update(self, item_id: int, columns: Mapping[str, object]) -> None:
        names = ", ".join(f"{name} = ?" for name in columns)
        self._db.execute(f"UPDATE work_item SET {names} WHERE id = ?", [*columns.values(), item_id])
