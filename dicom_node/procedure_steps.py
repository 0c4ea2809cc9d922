"""Work items as Unified Procedure Steps: what follows their events, and what finds them. Reached as `store.steps`."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from dicom_node.database import Database
from dicom_node.identity import Identity
from dicom_node.name_pattern import NamePattern, is_named
from dicom_node.step_state import Readiness, Step, StepState, after, born, states_between
from dicom_node.subscriptions import Subscriptions
from dicom_node.workitem import PRIORITIES, State

NAMED = 2000  # studies; a name that more have is met soon enough on a walk through the steps
BATCH = 500  # events per transaction: the receiver's writes must not wait long
STATE_REPORT, CANCEL_REQUESTED, PROGRESS_REPORT, ASSIGNED = 1, 2, 3, 5  # Event Type IDs (PS3.4 Table CC.2.4-1)
_NOT_SENT = "its result is not sent"  # of a shadow, to whom its step was told while another rule was its own

_STEP = tuple(field.name for field in fields(Step))
_IDENTITY = tuple(field.name for field in fields(Identity))
_ITEM = (
    "study_instance_uid", "ct_series_instance_uid", "roi_sop_instance_uid", "key", "revision", "predecessor_key",
    "outcome", "hint", "priority", "created_at",
)  # fmt: skip
_SELECT = (
    "SELECT u.work_item_id, u.sop_instance_uid, w.reason AS item_reason, "
    + ", ".join(f"u.{name}" for name in _STEP)
    + ", "
    + ", ".join(f"w.{name}" for name in _ITEM)
    + ", "
    + ", ".join(f"s.{name} AS s_{name}" for name in _IDENTITY)
    + " FROM ups u JOIN work_item w ON w.id = u.work_item_id"
    " LEFT JOIN study s ON s.study_instance_uid = w.study_instance_uid"
)
_OF_STUDIES = "SELECT id FROM work_item WHERE study_instance_uid IN (SELECT value FROM json_each(?))"
# LIKE folds the case of ASCII: names that it finds, and those with other letters, are handed to Python.
_NAMED = (
    "CASE WHEN s.patient_name LIKE ? ESCAPE '\\' OR s.patient_name GLOB '*[^ -~]*'"
    " THEN is_named(?, s.patient_name) ELSE 0 END"
)


@dataclass(frozen=True)
class StepRow:
    """A step with what its work item and its study say; the plan, which may be long, is asked for apart."""

    work_item_id: int
    sop_instance_uid: str
    step: Step
    study_instance_uid: str
    ct_series_instance_uid: str | None
    roi_sop_instance_uid: str | None
    key: str | None
    revision: int
    predecessor_key: str | None
    outcome: str | None
    item_reason: str | None
    hint: str | None
    priority: int
    created_at: float
    identity: Identity


@dataclass(frozen=True)
class StepFilter:
    """What SQL can narrow; a superset of what the matching keys ask for. None: anything.

    `equal` and `like` are pairs of a column of `study` and a value or LIKE pattern; `created` is a range of seconds,
    both ends in it.
    """

    work_item_id: int | None = None
    sop_instance_uids: tuple[str, ...] | None = None
    state: str | None = None
    readiness: str | None = None
    priority: str | None = None
    study_instance_uids: tuple[str, ...] | None = None
    created: tuple[float, float] | None = None
    name: NamePattern | None = None
    equal: tuple[tuple[str, str], ...] = ()
    like: tuple[tuple[str, str], ...] = ()


Matches = Callable[[str, int], bool]  # (matching keys, work item) -> whether a new step subscribes the AE


class ProcedureSteps:
    """The table ups."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._subscriptions = Subscriptions(database)
        database.connection.create_function("is_named", 2, is_named, deterministic=True)

    # -- following -------------------------------------------------------------------------------------------

    def follow(self, uid_of: Callable[[int, float], str], matches: Matches) -> bool:
        """Take the next events of work items; False when there are none. What follows from them is told to subscribers.

        Events stand in the transaction of what they tell of, and the cursor in that of the reports: none is lost, and
        none is told twice. `uid_of` gives the SOP Instance UID of a new step, from work item and time of creation.
        """
        if not self._events(limit=1):
            return False
        with self._db.immediate():
            events = self._events(BATCH)
            numbers = sorted({event["work_item_id"] for event in events})
            steps = {row["work_item_id"]: row for row in self._rows(numbers)}
            items = {row["id"]: row for row in self._items(numbers)}
            for event in events:
                number = event["work_item_id"]
                if items[number]["shadow"]:  # nobody outside is told
                    # One that waits may still be no shadow in the end, and a canceled step never comes back.
                    if number not in steps or items[number]["state"] == State.WAITING:
                        continue
                    event |= {"name": "canceled", "detail": _NOT_SENT}
                if number not in steps:
                    steps[number] = self._create(items[number], event, uid_of, matches)
                self._take(steps[number], event, items[number]["roi_sop_instance_uid"] is not None)
            self._write(steps.values())
            if events:
                self._db.execute(
                    "INSERT INTO ups_cursor VALUES (1, ?) ON CONFLICT DO UPDATE SET event_id = excluded.event_id",
                    [events[-1]["id"]],
                )
        return bool(events)

    def _events(self, limit: int) -> list[dict[str, Any]]:
        return self._db.rows(
            "SELECT id, work_item_id, at, name, detail FROM event"
            " WHERE id > coalesce((SELECT event_id FROM ups_cursor), 0) ORDER BY id LIMIT ?",
            [limit],
        )

    def _rows(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        marks = ", ".join("?" * len(numbers))
        return self._db.rows(f"SELECT * FROM ups WHERE work_item_id IN ({marks})", list(numbers))

    def _items(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        marks = ", ".join("?" * len(numbers))
        columns = "id, roi_sop_instance_uid, created_at, shadow, state"
        return self._db.rows(f"SELECT {columns} FROM work_item WHERE id IN ({marks})", list(numbers))

    def _create(
        self,
        item: Mapping[str, Any],
        event: Mapping[str, Any],
        uid_of: Callable[[int, float], str],
        matches: Matches,
    ) -> dict[str, Any]:
        has_contour, ready = item["roi_sop_instance_uid"] is not None, event["name"] == "scheduled"
        step = born(has_contour, item["created_at"], ready=ready)
        uid = uid_of(item["id"], item["created_at"])
        row = {"work_item_id": item["id"], "sop_instance_uid": uid, **vars(step)}
        self._db.insert("ups", row)
        told = []
        for ae_title, keys, lock in self._subscriptions.of_worklist():
            if not keys or matches(keys, item["id"]):
                self._subscriptions.add_new(item["id"], ae_title, lock)
                told.append(ae_title)
        what = {"state": str(step.state), "readiness": str(step.readiness)}
        self._subscriptions.tell(told, uid, STATE_REPORT, what, event["at"])
        self._subscriptions.tell(told, uid, ASSIGNED, {}, event["at"])
        return row

    def _take(self, row: dict[str, Any], event: Mapping[str, Any], has_contour: bool) -> None:
        old = _step(row)
        new = after(old, event["name"], event["detail"], event["at"], has_contour)
        if new == old:
            return
        row.update(vars(new))
        told = self._subscriptions.of_step(row["work_item_id"])
        if not told:
            return
        uid, at = row["sop_instance_uid"], event["at"]
        states = states_between(old.state, new.state)
        if not states and new.readiness is not old.readiness:
            states = (new.state,)
        for state in states:
            what = {"state": str(state), "readiness": str(new.readiness)}
            if state is StepState.CANCELED:
                what["reason"] = new.reason
            self._subscriptions.tell(told, uid, STATE_REPORT, what, at)
        if (new.progress, new.description) != (old.progress, old.description):
            done = {"progress": new.progress, "description": new.description}
            self._subscriptions.tell(told, uid, PROGRESS_REPORT, done, at)
        if new.ended_at is not None:
            self._subscriptions.ended(row["work_item_id"])

    def _write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        sets = ", ".join(f"{name} = ?" for name in _STEP)
        self._db.many(
            f"UPDATE ups SET {sets} WHERE work_item_id = ?",
            [[*(row[name] for name in _STEP), row["work_item_id"]] for row in rows],
        )

    def cancel_requested(self, row: StepRow, told: Mapping[str, Any], now: float) -> None:
        """Tell a step's subscribers that an AE wants it canceled; `told` is what it said."""
        titles = self._subscriptions.of_step(row.work_item_id)
        self._subscriptions.tell(titles, row.sop_instance_uid, CANCEL_REQUESTED, told, now)

    # -- finding ---------------------------------------------------------------------------------------------

    def of_uid(self, sop_instance_uid: str) -> StepRow | None:
        found = self.find(StepFilter(sop_instance_uids=(sop_instance_uid,)), 0, 1)
        return found[0] if found else None

    def newest(self) -> int:
        """The work item of the newest step; 0 where there is none."""
        return int(self._db.rows("SELECT coalesce(max(work_item_id), 0) AS id FROM ups")[0]["id"])

    def find(self, wanted: StepFilter, after_id: int, limit: int) -> list[StepRow]:
        """Steps in the order of their work items, beginning after one."""
        where, arguments = _conditions(wanted)
        studies = self._named(wanted.name) if wanted.name is not None else None
        if studies is not None:
            where += f" AND w.id IN ({_OF_STUDIES})"
            arguments.append(json.dumps(studies))
        rows = self._db.rows(
            f"{_SELECT} WHERE u.work_item_id > ?{where} ORDER BY u.work_item_id LIMIT ?",
            [after_id, *arguments, limit],
        )
        return [_row(row) for row in rows]

    def _named(self, name: NamePattern) -> list[str] | None:
        """Studies that may have a name, by the search index of the worklist; None where it does not leave few."""
        if not name.words:
            return None
        found = self._db.rows(
            "SELECT n.study_instance_uid AS uid FROM (SELECT rowid FROM study_search WHERE study_search MATCH ?"
            " LIMIT ?) f CROSS JOIN study_number n ON n.id = f.rowid",
            [name.words, NAMED + 1],
        )
        return [row["uid"] for row in found] if len(found) <= NAMED else None

    def uids_of(self, row: StepRow) -> tuple[str, ...]:
        """Steps that this one replaces: of the revision before it, and of the CT while it had no contour."""
        rows = self._db.rows(
            "SELECT u.sop_instance_uid AS uid FROM work_item w JOIN ups u ON u.work_item_id = w.id WHERE w.key = ?"
            " UNION SELECT u.sop_instance_uid FROM work_item w JOIN ups u ON u.work_item_id = w.id"
            " WHERE w.ct_series_instance_uid = ? AND w.roi_sop_instance_uid IS NULL AND w.state = ? AND w.id != ?",
            [row.predecessor_key, row.ct_series_instance_uid, State.CANCELED, row.work_item_id],
        )
        return tuple(found["uid"] for found in rows)

    def plan_of(self, work_item_id: int) -> str | None:
        """work_item.plan."""
        rows = self._db.rows("SELECT plan FROM work_item WHERE id = ?", [work_item_id])
        plan: str | None = rows[0]["plan"] if rows else None
        return plan

    def instances(self, sop_instance_uids: Sequence[str]) -> list[dict[str, Any]]:
        """Class, series, study and sender of stored instances; those that are not here are left out."""
        found: list[dict[str, Any]] = []
        for start in range(0, len(sop_instance_uids), BATCH):
            part = list(sop_instance_uids[start : start + BATCH])
            marks = ", ".join("?" * len(part))
            found += self._db.rows(
                "SELECT sop_instance_uid, sop_class_uid, series_instance_uid, study_instance_uid, calling_ae_title"
                f" FROM instance WHERE current = 1 AND sop_instance_uid IN ({marks})",
                part,
            )
        return found

    def referenced(self, roi_sop_instance_uid: str) -> list[str]:
        """SOP Instance UIDs that a contour object references, here or not."""
        rows = self._db.rows(
            "SELECT sop_instance_uid AS uid FROM reference WHERE roi_sop_instance_uid = ? ORDER BY uid",
            [roi_sop_instance_uid],
        )
        return [row["uid"] for row in rows]

    def series(self, series_instance_uid: str) -> list[str]:
        """SOP Instance UIDs of a series that are here."""
        rows = self._db.rows(
            "SELECT sop_instance_uid AS uid FROM instance WHERE series_instance_uid = ? AND current = 1 AND own = 0"
            " ORDER BY uid",
            [series_instance_uid],
        )
        return [row["uid"] for row in rows]


def _step(row: Mapping[str, Any]) -> Step:
    values = {name: row[name] for name in _STEP}
    return Step(**{**values, "state": StepState(row["state"]), "readiness": Readiness(row["readiness"])})


def _row(row: Mapping[str, Any]) -> StepRow:
    identity = Identity(**{name: row[f"s_{name}"] or "" for name in _IDENTITY})
    plain = {name: row[name] for name in ("work_item_id", "sop_instance_uid", "item_reason", *_ITEM)}
    return StepRow(**plain, step=_step(row), identity=identity)


def _conditions(wanted: StepFilter) -> tuple[str, list[Any]]:
    """The WHERE of a filter, with its arguments; every part begins with AND."""
    parts: list[tuple[str, list[Any]]] = [
        (f"{column} = ?", [value]) for column, value in _exact(wanted) if value is not None
    ]
    for column, uids in (
        ("u.sop_instance_uid", wanted.sop_instance_uids),
        ("w.study_instance_uid", wanted.study_instance_uids),
    ):
        if uids is not None:
            parts.append((f"{column} IN ({', '.join('?' * len(uids))})", list(uids)))
    if wanted.priority is not None:
        level = PRIORITIES[wanted.priority]
        operator = "=" if level == 0 else ">=" if level > 0 else "<="
        parts.append((f"w.priority {operator} {level}", []))
    if wanted.created is not None:
        parts.append(("w.created_at BETWEEN ? AND ?", list(wanted.created)))
    if wanted.name is not None:  # names in ASCII, which LIKE folds, are not called back for; the order is SQLite's else
        parts.append((_NAMED, [wanted.name.like, wanted.name.wanted]))
    parts += [(f"s.{_column(name)} = ?", [value]) for name, value in wanted.equal]
    parts += [(f"s.{_column(name)} LIKE ? ESCAPE '\\'", [pattern]) for name, pattern in wanted.like]
    if "accession_number" in dict(wanted.equal):
        parts.append(("s.accession_number != ''", []))  # what the index of the accession numbers says of itself
    return "".join(f" AND {text}" for text, _ in parts), [value for _, values in parts for value in values]


def _exact(wanted: StepFilter) -> tuple[tuple[str, int | str | None], ...]:
    return (
        ("u.work_item_id", wanted.work_item_id),
        ("u.state", wanted.state),
        ("u.readiness", wanted.readiness),
    )


def _column(name: str) -> str:
    if name not in _IDENTITY:
        raise ValueError(f"study has no column {name}")
    return name
