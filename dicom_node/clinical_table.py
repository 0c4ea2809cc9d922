"""Clinical values that need no store: age and sex from the CT's header, the rest from the site's table."""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset

from config.clinical import Clinical
from dicom_node.clinical_codes import day_of, plain_number
from dicom_node.clinical_values import Kind
from dicom_node.elements import ascii_text
from dicom_node.workitem import Permanent, Retryable

_DAYS = ("StudyDate", "SeriesDate", "AcquisitionDate")
_TAGS = ["SpecificCharacterSet", "PatientAge", "PatientBirthDate", "PatientSex", *_DAYS]
_YEARS = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}
_AGE = re.compile(r"([0-9]{3})([YMWD])")


@dataclass(frozen=True)
class Candidate:
    """One value that a source offers for a predictor. `day`: of the observation, None where not known."""

    name: str
    value: float | str
    source: str
    kind: Kind | str = "table"
    unit: str = ""
    stated: str = ""
    day: date | None = None


@dataclass(frozen=True)
class Header:
    """What the CT's header says: values, and the day from which the age of all others is counted."""

    values: tuple[Candidate, ...]
    day: date | None


def of_header(ct: Path) -> Header:
    """Age (years) and sex of the patient, and the study's date."""
    header = dcmread(ct, stop_before_pixels=True, specific_tags=_TAGS)
    values = []
    age = _age(header)
    if age is not None:
        source = "DICOM PatientAge" if _AGE.fullmatch(ascii_text(header, "PatientAge")) else "DICOM PatientBirthDate"
        values.append(Candidate("age", age, source, "header", unit="a"))
    sex = ascii_text(header, "PatientSex").upper()
    if sex in ("M", "F"):
        values.append(Candidate("sex", sex, "DICOM PatientSex", "header"))
    days = (day_of(ascii_text(header, keyword)) for keyword in _DAYS)
    return Header(tuple(values), next((day for day in days if day), None))


def _age(header: Dataset) -> float | None:
    """Age in years from Patient's Age (0010,1010), else from the dates; None when neither can be read."""
    stated = _AGE.fullmatch(ascii_text(header, "PatientAge"))
    if stated:
        return round(int(stated[1]) * _YEARS[stated[2]], 2)
    born, study = (day_of(ascii_text(header, keyword)) for keyword in ("PatientBirthDate", "StudyDate"))
    if born is None or study is None:
        return None
    years = study.year - born.year - ((study.month, study.day) < (born.month, born.day))
    return float(years) if 0 <= years < 130 else None


def check(settings: Clinical) -> None:
    """Look for a patient that nobody is. Raises Retryable or Permanent when the table cannot be used."""
    of_table(settings, ["\0"])


def of_table(settings: Clinical, patient_ids: Sequence[str]) -> list[Candidate]:
    """The line of the first of these IDs that the site's table has; [] without a table or a line.

    Raises
    ------
    Retryable
        The table is configured but cannot be opened just now.
    Permanent
        The table has no such patient column, two lines for one patient, a day that is none, or is no CSV in UTF-8.
    """
    if settings.table is None or not patient_ids:
        return []
    found = _lines(settings.table, settings.patient_id_column, frozenset(patient_ids) - {""})
    rows = next((found[patient_id] for patient_id in patient_ids if patient_id in found), [])
    if len(rows) > 1:
        raise Permanent(
            f"the clinical table has {len(rows)} lines for one patient", "leave one line per patient, then retry"
        )
    return [value for row in rows for value in _values(row, settings)]


def _lines(table: Path, column: str, patient_ids: frozenset[str]) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
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
            for row in reader:
                patient_id = (row.get(column) or "").strip()
                if patient_id in patient_ids:
                    found.setdefault(patient_id, []).append(row)
    except OSError as error:
        raise Retryable(
            f"the clinical table {table} cannot be read ({error.strerror})", "check [clinical] table"
        ) from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise Permanent("the clinical table is not CSV in UTF-8", "export it again as CSV, UTF-8") from error
    return found


def _values(row: dict[str, str], settings: Clinical) -> list[Candidate]:
    written = (row.get(settings.date_column) or "").strip()
    day = day_of(written)
    if written and day is None:
        raise Permanent(
            f"the clinical table has a day in {settings.date_column!r} that is none", "write it as 2024-03-01"
        )
    others = (settings.patient_id_column, settings.date_column)
    return [
        Candidate(name, _parsed(text), "clinical table", day=day)
        for name, text in row.items()
        if name and name not in others and isinstance(text, str) and text.strip()
    ]


def _parsed(text: str) -> float | str:
    number = plain_number(text)
    return text.strip() if number is None else float(number)
