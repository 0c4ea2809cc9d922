"""Clinical values for the model: age and sex from the CT's header, the rest from the site's table.

The snapshot is taken once, when the work item is scheduled; it is part of its key and is named in the report.
"""

import csv
import re
from datetime import date
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset

from analysis.contract import ClinicalValue
from config.settings import Clinical
from dicom_node.elements import ascii_text, encodings_of, name_text
from dicom_node.workitem import Permanent, Retryable

_TAGS = ["SpecificCharacterSet", "PatientID", "PatientAge", "PatientBirthDate", "PatientSex", "StudyDate"]
_YEARS = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}
_NUMBER = re.compile(r"[-+]?[0-9]{1,12}(\.[0-9]{0,12})?([eE][-+]?[0-9]{1,2})?")
_AGE = re.compile(r"([0-9]{3})([YMWD])")


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
        patient_id = name_text(header, "PatientID", encodings_of(header))
        for value in _from_table(settings.table, settings.patient_id_column, patient_id):
            found[value.name] = _beside(value, found.get(value.name))
    return tuple(found[name] for name in sorted(found) if name in wanted)


def _beside(value: ClinicalValue, header: ClinicalValue | None) -> ClinicalValue:
    """The table's value; its source says so when the header has another one, the cheapest sign of a wrong patient."""
    if header is None or header.value == value.value:
        return value
    close = isinstance(header.value, float) and isinstance(value.value, float) and abs(header.value - value.value) <= 1
    return value if close else value.model_copy(update={"source": f"clinical table; {header.source} differs"})


def _from_header(header: Dataset) -> list[ClinicalValue]:
    values = []
    age = _age(header)
    if age is not None:
        source = "DICOM PatientAge" if _AGE.fullmatch(ascii_text(header, "PatientAge")) else "DICOM PatientBirthDate"
        values.append(ClinicalValue(name="age", value=age, unit="a", source=source))
    sex = ascii_text(header, "PatientSex").upper()
    if sex in ("M", "F"):
        values.append(ClinicalValue(name="sex", value=sex, source="DICOM PatientSex"))
    return values


def _age(header: Dataset) -> float | None:
    """Age in years from Patient's Age (0010,1010), else from the dates; None when neither can be read."""
    stated = _AGE.fullmatch(ascii_text(header, "PatientAge"))
    if stated:
        return round(int(stated[1]) * _YEARS[stated[2]], 2)
    try:
        born, study = (date.fromisoformat(ascii_text(header, tag)) for tag in ("PatientBirthDate", "StudyDate"))
    except ValueError:
        return None
    years = study.year - born.year - ((study.month, study.day) < (born.month, born.day))
    return float(years) if 0 <= years < 130 else None


def check(settings: Clinical) -> None:
    """Look for a patient that nobody is. Raises Retryable or Permanent when the table cannot be used."""
    if settings.table is not None:
        _from_table(settings.table, settings.patient_id_column, "\0")


def _from_table(table: Path, column: str, patient_id: str) -> list[ClinicalValue]:
    if not patient_id:
        return []
    try:
        with table.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            names = [name.strip() for name in reader.fieldnames or ()]
            if len(set(names)) < len(names):
                raise Permanent("the clinical table has a column name twice", "give each column a name of its own")
            reader.fieldnames = names
            if column not in names:
                raise Permanent(
                    f"the clinical table has no column {column!r}",
                    "name the patient ID column in [clinical] patient_id_column",
                )
            rows = [row for row in reader if (row.get(column) or "").strip() == patient_id]
    except OSError as error:
        raise Retryable(
            f"the clinical table {table} cannot be read ({error.strerror})", "check [clinical] table"
        ) from error
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
    """A plain decimal number, else the text: `float` would also take 1_0, inf and nan."""
    text = text.strip()
    return float(text) if _NUMBER.fullmatch(text) else text
