"""Which ROI is scored: names first, types as second evidence, a policy for several, never the first that comes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.contract import Combine, Reason
from config.settings import Planning
from dicom_node.candidates import Choice, NoChoice, choose
from dicom_node.decision import ChosenBy
from dicom_node.instance import Roi
from dicom_node.workitem import ConfigError

CLOSED = ("CLOSED_PLANAR",)


def roi(number: int, name: str, kind: str = "", contours: int = 5, geometric_types: tuple[str, ...] = CLOSED) -> Roi:
    return Roi(number, name, kind, contours, geometric_types if contours else ())


def numbers(*rois: Roi, **settings: object) -> tuple[int, ...] | Reason:
    decision = choose(rois, Planning(**settings))
    return decision.numbers if isinstance(decision, Choice) else decision.reason


@pytest.mark.parametrize(
    "name",
    ["GTV-1", "gtv", "GTV_Mass_CT", "Primary Tumor", "TUMOUR", "lung lesion", "Mass", "Neoplasm, Primary", "ＧＴＶ"],
)
def test_tumour_names_are_found_among_organs(name: str) -> None:
    assert numbers(roi(1, "Heart"), roi(7, name), roi(9, "Lung_L")) == (7,)


@pytest.mark.parametrize("name", ["GTV-N1", "GTVn", "Lymph node", "gtv nodes"])
def test_excluded_names_are_not_the_tumour(name: str) -> None:
    assert numbers(roi(1, name), roi(2, "GTV-1")) == (2,)
    assert numbers(roi(1, name), roi(2, "Heart")) is Reason.ROI_NOT_FOUND
    assert numbers(roi(1, name)) is Reason.ROI_NOT_FOUND


def test_the_name_must_begin_with_gtv_where_the_pattern_says_so() -> None:
    assert numbers(roi(1, "Lung minus GTV"), roi(2, "Heart")) is Reason.ROI_NOT_FOUND


def test_patterns_of_the_site_replace_the_defaults() -> None:
    settings = {"roi_name_patterns": (r"^herd\s*\d",), "roi_exclude_patterns": ()}
    assert numbers(roi(1, "Herd 1"), roi(2, "GTV-1"), **settings) == (1,)


def test_several_are_refused_unless_the_site_decided() -> None:
    rois = [roi(4, "GTV-2"), roi(1, "GTV-1"), roi(2, "Heart")]
    assert choose(rois, Planning()) == NoChoice(Reason.ROI_AMBIGUOUS, "2 of 3 match: numbers 1, 4")
    assert choose(rois, Planning(several_rois="largest")) == Choice((1, 4), Combine.LARGEST, frozenset())
    assert choose(rois, Planning(several_rois="union")) == Choice((1, 4), Combine.UNION, frozenset())


def test_one_match_is_single_whatever_the_policy_for_several() -> None:
    assert choose([roi(1, "GTV-1")], Planning(several_rois="union")) == Choice((1,), Combine.SINGLE, frozenset())


def test_the_type_decides_where_no_name_does() -> None:
    assert numbers(roi(1, "a"), roi(2, "b", "GTV"), roi(3, "c", "ORGAN")) == (2,)
    assert numbers(roi(1, "a", "108369006"), roi(2, "b", "39607008")) == (1,)


def test_the_type_settles_which_of_several_names_is_meant() -> None:
    assert numbers(roi(1, "Tumor", "PTV"), roi(2, "Tumor", "GTV"), roi(3, "Tumor margin", "CTV")) == (2,)


def test_a_wrong_type_does_not_overrule_the_only_name() -> None:
    assert numbers(roi(1, "GTV-1", "ORGAN"), roi(2, "Heart", "ORGAN")) == (1,)


def test_the_only_roi_is_taken_where_the_site_allows() -> None:
    assert numbers(roi(3, "ROI-1")) == (3,)
    assert numbers(roi(3, "")) == (3,)
    assert numbers(roi(3, "ROI-1"), only_roi_if_unnamed=False) is Reason.ROI_NOT_FOUND
    assert numbers(roi(3, "ROI-1"), roi(4, "ROI-2")) is Reason.ROI_NOT_FOUND


@pytest.mark.parametrize("kind", ["EXTERNAL", "ORGAN", "PTV"])
def test_the_only_roi_is_not_taken_against_its_own_type(kind: str) -> None:
    assert numbers(roi(3, "ROI-1", kind)) is Reason.ROI_NOT_FOUND


ORGANS = ("Heart", "HEART", "Lung_L", "Lungs-GTV", "Liver", "SpinalCord", "Spinal Cord", "Esophagus", "Trachea", "BODY",
          "External", "PTV_60", "Kidney_R", "Left Lung")  # fmt: skip


@pytest.mark.parametrize("name", ORGANS)
@pytest.mark.parametrize("kind", ["", "GTV", "108369006"])
def test_what_bears_an_organs_name_is_never_taken_for_its_type_or_as_the_only_one(name: str, kind: str) -> None:
    decision = choose([roi(1, name, kind)], Planning())
    assert isinstance(decision, NoChoice)
    assert (decision.reason, decision.detail) == (
        Reason.ROI_NOT_FOUND,
        "none of 1 ROIs matches; what else could be meant bears the name of an organ or a margin",
    )


def test_an_organ_that_the_site_names_as_its_tumour_is_taken() -> None:
    assert numbers(roi(1, "Liver"), roi_name_patterns=("^liver$",)) == (1,)


CUT_OUT = ("Lungs minus tumour", "Lungs-Tumor", "Lung_L-Tumor", "Liver - lesion", "Lungs-GTV", "LungsMinusTumor",
           "Lungs excl. tumor", "Leber ohne Tumor", "Lungs \u2013 mass", "PTV-Tumor", "Lungs-(GTV+5mm)",
           "Lungs-PrimaryTumor", "NormalLung-Tumor", "Lung_IPSI-Tumor", "Rest-Lunge ohne Tumor",
           "Lungs w/o tumour")  # fmt: skip


@pytest.mark.parametrize("name", CUT_OUT)
@pytest.mark.parametrize("kind", ["", "GTV"])
def test_an_organ_without_its_tumour_is_not_the_tumour(name: str, kind: str) -> None:
    patterns = (*Planning().roi_name_patterns, "gtv")
    decision = choose([roi(1, name, kind), roi(2, "Heart")], Planning(roi_name_patterns=patterns))
    assert isinstance(decision, NoChoice)
    assert decision.reason is Reason.ROI_NOT_FOUND
    assert "bears the name of an organ" in decision.detail
    assert numbers(roi(1, name, kind), roi(2, "Tumor")) == (2,)


def test_an_organ_without_its_tumour_is_taken_where_the_site_names_the_organ() -> None:
    assert numbers(roi(1, "Lungs-GTV"), roi_name_patterns=("^lungs",)) == (1,)


@pytest.mark.parametrize(
    "name",
    [
        "PTV_tumour",
        "Ring_tumour+5mm",
        "GTV-1 PTV",
        "gtv+5mm",
        "Muscle mass",
        "Healthy lung tumour excluded",
        "Peritumoural tissue",
    ],
)
def test_a_tumours_name_with_a_margin_gives_way_to_a_plain_one_and_is_said_where_there_is_none(name: str) -> None:
    plain = choose([roi(1, name), roi(2, "GTV-1")], Planning())
    assert plain == Choice((2,), Combine.SINGLE, frozenset())
    assert choose([roi(1, name), roi(2, "Heart")], Planning()) == Choice(
        (1,), Combine.SINGLE, frozenset(), ChosenBy.AROUND
    )
    own = Planning(roi_name_patterns=(*Planning().roi_name_patterns, "^(ptv|ring|gtv|muscle|healthy|peri)"))
    assert choose([roi(1, name)], own) == Choice((1,), Combine.SINGLE, frozenset())


@pytest.mark.parametrize("name", ["Lung T1", "Lung 1", "LungT", "Lung M", "Mediastinum T", "Lung_L_2"])
def test_an_organ_with_a_letter_or_a_number_of_a_tumour_is_taken_for_its_type(name: str) -> None:
    assert numbers(roi(1, name, "GTV"), roi(2, "Heart")) == (1,)


@pytest.mark.parametrize(
    "name",
    ["Heart_opt", "Heart2mm", "Lung_eval", "Spinal_Cord_Planning", "SpinalCord_PRV05", "SpinalCord_PRV 5mm", "Rib 5",
     "Vertebra_T4", "z_Heart", "V_Venacava_I", "Herz", "Lunge li", "Leber", "R\u00fcckenmark", "C\u0153ur",
     "Poumon gauche", "Moelle", "Coraz\u00f3n", "Pulm\u00f3n_L", "H\u00edgado", "Cuore", "Polmoni", "Fegato", "Foie",
     "Myelon"],
)  # fmt: skip
def test_organs_for_planning_and_in_other_languages_are_organs(name: str) -> None:
    assert numbers(roi(1, name, "GTV")) is Reason.ROI_NOT_FOUND


@pytest.mark.parametrize("name", ["Lung tumour", "Liver met 2", "Herd", "ROI-1", ""])
def test_what_is_more_than_an_organs_name_is_no_organ(name: str) -> None:
    assert numbers(roi(1, name)) == (1,)


def test_a_choice_says_what_it_was_made_by() -> None:
    chosen = [choose([one], Planning()) for one in (roi(1, "GTV-1"), roi(1, "a", "GTV"), roi(1, "a"))]
    assert [one.by for one in chosen if isinstance(one, Choice)] == [ChosenBy.NAME, ChosenBy.TYPE, ChosenBy.ONLY]


def test_empty_rois_are_no_candidates() -> None:
    assert numbers(roi(1, "GTV-1", contours=0), roi(2, "GTV-2")) == (2,)
    assert numbers(roi(1, "ROI-1"), roi(2, "ROI-2", contours=0)) == (1,)


def test_an_empty_tumour_is_said_to_be_empty_and_nothing_else_is_taken_instead() -> None:
    assert numbers(roi(1, "GTV-1", contours=0), roi(2, "Heart")) is Reason.ROI_EMPTY
    assert numbers(roi(1, "ROI-1", contours=0)) is Reason.ROI_EMPTY
    assert numbers() is Reason.ROI_NOT_FOUND


@pytest.mark.parametrize("kind", ["POINT", "OPEN_PLANAR", "OPEN_NONPLANAR", "", "x" * 99])
def test_points_and_open_curves_are_unsupported(kind: str) -> None:
    assert numbers(roi(1, "GTV-1", geometric_types=(kind,)), roi(2, "Heart")) is Reason.ROI_GEOMETRY_UNSUPPORTED
    assert numbers(roi(1, "Tumour centre", geometric_types=(kind,)), roi(2, "GTV-1")) == (2,)


def test_segments_without_geometric_types_and_xor_contours_are_closed() -> None:
    assert numbers(roi(1, "GTV-1", geometric_types=())) == (1,)
    assert numbers(roi(1, "GTV-1", geometric_types=("CLOSEDPLANAR_XOR",))) == (1,)


def test_a_number_used_twice_is_unreadable() -> None:
    assert numbers(roi(1, "GTV-1"), roi(1, "Heart")) is Reason.ROI_UNREADABLE
    assert numbers(roi(1, "GTV-1"), roi(2, "Heart"), roi(2, "Lung")) == (1,)


def test_a_pattern_that_is_no_expression_names_the_key() -> None:
    with pytest.raises(ConfigError, match=r"\[plan\] roi_name_patterns .*'\[gtv'"):
        choose([roi(1, "GTV-1")], Planning(roi_name_patterns=("[gtv",)))


def test_details_never_quote_a_name() -> None:
    hostile = "Müller^Anna 19500101 ../../etc/passwd"
    rois = [roi(1, hostile), roi(2, hostile + " tumour"), roi(3, hostile + " tumour", geometric_types=(hostile,))]
    for chosen in (rois, rois[:1] * 2, rois[2:], [*rois, *rois[1:]]):
        decision = choose(chosen, Planning())
        assert isinstance(decision, Choice) or not any(word in decision.detail for word in ("Anna", "1950", "passwd"))


@given(st.lists(st.builds(
    Roi, st.integers(0, 4), st.text(max_size=80), st.sampled_from(["", "GTV", "ORGAN", "\0"]), st.integers(0, 2),
    st.lists(st.sampled_from(["CLOSED_PLANAR", "POINT", ""]), max_size=2).map(tuple)), max_size=6))  # fmt: skip
def test_any_rois_give_a_choice_or_a_reason_independent_of_their_order(rois: list[Roi]) -> None:
    decision = choose(rois, Planning())
    assert choose(rois[::-1], Planning()) == decision
    if isinstance(decision, Choice):
        assert {r.number for r in rois if r.contours} >= set(decision.numbers)
    else:
        assert decision.detail
