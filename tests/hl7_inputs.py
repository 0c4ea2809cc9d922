"""What the HL7 tests share: a person, a context, results, and hl7apy as the judge of a message."""

import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from analysis.contract import JobResult
from dicom_node.identity import Identity
from reports.hl7 import Ends, MessageContext, oru_r01
from tests.report_inputs import result

ANNA = Identity(
    patient_id="4711",
    issuer_of_patient_id="HOSPITAL A",
    patient_name="Müller^Jörg^Karl^Dr.^jun.",
    patient_birth_date="19500101",
    patient_sex="M",
    accession_number="ACC0001",
    study_date="20240312",
    study_time="093015.25",
)
# hl7apy's tables lack codes that may be added to them: private schemes, and UCUM (registered in table 0396).
KNOWN_WARNINGS = ("Value 99PROGNODE not in table HL70396", "Value UCUM not in table HL70396")


def scored(**changes: Any) -> JobResult:
    mask = np.zeros((12, 30, 30), bool)
    mask[4:8, 10:20, 10:20] = True
    return result(mask, **changes)


def not_scored(
    reason: str = "GANTRY_TILT", detail: str = "slices are stacked 3.1 degrees off their normal"
) -> JobResult:
    bundle = scored().bundle
    return JobResult(key="k" * 64, outcome="NOT_SCORED", reason=reason, reason_detail=detail, bundle=bundle)


def context(**changes: Any) -> MessageContext:
    values: dict[str, Any] = {
        "key": "k" * 64,
        "destination": "RIS",
        "created": datetime(2026, 3, 2, 9, 15, 30, tzinfo=UTC),
        "ends": Ends("PROGNODE", "RADIOLOGY", "RIS", "HOSPITAL"),
        "study_instance_uid": "1.2.840.1",
        "contour": "1.2.840.2",
        "software_version": "0.1.0",
        "ae_title": "PROGNODE",
        "device_uid": "2.25.7",
        "zone": ZoneInfo("Europe/Berlin"),
    }
    return MessageContext(**(values | changes))


def message(made: JobResult | None = None, person: Identity = ANNA, **changes: Any) -> str:
    return oru_r01(made or scored(), person, context(**changes))


def segments(text: str, name: str) -> list[list[str]]:
    """Fields of the segments of one kind; index n is field n (MSH: n - 1)."""
    return [line.split("|") for line in text.split("\r") if line.startswith(f"{name}|")]


def observations(text: str) -> dict[str, list[str]]:
    """OBX by the code of what they say."""
    return {fields[3].split("^")[0]: [*fields, *[""] * 20] for fields in segments(text, "OBX")}


def findings(text: str, folder: Path) -> list[str]:
    """What hl7apy has against a message, read and judged in its strict way; known warnings left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own regular expressions and tables
        from hl7apy.consts import VALIDATION_LEVEL
        from hl7apy.parser import parse_message
        from hl7apy.validation import Validator

        report = folder / "hl7apy.txt"
        report.write_text("")
        parsed = parse_message(text, validation_level=VALIDATION_LEVEL.STRICT, find_groups=True)
        assert Validator.validate(parsed, report_file=str(report))
    lines = report.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not any(known in line for known in KNOWN_WARNINGS)]


def msh(kind: str, control_id: str = "1", character_set: str = "UNICODE UTF-8", sender: str = "RIS|HOSPITAL") -> str:
    """An MSH segment as a RIS writes it."""
    return f"MSH|^~\\&|{sender}|PROGNODE||20260301120000+0100||{kind}|{control_id}|P|2.5.1||||||{character_set}\r"


def adt(
    event: str, pid: str = "1||4711^^^HOSPITAL^MR||Müller^Jörg||19500101|M", control_id: str = "1", mrg: str = ""
) -> str:
    """An ADT message about one patient."""
    merged = f"MRG|{mrg}\r" if mrg else ""
    return f"{msh(f'ADT^{event}', control_id)}EVN|{event}|20260301120000\rPID|{pid}\r{merged}"
