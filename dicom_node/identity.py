"""Who a study is of: the patient and study attributes that a result must carry. PHI: never logged, never in an error.

Leaf of the node: standard library only.
"""

import hashlib
import json
from dataclasses import dataclass
from itertools import zip_longest
from typing import NamedTuple

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
FILED_BY = (*OF_THE_PATIENT, "accession_number")  # what may change after the images came


class PatientKey(NamedTuple):
    """Patient ID and its issuer. `exact`: means only a patient whose issuer is stated, and is this one."""

    patient_id: str
    issuer: str = ""
    exact: bool = False

    def means(self, patient_id: str, issuer: str) -> bool:
        """Whether this is that patient; where either side names no issuer, the ID decides alone.

        >>> key = PatientKey("4711", "HOSPITAL A")
        >>> key.means("4711", "HOSPITAL A"), key.means("4711", ""), key.means("4711", "HOSPITAL B")
        (True, True, False)
        """
        if self.patient_id != patient_id:
            return False
        return self.issuer == issuer if self.exact else not self.issuer or issuer in ("", self.issuer)


@dataclass(frozen=True)
class Demographics:
    """What a message says of a patient, in DICOM's form; None where it says nothing, '' where it takes a value away."""

    patient_name: str | None = None
    patient_birth_date: str | None = None
    patient_sex: str | None = None


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
        return json.dumps(vars(self), ensure_ascii=False, separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> "Identity":
        return Identity(**json.loads(text))


def patient_digest(patient_id: bytes, issuer: bytes) -> str:
    """Tells patients apart, and nothing else of them; '' without a Patient ID.

    >>> patient_digest(b"4711 ", b"") == patient_digest(b"4711", b""), patient_digest(b"", b"A")
    (True, '')
    """
    patient_id, issuer = patient_id.strip(b" \0"), issuer.strip(b" \0")
    return hashlib.sha256(b"patient\0" + patient_id + b"\0" + issuer).hexdigest()[:16] if patient_id else ""


def normal_name(name: str) -> str:
    """A PN without the delimiters and blanks that say nothing (PS3.5 6.2.1): for comparison.

    >>> normal_name("Doe^John^^^ "), normal_name("Yamada^Tarou=山田^太郎=")
    ('Doe^John', 'Yamada^Tarou=山田^太郎')
    """
    groups = ["^".join(part.strip() for part in group.split("^")).rstrip("^") for group in name.split("=")]
    return "=".join(groups).rstrip("=")


def says_nothing_new(name: str, known: str) -> bool:
    """Whether each group of a PN that `name` has is that of the known one: one that lacks a script is no other name.

    >>> says_nothing_new("Yamada^Tarou^^", "Yamada^Tarou=山田^太郎"), says_nothing_new("Yamada^Jiro", "Yamada^Tarou")
    (True, False)
    """
    groups, known_groups = normal_name(name).split("="), normal_name(known).split("=")
    return any(groups) and all(not one or one == other for one, other in zip_longest(groups, known_groups))
