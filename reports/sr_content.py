"""Content items that both SRs share: observation context, algorithm, texts, and the document around a content tree."""

import math
from collections.abc import Iterable, Mapping, Sequence

from highdicom.sr import (
    AlgorithmIdentification,
    CodeContentItem,
    CodedConcept,
    ContainerContentItem,
    ContentItem,
    ContentSequence,
    DeviceObserverIdentifyingAttributes,
    ImageLibrary,
    LanguageOfContentItemAndDescendants,
    ObservationContext,
    ObserverContext,
    RelationshipTypeValues,
    TextContentItem,
)
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes as pydicom_codes
from pydicom.sr.coding import Code
from pydicom.tag import Tag
from pydicom.valuerep import DS

from analysis.contract import BundleIdentity
from config.identity import MANUFACTURER, MODEL_NAME
from reports import codes, particulars, words
from reports.context import ReportContext
from reports.evidence import stand_in
from reports.language import speaker

_VALUE_TYPE, _RELATIONSHIP, _CONCEPT_NAME = Tag("ValueType"), Tag("RelationshipType"), Tag("ConceptNameCodeSequence")
_MEASURED_VALUE, _UNITS = Tag("MeasuredValueSequence"), Tag("MeasurementUnitsCodeSequence")
_NUMERIC_VALUE, _FLOATING_POINT_VALUE = Tag("NumericValue"), Tag("FloatingPointValue")
_CODE_VALUE, _SCHEME, _MEANING = Tag("CodeValue"), Tag("CodingSchemeDesignator"), Tag("CodeMeaning")


class ReportError(ValueError):
    """The report cannot be written as asked; the text names the value and the remedy."""


def number(value: float, what: str) -> float:
    """A finite plain float for a NUM item; numpy scalars are converted, booleans and NaN are refused.

    Raises
    ------
    ReportError
        For anything that is not a finite number (it belongs among the failed features).
    """
    if isinstance(value, bool) or type(value).__name__ in {"bool", "bool_"}:
        raise ReportError(f"{what}: a truth value is not a measurement; list the feature as failed")
    plain = float(value)
    if not math.isfinite(plain):
        raise ReportError(f"{what}: {plain} is not a measurement; list the feature as failed")
    return plain


def text(name: Code, value: str) -> TextContentItem:
    """A TEXT item in a container; control characters become spaces."""
    clean = "".join(c if c.isprintable() else " " for c in value).strip() or "-"
    return TextContentItem(name=name, value=clean, relationship_type=RelationshipTypeValues.CONTAINS)


def code(name: Code, value: Code) -> CodeContentItem:
    """A CODE item in a container."""
    return CodeContentItem(name=name, value=value, relationship_type=RelationshipTypeValues.CONTAINS)


def measurement(name: Code, value: float, unit: Code) -> Dataset:
    """A NUM item in a container, as highdicom's `Measurement` makes it in ten times the time: an SR has 180."""
    measured = Dataset()
    measured.add(DataElement(_NUMERIC_VALUE, "DS", DS(value, auto_format=True), already_converted=True))
    measured.add(DataElement(_FLOATING_POINT_VALUE, "FD", value, already_converted=True))
    measured.add(DataElement(_UNITS, "SQ", [_coded(unit)]))
    made = Dataset()
    made.add(DataElement(_VALUE_TYPE, "CS", "NUM", already_converted=True))
    made.add(DataElement(_CONCEPT_NAME, "SQ", [_coded(name)]))
    made.add(DataElement(_RELATIONSHIP, "CS", "CONTAINS", already_converted=True))
    made.add(DataElement(_MEASURED_VALUE, "SQ", [measured]))
    return made


def _coded(code: Code) -> Dataset:
    """As `CodedConcept` makes it, which does what is not plain."""
    if len(code.value) > 16 or len(code.meaning) > 64 or code.scheme_version is not None:
        return CodedConcept.from_code(code)
    made = Dataset()
    texts = ((_CODE_VALUE, "SH", code.value), (_SCHEME, "SH", code.scheme_designator), (_MEANING, "LO", code.meaning))
    for tag, vr, value in texts:
        made.add(DataElement(tag, vr, value, already_converted=True))
    return made


def statements(bundle: BundleIdentity | None, context: ReportContext) -> list[ContentItem]:
    """What every SR of ours says of itself first: use, synthetic bundle, revision."""
    language = context.language
    items: list[ContentItem] = [text(codes.STATEMENT_OF_USE, words.research_use(language))]
    if bundle is not None and bundle.synthetic:
        items.append(text(codes.WARNING, words.synthetic_warning(language)))
    if context.revision > 1:
        items.append(text(codes.REVISION, particulars.revision(context.revision, context.changes, language)))
    return items


def provenance(
    bundle: BundleIdentity | None, context: ReportContext, libraries: Mapping[str, str] | None = None
) -> list[ContentItem]:
    """Which bundle and which software, in full; `libraries` are name and version of what computed the result."""
    items: list[ContentItem] = []
    if bundle is not None:
        items.append(text(codes.BUNDLE, particulars.bundle(bundle)))
    named = {MODEL_NAME: context.software_version} | dict(libraries or {})
    items.append(text(codes.SOFTWARE, ", ".join(f"{name} {version}" for name, version in named.items())))
    return items


def algorithm(bundle: BundleIdentity, parameters: Sequence[str] = ()) -> AlgorithmIdentification:
    """TID 4019, with a digest short enough to be rendered in place; the whole one stands in `provenance`.

    No manufacturer: the validators' edition does not know the row yet.
    """
    return AlgorithmIdentification(
        name=bundle.name,
        version=f"{bundle.version}, SHA-256 {particulars.short_digest(bundle.digest)}",
        parameters=list(parameters) or None,
        family=codes.ARTIFICIAL_INTELLIGENCE,
    )


def measurement_report(
    title: Code,
    context: ReportContext,
    groups: Sequence[ContentSequence],
    evaluations: Iterable[ContentItem],
    key_image: Dataset | None,
) -> ContainerContentItem:
    """Root container of TID 1500: context, one key image as library, measurement groups, evaluations.

    highdicom's own MeasurementReport insists on a group, which a report of "not scored" has not. Its default Image
    Library of fifteen items per slice is a quarter of a megabyte for sixty slices: one entry serves the viewers.
    """
    root = ContainerContentItem(name=title, template_id="1500")
    items = ContentSequence()
    language = CodedConcept(context.language, "RFC5646", speaker(context.language).name)
    items.extend(LanguageOfContentItemAndDescendants(language))
    items.extend(_observer(context))
    procedure = codes.procedure("" if key_image is None else str(key_image.get("Modality", "")))
    items.append(
        CodeContentItem(pydicom_codes.DCM.ProcedureReported, procedure, RelationshipTypeValues.HAS_CONCEPT_MOD)
    )
    if key_image is not None:
        items.extend(ImageLibrary([_without_plane(key_image)]))
    if groups:
        measurements = container(pydicom_codes.DCM.ImagingMeasurements, [item for group in groups for item in group])
        items.append(measurements)
    items.append(container(codes.QUALITATIVE_EVALUATIONS, evaluations))
    root.ContentSequence = items
    return root


def container(name: Code, items: Iterable[ContentItem]) -> ContainerContentItem:
    """A CONTAINER within another."""
    made = ContainerContentItem(name=name, relationship_type=RelationshipTypeValues.CONTAINS)
    made.ContentSequence = ContentSequence(list(items))
    return made


def _observer(context: ReportContext) -> ObservationContext:
    device = DeviceObserverIdentifyingAttributes(
        uid=context.device_uid,
        name=context.ae_title,
        manufacturer_name=MANUFACTURER,
        model_name=MODEL_NAME,
        serial_number=context.device_uid,
        physical_location=context.site or None,
    )
    observer = ObserverContext(observer_type=pydicom_codes.DCM.Device, observer_identifying_attributes=device)
    return ObservationContext(observer_device_context=observer)


def _without_plane(image: Dataset) -> Dataset:
    """A stand-in whose library entry has size and frame of reference only: the plane may be absent or per frame."""
    plain = stand_in(image)
    plain.Modality = ""
    return plain


def separate(item: Dataset) -> None:
    """Set Continuity Of Content (0040,A050) to SEPARATE in every container, in place.

    highdicom writes CONTINUOUS, and renderers then run the values together without their labels: "31.2 % 55.0 %
    High risk". A reader must never have to guess which probability a number is.
    """
    if item.get("ValueType") == "CONTAINER":
        item.ContinuityOfContent = "SEPARATE"
    for child in item.get("ContentSequence", []):
        separate(child)
