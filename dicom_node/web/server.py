"""The process behind `prognode web`: uvicorn with our TLS, time-outs and a log without PHI."""

import asyncio
import logging
import signal
import socket
import ssl
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from config.settings import Settings, Tls, Web
from dicom_node import local_time, notify
from dicom_node.reload import Reloader
from dicom_node.secrets import secret_file
from dicom_node.spool import Spool
from dicom_node.tls import server_context
from dicom_node.web import deps
from dicom_node.web.app import create_app
from dicom_node.web.facts import Models
from dicom_node.web.listener import Listener, as_seen
from dicom_node.web.security import is_loopback
from dicom_node.workitem import ConfigError

LOGGER = logging.getLogger(__name__)
HEADER_SECONDS = 10.0  # from a connection, or from the first byte of a further request, to its whole header
KEEP_ALIVE_SECONDS = 15
SHUTDOWN_SECONDS = 5
MAXIMUM_CONNECTIONS = 500  # that are answered; `listener` has what may be open
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

    def __init__(
        self,
        config: uvicorn.Config,
        ready: Callable[[], None],
        stopping: Callable[[], None],
        reload: Callable[[], object],
    ) -> None:
        super().__init__(config)
        self._ready, self._stopping, self._reload = ready, stopping, reload
        self._hung_up = False

    def hang_up(self, *_: object) -> None:
        """SIGHUP: the settings are read again at the next tick."""
        self._hung_up = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()
        notify.say("READY=1")

    async def on_tick(self, counter: int) -> bool:
        if self._hung_up:
            self._hung_up = False
            if notify.terminal_is_gone():
                self.handle_exit(signal.SIGHUP, None)
            else:
                notify.reloading(self._reload)
        if counter % _TICKS == 0:  # the loop turns
            notify.say("WATCHDOG=1", f"STATUS={len(self.server_state.connections)} connections")
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        notify.say("STOPPING=1")
        self._stopping()
        super().handle_exit(sig, frame)


class _Page:
    """The page as a part of its process that goes on with other settings (`reload.Reloadable`)."""

    def __init__(self, app: FastAPI, config: uvicorn.Config, listens: dict[str, Any]) -> None:
        """`listens`: what of [web] a socket of systemd decides."""
        self._app, self._config, self._listens = app, config, listens

    def ready_for(self, settings: Settings) -> Callable[[], None]:
        web = replace(settings.web, **self._listens)
        check(web)
        if (web.certificate is None) != (self._config.ssl is None):
            raise ConfigError("[web] certificate: from http to https, and back, takes a restart")
        if web.certificate is not None:
            context_of(web)  # raises for what cannot be used, before the one in use is touched
        models = Models(settings)

        def put_in_force() -> None:
            self._app.state.settings, self._app.state.models = replace(settings, web=web), models
            local_time.go_by(settings.node.time_zone)
            if self._config.ssl is not None and web.certificate is not None and web.private_key is not None:
                self._config.ssl.load_cert_chain(web.certificate, secret_file(web.private_key))

        return put_in_force


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


def run(settings: Settings, spool: Spool, say: Callable[[str], None], file: Path | None = None) -> None:
    """Serve until SIGTERM or SIGINT; `say` is given the address once it listens; at SIGHUP, `file` is read again.

    Raises ConfigError for settings that cannot be used, OSError when the port is not to be had.
    """
    of_file, passed = settings, notify.passed("web")
    listens = dict[str, Any]()
    if passed is not None:  # what counts is where systemd listens
        listens["host"], listens["port"] = passed.getsockname()[:2]
        settings = replace(settings, web=replace(settings.web, **listens))
    web = settings.web
    check(web)
    app = create_app(settings, spool)
    config = config_of(app, web)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    config.load()
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises them once more when it has ended
        signal.signal(number, lambda *_: None)
    family = socket.AF_INET6 if ":" in web.host else socket.AF_INET
    opened = passed or socket.create_server((web.host, web.port), family=family, backlog=config.backlog)
    with Listener(opened, web.trusted_proxies) as listener:
        # asyncio does it only where the protocol was named; without, each answer waits 40 ms for an acknowledgement.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def ready() -> None:
            port = listener.getsockname()[1]
            address = deps.public_url(replace(web, port=port))
            LOGGER.info("web.listening on %s port %d, called %s", web.host, port, address)
            say(address)
            if not spool.store.is_file():
                LOGGER.warning("web.no_store there is none in %s yet; start: prognode serve", spool.root)

        reloader = Reloader(file, of_file, spool, "web", [_Page(app, config, listens)])
        server = _Server(config, ready, app.state.stopping.set, reloader.reload)
        signal.signal(signal.SIGHUP, server.hang_up)
        if notify.was_hung_up():
            server.hang_up()
        server.run([listener])


def config_of(app: Any, web: Web) -> uvicorn.Config:
    """How uvicorn serves this ASGI application. Raises ConfigError, at its `load`, for certificates."""
    return uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,  # it quotes the query, and with it the names that people search for
        server_header=False,
        proxy_headers=bool(web.trusted_proxies),
        forwarded_allow_ips=as_seen(web.trusted_proxies),
        loop="dicom_node.web.listener:Loop",
        limit_concurrency=MAXIMUM_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        ssl_context_factory=None if web.certificate is None else lambda *_: context_of(web),
    )


def context_of(web: Web) -> ssl.SSLContext:
    """TLS 1.2 or newer, as for DICOM. Raises ConfigError."""
    try:
        return server_context(Tls(certificate=web.certificate, private_key=web.private_key))
    except ConfigError as error:
        raise ConfigError(str(error).replace("[tls]", "[web]")) from None
