"""Signing in as a local user: sessions, roles, wrong passwords, and what a cookie is good for."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from dicom_node import passwords
from dicom_node.accounts import FREE_FAILURES, FREE_FAILURES_OF_ADDRESS, digest
from dicom_node.store import Store
from dicom_node.workitem import ConfigError
from tests.certificates import Authority
from tests.web.site import OPERATOR, PASSWORD, VIEWER, Site, form_of, serving, sign_in, started

ME = "/api/v1/me"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with serving(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture
def site(shared: Site) -> Site:
    """The failures of other tests came from this address too."""
    store = shared.store
    store._db.execute("DELETE FROM signin_throttle")
    store.close()
    return shared


def test_a_user_signs_in_looks_and_signs_out(site: Site) -> None:
    client = site.client()
    answer = sign_in(client, OPERATOR, where="/?text=x")
    assert (answer.status_code, answer.headers["location"]) == (303, "/?text=x")
    assert client.get(ME).json() == {"account": OPERATOR, "role": "operator"}
    csrf = session_of(site, client)["csrf"]
    cookie = dict(client.cookies)
    answer = client.post("/signout", data={"csrf": csrf})
    assert (answer.status_code, answer.headers["location"]) == (303, "/signin")
    assert not client.cookies
    assert site.client(cookies=cookie).get(ME).status_code == 401, "the session is gone, not the cookie alone"
    actions = [(entry.action, entry.actor, entry.outcome) for entry in site.store.audit.newest(2)]
    assert actions == [("signout", OPERATOR, "done"), ("signin", OPERATOR, "done")]


def session_of(site: Site, client: httpx.Client) -> dict[str, str]:
    store = site.store
    rows = store._db.rows("SELECT * FROM session WHERE token_digest = ?", [digest(client.cookies["prognode"])])
    store.close()
    (row,) = rows
    return row


def test_the_store_knows_no_cookie_and_no_password(site: Site) -> None:
    store, client = site.store, site.signed_in()  # an open store keeps the log beside the file
    # By another process: closing the file in this one would drop SQLite's locks on it.
    files = sorted((site.folder / "spool").glob("store.sqlite*"))
    held = subprocess.run(["cat", *files], capture_output=True, check=True).stdout
    store.close()
    assert client.cookies["prognode"].encode() not in held
    assert PASSWORD.encode() not in held
    assert b"$argon2id$" in held


def test_the_name_is_taken_in_any_case_and_the_password_as_it_is(site: Site) -> None:
    assert sign_in(site.client(), OPERATOR.upper()).status_code == 303
    assert sign_in(site.client(), OPERATOR, PASSWORD.upper()).status_code == 401


def test_nobody_can_tell_a_wrong_password_from_an_unknown_name_or_a_disabled_user(site: Site) -> None:
    store = site.store
    store.accounts.add("dora", passwords.hashed(PASSWORD), "viewer", 1.0)
    store.accounts.set_disabled("dora", True)
    attempts = {OPERATOR: "wrong", "nobody": "wrong", "dora": PASSWORD}
    pages: set[str] = set()
    times: dict[str, list[float]] = {name: [] for name in attempts}
    client = site.client()
    for _ in range(FREE_FAILURES):
        for name, password in attempts.items():
            began = time.perf_counter()
            answer = sign_in(client, name, password)
            times[name].append(time.perf_counter() - began)
            assert answer.status_code == 401
            pages.add(answer.text.replace(form_of(answer.text), "").replace(name, "NAME"))
    assert len(pages) == 1
    shortest = {name: min(taken) for name, taken in times.items()}
    # Without a hash it would be a twentieth; the rest is what else this machine does.
    assert min(shortest.values()) > 0.3 * max(shortest.values()), shortest


def test_what_was_typed_as_an_unknown_name_is_not_kept(site: Site) -> None:
    """People type their password into the field of the name."""
    sign_in(site.client(), "my-secret-password", "x")
    entry = site.store.audit.newest(1)[0]
    assert (entry.action, entry.outcome, entry.actor, entry.detail) == ("signin", "refused", "", "no such user")
    assert "my-secret-password" not in site.log


@pytest.mark.parametrize("name", [OPERATOR, "nobody"])
def test_many_wrong_passwords_make_an_account_wait_also_one_that_nobody_has(site: Site, name: str) -> None:
    client = site.client()
    assert [sign_in(client, name, "wrong").status_code for _ in range(FREE_FAILURES)] == [401] * FREE_FAILURES
    while (answer := sign_in(client, name, "wrong")).status_code == 401:
        pass  # on a slow machine the first waits run out meanwhile
    answer = sign_in(client, name, PASSWORD)
    assert answer.status_code == 429, "the right password, too"
    assert 1 <= int(answer.headers["retry-after"]) <= 300
    assert "Too many attempts" in answer.text
    assert "signin.throttled from 127.0.0.1" in site.log


def test_waits_double_and_have_an_end(tmp_path: Path) -> None:
    accounts, now, waits = Store.open(tmp_path / "s").accounts, 1000.0, []
    for _ in range(16):
        assert accounts.attempt({"account x": 5}, now) == 0.0
        waits.append(max(0.0, accounts.locked_until("account x") - now))
        now += waits[-1] + 0.001
    assert waits == [0, 0, 0, 0, 0, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]
    assert accounts.attempt({"account x": 5}, now + 86400.0) == 0.0
    assert accounts.locked_until("account x") == 0.0, "after a day all is forgotten"


def test_an_address_that_tries_many_names_has_to_wait(tmp_path: Path) -> None:
    accounts = Store.open(tmp_path / "s").accounts
    address = {"address 10.0.0.1": FREE_FAILURES_OF_ADDRESS}
    for number in range(FREE_FAILURES_OF_ADDRESS):
        assert accounts.attempt({f"account {number}": FREE_FAILURES, **address}, 1000.0) == 0.0
    assert accounts.attempt({"account next": FREE_FAILURES, **address}, 1000.0) == 0.0
    assert accounts.attempt({"account other": FREE_FAILURES, **address}, 1000.0) > 0.0
    assert accounts.attempt({"account other": FREE_FAILURES, "address 10.0.0.2": 20}, 1000.0) == 0.0


def test_one_good_account_opens_no_door_for_guesses_at_others(tmp_path: Path) -> None:
    accounts = Store.open(tmp_path / "s").accounts
    waits = []
    for number in range(60):  # a guess at another account, then the own one, and so on
        waits.append(accounts.attempt({f"account {number}": 5, "address a": 20}, 1000.0))
        if accounts.attempt({"account mine": 5, "address a": 20}, 1000.0) == 0.0:
            accounts.forgive("account mine")
            accounts.give_back("address a")
    assert waits[:15] == [0.0] * 15
    assert max(waits) > 0.0


def test_a_session_is_another_one_after_each_sign_in_and_the_old_one_ends(site: Site) -> None:
    client = site.signed_in()
    before = client.cookies["prognode"]
    csrf = form_of(site.client().get("/signin").text)
    answer = client.post(
        "/signin",
        data={"name": VIEWER, "password": PASSWORD, "csrf": csrf},
        headers={"Cookie": f"prognode={before}; prognode-form={csrf}"},
    )
    assert answer.status_code == 303
    assert client.cookies["prognode"] != before
    assert site.client(cookies={"prognode": before}).get(ME).status_code == 401
    assert client.get(ME).json()["account"] == VIEWER


def test_a_cookie_that_was_planted_before_is_not_taken_over(site: Site) -> None:
    client = site.client(cookies={"prognode": "planted"})
    sign_in(client, OPERATOR)
    values = [cookie.value for cookie in client.cookies.jar if cookie.name == "prognode"]
    assert values != ["planted"]
    assert site.client(cookies={"prognode": "planted"}).get(ME).status_code == 401


@pytest.mark.parametrize(
    "where",
    ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:alert(1)", "/signin/oidc", "/a\nb"],
)
def test_after_sign_in_nobody_is_sent_to_another_site(site: Site, where: str) -> None:
    assert sign_in(site.client(), OPERATOR, where=where).headers["location"] == "/"


def test_the_sign_in_form_is_of_this_page_and_of_this_browser(site: Site) -> None:
    form = {"name": OPERATOR, "password": PASSWORD}
    assert site.client().post("/signin", data=form).status_code == 403
    other = form_of(site.client().get("/signin").text)
    client = site.client()
    client.get("/signin")
    assert client.post("/signin", data={**form, "csrf": other}).status_code == 403
    assert sign_in(client, OPERATOR, origin="https://evil.example").status_code == 403


def test_sessions_end_with_the_account_the_password_and_time(site: Site) -> None:
    store = site.store
    store.accounts.add("iris", passwords.hashed(PASSWORD), "viewer", 1.0)
    client = site.signed_in("iris")
    store.accounts.set_role("iris", "operator")
    assert client.get(ME).json()["role"] == "operator", "a role counts from the next request on"
    store.accounts.set_disabled("iris", True)
    assert client.get(ME).status_code == 401
    store.accounts.set_disabled("iris", False)
    assert client.get(ME).status_code == 401, "letting a user in again brings no session back"
    client = site.signed_in("iris")
    store.accounts.set_password("iris", passwords.hashed("another password"))
    assert client.get(ME).status_code == 401
    client = site.signed_in("iris", "another password")
    store.accounts.remove("iris")
    assert client.get(ME).status_code == 401
    for column, seconds in (("seen_at", 31 * 60), ("created_at", 10 * 3600 + 1)):
        client = site.signed_in()
        assert client.get(ME).status_code == 200
        changed = store._db.execute(
            f"UPDATE session SET {column} = {column} - ? WHERE token_digest = ?",
            [seconds, digest(client.cookies["prognode"])],
        )
        assert changed == 1
        assert client.get(ME).status_code == 401, column


def test_work_keeps_a_session_alive_and_a_page_that_only_listens_does_not(site: Site) -> None:
    client, store = site.signed_in(), site.store
    key = digest(client.cookies["prognode"])

    def seen_after(**headers: str) -> bool:
        store._db.execute("UPDATE session SET seen_at = seen_at - 100 WHERE token_digest = ?", [key])
        before = store._db.rows("SELECT seen_at FROM session WHERE token_digest = ?", [key])[0]["seen_at"]
        client.get(ME, headers=headers)
        return bool(store._db.rows("SELECT seen_at FROM session WHERE token_digest = ?", [key])[0]["seen_at"] > before)

    assert not seen_after(**{"X-Background": "1"})
    assert not seen_after(Accept="text/event-stream")
    assert seen_after()


def test_users_change_their_own_password(site: Site) -> None:
    store = site.store
    store.accounts.add("nora", passwords.hashed(PASSWORD), "viewer", 1.0)
    here, elsewhere = site.signed_in("nora"), site.signed_in("nora")
    csrf = form_of(here.get("/password").text)

    def change(current: str, new: str, again: str = "") -> httpx.Response:
        form = {"csrf": csrf, "current": current, "new": new, "again": again or new}
        return here.post("/password", data=form)

    assert change("wrong", "another password").status_code == 403
    assert change(PASSWORD, "another password", "a different one").status_code == 422
    assert change(PASSWORD, "short").status_code == 422
    assert here.post("/password", data={"current": PASSWORD, "new": "another password"}).status_code == 403
    before = here.cookies["prognode"]
    assert change(PASSWORD, "another password").status_code == 303
    assert here.get(ME).json()["account"] == "nora"
    assert here.cookies["prognode"] != before
    assert elsewhere.get(ME).status_code == 401
    assert sign_in(site.client(), "nora", PASSWORD).status_code == 401
    assert sign_in(site.client(), "nora", "another password").status_code == 303
    trail = [(one.action, one.outcome) for one in store.audit.newest(20) if one.action == "user.password"]
    assert trail[:2] == [("user.password", "done"), ("user.password", "refused")]


def test_an_account_of_the_hospital_has_no_password_here(site: Site) -> None:
    site.store.accounts.begin_session("of the hospital", "oidc:anna", "viewer", "mark", time.time())
    client = site.client(cookies={"prognode": "of the hospital"})
    assert "change its password there" in client.get("/password").text
    answer = client.post("/password", data={"csrf": "mark", "current": "x", "new": "y" * 12, "again": "y" * 12})
    assert answer.status_code == 409


def test_sessions_outlive_a_restart(tmp_path: Path) -> None:
    with serving(tmp_path) as first:
        client = first.signed_in()
        cookies = dict(client.cookies)
        assert first.stop() == 0
    with started(tmp_path) as second:
        assert second.client(cookies=cookies).get(ME).status_code == 200


def test_with_tls_the_cookie_is_bound_to_host_and_tls(tmp_path: Path) -> None:
    import ssl

    authority = Authority(tmp_path / "ca")
    issued = authority.issue("web")
    web = {"certificate": str(issued.certificate), "private_key": str(issued.key)}
    with serving(tmp_path, verify=ssl.create_default_context(cafile=str(authority.path)), web=web) as site:
        assert site.url.startswith("https://127.0.0.1:")
        client = site.client()
        answer = sign_in(client, OPERATOR)
        (cookie,) = [one for one in answer.headers.get_list("set-cookie") if one.startswith("__Host-prognode=")]
        assert {"HttpOnly", "Secure", "SameSite=lax", "Path=/"} <= {part.strip() for part in cookie.split(";")}
        assert "Domain" not in cookie
        assert client.get(ME).status_code == 200
        assert answer.headers["strict-transport-security"] == "max-age=31536000"
        old = ssl.create_default_context(cafile=str(authority.path))
        old.set_ciphers("ALL:@SECLEVEL=0")  # else this end would refuse
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{site.url}/health", verify=old)


def test_a_password_is_long_enough_and_hashed_by_argon2id() -> None:
    for bad in ("short", "x" * 1025):
        with pytest.raises(ConfigError, match="12 to 1024"):
            passwords.hashed(bad)
    made = passwords.hashed("x" * 1024)
    assert made.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert passwords.is_right(made, "x" * 1024)
    assert not passwords.is_right(made, "x" * 1025)
    assert not passwords.is_right("no hash", "x")
    assert not passwords.is_right(None, "nobody has this password")
    assert not passwords.is_outdated(made)
