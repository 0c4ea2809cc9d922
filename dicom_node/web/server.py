"""The process behind `prognode web`: uvicorn with our TLS, time-outs and a log without PHI."""

import asyncio
import logging
import signal
import socket
import ssl
from collections.abc import Callable
from dataclasses import replace
from types import FrameType

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from config.settings import Settings, Tls, Web
from dicom_node import notify
from dicom_node.spool import Spool
from dicom_node.tls import server_context
from dicom_node.web import deps
from dicom_node.web.app import create_app
from dicom_node.web.security import is_loopback
from dicom_node.workitem import ConfigError

LOGGER = logging.getLogger(__name__)
HEADER_SECONDS = 10.0  # from a connection, or from the first byte of a further request, to its whole header
KEEP_ALIVE_SECONDS = 15
SHUTDOWN_SECONDS = 5
MAXIMUM_CONNECTIONS = 500
_TICKS = int(notify.PULSE_SECONDS / 0.1)  # of uvicorn


class _Protocol(H11Protocol):
    """Closes a connection whose request does not come: `limit_concurrency` silent ones would shut everybody out.

    uvicorn waits for ever for a first request, and ends its keep-alive time at the first byte of a next one, however
    slowly the rest comes. A body has its time in `security.Guard`.
    """

    _impatience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_request()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._be_patient()
        super().connection_lost(exc)

    def _await_request(self) -> None:
        """From the first byte on, not from the latest: a byte now and then buys no time."""
        if self._under_way():
            self._be_patient()
        elif self._impatience is None:
            self._impatience = self.loop.call_later(HEADER_SECONDS, self._look)

    def _under_way(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _be_patient(self) -> None:
        if self._impatience is not None:
            self._impatience.cancel()
            self._impatience = None

    def _look(self) -> None:
        self._impatience = None
        if not self._under_way():  # uvicorn may have found the rest of one in what it kept back
            self.transport.close()


class _Server(uvicorn.Server):
    """Says when it listens, and tells streams that live long when the end has come: `app.state.stopping` is set."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None], stopping: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready, self._stopping = ready, stopping

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()
        notify.say("READY=1")

    async def on_tick(self, counter: int) -> bool:
        if counter % _TICKS == 0:  # the loop turns
            notify.say("WATCHDOG=1", f"STATUS={len(self.server_state.connections)} connections")
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        notify.say("STOPPING=1")
        self._stopping()
        super().handle_exit(sig, frame)


def check(web: Web) -> None:
    """Raises ConfigError where passwords and patients' names would travel in the open."""
    if (web.certificate is None) != (web.private_key is None):
        raise ConfigError("[web] certificate and private_key belong together; give both")
    if web.public_url and not web.public_url.startswith(("https://", "http://")):
        raise ConfigError(f'[web] public_url {web.public_url!r}: must begin with "https://"')
    if not is_loopback(web.host) and not deps.secure(web):
        raise ConfigError(
            f"[web] host {web.host!r} can be reached from elsewhere, and there is no certificate: set certificate and"
            ' private_key; or public_url = "https://..." where a proxy in front has the certificate'
        )


def run(settings: Settings, spool: Spool, say: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; `say` is given the address once it listens.

    Raises ConfigError for settings that cannot be used, OSError when the port is not to be had.
    """
    passed = notify.passed("web")
    if passed is not None:  # what counts is where systemd listens
        host, port = passed.getsockname()[:2]
        settings = replace(settings, web=replace(settings.web, host=host, port=port))
    web = settings.web
    check(web)
    app = create_app(settings, spool)
    config = uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,  # it quotes the query, and with it the names that people search for
        server_header=False,
        proxy_headers=bool(web.trusted_proxies),
        forwarded_allow_ips=list(web.trusted_proxies),
        limit_concurrency=MAXIMUM_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        ssl_context_factory=None if web.certificate is None else lambda *_: context_of(web),
    )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    config.load()
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises them once more when it has ended
        signal.signal(number, lambda *_: None)
    family = socket.AF_INET6 if ":" in web.host else socket.AF_INET
    with passed or socket.create_server((web.host, web.port), family=family, backlog=config.backlog) as listener:
        # asyncio does it only where the protocol was named; without, each answer waits 40 ms for an acknowledgement.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def ready() -> None:
            port = listener.getsockname()[1]
            address = deps.public_url(replace(web, port=port))
            LOGGER.info("web.listening on %s port %d, called %s", web.host, port, address)
            say(address)
            if not spool.store.is_file():
                LOGGER.warning("web.no_store there is none in %s yet; start: prognode serve", spool.root)

        _Server(config, ready, app.state.stopping.set).run([listener])


def context_of(web: Web) -> ssl.SSLContext:
    """TLS 1.2 or newer, as for DICOM. Raises ConfigError."""
    try:
        return server_context(Tls(certificate=web.certificate, private_key=web.private_key))
    except ConfigError as error:
        raise ConfigError(str(error).replace("[tls]", "[web]")) from None
