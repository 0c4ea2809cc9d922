"""Who a study is of: the patient and study attributes that a result must carry. PHI: never logged, never in an error.

Leaf of the node: standard library only.
"""

import json
from dataclasses import asdict, dataclass

# Attribute of Identity -> DICOM keyword, where the keyword is not simply the same words.
KEYWORDS = {
    "patient_id": "PatientID",
    "issuer_of_patient_id": "IssuerOfPatientID",
    "patient_name": "PatientName",
    "patient_birth_date": "PatientBirthDate",
    "patient_sex": "PatientSex",
    "accession_number": "AccessionNumber",
    "study_id": "StudyID",
    "study_date": "StudyDate",
    "study_time": "StudyTime",
    "study_description": "StudyDescription",
    "referring_physician_name": "ReferringPhysicianName",
}
OF_THE_PATIENT = ("patient_id", "issuer_of_patient_id", "patient_name", "patient_birth_date", "patient_sex")


@dataclass(frozen=True)
class Identity:
    """Patient and General Study Module (PS3.3 C.7.1.1, C.7.2.1) as text; '' where absent. Dates are YYYYMMDD."""

    patient_id: str = ""
    issuer_of_patient_id: str = ""
    patient_name: str = ""
    patient_birth_date: str = ""
    patient_sex: str = ""
    accession_number: str = ""
    study_id: str = ""
    study_date: str = ""
    study_time: str = ""
    study_description: str = ""
    referring_physician_name: str = ""

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> "Identity":
        return Identity(**json.loads(text))
