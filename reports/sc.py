"""SC: the page as a Secondary Capture image that any viewer shows."""

from collections.abc import Sequence

import numpy as np
from highdicom.sc import SCImage
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from config.identity import MANUFACTURER
from reports import codes, words
from reports.context import ReportContext, local_time
from reports.evidence import stand_in
from reports.finish import CHARACTER_SET, body_part, finish
from reports.sr_document import Slot


def build(
    pixels: NDArray[np.uint8],
    evidence: Sequence[Dataset],
    source_image: tuple[Dataset, int | None] | None,
    risk_sr: Dataset,
    slot: Slot,
    context: ReportContext,
) -> Dataset:
    """The page in the study of `evidence[0]` (PS3.3 A.8.1).

    Parameters
    ----------
    pixels : uint8 array, (rows, columns, 3), RGB
    source_image : header and frame of the key slice, None where the evidence holds no image
    risk_sr : the SR that the page illustrates
    """
    source = evidence[0]
    seen = stand_in(source)
    now = local_time(context, source)
    made: Dataset = SCImage(
        pixel_array=np.ascontiguousarray(pixels),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        study_instance_uid=seen.StudyInstanceUID,
        series_instance_uid=slot.series_instance_uid,
        series_number=slot.series_number,
        sop_instance_uid=slot.sop_instance_uid,
        instance_number=slot.instance_number,
        manufacturer=MANUFACTURER,
        patient_id="",
        patient_name="",
        patient_birth_date="",
        patient_sex="",
        patient_orientation=("L", "P"),  # demanded by highdicom, emptied below
        transfer_syntax_uid=ExplicitVRLittleEndian,
        specific_character_set=CHARACTER_SET,
        content_date=now.date(),
        content_time=now.time(),
        series_description=slot.series_description,
        coding_schemes=codes.coding_schemes()[:1],
    )
    _page_attributes(made, context)
    body_part(made, source)
    _references(made, source_image, risk_sr)
    return finish(made, source, context)


def _page_attributes(made: Dataset, context: ReportContext) -> None:
    made.Modality = "OT"
    made.ConversionType = "WSD"
    made.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    made.PatientOrientation = ""  # a viewer would draw L and P on a page of text
    made.BurnedInAnnotation = "NO"  # the page carries no name and no identifier
    made.RecognizableVisualFeatures = "NO"
    made.ImageComments = words.research_use(context.language)
    made.DerivationDescription = "Page drawn from the results of the analysis"
    made.LossyImageCompression = "00"


def _references(made: Dataset, source_image: tuple[Dataset, int | None] | None, risk_sr: Dataset) -> None:
    """The slice shown; and the SR by its series, which all its SOP classes share: none of them is sent yet."""
    if source_image is not None:
        header, frame = source_image
        item = Dataset()
        item.ReferencedSOPClassUID = header.SOPClassUID
        item.ReferencedSOPInstanceUID = header.SOPInstanceUID
        if frame is not None:
            item.ReferencedFrameNumber = frame
        made.SourceImageSequence = [item]
    report = Dataset()
    report.StudyInstanceUID = risk_sr.StudyInstanceUID
    report.SeriesInstanceUID = risk_sr.SeriesInstanceUID
    report.PurposeOfReferenceCodeSequence = [CodedConcept.from_code(codes.REPORT_OF_PAGE)]
    made.RelatedSeriesSequence = [report]
