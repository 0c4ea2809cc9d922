"""What leaves, in which order and when it is tried again: a real PACS in a mood, the node's turns by hand."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pynetdicom import evt

from config.settings import Deliver, Peer
from dicom_node.demo_pacs import DemoPacs
from dicom_node.store import Store
from dicom_node.workitem import DeliveryState
from tests.road import Road, road
from tests.synthetic import DEFECTS, ct_series, rtstruct


class Moody(DemoPacs):
    """Does what it is told when it is asked (`on_find`)."""

    on_find: Callable[[str], int | None] = staticmethod(lambda level: None)

    def _on_find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        status = self.on_find(str(event.identifier.QueryRetrieveLevel))
        if status is None:
            yield from super()._on_find(event)
        else:
            yield status, None


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
