"""Unified Procedure Step: facts of a work item in, the UPS data set out (PS3.3 C.30, required by PS3.4 Table CC.2.5-3).

Pure: no I/O and no clock. Event informations (PS3.4 Table CC.2.4-1) are made here too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from pydicom.dataset import Dataset

from analysis.contract import RESEARCH_USE, wording

SOP_CLASS_UID: Final = "1.2.840.10008.5.1.4.34.6.1"  # Unified Procedure Step - Push: of every UPS (PS3.4 CC.3.1)
WORKLIST_UID: Final = "1.2.840.10008.5.1.4.34.5"  # UPS Global Subscription
FILTERED_WORKLIST_UID: Final = "1.2.840.10008.5.1.4.34.5.1"
LABEL: Final = "NSCLC survival prediction (research use)"
SCHEME: Final = "99PROGNODE"  # of reports.codes, which a listener must not load for it
STATE_REPORT, CANCEL_REQUESTED, PROGRESS_REPORT, SCP_STATUS_CHANGE, ASSIGNED = 1, 2, 3, 4, 5  # Event Type IDs

# CID 9231: not "Computer Aided Diagnosis", for research use is not diagnosis.
_WORKITEM: Final = ("110001", "DCM", "Image Processing")
_UNSPECIFIED: Final = ("110513", "DCM", "Discontinued for unspecified reason")
_DUPLICATE: Final = ("110510", "DCM", "Duplicate order")
_RESCHEDULED: Final = ("110528", "DCM", "Discontinued Procedure Step rescheduled")
_DISCONTINUATION: Final = {  # why we cancel (event.detail) -> CID 9300
    "superseded": _RESCHEDULED,
    "a contour came": _RESCHEDULED,
    "the bundle has changed": _RESCHEDULED,
    "nothing has changed": _DUPLICATE,
}

_SAID_WITH_CANCEL: Final = (
    "ReasonForCancellation",
    "ProcedureStepDiscontinuationReasonCodeSequence",
    "ContactURI",
    "ContactDisplayName",
)


@dataclass(frozen=True)
class Instances:
    """Referenced Instances and Access (PS3.3 Table 10-3b): (SOP class, SOP instance) pairs of one series."""

    study_instance_uid: str
    series_instance_uid: str
    references: tuple[tuple[str, str], ...]
    retrieve_ae_titles: tuple[str, ...]


@dataclass(frozen=True)
class StepFacts:
    """What of a work item goes into its UPS. Times carry their zone.

    Attributes
    ----------
    identity : mapping
        DICOM keywords of the Patient and General Study Module to their text; empty where not known.
    state, readiness, priority : str
        Procedure Step State, Input Readiness State, HIGH, MEDIUM or LOW.
    inputs, outputs : tuple of Instances
        What is or was needed, and what destinations have taken.
    destinations : tuple of str
        AE titles that results go to.
    replaced : tuple of str
        SOP Instance UIDs of the steps that this one replaces.
    reason : str
        Code of analysis.reasons: why it waits or was not scored; others are shown as they are.
    outcome : str
        SCORED, NOT_SCORED or ''.
    bundle_digest : str
        Of the model bundle that it was planned with; '' before.
    """

    sop_instance_uid: str
    ae_title: str
    state: str
    readiness: str
    priority: str
    created: datetime
    modified: datetime
    study_instance_uid: str
    identity: Mapping[str, str]
    progress: int = 0
    progress_description: str = ""
    started: datetime | None = None
    ended: datetime | None = None
    cancellation_reason: str = ""
    outcome: str = ""
    reason: str = ""
    inputs: tuple[Instances, ...] = ()
    outputs: tuple[Instances, ...] = ()
    destinations: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    bundle_digest: str = ""


def data_set(facts: StepFacts) -> Dataset:
    """The whole UPS, as N-GET gives it. Transaction UID is not in it: it is nobody's to see (CC.2.7.3)."""
    made = Dataset()
    made.SpecificCharacterSet = "ISO_IR 192"
    made.SOPClassUID = SOP_CLASS_UID
    made.SOPInstanceUID = facts.sop_instance_uid
    _scheduled(made, facts)
    _relationship(made, facts)
    made.ProcedureStepState = facts.state
    made.ProcedureStepProgressInformationSequence = [progress_information(facts)]
    made.UnifiedProcedureStepPerformedProcedureSequence = [_performed(facts)] if facts.started else []
    return made


def progress_information(facts: StepFacts) -> Dataset:
    """Item of Progress Information Sequence (0074,1002)."""
    item = Dataset()
    item.ProcedureStepProgress = str(facts.progress)
    item.ProcedureStepProgressDescription = _clip(facts.progress_description or _waits_for(facts), 1024)
    item.ProcedureStepCommunicationsURISequence = []
    if facts.state == "CANCELED" and facts.ended is not None:
        item.ProcedureStepCancellationDateTime = when(facts.ended)
        item.ReasonForCancellation = _clip(facts.cancellation_reason or "canceled", 1024)
        item.ProcedureStepDiscontinuationReasonCodeSequence = [discontinuation(facts.cancellation_reason)]
    return item


def discontinuation(reason: str) -> Dataset:
    """Procedure Step Discontinuation Reason (CID 9300) of a cancellation of ours."""
    return _code(*_DISCONTINUATION.get(reason, _UNSPECIFIED))


def station(ae_title: str) -> Dataset:
    """Item of Scheduled and Performed Station Name Code Sequence: the node's AE title."""
    return _code(ae_title, SCHEME, ae_title)


def state_report(state: str, readiness: str, reason: str | None = None) -> Dataset:
    """UPS State Report; `reason` is why it was canceled."""
    information = Dataset()
    information.ProcedureStepState = state
    information.InputReadinessState = readiness
    if reason is not None:
        information.ReasonForCancellation = _clip(reason or "canceled", 1024)
        information.ProcedureStepDiscontinuationReasonCodeSequence = [discontinuation(reason)]
    return information


def progress_report(progress: int, description: str) -> Dataset:
    """UPS Progress Report."""
    information, item = Dataset(), Dataset()
    item.ProcedureStepProgress = str(progress)
    item.ProcedureStepProgressDescription = _clip(description, 1024)
    information.ProcedureStepProgressInformationSequence = [item]
    return information


def cancel_requested(requesting_ae: str, said: Dataset) -> Dataset:
    """UPS Cancel Requested: who asks, and of what it said the attributes that the event has."""
    information = Dataset()
    for keyword in _SAID_WITH_CANCEL:
        if keyword in said:
            information.add(said[keyword])
    information.SpecificCharacterSet = "ISO_IR 192"
    information.RequestingAE = requesting_ae
    return information


def assigned(ae_title: str) -> Dataset:
    """UPS Assigned: always to this node, which performs every step that it lists."""
    information = Dataset()
    information.ScheduledStationNameCodeSequence = [station(ae_title)]
    return information


def scp_status_change(status: str) -> Dataset:
    """SCP Status Change: RESTARTED or GOING DOWN. Subscriptions and steps are on disk: always a warm start."""
    information = Dataset()
    information.SCPStatus = status
    information.SubscriptionListStatus = "WARM START"
    information.UnifiedProcedureStepListStatus = "WARM START"
    return information


def when(moment: datetime) -> str:
    """Date Time (DT, PS3.5 6.2) with its offset.

    >>> from datetime import UTC
    >>> when(datetime(2026, 3, 2, 9, 15, 30, 250000, tzinfo=UTC))
    '20260302091530.250000+0000'
    """
    return moment.strftime("%Y%m%d%H%M%S.%f%z")


def _scheduled(made: Dataset, facts: StepFacts) -> None:
    made.ScheduledProcedureStepPriority = facts.priority
    made.ScheduledProcedureStepModificationDateTime = when(facts.modified)
    made.ProcedureStepLabel = LABEL
    made.WorklistLabel = facts.ae_title
    made.ScheduledProcessingParametersSequence = _parameters(facts)
    made.ScheduledStationNameCodeSequence = [station(facts.ae_title)]
    made.ScheduledStationClassCodeSequence = []
    made.ScheduledStationGeographicLocationCodeSequence = []
    made.ScheduledProcedureStepStartDateTime = when(facts.created)
    made.ScheduledWorkitemCodeSequence = [_code(*_WORKITEM)]
    made.CommentsOnTheScheduledProcedureStep = RESEARCH_USE
    made.InputReadinessState = facts.readiness
    made.InputInformationSequence = [_instances(group) for group in facts.inputs]
    made.StudyInstanceUID = facts.study_instance_uid
    made.OutputDestinationSequence = [_destination(title) for title in facts.destinations]


def _relationship(made: Dataset, facts: StepFacts) -> None:
    identity = facts.identity
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex"):
        setattr(made, keyword, identity.get(keyword, ""))
    if identity.get("IssuerOfPatientID"):
        made.IssuerOfPatientID = identity["IssuerOfPatientID"]
    # What a node that hears of images alone does not know: type 2, empty.
    made.OtherPatientIDsSequence = []
    made.AdmissionID = ""
    made.IssuerOfAdmissionIDSequence = []
    made.AdmittingDiagnosesDescription = ""
    made.AdmittingDiagnosesCodeSequence = []
    made.ReferencedRequestSequence = [_request(facts)]
    if facts.replaced:
        made.ReplacedProcedureStepSequence = [_reference(SOP_CLASS_UID, uid) for uid in facts.replaced]


def _request(facts: StepFacts) -> Dataset:
    item = Dataset()
    item.StudyInstanceUID = facts.study_instance_uid
    item.AccessionNumber = facts.identity.get("AccessionNumber", "")
    item.IssuerOfAccessionNumberSequence = []
    item.OrderPlacerIdentifierSequence = []
    item.OrderFillerIdentifierSequence = []
    item.RequestedProcedureID = ""
    item.RequestedProcedureDescription = ""
    item.RequestedProcedureCodeSequence = []
    if facts.identity.get("ReferringPhysicianName"):
        item.ReferringPhysicianName = facts.identity["ReferringPhysicianName"]
    return item


def _performed(facts: StepFacts) -> Dataset:
    item = Dataset()
    item.PerformedStationNameCodeSequence = [station(facts.ae_title)]
    item.PerformedStationClassCodeSequence = []
    item.PerformedStationGeographicLocationCodeSequence = []
    if facts.started is not None:
        item.PerformedProcedureStepStartDateTime = when(facts.started)
    item.PerformedProcedureStepDescription = _description(facts)
    item.CommentsOnThePerformedProcedureStep = _comments(facts)
    item.PerformedWorkitemCodeSequence = [_code(*_WORKITEM)]
    item.PerformedProcessingParametersSequence = _parameters(facts)
    if facts.ended is not None:
        item.PerformedProcedureStepEndDateTime = when(facts.ended)
    item.OutputInformationSequence = [_instances(group) for group in facts.outputs]
    return item


def _description(facts: StepFacts) -> str:
    """Not scored is an answer, with objects of its own: the step is COMPLETED, and this says which answer it is."""
    words = {"SCORED": "Scored", "NOT_SCORED": f"Not scored: {facts.reason}"}.get(facts.outcome, "")
    return _clip(words, 64)


def _comments(facts: StepFacts) -> str:
    if facts.outcome == "NOT_SCORED" and (text := wording(facts.reason)):
        return _clip(f"{text.sentence} {text.remedy} {RESEARCH_USE}", 1024)
    return RESEARCH_USE


def _waits_for(facts: StepFacts) -> str:
    if facts.state == "SCHEDULED" and facts.readiness != "READY" and (text := wording(facts.reason)):
        return text.sentence
    return facts.readiness.lower() if facts.state == "SCHEDULED" else ""


def _parameters(facts: StepFacts) -> list[Dataset]:
    """The model bundle as a TEXT content item (PS3.3 Table 10-2)."""
    if not facts.bundle_digest:
        return []
    item = Dataset()
    item.ValueType = "TEXT"
    item.ConceptNameCodeSequence = [_code("BUNDLE", SCHEME, "Model bundle")]
    item.TextValue = f"SHA-256 {facts.bundle_digest}"
    return [item]


def _instances(group: Instances) -> Dataset:
    item = Dataset()
    item.TypeOfInstances = "DICOM"
    item.StudyInstanceUID = group.study_instance_uid
    item.SeriesInstanceUID = group.series_instance_uid
    item.ReferencedSOPSequence = [_reference(*pair) for pair in group.references]
    item.DICOMRetrievalSequence = []
    for title in group.retrieve_ae_titles:
        place = Dataset()
        place.RetrieveAETitle = title
        item.DICOMRetrievalSequence.append(place)
    return item


def _destination(ae_title: str) -> Dataset:
    item, storage = Dataset(), Dataset()
    storage.DestinationAE = ae_title
    item.DICOMStorageSequence = [storage]
    return item


def _reference(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, sop_instance_uid
    return item


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _clip(text: str, length: int) -> str:
    plain = "".join(c if c.isprintable() and c != "\\" else " " for c in text)
    return plain if len(plain) <= length else plain[: length - 3] + "..."


def keywords() -> frozenset[str]:
    """Keywords of every attribute that a UPS of ours can have."""
    moment = datetime(1970, 1, 1, tzinfo=UTC)
    identity = {"IssuerOfPatientID": "-"}
    facts = StepFacts("2.25.1", "-", "", "", "", moment, moment, "2.25.1", identity, replaced=("2.25.1",))
    return frozenset(element.keyword for element in data_set(facts))
