"""Storage commitment's data sets (PS3.4 J.3), shared by `deliver` (asks) and `receive` (hears the answer). Pure."""

from collections.abc import Iterable

from pydicom.dataset import Dataset

from dicom_node.elements import items, uid, unsigned_short

PROCESSING_FAILURE = 0x0110


def request_dataset(transaction_uid: str, instances: Iterable[tuple[str, str]]) -> Dataset:
    """Action information of the N-ACTION that asks for commitment of (SOP class, SOP instance) pairs."""
    dataset = Dataset()
    dataset.TransactionUID = transaction_uid
    dataset.ReferencedSOPSequence = []
    for sop_class_uid, sop_instance_uid in instances:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, sop_instance_uid
        dataset.ReferencedSOPSequence.append(item)
    return dataset


def read_report(report: Dataset) -> tuple[str, list[str], dict[str, int]]:
    """Transaction UID, committed SOP Instance UIDs, and failed ones with their Failure Reason (0008,1197).

    Raises UnreadableHeader.
    """
    committed = [uid(item, "ReferencedSOPInstanceUID") for item in items(report, "ReferencedSOPSequence")]
    failed = {
        uid(item, "ReferencedSOPInstanceUID"): unsigned_short(item, "FailureReason") or PROCESSING_FAILURE
        for item in items(report, "FailedSOPSequence")
    }
    return uid(report, "TransactionUID", required=True), committed, failed


def read_request(request: Dataset) -> tuple[str, list[tuple[str, str]]]:
    """Transaction UID and (SOP class, SOP instance) pairs of a request. Raises UnreadableHeader."""
    pairs = [
        (uid(item, "ReferencedSOPClassUID"), uid(item, "ReferencedSOPInstanceUID"))
        for item in items(request, "ReferencedSOPSequence")
    ]
    return uid(request, "TransactionUID", required=True), pairs
