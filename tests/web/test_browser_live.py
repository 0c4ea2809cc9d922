"""Live updates in a real browser: seen without a reload, without disturbing the reader, and said when they stop."""

import os
import signal
import sqlite3
import time
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from dicom_node.store import Store
from dicom_node.workitem import State
from tests.web import hospital as building
from tests.web.hospital import Hospital
from tests.web.test_browser_walk import DESK, open_study, sign_in


@pytest.fixture
def page(chromium: Browser, address: str) -> Page:
    context: BrowserContext = chromium.new_context(base_url=address, viewport=DESK)
    yield context.new_page()
    context.close()


def mark(page: Page) -> None:
    """Something that a reload would take away."""
    page.evaluate("window.here = 'still here'")


def assert_not_reloaded(page: Page) -> None:
    assert page.evaluate("window.here") == "still here"


def test_a_change_is_seen_without_a_reload(page: Page, hospital: Hospital) -> None:
    sign_in(page)
    expect(page.locator("#live")).to_have_text("Live")
    row = page.locator(f"#item-{hospital.item('held').id}")
    expect(row).to_contain_text("held")
    mark(page)
    hospital.act("held", "release")
    expect(row.locator(".held")).to_have_count(0)
    hospital.act("held", "hold")
    expect(row.locator(".held")).to_have_count(1)
    assert_not_reloaded(page)


def test_a_new_study_comes_into_the_list_and_on_to_its_result(page: Page, hospital: Hospital) -> None:
    sign_in(page)
    expect(page.locator("#live")).to_have_text("Live")
    rows = page.locator("[data-rows] tr")
    before = rows.count()
    mark(page)
    hospital.bring("new", *building.ball(31, "Andersson^Björn"), work=False)
    hospital.road.worker.step_plan()
    expect(rows).to_have_count(before + 1)
    expect(rows.first).to_contain_text("Andersson, Björn")
    expect(rows.first).to_contain_text("ready to be analysed")
    hospital.work()
    expect(rows.first).to_contain_text("Completed")
    expect(rows.first).to_contain_text("Death")
    assert_not_reloaded(page)


def test_focus_selection_and_what_is_unfolded_stay_as_they_are(page: Page, hospital: Hospital) -> None:
    sign_in(page)
    expect(page.locator("#live")).to_have_text("Live")
    held = page.locator(f"#item-{hospital.item('held').id}")
    held.locator("[data-row]").focus()
    page.evaluate("""() => {
      window.focused = document.activeElement;
      const text = document.querySelector("[data-rows] tr:last-child .small").firstElementChild;
      document.getSelection().selectAllChildren(text);
      window.picked = String(document.getSelection());
    }""")
    assert page.evaluate("window.picked")
    hospital.act("held", "priority", "MEDIUM")
    expect(held).to_contain_text("Medium")
    assert page.evaluate("document.activeElement === window.focused")
    assert page.evaluate("String(document.getSelection()) === window.picked")

    open_study(page, hospital, "held")
    expect(page.locator("#live")).to_have_text("Live")
    page.locator("#events summary").click()
    page.get_by_role("link", name="Release").focus()
    before = page.locator("#events tbody tr").count()
    hospital.act("held", "priority", "HIGH")
    expect(page.locator("#events tbody tr")).to_have_count(before + 1)
    assert page.locator("#events").evaluate("element => element.open")
    expect(page.get_by_role("link", name="Release")).to_be_focused()


def test_a_row_in_use_is_not_moved_or_taken_away(page: Page, hospital: Hospital) -> None:
    """The row that has the focus keeps it while others come before it."""
    sign_in(page, where="/?sort=priority")
    expect(page.locator("#live")).to_have_text("Live")
    last = page.locator("[data-rows] tr").last
    last.locator("[data-row]").focus()
    name = last.get_attribute("id")
    hospital.bring("urgent", *building.ball(32, "Rossi^Giulia")[:-1], work=False)
    hospital.road.worker.step_plan()
    hospital.act("urgent", "priority", "HIGH")
    expect(page.locator("[data-rows]")).to_contain_text("Rossi, Giulia")
    assert page.evaluate("document.activeElement.closest('tr').id") == name


def test_another_result_is_offered_and_not_thrown_in(page: Page, hospital: Hospital) -> None:
    """A study that is scored while one looks at it: the page says so, and the reader decides when to see it."""
    hospital.bring("later", *building.ball(33, "Haddad^Layla"), work=False)
    hospital.road.worker.step_plan()
    sign_in(page)
    open_study(page, hospital, "later")
    expect(page.locator("#live")).to_have_text("Live")
    expect(page.locator("#stale")).to_be_hidden()
    mark(page)
    hospital.work()
    expect(page.locator("#head")).to_contain_text("Completed")
    expect(page.locator("#stale")).to_be_visible()
    assert_not_reloaded(page)
    page.get_by_role("link", name="Show it").click()
    expect(page.get_by_role("heading", name="What moved the score")).to_be_visible()


def test_a_lost_connection_is_said_and_taken_up_again(chromium: Browser, hospital: Hospital, tmp_path: Path) -> None:
    """The server ends and starts again: the page says that it is not live, waits longer each time, and catches up."""
    folder = copy_of(hospital, tmp_path)
    with building.serving(folder) as first:
        context = chromium.new_context(base_url=first, viewport=DESK)
        page = context.new_page()
        sign_in(page)
        expect(page.locator("#live")).to_have_text("Live")
        mark(page)
    expect(page.locator("#live")).to_have_text("Not live: no connection, trying again")
    expect(page.locator("#live")).to_have_css("font-weight", "600")
    store = Store.open(folder / "spool/store.sqlite")
    item = next(one for one in store.items() if one.state is State.SCHEDULED)
    store.hold(item.id, False, time.time(), "by a test")
    store.close()
    with building.serving(folder, port=int(first.rsplit(":", 1)[1])):
        expect(page.locator("#live")).to_have_text("Live")
        expect(page.locator(f"#item-{item.id} .held")).to_have_count(0)
        assert_not_reloaded(page)
    context.close()


def test_listening_keeps_no_session_alive_and_its_end_is_said(
    chromium: Browser, hospital: Hospital, tmp_path: Path
) -> None:
    """Signed out in another tab: the stream ends, and the page says so without showing anything new."""
    folder = copy_of(hospital, tmp_path)
    with building.serving(folder) as address:
        context = chromium.new_context(base_url=address, viewport=DESK)
        page, other = context.new_page(), context.new_page()
        sign_in(page)
        other.goto("/system")
        page.bring_to_front()
        expect(page.locator("#live")).to_have_text("Live")
        store = Store.open(folder / "spool/store.sqlite")
        seen = store._db.rows("SELECT seen_at FROM session")
        item = next(one for one in store.items() if one.state is State.SCHEDULED)
        store.hold(item.id, False, time.time(), "by a test")
        expect(page.locator(f"#item-{item.id} .held")).to_have_count(0)
        assert store._db.rows("SELECT seen_at FROM session") == seen, "what a page reads by itself is no sign of a user"
        assert store.accounts.end_sessions_of("olga") >= 1
        expect(page.locator("#live")).to_have_text("Not live: signed out")
        store.close()
        context.close()


def test_the_server_ends_at_once_while_pages_listen(chromium: Browser, hospital: Hospital, tmp_path: Path) -> None:
    folder = copy_of(hospital, tmp_path)
    with building.serving(folder) as address:
        context = chromium.new_context(base_url=address, viewport=DESK)
        page = context.new_page()
        sign_in(page)
        expect(page.locator("#live")).to_have_text("Live")
        began = time.monotonic()
        os.kill(building.process_of(folder), signal.SIGTERM)
        building.wait_ended(folder)
        assert time.monotonic() - began < 55.0  # a stream says something every fifteen seconds, for ever
        context.close()


def copy_of(hospital: Hospital, folder: Path) -> Path:
    """A store of its own, with links to the same files: what this test does to it nobody else sees."""
    spool = folder / "spool"
    spool.mkdir()
    for name in ("instances", "results", "incoming", "jobs"):
        (spool / name).symlink_to(hospital.road.spool.root / name)
    # Not a copy of the file: closing it here would drop this process's locks on it (sqlite.org/howtocorrupt.html 2.2).
    target = sqlite3.connect(spool / "store.sqlite")
    hospital.road.store._db.connection.backup(target)
    target.close()
    return folder
