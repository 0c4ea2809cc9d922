"""Sign-in by the hospital: a real provider in another process, over real HTTP, honest and lying in many ways."""

import contextlib
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from config.settings import Oidc
from dicom_node.accounts import FREE_FAILURES_OF_ADDRESS
from dicom_node.web import oidc as oidc_module
from dicom_node.web.oidc import Provider, SignInFailed
from dicom_node.workitem import ConfigError
from tests.e2e.node import destination, write_settings
from tests.paths import ROOT
from tests.web.provider import CLIENT, SECRET
from tests.web.site import OPERATOR as LOCAL
from tests.web.site import Site, add_people, serving, sign_in, started

ANNA = "oidc:8d3f (anna)"  # the subject, which the provider never gives to another, and the name for show
OPERATOR = {"preferred_username": "anna", "groups": ["staff", "radiology-operators"]}


@dataclass
class Hospital:
    """The provider: `be` says whom it signs in next, and how it lies."""

    folder: Path
    issuer: str

    def be(self, fault: str = "", userinfo: dict[str, Any] | None = None, **claims: Any) -> None:
        person = {"claims": claims or OPERATOR, "fault": fault, "userinfo": userinfo or {}}
        (self.folder / "person.json").write_text(json.dumps(person))

    @property
    def asked(self) -> list[str]:
        return json.loads((self.folder / "asked.json").read_text())  # type: ignore[no-any-return]


@contextlib.contextmanager
def hospital_in(folder: Path) -> Iterator[Hospital]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.web.provider", str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    made = Hospital(folder, process.stdout.readline().strip())
    made.be()
    try:
        yield made
    finally:
        process.terminate()
        process.wait(timeout=30)
        process.stdout.close()


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    with hospital_in(tmp_path_factory.mktemp("provider")) as made:
        yield made


@pytest.fixture
def site(shared: Site) -> Site:
    """The failures of other tests came from this address too."""
    store = shared.store
    store._db.execute("DELETE FROM signin_throttle")
    store.close()
    return shared


@pytest.fixture(scope="module")
def shared(hospital: Hospital, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    from dicom_node.spool import Spool
    from dicom_node.store import Store

    folder = tmp_path_factory.mktemp("site")
    (folder / "oidc.secret").write_text(SECRET + "\n")
    (folder / "oidc.secret").chmod(0o600)
    path = write_settings(folder, destination("PACS", 1), web={"port": 0})
    oidc = (
        f'\n[web.oidc]\nissuer = "{hospital.issuer}"\nclient_id = "{CLIENT}"\nclient_secret_file = "oidc.secret"\n'
        'operator_values = ["radiology-operators"]\nviewer_values = ["radiology", "students"]\n'
    )
    path.write_text(path.read_text() + oidc)
    spool = Spool(folder / "spool")
    spool.create()
    store = Store.open(spool.store)
    add_people(store)
    store.close()
    # The redirect URI names the port, so that the page must know it beforehand: taken from the first start.
    with started(folder) as first:
        port = int(first.url.rpartition(":")[2])
    path.write_text(path.read_text().replace("[web]\nport = 0", f"[web]\nport = {port}"))
    with started(folder) as running:
        yield running


def walk(site: Site, where: str = "/") -> tuple[httpx.Client, httpx.Response]:
    """As a browser goes: to us, to the provider, back to us."""
    client = site.client()
    there = client.get("/signin/oidc", params={"next": where})
    assert there.status_code == 303, there.text
    back = httpx.get(there.headers["location"], trust_env=False)
    assert back.status_code == 302, back.text
    return client, client.get(back.headers["location"])


@pytest.mark.parametrize(
    ("claims", "role"),
    [
        (OPERATOR, "operator"),
        ({"preferred_username": "anna", "groups": ["radiology"]}, "viewer"),
        ({"preferred_username": "anna", "groups": "students"}, "viewer"),
        ({"preferred_username": "anna", "groups": ["students", "radiology-operators"]}, "operator"),
    ],
)
def test_the_hospital_signs_people_in_with_the_role_of_their_claim(
    site: Site, hospital: Hospital, claims: dict[str, Any], role: str
) -> None:
    hospital.be(**claims)
    client, answer = walk(site, "/?text=x")
    assert (answer.status_code, answer.headers["location"]) == (303, "/?text=x")
    assert client.get("/api/v1/me").json() == {"account": ANNA, "role": role}
    entry = site.store.audit.newest(1)[0]
    assert (entry.action, entry.actor, entry.outcome) == ("signin", ANNA, "done")
    assert entry.detail == f"{role}, by {hospital.issuer}"


def test_without_a_role_nobody_comes_in(site: Site, hospital: Hospital) -> None:
    for claims in ({"preferred_username": "carl", "groups": ["kitchen"]}, {"preferred_username": "carl"}):
        hospital.be(**claims)
        client, answer = walk(site)
        assert (answer.status_code, "no role here" in answer.text) == (403, True)
        assert client.get("/api/v1/me").status_code == 401
    assert site.store.audit.newest(1)[0].outcome == "refused"


def test_a_role_that_only_userinfo_tells_counts_and_a_user_without_a_short_name_is_known_by_mail(
    site: Site, hospital: Hospital
) -> None:
    hospital.be(userinfo={"groups": ["radiology"]}, email="anna@hospital.example")
    client, _ = walk(site)
    assert client.get("/api/v1/me").json() == {"account": "oidc:8d3f (anna@hospital.example)", "role": "viewer"}
    hospital.be(userinfo={"groups": ["radiology-operators"], "sub": "someone else"}, email="anna@hospital.example")
    assert walk(site)[1].status_code == 403, "UserInfo of another subject is not believed"


def test_a_client_secret_that_cannot_be_read_is_said_without_its_path(tmp_path: Path, hospital: Hospital) -> None:
    hospital.be()
    provider = Provider(Oidc(hospital.issuer, CLIENT, tmp_path / "gone.secret"), "http://127.0.0.1/back")
    where, cookie = provider.begin("/")
    back = httpx.URL(httpx.get(where, trust_env=False).headers["location"])
    with pytest.raises(SignInFailed, match="cannot read its client secret") as failed:
        provider.finish(cookie, dict(back.params))
    assert "gone" not in str(failed.value)


def test_an_id_token_for_several_audiences_is_taken_where_we_are_the_party(site: Site, hospital: Hospital) -> None:
    hospital.be("several audiences")
    assert walk(site)[1].status_code == 303


@pytest.fixture
def provider(site: Site, hospital: Hospital) -> Provider:
    """In this process, with nothing read yet."""
    oidc = Oidc(hospital.issuer, CLIENT, site.folder / "oidc.secret", operator_values=("radiology-operators",))
    return Provider(oidc, "http://127.0.0.1/back")


def signed_in_by(provider: Provider) -> str:
    where, cookie = provider.begin("/")
    back = httpx.URL(httpx.get(where, trust_env=False).headers["location"])
    return provider.finish(cookie, dict(back.params))[0].name


def test_a_client_secret_goes_into_the_body_where_the_provider_wants_it_there(
    provider: Provider, hospital: Hospital
) -> None:
    hospital.be("secret in the body")
    assert signed_in_by(provider) == "anna"


def test_a_new_key_is_asked_for_but_not_at_each_sign_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a provider of its own: the page of the other tests would go without the new key for ten seconds."""
    secret = tmp_path / "oidc.secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    with hospital_in(tmp_path) as hospital:
        oidc = Oidc(hospital.issuer, CLIENT, secret, operator_values=("radiology-operators",))
        provider = Provider(oidc, "http://127.0.0.1/back")
        assert signed_in_by(provider) == "anna"
        hospital.be("a new key")
        monkeypatch.setattr(oidc_module, "SHORTEST_REFRESH_SECONDS", 3600.0)
        with pytest.raises(SignInFailed, match="cannot be trusted"):
            signed_in_by(provider)
        monkeypatch.setattr(oidc_module, "SHORTEST_REFRESH_SECONDS", 0.0)
        assert signed_in_by(provider) == "anna"


LIES = {
    "another state": "does not belong to this sign-in", "denied": "has refused",
    "another issuer in the answer": "has refused", "another party": "for another application",
}  # fmt: skip
TOKENS = (
    "another key", "no signature", "signed with the public key", "another issuer", "another audience", "expired",
    "from the future", "another nonce", "no nonce", "no expiry",
)  # fmt: skip


@pytest.mark.parametrize("fault", [*LIES, *TOKENS])
def test_what_cannot_be_trusted_signs_nobody_in(site: Site, hospital: Hospital, fault: str) -> None:
    hospital.be(fault)
    client, answer = walk(site)
    assert answer.status_code == 403
    assert LIES.get(fault, "cannot be trusted") in answer.text, re.findall("role=.alert.>(.*?)<", answer.text)
    assert client.get("/api/v1/me").status_code == 401
    assert "signin.oidc_failed" in site.log
    assert "8d3f" not in site.log
    assert "anna" not in site.log


def test_an_answer_is_good_once_and_for_the_browser_that_asked(site: Site, hospital: Hospital) -> None:
    hospital.be()
    client = site.client()
    back = httpx.get(client.get("/signin/oidc").headers["location"], trust_env=False).headers["location"]
    assert site.client().get(back).status_code == 403, "another browser has no cookie of this sign-in"
    other = site.client()
    other.get("/signin/oidc")
    assert other.get(back).status_code == 403, "nor one of another sign-in"
    flow = {name: value for name, value in client.cookies.items() if name.endswith("-flow")}
    assert client.get(back).status_code == 303
    assert site.client(cookies=flow).get(back).status_code == 403, "the provider takes a code once"


def test_who_comes_back_again_and_again_without_having_gone_fills_no_audit_trail(
    site: Site, hospital: Hospital
) -> None:
    def refused() -> int:
        return sum(one.outcome == "refused" for one in site.store.audit.newest(500))

    hospital.be()
    for _ in range(FREE_FAILURES_OF_ADDRESS + 2):
        assert walk(site)[1].status_code == 303, "who gets in is not counted"
    stranger, before = site.client(), refused()
    statuses = [stranger.get("/signin/oidc/callback").status_code for _ in range(FREE_FAILURES_OF_ADDRESS + 5)]
    assert statuses == [403] * (FREE_FAILURES_OF_ADDRESS + 1) + [429] * 4
    assert refused() - before == FREE_FAILURES_OF_ADDRESS + 1
    answer = stranger.get("/signin/oidc/callback")
    assert int(answer.headers["Retry-After"]) >= 1
    assert "Too many attempts" in answer.text
    asked = len(hospital.asked)
    assert stranger.get("/signin/oidc").status_code == 429
    assert len(hospital.asked) == asked
    assert sign_in(site.client(), LOCAL).status_code == 303, "local users are counted apart"


def test_a_provider_that_fails_is_not_asked_for_ever(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        issuer = f"http://127.0.0.1:{nobody.getsockname()[1]}"
    with serving(tmp_path, **{"web.oidc": {"issuer": issuer, "client_id": CLIENT}}) as site:
        client = site.client()
        statuses = [client.get("/signin/oidc").status_code for _ in range(FREE_FAILURES_OF_ADDRESS + 3)]
        assert statuses == [502] * (FREE_FAILURES_OF_ADDRESS + 1) + [429] * 2
        assert sign_in(site.client(), LOCAL).status_code == 303


def test_the_provider_s_documents_are_kept(site: Site, hospital: Hospital) -> None:
    hospital.be()
    walk(site)
    before = hospital.asked.count("/.well-known/openid-configuration")
    walk(site)
    walk(site)
    assert hospital.asked.count("/.well-known/openid-configuration") == before


def test_a_local_user_of_the_same_name_is_somebody_else(site: Site, hospital: Hospital) -> None:
    hospital.be()
    client, _ = walk(site)
    store = site.store
    store.accounts.add("anna", "no hash", "viewer", 1.0)
    store.accounts.set_disabled("anna", True)
    assert client.get("/api/v1/me").json()["account"] == ANNA
    assert '<bdi title="oidc:8d3f (anna)">anna</bdi>' in client.get("/", headers={"Accept": "text/html"}).text
    assert store.accounts.end_sessions_of("oidc:anna") >= 1
    assert client.get("/api/v1/me").status_code == 401


def test_two_people_whom_the_provider_calls_the_same_are_two(site: Site, hospital: Hospital) -> None:
    """A name may be given to another person; a subject is not (OpenID Connect Core 1.0, section 5.7)."""
    hospital.be(**OPERATOR)
    first, _ = walk(site)
    hospital.be(**OPERATOR, sub="77aa")
    second, _ = walk(site)
    assert second.get("/api/v1/me").json()["account"] == "oidc:77aa (anna)"
    assert site.store.accounts.end_sessions_of("oidc:77aa") == 1
    assert [one.get("/api/v1/me").status_code for one in (first, second)] == [200, 401]
    assert site.store.accounts.end_sessions_of("oidc:8d") == 0, "the whole subject, no beginning of it"


def test_a_session_of_the_hospital_ends_sooner_so_that_what_it_withdraws_counts(site: Site, hospital: Hospital) -> None:
    hospital.be()
    client, _ = walk(site)
    store = site.store
    early = "UPDATE session SET created_at = created_at - ? WHERE account = ?"
    store._db.execute(early, [Oidc().session_hours * 3600 - 60, ANNA])
    assert client.get("/api/v1/me").status_code == 200
    store._db.execute(early, [61, ANNA])
    assert client.get("/api/v1/me").status_code == 401


def test_a_provider_that_answers_a_byte_at_a_time_holds_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oidc_module, "DEADLINE_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            with contextlib.suppress(OSError), listener.accept()[0] as peer:
                peer.sendall(b"HTTP/1.1 200 OK\r\n")
                while True:
                    peer.sendall(b"X-More: 1\r\n")
                    time.sleep(0.1)

        threading.Thread(target=drip, daemon=True).start()
        provider = Provider(Oidc(f"http://127.0.0.1:{listener.getsockname()[1]}", CLIENT), "http://127.0.0.1/back")
        with pytest.raises(SignInFailed, match="takes too long"):
            provider.begin("/")


def test_no_more_than_a_few_wait_for_a_slow_provider(hospital: Hospital) -> None:
    hospital.be()
    provider = Provider(Oidc(hospital.issuer, CLIENT), "http://127.0.0.1/back")
    for _ in range(oidc_module.AT_ONCE):
        provider._free.acquire()
    with pytest.raises(SignInFailed, match="is slow at this moment"):
        provider.begin("/")
    provider._free.release()
    assert provider.begin("/")[0].startswith(hospital.issuer)


def test_another_issuer_in_the_discovery_document_is_not_believed(hospital: Hospital) -> None:
    hospital.be("another issuer in discovery")
    with pytest.raises(SignInFailed, match="by another name"):
        Provider(Oidc(hospital.issuer, CLIENT), "http://127.0.0.1/back").begin("/")
    with pytest.raises(SignInFailed, match="cannot be reached"):
        Provider(Oidc("http://127.0.0.1:9", CLIENT), "http://127.0.0.1/back").begin("/")
    with pytest.raises(SignInFailed, match="answers 404"):
        Provider(Oidc(f"{hospital.issuer}/realm", CLIENT), "http://127.0.0.1/back").begin("/")


@pytest.mark.parametrize(
    ("oidc", "words"), [(Oidc("http://login.example", "x"), "https://"), (Oidc("https://login.example"), "client_id")]
)
def test_settings_that_cannot_be_safe_are_refused(oidc: Oidc, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Provider(oidc, "https://prognode.example/signin/oidc/callback")


def test_without_a_provider_there_is_no_such_sign_in(tmp_path: Path) -> None:
    from tests.web.site import serving

    with serving(tmp_path) as plain:
        assert plain.client().get("/signin/oidc").status_code == 404
        assert "/signin/oidc" not in plain.client().get("/signin").text
