"""A FHIR R4 server for the tests, in a process of its own: what it has and how it misbehaves stand in a file.

`python tests/fhir_server.py FOLDER [CERTIFICATE KEY]` prints its port. FOLDER/state.json holds `resources` (a list)
and `mood` ("" is a good server); FOLDER/requests.jsonl gets a line per request.
"""

import json
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

PAGE = 3
SYSTEM = "http://hospital.example/mrn"
LOINC, SNOMED, UCUM = "http://loinc.org", "http://snomed.info/sct", "http://unitsofmeasure.org"


class Handler(BaseHTTPRequestHandler):
    folder: Path
    lock = threading.Lock()

    def do_GET(self) -> None:
        state = json.loads((self.folder / "state.json").read_text())
        with self.lock, (self.folder / "requests.jsonl").open("a") as log:
            log.write(json.dumps({"path": self.path, "headers": dict(self.headers)}) + "\n")
        if not self._misbehaves(state["mood"]):
            self._search(state)

    def _misbehaves(self, mood: str) -> bool:
        moods: dict[str, Callable[[], None]] = {
            "hang": lambda: time.sleep(30),
            "drip": lambda: self._slowly(b" ", 300, 0.1),
            "huge": lambda: self._slowly(b" " * 1_000_000, 60, 0.0),
            "text": lambda: self._raw(b"<html>It works!</html>"),
            "deep": lambda: self._raw(b"[" * 200_000),
            "nan": lambda: self._raw(b'{"resourceType": "Bundle", "entry": NaN}'),
            "gzip": lambda: self._raw(b"x", {"Content-Encoding": "gzip"}),
            "redirect": lambda: self._raw(b"", {"Location": "http://127.0.0.1:9/r4/Patient"}, 302),
        }
        if mood.isdigit():
            self._answer({"resourceType": "OperationOutcome"}, int(mood))
        elif mood in moods:
            moods[mood]()
        return mood.isdigit() or mood in moods

    def _slowly(self, part: bytes, count: int, pause: float) -> None:
        self._head(200, len(part) * count)
        with suppress(OSError):
            for _ in range(count):
                self.wfile.write(part)
                self.wfile.flush()
                time.sleep(pause)

    def _search(self, state: dict[str, Any]) -> None:
        parts = urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        kind = parts.path.rsplit("/", 1)[-1]
        if kind == "metadata":
            self._answer({"resourceType": "CapabilityStatement", "fhirVersion": state.get("version", "4.0.1")})
            return
        found = [one for one in state["resources"] if one["resourceType"] == kind and _matches(one, asked, state)]
        start = int(asked.get("page", 0)) * PAGE
        bundle: dict[str, Any] = {
            "resourceType": "Bundle", "type": "searchset", "total": len(found),
            "entry": [{"resource": one, "search": {"mode": "match"}} for one in found[start : start + PAGE]],
        }  # fmt: skip
        if start + PAGE < len(found) or state["mood"] == "endless":
            page = int(asked.get("page", 0)) + 1
            host = "127.0.0.1:9" if state["mood"] == "elsewhere" else self.headers["Host"]
            scheme = "https" if isinstance(self.connection, ssl.SSLSocket) else "http"
            query = "&".join(f"{name}={value}" for name, value in (asked | {"page": str(page)}).items())
            bundle["link"] = [{"relation": "next", "url": f"{scheme}://{host}{parts.path}?{query}"}]
        self._answer(bundle)

    def _answer(self, document: dict[str, Any], status: int = 200) -> None:
        self._raw(json.dumps(document).encode(), status=status)

    def _raw(self, body: bytes, headers: dict[str, str] | None = None, status: int = 200) -> None:
        self._head(status, len(body), headers or {})
        self.wfile.write(body)

    def _head(self, status: int, length: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/fhir+json", "Content-Length": str(length)}.items():
            self.send_header(name, value)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def _matches(one: dict[str, Any], asked: dict[str, str], state: dict[str, Any]) -> bool:
    """What a server with these search parameters gives; a "lenient" one ignores them all."""
    if state["mood"] == "lenient":
        return True
    if "identifier" in asked:
        system, _, value = asked["identifier"].rpartition("|")
        return any(i["value"] == value and i.get("system", "") in (system, "") for i in one["identifier"])
    if one.get("subject", {}).get("reference") != f"Patient/{asked.get('patient')}":
        return False
    wanted = set(asked.get("code", "").split(","))
    codes = [*one.get("code", {}).get("coding", [])]
    codes += [coding for part in one.get("component", []) for coding in part["code"]["coding"]]
    return any(f"{coding.get('system', '')}|{coding['code']}" in wanted for coding in codes)


class FhirServer:
    """The other side, as the tests see it."""

    def __init__(self, folder: Path, port: int, secure: bool) -> None:
        self._folder, self.port = folder, port
        self.base_url = f"{'https' if secure else 'http'}://127.0.0.1:{port}/r4"

    def has(self, *resources: dict[str, Any], mood: str = "", **more: Any) -> None:
        draft = self._folder / "state.json.new"
        draft.write_text(json.dumps({"resources": resources, "mood": mood, **more}))
        draft.rename(self._folder / "state.json")

    @property
    def requests(self) -> list[dict[str, Any]]:
        path = self._folder / "requests.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@contextmanager
def fhir_server(folder: Path, *certificate: Path) -> Iterator[FhirServer]:
    """A running server in a process of its own; ended at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "state.json").write_text(json.dumps({"resources": [], "mood": ""}))
    command = [sys.executable, __file__, str(folder), *map(str, certificate)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield FhirServer(folder, int(process.stdout.readline()), bool(certificate))
    finally:
        process.kill()
        process.wait(timeout=60)
        process.stdout.close()  # type: ignore[union-attr]


# -- resources ---------------------------------------------------------------------------------------------------


def patient(patient_id: str = "P1", fhir_id: str = "p1", **more: Any) -> dict[str, Any]:
    identifier = [{"system": SYSTEM, "value": patient_id}]
    return {"resourceType": "Patient", "id": fhir_id, "identifier": identifier, **more}


def concept(code: str, system: str = LOINC) -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code}]}


def observation(fhir_id: str, loinc: str, value: float | None = None, unit: str = "", **more: Any) -> dict[str, Any]:
    made = {
        "resourceType": "Observation", "id": fhir_id, "status": "final", "code": concept(loinc),
        "subject": {"reference": "Patient/p1"}, "effectiveDateTime": "2024-01-01T08:30:00+01:00",
    }  # fmt: skip
    if value is not None:
        made["valueQuantity"] = {"value": value, "unit": unit, "system": UCUM, "code": unit}
    return made | more


def diagnosis(fhir_id: str, term: str, system: str = SNOMED, **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Condition", "id": fhir_id, "code": concept(term, system), "onsetDateTime": "2023-05-01",
        "subject": {"reference": "Patient/p1"}, "clinicalStatus": concept("active", "x"),
        "verificationStatus": concept("confirmed", "x"), **more,
    }  # fmt: skip


def serve(handler: type[Handler], folder: str, port: int, *certificate: str) -> None:
    """Print the port and serve for ever; over TLS with a certificate and its key."""
    handler.folder = Path(folder)
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    serve(Handler, sys.argv[1], 0, *sys.argv[2:])
