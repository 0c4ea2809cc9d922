"""The same SR in another SOP class, for a PACS that does not accept the preferred one."""

import copy

from pydicom.dataset import Dataset

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
