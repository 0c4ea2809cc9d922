"""The port of the page: nobody shuts the others out, by many connections or by silent ones."""

import errno
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from config.settings import Web
from dicom_node.web import listener, live, server
from dicom_node.web.listener import Listener
from tests.certificates import Authority

CALL = Callable[[str], socket.socket]


@contextmanager
def listening(*proxies: str) -> Iterator[tuple[Listener, CALL]]:
    """A listener, and a way to call it from any address of this host; the calls are ended at the end."""
    calls: list[socket.socket] = []
    with Listener(socket.create_server(("127.0.0.1", 0)), proxies) as ours:
        ours.setblocking(False)

        def call(source: str) -> socket.socket:
            calls.append(socket.create_connection(ours.getsockname(), 60, (source, 0)))
            return calls[-1]

        yield ours, call
    for one in calls:
        one.close()


def admitted(ours: Listener, wanted: int) -> list[socket.socket]:
    """Who is let in; `wanted` are waited for, as the kernel may bring a caller a moment later."""
    found: list[socket.socket] = []
    end = time.monotonic() + 60
    while len(found) < wanted and time.monotonic() < end:
        with suppress(BlockingIOError):
            found.append(ours.accept()[0])
    with suppress(BlockingIOError):
        while True:
            found.append(ours.accept()[0])
    return found


def test_live_updates_of_one_address_leave_room_for_its_requests_and_for_the_others() -> None:
    assert 2 * live.MOST_LISTENERS <= listener.MAXIMUM_OF_ADDRESS < server.MAXIMUM_CONNECTIONS < listener.MAXIMUM_OPEN


def test_one_address_cannot_take_every_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "MAXIMUM_OF_ADDRESS", 3)
    with listening() as (ours, call):
        many = [call("127.0.0.2") for _ in range(5)]
        kept = admitted(ours, 3)
        assert len(kept) == 3
        assert [one.recv(1) for one in many[3:]] == [b"", b""], "those in excess are hung up on"
        call("127.0.0.3")
        kept += admitted(ours, 1)
        assert len(kept) == 4, "others get in"
        kept[0].close()
        call("127.0.0.2")
        kept += admitted(ours, 1)
        assert len(kept) == 5, "what has ended counts no more"
        for one in kept:
            one.close()


def test_a_trusted_proxy_has_as_many_connections_as_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "MAXIMUM_OF_ADDRESS", 1)
    monkeypatch.setattr(listener, "MAXIMUM_OPEN", 4)
    for proxies in (["127.0.0.2"], ["127.0.0.0/24"], ["*"]):
        with listening(*proxies) as (ours, call):
            for _ in range(6):
                call("127.0.0.2")
            kept = admitted(ours, 4)
            assert len(kept) == 4
            for one in kept:
                one.close()


def test_a_process_without_descriptors_tries_again_in_a_second_and_not_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(self: socket.socket) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    with listening() as (ours, call):
        call("127.0.0.2")
        with monkeypatch.context() as without:
            without.setattr(socket.socket, "accept", exhausted)
            with pytest.raises(OSError, match="Too many open files"):
                ours.accept()  # asyncio logs this, waits a second, and goes on accepting at once
            with pytest.raises(BlockingIOError):
                ours.accept()
        kept = admitted(ours, 1)
        assert len(kept) == 1
        kept[0].close()


async def echo(scope: Any, receive: Any, send: Any) -> None:
    said = f"{scope['client'][0]} {scope['scheme']}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": said})


@contextmanager
def echoing(web: Web, opened: socket.socket) -> Iterator[int]:
    """A server as `prognode web` has it, of an application that says who asks; its port."""
    config = server.config_of(echo, web)
    running = uvicorn.Server(config)
    with Listener(opened, web.trusted_proxies) as ours:
        port = ours.getsockname()[1]
        thread = threading.Thread(target=running.run, args=([ours],))
        thread.start()
        try:
            yield port
        finally:
            running.should_exit = True
            thread.join()


def test_a_caller_that_does_not_begin_tls_is_hung_up_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(listener, "HANDSHAKE_SECONDS", 0.2)
    certificate, key = Authority(tmp_path).issue("web")
    web = Web(certificate=certificate, private_key=key)
    with (
        echoing(web, socket.create_server(("127.0.0.1", 0))) as port,
        closing(socket.create_connection(("127.0.0.1", port), 40)) as silent,
    ):
        assert silent.recv(1) == b""
        trusting = ssl.create_default_context(cafile=tmp_path / "ca.pem")

        def answer() -> str:
            with suppress(httpx.TransportError):
                return httpx.get(f"https://127.0.0.1:{port}", verify=trusting, trust_env=False, timeout=60).text
            return ""

        answers = (answer() for _ in range(20))  # a busy machine may be too slow for those 0.2 s, now and then
        assert next(filter(None, answers)) == "127.0.0.1 https"


def test_a_trusted_proxy_is_known_on_a_socket_of_both_families() -> None:
    """systemd's ListenStream=443 is one: 127.0.0.1 comes as ::ffff:127.0.0.1."""
    for proxies in (("127.0.0.1",), ("127.0.0.0/8",)):
        both = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        with echoing(Web(trusted_proxies=proxies), both) as port:
            client = httpx.Client(
                trust_env=False, timeout=60, headers={"X-Forwarded-For": "10.9.8.7", "X-Forwarded-Proto": "https"}
            )
            with client:
                assert client.get(f"http://127.0.0.1:{port}").text == "10.9.8.7 https"
                assert client.get(f"http://[::1]:{port}").text == "::1 http", "not trusted"
