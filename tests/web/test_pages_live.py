"""The stream of changes without a browser: what it says, how often, and that it ends."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from dicom_node.web.deps import Recent
from dicom_node.web.live import LOOK_SECONDS
from tests.e2e.node import wait_for
from tests.web import hospital as building
from tests.web.hospital import Hospital


@pytest.fixture
def client(address: str) -> httpx.Client:
    return building.sign_in(address)


@dataclass
class Stream:
    """What a stream has said, as names of events."""

    heard: list[str] = field(default_factory=list)

    def wait_for(self, count: int) -> None:
        wait_for(lambda: len(self.heard) >= count, f"{count} events")


@contextmanager
def listening(address: str, client: httpx.Client) -> Iterator[Stream]:
    """A stream that has said its first word; it is cut at the end."""
    said = Stream()
    own = httpx.Client(base_url=address, cookies=client.cookies, timeout=60)

    def listen() -> None:
        with (
            suppress(httpx.HTTPError, RuntimeError),  # what a cut is told as
            own.stream("GET", "/live", headers={"Accept": "text/event-stream"}) as stream,
        ):
            assert stream.headers["content-type"].startswith("text/event-stream")
            assert stream.headers["cache-control"] == "no-store"
            for line in stream.iter_lines():
                if line.startswith("event: "):
                    said.heard.append(line.removeprefix("event: "))
                if ended.is_set():
                    return

    ended = threading.Event()
    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        said.wait_for(1)
        yield said
    finally:
        ended.set()


def note(hospital: Hospital) -> None:
    hospital.road.store.note(hospital.item("waiting").id, "looked", time.time())


def test_a_change_is_told_once_and_to_everybody_who_listens_also_later(
    client: httpx.Client, address: str, hospital: Hospital
) -> None:
    with listening(address, client) as first, listening(address, client) as second:
        assert first.heard == ["change"], "what the page has is compared once, at the start"
        notes, looked = 0, len(first.heard)
        while len(first.heard) == looked:  # until the node has been looked at: what comes then is a change
            note(hospital)
            notes += 1
            time.sleep(2 * LOOK_SECONDS)
        heard = len(first.heard)
        note(hospital)
        first.wait_for(heard + 1)
        second.wait_for(2)
        time.sleep(2 * LOOK_SECONDS)
        assert set(first.heard) == {"change"}
        assert len(first.heard) <= looked + notes + 1, "a change is told once"
    with listening(address, client) as third:
        time.sleep(2 * LOOK_SECONDS)
        assert len(third.heard) <= 2, "one at the start, and one where the note came between two looks"


def test_fifty_listeners_hold_one_store_and_leave_the_pages_quick(
    client: httpx.Client, address: str, hospital: Hospital
) -> None:
    """A connection to SQLite is three file descriptors, a process has a thousand; threads are forty."""

    def open_stores() -> int:
        folder = Path(f"/proc/{building.process_of(hospital.folder)}/fd")
        return sum(str(path.resolve()).endswith("store.sqlite") for path in list(folder.iterdir()))

    before = open_stores()  # SQLite keeps what was open at once for the next that opens
    port = int(address.rpartition(":")[2])
    cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    asked = f"GET /live HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\nCookie: {cookie}\r\n\r\n"
    with ExitStack() as stack:
        for _ in range(50):  # one after the other: at once, each of the forty threads would open one
            tab = stack.enter_context(socket.create_connection(("127.0.0.1", port), 60))
            tab.sendall(asked.encode())
            text = b""
            while b"event: change" not in text:
                piece = tab.recv(4096)
                assert piece, text
                text += piece
        assert open_stores() <= before + 6
        assert client.get("/health").status_code == client.get("/").status_code == 200


def test_what_a_page_reads_by_itself_changes_nothing(client: httpx.Client, address: str, hospital: Hospital) -> None:
    """Else each reading would be told as a change, and every page would read again for ever."""
    places = ["/", "/system", *(f"/items/{hospital.item(case).id}" for case in ("main", "waiting", "not scored"))]
    for place in places:
        client.get(place)
    with listening(address, client) as stream:
        time.sleep(2 * LOOK_SECONDS)
        before = len(stream.heard)
        for place in places:
            assert client.get(place, headers={"X-Background": "1"}).status_code == 200
        time.sleep(2 * LOOK_SECONDS)
        assert "change" not in stream.heard[before:]


def test_whom_somebody_looks_for_is_audited_once(client: httpx.Client, hospital: Hospital) -> None:
    """Not the list as such, nor what a page reads by itself, nor another order of the same search."""

    def looked_for() -> list[str]:
        return [one.detail for one in hospital.road.store.audit.newest(50) if one.action == "query.worklist"]

    before = len(looked_for())
    client.get("/")
    assert len(looked_for()) == before
    for _ in range(2):
        client.get("/", params={"q": "okaf"})
    client.get("/", params={"q": "okaf"}, headers={"X-Background": "1"})
    client.get("/", params={"q": "okaf", "sort": "priority"})
    client.get("/api/v1/worklist", params={"text": "okaf"})
    client.get("/api/v1/worklist", params={"text": "nobody at all"})
    client.get("/", params={"q": "silv"}, headers={"X-Background": "1"})
    assert looked_for()[: len(looked_for()) - before] == [
        "'silv': 1 found", "'nobody at all': 0 found", "'okaf': 1 found",
    ]  # fmt: skip


def test_a_part_of_a_page_has_no_frame_and_no_second_audit_entry(client: httpx.Client, hospital: Hospital) -> None:
    item, audit = hospital.item("main").id, hospital.road.store.audit
    whole = client.get(f"/items/{item}").text
    opened = len(audit.of_item(item))
    part = client.get(f"/items/{item}", headers={"X-Background": "1"}).text
    assert len(audit.of_item(item)) == opened
    assert len(part) < len(whole) / 2
    assert "<header" not in part
    assert 'id="head"' in part


@pytest.mark.parametrize(
    ("place", "action"),
    [
        ("", "study.opened"), ("/slices.json", "study.opened"), ("/slices/1.png", "study.opened"),
        ("/pages/1.png", "result.opened"), ("/clinical", "study.opened"),
    ],
)  # fmt: skip
def test_nothing_of_a_study_is_given_unseen(address: str, hospital: Hospital, place: str, action: str) -> None:
    """A program may say that it is a page that lies open, and ask for pictures by number."""
    item, audit, account = hospital.item("enhanced").id, hospital.road.store.audit, f"reader{place.replace('/', '-')}"
    store = hospital.road.store
    store.accounts.add_token(f"secret of {account}", account, "viewer", time.time(), None)
    program = {"Authorization": f"Bearer secret of {account}", "X-Background": "1"}

    def looks() -> list[str]:
        return [one.action for one in audit.of_item(item) if one.actor == f"token:{account}"]

    with httpx.Client(base_url=address, headers=program, timeout=60) as reader:
        assert reader.get(f"/items/{item}/slices/999.png").status_code == 404
        assert looks() == [], "nothing was there to be seen"
        assert reader.get(f"/items/{item}{place}").status_code == 200
        assert looks() == [action]
        for part in ("", "/slices.json", "/slices/2.png", "/slices/3.png", "/pages/1.png"):
            assert reader.get(f"/items/{item}{part}").status_code == 200
        assert looks() == [action], "they belong to the same look"
        del reader.headers["X-Background"]
        reader.get(f"/items/{item}")
        assert looks() == ["study.opened", action], "a page that is opened is always a look"


def test_a_look_goes_on_until_a_quarter_of_an_hour_has_passed_without_it() -> None:
    recent = Recent()
    assert not recent.goes_on("anna", 1, 0.0)
    recent.begin("anna", 1, 0.0)
    recent.begin("anna", 2, 0.0)
    assert not recent.goes_on("berta", 1, 1.0)
    assert not recent.goes_on("anna", "1", 1.0), "a text that is searched for is no number"
    for now in (800.0, 1600.0, 2400.0):
        assert recent.goes_on("anna", 1, now)
    assert not recent.goes_on("anna", 2, 2400.0)
    assert not recent.goes_on("anna", 1, 3301.0)
    assert len(recent) == 0, "what is over is forgotten"
