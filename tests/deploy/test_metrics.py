"""/metrics: what the store says, for whoever may ask; and rules and dashboard that ask for what there is."""

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from config.settings import Settings, parse
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.summary import Summary
from dicom_node.traffic import Traffic
from dicom_node.web.app import create_app
from dicom_node.workitem import DeliveryState, State
from tests.paths import ROOT
from tests.web.items import OWNER, YAMADA, Items

RULES = ROOT / "deploy" / "prometheus" / "prognode.rules.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "prognode.json"
METRICS = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
TOKENS = {role: f"prognode_{role}" for role in ("monitor", "viewer")}


class Node:
    """The page's application over a store of its own."""

    def __init__(self, folder: Path) -> None:
        self.settings: Settings = parse(
            {"peers": [{"ae_title": "PACS", "receives_results": True}, {"ae_title": "CT7"}]}, folder
        )
        self.spool = Spool(folder / "spool")
        self.spool.create()
        self.store = Store.open(self.spool.store)
        self.items = Items(self.store)
        self.app: FastAPI = create_app(self.settings, self.spool)
        for role, token in TOKENS.items():
            self.store.accounts.add_token(token, role, role, 1.0, None)  # type: ignore[arg-type]

    def get(self, path: str, token: str = TOKENS["monitor"], **headers: str) -> httpx.Response:
        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(self.app), base_url="http://127.0.0.1"
            ) as client:
                return await client.get(path, headers={"Authorization": f"Bearer {token}"} | headers)

        return asyncio.run(ask())

    def scrape(self) -> dict[str, float]:
        """Sample with its labels, as in the text -> value."""
        found = {}
        for family in text_string_to_metric_families(self.get("/metrics").text):
            for sample in family.samples:
                labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
                found[f"{sample.name}{{{labels}}}"] = sample.value
        return found


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    made.store.close()


def scored(node: Node, *, outside: bool) -> None:
    """A work item on its whole way, as the worker takes it, with two objects: one committed, one seen."""
    item = node.items.scheduled()
    facts = {"group": "HIGH", "groups": (), "scores": (), "modalities": (), "missing": (), "warnings": 0}
    summary = Summary.model_validate({**facts, "synthetic": True, "outside_range": outside}).model_dump_json()
    claimed = node.items.claim(State.SCHEDULED)
    node.store.note(item.id, "scheduled claimed", node.items.now + 9.0)  # it waited for 10 s
    node.items.now += 49.0
    node.store.advance(claimed, State.ANALYSED, OWNER, node.items.tick(), outcome="SCORED", summary=summary)
    claimed = node.items.claim(State.ANALYSED)
    objects = [("risk-sr", "PACS"), ("page-1", "PACS")]
    node.store.advance(claimed, State.REPORTED, OWNER, node.items.tick(), "2 objects", deliveries=objects)
    for one, state in zip(
        node.store.deliveries.of_item(item.id), (DeliveryState.COMMITTED, DeliveryState.SEEN), strict=True
    ):
        node.store.deliveries.record(one.id, state=state, final=1, sent_at=node.items.now, proved_at=node.items.now)
    node.store.complete_delivered(node.items.tick())


def everything(node: Node) -> None:
    """Something of each kind, so that every metric has a sample."""
    node.get("/metrics")  # what is counted is counted from here on
    scored(node, outside=True)
    scored(node, outside=False)
    node.items.at(State.FAILED)
    node.items.at(State.REPORTED)
    node.items.study("1.2.840.1")  # an image of CT1, which is no peer
    traffic = Traffic(node.settings)
    for what, count in (("associations", 2), ("objects", 120), ("bytes", 63_000_000), ("refused", 1)):
        traffic.add("CT7", **{what: count})
    traffic.add("Yamada^Tarou", objects=1)  # callers choose their names
    facts = {"peers": traffic.facts(), "running": 1, "turned_away": 3}
    node.store.vitals.beat("receive", "1", 1.0, node.items.now, facts)
    node.store.vitals.beat("run", "1", 1.0, node.items.now, {"isolated": True, "bundle": "of another day"})
    node.store.vitals.echoed("PACS", True, "", node.items.now)


# -- who may ask -------------------------------------------------------------------------------------------------


def test_a_monitor_s_token_reads_the_metrics_and_nothing_else(node: Node) -> None:
    assert node.get("/metrics").status_code == 200
    assert node.get("/metrics", TOKENS["viewer"]).status_code == 200
    assert node.get("/metrics", "prognode_of_nobody").status_code == 401
    for path in ("/api/v1/worklist", "/api/v1/system", "/api/v1/me", "/", "/live", "/system", "/fhir/r4/metadata"):
        assert node.get(path).status_code == 403, path
    assert "token may read /metrics" in node.get("/api/v1/worklist").json()["detail"]


def test_both_forms_of_the_exposition_are_given(node: Node) -> None:
    assert node.get("/metrics").headers["content-type"].startswith("text/plain; version=")
    answer = node.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


# -- what they say -----------------------------------------------------------------------------------------------


def test_a_study_s_way_is_counted_stage_by_stage(node: Node) -> None:
    everything(node)
    said = node.scrape()
    assert said["prognode_work_items{state=COMPLETED}"] == 2
    assert said["prognode_work_items{state=FAILED}"] == 1
    assert said["prognode_work_items{state=WAITING}"] == 0
    assert said["prognode_stage_duration_seconds_count{stage=analyse}"] >= 2
    assert said["prognode_stage_duration_seconds_bucket{le=10.0,stage=queue}"] >= 2
    assert (
        said["prognode_stage_duration_seconds_bucket{le=5.0,stage=queue}"]
        < said["prognode_stage_duration_seconds_count{stage=queue}"]
    )
    assert said["prognode_results_total{outcome=SCORED,reason=}"] >= 2
    assert said["prognode_results_outside_range_total{}"] == 1
    assert said["prognode_failures_total{}"] == 1
    assert said["prognode_study_duration_seconds_count{}"] == 2
    assert said["prognode_deliveries_total{destination=PACS,proof=COMMITTED}"] == 2
    assert said["prognode_deliveries_total{destination=PACS,proof=SEEN}"] == 2
    assert said["prognode_deliveries_open{destination=PACS}"] >= 1
    assert said["prognode_oldest_delivery_seconds{destination=PACS}"] > 0
    assert said["prognode_standing_seconds{state=REPORTED}"] > 0
    assert said["prognode_standing_seconds{state=SCHEDULED}"] == 0
    assert node.scrape()["prognode_results_outside_range_total{}"] == 1  # the same history is not counted twice


def test_what_an_operator_holds_makes_no_alarm(node: Node) -> None:
    everything(node)
    (open_,) = [item for item in node.store.items() if item.state is State.REPORTED]
    node.store.hold(open_.id, True, node.items.now, "for review")
    said = node.scrape()
    assert said["prognode_oldest_delivery_seconds{destination=PACS}"] == 0
    assert said["prognode_standing_seconds{state=REPORTED}"] == 0
    assert said["prognode_work_items_held{}"] == 1


def test_refusals_are_counted_from_nought(node: Node) -> None:
    assert node.scrape()["prognode_deliveries_total{destination=PACS,proof=FAILED}"] == 0


def test_what_came_before_the_page_began_is_not_counted(node: Node) -> None:
    scored(node, outside=True)
    assert node.scrape()["prognode_results_outside_range_total{}"] == 0
    scored(node, outside=True)
    assert node.scrape()["prognode_results_outside_range_total{}"] == 1


def test_a_peer_that_is_no_destination_any_more_is_not_judged_by_its_last_echo(node: Node) -> None:
    node.store.vitals.echoed("CT7", False, "", node.items.now)
    node.store.vitals.echoed("PACS", False, "", node.items.now)
    said = {name: value for name, value in node.scrape().items() if name.startswith("prognode_peer_echo")}
    assert said == {"prognode_peer_echo{peer=PACS}": 0}


def test_the_receiver_s_counts_are_by_peer_and_strangers_are_together(node: Node) -> None:
    everything(node)
    said = node.scrape()
    assert said["prognode_objects_total{peer=CT7}"] == 120
    assert said["prognode_objects_total{peer=(others)}"] == 1
    assert said["prognode_received_bytes_total{peer=CT7}"] == 63_000_000
    assert said["prognode_connections_turned_away_total{}"] == 3
    assert "prognode_peer_last_success_timestamp_seconds{kind=received,peer=(others)}" in said
    assert said["prognode_peer_echo{peer=PACS}"] == 1
    assert said["prognode_process_up{process=receive}"] == 0  # it last spoke in 2023
    assert said["prognode_bundle_loaded{}"] == 0
    (digest,) = [name for name in said if name.startswith("prognode_bundle_info")]
    assert re.search(r"digest=[0-9a-f]{64},.*synthetic=true", digest)


def test_no_patient_and_no_name_that_a_stranger_chose_is_in_them(node: Node) -> None:
    everything(node)
    text = node.get("/metrics").text
    for secret in (YAMADA.patient_name, "Yamada", YAMADA.patient_id, YAMADA.accession_number, "1.2.840", "CT1"):
        assert secret not in text


def test_no_query_walks_through_the_history(node: Node) -> None:
    asked: list[str] = []
    node.store._db.connection.set_trace_callback(asked.append)
    node.store.measures.happened(0)
    node.store.measures.open_deliveries()
    node.store._db.connection.set_trace_callback(None)
    plans = [row["detail"] for sql in asked for row in node.store._db.rows(f"EXPLAIN QUERY PLAN {sql}")]
    assert len(plans) >= 4
    walks = [plan for plan in plans if plan.startswith("SCAN") and "delivery_open" not in plan]
    assert not walks


# -- rules and dashboard -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", [RULES, DASHBOARD], ids=lambda file: file.name)
def test_every_metric_that_rules_and_dashboard_name_is_there(node: Node, file: Path) -> None:
    everything(node)
    there = {name.partition("{")[0] for name in node.scrape()}
    named = set(re.findall(r"\bprognode_[a-z0-9_]+", file.read_text(encoding="utf-8")))
    assert len(named) > 12
    assert not named - there


def test_every_metric_is_in_the_document_and_the_other_way_round(node: Node) -> None:
    everything(node)
    text = node.get("/metrics").text
    ours = {name for name in re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE) if not name.startswith("prognode_web_")}
    assert set(re.findall(r"^\| `(prognode_\w+)` \|", METRICS, re.MULTILINE)) == ours


def test_every_alert_has_a_remedy_and_is_in_the_document() -> None:
    rules = RULES.read_text(encoding="utf-8").split("- alert: ")[1:]
    assert len(rules) > 10
    for rule in rules:
        for part in ("expr:", "severity:", "summary:", "remedy:"):
            assert part in rule
        assert f"| `{rule.split()[0]}` |" in METRICS


def test_promtool_finds_nothing_wrong_with_rules_and_configuration() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("needs promtool of Debian's package prometheus")
    config = RULES.with_name("prometheus.yml")
    for arguments in (["rules", str(RULES)], ["config", "--syntax-only", str(config)]):
        done = subprocess.run([promtool, "check", *arguments], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_s_panels_do_not_overlap_and_each_asks_something() -> None:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not own & cells, panel["title"]
        assert place["x"] + place["w"] <= 24
        cells |= own
        assert panel["title"]
        assert all(target["expr"] for target in panel["targets"])
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_a_result_with_a_value_outside_the_range_is_known_by_the_analysis_s_own_flag() -> None:
    import numpy as np

    from analysis.score_flags import _outside
    from dicom_node.summary import summary_of
    from tests.report_inputs import contribution, result

    mask = np.zeros((6, 16, 16), bool)
    mask[2:4, 6:10, 6:10] = True
    far = contribution("OS", "Age", 97.0, "a", 0.4, out_of_range=True)
    within = contribution("OS", "Age", 60.0, "a", 0.4, out_of_range=False)
    for found, expected in ((far, True), (within, False)):
        summary = summary_of(result(mask, quality=tuple(_outside([found]))))
        assert summary is not None
        assert summary.outside_range is expected
