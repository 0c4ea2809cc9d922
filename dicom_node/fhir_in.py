"""Clinical values from one FHIR R4 server: Observation and Condition of one patient, by the codes of the mapping.

Knows no store. Everything that a server says is hostile: sizes, pages and time are limited, only its own origin is
asked, and only resources that name the patient are read. No URL, identifier or value is in a log or an error.
"""

import json
import logging
import re
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx

from config.settings import FhirServer
from dicom_node.clinical_codes import Codes
from dicom_node.fhir_resources import BadResource, condition, identifiers, observations
from dicom_node.observation import Observation
from dicom_node.secrets import read_secret
from dicom_node.workitem import ConfigError, Permanent, Retryable

MAXIMUM_PAGE_BYTES = 5_000_000
MAXIMUM_PAGES = 20
COUNT = 200  # resources of a page, as asked for
CONNECT_SECONDS = 5.0
logging.getLogger("httpx").setLevel(logging.WARNING)  # at INFO it logs each URL, which holds the patient's ID
LOOPBACK = ("127.0.0.1", "::1", "localhost")
_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")  # FHIR datatype id
UNKNOWN, SEVERAL, TOO_MUCH = (
    "it does not know the patient",
    "it has several patients with this ID",
    "it has more than is read; the newest are taken",
)


@dataclass(frozen=True)
class Answer:
    """What a server has of a patient. `detail`: what is odd about it, in words of ours."""

    observations: tuple[Observation, ...] = ()
    conditions: tuple[Observation, ...] = ()
    detail: str = ""


def ask(server: FhirServer, patient_id: str, issuer: str, codes: Codes) -> Answer:
    """Everything of a patient that the mapping has codes for, newest first.

    Raises
    ------
    Retryable
        The server does not answer, is busy, or says that it has failed.
    Permanent
        It refuses us, is no FHIR server, or the settings (token, certificate, address) cannot be used.
    """
    with _client(server) as client:
        search = _Search(server, client)
        token = "|".join(filter(None, (server.patient_identifier_system, patient_id.replace("|", "\\|"))))
        found, _ = search.all("Patient", {"identifier": token})
        ids = _patients(found, patient_id, server.patient_identifier_system)
        if len(ids) != 1:
            return Answer(detail=SEVERAL if ids else UNKNOWN)
        (fhir_id,) = ids
        of_patient = {"patient": fhir_id, "_count": str(COUNT)}
        coded = ",".join(codes.searched("codes"))
        seen, cut = search.all("Observation", of_patient | {"code": coded, "_sort": "-date"})
        told, cut_too = search.all("Condition", of_patient | {"code": ",".join(codes.searched("conditions"))})
    whose = _Whose(patient_id, issuer, fhir_id, server.name)
    return Answer(
        observations=tuple(one for resource in seen for one in whose.read(observations, resource)),
        conditions=tuple(one for resource in told for one in whose.read(condition, resource)),
        detail=TOO_MUCH if cut or cut_too else "",
    )


def look(server: FhirServer) -> str:
    """What a server says of itself, for `prognode check`. Raises as `ask`."""
    with _client(server) as client:
        statement = _Search(server, client).get("metadata", {})
    if statement.get("resourceType") != "CapabilityStatement":
        raise Permanent("its /metadata is no CapabilityStatement", "correct base_url of the [[fhir_servers]] entry")
    version = str(statement.get("fhirVersion", ""))[:16]
    if not version.startswith("4."):
        raise Permanent("it does not speak FHIR R4", "give the server's R4 endpoint as base_url")
    return f"FHIR {re.sub(r'[^0-9.]', '', version)} at {server.base_url}"


@dataclass(frozen=True)
class _Whose:
    """The patient that was asked about; a resource of anybody else is left aside."""

    patient_id: str
    issuer: str
    fhir_id: str
    server: str

    def read(
        self, reader: Callable[[dict[str, Any], str, str], list[Observation]], resource: dict[str, Any]
    ) -> list[Observation]:
        subject = resource.get("subject")
        reference = subject.get("reference") if isinstance(subject, dict) else None
        fhir_id = resource.get("id")
        ours = isinstance(reference, str) and f"/{reference}".endswith(f"/Patient/{self.fhir_id}")
        if not ours or not isinstance(fhir_id, str) or not _ID.fullmatch(fhir_id):
            return []
        try:
            read = reader(resource, self.patient_id, self.issuer)
        except BadResource:
            return []
        return [_placed(one, f"{self.server} {resource['resourceType']}/{fhir_id}") for one in read]


def _placed(one: Observation, origin: str) -> Observation:
    return Observation(**(vars(one) | {"origin": origin}))


def _patients(found: list[dict[str, Any]], patient_id: str, system: str) -> set[str]:
    """Ids of the patients who have the identifier: a server may ignore a search parameter that it does not know."""
    having = [one for one in found if (patient_id, system) in identifiers(one, any_system=not system)]
    current = [one for one in having if one.get("active", True) and not _is_replaced(one)]
    ids = {str(one.get("id", "")) for one in current or having}
    return {fhir_id for fhir_id in ids if _ID.fullmatch(fhir_id)}


def _is_replaced(patient: dict[str, Any]) -> bool:
    links = patient.get("link")
    return isinstance(links, list) and any(isinstance(e, dict) and e.get("type") == "replaced-by" for e in links)


class _Search:
    """Searches at one server, page by page."""

    def __init__(self, server: FhirServer, client: httpx.Client) -> None:
        self._server, self._client = server, client
        self._base = server.base_url.rstrip("/") + "/"

    def all(self, kind: str, parameters: dict[str, str]) -> tuple[list[dict[str, Any]], bool]:
        """Resources of a kind, and whether there were more than are read."""
        found: list[dict[str, Any]] = []
        page = self.get(kind, parameters)
        for _ in range(MAXIMUM_PAGES):
            if page.get("resourceType") != "Bundle":
                raise Permanent("it answered a search with something else than a Bundle", _LOOK)
            found += _resources(page, kind)
            following = _next(page)
            if following is None:
                return found, False
            page = self.get(self._own(following), None)
        return found, True

    def _own(self, url: str) -> str:
        absolute = urljoin(self._base, url)
        if _origin(absolute) != _origin(self._base):
            raise Permanent("it sends us to another server for the next page", _LOOK)
        return absolute

    def get(self, path: str, parameters: dict[str, str] | None) -> dict[str, Any]:
        """One JSON object. Raises Retryable or Permanent."""
        with _network():
            request = self._client.build_request("GET", urljoin(self._base, path), params=parameters)
            response = self._client.send(request, stream=True)
            try:
                _check_status(response)
                body = _body(response, time.monotonic() + self._server.timeout_seconds)
            finally:
                response.close()
        try:
            said = json.loads(body, parse_float=str, parse_int=str, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            raise Permanent("its answer is no JSON", _LOOK) from None
        if not isinstance(said, dict):
            raise Permanent("its answer is no FHIR resource", _LOOK)
        return said


_LOOK = "look into the server's log; run: prognode check"


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


def _check_status(response: httpx.Response) -> None:
    status = response.status_code
    if status == 200:
        return
    if status in (401, 403):
        raise Permanent(f"it refuses us (HTTP {status})", "renew the token in token_file, or grant it read access")
    if status in (408, 425, 429) or status >= 500:
        raise Retryable(f"it cannot answer just now (HTTP {status})", "nothing: it is asked again")
    raise Permanent(f"it answered HTTP {status}", "correct base_url of the [[fhir_servers]] entry")


def _body(response: httpx.Response, deadline: float) -> bytes:
    """The body as it comes: compressed ones were not asked for, and could grow without end."""
    if response.headers.get("content-encoding", "identity") != "identity":
        raise Permanent("it compresses answers although it was asked not to", _LOOK)
    body = bytearray()
    for chunk in response.iter_raw():
        body += chunk
        if len(body) > MAXIMUM_PAGE_BYTES:
            raise Permanent(f"a page of its answer has more than {MAXIMUM_PAGE_BYTES} bytes", _LOOK)
        if time.monotonic() > deadline:
            raise Retryable("its answer takes too long", "raise timeout_seconds of the [[fhir_servers]] entry")
    return bytes(body)


@contextmanager
def _network() -> Iterator[None]:
    """httpx's texts quote the URL, which holds the patient's ID: only its kind is told."""
    try:
        yield
    except httpx.TimeoutException:
        raise Retryable("it does not answer in time", "check the server and the network") from None
    except httpx.TransportError as error:
        if isinstance(error.__cause__, ssl.SSLCertVerificationError) or "CERTIFICATE" in str(error).upper():
            raise Permanent("its certificate cannot be verified", "give its authority as ca") from None
        raise Retryable("it cannot be reached", "check the server, its address and the network") from None
    except (httpx.HTTPError, httpx.InvalidURL):
        raise Permanent("its answer is no HTTP", _LOOK) from None


def _client(server: FhirServer) -> httpx.Client:
    """No proxy and no password of the environment: patients' IDs go to the named server alone."""
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
