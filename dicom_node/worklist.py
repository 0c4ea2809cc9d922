"""Rows of the worklist: work items with their study's identity, filtered and sorted. Reached as `store.worklist`."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from typing import TYPE_CHECKING, Any, Literal

from dicom_node.database import Database
from dicom_node.items import same_person
from dicom_node.workitem import State, ups_state

if TYPE_CHECKING:
    from dicom_node.summary import Summary

Sort = Literal["received", "updated", "study_date", "patient_name", "priority"]
COUNTED = 2000  # rows are counted up to here; beyond, the page says "more than"
SEARCHED = COUNTED + 1  # studies that a search looks at, the newest first: one letter may match a million


@dataclass(frozen=True)
class DeliveryCounts:
    """How far the objects and messages of a work item have come, over all destinations."""

    open: int
    refused: int
    sent: int
    proved: int
    total: int
    left: int = 0  # objects that are, or may be, at a destination


@dataclass(frozen=True)
class Row:
    """One work item on the worklist. Dates of DICOM are YYYYMMDD or ''; times are seconds since 1970 (UTC)."""

    id: int
    study_instance_uid: str
    ct_series_instance_uid: str | None
    roi_sop_instance_uid: str | None
    key: str | None
    revision: int
    newest: bool  # no later revision of the same contour
    state: State
    leased: bool  # a worker is at it
    held: bool
    shadow: bool  # by a rule, nothing of it is sent
    outcome: str | None  # SCORED, NOT_SCORED; None before the analysis
    reason: str | None  # analysis.contract.Reason, where not scored or waiting
    hint: str | None
    summary: "Summary | None"
    priority: int  # workitem.PRIORITIES
    created_at: float
    scheduled_at: float | None
    updated_at: float
    patient_name: str  # PN as in DICOM; '' where the study's identity is not known
    patient_id: str
    issuer_of_patient_id: str
    patient_birth_date: str
    patient_sex: str
    accession_number: str
    study_date: str
    study_time: str
    study_description: str
    deliveries: DeliveryCounts

    @property
    def ups_state(self) -> str:
        """SCHEDULED, IN PROGRESS, COMPLETED or CANCELED (PS3.4 CC.1.1)."""
        return ups_state(self.state, leased=self.leased)


@dataclass(frozen=True)
class WorklistQuery:
    """What to show. Empty filters match everything.

    `text` matches the beginning of a word of the patient's name (any script, case and accents aside), of the Patient
    ID, the accession number, or the beginning of a Study Instance UID. `since` and `until` are times of arrival.
    `newest_only` leaves out what a later revision of the same contour has replaced.
    """

    text: str = ""
    states: tuple[State, ...] = ()
    outcome: str = ""
    group: str = ""
    held: bool | None = None
    since: float | None = None
    until: float | None = None
    sort: Sort = "received"
    descending: bool = True
    offset: int = 0
    limit: int = 50
    newest_only: bool = True


@dataclass(frozen=True)
class WorklistPage:
    """Rows of one page. `total` is exact unless `more`, then there are more than `total`."""

    rows: tuple[Row, ...]
    total: int
    more: bool


class Worklist:
    """Reads; never writes.

    Each page is found in one of two ways, so that its time does not grow with the list. What a filter leaves few of is
    fetched by the filter's index and sorted; what it leaves many of is met soon enough on a walk in the wanted order.
    """

    def __init__(self, database: Database) -> None:
        self._db = database

    def find(self, query: WorklistQuery) -> WorklistPage:
        """One page of the worklist."""
        where, arguments = _conditions(query)
        few = f"work_item w {_index(query)}"
        counted = self._db.rows(
            f"SELECT count(*) AS n FROM (SELECT 1 FROM {few} WHERE {where} LIMIT {COUNTED + 1})", arguments
        )[0]["n"]
        columns, walk = _SORTS[query.sort]
        by_filter = counted <= COUNTED or bool(query.text)
        source = f"{few} LEFT JOIN study s ON s.study_instance_uid = w.study_instance_uid" if by_filter else walk
        direction = "DESC" if query.descending else "ASC"
        order = ", ".join(f"{column} {direction}" for column in (*columns, "w.id"))
        rows = self._db.rows(
            f"SELECT w.id FROM {source} WHERE {where} ORDER BY {order} LIMIT ? OFFSET ?",
            [*arguments, query.limit, query.offset],
        )
        found = self._rows("w.id IN (SELECT value FROM json_each(?))", [str([row["id"] for row in rows])])
        by_id = {row.id: row for row in found}
        page = tuple(by_id[row["id"]] for row in rows if row["id"] in by_id)
        return WorklistPage(page, min(counted, COUNTED), counted > COUNTED or self._too_many(query.text))

    def _too_many(self, text: str) -> bool:
        """Whether a search leaves out some of what it matches."""
        match = _match(text)
        sql = f"SELECT count(*) AS n FROM (SELECT 1 FROM study_search WHERE study_search MATCH ? LIMIT {SEARCHED})"
        return bool(match) and self._db.rows(sql, [match])[0]["n"] == SEARCHED

    def of_study(self, study_instance_uid: str) -> list[Row]:
        """Work items of a study (the CT's or the contour's), newest first."""
        where = (
            "w.id IN (SELECT id FROM work_item WHERE study_instance_uid = ? UNION SELECT o.id FROM instance i"
            " JOIN work_item o ON o.roi_sop_instance_uid = i.sop_instance_uid WHERE i.study_instance_uid = ?)"
        )
        return sorted(self._rows(where, [study_instance_uid] * 2), key=lambda row: -row.id)

    def row(self, work_item_id: int) -> Row | None:
        found = self._rows("w.id = ?", [work_item_id])
        return found[0] if found else None

    def changed(self) -> int:
        """Differs after another connection has written anything. Means something on one open store only; poll it."""
        return int(self._db.rows("PRAGMA data_version")[0]["data_version"])

    def events(self, work_item_id: int) -> list[dict[str, Any]]:
        """History of a work item: at, name, detail; oldest first."""
        return self._db.rows(
            "SELECT at, name, detail FROM event WHERE work_item_id = ? ORDER BY id LIMIT 1000", [work_item_id]
        )

    def _rows(self, where: str, arguments: Sequence[Any]) -> list[Row]:
        sql = (
            f"SELECT {_COLUMNS} FROM work_item w LEFT JOIN study s ON s.study_instance_uid = w.study_instance_uid"
            f" WHERE {where}"
        )
        return [_row(row) for row in self._db.rows(sql, [time.time(), *arguments])]


# Of the rows of one contour, the newest that is not CANCELED; and a CT without contour only while none has come.
_NEWEST = (
    "(NOT EXISTS (SELECT 1 FROM work_item n WHERE n.roi_sop_instance_uid = w.roi_sop_instance_uid"
    " AND (n.state != 'CANCELED', n.id) > (w.state != 'CANCELED', w.id)"
    f" AND {same_person('n.study_instance_uid', 'w.study_instance_uid')})"
    " AND NOT (w.roi_sop_instance_uid IS NULL AND EXISTS (SELECT 1 FROM work_item n"
    " WHERE n.ct_series_instance_uid = w.ct_series_instance_uid AND n.roi_sop_instance_uid IS NOT NULL)))"
)
_OF_STUDY = (
    "patient_name", "patient_id", "issuer_of_patient_id", "patient_birth_date", "patient_sex", "accession_number",
    "study_date", "study_time", "study_description",
)  # fmt: skip
_COMPUTED = {"newest", "leased", "deliveries", *_OF_STUDY}
_DELIVERED = {
    "open": "d.final = 0",
    "refused": "d.state = 'FAILED'",
    "sent": "d.sent_at IS NOT NULL",
    "left": "d.sop_class_uid IS NOT NULL AND d.sop_instance_uid IS NOT NULL",
    "proved": "d.proved_at IS NOT NULL",
    "total": "1",
}
_COLUMNS = ", ".join(
    [
        *(f"w.{field.name}" for field in dataclass_fields(Row) if field.name not in _COMPUTED),
        *(f"coalesce(s.{name}, '') AS {name}" for name in _OF_STUDY),
        "w.lease_owner IS NOT NULL AND w.lease_until >= ? AS leased",
        f"{_NEWEST} AS newest",
        *(
            f"(SELECT count(*) FROM delivery d WHERE d.work_item_id = w.id AND {what}) AS delivered_{name}"
            for name, what in _DELIVERED.items()
        ),
    ]
)
# What a sort orders by, as the index has it to its last column, and the walk that meets the rows in that order.
_BY_STUDY = (
    "study s INDEXED BY {index} CROSS JOIN work_item w INDEXED BY work_item_by_study"
    " ON w.study_instance_uid = s.study_instance_uid"
)
_SORTS: dict[Sort, tuple[tuple[str, ...], str]] = {
    "received": (("w.created_at",), "work_item w INDEXED BY work_item_by_creation"),
    "updated": (("w.updated_at",), "work_item w INDEXED BY work_item_by_update"),
    "priority": (("w.priority",), "work_item w INDEXED BY work_item_by_priority"),
    "patient_name": (("s.patient_name", "s.study_instance_uid"), _BY_STUDY.format(index="study_by_name")),
    "study_date": (("s.study_date", "s.study_instance_uid"), _BY_STUDY.format(index="study_by_date")),
}


def _index(query: WorklistQuery) -> str:
    """The index that leaves the fewest rows, as far as one can say without statistics."""
    if query.text:
        return "NOT INDEXED" if _is_uid(query.text.strip()) else "INDEXED BY work_item_by_study"
    if query.held:
        return "INDEXED BY work_item_held"
    if query.since is not None or query.until is not None:
        return "INDEXED BY work_item_by_creation"
    return "INDEXED BY work_item_by_result" if query.states or query.outcome or query.group else "NOT INDEXED"


def _conditions(query: WorklistQuery) -> tuple[str, list[Any]]:
    """The filters as SQL over `work_item w`, and what is bound to it."""
    parts, arguments = ["1"], list[Any]()

    def add(sql: str, *values: object) -> None:
        parts.append(sql)
        arguments.extend(values)

    states = query.states or (tuple(State) if query.outcome or query.group else ())
    outcome = "SCORED" if query.group and not query.outcome else query.outcome  # only scored results have a group
    if states:
        add(f"w.state IN ({', '.join('?' * len(states))})", *states)
    for column, value in (("outcome = ?", outcome), ("risk_group = ?", query.group)):
        if value:
            add(f"w.{column}", value)
    if query.held is not None:
        parts.append("w.held = 1" if query.held else "w.held = 0")
    for column, bound in (("created_at >=", query.since), ("created_at <", query.until)):
        if bound is not None:
            add(f"w.{column} ?", bound)
    if query.newest_only:
        parts.append(_NEWEST)
    if query.text:
        add(*_search(query.text))
    return " AND ".join(parts), arguments


def _is_uid(text: str) -> bool:
    return re.fullmatch(r"[0-2](\.[0-9]*){2,}", text) is not None


def _match(text: str) -> str:
    """The words of a text as a query of FTS5, each as a beginning; '' where there is none, or where it is a UID."""
    words = [] if _is_uid(text.strip()) else re.split(r"[\s^=,]+", text)
    return " AND ".join('"' + word.replace('"', '""') + '" *' for word in words if any(c.isalnum() for c in word))


def _search(text: str) -> tuple[str, ...]:
    """Studies that a text names, as a condition and what is bound to it."""
    text = text.strip()
    if _is_uid(text):
        found = (
            "w.id IN (SELECT id FROM work_item INDEXED BY work_item_by_study"
            f" WHERE study_instance_uid >= ? AND study_instance_uid < ? LIMIT {SEARCHED})"
        )
        return found, text, f"{text}:"  # ":" comes after "9"
    match = _match(text)
    found = (
        "w.study_instance_uid IN (SELECT study_instance_uid FROM study_number WHERE id IN"
        f" (SELECT rowid FROM study_search WHERE study_search MATCH ? ORDER BY rowid DESC LIMIT {SEARCHED}))"
    )
    return (found, match) if match else ("0",)


def _row(row: dict[str, Any]) -> Row:
    from dicom_node.summary import Summary  # noqa: PLC0415 - pydantic: a receiver has a store, and no list

    deliveries = DeliveryCounts(**{name: row.pop(f"delivered_{name}") for name in _DELIVERED})
    flags = {name: bool(row[name]) for name in ("newest", "leased", "held", "shadow")}
    summary = Summary.model_validate_json(row["summary"]) if row["summary"] else None
    return Row(**{**row, **flags, "state": State(row["state"]), "summary": summary, "deliveries": deliveries})
