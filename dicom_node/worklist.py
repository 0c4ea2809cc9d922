"""Rows of the worklist: work items with their study's identity, filtered and sorted. Reached as `store.worklist`."""

from dataclasses import dataclass
from typing import Any, Literal

from dicom_node.database import Database
from dicom_node.summary import Summary
from dicom_node.workitem import State, ups_state

Sort = Literal["received", "updated", "study_date", "patient_name", "priority"]
COUNTED = 1000  # rows are counted up to here; beyond, the page says "more than"


@dataclass(frozen=True)
class DeliveryCounts:
    """How far the objects and messages of a work item have come, over all destinations."""

    open: int
    refused: int
    proved: int
    total: int


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
    outcome: str | None  # SCORED, NOT_SCORED; None before the analysis
    reason: str | None  # analysis.contract.Reason, where not scored or waiting
    hint: str | None
    summary: Summary | None
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
    """Reads; never writes."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def find(self, query: WorklistQuery) -> WorklistPage:
        """One page of the worklist."""
        raise NotImplementedError

    def of_study(self, study_instance_uid: str) -> list[Row]:
        """Work items of a study (the CT's or the contour's), newest first."""
        raise NotImplementedError

    def row(self, work_item_id: int) -> Row | None:
        raise NotImplementedError

    def changed(self) -> int:
        """Differs after another connection has written anything. Means something on one open store only; poll it."""
        raise NotImplementedError

    def events(self, work_item_id: int) -> list[dict[str, Any]]:
        """History of a work item: at, name, detail; oldest first."""
        raise NotImplementedError
