"""What must hold after every fault: acknowledged = kept, results in the PACS exactly once, the right final state."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dicom_node.demo_pacs import DemoPacs
from dicom_node.headers import data_set_digest
from dicom_node.messages import is_message
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.workitem import State

DOCUMENTS = frozenset({"risk-sr", "radiomics-sr", "page-1", "segmentation"})


@dataclass(frozen=True)
class Outcome:
    """Of one cell. `lost`: acknowledged objects not kept, results that never came; `doubled`: results there twice."""

    lost: int
    doubled: int
    state: str
    remarks: str = ""

    @property
    def well(self) -> bool:
        return not self.lost and not self.doubled and self.state == State.COMPLETED


def look(spool: Spool, pacs: DemoPacs, acknowledged: Mapping[str, str], remarks: str = "") -> Outcome:
    """Compare what was acknowledged (SOP Instance UID -> digest) and what should be filed with what is there."""
    store = Store.open(spool.store)
    try:
        items = [item for item in store.items() if item.state is not State.CANCELED]
        lost = sum(not _kept(store, spool, uid, digest) for uid, digest in acknowledged.items())
        rows = [row for item in items for row in store.deliveries.of_item(item.id) if not is_message(row.destination)]
    finally:
        store.close()
    filed = {one.sop_instance_uid for one in pacs.objects()}
    sent = {row.sop_instance_uid for row in rows}
    lost += len(sent - filed) + len(DOCUMENTS - {row.document for row in rows})
    doubled = len(filed - sent)  # under other UIDs than the node knows: a second set of results
    doubled += max(0, len(items) - 1)  # one study, one contour: one work item
    return Outcome(lost, doubled, ", ".join(item.state for item in items) or "none", remarks)


def digests(paths: Sequence[Path]) -> dict[str, str]:
    """SOP Instance UID (the file's name) -> digest of its data set."""
    return {path.stem: data_set_digest(path) for path in paths}


def _kept(store: Store, spool: Spool, uid: str, digest: str) -> bool:
    path = spool.instance_path(uid, digest)
    row = store.arrivals.instance(uid)
    return row is not None and row.digest == digest and path.is_file() and data_set_digest(path) == digest


def unacknowledged(paths: Sequence[Path], acknowledged: Collection[str]) -> list[Path]:
    return [path for path in paths if path.stem not in acknowledged]
