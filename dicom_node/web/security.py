"""What stands before every request: the host it is for, its size and pace, the headers of its answer, its log line."""

import asyncio
import ipaddress
import logging
import time
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from config.settings import Web
from dicom_node.web import deps, errors
from dicom_node.workitem import ConfigError

LOGGER = logging.getLogger(__name__)
MAXIMUM_BODY_BYTES = 1_000_000
BODY_SECONDS = 30.0
PUBLIC = ("/health", "/ready")  # monitoring asks by address, not by name
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",  # for what does not know frame-ancestors
    "Referrer-Policy": "same-origin",  # nothing to others; with "no-referrer" browsers send forms with Origin: null
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
STRICT_TRANSPORT = "max-age=31536000"
EVERY_ADDRESS = ("", "0.0.0.0", "::")  # noqa: S104


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, web: Web) -> None:
        self._app, self._hosts = app, allowed_hosts(web)
        self._headers = HEADERS | ({"Strict-Transport-Security": STRICT_TRANSPORT} if deps.secure(web) else {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # lifespan; there is no websocket
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._add_headers(scope, MutableHeaders(scope=message))
            await send(message)

        try:
            problem = self._refuse(scope)
            if problem is not None:
                await errors.answer(Request(scope), problem)(scope, receive, answer)
            else:
                await self._app(scope, _measured(receive), answer)
        except Exception as error:  # the boundary of a request; the text may quote a header: only its type is logged
            LOGGER.error("web.bug %s in %s %s", type(error).__name__, scope["method"], _route(scope))
            LOGGER.debug("web.bug", exc_info=True)
            if not status:
                problem = errors.Problem(500, "this went wrong inside the node", "report it: it is a bug")
                await errors.answer(Request(scope), problem)(scope, receive, answer)
        finally:
            taken = (time.monotonic() - began) * 1000
            LOGGER.info("web.request %s %s %d %.0f ms", scope["method"], _route(scope), status, taken)

    def _refuse(self, scope: Scope) -> errors.Problem | None:
        headers = Headers(scope=scope)
        if scope["path"] not in PUBLIC and _host(headers.get("host", "")) not in self._hosts:
            return errors.Problem(400, "this node is not called by that name", "correct [web] public_url")
        if int(headers.get("content-length", "0")) > MAXIMUM_BODY_BYTES:
            return errors.Problem(413, "the request is too large", f"send at most {MAXIMUM_BODY_BYTES} bytes")
        return None

    def _add_headers(self, scope: Scope, headers: MutableHeaders) -> None:
        for name, value in self._headers.items():
            headers[name] = value
        if not scope["path"].startswith("/static/"):  # all else may hold PHI; pictures say themselves what may be kept
            headers.setdefault("Cache-Control", "no-store")


def allowed_hosts(web: Web) -> frozenset[str]:
    """Names that this node answers to. Raises ConfigError where none is known."""
    names = {urlsplit(web.public_url).hostname} if web.public_url else set()
    if is_loopback(web.host):
        names |= {"localhost", "127.0.0.1", "::1"}
    elif web.host not in EVERY_ADDRESS:
        names.add(web.host.lower())
    elif not names:
        raise ConfigError(
            f'[web] host {web.host!r} is every address: set public_url, such as "https://prognode.example"'
        )
    return frozenset(name for name in names if name)


def _host(header: str) -> str:
    """The name in a Host header, without the port; '' where there is none."""
    if "@" in header:
        return ""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _measured(receive: Receive) -> Receive:
    """A request's body that ends with an error when it is too large, or too slow."""
    deadline, size, complete = time.monotonic() + BODY_SECONDS, 0, False

    async def measured() -> Message:
        nonlocal size, complete
        if complete:  # what comes now is the end of the connection, and may take as long as the answer does
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), max(deadline - time.monotonic(), 0.0))
        except TimeoutError:
            raise HTTPException(408, f"the request did not come within {BODY_SECONDS:.0f} s") from None
        size += len(message.get("body", b""))
        complete = not message.get("more_body", False)
        if size > MAXIMUM_BODY_BYTES:
            raise HTTPException(413, f"the request has more than {MAXIMUM_BODY_BYTES} bytes")
        return message

    return measured


def _route(scope: Scope) -> str:
    """The pattern of the path: the path itself may hold an identifier, the query a name."""
    return str(getattr(scope.get("route"), "path", "-"))
