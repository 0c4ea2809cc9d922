"""A radiologist's and an operator's way through the pages, in a real browser against a real `prognode web`."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.web.hospital import HOSTILE_ID, OPERATOR, SCRIPT, VIEWER, Hospital

DESK, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
MORE = ("not scored", "waiting", "held", "enhanced")
PAGES = ("/", "/?q=nobody-of-that-name", "/models", "/system", "/audit")


@pytest.fixture
def context(chromium: Browser, address: str) -> BrowserContext:
    """A fresh browser profile; a page that logs an error or is refused something by the policy fails the test."""
    made = chromium.new_context(base_url=address, viewport=DESK)
    made.set_default_timeout(60_000)
    problems: list[str] = []
    made.on("weberror", lambda error: problems.append(str(error.error)))
    made.on("console", lambda said: problems.append(said.text) if said.type in ("error", "warning") else None)
    yield made
    made.close()
    # A page that is signed out while it asks for news hears 401, and says so in the console.
    assert [one for one in problems if "401 (Unauthorized)" not in one] == []


def sign_in(page: Page, who: tuple[str, str] = OPERATOR, where: str = "/") -> None:
    page.goto(where)
    page.get_by_label("Account").fill(who[0])
    page.get_by_label("Password").fill(who[1])
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()


def open_study(page: Page, hospital: Hospital, case: str) -> None:
    page.goto(f"/items/{hospital.item(case).id}")


def shot(page: Page, folder: Path, name: str) -> None:
    page.screenshot(path=folder / f"{name}.png", full_page=True)


def test_a_whole_walk(context: BrowserContext, hospital: Hospital, tmp_path: Path) -> None:
    """Sign in, find the study, open it, scroll the CT, retry a failed delivery, sign out."""
    page = context.new_page()
    sign_in(page)
    shot(page, tmp_path, "worklist")
    page.get_by_label("Name, ID, accession number or UID").fill("mull")
    page.get_by_role("button", name="Show").click()
    expect(page.locator("#count")).to_have_text("1 work item matches")
    page.get_by_role("link", name="Müller, Dr. Anna").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Müller, Dr. Anna")
    expect(page.locator(".notices")).to_contain_text("SYNTHETIC - NOT FOR CLINICAL USE")
    expect(page.locator(".notices")).to_contain_text("Research use only - not for diagnostic use")
    scroll(page)
    shot(page, tmp_path, "study")

    open_study(page, hospital, "refused")
    expect(page.locator("#deliveries")).to_contain_text("A800H")
    page.get_by_role("link", name="Try again").click()
    expect(page.get_by_text("Risk report (SR) is sent to PACS again")).to_be_visible()
    shot(page, tmp_path, "confirm")
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_text("Try again: what failed is sent again.")).to_be_visible()
    hospital.work()
    rows = hospital.road.store.deliveries.of_item(hospital.item("refused").id)
    ended = {str(row.state) for row in rows}
    assert ended <= {"COMMITTED", "SEEN", "NOT_ACCEPTED"}, [(row.document, row.detail, row.attempts) for row in rows]
    expect(page.locator("#head")).to_contain_text("Completed")
    proved = sum(row.proved_at is not None for row in rows)  # by storage commitment or C-FIND
    expect(page.locator("#deliveries .badge.good")).to_have_count(proved)
    page.reload()
    expect(page.get_by_text("Try again: what failed")).to_have_count(0)  # said once
    page.locator("#audit summary").click()
    expect(page.locator("#audit")).to_contain_text("workitem.retry")

    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    open_study(page, hospital, "main")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def scroll(page: Page) -> None:
    """Wheel, keys, slider, windows and the largest slice; what stands below is what is shown."""
    viewer, output = page.locator("#viewer[data-ready]"), page.locator("[data-output]")
    slider, stage = page.locator("[data-slider]"), page.locator("[data-stage]")
    expect(viewer).to_be_visible()
    largest = int(page.locator("[data-largest]").get_attribute("data-largest") or 0)
    expect(output).to_have_text(re.compile(rf"Slice {largest} of 80, z .\d+\.\d mm, contour"))
    first = picture(page)
    stage.hover()
    page.mouse.wheel(0, 120)  # towards the feet
    expect(output).to_contain_text(f"Slice {largest - 3} of 80")
    assert picture(page) != first
    slider.focus()
    page.keyboard.press("ArrowUp")
    expect(output).to_contain_text(f"Slice {largest - 2} of 80")
    page.keyboard.press("PageUp")
    expect(output).to_contain_text(f"Slice {largest + 8} of 80")
    page.keyboard.press("Home")
    expect(output).to_have_text(re.compile(r"Slice 80 of 80, z \d+\.\d mm$"))
    assert outline(page) == ""
    slider.fill("3")
    expect(output).to_contain_text("Slice 3 of 80")
    page.get_by_role("link", name="Largest slice").click()
    expect(output).to_contain_text(f"Slice {largest} of 80")
    assert outline(page).startswith("M")
    lung = picture(page)
    page.get_by_label("Soft tissue").check()
    expect(page.locator("[data-stage] img")).to_have_attribute("src", re.compile("window=soft"))
    assert picture(page) != lung
    page.get_by_role("checkbox", name="Contour").uncheck()
    assert outline(page) == ""
    assert [side.inner_text() for side in page.locator(".side").all()] == ["R", "L", "A", "P"]


def picture(page: Page) -> str:
    """The pixels that the browser shows, as data."""
    text: str = page.evaluate(
        """async () => {
          const image = document.querySelector("[data-stage] img"), canvas = document.createElement("canvas");
          await image.decode();
          [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
          canvas.getContext("2d").drawImage(image, 0, 0);
          return canvas.toDataURL();
        }"""
    )
    return text


def outline(page: Page) -> str:
    return page.locator(".outline:not(.under)").get_attribute("d") or ""


def test_the_contour_lies_on_the_lesion(context: BrowserContext, hospital: Hospital) -> None:
    """What the browser draws encloses the bright voxels: outline and picture have one geometry."""
    page = context.new_page()
    sign_in(page)
    open_study(page, hospital, "enhanced")
    expect(page.locator("#viewer[data-ready]")).to_be_visible()
    page.get_by_label("Soft tissue").check()
    expect(page.locator("[data-stage] img")).to_have_attribute("src", re.compile("window=soft"))
    inside, outside = page.evaluate(
        """async () => {
          const image = document.querySelector("[data-stage] img"), canvas = document.createElement("canvas");
          await image.decode();
          [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
          const pen = canvas.getContext("2d", { willReadFrequently: true });
          pen.drawImage(image, 0, 0);
          const path = new Path2D(document.querySelector(".outline").getAttribute("d"));
          const sums = [[0, 0], [0, 0]];
          for (let y = 0; y < canvas.height; y += 1) for (let x = 0; x < canvas.width; x += 1) {
            const at = pen.isPointInPath(path, x + .5, y + .5) ? 0 : 1;
            sums[at][0] += pen.getImageData(x, y, 1, 1).data[0];
            sums[at][1] += 1;
          }
          return sums.map(([sum, n]) => sum / n);
        }"""
    )
    assert inside > 100
    assert outside < 40


def test_a_drag_to_the_side_scrolls_and_up_and_down_is_left_to_the_page(
    chromium: Browser, address: str, hospital: Hospital
) -> None:
    context = chromium.new_context(base_url=address, viewport=PHONE, has_touch=True)
    page = context.new_page()
    sign_in(page)
    open_study(page, hospital, "main")
    expect(page.locator("#viewer[data-ready]")).to_be_visible()
    before = int(page.locator("[data-slider]").input_value())
    stage = page.locator("[data-stage]")
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 50, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 110, box["y"] + 100, steps=6)
    page.mouse.up()
    expect(page.locator("[data-output]")).to_contain_text(f"Slice {before + 10} of 80")
    assert stage.evaluate("element => getComputedStyle(element).touchAction") == "pan-y"
    context.close()


def test_keys_go_through_the_list_and_open_the_help(context: BrowserContext) -> None:
    page = context.new_page()
    sign_in(page)
    focused = "document.activeElement.closest('tr')?.id ?? document.activeElement.id"
    rows = [row.get_attribute("id") for row in page.locator("[data-rows] tr").all()]
    page.keyboard.press("j")
    page.keyboard.press("j")
    assert page.evaluate(focused) == rows[1]
    page.keyboard.press("ArrowDown")
    assert page.evaluate(focused) == rows[2]
    page.keyboard.press("k")
    assert page.evaluate(focused) == rows[1]
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("next, previous study")
    page.get_by_label("Single keys work on this page").uncheck()
    page.get_by_role("button", name="Close").click()
    page.keyboard.press("j")
    assert page.evaluate(focused) != rows[2], "who speaks to the machine can turn single keys off (WCAG 2.1.4)"
    page.evaluate("localStorage.clear()")
    page.keyboard.press("/")
    assert page.evaluate(focused) == "q"
    page.keyboard.type("j?/")
    expect(page.get_by_label("Name, ID, accession number or UID")).to_have_value("j?/")
    page.keyboard.press("Tab")
    outline = "getComputedStyle(document.activeElement)"
    assert page.evaluate(f"{outline}.outlineStyle + parseFloat({outline}.outlineWidth)") == "solid2"


def test_a_hostile_name_is_text(context: BrowserContext, hospital: Hospital) -> None:
    page = context.new_page()
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: dialogs.append(dialog.message) or dialog.dismiss())
    sign_in(page)
    expect(page.locator("[data-rows]")).to_contain_text(SCRIPT)
    expect(page.locator("[data-rows]")).to_contain_text(HOSTILE_ID)
    open_study(page, hospital, "hostile")
    expect(page.get_by_role("heading", level=1)).to_contain_text(SCRIPT)
    expect(page.get_by_role("heading", level=1)).to_contain_text("𠮷")
    expect(page.get_by_role("heading", level=1)).to_contain_text("王 小東")
    expect(page.locator("#head")).to_contain_text("<b>CT</b> chest")
    assert page.locator("#main script, #main b, #main img[onerror]").count() == 0
    direction = "getComputedStyle(document.querySelector('h1 bdi')).unicodeBidi"
    assert page.evaluate(direction) == "isolate", "an override that is never closed ends with the name"
    assert SCRIPT not in page.title()
    assert dialogs == []


def test_a_viewer_may_look_and_not_act(context: BrowserContext, hospital: Hospital) -> None:
    page = context.new_page()
    sign_in(page, VIEWER)
    assert page.get_by_role("link", name="Audit").count() == 0
    open_study(page, hospital, "held")
    expect(page.locator("#head")).to_contain_text("held")
    assert page.get_by_role("link", name="Release").count() == 0
    assert page.locator("#audit").count() == 0
    answer = page.request.get(f"/items/{hospital.item('held').id}/act/release")
    assert answer.status == 403


@pytest.mark.parametrize(
    "case", ["main", "hostile", *(pytest.param(case, marks=pytest.mark.exhaustive) for case in MORE)]
)
def test_no_page_of_a_study_is_wider_than_a_phone(
    chromium: Browser, address: str, hospital: Hospital, case: str, tmp_path: Path
) -> None:
    context = chromium.new_context(base_url=address, viewport=PHONE)
    page = context.new_page()
    sign_in(page)
    open_study(page, hospital, case)
    for details in page.locator("details").all():
        details.evaluate("element => { element.open = true; }")
    shot(page, tmp_path, case)
    assert_fits(page)
    context.close()


def test_no_other_page_is_wider_than_a_phone(
    chromium: Browser, address: str, hospital: Hospital, tmp_path: Path
) -> None:
    context = chromium.new_context(base_url=address, viewport=PHONE)
    page = context.new_page()
    page.goto("/")
    assert_fits(page)
    sign_in(page)
    item = hospital.item("main").id
    own = (f"/items/{item}/documents/radiomics-sr", f"/items/{item}/act/rescore", f"/items/{item}/clinical")
    places = [*PAGES, *own, "/password", "/items/9999"]
    for number, place in enumerate(places):
        page.goto(place)
        for details in page.locator("details").all():
            details.evaluate("element => { element.open = true; }")
        shot(page, tmp_path, str(number))
        assert_fits(page)
    context.close()


def assert_fits(page: Page) -> None:
    """Nothing reaches over the right edge; what is inside a scrolling region of its own may."""
    told = page.evaluate(
        """() => [document.documentElement.scrollWidth, innerWidth, [...document.querySelectorAll("main *, header *")]
          .filter(e => !e.closest(".scroll, .prose table, .off, [hidden], dialog") && e.getClientRects().length
                       && e.getBoundingClientRect().right > innerWidth + 1)
          .map(e => e.tagName + " " + e.textContent.slice(0, 40))]"""
    )
    assert told[0] <= told[1], page.url
    assert told[2] == [], page.url


def test_the_pages_work_without_script(chromium: Browser, address: str, hospital: Hospital) -> None:
    """All but scrolling and live updates: search, the study, slice by slice, an action and its confirmation."""
    context = chromium.new_context(base_url=address, viewport=DESK, java_script_enabled=False)
    page = context.new_page()
    sign_in(page)
    page.get_by_label("Name, ID, accession number or UID").fill("garcia")
    page.get_by_role("button", name="Show").click()
    page.get_by_role("link", name="García, María").click()
    page.get_by_role("link", name="Priority").click()
    page.get_by_label("Low").check()
    page.get_by_role("button", name="Priority").click()
    expect(page.get_by_text("Priority: its priority is LOW.")).to_be_visible()
    open_study(page, hospital, "main")
    page.get_by_label("Bone").check()
    page.get_by_role("button", name="Show").click()
    expect(page.locator("[data-stage] img")).to_have_attribute("src", re.compile(r"slices/\d+\.png\?window=bone"))
    assert outline(page).startswith("M")
    page.get_by_role("button", name="Light scheme").click()
    expect(page.locator("html")).to_have_attribute("data-scheme", "light")
    context.close()
