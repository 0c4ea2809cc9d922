"""What the objects point at, and that the same job gives the same bytes under the same UIDs."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from analysis.contract import Reason
from reports import build
from reports.context import reference_to
from reports.sr_document import SR_SOP_CLASSES
from reports.sr_variant import as_sop_class
from tests.report_inputs import (
    BUNDLE,
    Case,
    context,
    header,
    objects,
    part10,
    pictures,
    reread,
    result,
    score,
    scored,
    small_case,
)
from tests.synthetic import ball_mask, ct_series, enhanced_ct, rtstruct, uid
from tests.validators import dciodvfy


def referenced(dataset: Dataset) -> set[str]:
    """Every SOP instance that the content tree refers to."""
    found: set[str] = set()
    for item in dataset.get("ContentSequence", []):
        found |= {str(reference.ReferencedSOPInstanceUID) for reference in item.get("ReferencedSOPSequence", [])}
        found |= referenced(item)
    return found


def evidence(document: Dataset, sequence: str = "CurrentRequestedProcedureEvidenceSequence") -> set[str]:
    return {
        str(instance.ReferencedSOPInstanceUID)
        for study in document.get(sequence, [])
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    }


def uids(documents: build.Documents) -> dict[str, tuple[str, str]]:
    return {name: (str(d.SeriesInstanceUID), str(d.SOPInstanceUID)) for name, d in objects(documents).items()}


def enhanced_case() -> Case:
    """A multi-frame CT whose mask runs against the order of its frames."""
    full = enhanced_ct(ct_series(10, seed=3))
    return Case((header(full),), header(rtstruct(full)), ball_mask(full)[::-1])


def test_everything_referenced_is_in_the_evidence_with_ct_contour_and_seg() -> None:
    case = small_case()
    made = objects(scored(case))
    inputs = {str(dataset.SOPInstanceUID) for dataset in (*case.ct, case.roi)}
    assert referenced(made["risk_sr"]) <= evidence(made["risk_sr"]) == inputs
    with_seg = inputs | {str(made["segmentation"].SOPInstanceUID)}
    assert referenced(made["radiomics_sr"]) <= evidence(made["radiomics_sr"]) == with_seg
    assert str(made["segmentation"].SOPInstanceUID) in referenced(made["radiomics_sr"])


def test_the_key_image_is_the_slice_with_most_of_the_tumour() -> None:
    case = small_case()
    key = str(case.ct[int(case.mask.sum(axis=(1, 2)).argmax())].SOPInstanceUID)
    made = objects(scored(case))
    assert referenced(made["risk_sr"]) == {key}
    assert made["page_1"].SourceImageSequence[0].ReferencedSOPInstanceUID == key
    for page in ("page_1", "page_2"):
        assert made[page].RelatedSeriesSequence[0].SeriesInstanceUID == made["risk_sr"].SeriesInstanceUID


def test_a_multi_frame_ct_is_referenced_by_frame() -> None:
    case = enhanced_case()
    frames = list(range(10, 0, -1))
    made = build.scored(case.ct, case.roi, case.mask, None, result(case.mask), context(), frame_numbers=frames)
    key = frames[int(case.mask.sum(axis=(1, 2)).argmax())]
    assert made.pages[0].dataset.SourceImageSequence[0].ReferencedFrameNumber == key
    group = made.risk_sr.ContentSequence[-2].ContentSequence[0]
    sources = [item for item in group.ContentSequence if item.ValueType == "IMAGE"]
    assert sources[0].ReferencedSOPSequence[0].ReferencedFrameNumber == key


def test_the_frames_of_a_multi_frame_ct_come_from_the_result() -> None:
    case = enhanced_case()
    told = result(case.mask)
    assert told.geometry is not None
    frames = tuple(range(10, 0, -1))
    told = told.model_copy(update={"geometry": told.geometry.model_copy(update={"frames": frames})})
    by_result = build.scored(case.ct, case.roi, case.mask, None, told, context())
    by_argument = build.scored(case.ct, case.roi, case.mask, None, told, context(), frame_numbers=frames)
    assert uids(by_result) == uids(by_argument)


def test_a_contour_of_another_study_is_pertinent_other_evidence() -> None:
    case = small_case()
    case.roi.StudyInstanceUID = uid("another study")
    made = objects(scored(case))
    for name in ("risk_sr", "radiomics_sr"):
        assert made[name].StudyInstanceUID == case.ct[0].StudyInstanceUID
        assert evidence(made[name], "PertinentOtherEvidenceSequence") == {str(case.roi.SOPInstanceUID)}


def test_a_revision_names_the_documents_that_it_replaces() -> None:
    case = small_case()
    first = scored(case)
    assert first.radiomics_sr is not None
    second = scored(
        case,
        revision=2,
        previous_risk_sr=reference_to(first.risk_sr),
        previous_radiomics_sr=reference_to(first.radiomics_sr),
    )
    assert second.radiomics_sr is not None
    for old, new in ((first.risk_sr, second.risk_sr), (first.radiomics_sr, second.radiomics_sr)):
        series = new.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
        assert series.SeriesInstanceUID == old.SeriesInstanceUID
        assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == old.SOPInstanceUID
        assert new.SOPInstanceUID != old.SOPInstanceUID
    assert "PredecessorDocumentsSequence" not in first.risk_sr


def test_all_revisions_of_a_region_share_its_tracking_uid() -> None:
    case = small_case()
    one, other = (objects(scored(case, key=key))["segmentation"] for key in ("one", "other"))
    assert one.SegmentSequence[0].TrackingUID == other.SegmentSequence[0].TrackingUID


def test_the_tracking_uid_of_a_seg_that_was_sent_is_kept() -> None:
    case = small_case()
    sent = Dataset()
    sent.SegmentNumber, sent.TrackingUID = 1, uid("tracked by the sender")
    case.roi.SegmentSequence = [sent]
    segmentation = scored(case).segmentation
    assert segmentation is not None
    assert segmentation.SegmentSequence[0].TrackingUID == sent.TrackingUID


def test_a_rebuild_gives_the_same_bytes() -> None:
    first, second = scored(small_case()), scored(small_case())
    for name, dataset in objects(first).items():
        assert part10(dataset) == part10(objects(second)[name]), name
    refusal = build.Refusal(Reason.MISSING_SLICE, "gap of 6.0 mm")
    case = small_case(4)
    again = [build.not_scored([*case.ct, case.roi], refusal, context()) for _ in range(2)]
    assert part10(again[0].risk_sr) == part10(again[1].risk_sr)
    assert part10(again[0].pages[0].dataset) == part10(again[1].pages[0].dataset)


@pytest.mark.parametrize(
    "change",
    [
        {"key": "another key"},
        {"created": datetime(2026, 3, 2, 9, 15, 31, tzinfo=UTC)},
        {"revision": 2},
        {"software_version": "0.1.1"},
        {"ae_title": "OTHER"},
        {"site": "Other site"},
        {"series_number": 8000},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_changes_the_content_changes_every_uid(change: dict[str, Any]) -> None:
    case = small_case()
    one, other = uids(scored(case)), uids(scored(case, **change))
    assert all(set(one[name]).isdisjoint(other[name]) for name in one)


@pytest.mark.parametrize(
    "change",
    [
        {"scores": (score("OS", 12, 0.313, 0.22, 0.41),)},
        {"bundle": BUNDLE.model_copy(update={"digest": "0" * 64})},
        {"extraction": {"spacing": "2 x 2 x 2 mm"}},
    ],
    ids=["score", "bundle", "extraction"],
)
def test_another_result_under_the_same_key_never_meets_the_old_uids(change: dict[str, Any]) -> None:
    case = small_case()

    def made(changes: dict[str, Any]) -> dict[str, tuple[str, str]]:
        views = pictures(case.mask)
        return uids(build.scored(case.ct, case.roi, case.mask, views, result(case.mask, **changes), context()))

    one, other = made({}), made(change)
    assert all(set(one[name]).isdisjoint(other[name]) for name in one)


def test_another_mask_under_the_same_result_gives_another_seg() -> None:
    case = small_case()
    mask = case.mask.copy()
    mask[tuple(np.argwhere(mask)[0])] = False
    told = result(case.mask)
    one = build.scored(case.ct, case.roi, case.mask, None, told, context())
    other = build.scored(case.ct, case.roi, mask, None, told, context())
    assert uids(one)["segmentation"] != uids(other)["segmentation"]
    assert uids(one)["radiomics_sr"] != uids(other)["radiomics_sr"]


def test_each_sr_class_has_uids_of_its_own_and_shares_the_seg() -> None:
    case = small_case()
    made = [uids(scored(case, sop_class)) for sop_class in SR_SOP_CLASSES]
    assert len({one["risk_sr"] for one in made}) == 3
    assert len({one["radiomics_sr"] for one in made}) == 3
    assert len({one["segmentation"] for one in made}) == 1


@pytest.mark.parametrize("sop_class", SR_SOP_CLASSES[1:])
def test_a_variant_in_another_sr_class_is_valid_and_in_the_series_that_the_page_names(
    sop_class: str, tmp_path: Path
) -> None:
    made = scored(small_case())
    variant = reread(as_sop_class(made.risk_sr, sop_class))
    assert variant.SOPClassUID == variant.file_meta.MediaStorageSOPClassUID == sop_class
    assert variant.SOPInstanceUID != made.risk_sr.SOPInstanceUID
    for page in made.pages:
        assert page.dataset.RelatedSeriesSequence[0].SeriesInstanceUID == variant.SeriesInstanceUID
    path = tmp_path / "variant.dcm"
    path.write_bytes(part10(variant))
    assert dciodvfy(path) == []


def test_every_uid_is_legal() -> None:
    for dataset in objects(scored(small_case())).values():
        for element in dataset.iterall():
            if element.VR == "UI" and isinstance(element.value, str):
                assert len(element.value) <= 64
                assert all(part == "0" or part[0] != "0" for part in element.value.split("."))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda told: told.model_copy(update={"roi": None}),
        lambda told: told.model_copy(update={"scores": ()}),
        lambda told: told.model_copy(update={"roi": told.roi.model_copy(update={"largest_slice": 99})}),
    ],
    ids=["no ROI", "no scores", "a slice that is not there"],
)
def test_a_result_that_does_not_fit_is_refused(spoil: Callable[[Any], Any]) -> None:
    case = small_case()
    with pytest.raises(build.ReportError, match=r"slice|scores"):
        build.scored(case.ct, case.roi, case.mask, None, spoil(result(case.mask)), context())


def test_a_report_without_any_evidence_is_refused() -> None:
    with pytest.raises(build.ReportError, match="evidence"):
        build.not_scored([], build.Refusal(Reason.NO_CONTOUR), context())


def test_the_refusal_of_a_job_carries_its_reason_bundle_and_flags() -> None:
    told = result(small_case(4, radius=3.0).mask)
    told = told.model_copy(update={"outcome": "NOT_SCORED", "reason": Reason.ROI_TOO_SMALL, "reason_detail": "0.2 mL"})
    refusal = build.refusal_of(told)
    assert (refusal.reason, refusal.detail, refusal.bundle) == (Reason.ROI_TOO_SMALL, "0.2 mL", BUNDLE)
    assert len(refusal.quality) == 2
    assert replace(refusal, detail="") != refusal
    with pytest.raises(ValueError, match="no reason"):
        build.refusal_of(result(small_case(4, radius=3.0).mask))
