"""The SR document around a content tree: SOP class, evidence, predecessor, flags."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from highdicom.sr import Comprehensive3DSR, ComprehensiveSR, ContainerContentItem, EnhancedSR
from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage, EnhancedSRStorage, ExplicitVRLittleEndian

from config.identity import MANUFACTURER
from reports import codes
from reports.context import DocumentReference, ReportContext, local_time
from reports.evidence import stand_ins
from reports.finish import CHARACTER_SET, finish
from reports.sr_content import ReportError, separate

SR_SOP_CLASSES: Final = (str(Comprehensive3DSRStorage), str(ComprehensiveSRStorage), str(EnhancedSRStorage))


@dataclass(frozen=True)
class Slot:
    """Where an object of ours goes: UIDs, number and description of its own series."""

    series_instance_uid: str
    sop_instance_uid: str
    series_number: int
    series_description: str
    instance_number: int = 1


def document(
    sop_class_uid: str,
    content: ContainerContentItem,
    evidence: Sequence[Dataset],
    slot: Slot,
    previous: DocumentReference | None,
    context: ReportContext,
) -> Dataset:
    """An SR that is complete, preliminary and unverified; the study is that of `evidence[0]`.

    `sop_class_uid` is Comprehensive 3D, Comprehensive or Enhanced SR; the content is legal in each of them.

    Raises
    ------
    ReportError
        For another SOP class.
    EvidenceError
        Where an evidence header lacks a UID.
    """
    makers = dict(zip(SR_SOP_CLASSES, (Comprehensive3DSR, ComprehensiveSR, EnhancedSR), strict=True))
    if sop_class_uid not in makers:
        raise ReportError(f"SR SOP class {sop_class_uid}: use one of {', '.join(SR_SOP_CLASSES)}")
    separate(content)
    now = local_time(context, evidence[0])
    made: Dataset = makers[sop_class_uid](
        evidence=stand_ins(evidence),
        content=content,
        series_instance_uid=slot.series_instance_uid,
        series_number=slot.series_number,
        sop_instance_uid=slot.sop_instance_uid,
        instance_number=1,
        manufacturer=MANUFACTURER,
        is_complete=True,
        is_final=False,
        is_verified=False,
        previous_versions=None if previous is None else [_reference(previous)],
        content_date=now.date(),
        content_time=now.time(),
        series_description=slot.series_description,
        specific_character_set=CHARACTER_SET,
        coding_schemes=codes.coding_schemes(),
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    return finish(made, evidence[0], context)


def _reference(previous: DocumentReference) -> Dataset:
    reference = Dataset()
    reference.SOPClassUID = previous.sop_class_uid
    reference.SOPInstanceUID = previous.sop_instance_uid
    reference.SeriesInstanceUID = previous.series_instance_uid
    reference.StudyInstanceUID = previous.study_instance_uid
    return reference
