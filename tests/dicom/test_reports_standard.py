"""Every object is what the standard and the IHE acceptance rule ask for: 0 errors, labels beside values, flags."""

from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from analysis.contract import REASONS, RESEARCH_USE, SYNTHETIC_WARNING, Reason
from reports import build, codes
from reports.sr_document import SR_SOP_CLASSES
from tests.report_inputs import BUNDLE, context, header, objects, part10, phantom_case, result, scored, small_case
from tests.synthetic import rtstruct
from tests.validators import dciodvfy, dsr2text, dsrdump, pixelmed


@pytest.fixture(scope="module")
def small() -> build.Documents:
    return scored(small_case())


def written(folder: Path, dataset: Dataset, name: str = "object") -> Path:
    path = folder / f"{name}.dcm"
    path.write_bytes(part10(dataset))
    return path


def containers(item: Dataset) -> list[Dataset]:
    below = [found for child in item.get("ContentSequence", []) for found in containers(child)]
    return [item, *below] if item.get("ValueType") == "CONTAINER" else below


def concepts(item: Dataset, code_value: str) -> list[Dataset]:
    below = [found for child in item.get("ContentSequence", []) for found in concepts(child, code_value)]
    name = item.get("ConceptNameCodeSequence")
    return [item, *below] if name and name[0].get("CodeValue") == code_value else below


def titles(document: Dataset) -> str:
    return str(document.ConceptNameCodeSequence[0].CodeValue)


@pytest.mark.parametrize("sop_class", SR_SOP_CLASSES)
def test_dciodvfy_finds_no_error_in_any_object_of_a_scored_study(sop_class: str, tmp_path: Path) -> None:
    for name, dataset in objects(scored(small_case(), sop_class)).items():
        path = written(tmp_path, dataset, name)
        assert dciodvfy(path) == [], name
        if dataset.Modality == "SR":
            assert dsrdump(path)


def test_dciodvfy_finds_no_error_in_the_objects_of_a_real_lung_ct(tmp_path: Path) -> None:
    for name, dataset in objects(scored(phantom_case())).items():
        assert dciodvfy(written(tmp_path, dataset, name)) == [], name


@pytest.mark.parametrize("reason", list(Reason))
def test_dciodvfy_finds_no_error_in_the_report_of_any_reason(reason: Reason, tmp_path: Path) -> None:
    case = small_case(4)
    made = build.not_scored([*case.ct, case.roi], build.Refusal(reason, "gap of 6.0 mm", BUNDLE), context())
    for name, dataset in objects(made).items():
        assert dciodvfy(written(tmp_path, dataset, name)) == [], name


@pytest.mark.parametrize(
    ("which", "sop_class"),
    [("risk_sr", SR_SOP_CLASSES[0]), ("radiomics_sr", SR_SOP_CLASSES[1]), ("not_scored", SR_SOP_CLASSES[2])],
)
def test_pixelmed_finds_no_error_in_an_sr(which: str, sop_class: str, tmp_path: Path) -> None:
    case = small_case()
    if which == "not_scored":
        refusal = build.Refusal(Reason.REFERENCED_CT_INCOMPLETE, "58 of 60 images are here", BUNDLE)
        document = build.not_scored([*case.ct, case.roi], refusal, context(), sop_class).risk_sr
    else:
        document = getattr(scored(case, sop_class), which)
    assert pixelmed(written(tmp_path, document)) == []


def test_an_rtstruct_alone_can_be_reported_as_not_scored(tmp_path: Path) -> None:
    alone = header(rtstruct(small_case(4).ct))
    made = build.not_scored([alone], build.Refusal(Reason.REFERENCED_CT_INCOMPLETE), context())
    for name, dataset in objects(made).items():
        assert dciodvfy(written(tmp_path, dataset, name)) == [], name
    assert not concepts(made.risk_sr, "111028"), "no image, so no image library"


def test_an_unknown_sr_class_is_refused_by_name() -> None:
    with pytest.raises(build.ReportError, match=r"1\.2\.3"):
        scored(small_case(4, radius=3.0), "1.2.3")


def test_every_container_is_separate(small: build.Documents) -> None:
    for document in (small.risk_sr, small.radiomics_sr):
        assert document is not None
        found = containers(document)
        assert len(found) >= 5
        assert {item.ContinuityOfContent for item in found} == {"SEPARATE"}


def test_each_probability_and_group_is_rendered_beside_its_label(small: build.Documents, tmp_path: Path) -> None:
    text = dsr2text(written(tmp_path, small.risk_sr))
    for line in (
        "Predicted probability of death within 12 months: 31.2 %",
        "Predicted probability of death within 36 months: 68.4 %",
        "Predicted probability of progression or death within 12 months: 55.0 %",
        "Predicted probability of progression or death within 36 months: 87.0 %",
        "Model risk group, overall survival: High risk",
        "Model risk group, progression-free survival: Uncertain risk",
        "Interval, death within 12 months: 22 to 41 % (90 % bootstrap interval)",
        f"Statement of use: {RESEARCH_USE}",
        f"Warning: {SYNTHETIC_WARNING}",
        "Sub-model that spoke: Clinical and radiomic. Not available: deep.",
        "Not available for this score: Not available: deep.",
        "Not available for this score: Not known, so taken from the training cohort: Albumin and PD-L1.",
        "In words, death within 12 months: About 31 of 100 patients like this one are expected to die within 12 months",
        "expected to have progressed or died within 36 months; plausibly 78 to 94.",
        "In words, risk group, overall survival: Overall survival: High risk. The whole interval lies above the median",
        "Validation of this sub-model: Death within 12 months: weak. Of 100 pairs of patients, one with the event by",
        "about 69 were ranked rightly (50 is chance). AUC 0.69 (0.62 to 0.76), observed/expected 1.02, 240 patients",
        "Validation of this sub-model: Progression or death within 36 months: not evaluable. 240 patients, 201 events.",
        "Clinical value used: ECOG = 1 (clinical table, 2024-03-10)",
        "Quality note: Warning: Tumour volume outside the development range.",
        f"Model bundle: demo 0.1.0, SHA-256 {BUNDLE.digest}",
    ):
        assert line in text, line


def test_the_strongest_contributions_come_first_with_sign_and_caveat(small: build.Documents, tmp_path: Path) -> None:
    text = dsr2text(written(tmp_path, small.risk_sr))
    lines = (
        "overall survival: Volume = 358.1 mL: +0.31 (raises the risk, outside the development range)",
        "overall survival: ECOG performance status = 1: +0.12 (raises the risk)",
        "overall survival: Zone size non-uniformity = 128.3: -0.09 (lowers the risk)",
        "overall survival: Albumin = 38 g/L: -0.05 (lowers the risk, value imputed)",
    )
    places = [text.find(line) for line in lines]
    assert -1 not in places
    assert places == sorted(places)


def test_a_not_scored_report_says_why_and_what_to_do(tmp_path: Path) -> None:
    case = small_case(4)
    refusal = build.Refusal(Reason.MISSING_SLICE, "gap of 6.0 mm between slices 12 and 13")
    made = build.not_scored([*case.ct, case.roi], refusal, context())
    text = dsr2text(written(tmp_path, made.risk_sr))
    wording = REASONS[Reason.MISSING_SLICE]
    assert "Scoring outcome: Not scored" in text
    assert "Reason: Missing slice (MISSING_SLICE, 99PROGNODE)" in text
    assert f"Why this study was not scored: {wording.sentence}" in text
    assert "Detail: gap of 6.0 mm between slices 12 and 13" in text
    assert f"What would make it scorable: {wording.remedy}" in text
    assert f"Statement of use: {RESEARCH_USE}" in text
    assert "Warning:" not in text, "no bundle was looked at, so none is called synthetic"
    assert made.radiomics_sr is None
    assert made.segmentation is None


def test_the_reason_codes_are_short_enough_and_differ() -> None:
    values = [codes.reason(reason).value for reason in Reason]
    assert max(map(len, values)) <= 16
    assert len(set(values)) == len(values)


def test_a_machine_never_verifies_or_finalises(small: build.Documents) -> None:
    for document in (small.risk_sr, small.radiomics_sr):
        assert document is not None
        flags = (document.CompletionFlag, document.VerificationFlag, document.PreliminaryFlag)
        assert flags == ("COMPLETE", "UNVERIFIED", "PRELIMINARY")


def test_each_object_has_a_series_of_its_own_that_names_itself(small: build.Documents) -> None:
    made = objects(small)
    assert len({dataset.SeriesInstanceUID for dataset in made.values()}) == 6, "the two pages share one"
    assert sorted(dataset.SeriesNumber for dataset in made.values()) == [9000, 9001, 9001, 9002, 9003, 9004, 9005]
    assert [made[name].InstanceNumber for name in ("page_1", "page_2")] == [1, 2]
    assert made["page_1"].SeriesInstanceUID == made["page_2"].SeriesInstanceUID
    for dataset in made.values():
        assert dataset.SeriesDescription.startswith("AI: Prognode ")
        assert "SYNTHETIC" in dataset.SeriesDescription
        assert dataset.ContentQualification == "RESEARCH"
        assert dataset.SpecificCharacterSet == "ISO_IR 192"
        assert dataset.Manufacturer == "Prognode"


def test_the_two_srs_have_the_titles_that_viewers_tell_apart(small: build.Documents) -> None:
    assert small.radiomics_sr is not None
    assert titles(small.risk_sr) == "126001"
    assert titles(small.radiomics_sr) == "126000"


def test_one_measurement_group_each_with_a_tracking_uid_and_no_mixture(small: build.Documents) -> None:
    assert small.radiomics_sr is not None
    assert small.segmentation is not None
    for document in (small.risk_sr, small.radiomics_sr):
        groups = concepts(document, "125007")
        assert len(groups) == 1
        assert len(concepts(groups[0], "112040")) == 1
    assert not concepts(small.risk_sr, "121191"), "a referenced segment would make it TID 1411"
    tracking = concepts(small.radiomics_sr, "112040")[0].UID
    assert tracking == small.segmentation.SegmentSequence[0].TrackingUID


def test_the_page_shows_well_in_any_viewer(small: build.Documents) -> None:
    made = objects(small)
    page = made["page_1"]
    assert (page.Modality, page.ConversionType) == ("OT", "WSD")
    assert list(page.ImageType) == ["DERIVED", "SECONDARY", "OTHER"]
    assert (page.Rows, page.Columns, page.SamplesPerPixel, page.PlanarConfiguration) == (768, 1024, 3, 0)
    assert page.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert not page.PatientOrientation
    assert page.BurnedInAnnotation == "NO"
    assert page.ImageComments == RESEARCH_USE
    assert page.BodyPartExamined == "CHEST"
    assert "FrameOfReferenceUID" not in page
    for number, drawn in enumerate(small.pages, start=1):
        assert np.array_equal(made[f"page_{number}"].pixel_array, drawn.pixels)


def test_the_algorithm_is_named_with_version_and_digest_under_each_probability(small: build.Documents) -> None:
    versions = concepts(small.risk_sr, "111003")
    assert [item.TextValue for item in versions] == ["0.1.0, SHA-256 3f9c1a7be2d0"] * 4


def test_no_coded_meaning_is_longer_than_the_standard_allows(small: build.Documents) -> None:
    for dataset in objects(small).values():
        for element in dataset.iterall():
            if element.keyword == "CodeMeaning":
                assert len(element.value) <= 64
            if element.keyword == "CodeValue":
                assert len(element.value) <= 16
            assert not isinstance(element.value, MultiValue) or element.keyword != "TextValue"


def test_a_real_bundle_is_nowhere_called_synthetic(tmp_path: Path) -> None:
    case = small_case()
    real = BUNDLE.model_copy(update={"synthetic": False})
    made = build.scored(case.ct, case.roi, case.mask, None, result(case.mask, bundle=real), context())
    for dataset in objects(made).values():
        assert "SYNTHETIC" not in dataset.SeriesDescription
    assert SYNTHETIC_WARNING not in dsr2text(written(tmp_path, made.risk_sr))
