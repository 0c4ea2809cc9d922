"""A table of the site is read as it is said to be written, checked as the model checks, and never guessed at."""

import random
from datetime import date
from pathlib import Path

import pytest

from dicom_node import clinical_codes
from dicom_node.clinical_csv import Table, TableError
from dicom_node.clinical_import import Importer, Layout, Report
from dicom_node.clinical_values import ClinicalEntry
from models.manifest import Predictor

PREDICTORS = {
    predictor.name: predictor
    for predictor in (
        Predictor(name="albumin", label="Serum albumin", type="number", unit="g/L", minimum=10, maximum=60, fill=39.0),
        Predictor(name="ecog", label="ECOG", type="number", minimum=0, maximum=4, fill=1.0),
        Predictor(name="sex", label="Sex", type="category", categories=("F", "M"), fill="M"),
        Predictor(name="liver_metastases", label="Liver metastases", type="boolean", fill=0.0),
    )
}
CODES = clinical_codes.load(None)
TODAY = date(2024, 6, 1)


@pytest.fixture
def table(tmp_path: Path) -> "Desk":
    return Desk(tmp_path / "table.csv")


class Desk:
    def __init__(self, path: Path) -> None:
        self.path = path

    def read(
        self, text: str | bytes, layout: Layout | None = None, *, ambiguous: set[str] | None = None, **reading: str
    ) -> tuple[list[ClinicalEntry], Report]:
        self.path.write_bytes(text if isinstance(text, bytes) else text.encode())
        importer = Importer(Table(self.path, **reading), layout or Layout(), PREDICTORS, CODES, TODAY)
        entries = list(importer.entries(ambiguous or set(), "anna"))
        assert len(importer.entry_lines) == len(entries)
        return entries, importer.report

    def value(self, text: str | bytes, layout: Layout | None = None, **reading: str) -> ClinicalEntry:
        (entry,), report = self.read(text, layout, **reading)
        assert report.refusals == 0
        return entry

    def refusal(self, text: str | bytes, layout: Layout | None = None, **more: object) -> str:
        entries, report = self.read(text, layout, **more)  # type: ignore[arg-type]
        assert entries == []
        groups = [*report.wrong_lines.items(), *(r for c in report.columns.values() for r in c.refused.items())]
        ((why, lines),) = groups
        assert lines == [2]
        return why


def test_a_plain_table_is_read(table: Desk) -> None:
    entries, report = table.read(
        "patient_id,observed_on,Albumin,ECOG,Sex,liver_metastases,ward\n"
        "P1,2024-03-01,39,1,f,Yes,7B\nP2,20240302,NA,0,M,0,7B\n\n"
    )
    said = [(e.patient_id, e.name, e.value, e.unit, e.observed_on) for e in entries]
    assert said == [
        ("P1", "albumin", 39.0, "g/L", "2024-03-01"),
        ("P1", "ecog", 1.0, "", "2024-03-01"),
        ("P1", "sex", "F", "", "2024-03-01"),
        ("P1", "liver_metastases", "yes", "", "2024-03-01"),
        ("P2", "ecog", 0.0, "", "2024-03-02"),
        ("P2", "sex", "M", "", "2024-03-02"),
        ("P2", "liver_metastases", "no", "", "2024-03-02"),
    ]
    assert {(e.kind, e.source, e.recorded_by) for e in entries} == {("csv", "CSV import", "anna")}
    assert (report.lines, report.patients, report.refusals, report.ignored) == (2, 2, 0, ["ward"])
    assert report.columns["albumin"].blank == 1
    assert report.columns["albumin"].taken_as == "no unit stated, taken as g/L"


def test_columns_are_mapped_with_their_units_and_converted_exactly(table: Desk) -> None:
    layout = Layout({"Alb.": "albumin[g/dL]", "PS": "ecog"}, patient_id_column="MRN")
    entries, report = table.read("MRN,Alb.,PS\nP1,3.9,1\n", layout)
    assert [(e.name, e.value, e.unit, e.stated) for e in entries] == [
        ("albumin", 39.0, "g/L", "3.9 g/dL"), ("ecog", 1.0, "", ""),
    ]  # fmt: skip
    assert report.columns["albumin"].taken_as == "g/dL x 10 = g/L"
    assert table.value("patient_id,albumin (mg/dL)\nP1,3900\n").value == 39.0
    assert table.value("patient_id,serum ALBUMIN [g/dl]\nP1,3.9\n").value == 39.0
    assert table.value("patient_id,neutrophils [/uL]\nP1,4200\n").value == 4.2  # a part of a ratio


def test_a_value_that_is_a_day_is_one_and_may_be_planned(table: Desk) -> None:
    said = table.value("patient_id,observed_on,Therapy_Start\nP1,2024-02-01,2024-07-01\n")
    assert (said.name, said.value, said.observed_on) == ("therapy_start", "2024-07-01", "")
    said = table.value("MRN,ICI\nP1,01.03.2024\n", Layout({"ICI": "therapy_start"}, "MRN", date_format="%d.%m.%Y"))
    assert said.value == "2024-03-01"
    assert "has a day that cannot be read" in table.refusal("patient_id,therapy_start\nP1,yes\n")


@pytest.mark.parametrize(
    ("text", "layout", "reading"),
    [
        ("\ufeffpatient_id,albumin\nP1,39\n", Layout(), {}),
        ("patient_id;albumin\r\nP1;39\r\n", Layout(), {}),
        ("patient_id\talbumin\nP1\t39\n", Layout(), {}),
        ("patient_id;albumin\nP1;39,0\n", Layout(decimal_comma=True), {}),
        ('patient_id,albumin\nP1,"39,0"\n', Layout(decimal_comma=True), {}),
        ("patient_id:albumin\nP1:39\n", Layout(), {"separator": ":"}),
        ("patient_id,albumin\nP1,39\n".encode("utf-16"), Layout(), {}),
        ("patient_id,albumin,Größe\nP1,39,170\n".encode("cp1252"), Layout(), {"encoding": "cp1252"}),
    ],
)
def test_separators_encodings_and_decimal_commas(table: Desk, text: str | bytes, layout: Layout, reading: dict) -> None:
    assert table.value(text, layout, **reading).value == 39.0


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("patient_id;albumin\nP1;39,5\n", "has a comma; say --decimal-comma"),
        ("patient_id,albumin\nP1,<20\n", "is not a plain number"),
        ("patient_id,albumin\nP1,1_0\n", "is not a plain number"),
        ("patient_id,albumin\nP1,3.9\n", "lies outside the plausible range 10 to 60 g/L"),
        ("patient_id,sex\nP1,divers\n", "must be one of F, M"),
        ("patient_id,liver_metastases\nP1,perhaps\n", "must be yes or no"),
        ("patient_id,albumin\n,39\n", "has no patient ID"),
        ("patient_id,albumin\nP\\1,39\n", "DICOM does not allow"),
        ("patient_id,albumin\n" + "P" * 65 + ",39\n", "DICOM does not allow"),
        ("patient_id,albumin\nP1,39,5\n", "has 3 fields instead of 2; a number with a decimal comma"),
        ("patient_id,albumin\nP1," + "9" * 300 + "\n", "more than 256 characters"),
        ("patient_id,albumin,observed_on\nP1,39,01.03.2024\n", "give --date-format"),
        ("patient_id,albumin,observed_on\nP1,39,2024-06-03\n", "in the future"),
        ("patient_id,albumin,observed_on\nP1,39,1024-03-01\n", "before 1900"),
    ],
)
def test_what_cannot_be_right_is_refused_with_line_and_reason_and_not_quoted(table: Desk, text: str, why: str) -> None:
    said = table.refusal(text)
    assert why in said
    assert text.splitlines()[1].split(",")[-1] not in said or len(text.splitlines()[1].split(",")[-1]) < 2


def test_a_dot_among_decimal_commas_is_refused(table: Desk) -> None:
    assert "has a dot" in table.refusal("patient_id;albumin\nP1;3.900\n", Layout(decimal_comma=True))


def test_days_of_another_form_are_read_when_said_so_and_a_predictor_may_have_its_own(table: Desk) -> None:
    layout = Layout(date_format="%d.%m.%Y", date_column="Datum")
    assert table.value("patient_id,albumin,Datum\nP1,39,01.03.2024\n", layout).observed_on == "2024-03-01"
    entries, _ = table.read(
        "patient_id,observed_on,albumin,albumin_date,ecog\nP1,2024-03-01,39,2024-02-20,1\nP2,2024-03-01,39,,1\n"
    )
    assert [e.observed_on for e in entries] == ["2024-02-20", "2024-03-01", "2024-03-01", "2024-03-01"]


def test_the_issuer_comes_from_a_column_or_for_all_and_is_asked_for_where_it_matters(table: Desk) -> None:
    assert table.value("patient_id,issuer_of_patient_id,albumin\nP1,HOSP,39\n").issuer_of_patient_id == "HOSP"
    assert table.value("patient_id,albumin\nP1,39\n", Layout(issuer="HOSP")).issuer_of_patient_id == "HOSP"
    assert "several issuers" in table.refusal("patient_id,albumin\nP1,39\n", ambiguous={"P1"})


def test_one_line_per_value_is_read_too(table: Desk) -> None:
    entries, report = table.read(
        "patient_id,name,value,unit,observed_on,source\n"
        "P1,albumin,3.9,g/dL,2024-03-01,x\nP1,ECOG,1,,,x\nP1,shoe size,43,,,x\nP1,albumin,590,umol/L,,x\n"
    )
    assert [(e.name, e.value, e.stated, e.observed_on) for e in entries] == [
        ("albumin", 39.0, "3.9 g/dL", "2024-03-01"), ("ecog", 1.0, "", ""),
    ]  # fmt: skip
    assert report.wrong_lines == {"names no predictor": [4]}
    assert report.columns["albumin"].refused == {"has a unit that cannot be converted into g/L": [5]}


def test_no_unit_is_assumed_in_silence(table: Desk) -> None:
    empty = "patient_id,name,value,unit\nP1,albumin,39,\n"
    assert table.refusal(empty) == "has no unit; write the one it was measured in, such as g/L"
    assert table.value("patient_id,name,value,unit\nP1,ecog,1,\n").value == 1.0, "it has none"
    _, report = table.read("patient_id,name,value\nP1,albumin,39\nP1,ecog,1\n")
    assert report.columns["albumin"].taken_as == "no unit stated, taken as g/L"
    assert report.columns["ecog"].taken_as == ""


@pytest.mark.parametrize(
    ("text", "layout", "says"),
    [
        ("albumin,ecog\n39,1\n", Layout(), "no column 'patient_id'"),
        ("patient_id,ward\nP1,7\n", Layout(), "no column is a predictor"),
        ("patient_id,albumin,Albumin\nP1,39,39\n", Layout(), "are both albumin"),
        ("patient_id,albumin,albumin\nP1,39,39\n", Layout(), "stands there twice"),
        ("patient_id,alb\nP1,39\n", Layout({"Alb": "albumin"}), "no column 'Alb', which --map names"),
        ("patient_id,alb\nP1,39\n", Layout({"alb": "albumen"}), "is no predictor; predictors: albumin"),
        ("patient_id,albumin [umol/L]\nP1,590\n", Layout(), "umol/L cannot be converted into g/L"),
        ("patient_id\nP1\n", Layout(), "one column only"),
        ("", Layout(), "one column only"),
        ('patient_id,albumin\nP1,"39\n', Layout(), "is not CSV"),
        (b"patient_id,albumin\nP1,39\xe4\n", Layout(), "is not utf-8-sig; give its encoding"),
        ("patient_id," + ",".join(f"c{n}" for n in range(3000)) + "\n", Layout(), "3001 columns"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_whole(table: Desk, text: str | bytes, layout: Layout, says: str) -> None:
    with pytest.raises(TableError, match=says):
        table.read(text, layout)


def test_an_encoding_that_nobody_knows_is_said(table: Desk) -> None:
    with pytest.raises(TableError, match="not known"):
        table.read("a,b\n", encoding="utf-17")


def test_no_bytes_whatever_end_in_anything_but_values_or_words(table: Desk) -> None:
    good = b"patient_id,albumin,ecog,sex,observed_on\nP1,39,1,F,2024-03-01\nP2,3.9e1,,M,20240302\n"
    chance = random.Random(7)
    for _ in range(300):
        broken = bytearray(good)
        for _ in range(chance.randint(1, 6)):
            broken[chance.randrange(len(broken))] = chance.choice(b'\0\xff,;"\n\r\t0-.e|\\\xc3')
        try:
            entries, _ = table.read(bytes(broken))
        except TableError:
            continue
        for entry in entries:
            assert entry.name in PREDICTORS
            assert entry.name != "albumin" or 10 <= float(entry.value) <= 60
