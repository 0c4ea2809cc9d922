"""How work items come to be: waiting rows, scheduling, and the next revision of a contour. Reached as `store.births`.

Of each contour object there is at most one WAITING row (a question that is still open) and one newest row that has been
planned. The same content never makes a second result; other content makes the next revision.
"""

import hashlib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from dicom_node import items
from dicom_node.database import Database
from dicom_node.instance import Instance
from dicom_node.workitem import UNCHANGED, State, WorkItem

LONGEST_PAUSE_SECONDS = 512.0  # between two looks at a contour that has waited for hours
AT_ONCE = 2  # of `replan`: with what is here, nothing more is waited for
_PAUSE_SHARE = 0.05  # at most, of how long it has waited

_LEFT_A_RESULT = (
    "(state != 'CANCELED' OR EXISTS"
    " (SELECT 1 FROM delivery d WHERE d.work_item_id = work_item.id AND d.state != 'CANCELED'))"
)
_OF_THIS_PERSON = items.same_person("?", "work_item.study_instance_uid")
_OF_THE_STUDY = ("roi_sop_instance_uid", "study_instance_uid", "ct_series_instance_uid")


@dataclass(frozen=True)
class Birth:
    """What a decision makes of a contour object: everything the row of its work item has to say."""

    study_instance_uid: str
    ct_series_instance_uid: str | None
    key: str
    inputs_digest: str  # the part of the key that only images and contours can change
    plan: str
    reason: str | None
    priority: int = 0  # of workitem.PRIORITIES
    shadow: bool = False


def _is_due(item_id: int, waited: float, since_look: float, now: float) -> bool:
    """Whether one of its moments has come since the last look. They lie a power of 2 s apart, for each item others."""
    pause = 2.0 ** int(math.log2(max(1.0, min(waited * _PAUSE_SHARE, LONGEST_PAUSE_SECONDS))))
    return abs(since_look) >= pause or (now + item_id * 7.0) % pause < since_look  # the clock may be set back


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

    def wait(
        self,
        roi: Instance,
        study: str,
        series: str | None,
        reason: str,
        detail: str,
        now: float,
        *,
        shadow: bool = False,
    ) -> bool:
        """Keep a contour object's question open, also where an earlier content of it has its result.

        Returns whether the reason is a new one.
        """
        uid = roi.sop_instance_uid
        columns = {"study_instance_uid": study, "ct_series_instance_uid": series, "reason": reason, "hint": detail,
                   "shadow": shadow}  # fmt: skip
        with self._db.immediate():
            waiting = self._waiting(uid)
            if waiting is None:
                items.insert(self._db, State.WAITING, now, detail, roi_sop_instance_uid=uid, **columns)
                self._contour_came(series, now)
                return True
            if (waiting.reason, waiting.hint, waiting.shadow) == (reason, detail, shadow):
                return False  # looked at every few seconds: not a write each time
            # `waiting_rois` goes by the last change; `asked_again_at` by when somebody asked.
            self._update(waiting.id, columns if waiting.replan else columns | {"updated_at": now})
            if waiting.reason == reason:
                return False
            items.note(self._db, waiting.id, "waiting", now, detail)
            return True

    def waiting_rois(self, looked: float = -math.inf, now: float = math.inf) -> list[str]:
        """Contour objects that wait: to be looked at again when time, not an object, may have decided them.

        The longer nothing has changed, the more rarely: those whose turn has come since all were asked for at `looked`.
        """
        rows = self._db.rows(
            "SELECT id, roi_sop_instance_uid AS uid, updated_at FROM work_item WHERE state = ? AND uid IS NOT NULL",
            [State.WAITING],
        )
        return [row["uid"] for row in rows if _is_due(row["id"], now - row["updated_at"], now - looked, now)]

    def waiting_in(self, study_instance_uid: str) -> list[str]:
        """Contour objects of a study that wait: what comes for it may be theirs without their naming it."""
        rows = self._db.rows(
            "SELECT roi_sop_instance_uid AS uid FROM work_item WHERE study_instance_uid = ? AND state = ?"
            " AND uid IS NOT NULL",
            [study_instance_uid, State.WAITING],
        )
        return [row["uid"] for row in rows]

    def waiting_without_contour(self) -> list[WorkItem]:
        return self._items("state = ? AND roi_sop_instance_uid IS NULL", [State.WAITING])

    # -- what can run ----------------------------------------------------------------------------------------

    def is_answered(self, roi_sop_instance_uid: str, study_instance_uid: str, inputs_digest: str, now: float) -> bool:
        """Whether these very inputs are what the newest work item of the contour has: a re-send never runs twice.

        An open question about them is closed; but not one that an operator has asked (`replan`).
        """
        with self._db.immediate():
            newest = self._newest(roi_sop_instance_uid, study_instance_uid)
            waiting = self._waiting(roi_sop_instance_uid)
            if newest is None or newest.inputs_digest != inputs_digest or (waiting is not None and waiting.replan):
                return False
            if waiting is not None:
                self._close_unchanged(waiting, now)
        return True

    def schedule(self, roi_sop_instance_uid: str, birth: Birth, now: float, why: str = "") -> bool:
        """Make the work item of a contour object runnable, as the next revision when an earlier one left a result.

        `why`: which CT was chosen and by what, for its history. False when the newest result is of this very content:
        it never gets a second one.
        """
        with self._db.immediate():
            waiting = self._waiting(roi_sop_instance_uid)
            before = self._supersede(roi_sop_instance_uid, birth, now)
            if before is not None and before.content_key == birth.key:
                if waiting is not None:
                    self._close_unchanged(waiting, now)
                return False
            columns: dict[str, object] = {
                **vars(birth),
                "key": self._free_key(birth.key, before),
                "content_key": birth.key,
                "scheduled_at": now,
                "revision": before.revision + 1 if before else 1,
                "predecessor_key": self._replaces(before, birth),
            }
            if waiting is None:
                columns["roi_sop_instance_uid"] = roi_sop_instance_uid
                items.insert(self._db, State.SCHEDULED, now, birth.reason or why, **columns)
            else:
                columns["priority"] = waiting.priority or birth.priority  # an operator's word goes first
                self._update(waiting.id, columns)
                items.move(self._db, waiting.id, State.SCHEDULED, now, birth.reason or why)
            self._contour_came(birth.ct_series_instance_uid, now)
        return True

    def schedule_without_contour(self, item_id: int, birth: Birth, now: float) -> None:
        """Make the row of a CT that waits for a contour runnable, to say that none came."""
        with self._db.immediate():
            self._update(item_id, {**vars(birth), "content_key": birth.key, "scheduled_at": now})
            items.move(self._db, item_id, State.SCHEDULED, now, birth.reason or "")

    def first_planned(self, study_instance_uids: Collection[str], *, shadows: bool = False) -> str:
        """Study Date (YYYYMMDD) of the earliest of these studies whose CT is scored or will be; '' without one.

        `shadows`: also one that is scored as a shadow.
        """
        rows = self._db.rows(
            "SELECT coalesce(min(s.study_date), '') AS day FROM work_item w JOIN study s USING (study_instance_uid)"
            " WHERE w.study_instance_uid IN (SELECT value FROM json_each(?))"
            " AND s.study_date GLOB '[12][0-9][0-9][0-9][01][0-9][0-3][0-9]'"
            " AND w.key IS NOT NULL AND w.reason IS NULL AND w.state != ? AND w.shadow <= ?",
            [json.dumps(sorted(study_instance_uids)), State.CANCELED, shadows],
        )
        return str(rows[0]["day"])

    def plan_at_once(self, item_id: int, why: str, now: float) -> None:
        """Let a contour that waits be decided by what is here: somebody knows that nothing more will come."""
        with self._db.immediate():
            self._update(item_id, {"replan": AT_ONCE, "updated_at": now})
            items.note(self._db, item_id, "planned at once", now, why)

    def is_planned_at_once(self, roi_sop_instance_uid: str) -> bool:
        """Whether somebody has said that nothing more will come for a contour that waits."""
        waiting = self._waiting(roi_sop_instance_uid)
        return waiting is not None and waiting.replan == AT_ONCE

    def replan(self, item_id: int, why: str, now: float) -> bool:
        """Ask the planner again about the same images: clinical values, bundle or settings may have changed.

        False for a work item without a contour, and for one that is at work.
        """
        with self._db.immediate():
            (item,) = self._items("id = ?", [item_id])
            if item.roi_sop_instance_uid is None or item.state in (State.ANALYSED, State.REPORTED):
                return False
            if item.state in (State.SCHEDULED, State.FAILED):
                items.move(self._db, item.id, State.CANCELED, now, why)
            waiting = self._waiting(item.roi_sop_instance_uid)
            if waiting is not None:
                self._update(waiting.id, {"replan": max(1, waiting.replan), "updated_at": now})
            else:
                columns = {name: getattr(item, name) for name in (*_OF_THE_STUDY, "shadow")}
                items.insert(self._db, State.WAITING, now, why, replan=1, **columns)
        return True

    def asked_again_at(self, roi_sop_instance_uid: str) -> float | None:
        """When somebody asked for a contour to be planned once more, with what is true then; None when nobody did."""
        waiting = self._waiting(roi_sop_instance_uid)
        return waiting.updated_at if waiting is not None and waiting.replan else None

    # -- rows ------------------------------------------------------------------------------------------------

    def _close_unchanged(self, waiting: WorkItem, now: float) -> None:
        items.move(self._db, waiting.id, State.CANCELED, now, UNCHANGED)
        self._update(waiting.id, {"reason": None, "hint": UNCHANGED})

    def _supersede(self, roi_sop_instance_uid: str, birth: Birth, now: float) -> WorkItem | None:
        """End what other content has not brought to a result; gives the newest row that is left."""
        while (before := self._newest(roi_sop_instance_uid, birth.study_instance_uid)) is not None:
            if before.content_key == birth.key or before.state not in (State.SCHEDULED, State.FAILED):
                return before
            items.move(self._db, before.id, State.CANCELED, now, "superseded")
            if self._db.rows("SELECT 1 FROM delivery WHERE work_item_id = ?", [before.id]):
                return before  # some of it is in an archive: it stays the predecessor
        return None

    def _replaces(self, before: WorkItem | None, birth: Birth) -> str | None:
        """Key of the revision before it; what is to be sent passes over shadows: nobody has seen them."""
        while before is not None and before.shadow and not birth.shadow:
            found = self._items("key = ?", [before.predecessor_key])
            before = found[0] if found else None
        return before.key if before else None

    def _free_key(self, key: str, before: WorkItem | None) -> str:
        """The content's own key; where an older result of the same content has it, one that names what is replaced."""
        if before is not None and self._items(f"key = ? AND {_LEFT_A_RESULT}", [key]):
            return hashlib.sha256(f"{key}:{before.id}".encode()).hexdigest()
        # A content that was superseded before it ran has left nothing under its key.
        self._db.execute("UPDATE work_item SET key = NULL WHERE key = ?", [key])
        return key

    def _newest(self, roi_sop_instance_uid: str, study_instance_uid: str) -> WorkItem | None:
        """The newest row that has a result or may still get one, of this study's patient."""
        where = f"roi_sop_instance_uid = ? AND key IS NOT NULL AND {_LEFT_A_RESULT} AND {_OF_THIS_PERSON}"
        found = self._items(f"{where} ORDER BY id DESC LIMIT 1", [roi_sop_instance_uid, study_instance_uid])
        return found[0] if found else None

    def _waiting(self, roi_sop_instance_uid: str) -> WorkItem | None:
        found = self._items("roi_sop_instance_uid = ? AND state = ? LIMIT 1", [roi_sop_instance_uid, State.WAITING])
        return found[0] if found else None

    def _contour_came(self, series: str | None, now: float) -> None:
        where = "ct_series_instance_uid = ? AND roi_sop_instance_uid IS NULL AND state = ?"
        for item in self._items(where, [series, State.WAITING]):
            items.move(self._db, item.id, State.CANCELED, now, "a contour came")

    def _items(self, where: str, arguments: Sequence[str | int | None]) -> list[WorkItem]:
        rows = self._db.rows(f"SELECT {items.COLUMNS} FROM work_item WHERE {where}", arguments)
        return [items.from_row(row) for row in rows]

    def _update(self, item_id: int, columns: Mapping[str, object]) -> None:
        names = ", ".join(f"{name} = ?" for name in columns)
        self._db.execute(f"UPDATE work_item SET {names} WHERE id = ?", [*columns.values(), item_id])
