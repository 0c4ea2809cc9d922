"""The job's contract: what stands in IN/job.json and OUT/result.json, and the exit codes.

The only module of `analysis` that the node and the reports may import. Everything is frozen and refuses
unknown keys; the JSON Schemas in config/schema are generated from these classes (`make schema`).
"""

import os
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from analysis.reasons import REASONS, Code, FailureReason, Reason, ReasonText, WaitingReason, wording

__all__ = [
    "FEATURES_FILE",
    "JOB_FILE",
    "LATER",
    "MASK_FILE",
    "PICTURES_FILE",
    "READY",
    "REASONS",
    "RESEARCH_USE",
    "RESULT_FILE",
    "SYNTHETIC_WARNING",
    "TIMING_FILE",
    "VIEWS",
    "BundleIdentity",
    "ClinicalValue",
    "Code",
    "Combine",
    "Contribution",
    "CtInput",
    "Curve",
    "Endpoint",
    "EndpointGroup",
    "ExitCode",
    "FailedFeature",
    "FailureReason",
    "GeometryFacts",
    "JobRequest",
    "JobResult",
    "Measurement",
    "Modality",
    "NotScorable",
    "Outcome",
    "Performance",
    "QualityFlag",
    "Reason",
    "ReasonText",
    "RiskGroup",
    "RiskScore",
    "RoiFacts",
    "RoiInput",
    "RoiKind",
    "Severity",
    "SubModel",
    "WaitingReason",
    "by_modality",
    "wording",
]

SCHEMA_VERSION: Literal[1] = 1
RESEARCH_USE = "Research use only - not for diagnostic use. Preliminary, unverified."
SYNTHETIC_WARNING = "SYNTHETIC - NOT FOR CLINICAL USE"

# Files of the job folder. OUT/pictures.npz holds, for each view of VIEWS, `<view>` (uint8, 2-D, windowed),
# `<view>_mask` (bool, same shape) and `<view>_spacing` (mm per row, mm per column).
JOB_FILE, RESULT_FILE = "job.json", "result.json"
# Third argument of a job that says READY, and looks into IN only when it has read a line from standard input.
LATER, READY = "later", "ready"
FEATURES_FILE, MASK_FILE, PICTURES_FILE = "features.json", "mask.nii.gz", "pictures.npz"
TIMING_FILE = "timing.json"  # seconds by step; apart, so that result.json is the same bytes each time
VIEWS = ("axial", "coronal", "sagittal")


class ExitCode:
    """Exit status of the job (sysexits.h); the node decides by number what to do next."""

    OK = os.EX_OK  # result.json is there: scored, or not scored with a reason
    DATA_ERROR = os.EX_DATAERR  # input unreadable
    NO_INPUT = os.EX_NOINPUT
    BUG = os.EX_SOFTWARE
    TEMPORARY = os.EX_TEMPFAIL
    CONFIG = os.EX_CONFIG  # bundle or schema mismatch


class NotScorable(Exception):
    """A clinical answer, not an error: these inputs cannot be scored, and why.

    Attributes
    ----------
    reason : Reason
    detail : str
        Figures that help the reader ("gap of 6.0 mm between slices 12 and 13"); never a name or an identifier.
    """

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = reason
        self.detail = detail


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


FileName = Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z][0-9A-Za-z_.-]{0,63}$")]


class Outcome(StrEnum):
    SCORED = "SCORED"
    NOT_SCORED = "NOT_SCORED"


class Endpoint(StrEnum):
    """OS: time to death of any cause. PFS: time to progression or death."""

    OS = "OS"
    PFS = "PFS"


class Modality(StrEnum):
    """A family of predictors with a sub-model of its own."""

    CLINICAL = "clinical"
    RADIOMIC = "radiomic"
    DEEP = "deep"


class RiskGroup(StrEnum):
    LOW = "LOW"
    UNCERTAIN = "UNCERTAIN"  # the interval crosses the cut-off
    HIGH = "HIGH"


class RoiKind(StrEnum):
    RTSTRUCT = "RTSTRUCT"
    SEG = "SEG"


class Combine(StrEnum):
    """What to do with the chosen ROI numbers: there is one, take the largest by volume, or their union."""

    SINGLE = "single"
    LARGEST = "largest"
    UNION = "union"


class Severity(StrEnum):
    INFO = "info"
    WARNING = "warning"


class CtInput(_Frozen):
    """Files under IN/ct in slice order along the normal; one file when the CT is multi-frame."""

    files: tuple[FileName, ...] = Field(min_length=1)


class RoiInput(_Frozen):
    """File under IN/roi and the ROI Numbers (3006,0022) or Segment Numbers (0062,0004) to use."""

    kind: RoiKind
    file: FileName
    numbers: tuple[int, ...] = Field(min_length=1)
    combine: Combine


class ClinicalValue(_Frozen):
    """One clinical predictor as supplied, before any imputation."""

    name: str
    value: float | str
    unit: str = ""
    source: str  # "DICOM PatientAge", "clinical table", ...
    date: str | None = None


class QualityFlag(_Frozen):
    """Something the reader should know; the score stands."""

    code: str
    severity: Severity
    text: str


class JobRequest(_Frozen):
    """IN/job.json. Carries no name, identifier or date of birth."""

    schema_version: Literal[1] = SCHEMA_VERSION
    key: str
    ct: CtInput
    roi: RoiInput
    clinical: tuple[ClinicalValue, ...] = ()
    quality: tuple[QualityFlag, ...] = ()  # what the planner wants the reader to know
    bundle_digest: str


class RiskScore(_Frozen):
    """Predicted probability that the event (OS: death; PFS: progression or death) happens by the horizon."""

    endpoint: Endpoint
    horizon_months: int
    event_probability: float = Field(ge=0, le=1)
    lower: float = Field(ge=0, le=1)
    upper: float = Field(ge=0, le=1)
    interval_level: float = Field(gt=0, lt=1)
    clipped: bool = False  # raised to OS so that predicted PFS is never above predicted OS


class Curve(_Frozen):
    """Predicted probability of an endpoint's event by whole month, with the band of the scores' interval level.

    It passes through the scores at their horizons and ends at the last one. `population` is what happened to the
    training cohort (1 - Kaplan-Meier) by the same months, as far as anybody was followed; () where the bundle does
    not say.
    """

    endpoint: Endpoint
    months: tuple[int, ...] = Field(min_length=2)
    event_probability: tuple[float, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    population: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _whole(self) -> Self:
        lengths = {len(self.months), len(self.event_probability), len(self.lower), len(self.upper)}
        if len(lengths) > 1 or len(self.population) > len(self.months):
            raise ValueError(f"curve of {self.endpoint}: months and probabilities differ in number")
        return self


class EndpointGroup(_Frozen):
    """Risk group of one endpoint: the linear predictor against the training cut-off."""

    endpoint: Endpoint
    group: RiskGroup
    linear_predictor: float
    lower: float
    upper: float
    cutoff: float


class Performance(_Frozen):
    """How well the sub-model did in nested cross-validation, for one endpoint and horizon."""

    endpoint: Endpoint
    horizon_months: int
    auc: float | None
    auc_lower: float | None = None
    auc_upper: float | None = None
    observed_expected: float | None = None
    patients: int
    events: int


class SubModel(_Frozen):
    """Which combination of modalities spoke, what was missing, and how good that one is."""

    modalities: tuple[Modality, ...] = Field(min_length=1)
    missing: tuple[Modality, ...] = ()
    performance: tuple[Performance, ...]


class Contribution(_Frozen):
    """Exact share of one feature in the linear predictor of an endpoint; they sum to it."""

    endpoint: Endpoint
    modality: Modality
    name: str
    label: str
    value: float | str | None
    unit: str = ""
    contribution: float
    imputed: bool = False
    out_of_range: bool = False


class Measurement(_Frozen):
    """One radiomic feature (TID 1419 / TID 300)."""

    name: str
    family: str
    ibsi_id: str | None = None  # claimed only where checked against the IBSI reference values
    ibsi_name: str | None = None
    lifex_name: str | None = None
    value: float
    unit: str = "1"  # UCUM


class FailedFeature(_Frozen):
    name: str
    why: str


class RoiFacts(_Frozen):
    """What was scored. `largest_slice` is the slice (0-based, in CT order) with most ROI voxels.

    `names` are ROI Name (3006,0026) or Segment Label (0062,0005) of each of `numbers`, as they came: free text of the
    sender, cut after 64 characters, what cannot be printed replaced by U+FFFD.
    """

    kind: RoiKind
    numbers: tuple[int, ...]
    names: tuple[Annotated[str, StringConstraints(max_length=64)], ...] = ()
    combine: Combine
    voxels: int
    volume_ml: float
    slices: int
    largest_slice: int


class GeometryFacts(_Frozen):
    """Shape (slices, rows, columns) and spacing mm (slice, row, column) of the CT read.

    `files` and `frames` (numbers from 1) say which image each slice of the mask belongs to.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    files: tuple[FileName, ...]
    frames: tuple[int, ...]


class BundleIdentity(_Frozen):
    name: str
    version: str
    digest: str
    synthetic: bool


class JobResult(_Frozen):
    """OUT/result.json, written last by rename. Its presence with exit code 0 is the job's promise kept."""

    schema_version: Literal[1] = SCHEMA_VERSION
    key: str
    outcome: Outcome
    reason: Reason | None = None
    reason_detail: str = ""
    bundle: BundleIdentity
    scores: tuple[RiskScore, ...] = ()
    curves: tuple[Curve, ...] = ()
    groups: tuple[EndpointGroup, ...] = ()
    sub_model: SubModel | None = None
    contributions: tuple[Contribution, ...] = ()
    clinical: tuple[ClinicalValue, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    failed_features: tuple[FailedFeature, ...] = ()
    extraction: dict[str, str] = Field(default_factory=dict)  # settings as text, for the radiomics SR
    quality: tuple[QualityFlag, ...] = ()
    roi: RoiFacts | None = None
    geometry: GeometryFacts | None = None
    software: dict[str, str] = Field(default_factory=dict)


def by_modality(contributions: Iterable[Contribution], endpoint: Endpoint) -> dict[Modality, float]:
    """Exact share of each modality in the linear predictor of an endpoint, the largest first; they sum to it."""
    shares: dict[Modality, float] = {}
    for item in contributions:
        if item.endpoint == endpoint:
            shares[item.modality] = shares.get(item.modality, 0.0) + item.contribution
    return dict(sorted(shares.items(), key=lambda item: -abs(item[1])))
