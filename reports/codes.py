"""Every coded concept that the reports use: DCM, SCT, LN, UCUM, IBSI, and our own scheme 99PROGNODE.

No DCM code exists for a predicted survival probability, and IBSI codes are claimed only for features that were
checked against the IBSI reference values; the rest is coded privately (PS3.3 8.2: designators that begin with 99).
"""

import hashlib
from typing import TYPE_CHECKING, Final

from pydicom.sr.coding import Code

from analysis.contract import Endpoint, Measurement, Reason, RiskGroup
from reports import words

if TYPE_CHECKING:
    from highdicom.coding_schemes import CodingSchemeIdentificationItem

SCHEME: Final = "99PROGNODE"
MAX_MEANING: Final = 64  # LO
MAX_VALUE: Final = 16  # SH: longer codes go to Long Code Value, which few viewers know


def dcm(value: str, meaning: str) -> Code:
    """A DICOM Controlled Terminology code (PS3.16 D)."""
    return Code(value, "DCM", meaning)


def own(value: str, meaning: str) -> Code:
    """A code of our scheme; the meaning is cut to 64 characters."""
    return Code(value, SCHEME, clip(meaning))


def clip(text: str, length: int = MAX_MEANING) -> str:
    """`text` in at most `length` characters, the cut marked.

    >>> clip("abcdef", 4)
    'a...'
    """
    return text if len(text) <= length else text[: length - 3] + "..."


ONCOLOGY_REPORT: Final = dcm("126001", "Oncology Measurement Report")
IMAGING_REPORT: Final = dcm("126000", "Imaging Measurement Report")
ARTIFICIAL_INTELLIGENCE: Final = dcm("123110", "Artificial Intelligence")
MANUAL_PROCESSING: Final = dcm("123109", "Manual Processing")
NEOPLASM: Final = Code("372087000", "SCT", "Neoplasm, Primary")
ABNORMAL_STRUCTURE: Final = Code("49755003", "SCT", "Morphologically Abnormal Structure")
QUALITATIVE_EVALUATIONS: Final = Code("C0034375", "UMLS", "Qualitative Evaluations")
PERCENT: Final = Code("%", "UCUM", "Percent")

STATEMENT_OF_USE: Final = own("USE", "Statement of use")
WARNING: Final = own("WARNING", "Warning")
SUB_MODEL: Final = own("SUB_MODEL", "Sub-model that spoke")
VALIDATION: Final = own("VALIDATION", "Validation of this sub-model")
NOT_AVAILABLE: Final = own("NOT_AVAILABLE", "Not available for this score")
CLIPPED: Final = own("CLIPPED", "Raised to the risk of death")
CLINICAL_VALUE: Final = own("CLINICAL_VALUE", "Clinical value used")
QUALITY: Final = own("QUALITY", "Quality note")
REGION: Final = own("REGION", "Region scored")
BUNDLE: Final = own("BUNDLE", "Model bundle")
SOFTWARE: Final = own("SOFTWARE", "Software version")
REVISION: Final = own("REVISION", "Revision")
EXTRACTION: Final = own("EXTRACTION", "Extraction setting")
LIFEX_NAMES: Final = own("LIFEX_NAMES", "Names in LIFEx 7")
FAILED_FEATURE: Final = own("FAILED_FEATURE", "Feature not computed")
OUTCOME: Final = own("OUTCOME", "Scoring outcome")
NOT_SCORED: Final = own("NOT_SCORED", words.NOT_SCORED)
REASON: Final = own("REASON", "Reason")
REASON_TEXT: Final = own("REASON_TEXT", "Why this study was not scored")
REASON_DETAIL: Final = own("REASON_DETAIL", "Detail")
REPORT_OF_PAGE: Final = own("REPORT_OF_PAGE", "Structured report that this page illustrates")
REMEDY: Final = own("REMEDY", "What would make it scorable")

_GROUPS: Final = {  # CID 3118
    RiskGroup.HIGH: Code("15508007", "SCT", words.group(RiskGroup.HIGH)),
    RiskGroup.LOW: Code("75976002", "SCT", words.group(RiskGroup.LOW)),
    RiskGroup.UNCERTAIN: Code("64957009", "SCT", words.group(RiskGroup.UNCERTAIN)),
}

_PROCEDURES: Final = {  # CID 100
    "CT": Code("25045-6", "LN", "CT unspecified body region"),
    "MR": Code("25056-3", "LN", "MRI unspecified body region"),
    "PT": Code("44136-0", "LN", "PET unspecified body region"),
}

_UNITS: Final = {
    "1": "no units",
    "[hnsf'U]": "Hounsfield unit",
    "[hnsf'U]2": "square Hounsfield unit",
    "mm": "millimeter",
    "mm2": "square millimeter",
    "mm3": "cubic millimeter",
    "/mm": "per millimeter",
    "%": "Percent",
    "mL": "milliliter",
}


def probability(endpoint: Endpoint, horizon_months: int) -> Code:
    """Name of a predicted event probability.

    >>> probability(Endpoint.OS, 12).meaning
    'Predicted probability of death within 12 months'
    """
    meaning = f"Predicted probability of {words.event(endpoint)} within {horizon_months} months"
    return own(f"{endpoint}_{horizon_months}M_EVENT", meaning)


def interval(endpoint: Endpoint, horizon_months: int) -> Code:
    """Name of the text that holds the interval of a predicted event probability.

    >>> interval(Endpoint.PFS, 36).meaning
    'Interval, progression or death within 36 months'
    """
    meaning = f"Interval, {words.event(endpoint)} within {horizon_months} months"
    return own(f"{endpoint}_{horizon_months}M_RANGE", meaning)


def in_words(endpoint: Endpoint, horizon_months: int) -> Code:
    """Name of the text that says a predicted event probability as people count."""
    meaning = f"In words, {words.event(endpoint)} within {horizon_months} months"
    return own(f"{endpoint}_{horizon_months}M_WORDS", meaning)


def group_in_words(endpoint: Endpoint) -> Code:
    """Name of the text that says what a risk group means."""
    return own(f"{endpoint}_GROUP_WORDS", f"In words, risk group, {words.survival(endpoint)}")


def risk_group_name(endpoint: Endpoint) -> Code:
    """Name of the risk group of an endpoint."""
    return own(f"{endpoint}_RISK_GROUP", f"Model risk group, {words.survival(endpoint)}")


def contribution_name(endpoint: Endpoint) -> Code:
    """Name of a text about what moved the score of an endpoint."""
    return own(f"{endpoint}_CONTRIB", f"Contribution to the score, {words.survival(endpoint)}")


def risk_group(group: RiskGroup) -> Code:
    """A risk group as CID 3118 has it."""
    return _GROUPS[group]


def procedure(modality: str) -> Code:
    """Procedure reported (121058, DCM) by modality of the images; CT where they are not known."""
    return _PROCEDURES.get(modality, _PROCEDURES["CT"])


def unit(ucum: str) -> Code:
    """A UCUM unit; one that is not in our table has its own code as meaning."""
    return Code(ucum, "UCUM", clip(_UNITS.get(ucum, ucum)))


def reason(value: Reason) -> Code:
    """A NOT_SCORED reason. Names too long for a Code Value are cut and made unique by a digest.

    >>> reason(Reason.GANTRY_TILT).value, len(reason(Reason.REFERENCED_CT_INCOMPLETE).value)
    ('GANTRY_TILT', 16)
    """
    return own(short_value(value.value), value.value.replace("_", " ").capitalize().replace("roi ", "ROI "))


def feature(measurement: Measurement, ibsi_taken: bool = False) -> Code:
    """Name of a radiomic feature: its IBSI code where claimed, else a private one derived from its name.

    `ibsi_taken`: the group has this IBSI code already, and one concept may not mean two numbers.
    """
    if measurement.ibsi_id and not ibsi_taken:
        return Code(measurement.ibsi_id, "IBSI", clip(measurement.ibsi_name or measurement.name))
    return own(short_value(measurement.name), measurement.name)


def short_value(name: str) -> str:
    """A Code Value of at most 16 characters: the name itself, or its start and a digest of it.

    >>> short_value("MISSING_SLICE"), len(short_value("original_glcm_JointEntropy"))
    ('MISSING_SLICE', 16)
    """
    if len(name) <= MAX_VALUE:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()
    return f"{name[:3]}_{digest[:12]}"


def coding_schemes() -> "list[CodingSchemeIdentificationItem]":
    """Coding Scheme Identification Sequence (0008,0110): the schemes outside the standard."""
    # The web process knows our codes and needs nothing of highdicom.
    from highdicom.coding_schemes import CodingSchemeIdentificationItem  # noqa: PLC0415

    return [
        CodingSchemeIdentificationItem(
            designator=SCHEME,
            name="Prognode private codes",
            responsible_organization="Prognode",
        ),
        CodingSchemeIdentificationItem(
            designator="IBSI",
            name="Image Biomarker Standardisation Initiative",
            responsible_organization="IBSI",
        ),
    ]
