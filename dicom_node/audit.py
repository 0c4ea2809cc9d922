"""The audit trail's table: who did what, when and from where. Rows are only ever added. Reached as `store.audit`.

Anyone adds a row, inside the transaction of what it tells of where there is one; `audit_trail` writes each into its
file, and `syslog_out` sends it on.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import fields as dataclass_fields
from typing import Any, Literal

from dicom_node.database import Database

Origin = Literal["web", "api", "cli", "hl7", "dicom", "node"]
AuditOutcome = Literal["done", "refused", "failed"]
GENESIS = "0" * 64  # what the first line of all says of the line before it


@dataclass(frozen=True)
class AuditEntry:
    """One entry. `actor` is an account, a token's name, an AE title or the system user of a command.

    `action` is an event name such as "workitem.retry", "signin", "study.opened"; `audit_message` maps it to an event of
    PS3.15 A.5.3. `facts` are what that message says beside:

    peer, peer_address : AE title (or name) and host of the other side
    sop_classes : SOP Class UID -> number of instances
    sop_class_uid, transfer_syntax_uid, query : of a query; the identifier is base64
    patient_id, issuer_of_patient_id, patient_name : where no study says whose record it was
    uri : of a file or an audit log
    """

    at: float
    actor: str
    origin: Origin
    action: str
    outcome: AuditOutcome = "done"
    address: str = ""
    work_item_id: int | None = None
    study_instance_uid: str = ""
    detail: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TrailFile:
    """A file of the trail: its first and last line, the digests at both ends, and its length in bytes."""

    first: int
    previous: str  # digest of the line before its first
    last: int
    digest: str  # of its last line
    bytes: int
    closed_at: float | None = None
    removed: int = 0


_COLUMNS = ", ".join(each.name for each in dataclass_fields(AuditEntry))
_FILE_COLUMNS = ", ".join(each.name for each in dataclass_fields(TrailFile))
_BROUGHT = "association = ? AND association != ''"  # as the index of the marked rows says of itself


class Audit:
    """The tables audit, audit_file and audit_sent."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def add(self, entry: AuditEntry) -> None:
        """Append an entry; inside the caller's transaction where there is one."""
        facts = json.dumps(entry.facts, ensure_ascii=False, separators=(",", ":")) if entry.facts else ""
        self._db.insert("audit", {**vars(entry), "facts": facts})

    def of_item(self, work_item_id: int) -> list[AuditEntry]:
        """Entries about a work item, newest first."""
        rows = self._db.rows(
            f"SELECT {_COLUMNS} FROM audit WHERE work_item_id = ? ORDER BY id DESC LIMIT 200", [work_item_id]
        )
        return [_entry(row) for row in rows]

    def newest(self, limit: int = 200) -> list[AuditEntry]:
        rows = self._db.rows(f"SELECT {_COLUMNS} FROM audit ORDER BY id DESC LIMIT ?", [limit])
        return [_entry(row) for row in rows]

    def last(self, action: str, actor: str) -> AuditEntry | None:
        """The newest entry of an action by an actor."""
        where = "WHERE action = ? AND actor = ? ORDER BY id DESC LIMIT 1"
        rows = self._db.rows(f"SELECT {_COLUMNS} FROM audit {where}", [action, actor])
        return _entry(rows[0]) if rows else None

    def of_association(self, association: str, entry: AuditEntry) -> int:
        """One row like `entry` for each study of which an association brought new content; gives how many.

        The instances carry the association's mark until then, so that a node that ends first loses no row: what an
        earlier one left is found by `unaudited_associations`.
        """
        with self._db.immediate():
            rows = self._db.rows(
                "SELECT study_instance_uid AS study, sop_class_uid AS class, calling_ae_title AS actor, count(*) AS n,"
                f" max(received_at) AS at FROM instance WHERE {_BROUGHT} GROUP BY 1, 2, 3 ORDER BY 1, 2",
                [association],
            )
            studies: dict[tuple[str, str], dict[str, int]] = {}
            for row in rows:
                studies.setdefault((row["study"], row["actor"]), {})[row["class"]] = row["n"]
            for (study, actor), classes in studies.items():
                made = {**vars(entry), "actor": entry.actor or actor, "study_instance_uid": study}
                self.add(AuditEntry(**{**made, "facts": {**entry.facts, "sop_classes": classes}}))
            self._db.execute(f"UPDATE instance SET association = '' WHERE {_BROUGHT}", [association])
        return len(studies)

    def unaudited_associations(self) -> list[str]:
        """Associations whose objects have no row yet; all of an earlier run, where the caller holds its lock."""
        rows = self._db.rows("SELECT DISTINCT association FROM instance WHERE association != ''")
        return [row["association"] for row in rows]

    # -- the trail's files -----------------------------------------------------------------------------------

    def unwritten(self, limit: int = 200) -> list[tuple[int, AuditEntry]]:
        """Entries that have no line in the trail's file yet, oldest first, with their ids."""
        rows = self._db.rows(f"SELECT id, {_COLUMNS} FROM audit WHERE line IS NULL ORDER BY id LIMIT ?", [limit])
        return [(row.pop("id"), _entry(row)) for row in rows]

    def files(self) -> list[TrailFile]:
        """The trail's files, oldest first."""
        return [TrailFile(**row) for row in self._db.rows(f"SELECT {_FILE_COLUMNS} FROM audit_file ORDER BY first")]

    def open_file(self) -> TrailFile:
        """The file that lines are appended to; its row is made where there is none."""
        with self._db.immediate():
            found = self.files()
            if found and found[-1].closed_at is None:
                return found[-1]
            first, digest = (found[-1].last + 1, found[-1].digest) if found else (1, GENESIS)
            made = TrailFile(first, digest, first - 1, digest, 0)
            self._db.insert("audit_file", vars(made))
        return made

    def written(self, file: TrailFile, lines: Sequence[tuple[int, int, str]]) -> None:
        """Lines are on disk: (row id, line, digest) each; `file` says where it ends now."""
        with self._db.immediate():
            self._db.many(
                "UPDATE audit SET line = ?, line_digest = ? WHERE id = ?",
                [(number, digest, row) for row, number, digest in lines],
            )
            self._db.execute(
                "UPDATE audit_file SET last = ?, digest = ?, bytes = ? WHERE first = ?",
                [file.last, file.digest, file.bytes, file.first],
            )

    def close_file(self, first: int, now: float) -> None:
        """Nothing more is appended to this file."""
        self._db.execute("UPDATE audit_file SET closed_at = ? WHERE first = ?", [now, first])

    def mark_removed(self, first: int) -> None:
        """Retention removes this file next; a crash in between does not look like a lost one."""
        self._db.execute("UPDATE audit_file SET removed = 1 WHERE first = ?", [first])

    def forget_file(self, file: TrailFile) -> None:
        """The file is gone: its row and its entries go too."""
        with self._db.immediate():
            self._db.execute("DELETE FROM audit WHERE line BETWEEN ? AND ?", [file.first, file.last])
            self._db.execute("DELETE FROM audit_file WHERE first = ?", [file.first])

    def digests(self, first: int, last: int) -> dict[int, str]:
        """Line number -> digest, as they were when the lines were written."""
        rows = self._db.rows("SELECT line, line_digest FROM audit WHERE line BETWEEN ? AND ?", [first, last])
        return {row["line"]: row["line_digest"] for row in rows}

    # -- the collector ---------------------------------------------------------------------------------------

    def sent(self, collector: str) -> int:
        """The last line that a collector certainly has; 0 before the first."""
        rows = self._db.rows("SELECT line FROM audit_sent WHERE collector = ?", [collector])
        return int(rows[0]["line"]) if rows else 0

    def record_sent(self, collector: str, line: int) -> None:
        self._db.execute(
            "INSERT INTO audit_sent VALUES (?, ?) ON CONFLICT (collector) DO UPDATE SET line = excluded.line",
            [collector, line],
        )


def _entry(row: dict[str, Any]) -> AuditEntry:
    return AuditEntry(**{**row, "facts": json.loads(row["facts"]) if row["facts"] else {}})
