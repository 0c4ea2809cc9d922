"""The worklist page without a browser: what it shows of each state, how it filters, sorts and turns its pages."""

import html
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from dicom_node.web import views
from dicom_node.workitem import DeliveryState, State
from dicom_node.worklist import DeliveryCounts
from tests.web.items import YAMADA, Items
from tests.web.site import OPERATOR, VIEWER, Site, serving

PAGE = {"Accept": "text/html"}
# Whoever claims takes the oldest of a state: what goes on is made before what stays.
ORDER = (
    State.COMPLETED, State.REPORTED, State.ANALYSED, State.WAITING, State.CANCELED, State.FAILED, State.SCHEDULED,
)  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A node with a row of each state, and a hundred more that wait."""
    with serving(tmp_path_factory.mktemp("site")) as made:
        items = Items(made.store)
        made.items = items  # type: ignore[attr-defined]
        order = ("low", "refused", *ORDER)
        how = {"low": (State.COMPLETED, "LOW"), "refused": (State.COMPLETED, "")}
        rows = {name: items.at(*how.get(name, (name,))) for name in order}  # type: ignore[arg-type]
        made.rows = rows  # type: ignore[attr-defined]
        items.study(rows[State.COMPLETED].study_instance_uid)
        late = replace(YAMADA, patient_name="Åberg^Östen", patient_id="P-2", study_date="20250101", patient_sex="")
        items.study(rows[State.FAILED].study_instance_uid, late)
        for _ in range(100):
            items.waiting()
        yield made


@pytest.fixture
def client(site: Site) -> httpx.Client:
    signed = site.signed_in(OPERATOR)
    signed.headers.update(PAGE)
    return signed


def rows_of(client: httpx.Client, **query: str) -> list[str]:
    """Ids of the rows, in their order."""
    answer = client.get("/", params=query)
    assert answer.status_code == 200, answer.text
    return re.findall(r'<tr role="row" id="item-(\d+)"', answer.text)


def ids(site: Site, *names: object) -> list[str]:
    return [str(site.rows[name].id) for name in names]  # type: ignore[attr-defined]


def test_each_state_has_the_word_that_the_command_line_has_and_what_it_means(client: httpx.Client) -> None:
    text = client.get("/?all=1&sort=received&order=asc").text
    shown = [
        re.sub(r"<[^>]+>|\s+", " ", cell) for cell in re.findall(r'data-label="State">(.*?)</td>', text, re.DOTALL)
    ]
    words = [" ".join(html.unescape(cell).split()) for cell in shown[:9]]
    assert words == [
        *["Completed delivered"] * 3,
        "Reported being delivered",
        "Analysed report to be made",
        "Waiting waits for its inputs",
        "Canceled withdrawn or replaced",
        "Failed needs an operator",
        "Scheduled ready to be analysed",
    ]


def test_a_filter_leaves_what_it_says(client: httpx.Client, site: Site) -> None:
    assert rows_of(client, state="failed") == ids(site, State.FAILED)
    assert rows_of(client, state="progress") == ids(site, State.ANALYSED, State.REPORTED)
    assert rows_of(client, outcome="LOW") == ids(site, "low")
    assert rows_of(client, outcome="NOT_SCORED") == ids(site, "refused")
    assert rows_of(client, q="yamada") == ids(site, State.COMPLETED)
    assert rows_of(client, q="山田") == ids(site, State.COMPLETED)
    assert rows_of(client, q="aberg") == ids(site, State.FAILED)
    assert rows_of(client, q="A77-001", state="failed") == ids(site, State.FAILED)
    assert rows_of(client, q="nobody") == []
    assert rows_of(client, since="2999-01-01") == []
    assert rows_of(client, held="1") == []


def test_the_list_is_sorted_as_asked(client: httpx.Client, site: Site) -> None:
    names = rows_of(client, sort="patient_name", order="desc")
    assert names[:2] == ids(site, State.FAILED, State.COMPLETED)
    newest = rows_of(client, sort="received")
    assert newest == sorted(newest, key=int, reverse=True)
    text = client.get("/?sort=received&order=asc").text
    assert re.search(r'aria-sort="ascending"><a href="/\?sort=received&amp;order=desc">Arrived', text)


def test_pages_are_turned_and_no_row_is_lost(client: httpx.Client) -> None:
    first = client.get("/")
    assert "109 work items" in first.text
    seen = rows_of(client)
    assert len(seen) == 50
    assert 'rel="prev"' not in first.text
    for page in ("2", "3"):
        seen += rows_of(client, page=page)
    assert len(seen) == len(set(seen)) == 109
    last = client.get("/?page=3").text
    assert 'rel="next"' not in last
    assert 'rel="prev"' in last
    assert rows_of(client, page="4") == []


def test_links_keep_the_filter(client: httpx.Client) -> None:
    text = client.get("/?state=waiting&sort=study_date").text
    assert 'href="/?state=waiting&amp;sort=study_date&amp;order=desc&amp;page=2" rel="next"' in text
    assert '<option value="waiting" selected>' in text


@pytest.mark.parametrize(
    "query",
    [
        "state=gone",
        "sort=colour",
        "order=up",
        "outcome=GOOD",
        "since=yesterday",
        "held=perhaps",
        "until=2026-99-99",
        "until=9999-12-31",
    ],
)
def test_what_an_address_says_wrongly_is_left_out(client: httpx.Client, query: str) -> None:
    assert len(re.findall('id="item-', client.get(f"/?{query}").text)) == 50


@pytest.mark.parametrize("query", ["page=0", "page=x", f"q={'a' * 101}", "page=99999999999999999999"])
def test_what_cannot_be_meant_is_refused_with_a_page(client: httpx.Client, query: str) -> None:
    answer = client.get(f"/?{query}")
    assert answer.status_code == 422
    assert "Not understood" in answer.text


def test_a_row_says_who_and_how_old(client: httpx.Client) -> None:
    text = client.get("/?q=yamada").text
    cell = re.sub(r"<[^>]+>|\s+", " ", re.findall(r'class="who"[^>]*>(.*?)</th>', text, re.DOTALL)[0])
    assert " ".join(cell.split()) == "Yamada, Tarou ( 山田 太郎 ) ( やまだ たろう ) PAT-0012 , M, 67 y"


def test_the_name_stands_in_no_title_and_no_address(client: httpx.Client, site: Site) -> None:
    """Titles and addresses go to the browser's history, and from there to the next user of the workstation."""
    page = client.get(f"/items/{site.rows[State.COMPLETED].id}").text  # type: ignore[attr-defined]
    assert "Yamada" in page
    title = re.findall(r"<title>(.*?)</title>", page)
    assert title == ["Study - Prognode"]
    assert not [link for link in re.findall(r'(?:href|src|action)="([^"]*)"', page) if "amada" in link or "PAT" in link]


@pytest.mark.parametrize("state", list(State))
def test_a_study_page_can_be_read_in_every_state(client: httpx.Client, site: Site, state: State) -> None:
    """Also where no file of the results is there: rows of another release, or a spool that lost its disk."""
    answer = client.get(f"/items/{site.rows[state].id}")  # type: ignore[attr-defined]
    assert answer.status_code == 200, answer.text
    assert "No CT image of this work item is here." in answer.text
    assert len(re.findall(r'<span class="name">', answer.text)) == 10


def test_buttons_are_those_that_can_be_used(client: httpx.Client, site: Site) -> None:
    def offered(state: State) -> set[str]:
        page = client.get(f"/items/{site.rows[state].id}").text  # type: ignore[attr-defined]
        return set(re.findall(r'/act/(\w+)"', page))

    assert offered(State.FAILED) == {"retry", "rescore", "hold", "cancel", "priority"}
    assert offered(State.COMPLETED) == {"rescore"}
    assert offered(State.CANCELED) == {"rescore"}
    assert "retry" not in offered(State.SCHEDULED)


def test_a_confirmation_says_what_will_happen_and_does_nothing(client: httpx.Client, site: Site) -> None:
    item = site.rows[State.SCHEDULED]  # type: ignore[attr-defined]
    for action in ("hold", "cancel", "priority"):
        page = client.get(f"/items/{item.id}/act/{action}")
        assert "The audit trail will name you" in page.text
        assert site.store.item(item.id) == item
    page = client.get(f"/items/{item.id}/act/retry")
    assert "Not possible now" in page.text
    assert f'action="/items/{item.id}' not in page.text
    assert client.get(f"/items/{item.id}/act/explode").status_code == 404
    assert client.post(f"/items/{item.id}/act/hold").status_code == 403, "without the session's token"
    assert site.store.item(item.id) == item


def test_canceling_says_what_is_elsewhere_already_and_stays_there(client: httpx.Client, site: Site) -> None:
    def said(state: State) -> str:
        return client.get(f"/items/{items.at(state).id}/act/cancel").text

    items = site.items  # type: ignore[attr-defined]
    page = said(State.ANALYSED)
    assert "Nothing of it has been sent; nothing will be." in page
    assert "No score" not in page, "there is one already"
    failed = items.at(State.REPORTED, destinations=("PACS", "RESEARCH"))
    deliveries = items.store.deliveries
    *sent, refused = deliveries.of_item(failed.id)
    for row in sent:
        deliveries.record(row.id, state=DeliveryState.SEEN, final=1, sent_at=4.0, proved_at=5.0)
    deliveries.record(refused.id, state=DeliveryState.FAILED, final=1)
    items.store.complete_delivered(items.tick())
    page = client.get(f"/items/{failed.id}/act/cancel").text
    assert "Already at a destination: 3 of 4 objects. They stay there; nothing more is sent." in page
    assert "Nothing of it has been sent" not in page
    assert "No score will be made for it. This cannot be undone." in said(State.SCHEDULED)


def test_what_was_withdrawn_before_it_left_is_not_called_sent() -> None:
    def badge(sent: int, proved: int) -> tuple[str, str]:
        found = views.deliveries(DeliveryCounts(open=0, refused=0, sent=sent, proved=proved, total=6))
        return found.text, found.tone

    assert badge(0, 0) == ("0 of 6 sent", "")
    assert badge(5, 5) == ("5 of 6 sent", "good")
    assert badge(5, 4) == ("5 of 6 sent, 4 proved", "good")
    assert badge(6, 4) == ("6 sent, 4 proved", "good")
    assert badge(6, 6) == ("6 of 6 proved", "good")


def test_an_action_that_has_become_impossible_is_said_and_not_done(client: httpx.Client, site: Site) -> None:
    item = site.items.at(State.SCHEDULED)  # type: ignore[attr-defined]
    page = client.get(f"/items/{item.id}/act/cancel").text
    csrf = re.findall(r'name="csrf" value="([^"]+)"', page)[-1]
    first = client.post(f"/items/{item.id}/act/cancel", data={"csrf": csrf})
    assert (first.status_code, first.headers["location"]) == (303, f"/items/{item.id}")
    second = client.post(f"/items/{item.id}/act/cancel", data={"csrf": csrf})
    assert second.status_code == 409
    assert "Not possible now" in second.text


def test_a_question_that_names_the_patient_is_a_look_of_its_own(client: httpx.Client, site: Site) -> None:
    item = site.items.at(State.SCHEDULED)  # type: ignore[attr-defined]
    site.items.study(item.study_instance_uid, replace(YAMADA, patient_name="Zeta^Eva", patient_id="P-3"))  # type: ignore[attr-defined]
    assert "Zeta" in client.get(f"/items/{item.id}/act/hold").text
    other = site.items.at(State.COMPLETED)  # type: ignore[attr-defined]
    csrf = re.findall(r'name="csrf" value="([^"]+)"', client.get("/").text)[-1]
    assert client.post(f"/items/{other.id}/act/cancel", data={"csrf": csrf}).status_code == 409
    store = site.store
    for each in (item, other):
        looks = [(e.actor, e.outcome) for e in store.audit.of_item(each.id) if e.action == "study.opened"]
        assert looks == [(OPERATOR, "done")]
    store.close()


def test_what_an_action_said_is_shown_once(client: httpx.Client, site: Site) -> None:
    item = site.items.at(State.SCHEDULED)  # type: ignore[attr-defined]
    csrf = re.findall(r'name="csrf" value="([^"]+)"', client.get(f"/items/{item.id}/act/hold").text)[-1]
    client.post(f"/items/{item.id}/act/hold", data={"csrf": csrf})
    assert "Hold: it is held: nothing is started or sent until it is released." in client.get(f"/items/{item.id}").text
    assert "Hold: it is held" not in client.get(f"/items/{item.id}").text


def test_a_viewer_sees_no_audit_trail(site: Site) -> None:
    client = site.signed_in(VIEWER)
    client.headers.update(PAGE)
    assert client.get("/audit").status_code == 403
    assert "/audit" not in client.get("/").text


def test_a_study_has_an_address_of_its_own(client: httpx.Client, site: Site) -> None:
    item = site.rows[State.COMPLETED]  # type: ignore[attr-defined]
    answer = client.get(f"/studies/{item.study_instance_uid}")
    assert (answer.status_code, answer.headers["location"]) == (303, f"/items/{item.id}")
    assert client.get("/studies/1.2.3.4.5").status_code == 404
    assert client.get("/items/99999").status_code == 404


def test_the_page_of_an_unknown_address_has_the_navigation_for_whoever_is_signed_in(site: Site) -> None:
    answer = site.signed_in().get("/nothing", headers=PAGE)
    assert (answer.status_code, "Nothing is at this address" in answer.text) == (404, True)
    assert all(f'<a href="{address}"' in answer.text for address in ("/models", "/system", "/audit"))
    assert 'action="/signout"' in answer.text
    answer = site.client().get("/nothing", headers=PAGE)
    assert (answer.status_code, "<nav" in answer.text, "signout" in answer.text) == (404, False, False)


@pytest.mark.parametrize(
    ("where", "goes"), [("/system", "/system"), ("//evil.example", "/"), ("https://evil.example", "/")]
)
def test_the_scheme_goes_back_to_the_page_and_nowhere_else(client: httpx.Client, where: str, goes: str) -> None:
    csrf = re.findall(r'name="csrf" value="([^"]+)"', client.get("/").text)[0]
    answer = client.post("/scheme", data={"csrf": csrf, "next": where})
    assert (answer.status_code, answer.headers["location"]) == (303, goes)
    assert "scheme=" in answer.headers["set-cookie"]


def test_the_bundle_that_is_synthetic_is_named_so_on_every_page(client: httpx.Client, site: Site) -> None:
    item = site.rows[State.COMPLETED].id  # type: ignore[attr-defined]
    for place in ("/", "/models", "/system", "/audit", f"/items/{item}", f"/items/{item}/act/rescore"):
        text = client.get(place).text
        assert '<span class="synthetic">SYNTHETIC - NOT FOR CLINICAL USE</span>' in text, place
        assert "<strong>Research use only - not for diagnostic use." in text, place


def test_static_files_change_their_address_with_their_content(client: httpx.Client, tmp_path: Path) -> None:
    text = client.get("/").text
    for address in re.findall(r'(?:href|src)="(/static/[^"]+)"', text):
        assert re.search(r"\?v=[0-9a-f]{12}$", address)
        assert client.get(address).status_code == 200
    assert "<style" not in text
    assert not re.search(r"\son\w+=|style=|javascript:", text)
    assert re.findall(r"<script[^>]*>(.*?)</script>", text, re.DOTALL) == [""]
