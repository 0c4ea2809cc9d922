"""An operator's actions: what each does, when it is refused, and that the audit trail has all of it."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from config.settings import Deliver, Peer
from dicom_node import operations
from dicom_node.births import Birth
from dicom_node.demo_pacs import DemoPacs
from dicom_node.operations import ACTIONS, Actor, Refused, Unknown, act, refusal
from dicom_node.store import Store
from dicom_node.web import views
from dicom_node.workitem import TRANSITIONS, DeliveryState, LeaseLost, State, WorkItem
from dicom_node.worklist import Row
from tests import synthetic
from tests.road import Road, road
from tests.web.items import OWNER, Items

ANNA = Actor("anna", "web", "10.1.2.3")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store.sqlite")


@pytest.fixture
def items(store: Store) -> Items:
    return Items(store)


def row_of(store: Store, item: WorkItem) -> Row:
    row = store.worklist.row(item.id)
    assert row is not None
    return row


def now_of(store: Store, item: WorkItem) -> WorkItem:
    found = store.item(item.id)
    assert found is not None
    return found


# -- what is possible ------------------------------------------------------------------------------------------

# State -> actions that are possible there, for a work item with a contour of which nothing has been sent.
POSSIBLE = {
    State.WAITING: {"hold", "cancel", "priority"},
    State.SCHEDULED: {"rescore", "hold", "cancel", "priority"},
    State.ANALYSED: {"hold", "cancel", "priority"},
    State.REPORTED: {"hold", "cancel", "priority"},
    State.COMPLETED: {"rescore"},
    State.CANCELED: {"rescore"},
    State.FAILED: {"retry", "rescore", "hold", "cancel", "priority"},
}


@pytest.mark.parametrize("state", list(State))
def test_each_state_allows_just_its_actions_and_the_others_say_why_not(
    store: Store, items: Items, state: State
) -> None:
    item = items.at(state)
    row = row_of(store, item)
    assert {action for action in ACTIONS if refusal(action, row) is None} == POSSIBLE[state]
    for action in set(ACTIONS) - POSSIBLE[state]:
        with pytest.raises(Refused) as refused:
            act(store, action, item.id, ANNA, items.tick(), "HIGH")
        assert str(refused.value)
        assert refused.value.remedy
        entry = store.audit.of_item(item.id)[0]
        assert (entry.action, entry.outcome, entry.actor) == (f"workitem.{action}", "refused", "anna")
        assert entry.detail == str(refused.value)
    assert row_of(store, item) == row, "a refused action changes nothing"


@pytest.mark.parametrize(
    ("state", "action"), [(state, action) for state, actions in POSSIBLE.items() for action in sorted(actions)]
)
def test_what_is_possible_is_done_with_its_audit_entry(store: Store, items: Items, state: State, action: str) -> None:
    item = items.at(state)
    assert act(store, action, item.id, ANNA, items.tick(), "HIGH")
    (entry,) = store.audit.of_item(item.id)
    assert (entry.actor, entry.origin, entry.address, entry.outcome) == ("anna", "web", "10.1.2.3", "done")
    assert entry.study_instance_uid == item.study_instance_uid


def test_an_action_and_its_audit_entry_stand_or_fall_together(
    store: Store, items: Items, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = items.at(State.SCHEDULED)

    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(operations, "_audit", full)
    with pytest.raises(OSError, match="disk full"):
        act(store, "hold", item.id, ANNA, items.tick())
    assert now_of(store, item).held == 0


def test_an_unknown_work_item_is_said_to_be_unknown(store: Store) -> None:
    with pytest.raises(Unknown, match="there is no work item 7"):
        act(store, "hold", 7, ANNA, 1.0)


def test_what_a_revision_has_replaced_is_not_acted_on(store: Store, items: Items) -> None:
    old = items.at(State.COMPLETED, roi="1.3.5", study="1.2.5")
    items.at(State.COMPLETED, roi="1.3.5", study="1.2.5")
    with pytest.raises(Refused, match="later revision"):
        act(store, "rescore", old.id, ANNA, items.tick())


# -- hold and release ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [State.SCHEDULED, State.ANALYSED])
def test_a_held_work_item_is_not_claimed_until_it_is_released(store: Store, items: Items, state: State) -> None:
    held, other = items.at(state), items.at(state)
    act(store, "hold", held.id, ANNA, items.tick())
    assert items.claim(state).id == other.id
    assert store.claim(state, OWNER, 60, items.tick()) is None
    act(store, "release", held.id, ANNA, items.tick())
    assert items.claim(state).id == held.id


def test_a_held_work_item_is_not_sent_until_it_is_released(store: Store, items: Items) -> None:
    held, other = items.at(State.REPORTED), items.at(State.REPORTED)
    act(store, "hold", held.id, ANNA, items.tick())
    assert {row.work_item_id for row in store.deliveries.due(items.tick())} == {other.id}
    items.deliver(other)
    assert store.deliveries.due(items.tick()) == []
    act(store, "release", held.id, ANNA, items.tick())
    assert {row.work_item_id for row in store.deliveries.due(items.tick())} == {held.id}


def test_holding_takes_no_lease_away(store: Store, items: Items) -> None:
    item = items.scheduled()
    claimed = items.claim(State.SCHEDULED)
    act(store, "hold", item.id, ANNA, items.tick())
    store.advance(claimed, State.ANALYSED, OWNER, items.tick(), outcome="SCORED")
    assert (now_of(store, item).state, now_of(store, item).held) == (State.ANALYSED, 1)
    assert store.claim(State.ANALYSED, OWNER, 60, items.tick()) is None


def test_a_storage_commitment_report_is_taken_for_a_held_work_item_too(store: Store, items: Items) -> None:
    item = items.at(State.REPORTED)
    rows = store.deliveries.of_item(item.id)
    for number, row in enumerate(rows):
        store.deliveries.record(
            row.id, state=DeliveryState.SENT, sop_instance_uid=f"1.9.{number}", transaction_uid="1.7", sent_at=5.0
        )
    act(store, "hold", item.id, ANNA, items.tick())
    assert store.deliveries.commitment_report("1.7", {"1.9.0", "1.9.1"}, {}, items.tick())
    assert store.complete_delivered(items.tick()) == [item.id]
    assert (now_of(store, item).state, now_of(store, item).held) == (State.COMPLETED, 0)


def test_a_waiting_work_item_that_is_held_stays_so_when_its_contour_comes(store: Store, items: Items) -> None:
    from tests.unit.test_store import contour

    store.births.wait(contour("1.3.50"), "1.2.50", "1.2.50.1", "REFERENCED_CT_INCOMPLETE", "", items.tick())
    (waiting,) = store.items("1.2.50")
    act(store, "hold", waiting.id, ANNA, items.tick())
    store.births.schedule("1.3.50", Birth("1.2.50", "1.2.50.1", "k", "i", "{}", None), items.tick())
    item = now_of(store, waiting)
    assert (item.state, item.held) == (State.SCHEDULED, 1)


# -- cancel ----------------------------------------------------------------------------------------------------


def test_every_state_that_may_be_canceled_is_in_the_table_of_moves() -> None:
    may = {state for state, actions in POSSIBLE.items() if "cancel" in actions}
    assert may == {state for state, moves in TRANSITIONS.items() if State.CANCELED in moves}


def test_canceling_a_work_item_at_work_leaves_no_lease_and_the_worker_finds_it_lost(store: Store, items: Items) -> None:
    item = items.scheduled()
    claimed = items.claim(State.SCHEDULED)
    act(store, "cancel", item.id, ANNA, items.tick())
    assert store._db.rows("SELECT 1 FROM work_item WHERE lease_owner IS NOT NULL") == []
    with pytest.raises(LeaseLost):
        store.advance(claimed, State.ANALYSED, OWNER, items.tick())
    assert now_of(store, item).state is State.CANCELED


def test_canceling_ends_what_is_open_of_the_deliveries(store: Store, items: Items) -> None:
    item = items.at(State.REPORTED, destinations=("PACS", "ARCHIVE"))
    act(store, "cancel", item.id, ANNA, items.tick())
    assert {(row.state, row.final) for row in store.deliveries.of_item(item.id)} == {(DeliveryState.CANCELED, 1)}
    assert store.deliveries.due(items.tick() + 1e9) == []
    assert store.complete_delivered(items.tick()) == []


def test_what_has_left_already_cannot_be_canceled(store: Store, items: Items) -> None:
    item = items.at(State.REPORTED)
    first = store.deliveries.of_item(item.id)[0]
    store.deliveries.record(first.id, state=DeliveryState.SENT, sent_at=items.tick())
    with pytest.raises(Refused, match="have left already"):
        act(store, "cancel", item.id, ANNA, items.tick())


def test_what_may_have_left_cannot_be_canceled_either(store: Store, items: Items) -> None:
    item = items.at(State.REPORTED)
    first = store.deliveries.of_item(item.id)[0]
    store.deliveries.leaving({first.id: ("1.1", "2.25.1")})  # and no answer came
    with pytest.raises(Refused, match="or may have"):
        act(store, "cancel", item.id, ANNA, items.tick())


def test_a_failed_work_item_is_canceled_with_its_refused_deliveries_but_not_with_what_was_sent(
    store: Store, items: Items
) -> None:
    item = items.at(State.REPORTED)
    sent, refused = store.deliveries.of_item(item.id)
    store.deliveries.record(sent.id, state=DeliveryState.SEEN, final=1, sent_at=4.0, proved_at=5.0)
    store.deliveries.record(refused.id, state=DeliveryState.FAILED, final=1)
    store.complete_delivered(items.tick())
    act(store, "cancel", item.id, ANNA, items.tick())
    assert [row.state for row in store.deliveries.of_item(item.id)] == [DeliveryState.SEEN, DeliveryState.CANCELED]


def test_what_was_canceled_before_anything_was_sent_is_no_predecessor(store: Store, items: Items) -> None:
    item = items.at(State.REPORTED, roi="1.3.5", study="1.2.5", key="k")
    act(store, "cancel", item.id, ANNA, items.tick())
    again = items.scheduled(roi="1.3.5", study="1.2.5", key="k2")
    assert (again.revision, again.predecessor_key) == (1, None)


def test_a_canceled_work_item_can_be_planned_again(store: Store, items: Items) -> None:
    item = items.at(State.CANCELED, roi="1.3.5", study="1.2.5")
    act(store, "rescore", item.id, ANNA, items.tick())
    assert store.births.waiting_rois() == ["1.3.5"]


# -- retry, rescore, priority ----------------------------------------------------------------------------------


def test_a_retry_of_a_failed_analysis_analyses_again(store: Store, items: Items) -> None:
    item = items.at(State.FAILED)
    assert act(store, "retry", item.id, ANNA, items.tick()) == "it is analysed again"
    assert now_of(store, item).state is State.SCHEDULED


def test_a_retry_of_a_refused_delivery_sends_just_that_again(store: Store, items: Items) -> None:
    item = items.at(State.REPORTED, destinations=("PACS", "ARCHIVE"))
    for row in store.deliveries.of_item(item.id):
        refused = row.destination == "ARCHIVE"
        state = DeliveryState.FAILED if refused else DeliveryState.SEEN
        store.deliveries.record(row.id, state=state, final=1, sent_at=None if refused else 4.0)
    store.complete_delivered(items.tick())
    assert now_of(store, item).state is State.FAILED
    assert act(store, "retry", item.id, ANNA, items.tick()) == "what failed is sent again"
    assert {row.destination for row in store.deliveries.due(items.tick())} == {"ARCHIVE"}


def test_a_rescore_asks_the_planner_and_hides_nothing_meanwhile_from_the_study(store: Store, items: Items) -> None:
    item = items.at(State.COMPLETED, roi="1.3.5", study="1.2.5")
    act(store, "rescore", item.id, ANNA, items.tick())
    assert [row.state for row in store.worklist.of_study("1.2.5")] == [State.WAITING, State.COMPLETED]
    with pytest.raises(Refused, match="still waits"):
        act(store, "rescore", store.items("1.2.5")[0].id, ANNA, items.tick())


def test_a_ct_without_a_contour_cannot_be_rescored(store: Store, items: Items) -> None:
    item = items.waiting()
    with pytest.raises(Refused, match="no contour"):
        act(store, "rescore", item.id, ANNA, items.tick())


def test_a_higher_priority_is_claimed_first(store: Store, items: Items) -> None:
    first, second, third = (items.scheduled() for _ in range(3))
    act(store, "priority", third.id, ANNA, items.tick(), "HIGH")
    act(store, "priority", first.id, ANNA, items.tick(), "LOW")
    assert [items.claim(State.SCHEDULED).id for _ in range(3)] == [third.id, second.id, first.id]
    with pytest.raises(Refused, match="HIGH, MEDIUM or LOW"):
        act(store, "priority", second.id, ANNA, items.tick(), "URGENT")


# -- on the road -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reviewed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Road, DemoPacs]]:
    """A node that holds results for review, with one study that has come as far as that."""
    with DemoPacs(tmp_path_factory.mktemp("pacs"), "PACS", commitment="none") as pacs:
        peer = Peer("PACS", port=pacs.port, receives_results=True)
        node = road(tmp_path_factory.mktemp("node"), deliver=Deliver(hold_for_review=True, reread_demographics=False))
        node.restart(settings=replace(node.settings, peers=(peer,)))
        ct = synthetic.ct_series(16, 40, 40, seed=1)
        node.take(*ct, synthetic.rtstruct(ct))
        node.work()
        yield node, pacs


def test_a_result_held_for_review_leaves_only_when_it_is_released(reviewed: tuple[Road, DemoPacs]) -> None:
    node, pacs = reviewed
    (item,) = node.items
    row = row_of(node.store, item)
    assert (item.state, item.held) == (State.REPORTED, 1)
    assert row.deliveries.open == row.deliveries.total > 0
    assert row.summary is not None
    result = json.loads((node.spool.results(item.key or "", "analysis") / "result.json").read_text())
    assert [group.model_dump(mode="json") for group in row.summary.groups] == result["groups"]
    assert [score.model_dump(mode="json") for score in row.summary.scores] == result["scores"]
    assert row.summary.group == next(one["group"] for one in result["groups"] if one["endpoint"] == "OS")
    node.later(3600.0)
    assert pacs.objects() == []

    assert act(node.store, "release", item.id, ANNA, node.clock()) == "it goes on"
    node.work()
    (item,) = node.items
    assert (item.state, item.held) == (State.COMPLETED, 0)
    assert len(pacs.objects()) == row.deliveries.total


# -- what a rule says ------------------------------------------------------------------------------------------


def test_a_shadow_is_marked_as_not_sent_and_an_operators_priority_goes_before_the_rules(
    store: Store, items: Items
) -> None:
    from tests.unit.test_store import contour

    born = Birth("1.2.60", "1.2.60.1", "k", "i", "{}", None, priority=1, shadow=True)
    store.births.wait(contour("1.3.60"), "1.2.60", "1.2.60.1", "INCOMPLETE", "", items.tick(), shadow=True)
    (waiting,) = store.items("1.2.60")
    store.set_priority(waiting.id, -1, items.tick(), "later")
    store.births.schedule("1.3.60", born, items.tick())
    row = store.worklist.row(waiting.id)
    assert row is not None
    assert (row.shadow, row.priority) == (True, -1)
    assert store.births.schedule("1.3.61", replace(born, key="other"), items.tick())
    assert [one.priority for one in store.items("1.2.60")] == [1, -1]
    shown = views.row_view(replace(row, state=State.COMPLETED))
    assert (shown.deliveries.text, shown.stage.text) == ("not sent", "kept as a shadow")
