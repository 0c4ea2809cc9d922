"""Who hears of which Unified Procedure Steps, and what they have still to be told. Reached as `store.subscriptions`.

The states of PS3.4 Table CC.2.3-2: a row of `ups_subscription` is "Subscribed with" or "w/o Lock" for one step, and
`ups_subscriber.worklist` the Global Subscription State. A report stays in its queue until its subscriber has answered.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dicom_node.database import Database

_FINAL = "('COMPLETED', 'CANCELED')"


@dataclass(frozen=True)
class StepReport:
    """A report that waits. `information` is what its Event Information says, as `reports.ups` makes it."""

    id: int
    ae_title: str
    sop_instance_uid: str
    event_type_id: int
    information: Mapping[str, Any]


@dataclass(frozen=True)
class Subscriber:
    """An AE with its Global Subscription State. `worklist`: None, '' (all new steps) or JSON of matching keys."""

    ae_title: str
    worklist: str | None
    worklist_lock: int
    attempts: int
    run_after: float
    detail: str
    waiting: int  # reports in its queue
    steps: int  # that it is subscribed to


class Subscriptions:
    """The tables ups_subscriber, ups_subscription and ups_report."""

    def __init__(self, database: Database) -> None:
        self._db = database

    # -- subscribing -----------------------------------------------------------------------------------------

    def subscribe(self, ae_title: str, work_item_id: int, *, lock: bool, now: float) -> None:
        """Subscribe an AE to one step; it is told the state that the step is in."""
        with self._db.immediate():
            self._know(ae_title)
            self._db.execute(
                "INSERT INTO ups_subscription VALUES (?, ?, ?)"
                " ON CONFLICT DO UPDATE SET deletion_lock = excluded.deletion_lock",
                [work_item_id, ae_title, int(lock)],
            )
            self._tell_states(ae_title, [work_item_id], now)
            self._forget_ended(ae_title)

    def unsubscribe(self, ae_title: str, work_item_id: int) -> None:
        """End an AE's subscription to one step; what it has not heard of it yet is dropped."""
        with self._db.immediate():
            self._db.execute(
                "DELETE FROM ups_subscription WHERE ae_title = ? AND work_item_id = ?", [ae_title, work_item_id]
            )
            self._db.execute(
                "DELETE FROM ups_report WHERE ae_title = ? AND sop_instance_uid ="
                " (SELECT sop_instance_uid FROM ups WHERE work_item_id = ?)",
                [ae_title, work_item_id],
            )

    def subscribe_worklist(
        self, ae_title: str, *, keys: str, matching: Sequence[int] | None, lock: bool, now: float
    ) -> None:
        """Subscribe an AE to every step there is and will be; with `keys`, to those `matching` and such as will match.

        With a lock it is told the state of each (CC.2.4.3).
        """
        with self._db.immediate():
            self._know(ae_title)
            self._db.execute(
                "UPDATE ups_subscriber SET worklist = ?, worklist_lock = ? WHERE ae_title = ?",
                [keys, int(lock), ae_title],
            )
            into = "INSERT OR IGNORE INTO ups_subscription"
            if matching is None:
                self._db.execute(f"{into} SELECT work_item_id, ?, ? FROM ups", [ae_title, int(lock)])
            else:
                self._db.many(f"{into} VALUES (?, ?, ?)", [(number, ae_title, int(lock)) for number in matching])
            if lock:
                self._tell_states(ae_title, matching, now)
            self._forget_ended(ae_title)

    def unsubscribe_worklist(self, ae_title: str) -> None:
        """End every subscription of an AE, of the worklist and of single steps, with what it was still to be told."""
        with self._db.immediate():
            for table in ("ups_subscription", "ups_report", "ups_subscriber"):
                self._db.execute(f"DELETE FROM {table} WHERE ae_title = ?", [ae_title])

    def suspend_worklist(self, ae_title: str) -> None:
        """New steps no longer subscribe the AE; those that it is subscribed to stay so."""
        self._db.execute("UPDATE ups_subscriber SET worklist = NULL, worklist_lock = 0 WHERE ae_title = ?", [ae_title])

    def is_locked(self, work_item_id: int) -> bool:
        """Whether a subscriber's deletion lock keeps the step of a work item (CC.2.1.3)."""
        return bool(
            self._db.rows(
                "SELECT 1 FROM ups_subscription WHERE work_item_id = ? AND deletion_lock = 1 LIMIT 1", [work_item_id]
            )
        )

    # -- what happens to steps: inside the transaction of `store.steps.follow` --------------------------------

    def of_worklist(self) -> list[tuple[str, str, int]]:
        """(AE title, matching keys or '', lock) of the AEs that new steps subscribe."""
        rows = self._db.rows("SELECT ae_title, worklist, worklist_lock FROM ups_subscriber WHERE worklist IS NOT NULL")
        return [(row["ae_title"], row["worklist"], row["worklist_lock"]) for row in rows]

    def of_step(self, work_item_id: int) -> list[str]:
        """AEs that are subscribed to a step."""
        rows = self._db.rows("SELECT ae_title FROM ups_subscription WHERE work_item_id = ?", [work_item_id])
        return [row["ae_title"] for row in rows]

    def add_new(self, work_item_id: int, ae_title: str, lock: int) -> None:
        """A new step subscribes an AE of the worklist."""
        self._db.execute("INSERT OR IGNORE INTO ups_subscription VALUES (?, ?, ?)", [work_item_id, ae_title, lock])

    def ended(self, work_item_id: int) -> None:
        """A step has come to its final state: nothing more is told of it; only deletion locks stay."""
        self._db.execute("DELETE FROM ups_subscription WHERE work_item_id = ? AND deletion_lock = 0", [work_item_id])

    def tell(
        self, ae_titles: Sequence[str], sop_instance_uid: str, event_type_id: int, what: Mapping[str, Any], now: float
    ) -> None:
        """Put a report into the queues of these AEs."""
        text = json.dumps(what, separators=(",", ":"))
        self._db.many(
            "INSERT INTO ups_report (ae_title, sop_instance_uid, event_type_id, information, created_at)"
            " VALUES (?, ?, ?, ?, ?)",
            [(title, sop_instance_uid, event_type_id, text, now) for title in ae_titles],
        )

    # -- telling ---------------------------------------------------------------------------------------------

    def due(self, now: float) -> str | None:
        """The AE title whose queue has waited longest for its turn; None when none is due."""
        rows = self._db.rows(
            "SELECT ae_title FROM ups_subscriber s WHERE run_after <= ? AND EXISTS"
            " (SELECT 1 FROM ups_report r WHERE r.ae_title = s.ae_title) ORDER BY run_after, ae_title LIMIT 1",
            [now],
        )
        return rows[0]["ae_title"] if rows else None

    def queue(self, ae_title: str, limit: int) -> list[StepReport]:
        """The oldest reports for an AE, in their order."""
        rows = self._db.rows(
            "SELECT id, ae_title, sop_instance_uid, event_type_id, information FROM ups_report"
            " WHERE ae_title = ? ORDER BY id LIMIT ?",
            [ae_title, limit],
        )
        return [StepReport(**{**row, "information": json.loads(row["information"])}) for row in rows]

    def told(self, report: StepReport, now: float) -> None:
        """The subscriber has answered: the report leaves its queue, and the next subscriber has its turn."""
        with self._db.immediate():
            # By all it says: the id may belong to another's report by now, if this one's subscriber has left meanwhile.
            place = [report.id, report.ae_title, report.sop_instance_uid, report.event_type_id]
            self._db.execute(
                "DELETE FROM ups_report WHERE id = ? AND ae_title = ? AND sop_instance_uid = ? AND event_type_id = ?",
                place,
            )
            self._db.execute(
                "UPDATE ups_subscriber SET attempts = 0, run_after = ?, detail = '' WHERE ae_title = ?",
                [now, report.ae_title],
            )

    def attempts(self, ae_title: str) -> int:
        """Failed attempts since the subscriber last answered."""
        rows = self._db.rows("SELECT attempts FROM ups_subscriber WHERE ae_title = ?", [ae_title])
        return rows[0]["attempts"] if rows else 0

    def announce(self, sop_instance_uid: str, event_type_id: int, what: Mapping[str, Any], now: float) -> None:
        """Queue a report about the SCP itself for every subscriber, unless the last one in its queue says the same."""
        text = json.dumps(what, separators=(",", ":"))
        self._db.execute(
            "INSERT INTO ups_report (ae_title, sop_instance_uid, event_type_id, information, created_at)"
            " SELECT ae_title, ?, ?, ?, ? FROM ups_subscriber s WHERE (worklist IS NOT NULL OR EXISTS"
            " (SELECT 1 FROM ups_subscription u WHERE u.ae_title = s.ae_title)) AND ? IS NOT (SELECT information FROM"
            " ups_report r WHERE r.ae_title = s.ae_title ORDER BY id DESC LIMIT 1)",
            [sop_instance_uid, event_type_id, text, now, text],
        )

    def postpone(self, ae_title: str, attempts: int, run_after: float, detail: str) -> None:
        """The subscriber did not answer: its whole queue waits, in its order."""
        self._db.execute(
            "UPDATE ups_subscriber SET attempts = ?, run_after = ?, detail = ? WHERE ae_title = ?",
            [attempts, run_after, detail[:500], ae_title],
        )

    def subscribers(self) -> list[Subscriber]:
        """Every AE that is subscribed to anything, with the length of its queue."""
        rows = self._db.rows(
            "SELECT ae_title, worklist, worklist_lock, attempts, run_after, detail,"
            " (SELECT count(*) FROM ups_report r WHERE r.ae_title = s.ae_title) AS waiting,"
            " (SELECT count(*) FROM ups_subscription u WHERE u.ae_title = s.ae_title) AS steps"
            " FROM ups_subscriber s ORDER BY ae_title"
        )
        return [Subscriber(**row) for row in rows]

    # -- rows ------------------------------------------------------------------------------------------------

    def _know(self, ae_title: str) -> None:
        self._db.execute("INSERT OR IGNORE INTO ups_subscriber (ae_title) VALUES (?)", [ae_title])

    def _tell_states(self, ae_title: str, work_item_ids: Sequence[int] | None, now: float) -> None:
        """The initial event of a subscription: the state now, of these steps or of all.

        Not of a step whose state report still waits: the last of those says the same. However often an AE subscribes,
        its queue has one initial event for each step at most.
        """
        insert = (
            "INSERT INTO ups_report (ae_title, sop_instance_uid, event_type_id, information, created_at)"
            " SELECT ?, sop_instance_uid, 1, CASE state WHEN 'CANCELED'"
            " THEN json_object('state', state, 'readiness', readiness, 'reason', reason)"
            " ELSE json_object('state', state, 'readiness', readiness) END, ? FROM ups WHERE sop_instance_uid NOT IN"
            " (SELECT sop_instance_uid FROM ups_report WHERE ae_title = ? AND event_type_id = 1)"
        )
        if work_item_ids is not None:
            insert += " AND work_item_id IN (SELECT value FROM json_each(?))"
        wanted = [] if work_item_ids is None else [json.dumps(list(work_item_ids))]
        self._db.execute(f"{insert} ORDER BY work_item_id", [ae_title, now, ae_title, *wanted])

    def _forget_ended(self, ae_title: str) -> None:
        self._db.execute(
            "DELETE FROM ups_subscription WHERE ae_title = ? AND deletion_lock = 0 AND work_item_id IN"
            f" (SELECT work_item_id FROM ups WHERE state IN {_FINAL})",
            [ae_title],
        )
