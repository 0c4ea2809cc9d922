"""A sending that breaks off in the middle, and files that are gone: what is open afterwards, and what is said."""

from pathlib import Path

from pynetdicom import evt

from config.settings import Peer
from dicom_node.demo_pacs import DemoPacs
from dicom_node.workitem import DeliveryState, State
from tests import synthetic
from tests.road import Road, road

CT = synthetic.ct_series(12, 32, 32, seed=3)


class Aborting(DemoPacs):
    """Ends the association at the second object, without an answer."""

    objects_seen = 0

    def _on_store(self, event: evt.Event) -> int:
        self.objects_seen += 1
        if self.objects_seen == 2:
            event.assoc.abort()
            return 0x0110
        return super()._on_store(event)


def node(folder: Path, port: int) -> Road:
    made = road(folder, peers=(Peer("PACS", port=port, sends=False, receives_results=True),))
    made.take(*CT, synthetic.rtstruct(CT))
    return made


def test_what_had_not_its_turn_has_not_left_and_goes_out_at_the_next_try(tmp_path: Path) -> None:
    with Aborting(tmp_path / "pacs", "PACS") as pacs:
        made = node(tmp_path, pacs.port)
        made.work()
        (item,) = made.items
        rows = made.store.deliveries.of_item(item.id)
        left = [row.document for row in rows if row.sop_instance_uid]
        assert len(left) == 2, "the one that was answered, and the one that may have arrived"
        assert {row.state for row in rows if row.document not in left} == {DeliveryState.PENDING}
        assert {row.detail for row in rows if row.document not in left} == {"the association ended before its turn"}
        for _ in range(20):
            made.later(120.0)
        assert made.store.item(item.id).state is State.COMPLETED  # type: ignore[union-attr]
        assert len(pacs.objects()) == len(rows)


def test_a_report_file_that_is_gone_is_an_operators_task_and_not_tried_for_ever(tmp_path: Path) -> None:
    with DemoPacs(tmp_path / "pacs", "PACS") as pacs:
        made = node(tmp_path, pacs.port)
        while made.worker.step_plan() or made.worker.step_analyse() or made.worker.step_report():
            pass
        (item,) = made.items
        kept = made.report(item, "page-1.dcm")
        content = kept.read_bytes()
        kept.unlink()
        made.later(60.0)
        failed = made.store.item(item.id)
        assert failed is not None
        assert failed.state is State.FAILED
        assert "page-1.dcm is gone; restore the spool's files" in made.store.deliveries.of_item(item.id)[0].detail
        kept.write_bytes(content)
        made.store.retry(item.id, made.clock(), "by a test")
        for _ in range(5):
            made.later(60.0)
        assert made.store.item(item.id).state is State.COMPLETED  # type: ignore[union-attr]
