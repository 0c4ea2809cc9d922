"""What must hold after every fault: acknowledged = kept, results in PACS and RIS exactly once, the right state."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dicom_node.demo_pacs import DemoPacs
from dicom_node.headers import data_set_digest
from dicom_node.messages import is_message
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.workitem import DeliveryState, State, WorkItem
from tests.e2e.node import SCORED_OBJECTS
from tests.faults.peers import Ris


@dataclass(frozen=True)
class Outcome:
    """Of one cell.

    `lost`: acknowledged objects that are not kept byte for byte, results that never came or are not what was composed;
    `doubled`: results there twice. `struck`: whether the fault has happened at all; where not, nothing was shown.
    """

    lost: int
    doubled: int
    state: str
    remarks: str = ""
    struck: bool = True

    @property
    def well(self) -> bool:
        return not self.lost and not self.doubled and self.state == State.COMPLETED


def look(
    spool: Spool,
    pacs: DemoPacs,
    ris: Ris,
    acknowledged: Mapping[str, str],
    remarks: str = "",
    *,
    struck: bool = True,
) -> Outcome:
    """Compare what was acknowledged (SOP Instance UID -> digest) and what should be filed with what is there."""
    store = Store.open(spool.store)
    try:
        items = [item for item in store.items() if item.state is not State.CANCELED]
        lost = sum(not _kept(store, spool, uid, digest) for uid, digest in acknowledged.items())
        rows = [row for item in items for row in store.deliveries.of_item(item.id)]
        sent = {row.sop_instance_uid for row in rows if not is_message(row.destination)}
        told = [row for row in rows if is_message(row.destination) and row.state is DeliveryState.ACKNOWLEDGED]
    finally:
        store.close()
    composed = {path.stem: data_set_digest(path) for item in items for path in _composed(spool, item)}
    filed = {one.sop_instance_uid: data_set_digest(one.path) for one in pacs.objects()}
    lost += len(sent - set(filed)) + len(set(SCORED_OBJECTS) - {row.document for row in rows})
    lost += sum(digest not in composed.values() for digest in filed.values())
    lost += not told or not {row.sop_instance_uid for row in told} <= set(ris.control_ids)
    doubled = len(set(filed) - sent)  # under other UIDs than the node knows: a second set of results
    doubled += max(0, len(items) - 1)  # one study, one contour: one work item
    doubled += max(0, len(set(ris.control_ids)) - 1)  # the same number again is the same message to a receiver
    return Outcome(lost, doubled, ", ".join(item.state for item in items) or "none", remarks, struck)


def digests(paths: Sequence[Path]) -> dict[str, str]:
    """SOP Instance UID (the file's name) -> digest of its data set."""
    return {path.stem: data_set_digest(path) for path in paths}


def _composed(spool: Spool, item: WorkItem) -> list[Path]:
    return list(spool.results(item.key or "", "report").glob("*.dcm"))


def _kept(store: Store, spool: Spool, uid: str, digest: str) -> bool:
    path = spool.instance_path(uid, digest)
    row = store.arrivals.instance(uid)
    return row is not None and row.digest == digest and path.is_file() and data_set_digest(path) == digest


def unacknowledged(paths: Sequence[Path], acknowledged: Collection[str]) -> list[Path]:
    return [path for path in paths if path.stem not in acknowledged]
