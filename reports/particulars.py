"""What the reports say beside the result: values, contributions, quality notes, revision and provenance, in words."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest

from analysis.contract import (
    BundleIdentity,
    ClinicalValue,
    Contribution,
    Modality,
    QualityFlag,
    RoiFacts,
    Severity,
)
from models.clinical_value import ucum
from reports.context import Change, Changed
from reports.language import ENGLISH, speaker
from reports.words import capital, modality


def value(number: float | str | None, unit: str = "", language: str = ENGLISH) -> str:
    """A value with its unit, four significant digits.

    >>> value(358.1234, "mL"), value("adenocarcinoma"), value(12000.0), value(None), value(358.1234, "mL", "de")
    ('358.1 mL', 'adenocarcinoma', '12000', 'not known', '358,1 mL')
    >>> value(54.0, "a"), value(54.0, "years", "de")
    ('54 years', '54 Jahre')
    """
    voice = speaker(language)
    if number is None:
        return voice.say("not known")
    text = voice.retell(number) if isinstance(number, str) else voice.figure(_number(number))
    shown = voice.say("years") if ucum(unit) == "a" else unit  # UCUM, which few readers speak
    return f"{text} {shown}" if unit not in {"", "1"} else text


def _number(number: float) -> str:
    if abs(number) >= 1e6:
        return f"{number:.3g}"
    if abs(number) >= 1000 or number == int(number):
        return f"{number:.0f}"
    return f"{number:.4g}"


def factor(item: Contribution, language: str = ENGLISH) -> str:
    """The value behind a contribution.

    >>> factor(Contribution(endpoint="OS", modality="clinical", name="a", label="Albumin", value=38.0, unit="g/L",
    ...                     contribution=-0.05, imputed=True))
    '38 g/L, imputed'
    """
    text = value(item.value, item.unit, language)
    return speaker(language).say("{value}, imputed", value=text) if item.imputed else text


def signed(share: float, language: str = ENGLISH) -> str:
    """A contribution with its sign and a minus as long as the plus.

    >>> signed(0.314), signed(-0.05), signed(-123.4)
    ('+0.31', '−0.05', '−123')
    """
    text = f"{share:+.{2 if abs(share) < 10 else 0}f}"
    return speaker(language).figure(text).replace("-", "\N{MINUS SIGN}")


def shares(by_modality: Mapping[Modality, float], language: str = ENGLISH) -> str:
    """What each modality does to the score; nothing where there is only one.

    >>> shares({Modality.RADIOMIC: 0.43, Modality.DEEP: -0.1})
    'By modality: radiomic +0.43, deep -0.10'
    """
    voice = speaker(language)
    parts = [f"{modality(name, language)} {voice.figure(f'{share:+.2f}')}" for name, share in by_modality.items()]
    return voice.say("By modality: {shares}", shares=", ".join(parts)) if parts[1:] else ""


def contribution(item: Contribution, language: str = ENGLISH) -> str:
    """One contribution in words: value, signed share of the linear predictor, direction, caveats."""
    voice = speaker(language)
    direction = voice.say("raises the risk") if item.contribution > 0 else voice.say("lowers the risk")
    notes = [direction if item.contribution else voice.say("no influence")]
    if item.imputed:
        notes.append(voice.say("value imputed"))
    if item.out_of_range:
        notes.append(voice.say("outside the development range"))
    share = voice.figure(f"{item.contribution:+.2f}")
    text = value(item.value, item.unit, language)
    return f"{voice.retell(item.label)} = {text}: {share} ({', '.join(notes)})"


def clinical_value(item: ClinicalValue, known: Sequence[Contribution] = (), language: str = ENGLISH) -> str:
    """A clinical value with where it comes from and of which day it is; `known` give the model's names and terms.

    >>> clinical_value(ClinicalValue(name="ecog", value=1.0, source="clinical table", date="2024-03-10"))
    'ecog = 1 (clinical table, 2024-03-10)'
    """
    label, shown = _named(item, known, language)
    return f"{label} = {shown} ({_origin(item, language)})"


def clinical_values(
    items: Sequence[ClinicalValue], known: Sequence[Contribution] = (), language: str = ENGLISH
) -> list[str]:
    """The clinical values of each source and day together: as short as can be.

    >>> clinical_values([ClinicalValue(name="age", value=54.0, unit="a", source="DICOM PatientAge"),
    ...     ClinicalValue(name="nlr", value=3.9, source="study page", date="2024-03-10"),
    ...     ClinicalValue(name="ecog", value=1.0, source="study page", date="2024-03-10")])
    ['DICOM PatientAge: age 54 years.', 'Study page, 2024-03-10: nlr 3.9, ecog 1.']
    """
    groups: dict[str, list[str]] = {}
    for item in items:
        groups.setdefault(_origin(item, language), []).append(" ".join(_named(item, known, language)))
    return [f"{capital(origin)}: {', '.join(values)}." for origin, values in groups.items()]


def _named(item: ClinicalValue, known: Sequence[Contribution], language: str) -> tuple[str, str]:
    """Name and value; those of the model where it had the value: "Liver metastases", "no"."""
    for one in known:
        if one.modality is Modality.CLINICAL and one.name == item.name and not one.imputed:
            return speaker(language).retell(one.label), value(one.value, one.unit, language)
    return speaker(language).retell(item.name), value(item.value, item.unit, language)


def _origin(item: ClinicalValue, language: str) -> str:
    return speaker(language).retell(item.source) + (f", {item.date}" if item.date else "")


def quality(flag: QualityFlag, language: str = ENGLISH) -> str:
    """A quality flag; the severity is said, not coloured."""
    voice = speaker(language)
    severity = voice.say("Warning") if flag.severity is Severity.WARNING else voice.say("Info")
    return voice.say("{severity}: {text}", severity=severity, text=voice.retell(flag.text))


def roi(facts: RoiFacts, language: str = ENGLISH) -> str:
    """What was scored.

    >>> roi(RoiFacts(kind="RTSTRUCT", numbers=(1,), names=("GTV-1",), combine="single", voxels=125256,
    ...              volume_ml=358.08, slices=26, largest_slice=30))
    'RTSTRUCT ROI 1 "GTV-1": 358.1 mL, 125,256 voxels in 26 slices'
    """
    voice = speaker(language)
    noun = voice.say("ROI") if facts.kind == "RTSTRUCT" else voice.say("segment")
    how = {"single": "", "largest": voice.say(" (largest)"), "union": voice.say(" (union)")}[facts.combine.value]
    return voice.count(
        "{kind} {noun} {numbers}{how}: {volume}, {voxels} voxels in {number} slice",
        "{kind} {noun} {numbers}{how}: {volume}, {voxels} voxels in {number} slices",
        facts.slices,
        kind=facts.kind,
        noun=noun,
        numbers=", ".join(_called(number, name) for number, name in zip_longest(facts.numbers, facts.names)),
        how=how,
        volume=volume(facts.volume_ml, language),
        voxels=voice.figure(f"{facts.voxels:,}"),
    )


def _called(number: int, name: str | None) -> str:
    return f'{number} "{name}"' if name else str(number)


def volume(millilitres: float, language: str = ENGLISH) -> str:
    """A volume with one decimal.

    >>> volume(358.08), volume(358.08, "fr")
    ('358.1 mL', '358,1 mL')
    """
    return f"{speaker(language).figure(f'{millilitres:.1f}')} mL"


def revision(number: int, changes: Sequence[Changed], language: str = ENGLISH) -> str:
    """Which revision this is, which one it replaces, and what has changed between them.

    >>> revision(2, [Changed(Change.CONTOUR), Changed(Change.CLINICAL, ("albumin",))])
    'Revision 2, replaces revision 1. Changed: contour and clinical values (albumin).'
    """
    voice = speaker(language)
    head = voice.say("Revision {number}, replaces revision {before}.", number=number, before=number - 1)
    if not changes:
        return f"{head} {voice.say('The inputs are the same; it was asked for.')}"
    parts = [_changed(item, language) for item in changes]
    return f"{head} {voice.say('Changed: {changes}.', changes=voice.listed(parts))}"


def _changed(item: Changed, language: str) -> str:
    voice = speaker(language)
    what = {
        Change.CONTOUR: voice.say("contour"),
        Change.IMAGES: voice.say("CT images"),
        Change.CLINICAL: voice.say("clinical values"),
        Change.BUNDLE: voice.say("model bundle"),
        Change.CHOICE: voice.say("choice of the ROI or of the images"),
        Change.SOFTWARE: voice.say("software or settings"),
    }[item.kind]
    if not item.names:
        return what
    return voice.say("{what} ({names})", what=what, names=", ".join(voice.retell(name) for name in item.names))


def bundle(identity: BundleIdentity) -> str:
    """Name, version and whole digest of the model bundle."""
    return f"{identity.name} {identity.version}, SHA-256 {identity.digest}"


def short_digest(digest: str) -> str:
    """First twelve digits, with or without an algorithm prefix.

    >>> short_digest("sha256:0123456789abcdef")
    '0123456789ab'
    """
    return digest.rpartition(":")[2][:12]
