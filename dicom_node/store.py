"""The node's memory: the life of work items here, what came in `arrivals`, how work items begin in `births`, what goes
out in `deliveries`. All SQL is in these. One `Store` per thread.
"""

from collections.abc import Collection
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from analysis.reasons import REASONS, FailureReason
from dicom_node import items
from dicom_node.accounts import Accounts
from dicom_node.arrivals import Arrivals
from dicom_node.audit import Audit
from dicom_node.births import Births
from dicom_node.clinical_pulls import ClinicalPulls
from dicom_node.clinical_values import ClinicalValues
from dicom_node.database import Database
from dicom_node.deliveries import Deliveries
from dicom_node.forgetting import Forgetting
from dicom_node.hl7_inbox import Inbox
from dicom_node.inspection import Inspection
from dicom_node.measures import Measures
from dicom_node.patients import Patients
from dicom_node.procedure_steps import ProcedureSteps
from dicom_node.result_index import ResultIndex
from dicom_node.retention import Retention
from dicom_node.subscriptions import Subscriptions
from dicom_node.vitals import Vitals
from dicom_node.workitem import LeaseLost, State, WorkItem
from dicom_node.worklist import Worklist

LONGEST_WAIT_SECONDS = 691_200.0  # between two tries: the settings allow a week


class Store:
    """Work items; `arrivals`, `births` and `deliveries` share its connection."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self.arrivals = Arrivals(database)
        self.births = Births(database)
        self.deliveries = Deliveries(database)
        self.patients = Patients(database)
        self.inbox = Inbox(database)
        self.audit = Audit(database)
        self.retention = Retention(database)
        self.forgetting = Forgetting(database)
        self.inspection = Inspection(database)
        self.clinical = ClinicalValues(database)
        self.pulls = ClinicalPulls(database)
        self.accounts = Accounts(database)
        self.worklist = Worklist(database)
        self.vitals = Vitals(database)
        self.steps = ProcedureSteps(database)
        self.subscriptions = Subscriptions(database)
        self.results = ResultIndex(database)
        self.measures = Measures(database)

    @classmethod
    def open(cls, path: Path, *, any_thread: bool = False) -> "Store":
        """Open (and create or migrate) the store; raises ConfigError when a newer Prognode wrote it."""
        return cls(Database(path, any_thread=any_thread))

    @classmethod
    def of_copy(cls, path: Path) -> "Store":
        """Open a copy to read it, whatever its schema; nothing is written."""
        return cls(Database(path, frozen=True))

    @property
    def schema(self) -> int:
        """The version of the store's tables."""
        return self._db.version

    def close(self) -> None:
        self._db.close()

    # -- work items: life ------------------------------------------------------------------------------------

    def claim(
        self, state: State, owner: str, lease_seconds: float, now: float, *, without_job: bool = False
    ) -> WorkItem | None:
        """Lease the next runnable work item in `state`, highest priority first; one statement, so never taken twice.

        `without_job`: of those whose decision is that they are not scored.
        """
        only = " AND json_extract(plan, '$.decision.decision') = 'NOT_ELIGIBLE'" if without_job else ""
        rows = self._db.rows(
            "UPDATE work_item SET lease_owner = ?, lease_until = ?, attempts = attempts + 1, updated_at = ?"
            " WHERE id = (SELECT id FROM work_item WHERE state = ? AND held = 0 AND run_after <= ?"
            f" AND (lease_until IS NULL OR lease_until < ?){only} ORDER BY priority DESC, id LIMIT 1)"
            f" RETURNING {items.COLUMNS}",
            [owner, now + lease_seconds, now, state, now, now],
        )
        return items.from_row(rows[0]) if rows else None

    def note(self, item_id: int, name: str, now: float, detail: str = "") -> None:
        """Append to a work item's history without moving it."""
        items.note(self._db, item_id, name, now, detail)

    def renew(self, item_id: int, owner: str, until: float) -> bool:
        """Keep a lease alive while its stage works. False when it was lost."""
        return (
            self._db.execute(
                "UPDATE work_item SET lease_until = ? WHERE id = ? AND lease_owner = ?", [until, item_id, owner]
            )
            == 1
        )

    def break_leases_but(self, process: str, states: Collection[State]) -> int:
        """Free what other processes held in these states: the caller holds the spool's lock, so they are gone.

        It runs again at once. The owners of a process begin with its name.
        """
        marks = ", ".join("?" * len(states))
        return self._db.execute(
            "UPDATE work_item SET lease_owner = NULL, lease_until = NULL"
            f" WHERE substr(lease_owner, 1, ?) != ? AND state IN ({marks})",
            [len(process), process, *states],
        )

    def bring_forward(self, now: float) -> int:
        """Let go on what waits for a moment that no delay reaches: it was noted while the clock was ahead; how many."""
        late = now + LONGEST_WAIT_SECONDS
        return sum(
            self._db.execute(f"UPDATE {table} SET run_after = ? WHERE run_after > ? AND {is_open}", [now, late])
            for table, is_open in (("work_item", "state IN ('SCHEDULED', 'ANALYSED')"), ("delivery", "final = 0"))
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
        summary: str | None = None,
        held: bool = False,
        deliveries: Collection[tuple[str, str]] = (),
    ) -> None:
        """Move a leased work item on, with its event and its delivery rows (document, destination), in one transaction.

        `held`: what follows waits until an operator releases it.

        Raises
        ------
        InvalidTransition
            When TRANSITIONS does not allow the move.
        LeaseLost
            When another worker holds the item or has moved it already.
        """
        with self._db.immediate():
            ours = self._db.rows(
                "SELECT 1 FROM work_item WHERE id = ? AND state = ? AND lease_owner = ?", [item.id, item.state, owner]
            )
            if not ours:
                raise LeaseLost(f"work item {item.id} is no longer ours in state {item.state}")
            items.move(self._db, item.id, new, now, detail)
            self._db.execute(
                "UPDATE work_item SET outcome = coalesce(:outcome, outcome), hint = :hint,"
                " reason = CASE WHEN :outcome IS NULL THEN reason ELSE :reason END,"
                " summary = CASE WHEN :outcome IS NULL THEN summary ELSE :summary END,"
                " held = max(held, :held) WHERE id = :id",
                {
                    "outcome": outcome,
                    "reason": reason,
                    "hint": hint,
                    "summary": summary,
                    "held": int(held),
                    "id": item.id,
                },
            )
            if held:
                items.note(self._db, item.id, "held", now, "for review")
            for document, destination in deliveries:
                self.deliveries.add(item.id, document, destination)

    def made_under(self, item_id: int, identity: str) -> None:
        """Remember the identity (JSON) that the objects of a work item say."""
        self._db.execute("UPDATE work_item SET identity = ? WHERE id = ?", [identity, item_id])

    def postpone(
        self, item: WorkItem, owner: str, run_after: float, now: float, detail: str, *, counts: bool = True
    ) -> None:
        """Give a leased work item back, to be tried again at `run_after`; `counts`: as an attempt. Raises LeaseLost."""
        with self._db.immediate():
            changed = self._db.execute(
                "UPDATE work_item SET lease_owner = NULL, lease_until = NULL, run_after = ?, updated_at = ?,"
                " attempts = ? WHERE id = ? AND lease_owner = ?",
                [run_after, now, item.attempts if counts else item.attempts - 1, item.id, owner],
            )
            if changed != 1:
                raise LeaseLost(f"work item {item.id} is no longer ours")
            items.note(self._db, item.id, "postponed", now, detail)

    def retry(self, item_id: int, now: float, detail: str = "retry asked for by an operator") -> bool:
        """An operator's retry of a FAILED work item; False when it is not FAILED (any more).

        What was composed is sent again as it is: a destination that took some of it must get the rest of the same.
        What was not is analysed again.
        """
        with self._db.immediate():
            if not self._db.rows("SELECT 1 FROM work_item WHERE id = ? AND state = ?", [item_id, State.FAILED]):
                return False
            reopened = self.deliveries.reopen_failed(item_id)
            new = State.REPORTED if reopened else State.SCHEDULED
            items.move(self._db, item_id, new, now, detail)
        return True

    def complete_delivered(self, now: float) -> list[int]:
        """Complete every REPORTED work item whose deliveries are all at their end; fail those with a refused one."""
        finished: list[int] = []
        with self._db.immediate():
            for item_id, refused in self.deliveries.finished_items():
                said = f"{FailureReason.DELIVERY_REFUSED}: {refused}" if refused else ""
                items.move(self._db, item_id, State.FAILED if refused else State.COMPLETED, now, said)
                if refused:
                    self._db.execute(
                        "UPDATE work_item SET hint = ? WHERE id = ?",
                        [REASONS[FailureReason.DELIVERY_REFUSED].remedy, item_id],
                    )
                finished.append(item_id)
        return finished

    # -- work items: what an operator decides ----------------------------------------------------------------

    def transaction(self) -> AbstractContextManager[None]:
        """A write transaction around several calls; rolled back when the block raises."""
        return self._db.immediate()

    def hold(self, item_id: int, held: bool, now: float, detail: str) -> None:
        """Keep a work item from being claimed and sent, or let it go on. What is at work comes to its stage's end."""
        with self._db.immediate():
            self._db.execute("UPDATE work_item SET held = ?, updated_at = ? WHERE id = ?", [int(held), now, item_id])
            items.note(self._db, item_id, "held" if held else "released", now, detail)

    def set_priority(self, item_id: int, priority: int, now: float, detail: str) -> None:
        """`priority`: a value of workitem.PRIORITIES."""
        with self._db.immediate():
            self._db.execute("UPDATE work_item SET priority = ?, updated_at = ? WHERE id = ?", [priority, now, item_id])
            items.note(self._db, item_id, "priority", now, detail)

    def cancel(self, item_id: int, now: float, detail: str) -> None:
        """Withdraw a work item and what is still open of its deliveries. Raises InvalidTransition.

        A worker that is at it finds its lease lost.
        """
        with self._db.immediate():
            items.move(self._db, item_id, State.CANCELED, now, detail)
            self.deliveries.withdraw(item_id, detail)

    # -- queries ---------------------------------------------------------------------------------------------

    def item(self, item_id: int) -> WorkItem | None:
        rows = self._db.rows(f"SELECT {items.COLUMNS} FROM work_item WHERE id = ?", [item_id])
        return items.from_row(rows[0]) if rows else None

    def item_of(self, key: str) -> WorkItem | None:
        rows = self._db.rows(f"SELECT {items.COLUMNS} FROM work_item WHERE key = ?", [key])
        return items.from_row(rows[0]) if rows else None

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
            f"SELECT {items.COLUMNS} FROM work_item {where} ORDER BY id DESC LIMIT :limit",
            {"uid": study_instance_uid, "limit": limit},
        )
        return [items.from_row(row) for row in rows]

    def details(self, item_id: int) -> dict[str, Any]:
        """The whole row of a work item with its events, for a status print."""
        row = self._db.rows("SELECT * FROM work_item WHERE id = ?", [item_id])[0]
        row["events"] = self._db.rows(
            "SELECT at, name, detail FROM event WHERE work_item_id = ? ORDER BY id", [item_id]
        )
        row["received"] = self._db.rows(
            "SELECT count(*) AS instances, min(received_at) AS first, max(received_at) AS last FROM instance"
            " WHERE id IN (SELECT id FROM instance WHERE current = 1 AND series_instance_uid = ?"
            " UNION SELECT id FROM instance WHERE current = 1 AND sop_instance_uid = ?)",  # with OR: every row is read
            [row["ct_series_instance_uid"], row["roi_sop_instance_uid"]],
        )[0]
        return row

    def counts(self) -> dict[str, int]:
        """Work items by state."""
        return {row["state"]: row["n"] for row in self._db.rows("SELECT state, n FROM state_count WHERE n > 0")}
