"""Source headers for the report stage: patient and study attributes as the CT has them, and stand-ins for highdicom.

highdicom copies names into its log and refuses legacy character sets, malformed dates and absent type 2 attributes
(facts measured with 0.28.2). It is therefore given stand-ins without identity; identity is put in afterwards.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID

from reports import legal
from reports.uids import digest

# Patient, Clinical Trial Subject, General Study, Patient Study and Clinical Trial Study modules (PS3.3 C.7.1, C.7.2).
# The first ten are type 1 or 2: present in every output, empty where the source has none.
IDENTITY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyTime",
    "StudyID", "AccessionNumber", "ReferringPhysicianName",
    "IssuerOfPatientID", "IssuerOfPatientIDQualifiersSequence", "TypeOfPatientID", "OtherPatientIDsSequence",
    "PatientBirthTime", "PatientBirthDateInAlternativeCalendar", "PatientAlternativeCalendar", "OtherPatientNames",
    "EthnicGroup", "PatientComments", "QualityControlSubject", "PatientIdentityRemoved", "DeidentificationMethod",
    "DeidentificationMethodCodeSequence", "PatientSpeciesDescription", "PatientSpeciesCodeSequence",
    "ResponsiblePerson", "ResponsiblePersonRole", "ResponsibleOrganization",
    "ClinicalTrialSponsorName", "ClinicalTrialProtocolID", "ClinicalTrialProtocolName", "ClinicalTrialSiteID",
    "ClinicalTrialSiteName", "ClinicalTrialSubjectID", "ClinicalTrialSubjectReadingID", "ClinicalTrialTimePointID",
    "ClinicalTrialTimePointDescription",
    "StudyDescription", "IssuerOfAccessionNumberSequence", "ReferringPhysicianIdentificationSequence",
    "ConsultingPhysicianName", "PhysiciansOfRecord", "RequestingService", "ProcedureCodeSequence",
    "ReasonForPerformedProcedureCodeSequence", "PatientAge", "PatientSize", "PatientWeight", "PatientBodyMassIndex",
    "AdmissionID", "IssuerOfAdmissionIDSequence", "AdmittingDiagnosesDescription", "MedicalAlerts", "Allergies",
    "SmokingStatus", "PregnancyStatus", "AdditionalPatientHistory", "PatientState", "PatientSexNeutered",
)  # fmt: skip
_REQUIRED = IDENTITY[:10]
# What a PACS files a result by: copied as it is, legal or not, for another value means another patient or study.
_MATCHED = ("PatientName", "PatientID", "IssuerOfPatientID", "StudyInstanceUID", "AccessionNumber")

_SOP_CLASS, _SOP_INSTANCE = Tag("ReferencedSOPClassUID"), Tag("ReferencedSOPInstanceUID")
_REFERENCE = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_IMAGE = (
    "Modality", "FrameOfReferenceUID",
    "PositionReferenceIndicator", "ImageType", "Rows", "Columns", "NumberOfFrames", "ImagePositionPatient",
    "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "DimensionIndexSequence",
    "DimensionOrganizationSequence", "DimensionOrganizationType", "LossyImageCompression",
    "LossyImageCompressionRatio", "LossyImageCompressionMethod", "BurnedInAnnotation",
)  # fmt: skip

_REFERENCE_TAGS = tuple((keyword, Tag(keyword)) for keyword in _REFERENCE)
_IMAGE_TAGS = frozenset(Tag(keyword) for keyword in _IMAGE)
_SLICE_TAGS = frozenset(
    Tag(keyword)
    for keyword in ("Rows", "Columns", "FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient")
)
_EMPTY = tuple(
    (Tag(keyword), dictionary_VR(keyword), None if keyword in {"StudyDate", "StudyTime"} else "")
    for keyword in _REQUIRED
)


class EvidenceError(ValueError):
    """A source header lacks what every DICOM object must have; the text names the attribute."""


class Mask(NamedTuple):
    """What was scored: bool (slices, rows, columns), which slices hold any of it, and its digest, part of each UID."""

    voxels: NDArray[np.bool_]
    held: NDArray[np.bool_]
    digest: str

    @staticmethod
    def of(voxels: NDArray[np.bool_]) -> "Mask":
        held: NDArray[np.bool_] = np.any(voxels, axis=(1, 2)) if voxels.ndim == 3 else np.zeros(0, bool)
        return Mask(voxels, held, digest(voxels))


def identity(source: Dataset) -> Dataset:
    """Patient and study attributes of `source` as text independent of its character set.

    What a PACS files by is taken as it is. Of the rest, over-long text is cut and a malformed value left empty: an
    illegal value would make every object of ours illegal. Patient Sex is brought to M, F, O or empty.
    """
    copied = Dataset()
    for keyword in IDENTITY:
        element = legal.read(source, Tag(keyword))
        kept = None if element is None else (legal.verbatim if keyword in _MATCHED else legal.legal)(element)
        if kept is not None:
            copied.add(kept)
        elif keyword in _REQUIRED:
            setattr(copied, keyword, "")
    sex_given = legal.read(source, Tag("PatientSex"))
    sex = "" if sex_given is None else str(sex_given.value or "").strip().upper()
    copied.PatientSex = sex if sex in {"M", "F", "O"} else ""
    return copied


def stand_in(source: Dataset) -> Dataset:
    """What highdicom may see of a source: references and image plane, no person.

    Raises
    ------
    EvidenceError
        Where a UID that every reference needs is absent.
    """
    seen = _seen(source, _IMAGE_TAGS)
    for tag, vr, empty in _EMPTY:
        if tag not in seen:
            seen.add(DataElement(tag, vr, empty))
    return seen


def slice_stand_in(source: Dataset) -> Dataset:
    """What highdicom looks at in all slices of a series but the first; raises as `stand_in` does."""
    return _seen(source, _SLICE_TAGS)


def _seen(source: Dataset, tags: frozenset[BaseTag]) -> Dataset:
    seen = reference(source)
    for tag in tags.intersection(source.keys()):
        element = legal.read(source, tag)
        if element is not None:
            seen.add(legal.shallow(element))  # never the element itself: highdicom and we write into stand-ins
    return seen


class Reference(NamedTuple):
    """The four UIDs that evidence is made of."""

    sop_class_uid: UID
    sop_instance_uid: UID
    study_instance_uid: UID
    series_instance_uid: UID


def refer(source: Dataset) -> Reference:
    """What a document says of a source; raises as `stand_in` does."""
    return Reference(*(_referred(source, keyword, tag) for keyword, tag in _REFERENCE_TAGS))


def _referred(source: Dataset, keyword: str, tag: BaseTag) -> UID:
    found: Any = source.get_item(tag)  # raw, where nobody has looked at it
    plain = isinstance(found, RawDataElement) and found.VR in ("UI", None) and found.value and b"\\" not in found.value
    value: Any = _uid(found.value) if plain else source.get(keyword)
    if not value or not isinstance(value, str):
        raise EvidenceError(f"evidence has no {keyword}; send the object again with a complete header")
    return value if isinstance(value, UID) else UID(value)


@lru_cache(maxsize=512)
def _uid(value: bytes) -> UID:
    """As pydicom converts it; the slices of a CT share three of their four."""
    return UID(value.decode("iso8859").rstrip("\0 "))


def reference(source: Dataset) -> Dataset:
    """The four UIDs as a data set; raises as `stand_in` does."""
    made = Dataset()
    for (_, tag), value in zip(_REFERENCE_TAGS, refer(source), strict=True):
        made.add(DataElement(tag, "UI", value, already_converted=True))
    return made


def sop_reference(source: Reference) -> Dataset:
    """An item of a sequence of SOP references (PS3.3 table 10-11). Some hundred of them stand in each object."""
    made = Dataset()
    made.add(DataElement(_SOP_CLASS, "UI", source.sop_class_uid, already_converted=True))
    made.add(DataElement(_SOP_INSTANCE, "UI", source.sop_instance_uid, already_converted=True))
    return made


def frame_count(source: Dataset) -> int:
    """Number Of Frames (0028,0008); 1 for single-frame objects."""
    return int(source.get("NumberOfFrames") or 1)
