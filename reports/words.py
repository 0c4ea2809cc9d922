"""What the reports say of the result, in words before numbers: one wording for SR, page, PDF, HL7 and FHIR.

Every function takes the language of the site ([report] language) last; English is the default. The rest of what a
report says (values, contributions, quality, provenance) is in `particulars`.
"""

from typing import Final

from analysis.contract import (
    REASONS,
    RESEARCH_USE,
    SYNTHETIC_WARNING,
    Endpoint,
    EndpointGroup,
    JobResult,
    Modality,
    Performance,
    Reason,
    ReasonText,
    RiskGroup,
    RiskScore,
    SubModel,
)
from reports.language import ENGLISH, mark, speaker

NOT_SCORED: Final = mark("Not scored")

_EVENT: Final = {Endpoint.OS: mark("death"), Endpoint.PFS: mark("progression or death")}
_SURVIVAL: Final = {Endpoint.OS: mark("overall survival"), Endpoint.PFS: mark("progression-free survival")}
_GROUP: Final = {
    RiskGroup.LOW: mark("Low risk"),
    RiskGroup.UNCERTAIN: mark("Uncertain risk"),
    RiskGroup.HIGH: mark("High risk"),
}
_MODALITY: Final = {
    Modality.CLINICAL: mark("clinical"),
    Modality.RADIOMIC: mark("radiomic"),
    Modality.DEEP: mark("deep"),
}
# Lower limit of the AUC and what it is called (Hosmer, Lemeshow and Sturdivant 2013, 5.2.4).
_DISCRIMINATION: Final = ((0.9, mark("very good")), (0.8, mark("good")), (0.7, mark("acceptable")), (0.0, mark("weak")))


def event(endpoint: Endpoint, language: str = ENGLISH) -> str:
    """The event whose probability is predicted."""
    return speaker(language).say(_EVENT[endpoint])


def survival(endpoint: Endpoint, language: str = ENGLISH) -> str:
    """The endpoint in words."""
    return speaker(language).say(_SURVIVAL[endpoint])


def group(value: RiskGroup, language: str = ENGLISH) -> str:
    """A risk group in words; in English the same as the meaning of its code."""
    return speaker(language).say(_GROUP[value])


def modality(value: Modality, language: str = ENGLISH) -> str:
    """A family of predictors."""
    return speaker(language).say(_MODALITY[value])


def capital(text: str) -> str:
    """First letter in upper case, the rest as it is.

    >>> capital("progression of NSCLC")
    'Progression of NSCLC'
    """
    return text[:1].upper() + text[1:]


def group_sentence(item: EndpointGroup, language: str = ENGLISH) -> str:
    """A risk group and what it means.

    >>> group_sentence(EndpointGroup(endpoint="OS", group="HIGH", linear_predictor=0.4, lower=0.2, upper=0.7, cutoff=0))
    'Overall survival: High risk. The whole interval lies above the median of the training cohort.'
    """
    voice = speaker(language)
    meaning = {
        RiskGroup.HIGH: voice.say("The whole interval lies above the median of the training cohort."),
        RiskGroup.LOW: voice.say("The whole interval lies below the median of the training cohort."),
        RiskGroup.UNCERTAIN: voice.say("The interval spans the median of the training cohort."),
    }
    name = capital(survival(item.endpoint, language))
    head = voice.say("{endpoint}: {group}.", endpoint=name, group=group(item.group, language))
    return f"{head} {meaning[item.group]}"


def risk(score: RiskScore | Performance, language: str = ENGLISH) -> str:
    """The predicted event in words.

    >>> risk(RiskScore(endpoint="OS", horizon_months=12, event_probability=0.3, lower=0.2, upper=0.4,
    ...                interval_level=0.9))
    'Death within 12 months'
    """
    if score.endpoint is Endpoint.OS:
        return speaker(language).count(
            "Death within {number} month", "Death within {number} months", score.horizon_months
        )
    return speaker(language).count(
        "Progression or death within {number} month",
        "Progression or death within {number} months",
        score.horizon_months,
    )


def horizon(score: RiskScore | Performance, language: str = ENGLISH) -> str:
    """Endpoint and horizon, as short as can be.

    >>> horizon(Performance(endpoint="OS", horizon_months=12, auc=None, patients=240, events=95))
    'OS, 12 months'
    """
    return speaker(language).count(
        "{endpoint}, {number} month",
        "{endpoint}, {number} months",
        score.horizon_months,
        endpoint=str(score.endpoint),
    )


def natural_frequency(score: RiskScore, language: str = ENGLISH) -> str:
    """A predicted risk as people count, with its interval.

    >>> natural_frequency(RiskScore(endpoint="OS", horizon_months=12, event_probability=0.312, lower=0.22, upper=0.41,
    ...                             interval_level=0.9))
    'About 31 of 100 patients like this one are expected to die within 12 months; plausibly 22 to 41.'
    >>> natural_frequency(RiskScore(endpoint="OS", horizon_months=12, event_probability=0.999, lower=0.9, upper=1,
    ...                             interval_level=0.9))
    'More than 99 of 100 patients like this one are expected to die within 12 months; plausibly 90 to more than 99.'
    """
    voice = speaker(language)
    values = {"share": _counted(score.event_probability, language), "range": _range(score, language)}
    if score.endpoint is Endpoint.OS:
        said = voice.count(
            "{share} of 100 patients like this one are expected to die within {number} month; plausibly {range}.",
            "{share} of 100 patients like this one are expected to die within {number} months; plausibly {range}.",
            score.horizon_months,
            **values,
        )
    else:
        said = voice.count(
            "{share} of 100 patients like this one are expected to have progressed or died within {number} month; "
            "plausibly {range}.",
            "{share} of 100 patients like this one are expected to have progressed or died within {number} months; "
            "plausibly {range}.",
            score.horizon_months,
            **values,
        )
    return capital(said)


def _counted(probability: float, language: str) -> str:
    """How many of a hundred, in words where a number would claim certainty."""
    voice, whole = speaker(language), share(probability)
    if whole.isdigit():
        return voice.say("about {number}", number=whole)
    return voice.say("fewer than 1") if whole == "<1" else voice.say("more than 99")


def _range(score: RiskScore, language: str) -> str:
    voice = speaker(language)
    edges = [share(score.lower), share(score.upper)]
    lower, upper = (edge if edge.isdigit() else _counted(float(edge == ">99"), language) for edge in edges)
    return lower if edges[0] == edges[1] else voice.say("{lower} to {upper}", lower=lower, upper=upper)


def percent(probability: float, language: str = ENGLISH) -> str:
    """A probability for people; certainty is never claimed.

    >>> percent(0.312), percent(0.001), percent(0.999)
    ('31 %', '<1 %', '>99 %')
    """
    return speaker(language).say("{number} %", number=share(probability))


def figure(probability: float) -> float:
    """A probability in per cent for a coded value, one decimal, never 0 or 100.

    >>> figure(0.3124), figure(0.0001), figure(0.9999)
    (31.2, 0.1, 99.9)
    """
    return min(99.9, max(0.1, round(100 * probability, 1)))


def share(probability: float) -> str:
    """A probability as a whole number of a hundred, never 0 or 100.

    >>> share(0.312), share(0.001)
    ('31', '<1')
    """
    whole = round(100 * probability)
    if whole < 1:
        return "<1"
    return ">99" if whole > 99 else str(whole)


def interval(score: RiskScore, language: str = ENGLISH) -> str:
    """Interval of a predicted probability, in per cent.

    >>> interval(RiskScore(endpoint="OS", horizon_months=12, event_probability=0.3, lower=0.22, upper=0.414,
    ...                    interval_level=0.9))
    '22 to 41 %'
    """
    lower, upper = share(score.lower), share(score.upper)
    if lower == upper:
        return percent(score.lower, language)
    return speaker(language).say("{lower} to {upper} %", lower=lower, upper=upper)


def interval_sentence(score: RiskScore, language: str = ENGLISH) -> str:
    """An interval and what kind of interval it is.

    >>> interval_sentence(RiskScore(endpoint="OS", horizon_months=12, event_probability=0.3, lower=0.22, upper=0.414,
    ...                             interval_level=0.9))
    '22 to 41 % (90 % bootstrap interval)'
    """
    kind = speaker(language).say("{level} bootstrap interval", level=level(score.interval_level, language))
    return f"{interval(score, language)} ({kind})"


def level(fraction: float, language: str = ENGLISH) -> str:
    """An interval level.

    >>> level(0.95), level(0.975), level(0.975, "ko")
    ('95 %', '97.5 %', '97.5%')
    """
    return speaker(language).say("{number} %", number=speaker(language).figure(f"{100 * fraction:g}"))


def clipped(score: RiskScore, language: str = ENGLISH) -> str:
    """Why a risk of progression or death is not what its own model said."""
    return speaker(language).say(
        "{risk}: set to the risk of death, which is never the larger one.", risk=risk(score, language)
    )


def sub_model(model: SubModel, language: str = ENGLISH) -> str:
    """Which sub-model spoke, and what it did without.

    >>> sub_model(SubModel(modalities=("radiomic",), missing=("clinical",), performance=()))
    'Radiomic only. Not available: clinical.'
    """
    voice = speaker(language)
    named = voice.listed([modality(item, language) for item in model.modalities])
    if not model.missing:
        return voice.say("{modalities}.", modalities=capital(named))
    absent = voice.listed([modality(item, language) for item in model.missing])
    if len(model.modalities) == 1:
        return voice.say("{modalities} only. Not available: {missing}.", modalities=capital(named), missing=absent)
    return voice.say("{modalities}. Not available: {missing}.", modalities=capital(named), missing=absent)


def not_available(result: JobResult, language: str = ENGLISH) -> list[str]:
    """What the score had to do without: whole families of predictors, and values that the training cohort lent."""
    voice, said = speaker(language), []
    if result.sub_model is not None and result.sub_model.missing:
        names = [modality(item, language) for item in result.sub_model.missing]
        said.append(voice.say("Not available: {missing}.", missing=voice.listed(names)))
    return [*said, *([lent(result, language)] if lent(result, language) else [])]


def lent(result: JobResult, language: str = ENGLISH) -> str:
    """Which clinical values were not known, so that the training cohort's stood in; '' where none."""
    voice = speaker(language)
    values = list(dict.fromkeys(voice.retell(item.label) for item in result.contributions if item.imputed))
    if not values:
        return ""
    return voice.say("Not known, so taken from the training cohort: {values}.", values=voice.listed(values))


def ranking(performance: Performance, language: str = ENGLISH) -> str:
    """How many of 100 pairs of patients a sub-model ranked rightly, and a word for it.

    >>> ranking(Performance(endpoint="OS", horizon_months=12, auc=0.701, auc_lower=0.62, auc_upper=0.77, patients=240,
    ...                     events=95))
    '70 of 100: acceptable'
    >>> ranking(Performance(endpoint="OS", horizon_months=12, auc=0.696, auc_lower=0.62, auc_upper=0.77, patients=240,
    ...                     events=95))  # AUC 0.70 is what is printed
    '70 of 100: acceptable'
    """
    voice = speaker(language)
    if performance.auc is None:
        return voice.say("not evaluable")
    rightly = share(performance.auc)
    word = discrimination(performance, language)
    return voice.say("{pairs} of 100: {word}", pairs=rightly, word=word)


def discrimination(performance: Performance, language: str = ENGLISH) -> str:
    """A word for an AUC: that of its value as it is printed, unless chance is within its interval."""
    voice = speaker(language)
    if performance.auc is None:
        return voice.say("not evaluable")
    if performance.auc_lower is not None and performance.auc_lower <= 0.5:
        return voice.say("chance not excluded")
    return voice.say(next(word for limit, word in _DISCRIMINATION if round(performance.auc, 2) >= limit))


def intervals_are_narrow(language: str = ENGLISH) -> str:
    """What to know before an interval is read (docs/science.md, what to doubt)."""
    return speaker(language).say(
        "Intervals are narrower than they should be: the truth lies outside more often than the level says."
    )


def validation(performance: Performance, language: str = ENGLISH) -> str:
    """How well a sub-model did in nested cross-validation, for one endpoint and horizon.

    >>> validation(Performance(endpoint="OS", horizon_months=12, auc=0.701, auc_lower=0.62, auc_upper=0.77,
    ...                        patients=240, events=95))  # doctest: +ELLIPSIS
    'Death within 12 months: acceptable. Of 100 pairs ... AUC 0.70 (0.62 to 0.77), 240 patients, 95 events.'
    """
    voice = speaker(language)
    cohort = voice.say(
        "{patients} patients, {events} events",
        patients=voice.figure(f"{performance.patients:,}"),
        events=voice.figure(f"{performance.events:,}"),
    )
    head = voice.say("{risk}: {word}.", risk=risk(performance, language), word=discrimination(performance, language))
    if performance.auc is None:
        return f"{head} {cohort}."
    pairs = voice.say(
        "Of 100 pairs of patients, one with the event by then and one without, about {pairs} were ranked rightly "
        "(50 is chance).",
        pairs=share(performance.auc),
    )
    return f"{head} {pairs} {figures(performance, language)}, {cohort}."


def figures(performance: Performance, language: str = ENGLISH) -> str:
    """AUC with its interval, and observed over expected events.

    >>> figures(Performance(endpoint="OS", horizon_months=12, auc=0.701, auc_lower=0.62, auc_upper=0.77,
    ...                     observed_expected=1.02, patients=240, events=95))
    'AUC 0.70 (0.62 to 0.77), observed/expected 1.02'
    """
    voice = speaker(language)
    if performance.auc is None:
        return voice.say("not evaluable")
    numbers = (performance.auc, performance.auc_lower, performance.auc_upper, performance.observed_expected)
    auc, lower, upper, ratio = (None if number is None else voice.figure(f"{number:.2f}") for number in numbers)
    if lower is None or upper is None:
        said = voice.say("AUC {auc}", auc=auc)
    else:
        said = voice.say("AUC {auc} ({lower} to {upper})", auc=auc, lower=lower, upper=upper)
    return said if ratio is None else f"{said}, {voice.say('observed/expected {ratio}', ratio=ratio)}"


def research_use(language: str = ENGLISH) -> str:
    """The line that no result may lack."""
    return speaker(language).say(RESEARCH_USE)


def synthetic_warning(language: str = ENGLISH) -> str:
    """What is said wherever a bundle was trained on synthetic patients."""
    return speaker(language).say(SYNTHETIC_WARNING)


def not_scored(language: str = ENGLISH) -> str:
    """The outcome of a study without a score."""
    return speaker(language).say(NOT_SCORED)


def reason(value: Reason, language: str = ENGLISH) -> ReasonText:
    """Why a study was not scored, and what would make it scorable."""
    text, voice = REASONS[value], speaker(language)
    return ReasonText(voice.say(text.sentence), voice.say(text.remedy))
