"""The TRIPOD+AI table: all 27 items with their parts, each honest about who can answer it."""

import re
from pathlib import Path

import pytest

from analysis.train.report import report, tripod
from tests.science import report_metrics
from tests.science.page import Page

# Numbers and parts of the checklist: Collins et al., BMJ 2024;385:e078378.
PARTS = {3: "abc", 5: "ab", 6: "abc", 8: "abc", 9: "abc", 12: "abcdefg", 18: "abcdef", 20: "abc", 23: "ab", 27: "abc"}
NUMBERS = [f"{item}{part}" for item in range(1, 28) for part in PARTS.get(item, [""])]


def states(text: str) -> dict[str, tuple[str, str]]:
    rows = re.findall(r"^\| (\d+[a-g]?) \| .*? \| (?:D|E|D;E) \| (.*?) \| (.*?) \|$", text, flags=re.MULTILINE)
    return {number: (state, where) for number, state, where in rows}


@pytest.mark.parametrize("kind", ["cross-validation", "external"])
def test_every_part_of_every_item_stands_there_once(tmp_path: Path, kind: str) -> None:
    tripod.write(tmp_path, report_metrics.built(kind=kind))
    text = (tmp_path / "tripod_ai.md").read_text(encoding="utf-8")
    assert list(states(text)) == NUMBERS
    assert len(NUMBERS) == 52
    assert "**Research use only - not for diagnostic use**" in text
    assert "BMJ 2024;385:e078378" in text


def test_what_only_a_site_can_know_is_never_filled_in() -> None:
    found = states(tripod.table(report_metrics.built(synthetic=False)))
    for number in ("3c", "5a", "5b", "6a", "6b", "6c", "8b", "8c", "9c", "17", "18a", "18b", "18c", "18d", "18e", "19"):
        assert found[number][0] == tripod.SITE, number


def test_an_item_follows_the_figures() -> None:
    whole = report_metrics.built()
    assert states(tripod.table(whole))["14"][0] == tripod.PARTLY
    assert states(tripod.table(whole))["23b"][0] == tripod.ANSWERED
    assert states(tripod.table(whole))["23a"][0] == tripod.PARTLY  # PFS at 36 months has too few patients
    enough = report_metrics.built()
    for model in enough["models"]:
        model["horizons"] = model["horizons"][:1]
    assert states(tripod.table(enough))["23a"][0] == tripod.ANSWERED
    poor = {key: value for key, value in whole.items() if key not in ("subgroups", "sites")}
    found = states(tripod.table(poor))
    assert found["14"] == (tripod.NOT, "metrics.json holds no `subgroups`")
    assert found["23b"][0] == found["12d"][0] == tripod.NOT


def test_development_and_evaluation_have_their_own_items() -> None:
    inside = states(tripod.table(report_metrics.built()))
    outside = states(tripod.table(report_metrics.built(kind="external")))
    for number in ("12f", "12g", "20c"):
        assert inside[number][0] == tripod.NOT_APPLICABLE
        assert outside[number][0] != tripod.NOT_APPLICABLE
    for number in ("9a", "12a", "12b", "12c", "15", "22", "27a", "27b"):
        assert outside[number][0] == tripod.NOT_APPLICABLE
        assert inside[number][0] != tripod.NOT_APPLICABLE


def test_a_licence_or_an_empty_section_changes_the_answer() -> None:
    found = report_metrics.built(kind="external", synthetic=False)
    assert states(tripod.table(found))["18e"][0] == tripod.SITE
    found["cohort"]["licence"] = "CC BY 4.0 | by us"
    told = states(tripod.table(found))["18e"]
    assert told[0] == tripod.PARTLY
    del found["range"]
    assert states(tripod.table(found))["20c"][0] == tripod.NOT


def test_the_counts_in_the_heading_are_those_of_the_table() -> None:
    text = tripod.table(report_metrics.built())
    told = states(text)
    names = "answered|in part|site must answer|not answered|not applicable"
    counts = re.findall(rf"(\d+) ({names})", text.split("| item")[0])
    counted = {name: int(count) for count, name in counts}
    assert sum(counted.values()) == 52
    for name, count in counted.items():
        assert sum(state == name for state, _ in told.values()) == count


def test_a_section_of_the_report_that_is_named_is_there() -> None:
    page = Page(report.render(report_metrics.built()))
    headings = [element.text for element in page.all("h2")]
    card = (Path(tripod.__file__).parent / "card.py").read_text(encoding="utf-8")
    cards = re.findall(r"^## (.*)$", card, flags=re.MULTILINE)
    for _, where in states(tripod.table(report_metrics.built())).values():
        for part in where.split(";"):
            for named in re.findall(r"“(.*?)”", part):
                assert named in headings + cards, named
