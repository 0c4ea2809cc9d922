"""Why a study was not scored: one table of codes, sentences and remedies for SR, page, worklist and CLI."""

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Codes of a NOT_SCORED outcome. Stable: they are stored, sent to the PACS and counted."""

    # The contour object
    ROI_REFERENCES_NOT_CT = "ROI_REFERENCES_NOT_CT"
    ROI_WITHOUT_REFERENCES = "ROI_WITHOUT_REFERENCES"
    ROI_REFERENCES_SEVERAL_SERIES = "ROI_REFERENCES_SEVERAL_SERIES"
    ROI_FRAME_OF_REFERENCE_DIFFERS = "ROI_FRAME_OF_REFERENCE_DIFFERS"
    ROI_NOT_FOUND = "ROI_NOT_FOUND"
    ROI_AMBIGUOUS = "ROI_AMBIGUOUS"
    ROI_EMPTY = "ROI_EMPTY"
    ROI_OUTSIDE_IMAGE = "ROI_OUTSIDE_IMAGE"
    ROI_GEOMETRY_UNSUPPORTED = "ROI_GEOMETRY_UNSUPPORTED"
    ROI_TOO_SMALL = "ROI_TOO_SMALL"
    ROI_UNREADABLE = "ROI_UNREADABLE"
    ROI_PATIENT_DIFFERS = "ROI_PATIENT_DIFFERS"
    # Completeness
    REFERENCED_CT_INCOMPLETE = "REFERENCED_CT_INCOMPLETE"
    NO_CONTOUR = "NO_CONTOUR"
    # The CT
    IDENTITY_DIFFERS = "IDENTITY_DIFFERS"
    LOCALIZER_IN_SERIES = "LOCALIZER_IN_SERIES"
    MISSING_SLICE = "MISSING_SLICE"
    DUPLICATE_POSITION = "DUPLICATE_POSITION"
    UNEVEN_SLICE_SPACING = "UNEVEN_SLICE_SPACING"
    GANTRY_TILT = "GANTRY_TILT"
    SEVERAL_ACQUISITIONS = "SEVERAL_ACQUISITIONS"
    PIXEL_SPACING_DIFFERS = "PIXEL_SPACING_DIFFERS"
    ORIENTATION_DIFFERS = "ORIENTATION_DIFFERS"
    NOT_AXIAL = "NOT_AXIAL"
    GEOMETRY_INVALID = "GEOMETRY_INVALID"
    RESCALE_MISSING = "RESCALE_MISSING"
    RESCALE_NOT_HU = "RESCALE_NOT_HU"
    SLICE_SPACING_OUT_OF_RANGE = "SLICE_SPACING_OUT_OF_RANGE"
    PIXEL_SPACING_OUT_OF_RANGE = "PIXEL_SPACING_OUT_OF_RANGE"
    TOO_FEW_SLICES = "TOO_FEW_SLICES"
    PIXEL_DATA_UNDECODABLE = "PIXEL_DATA_UNDECODABLE"
    PIXEL_DATA_TRUNCATED = "PIXEL_DATA_TRUNCATED"
    # The model
    CLINICAL_VALUES_INVALID = "CLINICAL_VALUES_INVALID"
    FEATURES_FAILED = "FEATURES_FAILED"
    NO_SUB_MODEL = "NO_SUB_MODEL"


@dataclass(frozen=True)
class ReasonText:
    """What a person reads: a sentence saying why, and what would make the study scorable."""

    sentence: str
    remedy: str


_RESEND_THIN = "Send the complete original axial series of one acquisition, as reconstructed."
_RECONTOUR = "Contour the tumour on the CT to be scored and send the RTSTRUCT or SEG again."

REASONS: dict[Reason, ReasonText] = {
    Reason.ROI_REFERENCES_NOT_CT: ReasonText("The contour was drawn on images that are not CT.", _RECONTOUR),
    Reason.ROI_WITHOUT_REFERENCES: ReasonText(
        "The contour object does not name the images it was drawn on, and no single CT series "
        "of its study and frame of reference is here.",
        _RECONTOUR,
    ),
    Reason.ROI_REFERENCES_SEVERAL_SERIES: ReasonText(
        "The contour object references more than one CT series.", "Send one contour object per CT series."
    ),
    Reason.ROI_FRAME_OF_REFERENCE_DIFFERS: ReasonText(
        "The contour lies in another frame of reference than the CT it references.", _RECONTOUR
    ),
    Reason.ROI_NOT_FOUND: ReasonText(
        "No ROI or segment of the contour object matches the configured tumour names.",
        "Name the tumour ROI as agreed (for example GTV-1), or add its name to [plan] roi_name_patterns, then: "
        "prognode retry --study UID.",
    ),
    Reason.ROI_AMBIGUOUS: ReasonText(
        "Several ROIs or segments match the configured tumour names and the site's policy is "
        "to refuse rather than choose.",
        "Leave one matching ROI, or set [plan] several_rois to largest or union, then: prognode retry --study UID.",
    ),
    Reason.ROI_EMPTY: ReasonText("The contour encloses no voxel of the CT.", _RECONTOUR),
    Reason.ROI_OUTSIDE_IMAGE: ReasonText("The contour lies outside the CT.", _RECONTOUR),
    Reason.ROI_GEOMETRY_UNSUPPORTED: ReasonText(
        "The contour is not made of closed planar polygons parallel to the CT slices.",
        "Export the ROI as closed planar contours on the axial slices.",
    ),
    Reason.ROI_TOO_SMALL: ReasonText(
        "The contour is too small for texture features.",
        "Contour a larger lesion; the smallest volume is a setting of the model bundle.",
    ),
    Reason.ROI_UNREADABLE: ReasonText(
        "The contour object cannot be read.", "Export the RTSTRUCT or SEG again from the contouring workstation."
    ),
    Reason.ROI_PATIENT_DIFFERS: ReasonText(
        "The contour object carries another patient ID than the CT that it references.",
        "Correct the identity of the contour object or the CT, and send it again.",
    ),
    Reason.IDENTITY_DIFFERS: ReasonText(
        "The images of the CT series carry more than one patient ID or study.",
        "Correct the identity of the images in the PACS, and send the series again.",
    ),
    Reason.REFERENCED_CT_INCOMPLETE: ReasonText(
        "CT images that the contour references have not arrived.",
        "Send the complete CT series to this node; it will then be scored as a new revision.",
    ),
    Reason.NO_CONTOUR: ReasonText(
        "The CT has no tumour contour yet.", "Send an RTSTRUCT or SEG that references this CT series."
    ),
    Reason.LOCALIZER_IN_SERIES: ReasonText("The series contains a localizer image.", _RESEND_THIN),
    Reason.MISSING_SLICE: ReasonText("At least one slice of the CT series is missing.", _RESEND_THIN),
    Reason.DUPLICATE_POSITION: ReasonText("Several slices of the CT series lie at the same position.", _RESEND_THIN),
    Reason.UNEVEN_SLICE_SPACING: ReasonText("The slices of the CT series are not evenly spaced.", _RESEND_THIN),
    Reason.GANTRY_TILT: ReasonText(
        "The CT was acquired with a tilted gantry.",
        "Send a series without gantry tilt, or one resampled by the scanner.",
    ),
    Reason.SEVERAL_ACQUISITIONS: ReasonText(
        "The CT series mixes several acquisitions or contrast phases.", "Send one acquisition per series."
    ),
    Reason.PIXEL_SPACING_DIFFERS: ReasonText(
        "The slices of the CT series differ in pixel spacing or matrix size.", _RESEND_THIN
    ),
    Reason.ORIENTATION_DIFFERS: ReasonText("The slices of the CT series differ in orientation.", _RESEND_THIN),
    Reason.NOT_AXIAL: ReasonText("The CT series is not axial.", _RESEND_THIN),
    Reason.GEOMETRY_INVALID: ReasonText(
        "Position, orientation or spacing of the CT is absent or not a usable number.", _RESEND_THIN
    ),
    Reason.RESCALE_MISSING: ReasonText(
        "Rescale slope or intercept is absent, so the CT has no Hounsfield units.", _RESEND_THIN
    ),
    Reason.RESCALE_NOT_HU: ReasonText("The CT's rescale type is not Hounsfield units.", _RESEND_THIN),
    Reason.SLICE_SPACING_OUT_OF_RANGE: ReasonText(
        "The distance between CT slices is outside the range the model accepts.",
        "Send a reconstruction with a slice spacing within the configured range.",
    ),
    Reason.PIXEL_SPACING_OUT_OF_RANGE: ReasonText(
        "The pixel spacing of the CT is outside the range the model accepts.",
        "Send a reconstruction with a pixel spacing within the configured range.",
    ),
    Reason.TOO_FEW_SLICES: ReasonText("The CT series has too few slices.", _RESEND_THIN),
    Reason.PIXEL_DATA_UNDECODABLE: ReasonText(
        "The pixel data of the CT cannot be decoded.",
        "Send the series uncompressed (Explicit or Implicit VR Little Endian).",
    ),
    Reason.PIXEL_DATA_TRUNCATED: ReasonText(
        "The pixel data of a CT image is shorter than its header says.",
        "Send the series again; the transfer or the archive copy is damaged.",
    ),
    Reason.CLINICAL_VALUES_INVALID: ReasonText(
        "A clinical value is not one the model knows.",
        "Correct the value in the clinical table, then: prognode retry --study UID.",
    ),
    Reason.FEATURES_FAILED: ReasonText(
        "A feature that the model needs could not be computed.",
        "Check the contour; a very small or thin ROI is the usual cause.",
    ),
    Reason.NO_SUB_MODEL: ReasonText(
        "The model bundle has no sub-model for the inputs available.",
        "Supply the missing inputs, or install a bundle trained without them.",
    ),
}
