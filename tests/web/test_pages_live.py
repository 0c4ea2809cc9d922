"""The stream of changes without a browser: what it says, how often, and that it ends."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.web import hospital as building
from tests.web.hospital import Hospital


@pytest.fixture
def client(address: str) -> httpx.Client:
    return building.sign_in(address)


@contextmanager
def listening(client: httpx.Client, seconds: float) -> Iterator[list[tuple[float, str]]]:
    """Events of a stream with the seconds since its start; the block ends when `seconds` are over."""
    heard: list[tuple[float, str]] = []
    began = time.monotonic()

    def listen() -> None:
        with client.stream("GET", "/live", headers={"Accept": "text/event-stream"}) as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            assert stream.headers["cache-control"] == "no-store"
            for line in stream.iter_lines():
                if line.startswith("event: "):
                    heard.append((time.monotonic() - began, line.removeprefix("event: ")))
                if time.monotonic() - began > seconds:
                    return

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    yield heard
    time.sleep(max(0.0, seconds - (time.monotonic() - began)))


def test_a_change_is_told_within_seconds_and_nothing_else(client: httpx.Client, hospital: Hospital) -> None:
    with listening(client, 9.0) as heard:
        time.sleep(3.0)
        before = list(heard)
        hospital.road.store.note(hospital.item("waiting").id, "looked", time.time())
    assert [name for _, name in before] == ["change"], "what the page has is compared once, at the start"
    later = [at for at, name in heard if name == "change" and at > 2.9]
    assert later
    assert later[0] < 7.0
    assert len(heard) < 6


def test_a_listener_that_comes_after_another_has_gone_is_not_flooded(client: httpx.Client, hospital: Hospital) -> None:
    for _ in range(2):
        with listening(client, 1.0):
            pass
        hospital.road.store.note(hospital.item("waiting").id, "looked", time.time())
        time.sleep(2.5)
    with listening(client, 4.0) as heard:
        pass
    assert {name for _, name in heard} == {"change"}
    assert len(heard) <= 2, "one at the start, and one where the note came between two looks"


def test_many_listeners_hold_one_store(client: httpx.Client, hospital: Hospital) -> None:
    """A connection to SQLite is three file descriptors; a process has a thousand."""

    def open_stores() -> int:
        folder = Path(f"/proc/{building.process_of(hospital.folder)}/fd")
        return sum(str(path.resolve()).endswith("store.sqlite") for path in list(folder.iterdir()))

    before = open_stores()  # SQLite keeps what was open at once for the next that opens
    with ExitStack() as stack:
        for _ in range(12):
            stack.enter_context(listening(client, 6.0))
            time.sleep(0.3)
        assert open_stores() <= before + 4


def test_what_a_page_reads_by_itself_changes_nothing(client: httpx.Client, hospital: Hospital) -> None:
    """Else each reading would be told as a change, and every page would read again for ever."""
    background = {"X-Background": "1"}
    places = ["/", "/system", *(f"/items/{hospital.item(case).id}" for case in ("main", "waiting", "not scored"))]
    with listening(client, 8.0) as heard:
        time.sleep(2.0)
        before = len(heard)
        for place in places:
            assert client.get(place, headers=background).status_code == 200
    assert len(heard) == before


def test_a_part_of_a_page_has_no_frame_and_no_second_audit_entry(client: httpx.Client, hospital: Hospital) -> None:
    item, audit = hospital.item("main").id, hospital.road.store.audit
    whole = client.get(f"/items/{item}").text
    opened = len(audit.of_item(item))
    part = client.get(f"/items/{item}", headers={"X-Background": "1"}).text
    assert len(audit.of_item(item)) == opened
    assert len(part) < len(whole) / 2
    assert "<header" not in part
    assert 'id="head"' in part
