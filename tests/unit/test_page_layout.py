"""The pages at their worst: the longest texts, the most of everything, and still nothing overlaps or is cut through."""

from collections.abc import Callable
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.contract import REASONS, RESEARCH_USE, SYNTHETIC_WARNING, ClinicalValue, QualityFlag, Reason
from reports import page, page_parts, particulars, words
from reports.context import Change, Changed
from reports.drawing import Canvas
from reports.language import CODES, speaker
from reports.page import KeySlice
from reports.refusal import Refusal
from reports.shapes import HEIGHT, SMALL, WIDTH, Ink, contrast
from tests.report_inputs import BUNDLE, context, contribution, curve, group, pictures, result, score, small_case

LONG = "Normalised grey-level run-length non-uniformity of the peritumoural rim, averaged over directions. " * 3
FLAGS = tuple(QualityFlag(code="X", severity=s, text=LONG) for s in ("info", "warning") * 6)
SLICE = KeySlice("1234567", standard_axial=True)
MASK = small_case().mask
VIEWS = pictures(MASK)
LONG_BUNDLE = BUNDLE.model_copy(update={"name": "n" * 200, "version": "1.2.3.dev456+local.build.7"})
# Sentences that the job writes, so that they are told in each language.
TOLD = (
    QualityFlag(code="A", severity="warning", text="The contour holds 0.74 mL: texture is uncertain below 1 mL"),
    QualityFlag(code="B", severity="info", text="Training median or commonest value used for: Albumin"),
)
# Every predictor of the demo, from as many sources as a site may have.
GIVEN = tuple(
    ClinicalValue(name=name, value=value, unit=unit, source=source, date=day)
    for name, value, unit, source, day in (
        ("age", 64.0, "a", "DICOM PatientAge", "2026-02-27"),
        ("sex", "F", "", "DICOM PatientSex", "2026-02-27"),
        ("ecog performance status", 1.0, "", "study page", "2026-03-01"),
        ("nlr", 3.945, "", "HL7 ORU^R01, from neutrophils and lymphocytes", "2026-02-26"),
        ("albumin", 38.0, "g/L", "HL7 ORU^R01, stated as 3.8 g/dL; CSV import differs", "2026-02-26"),
        ("liver metastases", 0.0, "", "study page", "2026-03-01"),
    )
)
REVISED = {"revision": 2, "changes": (Changed(Change.CONTOUR), Changed(Change.CLINICAL, ("albumin",)))}


def ordinary(language: str = "en", **changes: Any) -> tuple[Canvas, ...]:
    told = result(MASK, quality=TOLD, clinical=GIVEN)
    return page.pages(told, VIEWS, context(language=language, **changes), SLICE)


def worst(language: str = "en") -> tuple[Canvas, ...]:
    shares = (123.456, -123.456, 61.7, -0.001, 5.0)
    extremes = (
        score("OS", 12, 0.0, 0.0, 1.0),
        score("OS", 24, 0.5, 0.0, 1.0),
        score("OS", 36, 1.0, 1.0, 1.0),
        score("PFS", 12, 0.999, 0.99, 1.0),
        score("PFS", 36, 0.5, 0.0, 1.0),
    )
    told = result(
        MASK,
        quality=FLAGS,
        bundle=LONG_BUNDLE,
        contributions=tuple(contribution(e, LONG, LONG, "mm", s, imputed=True) for e in ("OS", "PFS") for s in shares),
        scores=extremes,
        groups=(group("OS", "UNCERTAIN"), group("PFS", "UNCERTAIN")),
        clinical=tuple(item.model_copy(update={"name": LONG}) for item in result(MASK).clinical * 6),
    )
    made = context(revision=12, software_version="0.1.0.dev123+gabcdef.d20260302", language=language)
    return page.pages(told, VIEWS, made, SLICE)


def refusal(
    detail: str = LONG * 3, views: Any = VIEWS, reason: Reason = Reason.ROI_WITHOUT_REFERENCES, **more: Any
) -> tuple[Canvas, ...]:
    return (page.compose_refusal(Refusal(reason, detail, LONG_BUNDLE, FLAGS), views, context(**more), SLICE),)


PAGES: dict[str, Callable[[], tuple[Canvas, ...]]] = {
    "ordinary": ordinary,
    "revised": lambda: ordinary(**REVISED),
    "worst": worst,
    "worst, German": lambda: worst("de"),
    "worst, Japanese": lambda: worst("ja"),
    "no pictures": lambda: page.pages(result(MASK), None, context(), None),
    "one endpoint": lambda: page.pages(result(MASK, scores=result(MASK).scores[:2]), VIEWS, context(), SLICE),
    "nothing but scores": lambda: page.pages(
        result(MASK, contributions=(), groups=(), sub_model=None, quality=(), curves=()), {}, context(), None
    ),
    "not scored": refusal,
    "not scored, revised": lambda: refusal(**REVISED),
    "not scored, no pictures": lambda: refusal(views=None),
    "not scored, no bundle": lambda: (page.compose_refusal(Refusal(Reason.NO_CONTOUR), None, context(), None),),
    "not scored, one long word": lambda: refusal(detail="x" * 500),
}


@cache
def drawn(which: str) -> tuple[Canvas, ...]:
    return PAGES[which]()


# Every reason in English, and the longest ones in every language; the long form has them all.
LONGEST = sorted(Reason, key=lambda reason: len(REASONS[reason].sentence + REASONS[reason].remedy))[-4:]
REFUSALS = [
    pytest.param(reason, code, marks=() if code == "en" or reason in LONGEST else pytest.mark.exhaustive)
    for reason in Reason
    for code in CODES
]


def overlapping(inks: list[Ink]) -> list[tuple[str, str]]:
    return [
        (one.text, other.text)
        for one, other in combinations(inks, 2)
        if one.box.left < other.box.right
        and other.box.left < one.box.right
        and one.box.top < other.box.bottom
        and other.box.top < one.box.bottom
    ]


def texts(*canvases: Canvas) -> str:
    return " ".join(ink.text for canvas in canvases for ink in canvas.inks)


def assert_laid_out(canvas: Canvas) -> None:
    """Nothing overlaps, everything is within the margins, large enough, and reads in grey."""
    assert overlapping(canvas.inks) == []
    for ink in canvas.inks:
        box = ink.box
        assert 18 <= box.left < box.right <= WIDTH - 18, ink
        assert 8 <= box.top < box.bottom <= HEIGHT - 4, ink
        assert ink.size >= SMALL, ink
        assert contrast(ink.colour, ink.ground) >= 4.5, ink


@pytest.mark.parametrize("which", PAGES)
def test_nothing_overlaps_or_leaves_the_page_and_all_of_it_can_be_read(which: str) -> None:
    for canvas in drawn(which):
        assert_laid_out(canvas)


@pytest.mark.parametrize("language", CODES)
def test_an_ordinary_result_is_told_in_full_in_every_language(language: str) -> None:
    """Nothing is shortened, no character is missing, and every sentence of the answer is there."""
    told = result(MASK, quality=TOLD)
    made = ordinary(language, **REVISED)
    for canvas in made:
        assert_laid_out(canvas)
        assert not [ink.text for ink in canvas.inks if "…" in ink.text or "\ufffd" in ink.text]
    text = texts(made[0]).replace(" ", "").replace("\xa0", "")
    assert told.sub_model is not None
    parts = [words.natural_frequency(s, language) for s in told.scores]
    parts += [words.group(g.group, language) for g in told.groups]
    parts += [words.ranking(p, language) for p in told.sub_model.performance]
    parts += [*words.not_available(told, language)[1:], words.sub_model(told.sub_model, language)]
    for part in parts:
        assert part.replace(" ", "").replace("\xa0", "") in text, part
    figures = texts(made[1])
    for performance in told.sub_model.performance:
        assert words.figures(performance, language) in figures
    whole = texts(made[1]).replace(" ", "")
    for values in particulars.clinical_values(GIVEN, told.contributions, language):
        assert values.replace(" ", "") in whole, values


@pytest.mark.parametrize(("reason", "language"), REFUSALS)
def test_a_refusal_says_sentence_remedy_and_code_in_full(reason: Reason, language: str) -> None:
    detail = "gap of 6.00 mm between slices 12 and 13, usual 3.00 mm"
    made = page.compose_refusal(Refusal(reason, detail, BUNDLE, TOLD), VIEWS, context(language=language), SLICE)
    wording = words.reason(reason, language)
    told = words.capital(made.voice.retell(detail))
    text = texts(made).replace(" ", "").replace("\xa0", "")
    for part in (words.not_scored(language), wording.sentence, wording.remedy, str(reason), told):
        assert part.replace(" ", "").replace("\xa0", "") in text, part
    assert_laid_out(made)
    assert "\ufffd" not in text


@pytest.mark.parametrize("which", PAGES)
def test_the_research_use_line_is_on_every_page(which: str) -> None:
    for canvas in drawn(which):
        assert words.research_use(canvas.voice.code) in [ink.text for ink in canvas.inks]


def test_words_come_before_numbers() -> None:
    lines = [ink.text for ink in ordinary()[0].inks]
    sentence = next(k for k, line in enumerate(lines) if line.startswith("About 31 of 100 patients"))
    assert lines.index("High risk") < sentence < lines.index("31 % (22 to 41 %)")
    assert lines.index("Uncertain risk") < lines.index("87 % (78 to 94 %)")


def test_each_figure_stands_at_the_end_of_its_line_of_words() -> None:
    inks = {ink.text: ink.box for ink in ordinary()[0].inks}
    for sentence, figure in (("12 months; plausibly 22 to 41.", "31 % (22 to 41 %)"),):
        assert 0 < inks[figure].top - inks[sentence].bottom < 20


def test_certainty_is_never_claimed() -> None:
    lines = [ink.text for ink in worst()[0].inks]
    assert "<1 % (<1 to >99 %)" in lines
    assert not [line for line in lines if line.startswith(("0 % (", "100 % (")) or "to 100 %" in line]


def test_of_many_horizons_the_nearest_and_the_furthest_are_shown() -> None:
    text = texts(worst()[0])
    assert "die within 12 months" in text
    assert "36 months; plausibly" in text
    assert "24 months" not in text


def test_the_pages_name_groups_model_validation_bundle_and_volume() -> None:
    text = texts(*ordinary())
    for part in (
        "High risk overall survival (OS)",
        "Uncertain risk progression-free survival (PFS)",
        "Clinical and radiomic. Not available: deep.",
        "Not known, so taken from the training cohort: Albumin and PD-L1.",
        "Death within 12 months",
        "69 of 100: weak",
        "AUC 0.69 (0.62 to 0.76), observed/expected 1.02",
        "Cross-validation of this sub-model, 240 patients",
        "Intervals are narrower than they should be",
        "Bundle demo 0.1.0, SHA-256 3f9c1a7be2d0",
        "Warning: The contour holds 0.74 mL",
        "CT image 1234567 shown",
        "mL",
        "1/2",
        "2/2",
    ):
        assert part in text, part


def test_each_clinical_value_is_given_with_its_source_and_day() -> None:
    text = texts(ordinary()[1])
    for part in (
        "DICOM PatientAge, 2026-02-27: age 64 years.",
        "Study page, 2026-03-01: ECOG performance status 1, Liver metastases no.",
        "HL7 ORU^R01, stated as 3.8 g/dL; CSV import differs, 2026-02-26: albumin 38 g/L.",
    ):
        assert part in text, part
    german = texts(ordinary("de")[1])
    assert "HL7 ORU^R01, angegeben als 3,8 g/dL; CSV-Import weicht ab, 2026-02-26" in german
    assert "Studienseite, 2026-03-01" in german


def test_a_revision_says_on_the_page_what_it_replaces_and_what_has_changed() -> None:
    text = texts(ordinary(**REVISED)[0])
    for part in ("Revision 2, replaces revision 1. Changed: contour", "clinical values (albumin).", "Revision 2, 2026"):
        assert part in text, part
    assert "Revision" not in texts(*ordinary())


def test_warnings_come_before_notes_and_what_has_no_room_is_counted() -> None:
    lines = [ink.text for ink in worst()[0].inks]
    assert [line for line in lines if line.startswith(("Warning", "Info"))][0].startswith("Warning")  # noqa: RUF015
    assert [line for line in lines if line.endswith("more in the structured report")]


def test_a_synthetic_bundle_is_called_so_and_a_real_one_not() -> None:
    real = BUNDLE.model_copy(update={"synthetic": False})
    for canvas in (*ordinary(), *refusal()):
        assert SYNTHETIC_WARNING in texts(canvas)
    assert SYNTHETIC_WARNING not in texts(*page.pages(result(MASK, bundle=real), VIEWS, context(), SLICE))


def test_a_result_without_curves_and_contributions_has_one_page() -> None:
    made = PAGES["nothing but scores"]()
    assert len(made) == 1
    assert not [ink for ink in made[0].inks if ink.text in {"1/2", "1/1"}]


def test_a_curve_without_the_cohort_s_is_drawn_and_the_legend_says_nothing_of_it() -> None:
    alone = (curve("OS", (0.312, 0.22, 0.41), (0.684, 0.55, 0.80), population=()),)
    with_cohort, without = ordinary()[1], page.pages(result(MASK, curves=alone), VIEWS, context(), SLICE)[1]
    assert "training cohort" in texts(with_cohort)
    assert "training cohort" not in texts(without)
    assert_laid_out(without)


def test_sides_are_lettered_only_where_they_are_known() -> None:
    def letters(shown: KeySlice | None) -> list[str]:
        return [ink.text for ink in page.compose(result(MASK), VIEWS, context(), shown).inks if len(ink.text) == 1]

    assert {"R", "L", "A", "P"} <= set(letters(KeySlice("1", standard_axial=True)))
    assert not {"R", "L", "A", "P"} & set(letters(KeySlice("1", standard_axial=False)))
    assert not {"R", "L", "A", "P"} & set(letters(None))


def test_a_multi_frame_image_goes_by_its_frame() -> None:
    header = small_case(4, radius=3.0).ct[0]
    header.NumberOfFrames, header.InstanceNumber = 60, 7
    shown = page.key_slice(header, frame=51)
    assert "CT frame 51 shown" in page_parts.about(result(MASK), shown.number, shown.frame, speaker("en"))


def test_the_orientation_decides_whether_sides_are_lettered() -> None:
    header = small_case(4, radius=3.0).ct[0]
    assert page.key_slice(header).standard_axial
    for cosines in ([-1, 0, 0, 0, -1, 0], [0, 1, 0, 0, 0, -1], [1, 0, 0]):
        header.ImageOrientationPatient = cosines
        assert not page.key_slice(header).standard_axial
    del header.ImageOrientationPatient
    assert not page.key_slice(header).standard_axial


@pytest.mark.parametrize("language", ["en", "ja"])
def test_the_pages_are_rgb_images_and_the_same_every_time(language: str) -> None:
    for one, other in zip(ordinary(language), ordinary(language), strict=True):
        assert (one.pixels().shape, one.pixels().dtype) == ((768, 1024, 3), np.uint8)
        assert np.array_equal(one.pixels(), other.pixels())


def test_the_english_line_is_the_contract_s() -> None:
    assert RESEARCH_USE in texts(ordinary()[0])


@settings(max_examples=25, deadline=None)
@given(
    label=st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), min_size=1, max_size=80),
    shares=st.lists(st.floats(-9, 9), max_size=8),
    risk=st.floats(0, 1),
)
def test_any_text_and_any_figure_keeps_the_layout(label: str, shares: list[float], risk: float) -> None:
    told = result(
        MASK,
        contributions=tuple(contribution("OS", label, label, label, share) for share in shares),
        quality=(QualityFlag(code="X", severity="info", text=label),),
        scores=(score("OS", 12, risk, risk / 2, (1 + risk) / 2),),
        bundle=BUNDLE.model_copy(update={"name": label}),
    )
    for canvas in page.pages(told, VIEWS, context(), SLICE):
        assert overlapping(canvas.inks) == []
        assert all(ink.box.right <= WIDTH and ink.box.bottom <= HEIGHT for ink in canvas.inks)
