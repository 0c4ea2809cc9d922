"""What stands in the objects that we make, attribute by attribute: the IOD tables of the conformance statement.

A test holds these against made objects, both ways: an attribute that is not here fails it, and so does one that no
object has. Patient and study attributes are `reports.evidence.IDENTITY`.
"""

from collections.abc import Mapping
from typing import Final

from reports.sr_document import SR_SOP_CLASSES

SECONDARY_CAPTURE, SEGMENTATION = "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.66.4"
ENCAPSULATED_PDF, PRESENTATION = "1.2.840.10008.5.1.4.1.1.104.1", "1.2.840.10008.5.1.4.1.1.11.1"

EVERY: Final[Mapping[str, str]] = {
    "SpecificCharacterSet": "ISO_IR 192 (UTF-8), whatever the source has",
    "InstanceCreationDate": "when the work item was scheduled: making the object again gives the same bytes",
    "InstanceCreationTime": "the same",
    "SOPClassUID": "see the title",
    "SOPInstanceUID": "2.25, derived from all that decides the content",
    "SeriesDate": "when the work item was scheduled",
    "SeriesTime": "the same",
    "TimezoneOffsetFromUTC": "as in the CT; absent where the CT has none",
    "Modality": "see the title",
    "Manufacturer": "Prognode",
    "ManufacturerModelName": "Prognode",
    "SoftwareVersions": "version of the node",
    "InstitutionName": "[node] site; absent where it is empty",
    "StationName": "AE title of the node",
    "SeriesDescription": "AI: ..., fixed English text with the number of the revision; SYNTHETIC where the bundle is",
    "ContentQualification": "RESEARCH",
    "SeriesInstanceUID": "2.25, derived as the SOP Instance UID",
    "SeriesNumber": "[report] series_number and following",
    "InstanceNumber": "1; pages are counted",
}
_CONTENT: Final = {"ContentDate": "when the work item was scheduled", "ContentTime": "the same"}
_CODES: Final = {"CodingSchemeIdentificationSequence": "99PROGNODE, and IBSI where it is used"}
_SOFTWARE: Final = {"ContributingEquipmentSequence": "the library that wrote the object (highdicom)"}
_DEVICE: Final = {"DeviceSerialNumber": "UID of the installation"}
_PIXELS: Final = {
    "SamplesPerPixel": "as the image is", "PhotometricInterpretation": "RGB (pages), MONOCHROME2 (SEG)",
    "Rows": "768 (pages), as the CT (SEG)", "Columns": "1024 (pages), as the CT (SEG)",
    "BitsAllocated": "8 (pages), 1 (SEG)", "BitsStored": "8, 1", "HighBit": "7, 0", "PixelRepresentation": "0",
    "LossyImageCompression": "00; as the CT where that was compressed with loss", "PixelData": "native",
}  # fmt: skip
_LABEL: Final = {
    "ContentLabel": "fixed text", "ContentDescription": "fixed text, with the number of the revision",
}  # fmt: skip

SR: Final[Mapping[str, str]] = {
    **_CONTENT, **_CODES, **_SOFTWARE,
    "ReferencedPerformedProcedureStepSequence": "empty: no MPPS is sent",
    "PerformedProcedureCodeSequence": "empty",
    "ValueType": "CONTAINER",
    "ConceptNameCodeSequence": "(126001, DCM, Oncology Measurement Report), (126000, DCM, Imaging Measurement Report)",
    "ContinuityOfContent": "SEPARATE, in every container",
    "CurrentRequestedProcedureEvidenceSequence": "CT, contour and SEG of the study of the report",
    "PertinentOtherEvidenceSequence": "evidence of other studies, where there is any",
    "PredecessorDocumentsSequence": "the report of the revision before, from the second on",
    "CompletionFlag": "COMPLETE",
    "VerificationFlag": "UNVERIFIED, always",
    "PreliminaryFlag": "PRELIMINARY, always",
    "ContentTemplateSequence": "DCMR 1500",
    "ContentSequence": "TID 1500; one TID 1501 group (risk) or one TID 1411 group (radiomics)",
}  # fmt: skip
SEG: Final[Mapping[str, str]] = {
    **_CONTENT, **_SOFTWARE, **_DEVICE, **_PIXELS, **_LABEL,
    "ImageType": "DERIVED\\PRIMARY",
    "ReferencedSeriesSequence": "the CT images",
    "SourceImageSequence": "the CT images",
    "FrameOfReferenceUID": "as the CT",
    "PositionReferenceIndicator": "as the CT",
    "DimensionOrganizationSequence": "segment number, position",
    "DimensionIndexSequence": "segment number, position",
    "DimensionOrganizationType": "3D",
    "NumberOfFrames": "slices that hold a voxel of the segment",
    "SegmentationType": "BINARY",
    "SegmentSequence": "one segment: the voxels that were scored",
    "SegmentsOverlap": "NO",
    "PresentationLUTShape": "IDENTITY",
    "SharedFunctionalGroupsSequence": "plane orientation, pixel measures",
    "PerFrameFunctionalGroupsSequence": "plane position, derivation image, segment",
}  # fmt: skip
PAGE: Final[Mapping[str, str]] = {
    **_CONTENT, **_CODES, **_SOFTWARE, **_PIXELS,
    "ImageType": "DERIVED\\SECONDARY\\OTHER",
    "ConversionType": "WSD",
    "DateOfSecondaryCapture": "when the work item was scheduled",
    "TimeOfSecondaryCapture": "the same",
    "DerivationDescription": "fixed text",
    "SourceImageSequence": "the key image",
    "RelatedSeriesSequence": "the series of the risk report",
    "BodyPartExamined": "as the CT; CHEST where it has none",
    "Laterality": "as the CT, where its body part is a paired one",
    "PatientOrientation": "empty: a page has none",
    "ImageComments": "research use only",
    "PlanarConfiguration": "0",
    "BurnedInAnnotation": "NO: no name and no identifier is drawn",
    "RecognizableVisualFeatures": "NO",
}  # fmt: skip
PDF: Final[Mapping[str, str]] = {
    **_CONTENT, **_CODES, **_DEVICE,
    "AcquisitionDateTime": "when the work item was scheduled",
    "ConversionType": "WSD",
    "BurnedInAnnotation": "NO: no name and no identifier stands in it",
    "RecognizableVisualFeatures": "NO",
    "ConceptNameCodeSequence": "empty",
    "VerificationFlag": "UNVERIFIED",
    "DocumentTitle": "fixed text",
    "EncapsulatedDocument": "the pages as PDF",
    "EncapsulatedDocumentLength": "bytes of it",
    "MIMETypeOfEncapsulatedDocument": "application/pdf",
    "SourceInstanceSequence": "CT and contour",
}  # fmt: skip
PRESENTATION_STATE: Final[Mapping[str, str]] = {
    **_SOFTWARE, **_DEVICE, **_LABEL,
    "ReferencedSeriesSequence": "the CT images that hold the contour",
    "BodyPartExamined": "as the CT; CHEST where it has none",
    "Laterality": "as the CT, where its body part is a paired one",
    "RescaleIntercept": "as the CT", "RescaleSlope": "as the CT", "RescaleType": "as the CT, else HU",
    "SoftcopyVOILUTSequence": "the CT's first window, else the lung window",
    "GraphicAnnotationSequence": "the outline of the scored voxels, one line of text",
    "DisplayedAreaSelectionSequence": "the whole image",
    "GraphicLayerSequence": "one layer",
    "PresentationCreationDate": "when the work item was scheduled", "PresentationCreationTime": "the same",
    "ContentCreatorName": "empty",
    "PresentationLUTShape": "IDENTITY",
}  # fmt: skip

OBJECTS: Final[Mapping[str, tuple[str, Mapping[str, str]]]] = {
    **dict.fromkeys(SR_SOP_CLASSES, ("SR", SR)),
    SECONDARY_CAPTURE: ("OT", PAGE),
    SEGMENTATION: ("SEG", SEG),
    PRESENTATION: ("PR", PRESENTATION_STATE),
    ENCAPSULATED_PDF: ("DOC", PDF),
}
