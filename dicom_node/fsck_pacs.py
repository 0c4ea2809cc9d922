"""`prognode fsck --pacs`: asks the destinations for what they were proved to have (C-FIND at IMAGE level)."""

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from pydicom import dcmread

from config.settings import Peer, Settings
from dicom_node import deliver
from dicom_node.delivery_audit import query_sent
from dicom_node.fsck import Finding, Problem
from dicom_node.inspection import ProvedRow
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.workitem import Retryable


class NotAsked(Exception):
    """A destination could not be asked; the text says why, and what to do."""


def not_in_pacs(
    store: Store, spool: Spool, settings: Settings, clock: Callable[[], float] = time.time
) -> Iterator[Finding]:
    """Objects that are proved in the store, and that their destination does not list any more.

    Raises NotAsked for a destination that is down or does not offer C-FIND.
    """
    peers = {peer.ae_title: peer for peer in settings.peers}
    rows = sorted(store.inspection.proved(), key=lambda row: (row.destination, row.work_item_id, row.id))
    for (destination, _), group in itertools.groupby(rows, key=lambda row: (row.destination, row.work_item_id)):
        peer = peers.get(destination)
        if peer is not None:
            yield from _missing(store, spool, settings, peer, list(group), clock)


def _missing(
    store: Store, spool: Spool, settings: Settings, peer: Peer, rows: list[ProvedRow], clock: Callable[[], float]
) -> Iterator[Finding]:
    study, places = rows[0].study_instance_uid, _places(spool, rows[0].key)
    wanted = {row.sop_instance_uid: places.get(row.sop_instance_uid, "") for row in rows}
    query = deliver.image_query(study, "", sorted(wanted))
    entry = query_sent(peer, deliver.STUDY_ROOT_FIND, query, clock(), rows[0].work_item_id)
    try:
        seen = deliver.find(peer, study, wanted, settings)
    except Retryable as error:
        if isinstance(error, deliver.QueryFailed):  # it has been asked
            store.audit.add(replace(entry, outcome="failed", detail=str(error)))
        raise NotAsked(f"{error}; {error.hint}") from None
    if seen is None:
        raise NotAsked(f"{peer.ae_title} offers no C-FIND: what it has cannot be asked for")
    store.audit.add(entry)
    for row in rows:
        if row.sop_instance_uid in seen:
            continue
        here = row.sop_instance_uid in places and not row.removed
        about = f"{row.document} at {row.destination}, work item {row.work_item_id}, study {study}"
        problem = Problem.NOT_IN_PACS if here else Problem.NOT_IN_PACS_NOR_HERE
        yield Finding(problem, about, row=row.id, study_instance_uid=study)


def _places(spool: Spool, key: str) -> dict[str, str]:
    """SOP Instance UID -> Series Instance UID of the objects of a result that are here."""
    found: dict[str, str] = {}
    for path in sorted(spool.results(key, "report").glob("*.dcm")):
        header = _header(path)
        if header is not None:
            found[header[0]] = header[1]
    return found


def _header(path: Path) -> tuple[str, str] | None:
    try:
        read = dcmread(path, stop_before_pixels=True, specific_tags=["SOPInstanceUID", "SeriesInstanceUID"])
        return str(read.SOPInstanceUID), str(read.SeriesInstanceUID)
    except Exception:  # noqa: BLE001 - a damaged file is no file to send
        return None
