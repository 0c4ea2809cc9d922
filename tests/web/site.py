"""`prognode web` as a child with settings of its own, people who may use it, and a client that signs in as they do."""

import html
import re
import signal
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import httpx

from dicom_node import passwords
from dicom_node.accounts import Role
from dicom_node.spool import Spool
from dicom_node.store import Store
from tests.e2e.node import LOG, PROGNODE, SETTINGS, destination, log_of, wait_for, write_settings
from tests.web.forked import Forked

PASSWORD = "correct horse battery"
VIEWER, OPERATOR = "vera", "otto"


@dataclass
class Site:
    """A running `prognode web`; `url` is where it listens."""

    folder: Path
    process: "subprocess.Popen[bytes] | Forked"
    url: str
    verify: ssl.SSLContext | bool = True

    @property
    def store(self) -> Store:
        return Store.open(Spool(self.folder / "spool").store)

    @property
    def log(self) -> str:
        return log_of(self.folder)

    def client(self, **more: Any) -> httpx.Client:
        """A browser without cookies; redirects are looked at, not followed.

        It keeps no connection: the server closes idle ones after 15 s, and a request at that very moment fails.
        """
        limits = httpx.Limits(max_keepalive_connections=0)
        verify = self.verify if self.url.startswith("https:") else False  # loading authorities takes its time
        return httpx.Client(base_url=self.url, verify=verify, timeout=60.0, trust_env=False, limits=limits, **more)

    def signed_in(self, name: str = OPERATOR, password: str = PASSWORD) -> httpx.Client:
        client = self.client()
        answer = sign_in(client, name, password)
        assert answer.status_code == 303, answer.text
        return client

    def with_token(self, token: str) -> httpx.Client:
        return self.client(headers={"Authorization": f"Bearer {token}"})

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


def form_of(page: str, name: str = "csrf") -> str:
    """The value of a hidden field."""
    found = re.search(rf'name="{name}" value="([^"]*)"', page)
    assert found, page
    return html.unescape(found.group(1))


def sign_in(
    client: httpx.Client, name: str, password: str = PASSWORD, where: str = "/", **headers: str
) -> httpx.Response:
    csrf = form_of(client.get("/signin", params={"next": where}).text)
    form = {"name": name, "password": password, "csrf": csrf, "next": where}
    return client.post("/signin", data=form, headers=headers)


@cache
def hashed(password: str) -> str:
    return passwords.hashed(password)


def add_people(store: Store) -> None:
    roles: dict[str, Role] = {VIEWER: "viewer", OPERATOR: "operator"}
    for name, role in roles.items():
        store.accounts.add(name, hashed(PASSWORD), role, 1.0)


@contextmanager
def serving(folder: Path, *, verify: ssl.SSLContext | bool = True, **sections: dict[str, Any]) -> Iterator[Site]:
    """The page over the spool in `folder`, whose store is made first where there is none."""
    write_settings(folder, destination("PACS", 1), web={"port": 0} | sections.pop("web", {}), **sections)
    spool = Spool(folder / "spool")
    spool.create()
    store = Store.open(spool.store)
    add_people(store)
    store.close()
    with started(folder, verify=verify) as site:
        yield site


@contextmanager
def started(folder: Path, *, verify: ssl.SSLContext | bool = True, by_command: bool = False) -> Iterator[Site]:
    """`prognode web` with the settings in `folder`, ended at the end; `by_command`: a process that begins anew."""
    process: subprocess.Popen[bytes] | Forked
    with (folder / LOG).open("ab") as log:
        begin = log.tell()
        if by_command:
            process = subprocess.Popen(
                [str(PROGNODE), "web", "--config", str(folder / SETTINGS)],
                stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        else:
            process = Forked(folder / SETTINGS, folder / LOG)
    try:

        def listening() -> "re.Match[str] | None":
            text = log_of(folder)[begin:]
            assert process.poll() is None, text
            return re.search(r"web.listening on (\S+) port (\d+).*\s.*the worklist is at (http\w*)", text)

        found = wait_for(listening, "the page listens", folder=folder)
        scheme = "https" if isinstance(verify, ssl.SSLContext) else "http"
        yield Site(folder, process, f"{scheme}://{found[1]}:{found[2]}", verify)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
