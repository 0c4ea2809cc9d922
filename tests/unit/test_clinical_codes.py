"""Codes and units of laboratories mean what they say, exactly, or nothing."""

from pathlib import Path

import pytest

from dicom_node.clinical_codes import CodedValue, NotTaken, Observed, load
from dicom_node.observation import Observation
from dicom_node.workitem import ConfigError
from models.bundle import DEMO
from models.bundle import load as load_bundle

CODES = load(None)
LOINC = "http://loinc.org"


@pytest.mark.parametrize(
    ("code", "system", "value", "unit", "expected"),
    [
        ("1751-7", "LN", "39", "g/L", Observed("albumin", 39.0, "g/L")),
        ("1751-7", LOINC, 3.9, "g/dL", Observed("albumin", 39.0, "g/L", "3.9 g/dL")),
        ("1751-7", "urn:oid:2.16.840.1.113883.6.1", "3.94", "g/dl", Observed("albumin", 39.4, "g/L", "3.94 g/dL")),
        ("751-8", "LN", "4200", "{cells}/uL", Observed("neutrophils", 4.2, "10*9/L", "4200 /uL")),
        ("751-8", "LN", "4.2", "10*3/uL", Observed("neutrophils", 4.2, "10*9/L")),
        ("89247-1", LOINC, "1", "{score}", Observed("ecog", 1.0, "")),
        ("89247-1", LOINC, CodedValue("LA9624-3", LOINC), "", Observed("ecog", 2.0, "")),
        ("423740007", "SCT", CodedValue("422894000", "http://snomed.info/sct"), "", Observed("ecog", 2.0, "")),
        ("46098-0", "LN", CodedValue("F", "HL70001"), "", Observed("sex", "F", "")),
        ("30525-0", "LN", "816", "mo", Observed("age", 68.0, "a", "816 mo")),
        ("2532-0", "LN", "4", "ukat/L", Observed("ldh", 240.0, "U/L", "4 ukat/L")),
        ("83053-9", "LN", "60", "%", Observed("pdl1", 60.0, "%")),
    ],
)
def test_a_mapped_observation_is_read_in_the_variable_s_own_unit(code, system, value, unit, expected) -> None:
    said = CODES.observed(code, system, value, unit)
    assert isinstance(said, Observed)
    assert (said.name, said.value, said.unit) == (expected.name, expected.value, expected.unit)
    assert said.stated == expected.stated or expected.stated == ""


@pytest.mark.parametrize(
    ("code", "value", "unit", "why"),
    [
        ("1751-7", "39", "", "unit is not stated"),
        ("1751-7", "590", "umol/L", "cannot be converted"),
        ("1751-7", "39", "mmol/L", "cannot be converted"),
        ("1751-7", "<20", "g/L", "not a plain number"),
        ("1751-7", "3,9", "g/dL", "not a plain number"),
        ("1751-7", "nan", "g/L", "blank"),
        ("1751-7", "1e999", "g/L", "not a plain number"),
        ("26474-7", "31.4", "%", "cannot be converted"),  # a share sent under the code of the count
        ("83053-9", "0.6", "1", "unit is not stated"),
        ("89247-1", CodedValue("LA9627-6", LOINC), "", "not mapped"),  # dead
    ],
)
def test_what_cannot_be_read_for_sure_is_not_taken(code, value, unit, why) -> None:
    said = CODES.observed(code, LOINC, value, unit)
    assert isinstance(said, NotTaken)
    assert said.name
    assert why in said.why
    if isinstance(value, str):
        assert value not in said.why


def test_a_code_that_is_not_mapped_has_no_name() -> None:
    assert CODES.observed("2160-0", LOINC, "1.1", "mg/dL") == NotTaken("", "the code is not mapped")
    assert CODES.observed("1751-7", "http://hospital.example/lab", "39", "g/L") == NotTaken(
        "", "the code is not mapped"
    )


def test_a_diagnosis_says_yes() -> None:
    assert CODES.condition("94381002", "http://snomed.info/sct") == Observed("liver_metastases", "yes", "")
    assert CODES.condition("C78.7", "I10") == Observed("liver_metastases", "yes", "")
    assert isinstance(CODES.condition("C34.1", "I10"), NotTaken)


def test_any_of_the_codes_of_an_observation_will_do_but_not_two_meanings() -> None:
    local, loinc = CodedValue("ALB", "99LAB"), CodedValue("1751-7", "LN")
    both = Observation("1", "", (local, loinc), "39", unit="g/L")
    assert CODES.read(both) == Observed("albumin", 39.0, "g/L")
    two = Observation("1", "", (loinc, CodedValue("751-8", "LN")), "39", unit="g/L")
    assert CODES.read(two) == NotTaken("", "its codes mean several variables")
    coded = (CodedValue("x", "99LAB"), CodedValue("LA9623-5", LOINC))
    assert CODES.read(Observation("1", "", (CodedValue("89247-1", "LN"),), "", coded)) == Observed("ecog", 1.0, "")


def test_a_site_adds_its_own_codes_and_units(tmp_path: Path) -> None:
    file = tmp_path / "codes.toml"
    file.write_text(
        '[systems]\nlab = ["http://hospital.example/lab", "99LAB"]\n'
        '[variables.albumin]\ntype = "number"\nunit = "g/L"\nquantity = "mass_concentration"\n'
        'unit_if_absent = "g/dL"\ncodes = ["lab|ALB", "local|ALB"]\n'
        '[variables.therapy_start]\ntype = "date"\ncodes = ["lab|ICI"]\n'
        '[variables.smoker]\ntype = "boolean"\ncodes = ["lab|SMOKE"]\n[variables.smoker.values]\n"local|ja" = "yes"\n',
        encoding="utf-8",
    )
    codes = load(file)
    assert codes.observed("ALB", "99LAB", "3.9") == Observed("albumin", 39.0, "g/L", "3.9 g/dL")
    assert codes.observed("ALB", "L", "3.9") == codes.observed("ALB", "", "3.9")
    assert codes.observed("SMOKE", "http://hospital.example/lab", "ja") == Observed("smoker", "yes", "")
    for text in ("2024-03-01", "20240301", "20240301093000+0100", "2024-03-01T09:30:00"):
        assert codes.observed("ICI", "99LAB", text) == Observed("therapy_start", "2024-03-01", "")
    assert codes.observed("ICI", "99LAB", "in March") == NotTaken("therapy_start", "it is no day")
    assert isinstance(codes.observed("1751-7", "LN", "39", "g/L"), NotTaken)  # the site's albumin takes its place
    assert isinstance(codes.observed("751-8", "LN", "4.2", "10*9/L"), Observed)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[variables.x", "is not TOML"),
        ("[codes]\n", r"unknown table \[codes\]"),
        ('[variables.x]\ntype = "number"\ncode = ["loinc|1-8"]\n', "variables.x.code"),
        ('[variables.x]\ntype = "number"\ncodes = ["lonic|1-8"]\n', "must be 'system|code'"),
        ('[variables.x]\ntype = "number"\ncodes = ["loinc|1751-7"]\n', "means both"),
        ('[variables.x]\ntype = "number"\nunit = "mol/L"\nquantity = "mass_concentration"\n', "does not list 'mol/L'"),
        ('[quantities.q]\n"m" = "0"\n', "above 0"),
        ('[ratios.r]\nnumerator = "a"\ndenominator = "b"\n', "no variable 'a'"),
    ],
)
def test_a_site_s_file_that_makes_no_sense_is_refused_by_name_and_place(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "codes.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=says) as error:
        load(file)
    assert str(file) in str(error.value)


def test_every_predictor_of_the_demo_bundle_has_a_variable_in_its_unit() -> None:
    for predictor in load_bundle(DEMO).manifest.clinical:
        variable = CODES.variables[predictor.name]
        assert (variable.type, variable.unit) == (predictor.type, predictor.unit)
        for value in variable.values.values():
            assert not predictor.categories or value in predictor.categories


def _mod10(number: str) -> int:
    """LOINC's check digit (Luhn)."""
    total = 0
    for place, digit in enumerate(map(int, reversed(number))):
        doubled = digit * 2 if place % 2 == 0 else digit
        total += doubled - 9 if doubled > 9 else doubled
    return -total % 10


_TIMES = [
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 2, 3, 4, 0, 6, 7, 8, 9, 5], [2, 3, 4, 0, 1, 7, 8, 9, 5, 6],
    [3, 4, 0, 1, 2, 8, 9, 5, 6, 7], [4, 0, 1, 2, 3, 9, 5, 6, 7, 8], [5, 9, 8, 7, 6, 0, 4, 3, 2, 1],
    [6, 5, 9, 8, 7, 1, 0, 4, 3, 2], [7, 6, 5, 9, 8, 2, 1, 0, 4, 3], [8, 7, 6, 5, 9, 3, 2, 1, 0, 4],
    [9, 8, 7, 6, 5, 4, 3, 2, 1, 0],
]  # fmt: skip
_SWAP = [1, 5, 7, 6, 2, 8, 3, 0, 9, 4]


def _verhoeff(number: str) -> int:
    """0 for a SNOMED CT identifier with its check digit."""
    check = 0
    for place, digit in enumerate(map(int, reversed(number))):
        for _ in range(place % 8):
            digit = _SWAP[digit]
        check = _TIMES[check][digit]
    return check


def test_the_check_digits_of_the_shipped_codes_are_right() -> None:
    """A slip in one digit would read another observation, or none."""
    codes = [
        code.split("|") for variable in CODES.variables.values()
        for code in (*variable.codes, *variable.conditions, *variable.values)
    ]  # fmt: skip
    loinc = [code for system, code in codes if system == "loinc" and not code.startswith("LA")]
    snomed = [code for system, code in codes if system == "snomed"]
    assert len(loinc) > 20
    assert len(snomed) > 8
    assert [code for code in loinc if _mod10(code[:-2]) != int(code[-1])] == []
    assert [code for code in snomed if _verhoeff(code)] == []
    assert _verhoeff("422512006")
    assert _mod10("1752") != 7
