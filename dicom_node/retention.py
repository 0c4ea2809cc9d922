"""What may be removed, and what is: rows are marked first, then their files go. Reached as `store.retention`.

A study is closed when everything that was made of it is at its end and proved, and nothing that is still open needs its
images. Of a closed study the files may go; the rows stay, so that what is sent again is known.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum, StrEnum
from typing import Any, NamedTuple

from dicom_node import items
from dicom_node.audit import Audit, AuditEntry
from dicom_node.database import Database
from dicom_node.workitem import State

ACTOR = "retention"
ENDED = (None, State.COMPLETED, State.FAILED, State.CANCELED)  # of a key: states in which a job folder is nobody's


class Removed(IntEnum):
    """Column `removed` of an instance, and `results_removed` of a work item."""

    HERE = 0
    GOING = 1  # marked; the files may still be there
    GONE = 2


class Kept(StrEnum):
    """Why a study is not closed; the text is for people."""

    NOT_PLANNED = "has just come"
    WAITING = "a contour waits for its images or for clinical values"
    NO_CONTOUR = "waits for a contour, and nothing was made of it yet"
    AT_WORK = "is being analysed or reported"
    ON_ITS_WAY = "is on its way to a destination"
    HELD = "is held by an operator"
    FAILED = "has failed: retry or cancel it"
    SENT_NOWHERE = "was sent nowhere: no destination is configured"
    NEEDED = "is needed by a contour of another study"
    NO_WORK = "nothing was made of it"


class Condition(NamedTuple):
    """A study as retention sees it. `changed_at`: its last arrival, move or proof."""

    kept: tuple[Kept, ...]
    changed_at: float


@dataclass(frozen=True)
class Contents:
    """One content of an instance that has a file, or had one."""

    id: int
    sop_instance_uid: str
    digest: str
    sop_class_uid: str
    received_at: float
    current: int


# Work items that a study has to do with: as the study of its results, of its contours, or of its CT.
_ITEMS = (
    "WITH id AS (SELECT id FROM work_item WHERE study_instance_uid = :study"
    " UNION SELECT w.id FROM work_item w JOIN instance i ON w.roi_sop_instance_uid = i.sop_instance_uid"
    " WHERE i.study_instance_uid = :study"
    " UNION SELECT w.id FROM work_item w WHERE w.ct_series_instance_uid IN"
    " (SELECT series_instance_uid FROM instance WHERE study_instance_uid = :study)),"
    " item AS (SELECT id, state, held, shadow, updated_at, roi_sop_instance_uid AS roi FROM work_item WHERE id IN id)"
)
_OPEN = "('WAITING', 'SCHEDULED', 'ANALYSED', 'REPORTED', 'FAILED')"
_CONDITION = (
    f"{_ITEMS} SELECT count(*) AS items, max(updated_at) AS changed_at, total(state = 'COMPLETED') AS completed,"
    " total(state = 'WAITING' AND roi IS NULL) AS without_contour, total(state = 'WAITING') AS waiting,"
    " total(state IN ('SCHEDULED', 'ANALYSED', 'REPORTED')) AS at_work,"
    " total(state = 'FAILED') AS failed, total(held AND state NOT IN ('COMPLETED', 'CANCELED')) AS held,"
    " total(state = 'COMPLETED' AND NOT shadow AND NOT EXISTS"
    " (SELECT 1 FROM delivery d WHERE d.work_item_id = item.id)) AS nowhere,"
    " total(EXISTS (SELECT 1 FROM delivery d WHERE d.work_item_id = item.id AND d.final = 0)) AS on_its_way,"
    " total(state != 'CANCELED' AND EXISTS"
    " (SELECT 1 FROM delivery d WHERE d.work_item_id = item.id AND d.state = 'FAILED')) AS refused,"
    " max((SELECT max(max(coalesce(proved_at, 0), coalesce(sent_at, 0))) FROM delivery d"
    " WHERE d.work_item_id = item.id)) AS proved_at FROM item"
)
_NEEDED = (
    "SELECT EXISTS (SELECT 1 FROM instance i JOIN reference r ON r.sop_instance_uid = i.sop_instance_uid"
    " JOIN instance roi ON roi.sop_instance_uid = r.roi_sop_instance_uid AND roi.current = 1"
    " LEFT JOIN work_item w ON w.roi_sop_instance_uid = roi.sop_instance_uid"
    f" WHERE i.study_instance_uid = :study AND (roi.planned = 0 OR w.state IN {_OPEN})) OR EXISTS"
    " (SELECT 1 FROM instance i JOIN reference_series r ON r.series_instance_uid = i.series_instance_uid"
    " JOIN instance roi ON roi.sop_instance_uid = r.roi_sop_instance_uid AND roi.current = 1"
    " LEFT JOIN work_item w ON w.roi_sop_instance_uid = roi.sop_instance_uid"
    f" WHERE i.study_instance_uid = :study AND (roi.planned = 0 OR w.state IN {_OPEN})) AS needed"
)

_OLD_EVENTS = (
    "FROM event e JOIN work_item w ON w.id = e.work_item_id WHERE e.at < ? AND w.updated_at < ?"
    " AND w.state IN ('COMPLETED', 'CANCELED') AND e.id < (SELECT max(id) FROM event x WHERE x.work_item_id = w.id)"
)


class Retention:
    """What of the tables instance, work_item and event may go."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._audit = Audit(database)

    # -- what may go -----------------------------------------------------------------------------------------

    def condition(self, study_instance_uid: str) -> Condition:
        """Whether a study is closed, and since when nothing has changed."""
        study = {"study": study_instance_uid}
        row = self._db.rows(_CONDITION, study)[0]
        arrived = self._db.rows(
            "SELECT max(received_at) AS at, total(planned = 0) AS unplanned FROM instance"
            " WHERE study_instance_uid = :study",
            study,
        )[0]
        needed = self._db.rows(_NEEDED, study)[0]["needed"]
        found = {
            Kept.NOT_PLANNED: arrived["unplanned"],
            Kept.WAITING: row["waiting"] > row["without_contour"],
            Kept.NO_CONTOUR: row["without_contour"] and not row["completed"],
            Kept.AT_WORK: row["at_work"],
            Kept.ON_ITS_WAY: row["on_its_way"],
            Kept.HELD: row["held"],
            Kept.FAILED: row["failed"] or row["refused"],
            Kept.SENT_NOWHERE: row["nowhere"],
            Kept.NEEDED: needed,
            Kept.NO_WORK: not row["items"],
        }
        changes = (row["changed_at"], row["proved_at"], arrived["at"])
        return Condition(tuple(why for why, so in found.items() if so), max(at or 0.0 for at in changes))

    def studies_here(self, before: float, after: tuple[float, str], limit: int = 500) -> list[tuple[float, str]]:
        """Studies with files here that came before a time, oldest first, behind `after` of an earlier call."""
        rows = self._db.rows(
            "SELECT DISTINCT received_at AS at, study_instance_uid AS study FROM instance WHERE removed = 0"
            " AND received_at < ? AND (received_at, study_instance_uid) > (?, ?) ORDER BY 1, 2 LIMIT ?",
            [before, *after, limit],
        )
        return [(row["at"], row["study"]) for row in rows]

    def studies_with_files(self) -> list[str]:
        """Every study that has files here; for a report, not for a turn of the clock."""
        rows = self._db.rows("SELECT DISTINCT study_instance_uid AS study FROM instance WHERE removed = 0 ORDER BY 1")
        return [row["study"] for row in rows]

    def all_results(self) -> list[dict[str, Any]]:
        """Every work item that may have results here; as `results_here`, in any state."""
        return self._db.rows(
            "SELECT id, key, state, study_instance_uid, updated_at FROM work_item"
            " WHERE results_removed = 0 AND key IS NOT NULL ORDER BY updated_at, id"
        )

    def events(self) -> tuple[int, float | None]:
        """How many events there are, and when the oldest was."""
        row = self._db.rows("SELECT count(*) AS n, min(at) AS oldest FROM event")[0]
        return row["n"], row["oldest"]

    def contents(self, study_instance_uid: str) -> list[Contents]:
        """What of a study has files here."""
        rows = self._db.rows(
            "SELECT id, sop_instance_uid, digest, sop_class_uid, received_at, current FROM instance"
            " WHERE study_instance_uid = ? AND removed = 0 ORDER BY id",
            [study_instance_uid],
        )
        return [Contents(**row) for row in rows]

    def results_here(self, before: float, after: tuple[float, int], limit: int = 500) -> list[dict[str, Any]]:
        """Work items at their end before a time with results here: id, key, state, study, updated_at; oldest first."""
        return self._db.rows(
            "SELECT id, key, state, study_instance_uid, updated_at FROM work_item INDEXED BY work_item_with_results"
            " WHERE results_removed = 0 AND key IS NOT NULL AND state IN ('COMPLETED', 'CANCELED') AND updated_at < ?"
            " AND (updated_at, id) > (?, ?) ORDER BY updated_at, id LIMIT ?",
            [before, *after, limit],
        )

    def removed_among(self, digests: Mapping[str, str]) -> int:
        """How many of these contents (SOP Instance UID -> digest) have no file here any more."""
        rows = self._db.rows(
            "SELECT count(*) AS n FROM json_each(?) wanted JOIN instance i"
            " ON i.sop_instance_uid = wanted.key AND i.digest = wanted.value WHERE i.removed != 0",
            [json.dumps(dict(digests))],
        )
        return int(rows[0]["n"])

    def documents(self, work_item_id: int) -> str | None:
        """What `remove_results` was given about a work item's SRs; None where its results are here."""
        rows = self._db.rows("SELECT documents FROM work_item WHERE id = ?", [work_item_id])
        return rows[0]["documents"] if rows else None

    # -- removing --------------------------------------------------------------------------------------------

    def remove_contents(self, study_instance_uid: str, contents: Collection[Contents], now: float) -> bool:
        """Mark contents of a closed study, with the audit entry; their files may go then. False: it is open again."""
        with self._db.immediate():
            if self.condition(study_instance_uid).kept:
                return False
            left = len(self.contents(study_instance_uid)) - len(contents)
            classes: dict[str, int] = {}
            for content in contents:
                classes[content.sop_class_uid] = classes.get(content.sop_class_uid, 0) + 1
            self._db.many(
                "UPDATE instance SET removed = ? WHERE id = ?", [(Removed.GOING, content.id) for content in contents]
            )
            if not left:
                self._end_waiting(study_instance_uid, now)
            self._say("instances.removed" if left else "study.removed", study_instance_uid, now, classes=classes)
        return True

    def _end_waiting(self, study_instance_uid: str, now: float) -> None:
        """CT that had no contour beside the one that was scored: its images go, and it waits no longer."""
        rows = self._db.rows(
            "SELECT id FROM work_item WHERE study_instance_uid = ? AND state = ? AND roi_sop_instance_uid IS NULL",
            [study_instance_uid, State.WAITING],
        )
        for row in rows:
            items.move(self._db, row["id"], State.CANCELED, now, "its images were removed by retention")

    def _say(
        self,
        action: str,
        study: str,
        now: float,
        item: int | None = None,
        detail: str = "",
        classes: Mapping[str, int] | None = None,
    ) -> None:
        facts = {"sop_classes": classes} if classes else {}
        entry = AuditEntry(now, ACTOR, "node", action, work_item_id=item, study_instance_uid=study, detail=detail)
        self._audit.add(replace(entry, facts=facts))

    def contents_going(self, after: int = 0, limit: int = 5000) -> list[Contents]:
        """Contents that are marked, and whose files may still be there; behind the row `after` of an earlier call."""
        rows = self._db.rows(
            "SELECT id, sop_instance_uid, digest, sop_class_uid, received_at, current FROM instance"
            " WHERE removed = 1 AND id > ? ORDER BY id LIMIT ?",
            [after, limit],
        )
        return [Contents(**row) for row in rows]

    def contents_gone(self, contents: Collection[Contents]) -> None:
        """Their files are removed."""
        with self._db.immediate():
            self._db.many(
                "UPDATE instance SET removed = ? WHERE id = ? AND removed = ?",
                [(Removed.GONE, content.id, Removed.GOING) for content in contents],
            )

    def remove_results(self, work_item_id: int, documents: str, now: float) -> bool:
        """Mark the results of a work item of a closed study; `documents` says where its SRs are. False: open again."""
        with self._db.immediate():
            rows = self._db.rows("SELECT study_instance_uid AS study FROM work_item WHERE id = ?", [work_item_id])
            if not rows or self.condition(rows[0]["study"]).kept:
                return False
            self._db.execute(
                "UPDATE work_item SET results_removed = ?, documents = ? WHERE id = ?",
                [Removed.GOING, documents, work_item_id],
            )
            self._say("result.removed", rows[0]["study"], now, work_item_id)
        return True

    def results_going(self) -> list[tuple[int, str]]:
        """Work items whose results are marked, with their keys."""
        rows = self._db.rows(
            "SELECT id, key FROM work_item INDEXED BY work_item_going WHERE results_removed = 1 AND key IS NOT NULL"
        )
        return [(row["id"], row["key"]) for row in rows]

    def results_gone(self, work_item_id: int) -> None:
        self._db.execute("UPDATE work_item SET results_removed = ? WHERE id = ?", [Removed.GONE, work_item_id])

    # -- giving up, forgetting -------------------------------------------------------------------------------

    def give_up(self, state: State, before: float, why: str, now: float, limit: int = 50) -> int:
        """Cancel work items that have been in a state since before a time; how many.

        FAILED: those of which nothing was composed. WAITING: a CT without a contour, a contour on removed images.
        """
        where = (
            "(roi_sop_instance_uid IS NULL OR reason = 'INPUTS_REMOVED')"
            if state is State.WAITING
            else "NOT EXISTS (SELECT 1 FROM delivery d WHERE d.work_item_id = work_item.id)"
        )
        with self._db.immediate():
            rows = self._db.rows(
                f"SELECT id, study_instance_uid AS study FROM work_item WHERE state = ? AND held = 0"
                f" AND updated_at < ? AND {where} ORDER BY id LIMIT ?",
                [state, before, limit],
            )
            for row in rows:
                items.move(self._db, row["id"], State.CANCELED, now, why)
                self._say("workitem.canceled", row["study"], now, row["id"], why)
        return len(rows)

    def forget_events(self, before: float, limit: int = 1000) -> int:
        """Remove the history of work items that were at their end before a time, but for its last event; how many."""
        return self._db.execute(
            f"DELETE FROM event WHERE id IN (SELECT e.id {_OLD_EVENTS} LIMIT ?)", [before, before, limit]
        )

    def events_due(self, before: float) -> int:
        """How many events `forget_events` would remove in all."""
        return int(self._db.rows(f"SELECT count(*) AS n {_OLD_EVENTS}", [before, before])[0]["n"])

    def state_of_key(self, key: str) -> str | None:
        """State of the work item with this key; None: there is none."""
        rows = self._db.rows("SELECT state FROM work_item WHERE key = ?", [key])
        return rows[0]["state"] if rows else None
