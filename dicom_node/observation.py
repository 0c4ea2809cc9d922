"""An observation about a patient as a message carries it: HL7 v2 OBX, or anything of that form. Leaf of the node."""

from dataclasses import dataclass
from typing import NamedTuple


class CodedValue(NamedTuple):
    """A code with its system (HL7 table 0396, a URI or an OID) and what it means in words."""

    code: str
    system: str
    text: str = ""


@dataclass(frozen=True)
class Observation:
    """One value of one patient, as plain text: nothing is converted and nothing judged. '' where absent. PHI.

    Attributes
    ----------
    patient_id, issuer_of_patient_id : str
        Whose; the issuer as DICOM would write it.
    codes : tuple of CodedValue
        What was observed, the same in other systems after it (CE.1-3, CE.4-6).
    value : str
        A number, a date or a text as it was sent.
    coded : tuple of CodedValue
        The value where it is coded (CE, CWE), likewise; `value` is then its text.
    unit : str
    observed_on : str
        ISO date.
    status : str
        HL7 table 0085: F final, C corrected, P preliminary; D, W and X take an earlier value back.
    origin : str
        What makes the same observation, sent again or corrected, the same one: order, code, sub-ID, time.
    """

    patient_id: str
    issuer_of_patient_id: str
    codes: tuple[CodedValue, ...]
    value: str
    coded: tuple[CodedValue, ...] = ()
    unit: str = ""
    observed_on: str = ""
    status: str = ""
    origin: str = ""

    @property
    def withdrawn(self) -> bool:
        """The sender takes back what it said before."""
        return self.status in ("D", "W", "X")
