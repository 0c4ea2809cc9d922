"""Routing rules on the road: who sent the contour decides on bundle, gates, priority and destinations."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import dcmread

from analysis.contract import RESULT_FILE, JobResult, Outcome, Reason
from config.settings import Deliver, Hl7Peer, Peer, Planning, Rule, Settings
from dicom_node import status
from dicom_node.analyst import Analyst
from dicom_node.bundles import Bundles
from dicom_node.demo_pacs import DemoPacs
from dicom_node.job import Runner
from dicom_node.loop import Loop
from dicom_node.result_index import ResultQuery
from dicom_node.step_state import Step, StepState
from dicom_node.ticket import Ticket
from dicom_node.workitem import PRIORITIES, State, WorkItem
from models.bundle import DEMO, MANIFEST, load
from tests import synthetic
from tests.road import Road, road

STRICT = Planning(minimum_slices=99)
STUDIES = [synthetic.ct_series(16, 40, 40, seed=seed) for seed in (51, 52, 53)]


def other_bundle(folder: Path) -> Path:
    """The demo bundle under another name, and so with another digest."""
    shutil.copytree(DEMO, folder)
    manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    (folder / MANIFEST).write_text(json.dumps(manifest | {"name": "radiotherapy"}), "utf-8")
    return folder


def sent(node: Road, sender: str, number: int) -> WorkItem:
    """A study whose contour comes from `sender`, its CT from elsewhere; planned, and no more."""
    ct = STUDIES[number]
    node.sender = "MODALITY"
    node.take(*ct)
    node.sender = sender
    node.take(synthetic.rtstruct(ct))
    for _ in range(2):  # then its series has been quiet for a while
        while node.worker.step_plan():
            pass
        node.clock.now += 40.0
    node.worker.step_plan()
    return next(item for item in node.items if item.study_instance_uid == ct[0].StudyInstanceUID)


@pytest.fixture
def all_destinations(tmp_path: Path) -> Iterator[tuple[Road, DemoPacs, DemoPacs]]:
    """A node of three rules, two archives and a RIS that never answers."""
    with DemoPacs(tmp_path / "a", "PACS_A", commitment="none") as a, DemoPacs(tmp_path / "b", "PACS_B") as b:
        peers = tuple(Peer(one.ae_title, port=one.port, receives_results=True, proof="find") for one in (a, b))
        rules = (
            Rule("radiotherapy", ("RT_?",), other_bundle(tmp_path / "rt"), ("PACS_B",), "HIGH"),
            Rule("trial", ("TRIAL*",), priority="LOW", shadow=True, plan=STRICT),
        )
        node = road(
            tmp_path / "node",
            peers=peers,
            rules=rules,
            hl7_peers=(Hl7Peer("RIS", port=9),),
            deliver=Deliver(first_delay_seconds=1.0, connect_timeout_seconds=2.0),
        )
        yield node, a, b


def test_who_sent_the_contour_decides_and_the_ticket_keeps_it(
    all_destinations: tuple[Road, DemoPacs, DemoPacs], caplog: pytest.LogCaptureFixture
) -> None:
    node, a, b = all_destinations
    caplog.set_level("INFO")
    ruled, shadow, plain = (sent(node, *each) for each in (("RT_1", 0), ("TRIAL7", 1), ("CT_1", 2)))
    tickets = [Ticket.from_json(item.plan or "") for item in (ruled, shadow, plain)]
    radiotherapy, demo = load(node.settings.rules[0].bundle or DEMO), load(DEMO)
    assert [one.rule for one in tickets] == ["radiotherapy", "trial", ""]
    assert [one.bundle_digest for one in tickets] == [radiotherapy.digest, demo.digest, demo.digest]
    assert [one.priority for one in (ruled, shadow, plain)] == [PRIORITIES[name] for name in ("HIGH", "LOW", "MEDIUM")]
    assert (ruled.reason, shadow.reason, plain.reason) == (None, Reason.TOO_FEW_SLICES, None)
    assert "by rule radiotherapy" in caplog.text

    # What is in flight keeps its rule, whatever the settings are by now; only its bundle has to be there.
    node.restart(settings=replace(node.settings, rules=(replace(node.settings.rules[0], name="other"),)))
    node.store.cancel(plain.id, node.clock(), "no more of it is needed")
    node.work()
    ruled, shadow = (node.store.item(item.id) or item for item in (ruled, shadow))
    assert [item.state for item in (ruled, shadow)] == [State.COMPLETED, State.COMPLETED]
    result = JobResult.model_validate_json((node.spool.results(ruled.key or "", "analysis") / RESULT_FILE).read_bytes())
    assert (result.outcome, result.bundle.name) == (Outcome.SCORED, "radiotherapy")
    assert {row.destination for row in node.store.deliveries.of_item(ruled.id)} == {"PACS_B"}
    assert (len(a.objects()), len(b.objects())) == (0, len(node.store.deliveries.of_item(ruled.id)))

    said = status.of_study(node.store, node.spool, STUDIES[1][0].StudyInstanceUID) or ""
    assert "by the rule trial: a shadow, nothing of it is sent" in said
    assert "shadow" in status.overview(node.store, False)
    # The shadow has its report, nobody outside hears of it, and its images may go: they came from an archive.
    assert node.store.retention.condition(STUDIES[1][0].StudyInstanceUID).kept == ()
    assert shadow.outcome == Outcome.NOT_SCORED
    assert node.report(shadow).is_file()
    assert node.store.deliveries.of_item(shadow.id) == []
    assert [one.item.id for one in node.store.results.find(ResultQuery(), 10)] == [ruled.id]
    while node.store.steps.follow(lambda number, at: f"1.2.{number}", lambda keys, number: False):
        pass
    assert node.store.steps.of_uid(f"1.2.{ruled.id}") is not None
    assert node.store.steps.of_uid(f"1.2.{shadow.id}") is None


def test_what_was_a_shadow_is_sent_once_it_is_none_and_refers_to_nothing_that_nobody_saw(tmp_path: Path) -> None:
    with DemoPacs(tmp_path / "a", "PACS", commitment="none") as pacs:
        peers = (Peer("PACS", port=pacs.port, receives_results=True, proof="find"),)
        node = road(tmp_path / "node", peers=peers, rules=(Rule("trial", shadow=True, plan=STRICT),))
        item = sent(node, "TRIAL", 0)
        node.work()
        assert pacs.objects() == []
        node.restart(settings=replace(node.settings, rules=(Rule("trial", plan=STRICT),)))
        node.store.births.replan(item.id, "rescore asked for by an operator", node.clock())
        node.later()
        newest = node.items[0]
        assert (newest.revision, newest.shadow, newest.state) == (2, 0, State.COMPLETED)
        sr = next(dcmread(one.path) for one in pacs.objects() if dcmread(one.path).Modality == "SR")
        assert "PredecessorDocumentsSequence" not in sr


def test_what_is_sent_after_a_shadow_replaces_what_was_sent_before_it(tmp_path: Path) -> None:
    with DemoPacs(tmp_path / "a", "PACS", commitment="none") as pacs:
        peers = (Peer("PACS", port=pacs.port, receives_results=True, proof="find"),)
        node = road(tmp_path / "node", peers=peers, rules=(Rule("trial", plan=STRICT),))
        live = node.settings
        first = sent(node, "TRIAL", 0)
        node.work()
        for settings in (replace(live, rules=(Rule("trial", shadow=True, plan=STRICT),)), live):
            node.restart(settings=settings)
            assert node.store.births.replan(node.items[0].id, "rescore asked for by an operator", node.clock())
            node.later()
        third, second, _ = node.items
        assert [item.shadow for item in (third, second)] == [0, 1]
        assert (third.revision, third.predecessor_key) == (3, first.key)
        assert second.predecessor_key == first.key
        sr = dcmread(node.report(third))
        (before,) = sr.PredecessorDocumentsSequence
        uid = before.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        assert uid == dcmread(node.report(first)).SOPInstanceUID
        assert [one.item.id for one in node.store.results.find(ResultQuery(), 10)] == [third.id]


def test_a_step_that_was_told_before_its_rule_made_it_a_shadow_is_canceled_and_shows_no_result(tmp_path: Path) -> None:
    node = road(tmp_path / "node", rules=(Rule("trial", plan=STRICT),))

    def step_of(item: WorkItem) -> Step:
        while node.store.steps.follow(lambda number, at: f"1.2.{number}", lambda keys, number: False):
            pass
        found = node.store.steps.of_uid(f"1.2.{item.id}")
        assert found is not None
        return found.step

    node.take(synthetic.rtstruct(STUDIES[0]))
    node.worker.step_plan()
    (item,) = node.items
    assert (item.state, step_of(item).state) == (State.WAITING, StepState.SCHEDULED)
    live, shadow = node.settings, replace(node.settings, rules=(Rule("trial", shadow=True, plan=STRICT),))
    for settings, images in ((shadow, STUDIES[0][:3]), (live, STUDIES[0][3:5])):
        node.restart(settings=settings)
        node.take(*images)
        node.later(10.0)
        assert (node.items[0].state, node.items[0].shadow) == (State.WAITING, settings is shadow)
        assert step_of(item).state is StepState.SCHEDULED, "it waits, and may be no shadow in the end"
    node.restart(settings=shadow)
    node.take(*STUDIES[0][5:])
    node.work()
    node.later(60.0)
    assert (node.items[0].id, node.items[0].shadow, node.items[0].state) == (item.id, 1, State.COMPLETED)
    assert (step_of(item).state, step_of(item).started_at) == (StepState.CANCELED, None)


def test_a_bundle_that_was_in_use_before_a_reload_serves_what_is_in_flight_while_it_is_as_it_was(
    tmp_path: Path,
) -> None:
    old, new = load(other_bundle(tmp_path / "rt")), load(DEMO)
    ruled = Settings(rules=(Rule("rt", bundle=old.folder),))
    before = Bundles.load(ruled)
    assert ([one.digest for one in before], before.of(ruled.rules[0])) == ([new.digest, old.digest], old)
    after = Bundles.load(Settings(), before)
    assert [one.digest for one in after] == [new.digest]
    assert after.get(old.digest) == old
    manifest = json.loads((old.folder / MANIFEST).read_text("utf-8"))
    (old.folder / MANIFEST).write_text(json.dumps(manifest | {"name": "replaced"}), "utf-8")
    assert after.get(old.digest) is None, "what was planned with it is planned again"
    assert after.get("0" * 64) is None


def test_a_runner_that_lacks_the_planner_s_bundle_waits_for_it_and_asks_for_no_plan_over_and_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    node = road(tmp_path / "node", rules=(Rule("rt", bundle=other_bundle(tmp_path / "rt")),))
    loop, runner = Loop(node.settings, node.spool, node.clock), Runner(node.spool, node.settings.job, load(DEMO))
    apart = Analyst(node.settings, node.spool, Bundles(load(DEMO)), runner, loop)  # it was not reloaded
    node.clock.now += 1.0
    item = sent(node, "RT", 0)
    for _ in range(3):
        assert apart.step()
        assert not apart.step(), "it is not taken again at once"
        node.clock.now += 61.0
        node.worker.step_plan()
    newest = node.items[0]
    assert (newest.id, newest.state, newest.attempts) == (item.id, State.SCHEDULED, 0)
    assert "bundle.unknown" in caplog.text
    apart.go_on_with(Bundles.load(node.settings))
    assert apart.step()
    assert (node.items[0].id, node.items[0].state) == (item.id, State.ANALYSED)
