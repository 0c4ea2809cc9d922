"""A FHIR R4 server over HTTP, for what asks it (`fhir_in`) and what tells it (`fhir_out`): search, limits, TLS, token.

Everything that a server says is hostile: sizes, pages and time are limited, only its own origin is asked. No URL,
identifier or value is in a log or an error.
"""

import json
import logging
import re
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from config.settings import FhirServer
from dicom_node.fhir_resources import identifiers
from dicom_node.secrets import read_secret
from dicom_node.workitem import ConfigError, Permanent, Retryable

if TYPE_CHECKING:
    import httpx

MAXIMUM_PAGE_BYTES = 5_000_000
MAXIMUM_PAGES = 20
CONNECT_SECONDS = 5.0
logging.getLogger("httpx").setLevel(logging.WARNING)  # at INFO it logs each URL, which holds the patient's ID
LOOPBACK = ("127.0.0.1", "::1", "localhost")
ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")  # FHIR datatype id
LOOK = "look into the server's log; run: prognode check"


class NotReached(Retryable):
    """No connection came about: nothing of a request has left."""


class Gone(Permanent):
    """The server has nothing there (404, 410)."""


@dataclass(frozen=True)
class Reply:
    """What came back of a POST: HTTP status, Retry-After as it was sent, body."""

    status: int
    retry_after: str
    body: bytes


class Session:
    """Requests to one server, with one client."""

    def __init__(self, server: FhirServer, client: "httpx.Client") -> None:
        self._server, self._client = server, client
        self._base = server.base_url.rstrip("/") + "/"

    def patients(self, patient_id: str) -> set[str]:
        """Ids of the Patients with this identifier. Raises Retryable or Permanent."""
        system = self._server.patient_identifier_system
        found, _ = self.all("Patient", {"identifier": f"{system}|" + patient_id.replace("|", "\\|")})
        return _patients(found, patient_id, system)

    def known_by(self, kind: str, system: str, value: str) -> set[str]:
        """Ids of the resources of a kind that have this identifier. Raises Retryable or Permanent."""
        found, _ = self.all(kind, {"identifier": f"{system}|{value}"})
        ids = {str(one.get("id", "")) for one in found if (value, system) in identifiers(one)}
        return {fhir_id for fhir_id in ids if ID.fullmatch(fhir_id)}

    def read(self, kind: str, fhir_id: str) -> dict[str, Any] | None:
        """One resource with its numbers as numbers, fit to be sent back; None where the server has none of that id."""
        try:
            made = self.get(f"{kind}/{fhir_id}", None, numbers=True)
        except Gone:
            return None
        return made if (made.get("resourceType"), made.get("id")) == (kind, fhir_id) else None

    def post(self, document: dict[str, Any], leaving: Callable[[], None] = lambda: None) -> Reply:
        """POST a Bundle to the server's base; any status is an answer. Raises NotReached, Retryable or Permanent.

        `leaving` is called when the connection stands and nothing of the document has left, and may raise.
        """
        body = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
        headers = {
            "Content-Type": "application/fhir+json; charset=utf-8",
            "Content-Length": str(len(body)),
            "Prefer": "return=minimal",
        }

        def content() -> Iterator[bytes]:  # is asked for when the headers, without any of it, have been written
            leaving()
            yield body

        with network():
            request = self._client.build_request("POST", self._base.rstrip("/"), content=content(), headers=headers)
            response = self._client.send(request, stream=True)
            try:
                deadline = time.monotonic() + self._server.timeout_seconds
                return Reply(
                    response.status_code, response.headers.get("retry-after", ""), read_body(response, deadline)
                )
            finally:
                response.close()

    def all(self, kind: str, parameters: dict[str, str]) -> tuple[list[dict[str, Any]], bool]:
        """Resources of a kind, and whether there were more than are read."""
        found: list[dict[str, Any]] = []
        page = self.get(kind, parameters)
        for _ in range(MAXIMUM_PAGES):
            if page.get("resourceType") != "Bundle":
                raise Permanent("it answered a search with something else than a Bundle", LOOK)
            found += _resources(page, kind)
            following = _next(page)
            if following is None:
                return found, False
            page = self.get(self._own(following), None)
        return found, True

    def _own(self, url: str) -> str:
        try:
            absolute = urljoin(self._base, url)
            own = _origin(absolute) == _origin(self._base)
        except ValueError:
            raise Permanent("its link to the next page is no address", LOOK) from None
        if not own:
            raise Permanent("it sends us to another server for the next page", LOOK)
        return absolute

    def get(self, path: str, parameters: dict[str, str] | None, *, numbers: bool = False) -> dict[str, Any]:
        """One JSON object, its numbers as text or as `numbers`. Raises Retryable or Permanent."""
        with network():
            request = self._client.build_request("GET", urljoin(self._base, path), params=parameters)
            response = self._client.send(request, stream=True)
            try:
                _check_status(response)
                body = read_body(response, time.monotonic() + self._server.timeout_seconds)
            finally:
                response.close()
        try:
            texts: dict[str, Any] = {} if numbers else {"parse_float": str, "parse_int": str}
            said = json.loads(body, parse_constant=_no_constant, **texts)
        except (ValueError, RecursionError):
            raise Permanent("its answer is no JSON", LOOK) from None
        if not isinstance(said, dict):
            raise Permanent("its answer is no FHIR resource", LOOK)
        return said


def _patients(found: list[dict[str, Any]], patient_id: str, system: str) -> set[str]:
    """Ids of the patients who have the identifier: a server may ignore a search parameter that it does not know."""
    having = [one for one in found if (patient_id, system) in identifiers(one)]
    current = [one for one in having if one.get("active", True) and not _is_replaced(one)]
    ids = {str(one.get("id", "")) for one in current or having}
    return {fhir_id for fhir_id in ids if ID.fullmatch(fhir_id)}


def _is_replaced(patient: dict[str, Any]) -> bool:
    links = patient.get("link")
    return isinstance(links, list) and any(isinstance(e, dict) and e.get("type") == "replaced-by" for e in links)


def _no_constant(_: str) -> float:
    raise ValueError


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = -1
    return parts.scheme, (parts.hostname or "").lower(), port or {"http": 80, "https": 443}.get(parts.scheme)


def _resources(page: dict[str, Any], kind: str) -> Iterator[dict[str, Any]]:
    entries = page.get("entry")
    for entry in entries if isinstance(entries, list) else ():
        resource = entry.get("resource") if isinstance(entry, dict) else None
        if isinstance(resource, dict) and resource.get("resourceType") == kind:
            yield resource


def _next(page: dict[str, Any]) -> str | None:
    links = page.get("link")
    for link in links if isinstance(links, list) else ():
        if isinstance(link, dict) and link.get("relation") == "next" and isinstance(link.get("url"), str):
            return str(link["url"])
    return None


def _check_status(response: "httpx.Response") -> None:
    status = response.status_code
    if status == 200:
        return
    if status in (401, 403):
        raise Permanent(f"it refuses us (HTTP {status})", "renew the token in token_file, or grant it read access")
    if status in (408, 425, 429) or status >= 500:
        raise Retryable(f"it cannot answer just now (HTTP {status})", "nothing: it is asked again")
    kind = Gone if status in (404, 410) else Permanent
    raise kind(f"it answered HTTP {status}", "correct base_url of the [[fhir_servers]] entry")


def read_body(response: "httpx.Response", deadline: float) -> bytes:
    """The body as it comes: compressed ones were not asked for, and could grow without end."""
    if response.headers.get("content-encoding", "identity") != "identity":
        raise Permanent("it compresses answers although it was asked not to", LOOK)
    body = bytearray()
    for chunk in response.iter_raw():
        body += chunk
        if len(body) > MAXIMUM_PAGE_BYTES:
            raise Permanent(f"a page of its answer has more than {MAXIMUM_PAGE_BYTES} bytes", LOOK)
        if time.monotonic() > deadline:
            raise Retryable("its answer takes too long", "raise timeout_seconds of the [[fhir_servers]] entry")
    return bytes(body)


@contextmanager
def network() -> Iterator[None]:
    """httpx's texts quote the URL, which holds the patient's ID: only its kind is told."""
    import httpx  # noqa: PLC0415 - a tenth of a second, and few nodes have such a server

    try:
        yield
    except (httpx.ConnectTimeout, httpx.PoolTimeout):
        raise NotReached("it does not answer in time", "check the server and the network") from None
    except httpx.TimeoutException:
        raise Retryable("it does not answer in time", "check the server and the network") from None
    except httpx.TransportError as error:
        if isinstance(error.__cause__, ssl.SSLCertVerificationError) or "CERTIFICATE" in str(error).upper():
            raise Permanent("its certificate cannot be verified", "give its authority as ca") from None
        kind = NotReached if isinstance(error, httpx.ConnectError) else Retryable
        raise kind("it cannot be reached", "check the server, its address and the network") from None
    except (httpx.HTTPError, httpx.InvalidURL):
        raise Permanent("its answer is no HTTP", LOOK) from None


def open_client(server: FhirServer) -> "httpx.Client":
    """No proxy and no password of the environment: patients' IDs go to the named server alone."""
    import httpx  # noqa: PLC0415 - as above

    parts = urlsplit(server.base_url)
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise Permanent("base_url is no address", "write it as https://fhir.hospital.example/r4")
    if parts.scheme == "http" and server.token_file is not None and parts.hostname not in LOOPBACK:
        raise Permanent("a token would go over an open connection", "give an https address as base_url")
    headers = {"Accept": "application/fhir+json", "Accept-Encoding": "identity", "Prefer": "handling=strict"}
    try:
        if server.token_file is not None:
            headers["Authorization"] = f"Bearer {read_secret(server.token_file)}"
        context = ssl.create_default_context(cafile=server.ca)
    except ConfigError as error:
        raise Permanent(str(error), "correct token_file") from None
    except (OSError, ssl.SSLError):
        raise Permanent(f"ca {server.ca} cannot be used", "give the authority's certificate in PEM") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    timeout = httpx.Timeout(server.timeout_seconds, connect=min(CONNECT_SECONDS, server.timeout_seconds))
    return httpx.Client(
        headers=headers,
        verify=context,
        timeout=timeout,
        follow_redirects=False,
        trust_env=False,
        default_encoding="utf-8",
    )
