"""Results for programs that read them (FHIR): which there are, of whom, what has replaced what. As `store.results`."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from dicom_node import items
from dicom_node.database import Database
from dicom_node.identity import Identity
from dicom_node.workitem import WorkItem

# Reported, not held and no shadow. FAILED: its objects were made, and a destination has refused them. The plus signs
# keep SQLite from walking an index of states, which nearly all work items satisfy.
_IS_RESULT = (
    "+{0}.outcome IS NOT NULL AND {0}.key IS NOT NULL AND +{0}.held = 0 AND +{0}.shadow = 0"
    " AND (+{0}.state IN ('REPORTED', 'COMPLETED') OR (+{0}.state = 'FAILED' AND {0}.identity IS NOT NULL))"
)
_IDENTITY = tuple(field.name for field in fields(Identity))
_REPLACED = f"EXISTS (SELECT 1 FROM work_item n WHERE n.predecessor_key = w.key AND {_IS_RESULT.format('n')})"
_SELECT = (
    "SELECT "
    + ", ".join(f"w.{field.name}" for field in fields(WorkItem))
    + ", w.results_removed AS removed, max(w.updated_at, ifnull(s.updated_at, 0)) AS last_updated, "
    + ", ".join(f"s.{name} AS s_{name}" for name in _IDENTITY)
    + f", {_REPLACED} AS replaced"
    " FROM work_item w LEFT JOIN study s ON s.study_instance_uid = w.study_instance_uid"
)
_CHANGED = (
    "SELECT id FROM work_item WHERE updated_at >= ? UNION ALL SELECT o.id FROM study c JOIN work_item o"
    " ON o.study_instance_uid = c.study_instance_uid WHERE c.updated_at >= ?"
)
_FEW = 2000
_LOOKED_BACK = 50  # revisions


@dataclass(frozen=True)
class StoredResult:
    """A work item with a result, whose study is of `identity` now.

    `last_updated`: when it or its patient's identity last changed, in seconds since 1970. `replaced`: a later revision
    has a result. `removed`: its files are gone, as [storage] says.
    """

    item: WorkItem
    identity: Identity
    last_updated: float
    replaced: bool
    removed: bool


@dataclass(frozen=True)
class ResultQuery:
    """What to find; None: any. What a later revision has replaced is found only by the id of its work item.

    `patients` are pairs of Patient ID and issuer, None for any issuer. `since` and `until` (without it) are of
    `last_updated`.
    """

    item_ids: Sequence[int] | None = None
    patients: Sequence[tuple[str, str | None]] | None = None
    studies: Sequence[str] | None = None
    since: float | None = None
    until: float | None = None
    scored: bool = False


class ResultIndex:
    """Reads; never writes."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def find(self, query: ResultQuery, limit: int, last_id: int | None = None) -> list[StoredResult]:
        """Results whose files are here, newest work item first; `last_id`: none of later work items."""
        narrowing = _narrowing(query)
        if query.since is not None and self._few_changed(query.since):
            narrowing.append((f"w.id IN ({_CHANGED})", [query.since] * 2))
        where = [_IS_RESULT.format("w"), "+w.results_removed = 0", *(sql for sql, _ in narrowing)]
        where += [f"NOT {_REPLACED}"] if query.item_ids is None else []
        where += ["w.outcome = 'SCORED'"] if query.scored else []
        limits = (("last_updated >= ?", query.since), ("last_updated < ?", query.until), ("w.id <= ?", last_id))
        where += [sql for sql, value in limits if value is not None]
        arguments = [value for _, values in narrowing for value in values]
        arguments += [value for _, value in limits if value is not None]
        # Without the plus, SQLite may walk through all work items by id for the few of one patient.
        order = "+w.id" if narrowing else "w.id"
        rows = self._db.rows(
            f"{_SELECT} WHERE {' AND '.join(where)} ORDER BY {order} DESC LIMIT ?", [*arguments, limit]
        )
        return [_result(row) for row in rows]

    def of_item(self, work_item_id: int) -> StoredResult | None:
        """The result of a work item, also where its files are gone; None where there is none to be read."""
        rows = self._db.rows(f"{_SELECT} WHERE {_IS_RESULT.format('w')} AND w.id = ?", [work_item_id])
        return _result(rows[0]) if rows else None

    def _few_changed(self, since: float) -> bool:
        """Whether it is worth while to fetch all that have changed; many are met soon on a walk by id."""
        counted = self._db.rows(f"SELECT count(*) AS n FROM ({_CHANGED} LIMIT ?)", [since, since, _FEW + 1])
        return bool(counted[0]["n"] <= _FEW)

    def before(self, item: WorkItem) -> tuple[str, int] | None:
        """Key and revision of the result that this one has replaced."""
        key = item.predecessor_key
        for _ in range(_LOOKED_BACK):
            rows = self._db.rows(
                f"SELECT w.key, w.revision, w.predecessor_key, ({_IS_RESULT.format('w')}) AS told FROM work_item w"
                " WHERE w.key = ?",
                [key],
            )
            if not rows:
                return None
            if rows[0]["told"]:
                return rows[0]["key"], rows[0]["revision"]
            key = rows[0]["predecessor_key"]
        return None


def _narrowing(query: ResultQuery) -> list[tuple[str, list[object]]]:
    """Conditions that an index answers."""
    found: list[tuple[str, list[object]]] = []
    for column, values in (("w.id", query.item_ids), ("w.study_instance_uid", query.studies)):
        if values is not None:
            found.append((f"{column} IN ({_marks(values)})", list(values)))
    if query.patients is not None:
        each, arguments = [], list[object]()
        for patient_id, issuer in query.patients:
            each.append("patient_id = ?" if issuer is None else "patient_id = ? AND issuer_of_patient_id = ?")
            arguments += [patient_id] if issuer is None else [patient_id, issuer]
        studies = f"SELECT study_instance_uid FROM study WHERE {' OR '.join(f'({one})' for one in each) or '0'}"
        found.append((f"w.study_instance_uid IN ({studies})", arguments))
    return found


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))


def _result(row: dict[str, object]) -> StoredResult:
    identity = {name: row.pop(f"s_{name}") or "" for name in _IDENTITY}
    last_updated, replaced, removed = (row.pop(name) for name in ("last_updated", "replaced", "removed"))
    return StoredResult(items.from_row(row), Identity(**identity), float(last_updated), bool(replaced), bool(removed))  # type: ignore[arg-type]
