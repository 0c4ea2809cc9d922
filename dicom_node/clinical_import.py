"""`prognode clinical import`: a table of the site -> clinical values, each checked as the model will check it.

One line per patient with a column per predictor ("albumin", "albumin [g/dL]"), or one line per value with the columns
name, value, unit and observed_on, as `prognode clinical export` writes it. All or nothing; docs/clinical.md.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import lru_cache

from dicom_node.clinical_codes import Codes, Observed, normal_unit, plain_number
from dicom_node.clinical_csv import Line, Table, TableError
from dicom_node.clinical_values import ClinicalEntry
from models.clinical_value import ValueRefused, coerce, is_blank
from models.manifest import Predictor

SOURCE = "CSV import"
LONG = ("name", "value", "unit", "observed_on")  # columns of a table with one line per value
_NAME_AND_UNIT = re.compile(r"(?P<name>[^\[\](]+?)\s*(?:[\[(](?P<unit>[^\[\]()]*)[\])])?")
_OLDEST = date(1900, 1, 1)
PLANNED_DAYS = 366  # a value that is a day, such as the start of therapy, may be planned
LINES_SHOWN = 20


@dataclass(frozen=True)
class Layout:
    """How the table is to be read; what is empty is found out or not there."""

    columns: Mapping[str, str] = field(default_factory=dict)  # column -> "albumin" or "albumin[g/dL]"
    patient_id_column: str = "patient_id"
    issuer_column: str = "issuer_of_patient_id"
    issuer: str = ""  # of every line, where there is no column
    date_column: str = "observed_on"
    date_format: str = ""  # of strptime; '': 2024-03-01 or 20240301
    decimal_comma: bool = False


@dataclass
class Column:
    """What came of one predictor."""

    name: str
    column: str
    taken_as: str = ""  # what was assumed or converted, in words
    values: int = 0
    blank: int = 0
    refused: dict[str, list[int]] = field(default_factory=dict)  # why -> lines
    verdicts: dict[str, int] = field(default_factory=dict)

    def refuse(self, why: str, line: int) -> None:
        self.refused.setdefault(why, []).append(line)


@dataclass
class Report:
    """What an import found. No patient and no value in it: lines and reasons."""

    lines: int = 0
    patients: int = 0
    columns: dict[str, Column] = field(default_factory=dict)  # by predictor
    ignored: list[str] = field(default_factory=list)
    wrong_lines: dict[str, list[int]] = field(default_factory=dict)  # why -> lines

    @property
    def refusals(self) -> int:
        return sum(len(lines) for group in (self.wrong_lines, *self._refused()) for lines in group.values())

    def _refused(self) -> list[dict[str, list[int]]]:
        return [column.refused for column in self.columns.values()]


@dataclass(frozen=True)
class _Source:
    """Where in a line a predictor's value stands, with its unit and day; -1: nowhere."""

    name: str
    value: int
    day: int
    unit: str = ""


class Refused(ValueError):
    """A cell cannot be used, and why, without quoting it."""


class Importer:
    """Reads one table. `report` is whole once `entries` has come to its end."""

    def __init__(
        self, table: Table, layout: Layout, predictors: Mapping[str, Predictor], codes: Codes, today: date
    ) -> None:
        """Raises TableError where the columns do not fit."""
        self._table, self._layout, self._predictors, self._codes = table, layout, predictors, codes
        self._today = today
        self.report = Report()
        self.entry_lines: list[int] = []  # of the entries given so far
        self._place = {name: index for index, name in enumerate(table.columns)}
        self._read = lru_cache(maxsize=100_000)(self._value)
        self._day = lru_cache(maxsize=10_000)(self._parsed_day)
        if layout.patient_id_column not in self._place:
            raise TableError(f"no column {layout.patient_id_column!r}; name the patient ID's with --patient-id-column")
        folded = {name.casefold() for name in table.columns}
        self._is_long = not layout.columns and {"name", "value"} <= folded
        self._says_units = self._is_long and "unit" in folded
        self._sources = [] if self._is_long else self._mapped()

    # -- columns ---------------------------------------------------------------------------------------------

    def _mapped(self) -> list[_Source]:
        unknown = sorted(set(self._layout.columns) - set(self._place))
        if unknown:
            raise TableError(f"no column {unknown[0]!r}, which --map names; columns: {', '.join(self._table.columns)}")
        known = {name.casefold(): name for name in (*self._codes.variables, *self._predictors)}
        known |= {predictor.label.casefold(): name for name, predictor in self._predictors.items()}
        others = (self._layout.patient_id_column, self._layout.issuer_column, self._layout.date_column)
        sources = []
        for column in self._table.columns:
            said = self._layout.columns.get(column, column)
            parts = _NAME_AND_UNIT.fullmatch(said)
            name = known.get(parts["name"].casefold()) if parts else None
            if name is None or column in others:
                self._ignore(column, others)
            elif name in self.report.columns:
                raise TableError(f"columns {self.report.columns[name].column!r} and {column!r} are both {name}")
            else:
                sources.append(self._source(name, column, (parts["unit"] or "").strip() if parts else ""))
        if not sources:
            raise TableError(f"no column is a predictor; map one, such as --map 'Alb=albumin[g/dL]'; {self._names()}")
        return sources

    def _source(self, name: str, column: str, unit: str) -> _Source:
        into = self._unit_of(name)
        taken_as = ""
        if unit and normal_unit(unit) != normal_unit(into):
            factor = self._codes.factor(name, unit, into)
            if factor is None:
                raise TableError(f"column {column!r}: {unit} cannot be converted into {into or 'no unit'} for {name}")
            taken_as = f"{unit} x {factor} = {into}"
        elif not unit:
            taken_as = self._assumed(name)
        self.report.columns[name] = Column(name, column, taken_as)
        own_day = next((self._place[each] for each in (f"{column}_date", f"{name}_date") if each in self._place), -1)
        return _Source(name, self._place[column], own_day, unit)

    def _assumed(self, name: str) -> str:
        into = self._unit_of(name)
        return f"no unit stated, taken as {into}" if into else ""

    def _ignore(self, column: str, others: tuple[str, ...]) -> None:
        if column in self._layout.columns:
            raise TableError(f"--map {column}={self._layout.columns[column]}: is no predictor; {self._names()}")
        if column not in others:
            self.report.ignored.append(column)

    def _names(self) -> str:
        return f"predictors: {', '.join(sorted(self._predictors))}"

    def _unit_of(self, name: str) -> str:
        return self._predictors[name].unit if name in self._predictors else self._codes.variables[name].unit

    def _kind(self, name: str) -> str:
        return self._predictors[name].type if name in self._predictors else self._codes.variables[name].type

    # -- lines -----------------------------------------------------------------------------------------------

    def entries(self, ambiguous_ids: set[str], recorded_by: str) -> Iterator[ClinicalEntry]:
        """Every value that can be used. `ambiguous_ids`: patient IDs that need an issuer."""
        patients = set()
        issuer_at = self._place.get(self._layout.issuer_column, -1)
        for line in self._table.lines():
            self.report.lines += 1
            patient = self._patient(line, issuer_at, ambiguous_ids)
            if patient is None:
                continue
            for name, said, day in self._values(line):
                patients.add(patient)
                self.entry_lines.append(line.number)
                yield ClinicalEntry(
                    patient_id=patient[0],
                    issuer_of_patient_id=patient[1],
                    name=name,
                    value=said.value,
                    unit=said.unit,
                    stated=said.stated,
                    observed_on=day,
                    kind="csv",
                    source=SOURCE,
                    recorded_by=recorded_by,
                )
        self.report.patients = len(patients)

    def _patient(self, line: Line, issuer_at: int, ambiguous_ids: set[str]) -> tuple[str, str] | None:
        wrong = line.wrong
        if not wrong:
            patient_id = line.cells[self._place[self._layout.patient_id_column]]
            issuer = line.cells[issuer_at] if issuer_at >= 0 else self._layout.issuer
            if not patient_id:
                wrong = "has no patient ID"
            elif not _is_lo(patient_id) or (issuer and not _is_lo(issuer)):
                wrong = "has a patient ID or issuer that DICOM does not allow (64 characters, no backslash)"
            elif not issuer and patient_id in ambiguous_ids:
                wrong = "has a patient ID that several issuers use; give --issuer or a column with it"
            else:
                return patient_id, issuer
        self.report.wrong_lines.setdefault(wrong, []).append(line.number)
        return None

    def _values(self, line: Line) -> Iterator[tuple[str, Observed, str]]:
        for source, unit in self._long(line) if self._is_long else ((one, one.unit) for one in self._sources):
            column = self.report.columns[source.name]
            text = line.cells[source.value]
            if is_blank(text):
                column.blank += 1
                continue
            try:
                day = self._day(self._date_text(line, source))
                said = self._read(source.name, text, unit)
            except Refused as refusal:
                column.refuse(str(refusal), line.number)
                continue
            column.values += 1
            # A value that is a day has no other: a corrected one takes its place, whenever the table was written.
            yield source.name, said, "" if self._kind(source.name) == "date" else day

    def _long(self, line: Line) -> Iterator[tuple[_Source, str]]:
        """The one value of a line of a long table."""
        at = {name.casefold(): index for name, index in self._place.items()}
        known = {name.casefold(): name for name in (*self._codes.variables, *self._predictors)}
        name = known.get(line.cells[at["name"]].casefold())
        if name is None:
            self.report.wrong_lines.setdefault("names no predictor", []).append(line.number)
            return
        if name not in self.report.columns:
            self.report.columns[name] = Column(name, "value", "" if self._says_units else self._assumed(name))
        unit = line.cells[at["unit"]] if "unit" in at else ""
        yield _Source(name, at["value"], -1), unit

    def _date_text(self, line: Line, source: _Source) -> str:
        if source.day >= 0 and line.cells[source.day]:
            return line.cells[source.day]
        at = self._place.get(self._layout.date_column, -1)
        return line.cells[at] if at >= 0 else ""

    # -- cells -----------------------------------------------------------------------------------------------

    def _parsed_day(self, text: str, days_ahead: int = 1) -> str:
        if not text:
            return ""
        try:
            if self._layout.date_format:
                day = datetime.strptime(text, self._layout.date_format).date()  # noqa: DTZ007 - a day has no zone
            else:
                day = date.fromisoformat(text)
        except ValueError:
            raise Refused("has a day that cannot be read; write 2024-03-01, or give --date-format") from None
        if not _OLDEST <= day <= self._today + timedelta(days=days_ahead):
            raise Refused("has a day before 1900 or in the future")
        return day.isoformat()

    def _value(self, name: str, text: str, unit: str) -> Observed:
        predictor, kind = self._predictors.get(name), self._kind(name)
        if kind == "date":
            return Observed(name, self._day(text, PLANNED_DAYS), "")
        said = self._number(name, text, unit) if kind == "number" else Observed(name, text, "")
        if predictor is None:
            return said
        try:
            value = coerce(predictor, said.value)
        except ValueRefused as refusal:
            raise Refused(str(refusal).removeprefix(f"{name} ")) from None
        assert value is not None
        if kind == "boolean":
            value = "yes" if value else "no"
        return Observed(name, value, said.unit, said.stated)

    def _number(self, name: str, text: str, unit: str) -> Observed:
        comma = self._layout.decimal_comma
        if ("." if comma else ",") in text:
            raise Refused(f"has a {'dot' if comma else 'comma'}; say --decimal-comma for 3,9 and leave it out for 3.9")
        number = plain_number(text.replace(",", "."))
        if number is None:
            raise Refused("is not a plain number")
        into = self._unit_of(name)
        if self._says_units and into and not unit:
            raise Refused(f"has no unit; write the one it was measured in, such as {into}")
        factor = self._codes.factor(name, unit, into) if unit else 1
        if factor is None:
            raise Refused(f"has a unit that cannot be converted into {into or 'no unit'}")
        return Observed(name, float(number * factor), into, f"{text} {unit}" if factor != 1 else "")


def _is_lo(text: str) -> bool:
    """Value representation LO (PS3.5 section 6.2)."""
    return len(text) <= 64 and "\\" not in text and text.isprintable()
