"""The short ways of the report stage end in the bytes of the long ones: highdicom given everything."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
from highdicom.pr import GraphicAnnotation, GrayscaleSoftcopyPresentationState
from highdicom.sr import Comprehensive3DSR, ComprehensiveSR, ContainerContentItem, EnhancedSR, Measurement
from highdicom.sr.utils import collect_evidence
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.sr.coding import Code
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian

from config.identity import MANUFACTURER
from reports import build, codes, gsps, seg
from reports.codes import coding_schemes
from reports.context import DocumentReference, ReportContext, local_time
from reports.encode import encoded
from reports.evidence import EvidenceError, Reference, reference, stand_in
from reports.finish import finish
from reports.sr_content import measurement, separate
from reports.sr_document import SR_SOP_CLASSES, Slot, evidence_of
from reports.sr_variant import as_sop_class, files, part10
from tests.report_inputs import Case, objects, scored, short, small_case
from tests.report_inputs import part10 as as_pydicom_writes


@pytest.mark.parametrize("sop_class", short(SR_SOP_CLASSES, SR_SOP_CLASSES[1]))
def test_an_sr_is_what_highdicom_makes_of_the_whole_content(sop_class: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = small_case()
    ours = scored(case, sop_class)
    monkeypatch.setattr(build, "document", _whole_document)
    long = scored(case, sop_class)
    for name in ("risk_sr", "radiomics_sr"):
        assert part10(getattr(ours, name)) == part10(getattr(long, name))


@pytest.mark.parametrize("seed", range(8))
def test_evidence_is_listed_as_highdicom_lists_it(seed: int) -> None:
    draw = np.random.default_rng(seed)
    sources = [
        Reference(*(f"1.2.{kind}.{draw.integers(1, most)}" for kind, most in enumerate((3, 30, 4, 5), start=1)))
        for _ in range(40)
    ]
    here, elsewhere = evidence_of(sources, "1.2.3.1")
    expected = collect_evidence([_as_dataset(source) for source in sources], _empty(), "1.2.3.1")
    assert (here, elsewhere) == expected


@pytest.mark.parametrize("holes", short([(), (5,), (4, 5, 7)], (5,)))
def test_a_seg_is_what_highdicom_makes_of_every_slice(holes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    case = _with_holes(small_case(), holes)
    ours = scored(case).segmentation
    monkeypatch.setattr(seg, "_chosen", lambda mask, numbers: list(range(len(mask))))
    monkeypatch.setattr(seg, "_as_of_all", lambda *_: None)
    monkeypatch.setattr(seg, "slice_stand_in", stand_in)
    long = scored(case).segmentation
    assert ours is not None
    assert long is not None
    assert part10(ours) == part10(long)


def test_a_seg_of_one_slice_tells_the_distance_of_all() -> None:
    case = small_case()
    only = np.zeros_like(case.mask)
    only[6] = case.mask[6]
    assert only.any()
    made = scored(Case(case.ct, case.roi, only)).segmentation
    assert made is not None
    measures = made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    steps = np.diff([float(header.ImagePositionPatient[2]) for header in case.ct])
    assert float(measures.SpacingBetweenSlices) == pytest.approx(abs(steps[0]))
    assert len(made.SourceImageSequence) == len(case.ct)


def test_an_outline_is_what_highdicom_makes_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    case = small_case()
    ours = scored(case).presentation_state

    def long(
        image: Reference,
        frame: int | None,
        loops: Sequence[list[tuple[int, int]]],
        note: gsps.TextObject,
        tracking: tuple[str, str],
    ) -> Dataset:
        layer = gsps.GraphicLayer(gsps.LAYER, order=1)
        header = next(header for header in case.ct if header.SOPInstanceUID == image.sop_instance_uid)
        graphics = [gsps._polyline(loop, tracking) for loop in loops]
        return GraphicAnnotation([stand_in(header)], layer, frame, graphic_objects=graphics, text_objects=[note])

    monkeypatch.setattr(gsps, "_annotation", long)
    again = scored(case).presentation_state
    assert ours is not None
    assert again is not None
    assert len(ours.GraphicAnnotationSequence) > 2
    assert part10(ours) == part10(again)


def test_the_images_of_an_outline_are_listed_as_highdicom_lists_them(monkeypatch: pytest.MonkeyPatch) -> None:
    case, state = small_case(), gsps._state
    ours = scored(case).presentation_state
    drawn = [stand_in(header) for header, plane in zip(case.ct, case.mask, strict=True) if plane.any()]

    def long(_: Dataset, *more: Any) -> Dataset:
        for header in drawn:
            header.SamplesPerPixel = 1
        monkeypatch.setattr(gsps, "GrayscaleSoftcopyPresentationState", partial(_of_all, drawn))
        return state(_, *more)

    monkeypatch.setattr(gsps, "_state", long)
    monkeypatch.setattr(gsps, "_by_series", lambda _: made.pop())
    made: list[Any] = []

    def _of_all(images: list[Dataset], **more: Any) -> Dataset:
        whole = GrayscaleSoftcopyPresentationState(**more | {"referenced_images": images})
        made.append(whole.ReferencedSeriesSequence)
        return whole

    again = scored(case).presentation_state
    assert ours is not None
    assert again is not None
    assert len(drawn) > 2
    assert part10(ours) == part10(again)


def test_a_measurement_is_what_highdicom_makes_of_it() -> None:
    long_value = Code("a-code-value-of-more-than-16", "99TEST", "Long")
    for name in (codes.PERCENT, long_value, Code("1", "99TEST", "With a version", "2")):
        for value in (0.1, -3.0, 1e300, 12345678.123456789, 5e-324):
            theirs = Measurement(name=name, value=value, unit=codes.PERCENT)[0]
            assert encoded(measurement(name, value, codes.PERCENT)) == encoded(theirs)


@pytest.mark.parametrize("uid", ["", "\0\0", " ", "1.2\\3.4"])
def test_evidence_without_a_uid_is_refused(uid: str) -> None:
    case = small_case()
    case.ct[3]["SeriesInstanceUID"] = RawDataElement(Tag("SeriesInstanceUID"), "UI", 4, uid.encode(), 0, False, True)
    with pytest.raises(EvidenceError, match="SeriesInstanceUID"):
        scored(case)


def test_the_files_of_an_sr_are_those_of_its_sop_classes() -> None:
    made = scored(small_case()).radiomics_sr
    assert made is not None
    preferred, others = files(made, SR_SOP_CLASSES[1:])
    assert preferred == part10(made)
    assert others == [part10(as_sop_class(made, other)) for other in SR_SOP_CLASSES[1:]]


def test_an_object_is_encoded_as_pydicom_encodes_it() -> None:
    made = scored(small_case())
    every = [
        made.risk_sr,
        made.radiomics_sr,
        made.segmentation,
        made.pdf,
        made.presentation_state,
        made.pages[0].dataset,
    ]
    for dataset in every:
        assert dataset is not None
        assert part10(dataset) == as_pydicom_writes(dataset)
    for dataset in objects(made).values():  # read back: elements that nobody has looked at
        assert part10(dataset) == as_pydicom_writes(dataset)


def test_odd_elements_are_encoded_as_pydicom_encodes_them() -> None:
    odd = _odd()
    odd.SharedFunctionalGroupsSequence = [_odd(), Dataset()]
    odd["SharedFunctionalGroupsSequence"].is_undefined_length = True
    odd.SharedFunctionalGroupsSequence[0].is_undefined_length_sequence_item = True
    odd.SharedFunctionalGroupsSequence[0].SpecificCharacterSet = "ISO_IR 100"
    odd.SharedFunctionalGroupsSequence[0].PersonIdentificationCodeSequence = [_odd()]
    odd.ReferencedStudySequence = Items()
    odd.SOPClassUID, odd.SOPInstanceUID = SR_SOP_CLASSES[0], "1.2.3"
    odd.file_meta = FileMetaDataset()
    odd.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    assert part10(odd) == as_pydicom_writes(odd)


def _small(**elements: str) -> Dataset:
    made = Dataset()
    made.SpecificCharacterSet, made.SOPClassUID, made.SOPInstanceUID = "ISO_IR 192", SR_SOP_CLASSES[0], "1.2.3"
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return made


@pytest.mark.parametrize("keyword", ["AffectedSOPClassUID", "MediaStorageSOPClassUID"])
def test_elements_that_no_data_set_holds_are_refused_as_by_pydicom(keyword: str) -> None:
    wrong = _small(**{keyword: "1.2.3"})
    for write in (part10, as_pydicom_writes):
        with pytest.raises(ValueError, match="lements"):
            write(wrong)


def test_a_preamble_is_kept() -> None:
    dual = _small()
    dual.preamble = b"II*" + bytes(125)
    assert part10(dual) == as_pydicom_writes(dual)
    assert part10(dual).startswith(b"II*")


def test_a_text_that_has_no_form_is_written_as_by_pydicom() -> None:
    lone = _small(SeriesDescription="half \ud800 of a pair")
    with pytest.warns(UserWarning, match="Failed to encode"):
        assert part10(lone) == as_pydicom_writes(lone)


def test_numbers_that_are_longer_than_their_vr_can_say_are_written_as_by_pydicom() -> None:
    outline = _small()
    outline.GraphicData = [0.5] * 17_000
    with pytest.warns(UserWarning, match="64 kByte"):
        assert part10(outline) == as_pydicom_writes(outline)


def _odd() -> Dataset:
    made = Dataset()
    made.SpecificCharacterSet = "ISO_IR 192"
    made.PatientName, made.PatientComments, made.StudyDescription = "Ångström^Å", "ä" * 7, "ü"
    made.PixelRepresentation, made.SmallestImagePixelValue = 1, -5  # US or SS: another element decides
    made.ImageType, made.ImagePositionPatient, made.SliceThickness = ["A", "BC"], [1, 2.5, -3], "1.20"
    made.InstitutionName, made.InstanceNumber, made.PatientAge = "", None, "061Y"
    made.EncapsulatedDocument, made.TextValue = b"odd", "x" * 70_001
    made.GraphicData, made.RationalDenominatorValue = [1.5, -2, 3e-9], [7, 8]
    made.SelectorFDValue, made.SelectorULValue, made.SelectorUSValue = [0.1, 2], 4_000_000_000, []
    made.add_new(0x00090010, "LO", "PRIVATE")
    made.add_new(0x00091001, "UT", "")
    made.add_new(0x00080000, "UL", 4)  # a group length, which is retired
    return made


def _whole_document(
    sop_class_uid: str,
    content: ContainerContentItem,
    evidence: Sequence[Dataset],
    slot: Slot,
    _: DocumentReference | None,
    context: ReportContext,
) -> Dataset:
    makers = dict(zip(SR_SOP_CLASSES, (Comprehensive3DSR, ComprehensiveSR, EnhancedSR), strict=True))
    separate(content)
    now = local_time(context, evidence[0])
    made: Dataset = makers[sop_class_uid](
        evidence=[stand_in(evidence[0]), *map(reference, evidence[1:])],
        content=content,
        series_instance_uid=slot.series_instance_uid,
        series_number=slot.series_number,
        sop_instance_uid=slot.sop_instance_uid,
        instance_number=1,
        manufacturer=MANUFACTURER,
        is_complete=True,
        content_date=now.date(),
        content_time=now.time(),
        series_description=slot.series_description,
        specific_character_set="ISO_IR 192",
        coding_schemes=coding_schemes(),
    )
    return finish(made, evidence[0], context)


def _as_dataset(source: Reference) -> Dataset:
    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID, made.StudyInstanceUID, made.SeriesInstanceUID = source
    return made


def _empty() -> Dataset:
    made = Dataset()
    made.ContentSequence = []
    return made


def _with_holes(case: Case, holes: tuple[int, ...]) -> Case:
    mask = case.mask.copy()
    mask[list(holes)] = False
    return Case(case.ct, case.roi, mask)
