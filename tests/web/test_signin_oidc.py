"""Sign-in by the hospital: a real provider in another process, over real HTTP, honest and lying in many ways."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from config.settings import Oidc
from dicom_node.web.oidc import Provider, SignInFailed
from dicom_node.workitem import ConfigError
from tests.e2e.node import destination, write_settings
from tests.paths import ROOT
from tests.web.provider import CLIENT, SECRET
from tests.web.site import Site, add_people, started

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


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    folder = tmp_path_factory.mktemp("provider")
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.web.provider", str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    made = Hospital(folder, process.stdout.readline().strip())
    made.be()
    yield made
    process.terminate()
    process.wait(timeout=30)
    process.stdout.close()


@pytest.fixture(scope="module")
def site(hospital: Hospital, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
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
    assert client.get("/api/v1/me").json() == {"account": "oidc:anna", "role": role}
    entry = site.store.audit.newest(1)[0]
    assert (entry.action, entry.actor, entry.outcome, entry.detail) == ("signin", "oidc:anna", "done", "sub 8d3f")


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
    assert client.get("/api/v1/me").json() == {"account": "oidc:anna@hospital.example", "role": "viewer"}
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


@pytest.mark.parametrize("fault", ["several audiences", "a new key", "secret in the body"])
def test_what_a_provider_may_do_is_taken(site: Site, hospital: Hospital, fault: str) -> None:
    hospital.be(fault)
    if fault == "secret in the body":  # said by the discovery document, which the page has read an hour ago at most
        oidc = Oidc(hospital.issuer, CLIENT, site.folder / "oidc.secret", operator_values=("radiology-operators",))
        provider = Provider(oidc, "http://127.0.0.1/back")
        where, cookie = provider.begin("/")
        back = httpx.URL(httpx.get(where, trust_env=False).headers["location"])
        assert provider.finish(cookie, dict(back.params))[0].name == "anna"
        return
    if fault == "a new key":
        import time

        time.sleep(10.1)  # keys are asked for again, but not at each sign-in
    assert walk(site)[1].status_code == 303


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
    assert client.get("/api/v1/me").json()["account"] == "oidc:anna"
    assert store.accounts.end_sessions_of("oidc:anna") >= 1
    assert client.get("/api/v1/me").status_code == 401


def test_another_issuer_in_the_discovery_document_is_not_believed(hospital: Hospital) -> None:
    from dicom_node.web.oidc import SignInFailed

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
