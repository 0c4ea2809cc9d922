"""The JSON API over a node that has scored a study: what it says, what it does, and that its description is true."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from analysis.contract import JobResult
from config.settings import Deliver, Peer
from dicom_node.demo_pacs import DemoPacs
from dicom_node.status import STOPS
from dicom_node.workitem import State
from models.bundle import DEMO
from tests import synthetic
from tests.paths import ROOT
from tests.road import Road, road
from tests.web.items import Items
from tests.web.site import OPERATOR, Site, serving

DOCUMENT = json.loads((ROOT / "config" / "schema" / "openapi.json").read_text(encoding="utf-8"))
TOKENS = {"viewer": "prognode_viewer", "operator": "prognode_operator"}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Road]:
    """A node that has delivered the result of one study; of another the contour has not come."""
    with DemoPacs(tmp_path_factory.mktemp("pacs"), "PACS", commitment="none") as pacs:
        node = road(tmp_path_factory.mktemp("node"), deliver=Deliver(reread_demographics=False))
        node.restart(settings=replace(node.settings, peers=(Peer("PACS", port=pacs.port, receives_results=True),)))
        ct = synthetic.ct_series(16, 40, 40, seed=1)
        node.take(*ct, synthetic.rtstruct(ct))
        node.work()
        node.take(*synthetic.ct_series(16, 40, 40, seed=2))
        node.work()
        assert [item.state for item in node.items] == [State.WAITING, State.COMPLETED]
        yield node


@pytest.fixture(scope="module")
def site(node: Road) -> Iterator[Site]:
    for role, token in TOKENS.items():
        node.store.accounts.add_token(token, role, role, 1.0, None)  # type: ignore[arg-type]
    with serving(node.folder) as running:
        yield running


@pytest.fixture(scope="module")
def viewer(site: Site) -> Iterator["Api"]:
    with site.with_token(TOKENS["viewer"]) as client:
        yield Api(client)


@pytest.fixture(scope="module")
def operator(site: Site) -> Iterator["Api"]:
    with site.with_token(TOKENS["operator"]) as client:
        yield Api(client)


class Api:
    """Asks, and holds every answer to the description of its operation."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def get(self, path: str, status: int = 200, **query: Any) -> Any:
        return self._checked(self._client.get(f"/api/v1{path}", params=query), status)

    def post(self, path: str, status: int = 200, **body: Any) -> Any:
        return self._checked(self._client.post(f"/api/v1{path}", json=body or None), status)

    def _checked(self, answer: httpx.Response, status: int) -> Any:
        assert answer.status_code == status, answer.text
        said = answer.json()
        path, method = answer.request.url.path, answer.request.method.lower()
        operation = next(
            one[method] for pattern, one in DOCUMENT["paths"].items() if method in one and _matches(pattern, path)
        )
        schema = operation["responses"][str(status)]["content"]["application/json"]["schema"]
        jsonschema.validate(said, {**schema, "components": DOCUMENT["components"]})
        return said


def _matches(pattern: str, path: str) -> bool:
    parts, words = pattern.split("/"), path.split("/")
    return len(parts) == len(words) and all(a == b or a.startswith("{") for a, b in zip(parts, words, strict=True))


def completed(node: Road) -> int:
    return next(item.id for item in node.items if item.state is State.COMPLETED)


# -- looking -----------------------------------------------------------------------------------------------------


def test_the_worklist_has_every_work_item_with_its_patient_and_its_score(viewer: Api, node: Road) -> None:
    page = viewer.get("/worklist")
    assert (page["total"], page["more"], len(page["work_items"])) == (2, False, 2)
    waiting, scored = page["work_items"]
    assert (waiting["procedure_step_state"], waiting["state"], waiting["reason"]) == (
        "SCHEDULED",
        "WAITING",
        "NO_CONTOUR",
    )
    assert (scored["procedure_step_state"], scored["outcome"]) == ("COMPLETED", "SCORED")
    identity = node.store.patients.of_study(scored["study_instance_uid"])
    assert identity is not None
    assert scored["patient"]["patient_name"] == identity.patient_name != ""
    assert {score["horizon_months"] for score in scored["summary"]["scores"]} == {12, 36}
    assert scored["deliveries"]["proved"] == scored["deliveries"]["total"] > 0
    assert datetime.fromisoformat(scored["created_at"]).timestamp() == node.store.item(scored["id"]).created_at  # type: ignore[union-attr]


def test_the_worklist_is_filtered_sorted_and_paged(viewer: Api) -> None:
    def ids(**query: Any) -> list[int]:
        return [item["id"] for item in viewer.get("/worklist", **query)["work_items"]]

    waiting, scored = ids()
    assert ids(state="COMPLETED") == ids(outcome="SCORED") == [scored]
    assert ids(state=["COMPLETED", "WAITING"], descending=False) == [scored, waiting]
    assert ids(limit=1, offset=1) == [scored]
    assert ids(text="nobody of this name") == []
    assert ids(held=True) == []
    name = viewer.get("/worklist")["work_items"][0]["patient"]["patient_name"]
    assert waiting in ids(text=name.partition("^")[0].lower())
    for wrong in ({"limit": 201}, {"sort": "name"}, {"state": "DONE"}, {"offset": -1}, {"text": "x" * 129}):
        viewer.get("/worklist", 422, **wrong)


def test_a_work_item_tells_its_way_and_what_can_be_done(viewer: Api, node: Road) -> None:
    number = completed(node)
    item = viewer.get(f"/work-items/{number}")
    assert [stop["name"] for stop in item["stops"]] == list(STOPS)
    assert all(stop["at"] for stop in item["stops"] if stop["name"] != "store")
    assert {name for name, action in item["actions"].items() if action["possible"]} == {"rescore"}
    assert item["actions"]["cancel"] == {
        "possible": False,
        "detail": "it is COMPLETED: that is its end",
        "remedy": "nothing to do",
    }
    deliveries = viewer.get(f"/work-items/{number}/deliveries")
    assert {one["state"] for one in deliveries} == {"SEEN"}
    assert all(one["final"] and one["proved_at"] and one["sop_instance_uid"] for one in deliveries)
    events = [one["name"] for one in viewer.get(f"/work-items/{number}/events")]
    assert events[0] == "waiting" or events[0] == "scheduled"
    assert events[-1] == "completed"


def test_the_result_is_the_job_s_own(viewer: Api, node: Road) -> None:
    number = completed(node)
    said = viewer.get(f"/work-items/{number}/result")
    item = node.store.item(number)
    assert item is not None
    path = node.spool.results(item.key or "", "analysis") / "result.json"
    assert JobResult.model_validate(said) == JobResult.model_validate_json(path.read_bytes())
    waiting = node.items[0].id
    assert viewer.get(f"/work-items/{waiting}/result", 404)["remedy"] == "the work item is WAITING"


def test_whoever_opens_a_study_or_a_result_stands_in_the_audit_trail(viewer: Api, operator: Api, node: Road) -> None:
    number, study = completed(node), node.items[-1].study_instance_uid
    before = len(node.store.audit.newest())
    viewer.get("/worklist")
    viewer.get(f"/work-items/{number}")
    viewer.get(f"/work-items/{number}/result")
    viewer.get(f"/studies/{study}")
    newest = node.store.audit.newest()
    made = [(one.action, one.actor, one.origin, one.study_instance_uid) for one in newest[: len(newest) - before]]
    assert made == [
        ("study.opened", "token:viewer", "api", study),
        ("result.opened", "token:viewer", "api", study),
        ("study.opened", "token:viewer", "api", study),
    ]
    viewer.get(f"/work-items/{number}/audit", 403)
    assert {one["action"] for one in operator.get(f"/work-items/{number}/audit")} >= {"study.opened", "result.opened"}


def test_a_study_that_is_not_here_is_said_to_be_unknown(viewer: Api) -> None:
    assert "not known here" in viewer.get("/studies/1.2.3", 404)["detail"]
    viewer.get("/studies/no-uid", 422)
    viewer.get("/work-items/999999", 404)
    viewer.get(f"/work-items/{2**70}", 422)


def test_models_are_the_installed_bundle(viewer: Api, node: Road) -> None:
    (model,) = viewer.get("/models")
    assert model["digest"] == node.bundle.digest
    assert model["manifest"]["synthetic"] is True
    assert model["card"] == (DEMO / "model_card.md").read_text(encoding="utf-8")
    assert model["metrics"] == json.loads((DEMO / "metrics.json").read_text(encoding="utf-8"))
    assert (model["golden"], model["problem"]) == ("", "")


def test_the_system_tells_of_disk_queue_peers_and_worker(viewer: Api, node: Road) -> None:
    before = viewer.get("/system")
    assert before["worker"] is None
    assert before["queue"]["counts"] == {"COMPLETED": 1, "WAITING": 1} | {
        state: count for state, count in before["queue"]["counts"].items() if state == "CANCELED"
    }
    assert set(before["queue"]["oldest_seconds"]) == {"WAITING"}
    assert before["disk"]["free"] > 0
    pacs = next(peer for peer in before["peers"] if peer["name"] == "PACS")
    assert pacs["delivered"]["at"] > 0
    assert pacs["echo"] is None
    sender = next(peer for peer in before["peers"] if peer["name"] == "TEST")
    assert sender["received"]["at"] > 0
    assert sender["where"] == "", "it is not in these settings"


def test_the_worker_s_heartbeat_is_seen(viewer: Api, node: Road) -> None:
    import time

    from dicom_node.heartbeat import Heartbeat

    facts = {
        "isolation": "network namespace",
        "isolated": True,
        "bundle": node.bundle.digest,
        "golden": "golden case ok",
    }
    beating = Heartbeat(node.settings, lambda: node.store, {"jobs": "apart"}, time.time)
    assert beating.beat() is False
    node.store.vitals.beat("run", "0.1.0", time.time(), time.time(), facts)
    assert beating.echo() is False
    said = viewer.get("/system")
    assert (said["worker_alive"], said["runner"]["facts"]["isolation"]) == (True, "network namespace")
    pacs = next(peer for peer in said["peers"] if peer["name"] == "PACS")
    assert (pacs["echo"]["well"], "answers C-ECHO" in pacs["echo"]["detail"]) == (True, True)
    (model,) = viewer.get("/models")
    assert model["golden"] == "golden case ok"
    Heartbeat(node.settings, lambda: node.store, facts, lambda: time.time() - 600.0).beat()
    assert viewer.get("/system")["worker_alive"] is False


# -- acting ------------------------------------------------------------------------------------------------------


def test_actions_do_what_the_operations_do(operator: Api, node: Road) -> None:
    items = Items(node.store, now=node.clock.now + 1000.0)
    item = items.scheduled()
    said = operator.post(f"/work-items/{item.id}/priority", priority="HIGH")
    assert (said["detail"], said["work_item"]["priority"]) == ("its priority is HIGH", "HIGH")
    assert operator.post(f"/work-items/{item.id}/hold")["work_item"]["held"] is True
    assert operator.post(f"/work-items/{item.id}/hold", 409) == {
        "detail": "it is held already", "remedy": "release it to let it go on",
    }  # fmt: skip
    assert operator.post(f"/work-items/{item.id}/release")["work_item"]["held"] is False
    assert operator.post(f"/work-items/{item.id}/retry", 409)["detail"] == "it has not failed; it is SCHEDULED"
    assert operator.post(f"/work-items/{item.id}/cancel")["work_item"]["procedure_step_state"] == "CANCELED"
    assert operator.post(f"/work-items/{item.id}/rescore")["detail"].startswith("it is planned once more")
    operator.post("/work-items/999999/hold", 404)
    operator.post(f"/work-items/{item.id}/priority", 422, priority="URGENT")
    operator.post(f"/work-items/{item.id}/priority", 422, priority="HIGH", more=1)
    trail = [(one["action"], one["outcome"]) for one in operator.get(f"/work-items/{item.id}/audit")]
    assert trail == [
        ("workitem.rescore", "done"), ("workitem.cancel", "done"), ("workitem.retry", "refused"),
        ("workitem.release", "done"), ("workitem.hold", "refused"), ("workitem.hold", "done"),
        ("workitem.priority", "done"),
    ]  # fmt: skip


def test_a_session_of_the_page_may_use_the_api_too(site: Site) -> None:
    client = site.signed_in()
    assert client.get("/api/v1/me").json() == {"account": OPERATOR, "role": "operator"}


# -- the description ---------------------------------------------------------------------------------------------


def test_the_node_gives_its_description_to_whoever_is_signed_in(viewer: Api, site: Site) -> None:
    client = site.with_token(TOKENS["viewer"])
    assert client.get("/api/v1/openapi.json").json() == DOCUMENT
    assert site.client().get("/api/v1/openapi.json").status_code == 401


def test_every_operation_is_described_and_asks_for_a_token() -> None:
    assert len(DOCUMENT["paths"]) >= 15
    seen: set[str] = set()
    for path, operations in DOCUMENT["paths"].items():
        assert path.startswith(("/api/v1/", "/fhir/"))
        for method, operation in operations.items():
            assert operation["description"], f"{method} {path}"
            assert operation["security"] == [{"HTTPBearer": []}], path
            assert operation["operationId"] not in seen
            seen.add(operation["operationId"])
            assert {"401", "403"} <= set(operation["responses"]), path


def test_an_odd_path_in_the_settings_is_no_matter(tmp_path: Path) -> None:
    """The description does not depend on where it is made."""
    code = "import json; from dicom_node.web.app import openapi_document; print(json.dumps(openapi_document()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert json.loads(done.stdout) == DOCUMENT
