"""Clinical values for the model: age and sex from the CT's header, the rest from the site's table.

The snapshot is taken once, when the work item is scheduled; it is part of its key and is named in the report.
"""

import csv
import math
from datetime import date
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset

from analysis.contract import ClinicalValue
from config.settings import Clinical
from dicom_node.workitem import Permanent, Retryable

_TAGS = ["PatientID", "PatientAge", "PatientBirthDate", "PatientSex", "StudyDate"]
_YEARS = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}


def snapshot(ct: Path, settings: Clinical, wanted: frozenset[str]) -> tuple[ClinicalValue, ...]:
    """Values of the predictors named in `wanted`, by name; the site's table wins over the header.

    Raises
    ------
    Retryable
        The table is configured but cannot be opened just now.
    Permanent
        The table has no such patient column, or is not a CSV table in UTF-8.
    """
    header = dcmread(ct, stop_before_pixels=True, specific_tags=_TAGS)
    found = {value.name: value for value in _from_header(header)}
    if settings.table is not None:
        patient_id = str(header.get("PatientID") or "").strip()
        found |= {value.name: value for value in _from_table(settings.table, settings.patient_id_column, patient_id)}
    return tuple(found[name] for name in sorted(found) if name in wanted)


def _from_header(header: Dataset) -> list[ClinicalValue]:
    values = []
    age = _age(header)
    if age is not None:
        source = "DICOM PatientAge" if header.get("PatientAge") else "DICOM PatientBirthDate and StudyDate"
        values.append(ClinicalValue(name="age", value=age, unit="a", source=source))
    sex = str(header.get("PatientSex") or "").strip().upper()
    if sex in ("M", "F"):
        values.append(ClinicalValue(name="sex", value=sex, source="DICOM PatientSex"))
    return values


def _age(header: Dataset) -> float | None:
    """Age in years from Patient's Age (0010,1010), else from the dates; None when neither can be read."""
    text = str(header.get("PatientAge") or "").strip()
    if len(text) == 4 and text[:3].isdigit() and text[3] in _YEARS:
        return round(int(text[:3]) * _YEARS[text[3]], 2)
    try:
        born, study = (date.fromisoformat(str(header.get(tag) or "")) for tag in ("PatientBirthDate", "StudyDate"))
    except ValueError:
        return None
    years = study.year - born.year - ((study.month, study.day) < (born.month, born.day))
    return float(years) if 0 <= years < 130 else None


def _from_table(table: Path, column: str, patient_id: str) -> list[ClinicalValue]:
    if not patient_id:
        return []
    try:
        with table.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            if column not in (reader.fieldnames or ()):
                raise Permanent(
                    f"the clinical table has no column {column!r}",
                    "name the patient ID column in [clinical] patient_id_column",
                )
            rows = [row for row in reader if (row[column] or "").strip() == patient_id]
    except OSError as error:
        raise Retryable(f"the clinical table cannot be read ({error.strerror})", "check [clinical] table") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise Permanent("the clinical table is not CSV in UTF-8", "export it again as CSV, UTF-8") from error
    if len(rows) > 1:
        raise Permanent(
            f"the clinical table has {len(rows)} lines for one patient", "leave one line per patient, then retry"
        )
    return [
        ClinicalValue(name=name.strip(), value=_parsed(text), source="clinical table")
        for row in rows
        for name, text in row.items()
        if name and name != column and isinstance(text, str) and text.strip()
    ]


def _parsed(text: str) -> float | str:
    try:
        number = float(text)
    except ValueError:
        return text.strip()
    return number if math.isfinite(number) else text.strip()
