"""Encapsulated PDF: the pages as a document that viewers open beside the study (PS3.3 A.45.1)."""

from collections.abc import Sequence

from highdicom.base import SOPClass
from pydicom.dataset import Dataset
from pydicom.uid import EncapsulatedPDFStorage, ExplicitVRLittleEndian

from config.identity import MANUFACTURER, MODEL_NAME
from reports import codes
from reports.context import ReportContext, local_time
from reports.evidence import reference, stand_in
from reports.finish import CHARACTER_SET, finish
from reports.sr_document import Slot


def build(pdf: bytes, title: str, evidence: Sequence[Dataset], slot: Slot, context: ReportContext) -> Dataset:
    """A PDF in the study of `evidence[0]`; `evidence` is what it was made from."""
    source = evidence[0]
    seen = stand_in(source)
    now = local_time(context, source)
    made: Dataset = SOPClass(
        study_instance_uid=seen.StudyInstanceUID,
        series_instance_uid=slot.series_instance_uid,
        series_number=slot.series_number,
        sop_instance_uid=slot.sop_instance_uid,
        sop_class_uid=EncapsulatedPDFStorage,
        instance_number=1,
        modality="DOC",  # with OT, viewers take it for an image
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MODEL_NAME,
        device_serial_number=context.device_uid,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        patient_id="",
        patient_name="",
        patient_birth_date="",
        patient_sex="",
        specific_character_set=CHARACTER_SET,
        content_date=now.date(),
        content_time=now.time(),
        series_description=slot.series_description,
        coding_schemes=codes.coding_schemes()[:1],
    )
    made.ConversionType = "WSD"
    made.AcquisitionDateTime = ""  # type 2: of no single moment
    made.BurnedInAnnotation = "NO"  # the pages carry no name and no identifier
    made.RecognizableVisualFeatures = "NO"
    made.DocumentTitle = title[:1024]
    made.ConceptNameCodeSequence = []
    made.VerificationFlag = "UNVERIFIED"
    made.SourceInstanceSequence = [_reference(item) for item in evidence]
    made.MIMETypeOfEncapsulatedDocument = "application/pdf"
    made.EncapsulatedDocumentLength = len(pdf)
    made.EncapsulatedDocument = pdf + b"\0" * (len(pdf) % 2)
    return finish(made, source, context)


def _reference(source: Dataset) -> Dataset:
    uids = reference(source)
    item = Dataset()
    item.ReferencedSOPClassUID = uids.SOPClassUID
    item.ReferencedSOPInstanceUID = uids.SOPInstanceUID
    return item
