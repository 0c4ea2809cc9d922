"""Why there is no score (yet): one table of codes, sentences and remedies for SR, page, worklist, messages and CLI.

Codes are stable: they are stored, sent, counted and translated by.
"""

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """A NOT_SCORED outcome: an answer, which goes to the PACS as a score does."""

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
    CT_NOT_BASELINE = "CT_NOT_BASELINE"
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


class WaitingReason(StrEnum):
    """What a contour waits for, beside the codes of Reason that may pass (NO_CONTOUR, REFERENCED_CT_INCOMPLETE ...)."""

    CLINICAL_VALUES_AWAITED = "CLINICAL_VALUES_AWAITED"
    CLINICAL_VALUES_UNAVAILABLE = "CLINICAL_VALUES_UNAVAILABLE"
    INPUTS_REMOVED = "INPUTS_REMOVED"
    PLANNING_FAILED = "PLANNING_FAILED"


class FailureReason(StrEnum):
    """Why a work item is FAILED: nothing is wrong with the study; something of the installation has to be mended."""

    JOB_OUT_OF_TIME = "JOB_OUT_OF_TIME"
    JOB_KILLED = "JOB_KILLED"
    JOB_NOT_STARTED = "JOB_NOT_STARTED"
    JOB_NOT_ISOLATED = "JOB_NOT_ISOLATED"
    JOB_INPUT_UNREADABLE = "JOB_INPUT_UNREADABLE"
    JOB_FAILED = "JOB_FAILED"
    BUNDLE_MISMATCH = "BUNDLE_MISMATCH"
    BUNDLE_GOLDEN_CASE_FAILED = "BUNDLE_GOLDEN_CASE_FAILED"
    DISK_FAILED = "DISK_FAILED"
    NODE_ENDED = "NODE_ENDED"
    STAGE_FAILED = "STAGE_FAILED"
    DELIVERY_REFUSED = "DELIVERY_REFUSED"


Code = Reason | WaitingReason | FailureReason


@dataclass(frozen=True)
class ReasonText:
    """What a person reads: one sentence saying why, and who does what about it."""

    sentence: str
    remedy: str


_RESEND = "Imaging team: send the complete original axial series of one acquisition, as reconstructed."
_RECONTOUR = "Contouring team: contour the tumour on the CT to be scored and send the RTSTRUCT or SEG again."
_REPORT_BUG = (
    "Administrator: report this to the maintainers with the log (it is a bug), then run: prognode retry --study UID."
)

_ENDED_BY_WHAT = (
    "Administrator: look in the log and the machine's for why (a power cut, a restart, too little memory), then run: "
    "prognode retry --study UID. Where nothing outside ended it, report it to the maintainers with the log."
)

REASONS: dict[Code, ReasonText] = {
    Reason.ROI_REFERENCES_NOT_CT: ReasonText("The contour was drawn on images that are not CT.", _RECONTOUR),
    Reason.ROI_WITHOUT_REFERENCES: ReasonText(
        "The contour object does not name the images it was drawn on, and no single CT series "
        "of its study and frame of reference is here.",
        _RECONTOUR,
    ),
    Reason.ROI_REFERENCES_SEVERAL_SERIES: ReasonText(
        "The contour object references more than one CT series.",
        "Contouring team: send one contour object per CT series.",
    ),
    Reason.ROI_FRAME_OF_REFERENCE_DIFFERS: ReasonText(
        "The contour lies in another frame of reference than the CT it references.", _RECONTOUR
    ),
    Reason.ROI_NOT_FOUND: ReasonText(
        "No ROI or segment of the contour object matches the configured tumour names.",
        "Contouring team: name the tumour ROI as agreed (for example GTV-1) and send it again; or administrator: add "
        "its name to [plan] roi_name_patterns, then run: prognode retry --study UID.",
    ),
    Reason.ROI_AMBIGUOUS: ReasonText(
        "Several ROIs or segments match the configured tumour names and the site's policy is "
        "to refuse rather than choose.",
        "Contouring team: leave one matching ROI and send it again; or administrator: set [plan] several_rois to "
        "largest or union, then run: prognode retry --study UID.",
    ),
    Reason.ROI_EMPTY: ReasonText("The contour encloses no voxel of the CT.", _RECONTOUR),
    Reason.ROI_OUTSIDE_IMAGE: ReasonText("The contour lies outside the CT.", _RECONTOUR),
    Reason.ROI_GEOMETRY_UNSUPPORTED: ReasonText(
        "The contour is not made of closed planar polygons parallel to the CT slices.",
        "Contouring team: export the ROI as closed planar contours on the axial slices.",
    ),
    Reason.ROI_TOO_SMALL: ReasonText(
        "The contour is too small for texture features.",
        "Contouring team: contour a larger lesion; the smallest volume is a setting of the model bundle.",
    ),
    Reason.ROI_UNREADABLE: ReasonText(
        "The contour object cannot be read.",
        "Contouring team: export the RTSTRUCT or SEG again from the contouring workstation.",
    ),
    Reason.ROI_PATIENT_DIFFERS: ReasonText(
        "The contour object carries another patient ID than the CT that it references.",
        "Contouring team: correct the identity of the contour object or the CT, and send it again.",
    ),
    Reason.IDENTITY_DIFFERS: ReasonText(
        "The images of the CT series carry more than one patient ID or study.",
        "Imaging team: correct the identity of the images in the PACS, and send the series again.",
    ),
    Reason.REFERENCED_CT_INCOMPLETE: ReasonText(
        "CT images that the contour references have not arrived.",
        "Imaging team: send the complete CT series to this node; the study is then scored by itself.",
    ),
    Reason.NO_CONTOUR: ReasonText(
        "The CT has no tumour contour yet.",
        "Contouring team: send an RTSTRUCT or SEG that references this CT series.",
    ),
    Reason.CT_NOT_BASELINE: ReasonText(
        "The CT is not the patient's baseline CT before therapy.",
        "Contouring team: contour the last CT before therapy; or administrator: correct the start of therapy (prognode "
        "clinical import) or the baseline rule in [plan], then run: prognode retry --study UID.",
    ),
    Reason.LOCALIZER_IN_SERIES: ReasonText("The series contains a localizer image.", _RESEND),
    Reason.MISSING_SLICE: ReasonText("At least one slice of the CT series is missing.", _RESEND),
    Reason.DUPLICATE_POSITION: ReasonText("Several slices of the CT series lie at the same position.", _RESEND),
    Reason.UNEVEN_SLICE_SPACING: ReasonText("The slices of the CT series are not evenly spaced.", _RESEND),
    Reason.GANTRY_TILT: ReasonText(
        "The CT was acquired with a tilted gantry.",
        "Imaging team: send a series without gantry tilt, or one resampled by the scanner.",
    ),
    Reason.SEVERAL_ACQUISITIONS: ReasonText(
        "The CT series mixes several acquisitions or contrast phases.", "Imaging team: send one acquisition per series."
    ),
    Reason.PIXEL_SPACING_DIFFERS: ReasonText(
        "The slices of the CT series differ in pixel spacing or matrix size.", _RESEND
    ),
    Reason.ORIENTATION_DIFFERS: ReasonText("The slices of the CT series differ in orientation.", _RESEND),
    Reason.NOT_AXIAL: ReasonText("The CT series is not axial.", _RESEND),
    Reason.GEOMETRY_INVALID: ReasonText(
        "Position, orientation or spacing of the CT is absent or not a usable number.", _RESEND
    ),
    Reason.RESCALE_MISSING: ReasonText(
        "Rescale slope or intercept is absent, so the CT has no Hounsfield units.", _RESEND
    ),
    Reason.RESCALE_NOT_HU: ReasonText("The CT's rescale type is not Hounsfield units.", _RESEND),
    Reason.SLICE_SPACING_OUT_OF_RANGE: ReasonText(
        "The distance between CT slices is outside the range the model accepts.",
        "Imaging team: send a reconstruction with a slice spacing within the configured range.",
    ),
    Reason.PIXEL_SPACING_OUT_OF_RANGE: ReasonText(
        "The pixel spacing of the CT is outside the range the model accepts.",
        "Imaging team: send a reconstruction with a pixel spacing within the configured range.",
    ),
    Reason.TOO_FEW_SLICES: ReasonText("The CT series has too few slices.", _RESEND),
    Reason.PIXEL_DATA_UNDECODABLE: ReasonText(
        "The pixel data of the CT cannot be decoded.",
        "Imaging team: send the series uncompressed (Explicit or Implicit VR Little Endian).",
    ),
    Reason.PIXEL_DATA_TRUNCATED: ReasonText(
        "The pixel data of a CT image is shorter than its header says.",
        "Imaging team: send the series again; the transfer or the archive copy is damaged.",
    ),
    Reason.CLINICAL_VALUES_INVALID: ReasonText(
        "A clinical value is not one the model knows.",
        "Clinical team: correct the value on the study page or at its source (prognode clinical import, clinical "
        "table, HL7 or FHIR sender), then rescore the study.",
    ),
    Reason.FEATURES_FAILED: ReasonText(
        "A feature that the model needs could not be computed.",
        "Contouring team: check the contour; a very small or thin ROI is the usual cause.",
    ),
    Reason.NO_SUB_MODEL: ReasonText(
        "The model bundle has no sub-model for the inputs available.",
        "Clinical team: enter the missing values on the study page or with prognode clinical import, then rescore; or "
        "administrator: install a bundle trained without them.",
    ),
    WaitingReason.CLINICAL_VALUES_AWAITED: ReasonText(
        "A FHIR server is being asked for the patient's clinical values.",
        "Nobody: the study goes on when the server answers, or without it after [clinical] fhir_wait_seconds.",
    ),
    WaitingReason.CLINICAL_VALUES_UNAVAILABLE: ReasonText(
        "The site's table of clinical values cannot be used just now.",
        "Administrator: mend the table named in [clinical] table, or remove the setting and use prognode clinical "
        "import; the study is planned again by itself.",
    ),
    WaitingReason.INPUTS_REMOVED: ReasonText(
        "Images or contours that this result needs were removed here after an earlier result had been delivered.",
        "Imaging team: send the CT and the contour again; the study goes on by itself.",
    ),
    WaitingReason.PLANNING_FAILED: ReasonText("The contour could not be planned.", _REPORT_BUG),
    FailureReason.JOB_OUT_OF_TIME: ReasonText(
        "The analysis did not end in the time allowed.",
        "Administrator: raise [job] wall_clock_seconds if studies are this large, then run: prognode retry --study "
        "UID.",
    ),
    FailureReason.JOB_KILLED: ReasonText(
        "The analysis was killed, or ran out of memory or disk.",
        "Administrator: raise [job] memory_bytes or free some disk, then run: prognode retry --study UID.",
    ),
    FailureReason.JOB_NOT_STARTED: ReasonText(
        "The analysis could not be started.",
        "Administrator: run prognode check and set right what it names: a setting of [job] or [node] spool, or what is"
        " missing (bubblewrap, util-linux, Python, free processes); the study then goes on by itself.",
    ),
    FailureReason.JOB_NOT_ISOLATED: ReasonText(
        "Analyses must be isolated, and this host does not allow it in full.",
        'Administrator: run prognode check and allow what it lists, or set [job] isolation = "preferred".',
    ),
    FailureReason.JOB_INPUT_UNREADABLE: ReasonText(
        "The analysis could not read its input.",
        "Administrator: read job.log in the job folder, restore the spool's files, then run: prognode retry --study "
        "UID.",
    ),
    FailureReason.JOB_FAILED: ReasonText(
        "The analysis ended without a usable result.",
        "Administrator: read job.log in the job folder and report it to the maintainers, then run: prognode retry "
        "--study UID.",
    ),
    FailureReason.BUNDLE_MISMATCH: ReasonText(
        "The model bundle or its schema does not fit this version.",
        "Administrator: run prognode bundle verify and install the bundle again, then run: prognode retry --study UID.",
    ),
    FailureReason.BUNDLE_GOLDEN_CASE_FAILED: ReasonText(
        "The model bundle does not give the numbers here that it gave where it was trained.",
        "Administrator: install the bundle again, or train it again with this release; run: prognode bundle verify.",
    ),
    FailureReason.DISK_FAILED: ReasonText(
        "The spool's disk could not be read or written.",
        "Administrator: check the spool's disk, then run: prognode retry --study UID.",
    ),
    FailureReason.NODE_ENDED: ReasonText("The node ended several times while it worked on this study.", _ENDED_BY_WHAT),
    FailureReason.STAGE_FAILED: ReasonText("A stage of the node failed unexpectedly.", _REPORT_BUG),
    FailureReason.DELIVERY_REFUSED: ReasonText(
        "A part of the result did not get to a destination.",
        "Administrator: correct the destination as its delivery says, then run: prognode retry --study UID.",
    ),
}

_CODES: dict[str, Code] = {str(code): code for code in REASONS}


def wording(code: str | None) -> ReasonText | None:
    """The text of a stored code; None for a code that an older or newer release wrote.

    >>> wording("NO_CONTOUR").sentence, wording("SOMETHING_NEW"), wording(None)
    ('The CT has no tumour contour yet.', None, None)
    """
    return REASONS[_CODES[code]] if code in _CODES else None
