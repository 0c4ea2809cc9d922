"""What leaves, in which order and when it is tried again: a real PACS in a mood, the node's turns by hand."""

import shutil
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pynetdicom import evt
from pynetdicom.association import Association

from config.settings import Deliver, Peer, Settings
from dicom_node import deliver
from dicom_node.demo_pacs import DemoPacs
from dicom_node.dispatch import QUERY_PATIENCE, QUESTION_PATIENCE, REPORT_PATIENCE
from dicom_node.store import Store
from dicom_node.workitem import DeliveryState, Retryable
from tests.road import Road, road
from tests.synthetic import DEFECTS, ct_series, rtstruct

ABORT = -1  # instead of a status


class Moody(DemoPacs):
    """Does what it is told when it is asked (`on_find`): once an association, whatever the number of questions."""

    on_find: Callable[[str], int | None] = staticmethod(lambda level: None)
    told: tuple[Association | None, int | None] = (None, None)

    def _on_find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        if self.told[0] is not event.assoc:
            self.told = event.assoc, self.on_find(str(event.identifier.QueryRetrieveLevel))
        status = self.told[1]
        if status is None:
            yield from super()._on_find(event)
        elif status == ABORT:
            event.assoc.abort()
        else:
            yield status, None


class Unwilling(DemoPacs):
    """Ends the association at a request for storage commitment, or answers it with a failure, by turns."""

    asked = 0

    def _on_action(self, event: evt.Event) -> tuple[int, None]:
        self.asked += 1
        if self.asked % 2:
            event.assoc.abort()
        return 0x0110, None


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[Moody]:
    with Moody(tmp_path / "pacs", "PACS", commitment="none") as running:
        yield running


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The spool of a study that is not scored (no job runs), reported, and nothing of it sent."""
    folder = tmp_path_factory.mktemp("composed")
    made = road(folder, peers=(Peer("PACS", port=1, receives_results=True),))
    ct = DEFECTS["without rescale"](ct_series(16, 40, 40, seed=31))
    made.take(*ct, rtstruct(ct))
    for step in (made.worker.step_plan, made.worker.step_analyse, made.worker.step_report):
        while step():
            pass
    made.store.close()
    return made.spool.root


def node_of(composed: Path, folder: Path, pacs: DemoPacs, proof: str) -> Road:
    shutil.copytree(composed, folder / "spool")
    peer = Peer("PACS", port=pacs.port, sends=False, receives_results=True, proof=proof)
    made = road(folder, peers=(peer,), deliver=Deliver(connect_timeout_seconds=5.0))
    assert made.items[0].state == "REPORTED"
    return made


@pytest.mark.parametrize("what", ["cancel", "hold"])
def test_what_is_withdrawn_or_held_while_the_pacs_is_asked_whose_it_is_does_not_leave(
    what: str, composed: Path, tmp_path: Path, pacs: Moody
) -> None:
    node = node_of(composed, tmp_path, pacs, "none")
    (item,) = node.items

    def meanwhile(level: str) -> None:
        operator = Store.open(node.spool.store)
        if what == "cancel":
            operator.cancel(item.id, node.clock(), "withdrawn")
        else:
            operator.hold(item.id, True, node.clock(), "held")
        operator.close()

    pacs.on_find = meanwhile
    assert node.worker.step_deliver()
    states = {row.state for row in node.store.deliveries.of_item(item.id)}
    assert states == {DeliveryState.CANCELED if what == "cancel" else DeliveryState.PENDING}
    assert not node.store.deliveries.has_left(item.id)
    assert not node.worker.step_deliver()
    assert pacs.received == []
    if what == "hold":
        pacs.on_find = lambda level: None
        node.store.hold(item.id, False, node.clock(), "released")
        node.later()
        assert node.items[0].state == "COMPLETED"
        assert pacs.received


def test_an_object_that_makes_the_pacs_abort_goes_last_and_keeps_no_other_from_leaving(
    composed: Path, tmp_path: Path, pacs: Moody
) -> None:
    node = node_of(composed, tmp_path, pacs, "none")
    first, *others = node.store.deliveries.of_item(node.items[0].id)
    tried: list[str] = []

    def falls_over(sop_class_uid: str) -> int:
        tried.append(sop_class_uid)
        if sop_class_uid == abhorred:
            for association in pacs._server.active_associations:
                association.abort()
        return 0x0000

    abhorred = dcmread(node.report(node.items[0], f"{first.document}.dcm")).SOPClassUID
    pacs.status = falls_over
    for turn in range(1, 4):
        assert node.worker.step_deliver()
        assert tried == [abhorred] * turn, "until then the order is that of composing: it may have been the network"
        rows = node.store.deliveries.of_item(node.items[0].id)
        assert [row.attempts for row in rows] == [turn, *[0] * len(others)]
        assert not node.worker.step_deliver(), "the others wait for it"
        node.clock.now += 3600.0
    assert node.worker.step_deliver()
    states = [row.state for row in node.store.deliveries.of_item(node.items[0].id)]
    assert states == [DeliveryState.PENDING, *[DeliveryState.SENT] * len(others)]
    assert tried[-1] == abhorred


@pytest.mark.parametrize("status", [0x0110, 0xC000, 0xFE00, 0xA700, ABORT])
def test_one_failed_search_does_not_end_the_proof(status: int, composed: Path, tmp_path: Path, pacs: Moody) -> None:
    node = node_of(composed, tmp_path, pacs, "auto")
    answers = iter([None, status])  # whose study it is; whether it is there
    pacs.on_find = lambda level: next(answers, None)
    assert node.worker.step_deliver()
    rows = node.store.deliveries.of_item(node.items[0].id)
    assert {(row.state, row.final, row.attempts) for row in rows} == {(DeliveryState.SENT, 0, 1)}
    node.later()
    assert {row.state for row in node.store.deliveries.of_item(node.items[0].id)} == {DeliveryState.SEEN}


def test_a_pacs_that_never_answers_the_search_ends_as_unproved_after_a_while(
    composed: Path, tmp_path: Path, pacs: Moody
) -> None:
    node = node_of(composed, tmp_path, pacs, "auto")
    (item,) = node.items
    statuses = cycle([0xC000, ABORT, 0x0110, 0xA700])
    pacs.on_find = lambda level: next(statuses) if level == "IMAGE" else None
    assert node.worker.step_deliver()
    for row in node.store.deliveries.of_item(item.id):
        node.store.deliveries.record(row.id, attempts=40, detail="it was down for a week")
    for _ in range(QUERY_PATIENCE):
        assert node.items[0].state == "REPORTED"
        node.later(3600.0)
    assert node.items[0].state == "COMPLETED"
    details = {(row.state, row.detail) for row in node.store.deliveries.of_item(item.id)}
    assert details == {(DeliveryState.SENT, "the peer could not answer C-FIND (status C000H)")}


def test_a_pacs_that_never_takes_the_request_for_commitment_ends_as_unproved_after_a_while(
    composed: Path, tmp_path: Path
) -> None:
    with Unwilling(tmp_path / "pacs", "PACS") as pacs:
        node = node_of(composed, tmp_path, pacs, "commitment")
        (item,) = node.items

        def later(**columns: object) -> set[tuple[str, int, int, str]]:
            for row in node.store.deliveries.of_item(item.id) if columns else ():
                node.store.deliveries.record(row.id, **columns)
            node.later(3600.0)
            rows = node.store.deliveries.of_item(item.id)
            return {(row.state, row.final, row.attempts, row.detail.partition(";")[0]) for row in rows}

        words = "the peer could not take the request for storage commitment ({})".format
        lost, refused = words("the connection ended, or it took too long"), words("status 0110H")
        assert later() == {("SENT", 0, 1, lost)}
        assert later() == {("SENT", 0, 2, refused)}
        assert later(attempts=40, detail="it was down for a week") == {("SENT", 0, 1, lost)}
        assert later(attempts=REPORT_PATIENCE - 2) == {("SENT", 0, REPORT_PATIENCE - 1, refused)}
        assert later() == {("SENT", 1, REPORT_PATIENCE - 1, lost)}
        assert node.items[0].state == "COMPLETED"
        assert len(pacs.received) == len(set(pacs.received))


def test_searches_that_failed_are_no_look_that_did_not_find_an_object(
    composed: Path, tmp_path: Path, pacs: Moody
) -> None:
    node = node_of(composed, tmp_path, pacs, "auto")
    (item,) = node.items
    answers = iter([None, 0x0110, ABORT, 0x0000])  # whose study it is; it fails twice; it lists nothing
    pacs.on_find = lambda level: next(answers, None)
    for _ in range(3):
        node.later(60.0)
    rows = node.store.deliveries.of_item(item.id)
    assert {(row.state, row.final, row.attempts, row.unseen) for row in rows} == {(DeliveryState.SENT, 0, 0, 1)}
    node.later(60.0)
    assert {row.state for row in node.store.deliveries.of_item(item.id)} == {DeliveryState.SEEN}
    assert len(pacs.received) == len(set(pacs.received)) == len(rows)


def test_what_three_answers_do_not_list_is_sent_again_also_where_searches_fail_in_between(
    composed: Path, tmp_path: Path, pacs: Moody
) -> None:
    node = node_of(composed, tmp_path, pacs, "auto")
    (item,) = node.items
    answers = iter([None, *[0x0110, 0x0000] * 3])
    pacs.on_find = lambda level: next(answers, None)
    for _ in range(6):
        node.later(60.0)
    rows = node.store.deliveries.of_item(item.id)
    assert {(row.state, row.attempts, row.unseen) for row in rows} == {(DeliveryState.PENDING, 0, 3)}
    assert len(pacs.received) == len(rows)
    node.later(60.0)
    assert node.items[0].state == "COMPLETED"
    assert len(pacs.received) == 2 * len(rows)


@pytest.mark.parametrize("status", [0x0110, 0xA700, ABORT])
def test_a_pacs_that_cannot_say_whose_a_study_is_is_asked_again_and_gets_the_result_in_the_end(
    status: int, composed: Path, tmp_path: Path, pacs: Moody
) -> None:
    node = node_of(composed, tmp_path, pacs, "none")
    for row in node.store.deliveries.of_item(node.items[0].id):
        node.store.deliveries.record(row.id, attempts=40, detail="it was down for a week")
    pacs.on_find = lambda level: status
    for _ in range(QUESTION_PATIENCE):
        node.later(60.0)
        assert pacs.received == []
    node.later(60.0)
    assert node.items[0].state == "COMPLETED"
    events = [event["name"] for event in node.store.details(node.items[0].id)["events"]]
    assert events.count("identity not confirmed") == 1


def test_an_association_that_ends_before_a_request_is_tried_again_and_says_what_to_do(
    pacs: Moody, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(association: Association, _: object) -> bool:
        association.abort()
        return True

    monkeypatch.setattr(deliver, "_accepts", lost)
    peer, settings = Peer("PACS", port=pacs.port), Settings()
    asked: list[Callable[[], object]] = [
        lambda: deliver.find(peer, "1.2", {"1.2.3": "1.2.4"}, settings),
        lambda: deliver.find_identities(peer, "1.2", settings),
        lambda: deliver.request_commitment(peer, [("1.2", "1.3")], "1.4", settings),
    ]
    for question in asked:
        with pytest.raises(Retryable, match="the connection ended before") as raised:
            question()
        assert raised.value.hint
    said = deliver.echo(peer, settings)
    assert (said.ok, bool(said.hint)) == (False, True)
