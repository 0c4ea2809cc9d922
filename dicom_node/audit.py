"""The audit trail: who did what, when and from where. Rows are only ever added. Reached as `store.audit`."""

from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from typing import Literal

from dicom_node.database import Database

Origin = Literal["web", "api", "cli", "hl7", "dicom", "node"]
AuditOutcome = Literal["done", "refused", "failed"]


@dataclass(frozen=True)
class AuditEntry:
    """One entry. `actor` is an account, a token's name, an AE title or the system user of a command."""

    at: float
    actor: str
    origin: Origin
    action: str  # an event name such as "workitem.retry", "signin", "study.opened"
    outcome: AuditOutcome = "done"
    address: str = ""
    work_item_id: int | None = None
    study_instance_uid: str = ""
    detail: str = ""


_COLUMNS = ", ".join(field.name for field in dataclass_fields(AuditEntry))


class Audit:
    """The audit table."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def add(self, entry: AuditEntry) -> None:
        """Append an entry; inside the caller's transaction where there is one."""
        self._db.insert("audit", vars(entry))

    def of_item(self, work_item_id: int) -> list[AuditEntry]:
        """Entries about a work item, newest first."""
        rows = self._db.rows(
            f"SELECT {_COLUMNS} FROM audit WHERE work_item_id = ? ORDER BY id DESC LIMIT 200", [work_item_id]
        )
        return [AuditEntry(**row) for row in rows]

    def newest(self, limit: int = 200) -> list[AuditEntry]:
        rows = self._db.rows(f"SELECT {_COLUMNS} FROM audit ORDER BY id DESC LIMIT ?", [limit])
        return [AuditEntry(**row) for row in rows]
