"""Who cannot see colours, uses no mouse, or reads in the light: axe-core on every page, and contrast from the CSS."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from dicom_node.web.deps import STATIC
from tests.web.hospital import Hospital
from tests.web.test_browser_walk import DESK, PHONE, open_study, sign_in

CSS = (STATIC / "prognode.css").read_text(encoding="utf-8")
OTHERS = ("waiting", "held", "hostile", "revised")  # built of the same parts
CASES = ["main", "not scored", "refused", *(pytest.param(case, marks=pytest.mark.exhaustive) for case in OTHERS)]
TEXT, LINE = 4.5, 3.0  # WCAG 2.1: 1.4.3 and 1.4.11
# What stands on what, by the names of the style sheet's variables.
PAIRS = [
    *((front, "ground", TEXT) for front in ("text", "quiet", "link", "warn", "bad", "good")),
    *((front, "panel", TEXT) for front in ("text", "quiet", "link", "warn", "bad", "good")),
    *((front, "raised", TEXT) for front in ("text", "link")),
    ("strong-text", "strong-ground", TEXT),
    ("button-text", "button", TEXT),
    *((line, ground, LINE) for line in ("edge", "focus") for ground in ("ground", "panel")),
    *((shape, "panel", LINE) for shape in ("raises", "lowers", "band", "quiet", "text")),
    ("focus", "raised", LINE),
]  # fmt: skip


@pytest.fixture
def page(chromium: Browser, address: str, request: pytest.FixtureRequest) -> Iterator[Page]:
    scheme = getattr(request, "param", "dark")
    context = chromium.new_context(base_url=address, viewport=DESK, reduced_motion="reduce")
    context.add_cookies([{"name": "scheme", "value": scheme, "url": address}])
    yield context.new_page()
    context.close()


def grave(page: Page) -> list[tuple[str, str, Any]]:
    """Findings of axe-core that are serious or critical: rule, impact, where."""
    response = Axe().run(page).response
    assert response["passes"], "axe-core has looked at something"
    found = [
        (one["id"], one["impact"], [node["html"][:160] for node in one["nodes"]]) for one in response["violations"]
    ]
    return [one for one in found if one[1] in ("serious", "critical")]


@pytest.mark.parametrize("page", ["dark", "light"], indirect=True)
def test_axe_finds_nothing_grave_on_any_page(page: Page, hospital: Hospital) -> None:
    page.goto("/")
    assert grave(page) == []
    sign_in(page)
    item = hospital.item("main").id
    confirm, missing = f"/items/{hospital.item('held').id}/act/priority", "/items/9999"
    places = ["/", "/?q=nobody", "/models", "/system", "/audit", f"/items/{item}/documents/risk-sr", confirm, missing]
    places += ["/password", f"/items/{item}/clinical"]
    for place in places:
        page.goto(place)
        unfold(page)
        assert grave(page) == [], place
    page.goto("/")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    assert grave(page) == []


@pytest.mark.parametrize("case", CASES)
def test_axe_finds_nothing_grave_on_a_study_page(page: Page, hospital: Hospital, case: str) -> None:
    sign_in(page)
    open_study(page, hospital, case)
    unfold(page)
    assert grave(page) == []
    page.set_viewport_size(PHONE)
    assert grave(page) == []


def test_axe_would_find_what_is_grave(page: Page) -> None:
    """So that the tests above can fail."""
    sign_in(page)
    page.evaluate("document.querySelector('#q').previousElementSibling.remove()")
    assert [rule for rule, _, _ in grave(page)] == ["label"]


def unfold(page: Page) -> None:
    for details in page.locator("details").all():
        details.evaluate("element => { element.open = true; }")


# -- contrast, from the style sheet ----------------------------------------------------------------------------------


def variables(scheme: str) -> dict[str, str]:
    blocks = dict(re.findall(r'^:root(\[data-scheme="light"\])? \{(.*?)^\}', CSS, re.MULTILINE | re.DOTALL))
    dark = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", blocks[""]))
    light = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", blocks['[data-scheme="light"]']))
    assert dark.keys() == light.keys()
    return dark if scheme == "dark" else light


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours (WCAG 2.1).

    >>> contrast("#000000", "#ffffff")
    21.0
    """

    def luminance(colour: str) -> float:
        channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
        return sum(share * value for share, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return round((lighter + 0.05) / (darker + 0.05), 2)


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_every_pair_of_colours_has_the_contrast_it_needs(scheme: str) -> None:
    colours = variables(scheme)
    low = {f"{front} on {ground}": ratio for front, ground, least in PAIRS
           if (ratio := contrast(colours[front], colours[ground])) < least}  # fmt: skip
    assert low == {}


def test_the_style_sheet_uses_no_colour_that_the_contrast_test_does_not_know() -> None:
    rules = CSS[CSS.index("* { box-sizing") : CSS.index("@media print")]
    outside = set(re.findall(r"#[0-9a-f]{3,6}\b", rules))
    assert outside == {"#000", "#dde3e8", "#ffc850"}, "on the CT, which is dark in both schemes"
    assert contrast("#dde3e8", "#000000") >= TEXT
    assert contrast("#ffc850", "#000000") >= LINE
    used = set(re.findall(r"var\(--([a-z-]+)\)", rules))
    known = {name for pair in PAIRS for name in pair[:2]}
    assert used - known == {"rule"}, "a rule divides and says nothing"


def test_the_dark_scheme_does_not_glare() -> None:
    colours = variables("dark")
    assert contrast(colours["ground"], "#000000") < 1.3
    assert contrast(colours["text"], "#ffffff") > 1.2, "text is not pure white"


def test_motion_is_left_out_where_it_is_not_wanted(page: Page) -> None:
    sign_in(page)
    page.evaluate("document.querySelector('[data-rows] tr').classList.add('changed')")
    name = "getComputedStyle(document.querySelector('[data-rows] tr')).animationName"
    assert page.evaluate(name) == "none"


def test_a_risk_group_is_a_word_and_a_shape_and_a_state_a_word(page: Page, hospital: Hospital) -> None:
    """Seen without colours nothing is lost: each shape is another one, and each mark stands beside a word."""
    sign_in(page)
    shapes: dict[str, str] = {}
    for group in page.locator(".group").all():
        shapes.setdefault(group.inner_text().strip(), group.locator("path").get_attribute("d") or "")
    assert len(shapes) == len(set(shapes.values())) >= 2
    for mark in page.locator(".badge, .state, .held").all():
        assert re.search(r"[a-z]{4}", mark.inner_text())
