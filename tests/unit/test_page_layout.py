"""The page at its worst: the longest texts, the most of everything, and still nothing overlaps or is cut through."""

from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.contract import REASONS, RESEARCH_USE, SYNTHETIC_WARNING, QualityFlag, Reason
from reports import page
from reports.drawing import HEIGHT, SMALL, WIDTH, Canvas, Ink, contrast
from reports.page import KeySlice
from reports.refusal import Refusal
from tests.report_inputs import BUNDLE, context, contribution, group, pictures, result, score, small_case

LONG = "Normalised grey-level run-length non-uniformity of the peritumoural rim, averaged over directions. " * 3
FLAGS = tuple(QualityFlag(code="X", severity=s, text=LONG) for s in ("info", "warning") * 6)
SLICE = KeySlice("1234567", standard_axial=True)
MASK = small_case().mask
VIEWS = pictures(MASK)
LONG_BUNDLE = BUNDLE.model_copy(update={"name": "n" * 200, "version": "1.2.3.dev456+local.build.7"})


def worst() -> Canvas:
    shares = (123.456, -123.456, 61.7, -0.001)
    extremes = (
        score("OS", 12, 0.0, 0.0, 1.0),
        score("OS", 36, 1.0, 1.0, 1.0),
        score("PFS", 120, 0.999, 0.99, 1.0),
        score("PFS", 360, 0.5, 0.0, 1.0),
        score("PFS", 480, 0.5, 0.0, 1.0),
    )
    told = result(
        MASK,
        quality=FLAGS,
        bundle=LONG_BUNDLE,
        contributions=tuple(contribution(e, LONG, LONG, "mm", s, imputed=True) for e in ("OS", "PFS") for s in shares),
        scores=extremes,
        groups=(group("OS", "UNCERTAIN"), group("PFS", "UNCERTAIN")),
    )
    return page.compose(told, VIEWS, context(revision=12, software_version="0.1.0.dev123+gabcdef.d20260302"), SLICE)


def refusal(detail: str = LONG * 3, views: Any = VIEWS, reason: Reason = Reason.ROI_WITHOUT_REFERENCES) -> Canvas:
    return page.compose_refusal(Refusal(reason, detail, LONG_BUNDLE, FLAGS), views, context(), SLICE)


PAGES: dict[str, Callable[[], Canvas]] = {
    "ordinary": lambda: page.compose(result(MASK), VIEWS, context(), SLICE),
    "worst": worst,
    "no pictures": lambda: page.compose(result(MASK), None, context(), None),
    "nothing but scores": lambda: page.compose(
        result(MASK, contributions=(), groups=(), sub_model=None, quality=()), {}, context(), None
    ),
    "not scored": refusal,
    "not scored, no pictures": lambda: refusal(views=None),
    "not scored, no bundle": lambda: page.compose_refusal(Refusal(Reason.NO_CONTOUR), None, context(), None),
    "not scored, one long word": lambda: refusal(detail="x" * 500),
}


def overlapping(inks: list[Ink]) -> list[tuple[str, str]]:
    return [
        (one.text, other.text)
        for one, other in combinations(inks, 2)
        if one.box.left < other.box.right
        and other.box.left < one.box.right
        and one.box.top < other.box.bottom
        and other.box.top < one.box.bottom
    ]


def texts(canvas: Canvas) -> str:
    return " ".join(ink.text for ink in canvas.inks)


@pytest.mark.parametrize("which", PAGES)
def test_no_two_texts_overlap(which: str) -> None:
    assert overlapping(PAGES[which]().inks) == []


@pytest.mark.parametrize("which", PAGES)
def test_every_text_lies_within_the_margins(which: str) -> None:
    for ink in PAGES[which]().inks:
        box = ink.box
        inside = 18 <= box.left < box.right <= WIDTH - 18 and 8 <= box.top < box.bottom <= HEIGHT - 4
        assert inside, ink


@pytest.mark.parametrize("which", PAGES)
def test_every_text_is_large_enough_and_reads_in_grey(which: str) -> None:
    for ink in PAGES[which]().inks:
        assert ink.size >= SMALL, ink
        assert contrast(ink.colour, ink.ground) >= 4.5, ink


@pytest.mark.parametrize("which", PAGES)
def test_the_research_use_line_is_on_every_page(which: str) -> None:
    assert RESEARCH_USE in [ink.text for ink in PAGES[which]().inks]


def test_the_probabilities_stand_in_words_with_their_intervals() -> None:
    lines = [ink.text for ink in PAGES["ordinary"]().inks]
    for event, figure, interval in (
        ("Death within 12 months", "31 %", "(22 to 41 %)"),
        ("Death within 36 months", "68 %", "(55 to 80 %)"),
        ("Progression or death within 12 months", "55 %", "(44 to 66 %)"),
        ("Progression or death within 36 months", "87 %", "(78 to 94 %)"),
    ):
        assert {event, figure, interval} <= set(lines)


def test_each_probability_is_on_the_line_of_its_event() -> None:
    inks = {ink.text: ink.box for ink in PAGES["ordinary"]().inks}
    for event, figure in (("Death within 12 months", "31 %"), ("Progression or death within 36 months", "87 %")):
        assert abs(inks[event].bottom - inks[figure].bottom) <= 5


def test_a_horizon_is_never_cut_off_and_certainty_never_claimed() -> None:
    lines = [ink.text for ink in worst().inks]
    assert "PFS event within 120 months" in lines
    assert "Progression or death within 360 months" in lines
    assert {"<1 %", ">99 %", "(<1 to >99 %)"} <= set(lines)
    assert not [line for line in lines if line in {"0 %)", "100 %)"} or line.startswith("(0 ") or "100 %)" in line]


def test_the_page_names_groups_model_validation_bundle_and_volume() -> None:
    text = texts(PAGES["ordinary"]())
    for part in (
        "High risk overall survival (OS)",
        "Uncertain risk progression-free survival (PFS)",
        "Clinical and radiomic. Not available: deep.",
        "Death within 12 months: 69 of 100 pairs ranked rightly: weak",
        "Progression or death within 36 months: not evaluable",
        "Bundle demo 0.1.0, SHA-256 3f9c1a7be2d0",
        "Warning: Tumour volume outside the development",
        "CT image 1234567 shown",
        "mL",
    ):
        assert part in text, part


def test_warnings_come_before_notes_and_what_has_no_room_is_counted() -> None:
    lines = [ink.text for ink in worst().inks]
    assert [line for line in lines if line.startswith(("Warning", "Info"))][0].startswith("Warning")  # noqa: RUF015
    assert [line for line in lines if line.endswith("more in the structured report")]


def test_a_synthetic_bundle_is_called_so_and_a_real_one_not() -> None:
    real = BUNDLE.model_copy(update={"synthetic": False})
    assert SYNTHETIC_WARNING in texts(PAGES["ordinary"]())
    assert SYNTHETIC_WARNING in texts(refusal())
    assert SYNTHETIC_WARNING not in texts(page.compose(result(MASK, bundle=real), VIEWS, context(), SLICE))


@pytest.mark.parametrize("reason", list(Reason))
def test_a_refusal_says_sentence_remedy_and_code_in_full(reason: Reason) -> None:
    canvas = page.compose_refusal(Refusal(reason, "gap of 6.0 mm", BUNDLE), VIEWS, context(), SLICE)
    text = texts(canvas)
    wording = REASONS[reason]
    for part in ("Not scored", wording.sentence, wording.remedy, f"Reason code {reason}", "Gap of 6.0 mm"):
        assert part in text, part
    assert overlapping(canvas.inks) == []


def test_sides_are_lettered_only_where_they_are_known() -> None:
    def letters(shown: KeySlice | None) -> list[str]:
        return [ink.text for ink in page.compose(result(MASK), VIEWS, context(), shown).inks if len(ink.text) == 1]

    assert {"R", "L", "A", "P"} <= set(letters(KeySlice("1", standard_axial=True)))
    assert not {"R", "L", "A", "P"} & set(letters(KeySlice("1", standard_axial=False)))
    assert not {"R", "L", "A", "P"} & set(letters(None))


def test_the_orientation_decides_whether_sides_are_lettered() -> None:
    header = small_case(4, radius=3.0).ct[0]
    assert page.key_slice(header).standard_axial
    for cosines in ([-1, 0, 0, 0, -1, 0], [0, 1, 0, 0, 0, -1], [1, 0, 0]):
        header.ImageOrientationPatient = cosines
        assert not page.key_slice(header).standard_axial
    del header.ImageOrientationPatient
    assert not page.key_slice(header).standard_axial


def test_the_page_is_an_rgb_image_and_the_same_every_time() -> None:
    one, other = (page.draw(result(MASK), VIEWS, context(), SLICE) for _ in range(2))
    assert (one.shape, one.dtype) == ((768, 1024, 3), np.uint8)
    assert np.array_equal(one, other)


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
    canvas = page.compose(told, VIEWS, context(), SLICE)
    assert overlapping(canvas.inks) == []
    assert all(ink.box.right <= WIDTH and ink.box.bottom <= HEIGHT for ink in canvas.inks)
