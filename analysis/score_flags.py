"""What a reader must know about how a score came about: what was missing, filled in, out of range or held."""

from collections.abc import Iterator, Mapping, Sequence

from analysis.clinical import ClinicalVector
from analysis.contract import Contribution, Modality, QualityFlag, RiskScore, Severity
from models.manifest import Manifest


def score_flags(
    manifest: Manifest,
    vector: ClinicalVector,
    modalities: Sequence[Modality],
    scores: Sequence[RiskScore],
    contributions: Sequence[Contribution],
    far: Mapping[Modality, tuple[float, float]],
) -> tuple[QualityFlag, ...]:
    """Flags of the ensemble, the gravest first. `far`: distance and limit where the patient is unlike the cohort."""
    found = [
        *_held(scores),  # first of its kind: a page has room for few, and this one explains two equal figures
        *_far(far),
        *_outside(contributions),
        *_missing(manifest, vector, modalities),
        *_imputed(manifest, vector, modalities, contributions),
    ]
    return tuple(sorted(found, key=lambda flag: flag.severity != Severity.WARNING))


def _held(scores: Sequence[RiskScore]) -> Iterator[QualityFlag]:
    if any(item.clipped for item in scores):
        text = "Risk of progression or death was predicted below risk of death and is shown equal to it"
        yield QualityFlag(code="PFS_HELD_AT_OS", severity=Severity.INFO, text=text)


def _far(far: Mapping[Modality, tuple[float, float]]) -> Iterator[QualityFlag]:
    if far:
        where = ", ".join(f"{modality.value} {away:.0f}, limit {limit:.0f}" for modality, (away, limit) in far.items())
        text = f"Unlike the training cohort (distance: {where}): the score is an extrapolation"
        yield QualityFlag(code="OUT_OF_DISTRIBUTION", severity=Severity.WARNING, text=text)


def _missing(manifest: Manifest, vector: ClinicalVector, modalities: Sequence[Modality]) -> Iterator[QualityFlag]:
    labels = {predictor.name: predictor.label for predictor in manifest.clinical}
    if Modality.CLINICAL in manifest.modalities and Modality.CLINICAL not in modalities:
        lacking = ", ".join(labels[name] for name in vector.lacking)
        text = f"Scored without clinical values; lacking: {lacking}"
        yield QualityFlag(code="CLINICAL_MISSING", severity=Severity.WARNING, text=text)
    for modality in (Modality.RADIOMIC, Modality.DEEP):
        if modality in manifest.modalities and modality not in modalities:
            text = f"Scored without {'radiomic' if modality is Modality.RADIOMIC else 'deep'} features"
            yield QualityFlag(code=f"{modality.name}_MISSING", severity=Severity.WARNING, text=text)


def _imputed(
    manifest: Manifest, vector: ClinicalVector, modalities: Sequence[Modality], contributions: Sequence[Contribution]
) -> Iterator[QualityFlag]:
    used = {part.name for part in contributions}
    filled = [item.label for item in manifest.clinical if item.name in vector.imputed and item.name in used]
    if Modality.CLINICAL in modalities and filled:
        text = f"Training median or commonest value used for: {', '.join(filled)}"
        yield QualityFlag(code="CLINICAL_IMPUTED", severity=Severity.INFO, text=text)


def _outside(contributions: Sequence[Contribution]) -> Iterator[QualityFlag]:
    """A warning where more than a fifth of the features, and more than two, are out of range."""
    labels = {part.label for part in contributions}
    outside = sorted({part.label for part in contributions if part.out_of_range})
    if outside:
        many = len(outside) > max(2, len(labels) // 5)
        names = ", ".join(outside)
        text = f"{len(outside)} of {len(labels)} features outside the training range (1st to 99th percentile): {names}"
        severity = Severity.WARNING if many else Severity.INFO
        yield QualityFlag(code="OUTSIDE_DEVELOPMENT_RANGE", severity=severity, text=text)
