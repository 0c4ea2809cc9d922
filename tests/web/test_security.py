"""What stands before every request: nobody unknown gets in, no other site acts, nothing personal is logged."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI
from starlette.exceptions import HTTPException

from config.settings import Settings, Web
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.web import deps, listener, security, server
from dicom_node.web.app import OPEN, create_app
from dicom_node.workitem import ConfigError, State
from tests.e2e.node import write_settings
from tests.web.items import YAMADA, Items
from tests.web.site import OPERATOR, PASSWORD, Site, serving, sign_in, started

SAMPLES = {
    "study_instance_uid": "1.2.840.7", "work_item_id": "1", "item_id": "1", "action": "hold", "name": "page-1.png",
    "number": "1", "view": "axial", "document": "risk-sr", "page": "1",
}  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A page over a store with one scored study."""
    with serving(tmp_path_factory.mktemp("site")) as running:
        store = running.store
        items = Items(store)
        items.study("1.2.840.7")
        assert items.at(State.REPORTED, study="1.2.840.7").id == 1
        store.close()
        yield running


def token_of(site: Site, role: str) -> str:
    store = site.store
    store.accounts.add_token(f"a token of a {role}", f"test-{role}", role, time.time(), None)  # type: ignore[arg-type]
    store.close()
    return f"a token of a {role}"


def routes(router: Any) -> Iterator[tuple[str, str]]:
    """Method and path of every endpoint, also of routers inside routers."""
    for route in router.routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            yield from routes(inner)
        elif getattr(route, "methods", None):
            yield from ((method, route.path) for method in route.methods)
        else:
            yield "GET", f"{route.path}/nothing"


APP_ROUTES = sorted(set(routes(create_app(Settings(), Spool(Path("/nowhere"))))))


def test_the_crawl_knows_the_routes() -> None:
    assert {
        ("GET", "/api/v1/worklist"),
        ("POST", "/api/v1/work-items/{work_item_id}/hold"),
        ("GET", "/live"),
    } < set(APP_ROUTES)
    assert len(APP_ROUTES) > 20


@pytest.mark.parametrize("accept", ["text/html", "application/json"])
@pytest.mark.parametrize(("method", "path"), APP_ROUTES)
def test_whoever_is_not_signed_in_gets_nothing(site: Site, method: str, path: str, accept: str) -> None:
    filled = re.sub(r"\{(\w+)(?::\w+)?\}", lambda found: SAMPLES.get(found[1], "1"), path)
    for cookie in ("", "prognode=a-cookie-of-nobody"):
        answer = site.client().request(method, filled, headers={"Accept": accept, "Cookie": cookie})
        if path.startswith(OPEN):
            node_rests = (503,) if path == "/ready" else ()
            assert answer.status_code in (200, 303, 401, 403, 404, 405, *node_rests), answer.text
        elif answer.status_code == 303:
            assert answer.headers["location"].startswith("/signin?next=")
            assert not answer.content
        else:
            assert answer.status_code == 401, answer.text
        for secret in (YAMADA.patient_name, "Yamada", "山田", YAMADA.patient_id, YAMADA.accession_number, "key-1"):
            assert secret not in answer.text


def test_a_path_that_nobody_has_made_is_not_found(site: Site) -> None:
    assert site.client().get("/api/v1/nothing").status_code == 404
    assert site.client().get("/docs").status_code == 404
    assert site.client().get("/openapi.json").status_code == 404
    for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fdeps.py"):
        assert site.client().get(path).status_code == 404


def test_an_endpoint_that_forgets_to_ask_is_closed_all_the_same(tmp_path: Path) -> None:
    """As `create_app` hangs every router on."""
    app, forgetful = create_app(Settings(), Spool(tmp_path)), APIRouter()
    Store.open(Spool(tmp_path).store).close()

    @forgetful.get("/forgotten")
    def forgotten() -> str:
        return "secret"

    app.include_router(forgetful, dependencies=[Depends(deps.viewer)])
    assert answered(app, "/forgotten").status_code == 401


def answered(app: FastAPI, path: str, **more: Any) -> httpx.Response:
    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
            return await client.get(path, **more)

    return asyncio.run(ask())


# -- roles and other sites -------------------------------------------------------------------------------------


def test_a_viewer_may_look_and_not_act(site: Site) -> None:
    client = site.with_token(token_of(site, "viewer"))
    assert client.get("/api/v1/work-items/1").status_code == 200
    acts = [path for method, path in APP_ROUTES if method == "POST" and path.startswith("/api/")]
    assert len(acts) >= 2
    for path in acts:
        answer = client.post(path.format(**SAMPLES), json={"priority": "HIGH"})
        assert (answer.status_code, answer.json()["detail"]) == (403, "this needs the role operator")


def test_an_unsafe_request_with_a_cookie_needs_the_token_of_its_session(site: Site) -> None:
    client = site.signed_in()
    csrf = site.store._db.rows("SELECT csrf FROM session ORDER BY created_at DESC LIMIT 1")[0]["csrf"]
    path, mark = "/api/v1/work-items/1/priority", {"priority": "MEDIUM"}

    def post(**headers: str) -> int:
        return client.post(path, json=mark, headers=headers).status_code

    assert post() == 403
    assert post(**{"X-CSRF-Token": "x"}) == 403
    assert post(**{"X-CSRF-Token": csrf}) == 200
    for headers in (
        {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": site.url.replace("http:", "https:")},
        {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"},
    ):  # fmt: skip
        assert post(**{"X-CSRF-Token": csrf, **headers}) == 403, headers
    assert post(**{"X-CSRF-Token": csrf, "Origin": site.url, "Sec-Fetch-Site": "same-origin"}) == 200
    assert client.post("/signout", data={"csrf": "x"}).status_code == 403
    assert client.post("/signout", data={"csrf": csrf}).status_code == 303


def test_a_token_needs_no_mark_of_a_form_and_a_cookie_beside_it_does_not_count(site: Site) -> None:
    operator = token_of(site, "operator")
    client = site.with_token(operator)
    assert client.post("/api/v1/work-items/1/priority", json={"priority": "LOW"}).status_code == 200
    client = site.signed_in()
    assert client.get("/api/v1/me", headers={"Authorization": "Bearer nonsense"}).status_code == 401
    assert (
        client.get("/api/v1/me", headers={"Authorization": f"Bearer {operator}"}).json()["account"]
        == "token:test-operator"
    )


def test_a_token_ends_when_it_is_revoked_or_out_of_date(site: Site) -> None:
    store, now = site.store, time.time()
    store.accounts.add_token("one", "one", "viewer", now, now + 3600)
    store.accounts.add_token("two", "two", "viewer", now, now - 1)
    assert site.with_token("one").get("/api/v1/me").json() == {"account": "token:one", "role": "viewer"}
    assert site.with_token("two").get("/api/v1/me").status_code == 401
    assert store.accounts.revoke_token("one", now)
    assert not store.accounts.revoke_token("one", now)
    assert site.with_token("one").get("/api/v1/me").status_code == 401
    assert [token.used_at is not None for token in store.accounts.tokens() if token.name == "one"] == [True]


# -- headers, sizes, times -------------------------------------------------------------------------------------


def test_every_answer_has_the_headers(site: Site) -> None:
    signed_in = site.signed_in()
    large = b"x" * (security.MAXIMUM_BODY_BYTES + 1)
    answers = {
        200: signed_in.get("/api/v1/worklist"), 303: site.client().get("/", headers={"Accept": "text/html"}),
        401: site.client().get("/api/v1/worklist"), 404: site.client().get("/nothing"),
        405: site.client().delete("/health"), 403: signed_in.post("/api/v1/work-items/1/hold"),
        413: site.client().post("/signin", content=large), 422: signed_in.get("/api/v1/worklist?limit=0"),
        400: site.client().get("/", headers={"Host": "evil.example"}),
    }  # fmt: skip
    for status, answer in answers.items():
        assert answer.status_code == status, answer.text
        assert answer.headers["content-security-policy"] == security.POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cache-control"] == "no-store"
        assert "server" not in answer.headers
        assert "strict-transport-security" not in answer.headers, "there is no TLS here"
    assert "'unsafe" not in security.POLICY
    assert security.POLICY.startswith("default-src 'none'")
    icon = site.client().get("/static/icon.svg")
    assert icon.status_code == 200
    assert "cache-control" not in icon.headers


def test_errors_of_the_api_are_a_detail_and_a_remedy(site: Site) -> None:
    client = site.signed_in()
    for path in ("work-items/999", "work-items/x", "worklist?sort=x", "nothing", "studies/1.9"):
        body = client.get(f"/api/v1/{path}").json()
        assert set(body) == {"detail", "remedy"}
        assert body["detail"]
        assert body["remedy"]


def test_the_node_answers_to_its_own_name_alone(site: Site) -> None:
    for host in ("evil.example", "127.0.0.1.evil.example", "", "[::1", "127.0.0.1@evil.example"):
        assert site.client().get("/signin", headers={"Host": host}).status_code == 400, host
    for host in ("localhost:1", "127.0.0.1"):
        assert site.client().get("/signin", headers={"Host": host}).status_code == 200
    assert site.client().get("/health", headers={"Host": "10.0.0.5:8443"}).json() == {"status": "up"}


def test_a_body_that_is_too_large_is_refused_before_it_is_read(site: Site) -> None:
    client = site.with_token(token_of(site, "operator"))
    path = "/api/v1/work-items/1/priority"
    assert client.post(path, content=b"x" * (security.MAXIMUM_BODY_BYTES + 1)).status_code == 413

    def pieces() -> Iterator[bytes]:  # no Content-Length
        for _ in range(20):
            yield b"x" * 100_000

    answer = client.post(path, content=pieces())
    assert (answer.status_code, set(answer.json())) == (413, {"detail", "remedy"})


def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security, "BODY_SECONDS", 0.2)
    now = time.monotonic()
    monkeypatch.setattr(security, "time", SimpleNamespace(monotonic=lambda: now))  # however slow we are

    async def drip() -> None:
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        receive = security._measured(queue.get)  # type: ignore[arg-type]
        queue.put_nowait({"type": "http.request", "body": b"a", "more_body": True})
        assert (await receive())["body"] == b"a"
        with pytest.raises(HTTPException, match="did not come"):
            await receive()
        patient = security._measured(queue.get)  # type: ignore[arg-type]
        queue.put_nowait({"type": "http.request", "body": b"", "more_body": False})
        await patient()
        asyncio.get_running_loop().call_later(0.5, queue.put_nowait, {"type": "http.disconnect"})
        assert (await patient())["type"] == "http.disconnect", "an answer may take longer"

    asyncio.run(drip())


def test_a_connection_that_asks_nothing_is_closed(site: Site) -> None:
    port = int(site.url.rpartition(":")[2])
    began = time.monotonic()
    silent, half = (socket.create_connection(("127.0.0.1", port)) for _ in range(2))
    half.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n")
    for one in (silent, half):
        one.settimeout(server.HEADER_SECONDS + 60.0)
        assert one.recv(1) == b""
        one.close()
    assert time.monotonic() - began > server.HEADER_SECONDS - 1


def test_silent_connections_of_one_address_shut_nobody_else_out(site: Site) -> None:
    where = ("127.0.0.1", int(site.url.rpartition(":")[2]))
    with contextlib.ExitStack() as held:
        for _ in range(listener.MAXIMUM_OF_ADDRESS):
            held.enter_context(socket.create_connection(where, 60, ("127.0.0.2", 0)))
        one_more = held.enter_context(socket.create_connection(where, 60, ("127.0.0.2", 0)))
        assert one_more.recv(1) == b""
        assert site.client().get("/health").status_code == 200
    assert "web.too_many from 127.0.0.2" in site.log


def test_a_further_request_that_comes_by_drops_is_not_waited_for(site: Site) -> None:
    """One byte ends uvicorn's keep-alive time; five hundred such connections would shut everybody out."""
    port = int(site.url.rpartition(":")[2])
    asked = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    refused = b"POST /api/v1/work-items/1/hold HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99\r\n\r\n"
    again, body = (socket.create_connection(("127.0.0.1", port), 60) for _ in range(2))
    began = time.monotonic()  # before: the answers may be slow to come
    for one, text, status in ((again, asked, b" 200 "), (again, asked, b" 200 "), (body, refused, b" 401 ")):
        one.sendall(text)
        answer = b""
        while not answer.endswith(b"}"):  # of the JSON
            piece = one.recv(65536)
            assert piece, answer
            answer += piece
        assert status in answer
    open_, last = {again: b"G", body: b"x"}, time.monotonic() + 6 * server.HEADER_SECONDS
    while open_ and time.monotonic() < last:  # a drop each second, as long as somebody takes it
        for one, text in list(open_.items()):
            with contextlib.suppress(TimeoutError):
                try:
                    one.settimeout(0.5)
                    one.sendall(text)
                    closed = one.recv(1) == b""
                except ConnectionError:
                    closed = True
                if closed:
                    del open_[one]
                    one.close()
    assert not open_, "each drop has bought more time"
    assert time.monotonic() - began > server.HEADER_SECONDS - 1


# -- what is logged --------------------------------------------------------------------------------------------


def test_what_people_search_for_and_look_at_is_not_logged(site: Site) -> None:
    client = site.signed_in()
    client.get("/api/v1/worklist", params={"text": "Yamada"})
    client.get("/", params={"text": "Yamada"}, headers={"Accept": "text/html"})
    client.get("/api/v1/studies/1.2.840.7")
    client.get("/api/v1/worklist", params={"text": "Yamada", "limit": "no number"})
    client.get("/nothing/Yamada")
    assert "web.request GET /api/v1/worklist 200" in site.log
    assert "web.request GET /api/v1/studies/{study_instance_uid} 200" in site.log
    for secret in ("Yamada", "山田", "PAT-0012", "1.2.840.7", "text="):
        assert secret not in site.log


def test_a_bug_is_answered_and_logged_without_its_text(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    app, broken = create_app(Settings(), Spool(tmp_path)), APIRouter()

    @broken.get("/broken/{name}")
    def fails(name: str) -> str:
        raise ValueError(f"no such patient: {name}")

    app.include_router(broken)
    with caplog.at_level("INFO"):
        answer = answered(app, "/broken/Yamada")
        page = answered(app, "/broken/Yamada", headers={"Accept": "text/html"})
    assert answer.status_code == page.status_code == 500
    assert answer.json() == {"detail": "this went wrong inside the node", "remedy": "report it: it is a bug"}
    assert "text/html" in page.headers["content-type"]
    assert "web.bug ValueError in GET /broken/{name}" in caplog.text
    assert "Yamada" not in caplog.text + answer.text + page.text


# -- the process -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("web", "words"),
    [
        (Web(host="0.0.0.0"), "can be reached from elsewhere"),
        (Web(host="10.1.2.3", public_url="http://prognode.example"), "can be reached from elsewhere"),
        (Web(certificate=Path("web.pem")), "belong together"),
        (Web(public_url="prognode.example"), "must begin with"),
    ],
)
def test_settings_that_would_send_passwords_in_the_open_are_refused(web: Web, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        server.check(web)


@pytest.mark.parametrize(
    "web",
    [
        Web(), Web(host="::1"), Web(host="localhost"), Web(host="10.1.2.3", public_url="https://prognode.example"),
        Web(host="0.0.0.0", certificate=Path("a"), private_key=Path("b")),
    ],
)  # fmt: skip
def test_settings_that_would_not_are_taken(web: Web) -> None:
    server.check(web)


def test_every_address_needs_a_name() -> None:
    with pytest.raises(ConfigError, match="set public_url"):
        security.allowed_hosts(Web(host="0.0.0.0"))
    assert security.allowed_hosts(Web(host="::", public_url="https://Prognode.Example:8443")) == {"prognode.example"}
    assert security.allowed_hosts(Web(host="10.1.2.3")) == {"10.1.2.3"}


def test_the_command_says_why_it_does_not_start(tmp_path: Path) -> None:
    from tests.e2e.test_cli import prognode

    path = write_settings(tmp_path / "open", web={"host": "0.0.0.0", "port": 0})
    code, text = prognode("web", "--config", path)
    assert (code, "there is no certificate" in text) == (os.EX_CONFIG, True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        path = write_settings(tmp_path / "taken", web={"port": port})
        code, text = prognode("web", "--config", path)
    assert (code, "Address already in use; find who has it" in text) == (os.EX_UNAVAILABLE, True)
    assert "Traceback" not in text


def test_check_tells_of_the_page(tmp_path: Path) -> None:
    from tests.certificates import Authority
    from tests.e2e.test_cli import run

    node = tmp_path / "node"
    issued = Authority(tmp_path / "ca").issue("web", ends_days=20.0)
    web = {"certificate": str(issued.certificate), "private_key": str(issued.key)}

    def said(**more: object) -> str:
        return run("check", "--config", write_settings(node, web=more))[1]

    plain = said()
    assert "ok   worklist page: prognode web would be at http://127.0.0.1:8443" in plain
    assert "nobody can sign in before: prognode user add" in plain
    assert "FAIL worklist page: [web] host '0.0.0.0' can be reached from elsewhere" in said(host="0.0.0.0")
    encrypted = said(**web)
    assert "FAIL page's certificate" in encrypted
    assert "prognode web would be at https://127.0.0.1:8443" in encrypted
    issued.key.chmod(0o644)
    assert "others can read or write it" in said(**web)


def test_without_a_store_the_page_says_so_and_begins_when_there_is_one(tmp_path: Path) -> None:
    write_settings(tmp_path, web={"port": 0})
    with started(tmp_path) as site:
        client = site.client()
        assert client.get("/health").status_code == 200
        for path in ("/ready", "/api/v1/worklist", "/signin"):
            answer = client.get(path)
            assert (answer.status_code, "no store yet" in answer.text) == (503, True)
        assert not (tmp_path / "spool").exists(), "it makes none of its own"
        Spool(tmp_path / "spool").create()
        store = Store.open(Spool(tmp_path / "spool").store)
        answer = client.get("/ready")
        assert (answer.status_code, answer.json()["not_heard_of"]) == (503, ["receive", "work", "run"])
        for name in ("receive", "work", "run"):
            store.vitals.beat(name, "1", time.time(), time.time(), {})
        assert client.get("/ready").status_code == 200
        store.vitals.ended("work", 0.0, time.time())
        answer = client.get("/ready")
        assert (answer.status_code, answer.json()["not_heard_of"]) == (503, ["work", "run"])
        store.close()
        assert client.get("/signin").status_code == 200


def test_a_store_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    with serving(tmp_path) as site:
        store = site.store
        store._db.execute("PRAGMA user_version=99")
        answer = site.client().get("/ready")
        assert (answer.status_code, "newer" in answer.json()["remedy"]) == (503, True)


def test_it_ends_at_once_and_well_while_pages_listen(tmp_path: Path) -> None:
    with serving(tmp_path) as site:
        client = site.signed_in()
        heard = threading.Event()

        def listen() -> None:
            with client.stream("GET", "/live", headers={"Accept": "text/event-stream"}) as stream:
                for _ in stream.iter_raw():
                    heard.set()

        listener = threading.Thread(target=lambda: _quietly(listen), daemon=True)
        listener.start()
        assert heard.wait(60.0)
        site.process.send_signal(signal.SIGTERM)
        assert site.process.wait(timeout=60) == 0
        assert "Traceback" not in site.log
        listener.join(10.0)


def _quietly(listen: Any) -> None:
    with contextlib.suppress(httpx.HTTPError):  # the stream was cut
        listen()


def test_the_page_loads_no_engine() -> None:
    """Of the analysis, of DICOM networking, or for drawing: it must be light enough to run beside them."""
    heavy = {"torch", "onnxruntime", "radiomics", "sklearn", "SimpleITK", "pynetdicom", "matplotlib"}
    code = f"import sys, dicom_node.web.server; print({heavy} & {{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_trusted_proxy_says_who_asks_and_nobody_else_does(tmp_path: Path) -> None:
    with serving(tmp_path / "trusted", web={"trusted_proxies": ["127.0.0.1"]}) as site:
        sign_in(site.client(), "nobody", "wrong", **{"X-Forwarded-For": "10.9.8.7"})
        assert "signin.refused from 10.9.8.7" in site.log
    with serving(tmp_path / "plain") as site:
        sign_in(site.client(), "nobody", "wrong", **{"X-Forwarded-For": "10.9.8.7"})
        assert "signin.refused from 127.0.0.1" in site.log


def test_behind_a_proxy_with_tls_cookies_are_secure_and_forms_are_of_the_public_name(tmp_path: Path) -> None:
    with serving(tmp_path, web={"public_url": "https://prognode.example"}) as site:
        client = site.client(headers={"Host": "prognode.example"})
        answer = client.get("/signin")
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith("__Host-prognode-form=")
        assert "Secure" in cookie
        value = cookie.partition("=")[2].partition(";")[0]
        form = {"name": OPERATOR, "password": PASSWORD, "csrf": value}
        headers = {"Cookie": f"__Host-prognode-form={value}", "Origin": "https://prognode.example"}
        assert client.post("/signin", data=form, headers=headers).status_code == 303
        assert client.post("/signin", data=form, headers={**headers, "Origin": site.url}).status_code == 403
