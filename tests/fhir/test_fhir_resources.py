"""The FHIR resources of a result: structure by two validators, and by hand what neither looks at."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import fhirkit
import pytest
from fhir.resources.R4B import get_fhir_model_class
from hypothesis import given
from hypothesis import strategies as st

from analysis.contract import JobResult, Reason
from reports import words
from reports.fhir import transaction
from reports.fhir_context import FhirContext, ReplacedReport, identifiers_of
from reports.fhir_types import human_names
from reports.language import CODES
from tests.hl7_inputs import ANNA, not_scored, scored

SUBJECT = {"reference": "Patient/17"}
BEFORE = ReplacedReport("urn:uuid:0f6f4a0e-2f0a-4a3e-8d0b-6f3b7c1e5a10", 1)
# Required bindings (R4 4.0.1): element of a resource -> the codes that it may have.
OBSERVATION_STATUS = {
    "registered", "preliminary", "final", "amended", "corrected", "cancelled", "entered-in-error", "unknown",
}  # fmt: skip
REQUIRED = {
    ("Observation", "status"): OBSERVATION_STATUS,
    ("RiskAssessment", "status"): OBSERVATION_STATUS,
    ("DiagnosticReport", "status"): {
        "registered", "partial", "preliminary", "final", "amended", "corrected", "appended", "cancelled",
        "entered-in-error", "unknown",
    },
    ("Device", "status"): {"active", "inactive", "entered-in-error", "unknown"},
    ("ImagingStudy", "status"): {"registered", "available", "cancelled", "entered-in-error", "unknown"},
    ("Patient", "gender"): {"male", "female", "other", "unknown"},
}  # fmt: skip
# What each reference may lead to (R4 4.0.1).
TARGETS = {
    ("DiagnosticReport", "result"): {"Observation"},
    ("DiagnosticReport", "imagingStudy"): {"ImagingStudy"},
    ("DiagnosticReport", "basedOn"): {"CarePlan", "ImmunizationRecommendation", "MedicationRequest", "NutritionOrder",
                                      "ServiceRequest"},
    ("RiskAssessment", "performer"): {"Practitioner", "PractitionerRole", "Device"},
    ("Observation", "device"): {"Device", "DeviceMetric"},
    ("Observation", "derivedFrom"): {"DocumentReference", "ImagingStudy", "Media", "QuestionnaireResponse",
                                     "Observation", "MolecularSequence"},
}  # fmt: skip


def context(**changes: Any) -> FhirContext:
    made = FhirContext(
        key="k" * 64,
        created=datetime(2026, 3, 2, 9, 15, 30, tzinfo=UTC),
        study_instance_uid="1.2.840.1",
        ct_series_instance_uid="1.2.840.3",
        contour="1.2.840.2",
        software_version="0.1.0",
        device_uid="2.25.7",
        zone=UTC,
    )
    return replace(made, **changes)


def bundle(result: JobResult | None = None, person: Any = ANNA, **changes: Any) -> dict[str, Any]:
    return transaction(result or scored(), person, context(**changes), SUBJECT)


def of(made: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [entry["resource"] for entry in made["entry"] if entry["resource"]["resourceType"] == kind]


def one(made: dict[str, Any], kind: str) -> dict[str, Any]:
    (found,) = of(made, kind)
    return found


def every_resource(made: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for entry in made["entry"]:
        yield entry["resource"]
        yield from entry["resource"].get("contained", [])


def references(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if "reference" in value and isinstance(value["reference"], str):
            yield value
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


CASES = {
    "scored": lambda: bundle(),
    "revision": lambda: bundle(revision=2, replaced=BEFORE),
    "not scored": lambda: bundle(not_scored()),
    "not scored, revision": lambda: bundle(not_scored(), revision=2, replaced=BEFORE),
    "nobody": lambda: bundle(person=replace(ANNA, patient_name="", accession_number="", study_date="",
                                            patient_birth_date="", patient_sex="")),
    "no contour, no series": lambda: bundle(contour="", ct_series_instance_uid=""),
    "without clinical values": lambda: bundle(scored(clinical=())),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_plain_r4_and_r4b_find_nothing_wrong(name: str) -> None:
    made = CASES[name]()
    assert [str(issue) for issue in fhirkit.validate(made)] == []
    get_fhir_model_class("Bundle").model_validate(made)
    for resource in every_resource(made):
        get_fhir_model_class(resource["resourceType"]).model_validate(resource)


@pytest.mark.parametrize("language", CODES)
def test_every_language_is_valid_and_says_what_it_is(language: str) -> None:
    made = bundle(language=language)
    assert fhirkit.validate(made) == []
    assert one(made, "DiagnosticReport")["language"] == language


@pytest.mark.parametrize("name", CASES)
def test_codes_of_required_bindings_are_among_those_allowed(name: str) -> None:
    seen = set()
    for resource in every_resource(CASES[name]()):
        for (kind, element), allowed in REQUIRED.items():
            if resource["resourceType"] == kind and element in resource:
                assert resource[element] in allowed
                seen.add((kind, element))
    assert len(seen) >= 3


@pytest.mark.parametrize("name", CASES)
def test_every_reference_resolves_in_the_bundle_or_in_its_own_resource_and_to_a_kind_that_is_allowed(name: str) -> None:
    made = CASES[name]()
    kinds = {entry["fullUrl"]: entry["resource"]["resourceType"] for entry in made["entry"]}
    for entry in made["entry"]:
        resource = entry["resource"]
        local = {f"#{inner['id']}": inner["resourceType"] for inner in resource.get("contained", [])}
        used = {reference["reference"] for reference in references(resource)}
        assert set(local) <= used  # dom-3: nothing is contained that is not referred to
        for reference in references(resource):
            target = reference["reference"]
            assert target == "Patient/17" or target in kinds or target in local, target
        for (kind, element), allowed in TARGETS.items():
            values = resource.get(element, []) if resource["resourceType"] == kind else []
            for value in values if isinstance(values, list) else [values]:
                target = value.get("reference", "")
                assert value.get("type") in allowed or (kinds | local)[target] in allowed


@pytest.mark.parametrize("name", CASES)
def test_every_resource_is_created_under_a_condition_that_is_its_own(name: str) -> None:
    made = CASES[name]()
    conditions = [(entry["request"]["url"], entry["request"]["ifNoneExist"]) for entry in made["entry"]]
    assert len(set(conditions)) == len(conditions)
    assert all(entry["request"]["method"] == "POST" for entry in made["entry"])
    for entry in made["entry"]:
        name_, _, token = entry["request"]["ifNoneExist"].partition("=")
        system, _, value = token.partition("|")
        if name_ == "_tag":
            assert {"system": system, "code": value} in entry["resource"]["meta"]["tag"]
        else:
            assert name_ == "identifier"
            assert {"system": system, "value": value} in entry["resource"]["identifier"]


def test_the_same_result_gives_the_same_bytes_and_another_key_or_patient_other_identifiers() -> None:
    first, again = json.dumps(bundle()), json.dumps(bundle())
    assert first == again
    ours = identifiers_of(scored(), ANNA, context())
    for other in (
        identifiers_of(scored(), ANNA, context(key="j" * 64)),
        identifiers_of(scored(), replace(ANNA, patient_id="4712"), context()),
        identifiers_of(scored(), replace(ANNA, issuer_of_patient_id="HOSPITAL B"), context()),
    ):
        assert {name for name in ours if other[name] == ours[name]} == {"device"}


def test_probabilities_are_per_cent_between_nothing_and_a_hundred_with_their_horizon_and_group() -> None:
    risk = one(bundle(), "RiskAssessment")
    told = [
        (part["outcome"]["text"], part["probabilityDecimal"], part["whenRange"]["high"]["value"],
         part["qualitativeRisk"]["coding"][0]["code"])
        for part in risk["prediction"]
    ]  # fmt: skip
    assert told == [
        ("Death within 12 months", 31.2, 12, "15508007"),
        ("Death within 36 months", 68.4, 36, "15508007"),
        ("Progression or death within 12 months", 55.0, 12, "64957009"),
        ("Progression or death within 36 months", 87.0, 36, "64957009"),
    ]
    assert all(part["whenRange"]["high"]["code"] == "mo" for part in risk["prediction"])
    assert all("of 100 patients like this one" in part["rationale"] for part in risk["prediction"])
    assert "mitigation" not in risk


@given(st.floats(0, 1))
def test_a_coded_probability_is_that_of_the_score_and_never_certain(probability: float) -> None:
    assert 0.1 <= words.figure(probability) <= 99.9
    assert abs(words.figure(probability) - 100 * probability) <= 0.1 + 1e-9


def test_observations_carry_each_number_with_its_interval() -> None:
    by_code = {made["code"]["coding"][0]["code"]: made for made in of(bundle(), "Observation")}
    os = by_code["OS_RISK_GROUP"]
    assert os["valueCodeableConcept"]["coding"][0]["code"] == "15508007"
    parts = {part["code"]["coding"][0]["code"]: part for part in os["component"]}
    assert parts["OS_12M_EVENT"]["valueQuantity"]["value"] == 31.2
    limits = parts["OS_12M_RANGE"]["valueRange"]
    assert (limits["low"]["value"], limits["high"]["value"]) == (22.0, 41.0)


def test_everything_is_preliminary_says_what_it_is_for_and_that_the_bundle_is_synthetic() -> None:
    made = bundle()
    for resource in (one(made, "DiagnosticReport"), one(made, "RiskAssessment"), *of(made, "Observation")):
        assert resource["status"] == "preliminary"
        labels = {label["code"] for label in (*resource["meta"]["tag"], *resource["meta"]["security"])}
        assert labels == {"RESEARCH_USE", "SYNTHETIC", "HRESCH", "HTEST"}
        assert "Research use only" in resource["text"]["div"]
        assert "SYNTHETIC - NOT FOR CLINICAL USE" in json.dumps(resource)
    real = replace_bundle(scored())
    tags = {label["code"] for label in one(bundle(real), "DiagnosticReport")["meta"]["tag"]}
    assert tags == {"RESEARCH_USE"}


def replace_bundle(result: JobResult) -> JobResult:
    return result.model_copy(update={"bundle": result.bundle.model_copy(update={"synthetic": False})})


def test_the_conclusion_has_words_before_numbers() -> None:
    lines = one(bundle(), "DiagnosticReport")["conclusion"].split("\n")
    assert lines[0].startswith("Research use only")
    assert lines[2] == "Overall survival: High risk. The whole interval lies above the median of the training cohort."
    first_number = next(place for place, line in enumerate(lines) if "31 of 100" in line)
    assert first_number > 3
    assert any("clinical, radiomic" in line.lower() or "radiomic" in line.lower() for line in lines)


def test_not_scored_is_a_report_with_its_reason_and_an_absent_value_and_no_assessment() -> None:
    made = bundle(not_scored())
    assert of(made, "RiskAssessment") == []
    report, absent = one(made, "DiagnosticReport"), one(made, "Observation")
    assert report["status"] == "preliminary"
    assert "Not scored." in report["conclusion"]
    assert "tilted gantry" in report["conclusion"]
    assert "3.1 degrees" in report["conclusion"]
    assert [code["coding"][0]["code"] for code in report["conclusionCode"]] == ["NOT_SCORED", Reason.GANTRY_TILT]
    assert absent["status"] == "cancelled"
    assert not any(name.startswith("value") for name in absent)
    assert [coding["code"] for coding in absent["dataAbsentReason"]["coding"]] == ["not-performed", "GANTRY_TILT"]
    assert not any(extension["url"].endswith("risk") for extension in report.get("extension", []))


def test_a_revision_names_the_report_that_it_replaces_by_its_identifier() -> None:
    made = bundle(revision=2, replaced=BEFORE)
    report = one(made, "DiagnosticReport")
    (replaces,) = [e for e in report["extension"] if e["url"].endswith("diagnosticReport-replaces")]
    assert replaces["valueReference"]["identifier"] == {"system": "urn:ietf:rfc:3986", "value": BEFORE.identifier}
    assert "Revision 2, replaces revision 1." in report["conclusion"]
    revisions = [e for e in one(made, "Provenance")["entity"] if e["role"] == "revision"]
    assert revisions[0]["what"]["identifier"]["value"] == BEFORE.identifier


def test_the_study_is_named_by_uid_and_accession_number_and_no_study_or_patient_is_made() -> None:
    made = bundle()
    assert of(made, "ImagingStudy") == of(made, "Patient") == []
    (study,) = one(made, "DiagnosticReport")["contained"]
    assert study["identifier"][0] == {"system": "urn:dicom:uid", "value": "urn:oid:1.2.840.1"}
    assert study["identifier"][1]["value"] == "ACC0001"
    assert study["series"][0]["uid"] == "1.2.840.3"
    order = one(made, "DiagnosticReport")["basedOn"][0]
    assert (order["type"], order["identifier"]["value"]) == ("ServiceRequest", "ACC0001")


def test_clinical_values_are_contained_where_they_were_used_and_not_made_a_second_time() -> None:
    risk = one(bundle(), "RiskAssessment")
    values = {value["code"]["text"]: value for value in risk["contained"]}
    assert values["age"]["valueQuantity"] == {
        "value": 64.0, "unit": "years", "system": "http://unitsofmeasure.org", "code": "a",
    }  # fmt: skip
    assert values["ECOG"]["effectiveDateTime"] == "2024-03-10"
    assert {reference["reference"] for reference in risk["basis"][1:]} == {
        f"#{value['id']}" for value in values.values()
    }


def test_the_device_is_another_one_for_another_version_or_bundle_and_names_both() -> None:
    device = one(bundle(), "Device")
    versions = {part["type"]["text"]: part["value"] for part in device["version"]}
    assert versions["Software"] == "0.1.0"
    assert versions["SHA-256 of the model bundle"] == scored().bundle.digest
    other = one(bundle(software_version="0.2.0"), "Device")
    assert other["identifier"][0] != device["identifier"][0]
    assert other["identifier"][1] == device["identifier"][1]


def test_markup_in_a_text_stays_text() -> None:
    detail = "<script>alert(1)</script> & \x07"
    div = one(bundle(not_scored(detail=detail)), "DiagnosticReport")["text"]["div"]
    assert "<script>" not in div
    assert "&lt;script&gt;" in div
    assert "\x07" not in json.dumps(one(bundle(not_scored(detail=detail)), "DiagnosticReport"), ensure_ascii=False)


def test_a_name_has_a_human_name_for_each_of_its_scripts() -> None:
    names = human_names("Yamada^Tarou=山田^太郎=やまだ^たろう")
    assert [(name["family"], name["given"]) for name in names] == [
        ("Yamada", ["Tarou"]), ("山田", ["太郎"]), ("やまだ", ["たろう"]),
    ]  # fmt: skip
    assert [name["extension"][0]["valueCode"] for name in names] == ["ABC", "IDE", "SYL"]
    assert human_names("Adams^John^Quincy^Dr^Jr") == [
        {"use": "official", "family": "Adams", "given": ["John", "Quincy"], "prefix": ["Dr"], "suffix": ["Jr"]}
    ]
    assert human_names("") == human_names("^^") == []


def test_what_is_not_available_is_said_once() -> None:
    conclusion = one(bundle(), "DiagnosticReport")["conclusion"]
    assert conclusion.count("Not available: deep.") == 1
    assert conclusion.count("taken from the training cohort") == 1
