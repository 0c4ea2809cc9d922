"""The same SR in another SOP class, for a PACS that does not accept the preferred one."""

import copy
from collections.abc import Sequence

from pydicom.dataset import Dataset

from reports.encode import encoded, part10
from reports.sr_content import ReportError
from reports.sr_document import SR_SOP_CLASSES
from reports.uids import derive


def as_sop_class(document: Dataset, sop_class_uid: str) -> Dataset:
    """One of our SRs as `sop_class_uid`; its content is legal in each of SR_SOP_CLASSES, and is shared, not copied.

    It has a SOP Instance UID of its own, derived from the original's: one UID never stands for two contents. The
    series is the same: by it the page and the next revision name the report, whichever class a destination took.

    Raises
    ------
    ReportError
        For another SOP class.
    """
    if sop_class_uid not in SR_SOP_CLASSES:
        raise ReportError(f"SR SOP class {sop_class_uid}: use one of {', '.join(SR_SOP_CLASSES)}")
    made = Dataset()
    made.update(document)
    made.add_new("SOPClassUID", "UI", sop_class_uid)
    made.add_new("SOPInstanceUID", "UI", derive("variant instance", str(document.SOPInstanceUID), sop_class_uid))
    made.file_meta = copy.deepcopy(document.file_meta)
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    return made


def files(document: Dataset, others: Sequence[str]) -> tuple[bytes, list[bytes]]:
    """One of our SRs as a Part 10 file, and as the file of `as_sop_class` for each of the other SOP classes.

    Some thousand elements are encoded once: the files differ in the meta information and in two neighbouring elements.
    """
    whole = part10(document)
    meta, named = _beginning(document)
    body = whole[len(meta) :]
    place = body.index(named)
    before, after = body[:place], body[place + len(named) :]
    made = []
    for other in others:
        meta, named = _beginning(as_sop_class(document, other))
        made.append(b"".join((meta, before, named, after)))
    return whole, made


def _beginning(document: Dataset) -> tuple[bytes, bytes]:
    """Preamble and meta information; SOP Class and SOP Instance UID as they are encoded."""
    short = Dataset()
    short.file_meta = document.file_meta
    short.SOPClassUID, short.SOPInstanceUID = document.SOPClassUID, document.SOPInstanceUID
    whole, named = part10(short), encoded(short)
    return whole[: -len(named)], named
