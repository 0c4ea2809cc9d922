"""Studies that an older Prognode stored without an identity get theirs, from the headers that are still here."""

import logging
from collections.abc import Callable

from dicom_node import headers
from dicom_node.elements import UnreadableHeader
from dicom_node.identity import Identity
from dicom_node.spool import Spool
from dicom_node.store import Store

LOGGER = logging.getLogger(__name__)
STUDIES_AT_A_TIME = 20


def fill(store: Store, spool: Spool, clock: Callable[[], float]) -> bool:
    """A few more studies; False when none is left. One whose header cannot be read any more stays without identity."""
    missing = store.patients.missing(STUDIES_AT_A_TIME)
    for study, uid, digest in missing:
        identity = _of_file(spool, uid, digest) if uid and digest else Identity()
        store.patients.received(study, identity, clock())
    return bool(missing)


def _of_file(spool: Spool, sop_instance_uid: str, digest: str) -> Identity:
    try:
        return headers.read_with_identity(spool.instance_path(sop_instance_uid, digest), digest)[1]
    except (OSError, UnreadableHeader) as error:
        LOGGER.warning("identity.unreadable of a study of an earlier version: %s", type(error).__name__)
        return Identity()
