"""The report says what the figures say, no more, in one file that fetches nothing."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from analysis.train.judging.validation import metrics_of
from analysis.train.model.trained import Trained
from analysis.train.report import report, report_style, report_text, shown
from tests.science import report_metrics
from tests.science.page import Page

LIMIT = 700_000
ORDER = (
    "summary", "cohort", "models", "roc", "calibration", "groups", "decision", "features", "null", "subgroups",
    "sites", "limits", "glossary", "method",
)  # fmt: skip


def rendered(found: dict[str, Any]) -> Page:
    return Page(report.render(found))


@cache
def plain() -> Page:
    return rendered(report_metrics.built())


def words_of(found: dict[str, Any], endpoint: str = "OS") -> str:
    seen = shown.showable(found)
    said = {heading[: len(endpoint)]: blocks for heading, blocks in report_text.summary(seen)}
    return " ".join(sentence for _, sentences in said[endpoint] for sentence in sentences)


def model(found: dict[str, Any], name: str, endpoint: str = "OS") -> dict[str, Any]:
    return next(m for m in found["models"] if m["name"] == name and m["endpoint"] == endpoint)


FULL = "clinical + radiomic + deep"


@pytest.mark.parametrize("kind", ["cross-validation", "external"])
def test_the_same_figures_give_the_same_bytes_and_a_small_file(tmp_path: Path, kind: str) -> None:
    report.write(tmp_path, report_metrics.built(kind=kind))
    first = (tmp_path / "report.html").read_bytes()
    report.write(tmp_path, report_metrics.built(kind=kind))
    assert (tmp_path / "report.html").read_bytes() == first
    assert len(first) < LIMIT
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_other_figures_give_other_bytes() -> None:
    assert report.render(report_metrics.built(seed=7)) != report.render(report_metrics.built(seed=8))


def test_a_large_cohort_still_gives_a_small_file() -> None:
    found = report_metrics.built(count=800)
    found["features"] = [line | {"name": f"{line['name']}_{n}"} for n in range(40) for line in found["features"]]
    assert len(report.render(found).encode()) < LIMIT


def test_nothing_is_fetched_and_nothing_runs() -> None:
    text = report.render(report_metrics.built())
    page = Page(text)
    assert not [e for e in page.elements if e.tag in {"script", "link", "img", "iframe", "object", "embed", "base"}]
    for element in page.elements:
        for name, value in element.attributes.items():
            assert not name.startswith("on")
            if name in {"href", "xlink:href", "src", "action"}:
                assert value.startswith("#")
    assert not re.findall(r"url\((?!#)", text)
    assert "@import" not in text
    assert "http" not in text.replace("http-equiv", "").replace('xmlns="http://www.w3.org/2000/svg"', "").replace(
        'xmlns:xlink="http://www.w3.org/1999/xlink"', ""
    )


def test_a_screen_reader_finds_its_way() -> None:
    page = plain()
    identifiers = [e.attributes["id"] for e in page.elements if "id" in e.attributes]
    assert len(identifiers) == len(set(identifiers))
    for element in page.elements:
        for name in ("href", "xlink:href"):
            if element.attributes.get(name, "").startswith("#"):
                assert element.attributes[name][1:] in identifiers
        if "aria-labelledby" in element.attributes:
            assert element.attributes["aria-labelledby"] in identifiers
    assert page.all("html")[0].attributes["lang"] == "en"
    for picture in page.all("svg"):
        assert picture.attributes["role"] == "img"
        assert len(picture.attributes["aria-label"]) > 30
    for cell in page.all("th"):
        assert cell.attributes["scope"] in {"row", "col", "colgroup"}
    assert len(page.all("caption")) == len(page.all("table"))
    levels = [int(e.tag[1]) for e in page.elements if re.fullmatch(r"h[1-6]", e.tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_sections_stand_in_reading_order_and_the_contents_list_them() -> None:
    page = plain()
    assert tuple(e.attributes["id"] for e in page.all("section")) == ORDER
    assert tuple(e.attributes["href"][1:] for e in page.all("a")) == ORDER


def test_every_row_of_a_table_is_as_wide_as_its_head() -> None:
    for kind in ("cross-validation", "external"):
        text = report.render(report_metrics.with_too_few(report_metrics.built(kind=kind), "PFS", 36))
        for table in re.findall(r"<table>.*?</table>", text, flags=re.DOTALL):
            widths = []
            held = 0
            for row in re.findall(r"<tr.*?</tr>", table, flags=re.DOTALL):
                cells = re.findall(r"<t[hd]([^>]*)>", row)
                spans = [int((re.search(r'colspan="(\d+)"', cell) or [0, 1])[1]) for cell in cells]
                widths.append(sum(spans) + held)
                held = sum('rowspan="2"' in cell for cell in cells)
            assert len(set(widths)) == 1, widths


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize(
    ("ink", "ground"),
    [
        (report_style.INK, report_style.GROUND),
        (report_style.INK, report_style.SHADE),
        (report_style.QUIET, report_style.GROUND),
        (report_style.QUIET, report_style.SHADE),
        (report_style.QUIET, "#e8f0f8"),
        (report_style.QUIET, "#faf7f0"),
        (report_style.LINK, report_style.GROUND),
        (report_style.WARNING_INK, report_style.WARNING_GROUND),
    ],
)
def test_text_has_the_contrast_of_wcag_aa(ink: str, ground: str) -> None:
    light, dark = sorted((_luminance(ink), _luminance(ground)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_every_warning_stands_above_all_else_and_again_below() -> None:
    page = plain()
    box = next(e for e in page.elements if e.attributes.get("class") == "warning")
    foot = page.all("footer")[0]
    for text in ("SYNTHETIC - NOT FOR CLINICAL USE", "Research use only", "Preliminary, unverified"):
        assert text in box.text
        assert text in foot.text
    assert "SYNTHETIC" in page.all("title")[0].text
    real = rendered(report_metrics.built(synthetic=False))
    assert "SYNTHETIC" not in real.text()
    assert "Research use only" in real.all("footer")[0].text


def test_a_horizon_with_too_few_patients_shows_no_figure_anywhere() -> None:
    found = report_metrics.with_too_few(report_metrics.built(), "PFS", 36)
    for line in [h for m in found["models"] if m["endpoint"] == "PFS" for h in m["horizons"] if not h["enough"]]:
        line |= {
            "auc": 9.87,
            "auc_lower": 9.76,
            "auc_upper": 9.98,
            "ipa": 8.76,
            "observed_expected": 7.65,
            "brier": 6.54,
        }
    page = rendered(found)
    text = page.text()
    for figure in ("9.87", "9.76", "9.98", "8.76", "7.65", "6.54", "987"):
        assert figure not in text
    named = [e.attributes.get("id", "") for e in page.elements]
    assert not [name for name in named if re.match(r"(roc|calibration|decision)-PFS-36", name)]
    assert [name for name in named if name.startswith("roc-PFS-12")]
    rows = [m for m in found["models"] if m["endpoint"] == "PFS"]
    assert page.all("section")[2].text.count(shown.TOO_FEW) == len(rows)
    assert shown.TOO_FEW in page.all("section")[0].text


def test_a_subgroup_with_too_few_patients_shows_its_counts_alone() -> None:
    found = report_metrics.built()
    assert found["subgroups"][-1]["auc"] is not None  # the figure is there, and must be held back
    row = next(e.text for e in plain().all("tr") if e.text.startswith("contrast = no"))
    assert row == f"contrast = noOS12 months93{shown.TOO_FEW}"


def test_the_summary_admits_chance_when_the_interval_holds_a_half() -> None:
    found = report_metrics.built()
    assert "better than chance" not in words_of(found)
    model(found, FULL)["horizons"][0] |= {"auc": 0.56, "auc_lower": 0.47, "auc_upper": 0.65}
    assert "The interval includes 50: these data do not show that the model ranks better than chance." in words_of(
        found
    )


@pytest.mark.parametrize(
    ("auc", "said"),
    [
        (0.80, "Tumour size alone: 80 times in 100, as good or better: the model adds nothing here."),
        (0.72, "Tumour size alone: 72 times in 100; the difference lies within the uncertainty"),
        (0.60, "Tumour size alone: 60 times in 100, which lies below the model’s interval."),
    ],
)
def test_the_summary_says_what_size_alone_can_do(auc: float, said: str) -> None:
    found = report_metrics.built()
    model(found, FULL)["horizons"][0] |= {"auc": 0.76, "auc_lower": 0.70, "auc_upper": 0.82}
    model(found, "size")["horizons"][0]["auc"] = auc
    assert said in words_of(found)


def test_the_encoder_is_compared_with_one_that_was_never_trained() -> None:
    found = report_metrics.built()
    model(found, "deep")["horizons"][0] |= {"auc": 0.60, "auc_lower": 0.52}
    model(found, "random encoder")["horizons"][0]["auc"] = 0.61
    assert "training the encoder adds nothing here" in words_of(found)


def test_the_summary_says_when_groups_do_not_differ_or_chance_explains_it() -> None:
    found = report_metrics.built()
    found["kaplan_meier"][0] |= {"hazard_ratio": 1.2, "hazard_ratio_lower": 0.9, "hazard_ratio_upper": 1.6}
    found["null"]["permutations"] = 99
    found["null"]["models"][0] |= {"p": 0.3, "reached": 29}
    text = words_of(found)
    assert "The interval includes 1: these data do not show that the groups differ." in text
    assert "29 of 99 runs did as well (p = 0.30): chance explains it as well." in text
    found["null"]["permutations"] = 20
    assert "29 of 20 runs did as well: too few runs for a verdict." in words_of(found)


def test_the_summary_says_when_the_level_of_risk_is_off() -> None:
    found = report_metrics.built()
    line = model(found, FULL)["horizons"][0]
    line |= {"observed_expected": 1.4, "observed_expected_lower": 1.2, "observed_expected_upper": 1.6, "ipa": -0.02}
    text = words_of(found)
    assert (
        "For 100 events predicted, 140 were observed (95 % interval 120 to 160): the predicted risks are too low."
        in text
    )
    assert "no closer to the truth than giving everyone the average" in text


def test_of_100_patients_is_the_kaplan_meier_risk_of_the_groups() -> None:
    found = report_metrics.built()
    flat = {"times": [0.0, 10.0, 40.0], "lower": [], "upper": [], "events": 5, "at_risk": [[0, 50]]}
    found["kaplan_meier"][0]["groups"] = [
        flat | {"group": "LOW", "patients": 150, "survival": [1.0, 0.8, 0.5]},
        flat | {"group": "HIGH", "patients": 50, "survival": [1.0, 0.4, 0.0]},
    ]
    text = words_of(found)
    assert "about 30 died within 12 months: 60 of 100 in the high-risk group, 20 of 100 in the low-risk group" in text
    found["kaplan_meier"][0]["groups"][0]["patients"] = 1
    assert "60 of 100 in the high-risk group, too few patients in the low-risk group (1) to say." in words_of(found)
    found["kaplan_meier"][0]["groups"][0]["times"][-1] = 30.0  # nobody at low risk was followed to 36 months
    assert "died within 36 months:" not in words_of(found)


def test_a_hazard_ratio_says_that_uncertain_patients_are_in_it() -> None:
    found = report_metrics.built()
    sides = "the two sides of the cut-off, uncertain patients included"
    assert "times as fast on the high side of the cut-off as on the low side" in words_of(found)
    assert sides in rendered(found).text()
    for each in found["kaplan_meier"]:
        each["groups"] = [group for group in each["groups"] if group["group"] != "UNCERTAIN"]
    assert "times as fast in the high-risk as in the low-risk group" in words_of(found)
    assert sides not in rendered(found).text()


def test_the_papers_figures_stand_beside_ours_as_context_and_only_where_ours_has_one() -> None:
    page = plain()
    rows = {e.text: e.attributes.get("class") for e in page.all("tr") if "Song et al." in e.text}
    assert len(rows) == 3
    assert set(rows.values()) == {"paper"}
    assert all("context" in text for text in rows)
    assert any("0.70" in text and "0.84" in text and "2.10 (p = 0.005)" in text for text in rows)
    assert "context, not a claim" in page.text()
    few = report_metrics.with_too_few(report_metrics.built(), "OS", 36)
    assert "0.84" not in "".join(e.text for e in rendered(few).all("tr") if "Song et al." in e.text)


def test_what_a_cohort_file_names_is_shown_and_never_becomes_markup() -> None:
    wicked = '"><script>alert(1)</script>&'
    found = report_metrics.built()
    found["bundle"]["name"] = found["cohort"]["name"] = wicked
    found["subgroups"][0]["subgroup"] = found["sites"][0]["site"] = wicked
    found["features"][0] |= {"label": wicked, "modality": wicked}
    page = rendered(found)
    assert not page.all("script")
    assert page.text().count("<script>alert(1)</script>&") >= 5


def _without_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: item if key == "horizon_months" else _without_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_numbers(item) for item in value]
    return None if isinstance(value, float) else value


def _not_finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _not_finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_not_finite(item) for item in value]
    return float("nan") if isinstance(value, float) else value


@pytest.mark.parametrize("spoil", [_without_numbers, _not_finite])
def test_any_number_may_be_absent(spoil: Callable[[Any], Any]) -> None:
    found = report_metrics.built()
    for key in ("models", "subgroups", "sites", "features", "null", "learners", "interval_holds_oracle"):
        found[key] = spoil(found[key])
    for drawn in found["kaplan_meier"]:
        drawn |= {"hazard_ratio": None, "logrank_p": None}
    text = rendered(found).text()
    assert "nan" not in text.lower().split()
    assert "None" not in text


@pytest.mark.parametrize("key", sorted(report_metrics.built()))
def test_any_section_may_be_absent(key: str) -> None:
    found = report_metrics.built()
    for picture in {"curves", "kaplan_meier"} - {key}:  # they take long to draw, and no other section needs them
        found[picture] = found[picture][:1]
    del found[key]
    page = rendered(found)
    assert "None" not in page.text()
    empty = [e.attributes["id"] for e in page.all("section") if set(e.children) == {"h2"}]
    assert not empty


def test_an_external_validation_says_whom_it_scored_how_and_whom_not() -> None:
    page = rendered(report_metrics.built(kind="external", synthetic=False))
    text = page.text()
    assert "External validation on 240 patients" in text
    assert "as used: by what each patient has" in text
    assert "There are no clinical values and no contour.4" in text
    assert "Scored236" in text
    assert "Not in this cohortpdl1" in text
    assert "nlr7 %4.0313.5" in text
    assert "18 % of patients with at least one value" in text
    assert "applied as it is, nothing refitted" in text
    assert "internal validation only" not in text
    assert "Nested cross-validation" not in text
    assert "means over folds" not in text
    assert len([e for e in page.all("section") if e.attributes["id"] == "null"]) == 0


def test_a_bundle_judged_on_its_own_cohort_says_so_above_and_below() -> None:
    found = report_metrics.built(kind="external")
    found |= {"same_cohort": True, "warning": f"{found['warning']}. The bundle was trained on this cohort"}
    page = rendered(found)
    box = next(e for e in page.elements if e.attributes.get("class") == "warning")
    assert box.text.count("SYNTHETIC") == 1
    assert "trained on this cohort" in box.text
    assert "the figures flatter the model and validate nothing" in page.text()


def test_another_process_gives_the_same_bytes(tmp_path: Path) -> None:
    """Neither the order of a set nor a counter of the drawing library may reach the file."""
    code = (
        "import sys, json; from analysis.train.report.report import render; print(render(json.load(sys.stdin)), end='')"
    )
    found = report_metrics.built(count=120)
    environment = {**os.environ, "PYTHONHASHSEED": "77", "MPLCONFIGDIR": str(tmp_path)}
    other = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(found),
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout == report.render(json.loads(json.dumps(found)))


def test_limits_name_wide_intervals_and_that_the_score_is_no_promise_of_benefit() -> None:
    found = report_metrics.built()
    model(found, FULL)["horizons"][1] |= {"auc": 0.7, "auc_lower": 0.55, "auc_upper": 0.85}
    said = " ".join(report_text.limits(shown.showable(found)))
    assert "OS by 36 months: the interval of the AUC is 0.30 wide" in said
    assert "prognostic, not predictive" in said
    assert "internal validation only" in said


def test_a_real_training_run_is_reported(trained: Trained) -> None:
    """The same figures as `metrics.json` holds, in the table of all combinations."""
    found = metrics_of(trained)
    page = rendered(found)
    section = next(e.text for e in page.all("section") if e.attributes["id"] == "models")
    told = 0
    for line in found["models"]:
        for horizon in line["horizons"]:
            if horizon["auc"] is not None:
                assert f"{horizon['auc']:.2f}{horizon['auc_lower']:.2f} to {horizon['auc_upper']:.2f}" in section
                told += 1
    assert told >= 8
    assert len(page.all("svg")) >= 11  # ROC, calibration, decision at three horizons at least, and two Kaplan-Meier
