"""The patient's current identity, put onto the headers of the evidence before anything is composed from them. PHI."""

import hashlib
import json
from collections.abc import Mapping

from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from dicom_node.identity import FILED_BY, KEYWORDS, Identity, normal_name

Overlay = Mapping[str, str]  # attribute of Identity -> value that takes the place of what the images carry

# What a header says of a person beside name, birth date and sex (PS3.3 C.7.1.1, C.7.2.2): under another Patient ID it
# may be about somebody else, and its qualifiers are of the old ID.
_OF_THE_PERSON = (
    "IssuerOfPatientIDQualifiersSequence", "TypeOfPatientID", "OtherPatientIDsSequence", "OtherPatientIDs",
    "PatientBirthTime", "PatientBirthDateInAlternativeCalendar", "PatientAlternativeCalendar", "OtherPatientNames",
    "EthnicGroup", "PatientComments", "ResponsiblePerson", "ResponsiblePersonRole", "ResponsibleOrganization",
    "AdmissionID", "IssuerOfAdmissionIDSequence", "AdmittingDiagnosesDescription", "MedicalAlerts", "Allergies",
    "SmokingStatus", "PregnancyStatus", "AdditionalPatientHistory", "PatientState",
)  # fmt: skip


def overlay_of(carried: Identity, current: Identity) -> dict[str, str]:
    """What of the current identity is not what the images carry; {} where both say the same.

    >>> overlay_of(Identity("A", patient_name="Doe^John^^"), Identity("B", patient_name="Doe^John"))
    {'patient_id': 'B'}
    """
    pairs = {name: (getattr(carried, name), getattr(current, name)) for name in FILED_BY}
    before, after = pairs["patient_name"]
    if normal_name(before) == normal_name(after):
        del pairs["patient_name"]
    return {name: now for name, (then, now) in pairs.items() if then != now}


def digest_of(overlay: Overlay) -> str:
    """Part of every UID made under it; '' for an empty one, so that UIDs without it stay what they are."""
    return hashlib.sha256(json.dumps(dict(overlay), sort_keys=True).encode()).hexdigest() if overlay else ""


def with_identity(header: Dataset, overlay: Overlay) -> Dataset:
    """The header with the overlay in it, changed in place; whatever its character set, the values are text."""
    if not overlay:
        return header
    if "patient_id" in overlay:
        for keyword in _OF_THE_PERSON:
            _drop(header, keyword)
    if "patient_birth_date" in overlay:
        _drop(header, "PatientAge")  # it was counted from the other date
    for name, value in overlay.items():
        keyword = KEYWORDS[name]
        if name == "issuer_of_patient_id" and not value:
            _drop(header, keyword)  # type 3
        else:
            header[keyword] = DataElement(Tag(keyword), dictionary_VR(keyword), value, validation_mode=IGNORE)
    return header


def _drop(header: Dataset, keyword: str) -> None:
    if Tag(keyword) in header:
        del header[Tag(keyword)]
