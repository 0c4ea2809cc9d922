"""What the reports say, in words: one wording for SR, page and message. Words come before numbers."""

from collections.abc import Mapping
from typing import Final

from analysis.contract import (
    BundleIdentity,
    ClinicalValue,
    Contribution,
    Endpoint,
    Modality,
    QualityFlag,
    RiskGroup,
    RiskScore,
    RoiFacts,
    SubModel,
)

NOT_SCORED: Final = "Not scored"

_EVENT: Final = {Endpoint.OS: "death", Endpoint.PFS: "progression or death"}
_SURVIVAL: Final = {Endpoint.OS: "overall survival", Endpoint.PFS: "progression-free survival"}
_GROUP: Final = {RiskGroup.LOW: "Low risk", RiskGroup.UNCERTAIN: "Uncertain risk", RiskGroup.HIGH: "High risk"}
_MODALITY: Final = {
    Modality.CLINICAL: "clinical",
    Modality.RADIOMIC: "radiomic",
    Modality.DEEP: "deep",
}


def event(endpoint: Endpoint) -> str:
    """The event whose probability is predicted."""
    return _EVENT[endpoint]


def survival(endpoint: Endpoint) -> str:
    """The endpoint in words."""
    return _SURVIVAL[endpoint]


def group(value: RiskGroup) -> str:
    """A risk group in words; the same as the meaning of its code."""
    return _GROUP[value]


def capital(text: str) -> str:
    """First letter in upper case, the rest as it is.

    >>> capital("progression of NSCLC")
    'Progression of NSCLC'
    """
    return text[:1].upper() + text[1:]


def risk(score: RiskScore) -> str:
    """The predicted event in words.

    >>> risk(RiskScore(endpoint="OS", horizon_months=12, event_probability=0.3, lower=0.2, upper=0.4,
    ...                interval_level=0.9))
    'Death within 12 months'
    """
    return f"{capital(event(score.endpoint))} within {score.horizon_months} months"


def percent(probability: float) -> str:
    """A probability for people; certainty is never claimed.

    >>> percent(0.312), percent(0.001), percent(0.999)
    ('31 %', '<1 %', '>99 %')
    """
    return f"{_share(probability)} %"


def _share(probability: float) -> str:
    whole = round(100 * probability)
    if whole < 1:
        return "<1"
    return ">99" if whole > 99 else str(whole)


def interval(score: RiskScore) -> str:
    """Interval of a predicted probability, in per cent.

    >>> interval(RiskScore(endpoint="OS", horizon_months=12, event_probability=0.3, lower=0.22, upper=0.414,
    ...                    interval_level=0.9))
    '22 to 41 %'
    """
    return f"{_share(score.lower)} to {_share(score.upper)} %"


def level(fraction: float) -> str:
    """An interval level.

    >>> level(0.95), level(0.975)
    ('95 %', '97.5 %')
    """
    return f"{100 * fraction:g} %"


def sub_model(model: SubModel) -> str:
    """Which sub-model spoke, and what it did without.

    >>> sub_model(SubModel(modalities=("radiomic",), missing=("clinical",), performance=()))
    'Radiomic only. Not available: clinical.'
    """
    names = [_MODALITY[modality] for modality in model.modalities]
    text = capital(" and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names))
    if not model.missing:
        return f"{text}."
    only = " only" if len(names) == 1 else ""
    return f"{text}{only}. Not available: {', '.join(_MODALITY[m] for m in model.missing)}."


def value(number: float | str | None, unit: str = "") -> str:
    """A value with its unit, four significant digits.

    >>> value(358.1234, "mL"), value("adenocarcinoma"), value(12000.0), value(None)
    ('358.1 mL', 'adenocarcinoma', '12000', 'not known')
    """
    if number is None:
        return "not known"
    text = number if isinstance(number, str) else _number(number)
    return f"{text} {unit}" if unit not in {"", "1"} else text


def _number(number: float) -> str:
    if abs(number) >= 1e6:
        return f"{number:.3g}"
    if abs(number) >= 1000 or number == int(number):
        return f"{number:.0f}"
    return f"{number:.4g}"


def factor(item: Contribution) -> str:
    """The value behind a contribution.

    >>> factor(Contribution(endpoint="OS", modality="clinical", name="a", label="Albumin", value=38.0, unit="g/L",
    ...                     contribution=-0.05, imputed=True))
    '38 g/L, imputed'
    """
    return value(item.value, item.unit) + (", imputed" if item.imputed else "")


def signed(share: float) -> str:
    """A contribution with its sign and a minus as long as the plus.

    >>> signed(0.314), signed(-0.05), signed(-123.4)
    ('+0.31', '−0.05', '−123')
    """
    return f"{share:+.{2 if abs(share) < 10 else 0}f}".replace("-", "\N{MINUS SIGN}")


def shares(by_modality: Mapping[Modality, float]) -> str:
    """What each modality does to the score; nothing where there is only one.

    >>> shares({Modality.RADIOMIC: 0.43, Modality.DEEP: -0.1})
    'By modality: radiomic +0.43, deep -0.10'
    """
    parts = [f"{_MODALITY[modality]} {share:+.2f}" for modality, share in by_modality.items()]
    return f"By modality: {', '.join(parts)}" if parts[1:] else ""


def contribution(item: Contribution) -> str:
    """One contribution in words: value, signed share of the linear predictor, direction, caveats."""
    direction = "raises" if item.contribution > 0 else "lowers"
    notes = [f"{direction} the risk" if item.contribution else "no influence"]
    if item.imputed:
        notes.append("value imputed")
    if item.out_of_range:
        notes.append("outside the development range")
    return f"{item.label} = {value(item.value, item.unit)}: {item.contribution:+.2f} ({', '.join(notes)})"


def clinical_value(item: ClinicalValue) -> str:
    """A clinical value with where it comes from."""
    dated = f", {item.date}" if item.date else ""
    return f"{item.name} = {value(item.value, item.unit)} ({item.source}{dated})"


def quality(flag: QualityFlag) -> str:
    """A quality flag; the severity is said, not coloured."""
    return f"{capital(flag.severity.value)}: {flag.text}"


def roi(facts: RoiFacts) -> str:
    """What was scored.

    >>> roi(RoiFacts(kind="RTSTRUCT", numbers=(1,), combine="single", voxels=125256, volume_ml=358.08, slices=26,
    ...              largest_slice=30))
    'RTSTRUCT ROI 1: 358.1 mL, 125,256 voxels in 26 slices'
    """
    noun = "ROI" if facts.kind == "RTSTRUCT" else "segment"
    numbers = ", ".join(str(number) for number in facts.numbers)
    how = "" if len(facts.numbers) == 1 else f" ({facts.combine.value})"
    return (
        f"{facts.kind} {noun} {numbers}{how}: {volume(facts.volume_ml)}, "
        f"{facts.voxels:,} voxels in {facts.slices} slices"
    )


def volume(millilitres: float) -> str:
    """A volume with one decimal.

    >>> volume(358.08)
    '358.1 mL'
    """
    return f"{millilitres:.1f} mL"


def bundle(identity: BundleIdentity) -> str:
    """Name, version and whole digest of the model bundle."""
    return f"{identity.name} {identity.version}, SHA-256 {identity.digest}"


def short_digest(digest: str) -> str:
    """First twelve digits, with or without an algorithm prefix.

    >>> short_digest("sha256:0123456789abcdef")
    '0123456789ab'
    """
    return digest.rpartition(":")[2][:12]
