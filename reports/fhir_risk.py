"""RiskAssessment and Observation (FHIR R4): the predictions as numbers with their codes, or why there are none."""

from typing import Final

from analysis.contract import ClinicalValue, Endpoint, RiskScore
from models.clinical_value import ucum
from reports import codes, particulars, words
from reports.fhir_context import PRELIMINARY, TERMS, Making
from reports.fhir_types import (
    UCUM,
    Json,
    annotations,
    concept,
    date,
    narrative,
    plain_coding,
    quantity,
    string,
    without_nothing,
)
from reports.hl7 import SERVICE

NOT_DONE: Final = "cancelled"  # status of an Observation whose value will not come


def risk(making: Making) -> Json:
    """One assessment with a prediction for each endpoint and horizon; `basis` is what it was made from."""
    result, language = making.result, making.context.language
    values = [_value(making, number, value) for number, value in enumerate(result.clinical, start=1)]
    said = [words.natural_frequency(score, language) for score in result.scores]
    made = {
        **making.head("RiskAssessment", contained=values, device=True),
        "text": narrative(SERVICE.meaning, [*making.use(), *said]),
        "identifier": making.identifier("risk"),
        "status": PRELIMINARY,
        "method": concept(codes.ARTIFICIAL_INTELLIGENCE, text=particulars.bundle(result.bundle)),
        "code": concept(SERVICE),
        "subject": making.place.subject,
        "occurrenceDateTime": making.created(),
        "performer": making.reference("device"),
        "basis": [making.study_reference(), *({"reference": f"#{value['id']}"} for value in values)],
        "prediction": [_prediction(making, score) for score in result.scores],
        "note": annotations(*making.use(), *making.worth()),
    }
    return without_nothing(made)


def observation(making: Making, name: str) -> Json:
    """The risk group of an endpoint (`OS`, `PFS`) with its probabilities; `outcome`: why there is none."""
    made = {
        **making.head("Observation", device=True),
        "identifier": making.identifier(name),
        "category": [{"coding": [plain_coding(f"{TERMS}/observation-category", "imaging", "Imaging")]}],
        "subject": making.place.subject,
        "effectiveDateTime": making.effective(),
        "issued": making.created(),
        "device": making.reference("device"),
        "derivedFrom": [making.study_reference()],
    }
    made |= _no_score(making) if name == "outcome" else _group(making, Endpoint(name))
    return without_nothing(made)


def _prediction(making: Making, score: RiskScore) -> Json:
    language = making.context.language
    group = next((one.group for one in making.result.groups if one.endpoint is score.endpoint), None)
    rationale = [words.natural_frequency(score, language), words.interval_sentence(score, language)]
    rationale += [words.clipped(score, language)] if score.clipped else []
    name = codes.probability(score.endpoint, score.horizon_months)
    return without_nothing(
        {
            "outcome": concept(name, text=words.risk(score, language)),
            "probabilityDecimal": words.figure(score.event_probability),  # per cent: constraint ras-2
            "qualitativeRisk": None if group is None else concept(codes.risk_group(group)),
            "whenRange": {"low": _months(0), "high": _months(score.horizon_months)},
            "rationale": string(" ".join(rationale)),
        }
    )


def _value(making: Making, number: int, value: ClinicalValue) -> Json:
    """A clinical value that was used, contained: it came from elsewhere, and is not made a second time."""
    numeric = isinstance(value.value, float)
    unit = ucum(value.unit)
    measured = without_nothing({"value": value.value, "unit": value.unit, "system": UCUM if unit else "", "code": unit})
    return without_nothing(
        {
            "resourceType": "Observation",
            "id": f"value-{number}",
            "status": "unknown",
            "code": {"text": string(value.name)},
            "subject": making.place.subject,
            "effectiveDateTime": value.date if value.date and _is_date(value.date) else "",
            "valueQuantity": measured if numeric else None,
            "valueString": None if numeric else string(str(value.value)),
            "note": annotations(value.source),
        }
    )


def _group(making: Making, endpoint: Endpoint) -> Json:
    language, result = making.context.language, making.result
    group = next((group for group in result.groups if group.endpoint is endpoint), None)
    scores = [score for score in result.scores if score.endpoint is endpoint]
    said = [words.group_sentence(group, language)] if group is not None else []
    said += [words.natural_frequency(score, language) for score in scores]
    name = codes.risk_group_name(endpoint)
    value = None
    if group is not None:
        value = concept(codes.risk_group(group.group), text=words.group(group.group, language))
    return {
        "text": narrative(name.meaning, [*making.use(), *said]),
        "status": PRELIMINARY,
        "code": concept(name, text=words.capital(words.survival(endpoint, language))),
        "valueCodeableConcept": value,
        "component": [part for score in scores for part in _components(score)],
        "note": annotations(*making.use()),
    }


def _no_score(making: Making) -> Json:
    refusal, language = making.refusal, making.context.language
    absent = plain_coding(f"{TERMS}/data-absent-reason", "not-performed", "Not Performed")
    why = concept(codes.reason(refusal.reason), text=words.reason(refusal.reason, language).sentence)
    return {
        "text": narrative(words.not_scored(language), [*making.use(), *making.why()]),
        "status": NOT_DONE,
        "code": concept(codes.OUTCOME, text=words.not_scored(language)),
        "dataAbsentReason": {**why, "coding": [absent, *why["coding"]]},
        "note": annotations(*making.use(), *making.why()),
    }


def _components(score: RiskScore) -> list[Json]:
    """Probability and interval of one horizon."""
    endpoint, months = score.endpoint, score.horizon_months
    low, high = (quantity(words.figure(limit), "%", "%") for limit in (score.lower, score.upper))
    return [
        {
            "code": concept(codes.probability(endpoint, months)),
            "valueQuantity": quantity(words.figure(score.event_probability), "%", "%"),
        },
        {"code": concept(codes.interval(endpoint, months)), "valueRange": {"low": low, "high": high}},
    ]


def _months(number: int) -> Json:
    return quantity(number, "months", "mo")


def _is_date(text: str) -> bool:
    return date(text.replace("-", "")) == text
