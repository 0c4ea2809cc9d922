"""A clinical value that cannot be right is refused by name; one that is absent is not an error."""

import pytest

from analysis import clinical
from analysis.contract import ClinicalValue, NotScorable
from analysis.reasons import Reason
from models.manifest import Predictor

PREDICTORS = (
    Predictor(name="age", label="Age", type="number", unit="a", minimum=18, maximum=110, fill=66.0),
    Predictor(name="albumin", label="Albumin", type="number", unit="g/L", minimum=10, maximum=60, fill=39.0),
    Predictor(name="sex", label="Sex", type="category", categories=("F", "M"), fill="M"),
    Predictor(name="liver", label="Liver metastases", type="boolean", fill=0.0),
)


def value(name: str, content: float | str, unit: str = "") -> ClinicalValue:
    return ClinicalValue(name=name, value=content, unit=unit, source="test")


@pytest.mark.parametrize(
    ("name", "content", "unit", "text"),
    [
        ("age", "sixty-seven", "", "age is not a number"),
        ("age", "inf", "", "age is not a finite number"),
        ("age", 670, "", "age lies outside the plausible range 18 to 110 a"),
        ("age", 67, "mo", "age must be in a, not in another unit"),
        ("albumin", 3.9, "", "albumin lies outside the plausible range 10 to 60 g/L"),
        ("albumin", 3.9, "g/dL", "albumin must be in g/L"),
        ("sex", "W", "", "sex must be one of F, M"),
        ("liver", "perhaps", "", "liver must be yes or no"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name_and_never_repeated(name, content, unit, text) -> None:
    with pytest.raises(NotScorable, match=text) as refusal:
        clinical.read([value(name, content, unit)], PREDICTORS, ())
    assert refusal.value.reason == Reason.CLINICAL_VALUES_INVALID
    assert str(content) not in refusal.value.detail


@pytest.mark.parametrize(
    ("name", "content", "unit", "expected"),
    [
        ("age", "67", "years", 67.0),
        ("age", 67, "a", 67.0),
        ("albumin", " 39.5 ", "g/L", 39.5),
        ("sex", "f", "", "F"),
        ("liver", "Yes", "", 1.0),
        ("liver", 0, "", 0.0),
        ("liver", "1.0", "", 1.0),
    ],
)
def test_a_right_value_is_read_as_people_write_it(name, content, unit, expected) -> None:
    vector = clinical.read([value(name, content, unit)], PREDICTORS, (name,))
    assert vector.values[name] == expected
    assert name not in vector.imputed
    assert vector.lacking == ()


@pytest.mark.parametrize("blank", ["", "  ", "NA", "unknown", "."])
def test_a_blank_is_absent_and_not_an_error(blank) -> None:
    vector = clinical.read([value("albumin", blank)], PREDICTORS, ("albumin",))
    assert vector.values["albumin"] == 39.0
    assert vector.lacking == ("albumin",)
    assert set(vector.imputed) == {"age", "albumin", "sex", "liver"}


def test_two_different_values_of_one_predictor_are_refused() -> None:
    same = [value("age", 67), value("age", "67.0", "a")]
    assert clinical.read(same, PREDICTORS, ()).values["age"] == 67.0
    with pytest.raises(NotScorable, match="age is supplied twice"):
        clinical.read([value("age", 67), value("age", 68)], PREDICTORS, ())


def test_a_value_the_bundle_does_not_know_is_left_aside_and_named() -> None:
    assert clinical.read([value("shoe_size", 43)], PREDICTORS, ()).unused == ("shoe_size",)
