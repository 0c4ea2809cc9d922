"""Clinical values by patient, from every source but the CT's header and the site's table. Reached as `store.clinical`.

Nothing is overwritten. Each value has a place of origin (a table's day, an OBX of an order, a FHIR resource, the form's
day): the same value from the same place is the same row, another one takes its place and ends the old row.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any, Literal, get_args

from dicom_node.audit import Audit, AuditEntry
from dicom_node.database import Database

Kind = Literal["form", "hl7", "fhir", "csv"]  # in the order in which they are believed
KINDS: tuple[Kind, ...] = get_args(Kind)
Verdict = Literal["new", "changed", "unchanged", "withdrawn", "outdated"]
MERGES_FOLLOWED = 100
_CHUNK = 10_000


@dataclass(frozen=True)
class ClinicalEntry:
    """A value to record. PHI: never logged, never in an error.

    Attributes
    ----------
    name, value, unit :
        As `clinical_codes` and `models.clinical_value.coerce` give them; a number in `unit` (UCUM), or a text.
    observed_on : str
        ISO date of the observation, '' where not known.
    origin : str
        The place at the source, such as "RIS|12345|1" (sender, filler order, OBX-4) or "EHR Observation/77". ''
        where the source has none: then the day of the observation is the place.
    stated : str
        What the source stated, where that was in another unit.
    as_of : float or None
        When the source said so (MSH-7, Meta.lastUpdated); an older word does not take the place of a newer one.
    """

    patient_id: str
    name: str
    value: float | str
    kind: Kind
    source: str
    issuer_of_patient_id: str = ""
    unit: str = ""
    stated: str = ""
    observed_on: str = ""
    origin: str = ""
    as_of: float | None = None
    recorded_by: str = ""


@dataclass(frozen=True)
class StoredValue:
    """A row of clinical_value. `ended_how` is '' for one that counts, else replaced, retracted or withdrawn."""

    id: int
    patient_id: str
    issuer_of_patient_id: str
    name: str
    value: float | str
    unit: str
    stated: str
    observed_on: str
    kind: Kind
    source: str
    origin: str
    as_of: float | None
    recorded_by: str
    recorded_at: float
    ended_at: float | None
    ended_how: str
    ended_by: str


_COLUMNS = ", ".join(field.name for field in fields(StoredValue))
_PLACE = ("patient_id", "issuer_of_patient_id", "name", "origin")
_SAYS = ("value", "unit", "stated", "observed_on", "kind", "source", "as_of", "recorded_by")
_STAGED = ", ".join((*_PLACE, *_SAYS))
_SAME = "c.value = staged.value AND c.unit = staged.unit AND c.observed_on = staged.observed_on"


class ClinicalValues:
    """The tables clinical_value and clinical_change."""

    def __init__(self, database: Database) -> None:
        self._db = database

    # -- writing ---------------------------------------------------------------------------------------------

    def record(
        self, entries: Iterable[ClinicalEntry], now: float, *, again: bool = False, audit: AuditEntry | None = None
    ) -> dict[Verdict, int]:
        """Take values, all or none, in a transaction of its own; how many were new, changed, ...

        Doing it twice changes nothing, so that a message whose acknowledgement was lost may simply come again.
        Two entries of one place: the last one counts. "withdrawn": an operator has withdrawn this very value, and it
        stays so unless `again` (the form, where a person enters it once more). `audit` is added in the transaction.
        """
        self._stage(entries)
        self._leave_last_of_each_place()
        return self.settle(now, again=again, audit=audit)

    def rehearse(self, entries: Iterable[ClinicalEntry]) -> list[int]:
        """Prepare a long import: everything is read before anything is locked, and nothing is written yet.

        Gives the numbers (from 1) of entries that say something else than another one of the same place.
        """
        self._stage(entries)
        place = " AND ".join(f"o.{name} = s.{name}" for name in _PLACE)
        rows = self._db.rows(
            f"SELECT s.n FROM staged s WHERE EXISTS (SELECT 1 FROM staged o WHERE {place} AND o.value != s.value)"
            " ORDER BY s.n"
        )
        self._leave_last_of_each_place()
        self._judge(again=False)
        return [row["n"] for row in rows]

    def settle(self, now: float, *, again: bool = False, audit: AuditEntry | None = None) -> dict[Verdict, int]:
        """Take what was rehearsed last, all or none; how many were new, changed, ..."""
        with self._db.immediate():
            counts = self._judge(again)
            self._take(now)
            if audit is not None:
                Audit(self._db).add(audit)
        return counts

    def verdicts(self) -> dict[tuple[str, Verdict], int]:
        """What came, or would come, of the last `record` or `rehearse`: by the name of the predictor."""
        rows = self._db.rows("SELECT name, verdict, count(*) AS n FROM staged GROUP BY name, verdict")
        return {(row["name"], row["verdict"]): row["n"] for row in rows}

    def retract(self, kind: Kind, origin: str, now: float, by: str, patient: tuple[str, str] | None = None) -> int:
        """End what came from one place, because its source takes it back (OBX-11 D or W, entered-in-error); how many.

        `patient` (ID, issuer) where places are only unique for a patient.
        """
        where, arguments = "kind = ? AND origin = ?", [kind, f"{kind} {origin}"]
        if patient is not None:
            where, arguments = f"{where} AND patient_id = ? AND issuer_of_patient_id = ?", [*arguments, *patient]
        with self._db.immediate():
            return self._end(where, arguments, "retracted", now, by)

    def holder(self, kind: Kind, origin: str, patient: tuple[str, str]) -> tuple[str, str]:
        """Under which of a patient's IDs, now and before merges, a place has told of values; else the given one."""
        where = "origin = ? AND patient_id = ? AND issuer_of_patient_id = ?"
        for alias in self.aliases(*patient):
            if self._db.rows(f"SELECT 1 FROM clinical_value WHERE {where} LIMIT 1", [f"{kind} {origin}", *alias]):
                return alias
        return patient

    def withdraw(self, value_id: int, now: float, audit: AuditEntry) -> bool:
        """An operator takes a value back, with an audit entry; False when it does not count (any more)."""
        with self._db.immediate():
            ended = self._end("id = ?", [value_id], "withdrawn", now, audit.actor)
            if ended:
                Audit(self._db).add(audit)
        return bool(ended)

    # -- reading ---------------------------------------------------------------------------------------------

    def current(self, patient_id: str, issuer: str = "") -> list[StoredValue]:
        """Values of a patient that count, also those under IDs that were merged into this one; newest record first.

        An empty issuer matches any, unless the ID is in use by several issuers: these are several patients.
        """
        found = (row for alias in self.aliases(patient_id, issuer) for row in self._of(*alias, "ended_at IS NULL"))
        return sorted(set(found), key=lambda value: -value.id)

    def history(self, patient_id: str, issuer: str = "") -> list[StoredValue]:
        """Every value of a patient that was ever recorded, newest first."""
        found = (row for alias in self.aliases(patient_id, issuer) for row in self._of(*alias, "1"))
        return sorted(set(found), key=lambda value: -value.id)

    def value(self, value_id: int) -> StoredValue | None:
        rows = self._db.rows(f"SELECT {_COLUMNS} FROM clinical_value WHERE id = ?", [value_id])
        return _stored(rows[0]) if rows else None

    def everything(self) -> Iterator[StoredValue]:
        """All values that count, by patient; for an export."""
        order = ", ".join((*_PLACE, "id"))
        last = ["", "", "", "", 0]
        while True:
            rows = self._db.rows(
                f"SELECT {_COLUMNS} FROM clinical_value WHERE ended_at IS NULL"
                f" AND ({order}) > (?, ?, ?, ?, ?) ORDER BY {order} LIMIT 1000",
                last,
            )
            if not rows:
                return
            yield from map(_stored, rows)
            last = [rows[-1][key] for key in (*_PLACE, "id")]

    def summary(self) -> list[dict[str, Any]]:
        """Of each predictor and kind of source: values, patients, the oldest and the newest observation date."""
        return self._db.rows(
            "SELECT name, kind, count(*) AS n, count(DISTINCT patient_id || '|' || issuer_of_patient_id) AS patients,"
            " min(nullif(observed_on, '')) AS oldest, max(observed_on) AS newest FROM clinical_value"
            " WHERE ended_at IS NULL GROUP BY name, kind ORDER BY name, kind"
        )

    def aliases(self, patient_id: str, issuer: str = "") -> list[tuple[str, str]]:
        """(ID, issuer) of a patient now and before merges, the given one first; [] where there is no ID."""
        found: dict[tuple[str, str], None] = {}
        todo = [(patient_id, issuer)] if patient_id else []
        while todo and len(found) < MERGES_FOLLOWED:
            one = todo.pop(0)
            if one not in found:
                found[one] = None
                todo += self._merged_with(*one)
        return list(found)

    def is_ambiguous(self, patient_id: str, issuer: str = "") -> bool:
        """Whether several patients have this ID and the issuer does not say which is meant."""
        return not issuer and len(self._issuers(patient_id)) > 1

    def ambiguous_ids(self) -> set[str]:
        """Patient IDs that several issuers use."""
        rows = self._db.rows(
            "SELECT patient_id FROM (SELECT patient_id, issuer_of_patient_id FROM study UNION"
            " SELECT patient_id, issuer_of_patient_id FROM clinical_value) WHERE issuer_of_patient_id != ''"
            " GROUP BY patient_id HAVING count(*) > 1"
        )
        return {row["patient_id"] for row in rows}

    # -- what has changed ------------------------------------------------------------------------------------

    def changes(self, skipped: int = 0, limit: int = 100) -> list[tuple[str, str, float]]:
        """Patients (ID, issuer, when) whose values have changed and have not been looked at since."""
        rows = self._db.rows("SELECT * FROM clinical_change ORDER BY at LIMIT ? OFFSET ?", [limit, skipped])
        return [(row["patient_id"], row["issuer_of_patient_id"], row["at"]) for row in rows]

    def looked_at(self, change: tuple[str, str, float]) -> None:
        """A change has been dealt with; one that came meanwhile stays."""
        self._db.execute(
            "DELETE FROM clinical_change WHERE patient_id = ? AND issuer_of_patient_id = ? AND at = ?", list(change)
        )

    def note_newer(self, work_item_id: int, names: Sequence[str], now: float) -> bool:
        """Remember that a work item would be scored with other values of these predictors now; () forgets it.

        False when that was known.
        """
        if not names:
            return self._db.execute("DELETE FROM clinical_newer WHERE work_item_id = ?", [work_item_id]) > 0
        changed = self._db.execute(
            "INSERT INTO clinical_newer VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET names = excluded.names,"
            " at = excluded.at WHERE names != excluded.names",
            [work_item_id, ", ".join(names), now],
        )
        return changed > 0

    def newer(self, work_item_id: int | None = None) -> dict[int, str]:
        """Work items that would be scored with other values now, and the names of these: "ecog, nlr".

        Only the newest of a contour; all of them, or the given one.
        """
        rows = self._db.rows(
            "SELECT n.work_item_id AS id, n.names FROM clinical_newer n CROSS JOIN work_item w ON w.id = n.work_item_id"
            " WHERE w.state != 'CANCELED' AND (:id IS NULL OR w.id = :id) AND NOT EXISTS"
            " (SELECT 1 FROM work_item l WHERE l.roi_sop_instance_uid = w.roi_sop_instance_uid AND l.id > w.id"
            " AND l.key IS NOT NULL AND l.state != 'CANCELED')",
            {"id": work_item_id},
        )
        return {row["id"]: row["names"] for row in rows}

    # -- rows ------------------------------------------------------------------------------------------------

    def _stage(self, entries: Iterable[ClinicalEntry]) -> None:
        """Into a table of this connection alone: a long import is read and compared before it locks anything."""
        for statement in (
            "DROP TABLE IF EXISTS staged",
            f"CREATE TEMP TABLE staged (n INTEGER PRIMARY KEY, {_STAGED}, old INTEGER, verdict TEXT)",
        ):
            self._db.execute(statement)
        marks = ", ".join("?" * (len(_PLACE) + len(_SAYS)))
        rows = (_staged(entry) for entry in entries)
        while chunk := list(islice(rows, _CHUNK)):
            self._db.many(f"INSERT INTO staged ({_STAGED}) VALUES ({marks})", chunk)
        self._db.execute(f"CREATE INDEX staged_by_place ON staged ({', '.join(_PLACE)}, n)")

    def _leave_last_of_each_place(self) -> None:
        self._db.execute(f"DELETE FROM staged WHERE n NOT IN (SELECT max(n) FROM staged GROUP BY {', '.join(_PLACE)})")

    def _judge(self, again: bool) -> dict[Verdict, int]:
        place = " AND ".join(f"c.{name} = staged.{name}" for name in _PLACE)
        self._db.execute(f"UPDATE staged SET old = (SELECT max(id) FROM clinical_value c WHERE {place})")
        self._db.execute(
            "UPDATE staged SET verdict = coalesce((SELECT CASE"
            f" WHEN c.ended_at IS NULL AND {_SAME} THEN 'unchanged'"
            " WHEN staged.as_of < c.as_of THEN 'outdated'"
            f" WHEN c.ended_how = 'withdrawn' AND {_SAME} AND NOT ? THEN 'withdrawn'"
            " WHEN c.ended_at IS NOT NULL THEN 'new'"
            " ELSE 'changed' END FROM clinical_value c WHERE c.id = staged.old), 'new')",
            [int(again)],
        )
        rows = self._db.rows("SELECT verdict, count(*) AS n FROM staged GROUP BY verdict")
        return {row["verdict"]: row["n"] for row in rows}

    def _take(self, now: float) -> None:
        self._db.execute(  # said again later: what was said in between is older
            "UPDATE clinical_value SET as_of = s.as_of FROM staged s WHERE clinical_value.id = s.old"
            " AND s.verdict = 'unchanged' AND s.as_of > coalesce(clinical_value.as_of, 0)"
        )
        self._db.execute(
            "UPDATE clinical_value SET ended_at = ?, ended_how = 'replaced', ended_by = s.recorded_by"
            " FROM staged s WHERE clinical_value.id = s.old AND s.verdict = 'changed'",
            [now],
        )
        self._db.execute(
            f"INSERT INTO clinical_value ({_STAGED}, recorded_at)"
            f" SELECT {_STAGED}, ? FROM staged WHERE verdict IN ('new', 'changed') ORDER BY n",
            [now],
        )
        self._db.execute(
            "INSERT INTO clinical_change SELECT DISTINCT patient_id, issuer_of_patient_id, ? FROM staged"
            " WHERE verdict IN ('new', 'changed') ON CONFLICT DO UPDATE SET at = excluded.at",
            [now],
        )

    def _end(self, where: str, arguments: Sequence[Any], how: str, now: float, by: str) -> int:
        rows = self._db.rows(
            f"SELECT id, patient_id, issuer_of_patient_id FROM clinical_value WHERE {where} AND ended_at IS NULL",
            arguments,
        )
        for row in rows:
            self._db.execute(
                "UPDATE clinical_value SET ended_at = ?, ended_how = ?, ended_by = ? WHERE id = ?",
                [now, how, by, row["id"]],
            )
            self._db.execute(
                "INSERT INTO clinical_change VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET at = excluded.at",
                [row["patient_id"], row["issuer_of_patient_id"], now],
            )
        return len(rows)

    def _of(self, patient_id: str, issuer: str, where: str) -> list[StoredValue]:
        only_same = len(self._issuers(patient_id)) > 1
        issuers = "issuer_of_patient_id = :issuer"
        if not only_same:
            issuers = f"(:issuer = '' OR {issuers} OR issuer_of_patient_id = '')"
        rows = self._db.rows(
            f"SELECT {_COLUMNS} FROM clinical_value WHERE patient_id = :id AND {issuers} AND {where}",
            {"id": patient_id, "issuer": issuer},
        )
        return [_stored(row) for row in rows]

    def _issuers(self, patient_id: str) -> set[str]:
        rows = self._db.rows(
            "SELECT issuer_of_patient_id AS issuer FROM study WHERE patient_id = ? UNION"
            " SELECT issuer_of_patient_id FROM clinical_value WHERE patient_id = ?",
            [patient_id, patient_id],
        )
        return {row["issuer"] for row in rows} - {""}

    def _merged_with(self, patient_id: str, issuer: str) -> list[tuple[str, str]]:
        """The ID that this one was merged into, and those that were merged into it."""
        # `exact`: a merge that only means the patient whose issuer is stated.
        into = self._db.rows(
            "SELECT patient_id AS id, issuer_of_patient_id AS issuer FROM patient_merge WHERE prior_patient_id = :id"
            " AND (prior_issuer = :issuer OR NOT exact AND '' IN (:issuer, prior_issuer))",
            {"id": patient_id, "issuer": issuer},
        )
        prior = self._db.rows(
            "SELECT prior_patient_id AS id, prior_issuer AS issuer FROM patient_merge WHERE patient_id = :id"
            " AND (issuer_of_patient_id = :issuer OR '' IN (:issuer, issuer_of_patient_id)) ORDER BY at DESC",
            {"id": patient_id, "issuer": issuer},
        )
        return [(row["id"], row["issuer"] or issuer) for row in (*into, *prior)]


def _staged(entry: ClinicalEntry) -> list[object]:
    row = vars(entry) | {
        "value": json.dumps(entry.value, ensure_ascii=False, allow_nan=False),
        "origin": f"{entry.kind} {entry.origin or entry.observed_on}".rstrip(),
    }
    return [row[name] for name in (*_PLACE, *_SAYS)]


def _stored(row: dict[str, Any]) -> StoredValue:
    return StoredValue(**{**row, "value": json.loads(row["value"])})
