"""The JSON API, FHIR and the pages, in-process: no 5xx for whatever is asked, and nothing for who is not signed in."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import httpx

from config.settings import Node, Settings
from dicom_node.quiet import quiet_libraries
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.web.app import OPEN, create_app
from tests.fuzz.bytes_of import NUMBERS, TEXTS, json_bytes, mutated, value_mutated
from tests.fuzz.engine import Broken, Target
from tests.paths import ROOT
from tests.web.items import Items

TOKEN = "prognode_fuzz"
PAGES = (
    "/", "/studies/{study_instance_uid}", "/items/{n}", "/items/{n}/documents/{word}", "/items/{n}/act/{word}",
    "/items/{n}/clinical", "/items/{n}/slices.json", "/items/{n}/slices/{n}.png", "/items/{n}/pages/{n}.png", "/audit",
    "/models", "/system", "/scheme", "/fhir/metadata", "/fhir/DiagnosticReport", "/fhir/Observation/{word}",
    "/fhir/RiskAssessment", "/fhir/{word}", "/signin", "/password", "/health", "/ready", "/static/{word}",
    "/api/v1/openapi.json", "/{word}",
)  # fmt: skip
QUERIES = (
    "_count", "_id", "subject", "patient", "date", "identifier", "_format", "code", "status", "page", "offset", "state",
    "text", "sort", "next", "_lastUpdated", "outcome", "group", "held", "since", "until", "plane", "window", "scheme",
)  # fmt: skip
WORDS = (
    "1",
    "0",
    "-1",
    "retry",
    "hold",
    "priority",
    "risk-sr",
    "..%2f..%2fetc%2fpasswd",
    "%00",
    "%ff",
    "a" * 300,
    "1-1-os",
)


class Api(Target):
    """One request; a JSON text of method, path, headers, body, and whether it carries the operator's token."""

    name = "web API"
    seconds = 10.0
    cheap = False

    def __init__(self, folder: Path) -> None:
        quiet_libraries()
        spool = Spool(folder / "spool")
        spool.create()
        store = Store.open(spool.store)
        items = Items(store)
        for number in range(3):
            item = items.scheduled() if number else items.waiting()
            items.study(item.study_instance_uid)
        store.accounts.add_token(TOKEN, "fuzz", "operator", 1.0, None)
        store.close()
        self._document = json.loads((ROOT / "config" / "schema" / "openapi.json").read_text(encoding="utf-8"))
        self._operations = [
            (method, path, operation)
            for path, methods in self._document["paths"].items()
            for method, operation in methods.items()
        ]
        settings = replace(Settings(), node=Node(spool=spool.root))
        transport = httpx.ASGITransport(create_app(settings, spool), raise_app_exceptions=True)
        self._client = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080", timeout=10)
        self._loop = asyncio.new_event_loop()

    # -- making --------------------------------------------------------------------------------------------------

    def make(self, random: Random) -> bytes:
        if random.random() < 0.6:
            asked = self._operation(random)
        else:
            asked = {"method": random.choice(("GET", "GET", "POST", "HEAD", "PUT", "DELETE", "X")), "body": ""}
            asked["path"] = _filled(random.choice(PAGES), random)
            asked["query"] = [(random.choice(QUERIES), _value(random)) for _ in range(random.choice((0, 1, 3, 40)))]
            if random.random() < 0.3:
                asked["body"] = random.choice(("csrf=1&value=HIGH", "a=" * 2000, "{", "\0"))
        asked["token"] = random.choice((TOKEN, TOKEN, TOKEN, TOKEN, "", "x", f"{TOKEN}x"))
        asked["headers"] = dict(random.sample(_HEADERS, random.choice((0, 0, 1, 2))))
        return json.dumps(asked).encode()

    def _operation(self, random: Random) -> dict[str, Any]:
        """One of the description, with parameters of their schema or not."""
        method, path, operation = random.choice(self._operations)
        asked = [one for one in operation.get("parameters", ()) if one["in"] == "query" and random.random() < 0.4]
        query = [(one["name"], _of_schema(one["schema"], random)) for one in asked]
        body = ""
        if "requestBody" in operation:
            good: dict[str, Any] = {"priority": "HIGH"}
            if path.endswith("clinical-values"):
                good = {"observed_on": "2026-01-01", "values": {"age": 70, "ecog": 1, "sex": "female"}}
            body = json_bytes(value_mutated(good, random), random).decode("latin-1")
        return {"method": method.upper(), "path": _filled(path, random), "query": query, "body": body}

    # -- trying --------------------------------------------------------------------------------------------------

    def run(self, data: bytes) -> None:
        asked = json.loads(data)
        answer = self._answered(asked)
        if answer is None:
            return
        if answer.status_code >= 500:
            raise Broken(f"{answer.status_code} for {asked['method']} {asked['path'][:60]}")
        closed = not any(answer.request.url.path.startswith(one) for one in OPEN)
        if asked["token"] != TOKEN and closed and answer.status_code < 300:
            raise Broken(f"{asked['path'][:60]} without a sign-in")

    def _answered(self, asked: dict[str, Any]) -> httpx.Response | None:
        headers = {"Content-Type": "application/json"} | asked["headers"]
        if asked["token"]:
            headers["Authorization"] = f"Bearer {asked['token']}"
        try:
            request = self._client.build_request(
                asked["method"], asked["path"], params=asked["query"] or None,
                content=asked["body"].encode("latin-1", "replace"),
                headers=[(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()],
            )  # fmt: skip
        except (httpx.InvalidURL, UnicodeEncodeError, ValueError):
            return None  # no client could send it
        if request.url.path.startswith("/live"):
            return None  # a stream without end
        return self._loop.run_until_complete(self._client.send(request))

    def settle(self) -> int:
        asked = {"method": "GET", "path": "/api/v1/worklist", "query": [], "body": "", "token": TOKEN, "headers": {}}
        answer = self._answered(asked)
        assert answer is not None
        return int(answer.status_code != 200)

    def close(self) -> None:
        self._loop.run_until_complete(self._client.aclose())
        self._loop.close()


def _filled(path: str, random: Random) -> str:
    for name, choices in _PARTS.items():
        while name in path:
            path = path.replace(name, str(random.choice(choices)), 1)
    return path


_IDS = (1, 2, 3, 1, 2, 3, 0, -1, 99, 2**63 - 1, 2**63, 10**30, "x", "1.0", "01", "%31", "１")
_PARTS: dict[str, tuple[Any, ...]] = {
    "{study_instance_uid}": ("1.2.840.99.1", "1.2.840.99.2", "1", "." * 64, "1" * 65, "x", "%2e%2e"),
    "{work_item_id}": _IDS, "{number}": _IDS, "{n}": _IDS, "{word}": WORDS,
}  # fmt: skip
_HEADERS = (
    ("Content-Type", "text/plain"), ("Content-Type", "multipart/form-data"),
    ("Content-Type", "multipart/form-data; boundary=x"),
    ("Content-Type", "application/x-www-form-urlencoded"), ("Content-Type", "application/json; charset=utf-16"),
    ("Accept", "application/fhir+xml"), ("Accept", "text/html"), ("Accept", "*/*;q=x"), ("Accept-Language", "x" * 500),
    ("Host", "evil.example"), ("Cookie", "prognode=x; prognode=y"), ("Cookie", "=;;=\x01"), ("X-CSRF-Token", "é"),
    ("Range", "bytes=5-1"), ("If-None-Match", '"x"'), ("Origin", "null"), ("X-Forwarded-For", "1.2.3.4"),
    ("If-Modified-Since", "x"), ("Content-Length", "5"), ("Transfer-Encoding", "chunked"), ("Last-Event-ID", "x"),
)  # fmt: skip


def _value(random: Random) -> str:
    text = str(random.choice((*NUMBERS, *TEXTS, *WORDS, "2026-01-01", "ge2026", "true")))[:5000]
    return text.encode("utf-8", "replace").decode()


def _of_schema(schema: dict[str, Any], random: Random) -> str:
    """A value that fits a parameter's schema, mostly."""
    choices: list[Callable[[], str]] = [lambda: _value(random)]
    if "enum" in schema:
        choices += [lambda: str(random.choice(schema["enum"]))] * 3
    if schema.get("type") == "integer":
        choices.append(lambda: str(random.choice((schema.get("minimum", 0), schema.get("maximum", 10), 1, 10_001))))
    if schema.get("type") == "boolean":
        choices.append(lambda: random.choice(("true", "false", "1", "")))
    if schema.get("type") == "string":
        choices.append(lambda: mutated(b"Yamada^Tarou", random).decode("latin-1"))
    return random.choice(choices)()
