"""The worklist of Unified Procedure Steps: rows of the store and files of the spool become UPS data sets.

Shared by `ups_scp`, which answers for it, and `ups_events`, which tells of it. One per thread, as its store is.
"""

import json
import logging
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from pydicom import dcmread
from pydicom.dataset import Dataset

from config.settings import Settings
from dicom_node.identity import KEYWORDS
from dicom_node.instance import CT
from dicom_node.name_pattern import name_pattern
from dicom_node.procedure_steps import StepFilter, StepRow
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.workitem import PRIORITIES, DeliveryState, Retryable
from reports import ups, ups_match
from reports.uids import derive, device_uid

LOGGER = logging.getLogger(__name__)
# (study, series, AE titles that have it) -> (SOP class, SOP instance) pairs
Groups = dict[tuple[str, str, tuple[str, ...]], list[tuple[str, str]]]
PAGE = 200  # rows per look into the store
TAKEN = frozenset({DeliveryState.SENT, DeliveryState.COMMITTED, DeliveryState.SEEN})
_INPUTS, _OUTPUTS = "InputInformationSequence", "UnifiedProcedureStepPerformedProcedureSequence"
_DETAILS = frozenset({_INPUTS, _OUTPUTS, "ReplacedProcedureStepSequence", "ScheduledProcessingParametersSequence"})
_LIKE = {  # keys that SQL narrows, and their column of `study`
    "PatientID": "patient_id",
    "PatientBirthDate": "patient_birth_date",
    "PatientSex": "patient_sex",
}
_LINES = {"SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "SOPClassUID"}


class UpsWorklist:
    """Reads and follows; never changes a work item."""

    def __init__(self, store: Store, spool: Spool, settings: Settings) -> None:
        self.store, self._spool, self._settings = store, spool, settings
        self._device = device_uid(settings.node.ae_title, settings.node.site)
        self._zone: tzinfo | None = ZoneInfo(settings.node.time_zone) if settings.node.time_zone else None

    @property
    def zone(self) -> tzinfo:
        """That of times without an offset: the site's."""
        zone = self._zone or datetime.now().astimezone().tzinfo
        assert zone is not None
        return zone

    def follow(self) -> bool:
        """Bring the steps up to what has happened, a batch at a time; False when there was nothing."""
        return self.store.steps.follow(self._uid_of, self._matches)

    def page(self, identifier: Dataset, after: int) -> tuple[list[Dataset], int | None]:
        """Matches among the next steps in the order of their birth, and where to go on; None at the end.

        Keys that no step can have are left out: they narrow nothing (PS3.4 C.2.2.1.3). Raises IdentifierError.
        """
        found, last = self._page(identifier, after)
        return [made for _, made in found], last

    def numbers(self, identifier: Dataset, after: int = 0) -> list[int]:
        """Work items of all steps that match, or of those after one."""
        numbers: list[int] = []
        place: int | None = after
        while place is not None:
            found, place = self._page(identifier, place)
            numbers += [row.work_item_id for row, _ in found]
        return numbers

    def _page(self, identifier: Dataset, after: int) -> tuple[list[tuple[StepRow, Dataset]], int | None]:
        keys = _supported_part(identifier)
        rows = self.store.steps.find(self.narrow(keys), after, PAGE)
        asked = {element.keyword for element in keys}
        made = [(row, self.data_set(row, asked)) for row in rows]
        found = [(row, one) for row, one in made if ups_match.matches(one, keys, self.zone)]
        return found, rows[-1].work_item_id if len(rows) == PAGE else None

    def narrow(self, keys: Dataset) -> StepFilter:
        """What of the keys SQL can look for: never less than what matches. Raises IdentifierError."""
        priority = ups_match.text(keys, "ScheduledProcedureStepPriority")
        zone = ups_match.zone_of(keys, self.zone)
        return StepFilter(
            sop_instance_uids=ups_match.uids(keys, "SOPInstanceUID"),
            state=_exact(keys, "ProcedureStepState"),
            readiness=_exact(keys, "InputReadinessState"),
            priority=priority if priority in PRIORITIES else None,
            study_instance_uids=ups_match.uids(keys, "StudyInstanceUID") or _request_uids(keys),
            created=_start(keys, zone),
            name=name_pattern(name) if (name := ups_match.text(keys, "PatientName")).strip("*") else None,
            equal=tuple(pair for pair in _texts(keys) if not set(pair[1]) & set("*?")),
            like=tuple((column, _like(value)) for column, value in _texts(keys) if set(value) & set("*?")),
        )

    def data_set(self, row: StepRow, asked: Collection[str] | None = None) -> Dataset:
        """The UPS of a row; of what has to be looked up elsewhere only what is `asked` for. None: all."""
        return ups.data_set(self._facts(row, _DETAILS if asked is None else _DETAILS & set(asked)))

    def _facts(self, row: StepRow, details: Collection[str]) -> ups.StepFacts:
        step, node = row.step, self._settings.node
        plan = json.loads(self.store.steps.plan_of(row.work_item_id) or "{}") if details else {}
        reason = row.item_reason or ""
        return ups.StepFacts(
            sop_instance_uid=row.sop_instance_uid,
            ae_title=node.ae_title,
            state=str(step.state),
            readiness=str(step.readiness),
            priority=_priority(row.priority),
            created=self._moment(row.created_at),
            modified=self._moment(step.modified_at),
            study_instance_uid=row.study_instance_uid,
            identity={KEYWORDS[name]: value for name, value in asdict(row.identity).items()},
            progress=step.progress,
            progress_description=step.description,
            started=None if step.started_at is None else self._moment(step.started_at),
            ended=None if step.ended_at is None else self._moment(step.ended_at),
            cancellation_reason=step.reason,
            outcome=row.outcome or "",
            reason=reason,
            inputs=self._inputs(row, plan) if _INPUTS in details else (),
            outputs=self._outputs(row) if _OUTPUTS in details and step.started_at is not None else (),
            destinations=self._destinations(plan),
            replaced=self.store.steps.uids_of(row) if "ReplacedProcedureStepSequence" in details else (),
            bundle_digest=plan.get("bundle", ""),
        )

    def _destinations(self, plan: Mapping[str, Any]) -> tuple[str, ...]:
        """AE titles that the results go to, as the rule of the work item has it."""
        every = tuple(peer.ae_title for peer in self._settings.destinations())
        named = plan.get("rule", {}).get("destinations")
        return every if named is None else tuple(name for name in every if name in named)

    def _inputs(self, row: StepRow, plan: Mapping[str, Any]) -> tuple[ups.Instances, ...]:
        """The CT and the contour: what was planned, what a contour references, or what there is of the CT."""
        steps = self.store.steps
        uids = [uid for uid in plan.get("digests", {}) if uid]
        if not uids and row.roi_sop_instance_uid is not None:
            uids = [*steps.referenced(row.roi_sop_instance_uid), row.roi_sop_instance_uid]
        if not uids and row.ct_series_instance_uid is not None:
            uids = steps.series(row.ct_series_instance_uid)
        archive = tuple(peer.ae_title for peer in self._settings.destinations())[:1]
        groups: Groups = defaultdict(list)
        here = steps.instances(uids)
        for found in here:
            titles = archive or (found["calling_ae_title"],)
            place = (found["study_instance_uid"], found["series_instance_uid"], titles)
            groups[place].append((found["sop_class_uid"], found["sop_instance_uid"]))
        missing = sorted(set(uids) - {found["sop_instance_uid"] for found in here})
        if missing and row.ct_series_instance_uid is not None:  # what a contour is drawn on and has not come: CT images
            place = (row.study_instance_uid, row.ct_series_instance_uid, archive or (self._settings.node.ae_title,))
            groups[place] += [(CT, uid) for uid in missing]
        return _instances(groups)

    def _outputs(self, row: StepRow) -> tuple[ups.Instances, ...]:
        """What destinations have taken, by series; each with the AE titles that have it."""
        holders: dict[str, list[str]] = defaultdict(list)
        for delivery in self.store.deliveries.of_item(row.work_item_id):
            if delivery.state in TAKEN and delivery.sop_class_uid and delivery.sop_instance_uid:
                holders[delivery.sop_instance_uid].append(delivery.destination)
        groups: Groups = defaultdict(list)
        for header in self._report_headers(row.key) if holders else ():
            titles = holders.get(str(header.SOPInstanceUID))
            if titles:
                place = (str(header.StudyInstanceUID), str(header.SeriesInstanceUID), tuple(sorted(titles)))
                groups[place].append((str(header.SOPClassUID), str(header.SOPInstanceUID)))
        return _instances(groups)

    def _report_headers(self, key: str | None) -> list[Dataset]:
        folder = self._spool.results(key or "", "report")
        paths: list[Path] = sorted(folder.glob("*.dcm")) if key else []
        return [dcmread(path, stop_before_pixels=True, specific_tags=list(_LINES)) for path in paths]

    def _matches(self, keys: str, work_item_id: int) -> bool:
        """Whether a new step is of a filtered subscription; no, where its keys cannot be tried: others are to hear."""
        rows = self.store.steps.find(StepFilter(work_item_id=work_item_id), 0, 1)
        try:
            identifier = _supported_part(Dataset.from_json(keys))
            asked = {element.keyword for element in identifier}
            return bool(rows) and ups_match.matches(self.data_set(rows[0], asked), identifier, self.zone)
        except Retryable:
            raise
        except Exception as error:  # a peer wrote the keys, and pydicom raises whatever fits them
            LOGGER.error("ups.failed %s in the filter of a subscription; it takes no new step", type(error).__name__)
            LOGGER.debug("ups.failed", exc_info=True)
            return False

    def _uid_of(self, work_item_id: int, created_at: float) -> str:
        """Of the installation, the row and the moment of its birth: a new store that counts from 1 meets no old UID."""
        return derive("ups", self._device, str(work_item_id), repr(created_at))

    def _moment(self, seconds: float) -> datetime:
        return datetime.fromtimestamp(seconds, self.zone)


# Keywords of every attribute that a step of ours can have.
SUPPORTED = ups.keywords()


def _instances(groups: Groups) -> tuple[ups.Instances, ...]:
    return tuple(
        ups.Instances(study, series, tuple(sorted(pairs)), titles)
        for (study, series, titles), pairs in sorted(groups.items())
    )


def _supported_part(identifier: Dataset) -> Dataset:
    """The keys that a step of ours can have, and what says how to read them."""
    made = Dataset()
    for element in identifier:
        if element.keyword in SUPPORTED or element.keyword in ups_match.NOT_KEYS:
            made.add(element)
    return made


def _priority(value: int) -> str:
    return next(word for word, least in PRIORITIES.items() if value >= least or least == min(PRIORITIES.values()))


def _exact(keys: Dataset, keyword: str) -> str | None:
    value = ups_match.text(keys, keyword)
    return value if value and not set(value) & set("*?\\") else None


def _start(keys: Dataset, zone: tzinfo) -> tuple[float, float] | None:
    value = ups_match.text(keys, "ScheduledProcedureStepStartDateTime")
    return ups_match.moments(value, zone) if value and value.strip("*") else None


def _request_uids(keys: Dataset) -> tuple[str, ...] | None:
    sequence = keys.get("ReferencedRequestSequence") or []
    return ups_match.uids(sequence[0], "StudyInstanceUID") if sequence else None


def _texts(keys: Dataset) -> Iterator[tuple[str, str]]:
    """(column of `study`, value) of the keys about patient and request that are not universal, but the name."""
    for keyword, column in _LIKE.items():
        value = ups_match.text(keys, keyword)
        if value.strip("*") and not (column == "patient_birth_date" and "-" in value):
            yield column, value
    sequence = keys.get("ReferencedRequestSequence") or []
    accession = ups_match.text(sequence[0], "AccessionNumber") if sequence else ""
    if accession.strip("*"):
        yield "accession_number", accession


def _like(value: str) -> str:
    """A LIKE pattern that matches no less than the DICOM pattern: SQLite folds the case of ASCII letters alone."""
    plain = re.sub(r"([%_\\])", r"\\\1", value.rstrip("^= "))
    return "".join(c if c.isascii() else "_" for c in plain.replace("*", "%").replace("?", "_"))
