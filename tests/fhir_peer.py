"""A FHIR R4 server that takes results, in a process of its own: transactions with conditional creates (R4 3.1.0.11.2).

`python -m tests.fhir_peer FOLDER PORT [CERTIFICATE KEY]`. What it holds stands in FOLDER/held.json and survives a kill;
FOLDER/mood says how it misbehaves: "" is a good server, a number an HTTP status for each POST, and the words below.
"""

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.fhir_server import SYSTEM, Handler, patient, serve

URN = re.compile(r"urn:uuid:[0-9a-f-]{36}")


class Refused(Exception):
    """An HTTP status and the issue code of its OperationOutcome."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status, self.code = status, code


class Peer(Handler):
    changing = threading.Lock()

    def do_GET(self) -> None:
        state = json.loads((self.folder / "held.json").read_text())
        with self.changing, (self.folder / "requests.jsonl").open("a") as log:
            log.write(json.dumps({"method": "GET", "path": self.path, "token": self.headers["Authorization"]}) + "\n")
        mood = (self.folder / "mood").read_text()
        if mood == "401":
            self._outcome(401, "login")
            return
        kind, _, fhir_id = self.path.removeprefix("/r4/").partition("/")
        if fhir_id:
            held = [one for one in state if (one["resourceType"], one["id"]) == (kind, fhir_id)]
            self._answer(held[0]) if held else self._outcome(404, "not-found")
            return
        self._search({"resources": state, "mood": mood})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        mood = (self.folder / "mood").read_text()
        with self.changing:
            asked = {"path": self.path, "type": self.headers["Content-Type"], "token": self.headers["Authorization"]}
            with (self.folder / "requests.jsonl").open("a") as log:
                log.write(json.dumps({"method": "POST", **asked, "body": json.loads(body)}) + "\n")
            if mood.isdigit():
                self._outcome(int(mood), "processing")
            elif mood.startswith("retry "):
                self._outcome(429, "throttled", {"Retry-After": mood.partition(" ")[2]})
            elif mood == "elsewhere":
                self._raw(b"", {"Location": "http://127.0.0.1:9/r4"}, 307)
            elif mood != "hang":
                self._transact(json.loads(body), mood)
        if mood == "hang":  # and keeps no other from its answer
            time.sleep(30)

    def _transact(self, bundle: dict[str, Any], mood: str) -> None:
        path = self.folder / "held.json"
        held = json.loads(path.read_text())
        if mood == "changes":  # somebody else was quicker
            for one in held[1:]:
                one["meta"]["versionId"] = str(int(one["meta"]["versionId"]) + 1)
            path.write_text(json.dumps(held))
        try:
            answer, held = transact(bundle, held)
        except Refused as refused:
            self._outcome(refused.status, refused.code)
            return
        if mood != "forgets":
            draft = path.with_suffix(".new")
            draft.write_text(json.dumps(held))
            draft.rename(path)
        if mood == "drop":  # it has taken everything, and the answer is lost
            self.connection.close()
            return
        if mood == "partial":
            answer["entry"][-1]["response"]["status"] = "422 Unprocessable Entity"
        if mood == "short":
            answer["entry"].pop()
        if mood == "text":
            self._raw(b"<html>thank you</html>")
            return
        self._answer(answer)

    def _outcome(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        """With the patient's name in its texts, as careless servers have it."""
        issue = {"severity": "error", "code": code, "diagnostics": "Patient Müller^Jörg 4711 is not welcome"}
        body = json.dumps({"resourceType": "OperationOutcome", "issue": [issue]}).encode()
        self._raw(body, headers, status)


def transact(bundle: dict[str, Any], held: list[dict[str, Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The answer to a transaction, and what the server then holds. All or nothing: raises Refused."""
    from fhirkit import validate

    if validate(bundle) or bundle["type"] != "transaction":
        raise Refused(422, "structure")
    held, places, answers = list(held), {}, []
    for entry in bundle["entry"]:
        resource, request = entry["resource"], entry["request"]
        if request["method"] == "PUT":
            answers.append({"response": {"status": "200 OK", "etag": _update(held, resource, request)}})
            continue
        if request["method"] != "POST" or request["url"] != resource["resourceType"]:
            raise Refused(405, "not-supported")
        kind = resource["resourceType"]
        known = [one for one in held if one["resourceType"] == kind and _is(one, request["ifNoneExist"])]
        if len(known) > 1:
            raise Refused(412, "multiple-matches")
        if not known:
            resource["id"] = str(sum(one["resourceType"] == kind for one in held) + 1)
            resource.setdefault("meta", {})["versionId"] = "1"
            held.append(resource)
        place = f"{kind}/{(known or [resource])[0]['id']}"
        places[entry["fullUrl"]] = place
        status = "200 OK" if known else "201 Created"
        answers.append({"response": {"status": status, "location": f"{place}/_history/1", "etag": 'W/"1"'}})
    text = URN.sub(lambda found: places.get(found.group(), found.group()), json.dumps([_links(one) for one in held]))
    linked = [{**one, **links} for one, links in zip(held, json.loads(text), strict=True)]
    there = {f"{one['resourceType']}/{one['id']}" for one in linked}
    for one in linked:
        for reference in _references(one):
            if not reference.startswith("#") and reference not in there:
                raise Refused(400, "not-found")
    return {"resourceType": "Bundle", "type": "transaction-response", "entry": answers}, linked


def _update(held: list[dict[str, Any]], resource: dict[str, Any], request: dict[str, Any]) -> str:
    """PUT by id, for the version that was read only; gives the new ETag."""
    place = [f"{one['resourceType']}/{one['id']}" for one in held].index(request["url"])
    version = held[place]["meta"]["versionId"]
    if request["url"] != f"{resource['resourceType']}/{resource['id']}" or request["ifMatch"] != f'W/"{version}"':
        raise Refused(412, "conflict")
    resource["meta"]["versionId"] = str(int(version) + 1)
    held[place] = resource
    return f'W/"{resource["meta"]["versionId"]}"'


def _is(resource: dict[str, Any], query: str) -> bool:
    """Whether a resource has what a search by `identifier` or `_tag` asks for."""
    name, _, token = query.partition("=")
    system, _, value = token.partition("|")
    if name == "identifier":
        return {"system": system, "value": value} in resource.get("identifier", [])
    if name == "_tag":
        return any((tag["system"], tag["code"]) == (system, value) for tag in resource["meta"]["tag"])
    raise Refused(400, "not-supported")


def _links(resource: dict[str, Any]) -> dict[str, Any]:
    """The elements that hold references: an identifier is a UUID too, and stays."""
    return {name: value for name, value in resource.items() if name not in ("identifier", "meta", "text")}


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == "reference" and isinstance(inner, str):
                yield inner
            else:
                yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)


class FhirPeer:
    """The other side, as the tests see it. `stop` and `start` keep port and what it holds."""

    def __init__(self, folder: Path, *certificate: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.port, self._certificate = folder, 0, certificate
        (folder / "mood").write_text("")
        self.knows(patient("4711", "17"))
        self.start()
        self.base_url = f"{'https' if certificate else 'http'}://127.0.0.1:{self.port}/r4"

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.fhir_peer", str(self.folder), str(self.port)]
        self._process = subprocess.Popen(
            [*command, *map(str, self._certificate)], stdout=subprocess.PIPE, text=True
        )  # fmt: skip
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def stop(self) -> None:
        self._process.kill()
        self._process.wait(timeout=60)

    def knows(self, *resources: dict[str, Any]) -> None:
        (self.folder / "held.json").write_text(json.dumps(resources))

    def forgets(self) -> None:
        """As it was at the start: a test may leave it in any mood, and down."""
        if self._process.poll() is not None:
            self.start()
        self.knows(patient("4711", "17"))
        self.is_in("")
        (self.folder / "requests.jsonl").write_text("")

    def is_in(self, mood: str) -> None:
        (self.folder / "mood").write_text(mood)

    def holds(self, kind: str = "") -> list[dict[str, Any]]:
        """Resources beside the patients, or those of a kind."""
        held = json.loads((self.folder / "held.json").read_text())
        return [one for one in held if one["resourceType"] == kind or (not kind and one["resourceType"] != "Patient")]

    @property
    def requests(self) -> list[dict[str, Any]]:
        path = self.folder / "requests.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def posts(self) -> list[dict[str, Any]]:
        return [one for one in self.requests if one["method"] == "POST"]


@contextmanager
def fhir_peer(folder: Path, *certificate: Path) -> Iterator[FhirPeer]:
    peer = FhirPeer(folder, *certificate)
    try:
        yield peer
    finally:
        peer.stop()


if __name__ == "__main__":
    import fhirkit  # noqa: F401 - it takes a while, which no request shall wait for

    serve(Peer, sys.argv[1], int(sys.argv[2]), *sys.argv[3:])

__all__ = ["SYSTEM", "FhirPeer", "fhir_peer", "patient"]
