"""What the report stage gets: a job result, a context, pictures, and evidence headers as read from Part-10 bytes."""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from analysis.contract import (
    BundleIdentity,
    ClinicalValue,
    Contribution,
    Curve,
    EndpointGroup,
    FailedFeature,
    GeometryFacts,
    JobResult,
    Measurement,
    Performance,
    QualityFlag,
    RiskScore,
    RoiFacts,
    SubModel,
)
from reports import build
from reports.context import ReportContext
from reports.uids import device_uid
from tests.paths import shared
from tests.synthetic import ball_mask, ct_series, rtstruct


def short(every: Iterable[Any], *chosen: Any) -> list[Any]:
    """Parameters of which the chosen run always; the others belong to the long form (`make exhaustive`)."""
    return [pytest.param(one, marks=() if one in chosen else pytest.mark.exhaustive) for one in every]


BUNDLE = BundleIdentity(name="demo", version="0.1.0", digest="3f9c1a7be2d04c55" * 4, synthetic=True)


@dataclass(frozen=True)
class Case:
    """Evidence without pixel data, in slice order, and the mask in the same order."""

    ct: tuple[Dataset, ...]
    roi: Dataset
    mask: NDArray[np.bool_]


def context(**changes: Any) -> ReportContext:
    values: dict[str, Any] = {
        "key": "k" * 64,
        "created": datetime(2026, 3, 2, 9, 15, 30, tzinfo=UTC),
        "ae_title": "PROGNODE",
        "software_version": "0.1.0",
        "device_uid": device_uid("PROGNODE", "Test site"),
        "site": "Test site",
        "zone": UTC,
    }
    return ReportContext(**(values | changes))


def small_case(n: int = 12, **attributes: Any) -> Case:
    """A small CT with a ball in it; keyword arguments go to `tests.synthetic.ct_series`."""
    full = ct_series(n, seed=7, **attributes)
    return Case(tuple(header(instance) for instance in full), header(rtstruct(full)), ball_mask(full))


def phantom_case() -> Case:
    """The IBSI-1 CT phantom, a real lung CT, with a ball for a mask."""
    folder = shared("ibsi_1_ct_phantom".join(("data/", "/dicom")))
    ct = [dcmread(path, stop_before_pixels=True) for path in sorted((folder / "image").glob("*.dcm"))]
    ct.sort(key=lambda instance: float(instance.ImagePositionPatient[2]))
    roi = dcmread(next((folder / "mask").glob("*.dcm")), stop_before_pixels=True)
    mask = np.zeros((len(ct), ct[0].Rows, ct[0].Columns), bool)
    mask[20:35, 80:140, 60:110] = True
    return Case(tuple(ct), roi, mask)


def header(dataset: Dataset) -> Dataset:
    """The data set as the compose stage reads it: from bytes, stopped before the pixels."""
    return dcmread(io.BytesIO(part10(dataset)), stop_before_pixels=True)


def part10(dataset: Dataset) -> bytes:
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def reread(dataset: Dataset) -> Dataset:
    return dcmread(io.BytesIO(part10(dataset)))


def objects(documents: build.Documents) -> dict[str, Dataset]:
    """The DICOM objects by name, as they are read back from their bytes."""
    names = ("risk_sr", "radiomics_sr", "segmentation", "pdf", "presentation_state")
    made = {name: getattr(documents, name) for name in names}
    made |= {f"page_{number}": page.dataset for number, page in enumerate(documents.pages, start=1)}
    return {name: reread(dataset) for name, dataset in made.items() if dataset is not None}


EVERYTHING = build.Optional(encapsulated_pdf=True, presentation_state=True)


def scored(case: Case, sr_sop_class: str = build.SR_SOP_CLASSES[0], **changes: Any) -> build.Documents:
    """Every object that there is, the optional ones too."""
    views, told = pictures(case.mask), result(case.mask)
    return build.scored(
        case.ct, case.roi, case.mask, views, told, context(**changes), sr_sop_class, optional=EVERYTHING
    )


def pictures(mask: NDArray[np.bool_], spacing: Sequence[float] = (3.0, 0.9, 0.9)) -> dict[str, NDArray[Any]]:
    """The three views through the mask's middle: a ramp with the lesion in white."""
    middle = [round(float(where.mean())) for where in np.nonzero(mask)]
    planes = {"axial": np.s_[middle[0]], "coronal": np.s_[:, middle[1]], "sagittal": np.s_[:, :, middle[2]]}
    steps = {"axial": (1, 2), "coronal": (0, 2), "sagittal": (0, 1)}
    made: dict[str, NDArray[Any]] = {}
    for view, place in planes.items():
        cut = mask[place]
        ramp = np.linspace(20, 160, cut.shape[1])[None, :].repeat(cut.shape[0], axis=0)
        made[view] = np.where(cut, 220, ramp).astype(np.uint8)
        made[f"{view}_mask"] = cut
        made[f"{view}_spacing"] = np.array([spacing[axis] for axis in steps[view]])
    return made


def result(mask: NDArray[np.bool_], **changes: Any) -> JobResult:
    """A scored result of two endpoints and two horizons."""
    values: dict[str, Any] = {
        "key": "k" * 64,
        "outcome": "SCORED",
        "bundle": BUNDLE,
        "scores": (
            score("OS", 12, 0.312, 0.22, 0.41),
            score("OS", 36, 0.684, 0.55, 0.80),
            score("PFS", 12, 0.55, 0.44, 0.66),
            score("PFS", 36, 0.87, 0.78, 0.94, clipped=True),
        ),
        "curves": (
            curve("OS", (0.312, 0.22, 0.41), (0.684, 0.55, 0.80)),
            curve("PFS", (0.55, 0.44, 0.66), (0.87, 0.78, 0.94)),
        ),
        "groups": (group("OS", "HIGH"), group("PFS", "UNCERTAIN")),
        "sub_model": sub_model(),
        "contributions": contributions(),
        "clinical": (
            ClinicalValue(name="age", value=64.0, unit="years", source="DICOM PatientAge"),
            ClinicalValue(name="ECOG", value=1.0, source="clinical table", date="2024-03-10"),
        ),
        "measurements": measurements(),
        "failed_features": (FailedFeature(name="original_ngtdm_Coarseness", why="division by zero"),),
        "extraction": {"spacing": "1 x 1 x 1 mm", "discretisation": "fixed bins of 25 HU from -1000 HU"},
        "quality": (
            QualityFlag(code="IMPUTED", severity="info", text="PD-L1 was not given and is imputed."),
            QualityFlag(code="VOLUME", severity="warning", text="Tumour volume outside the development range."),
        ),
        "roi": roi_facts(mask),
        "geometry": GeometryFacts(
            shape=tuple(mask.shape),
            spacing_mm=(3.0, 0.9, 0.9),
            files=tuple(f"{k:05d}.dcm" for k in range(len(mask))),
            frames=(1,) * len(mask),
        ),
        "software": {"pyradiomics": "3.0.1"},
    }
    return JobResult(**(values | changes))


def roi_facts(mask: NDArray[np.bool_]) -> RoiFacts:
    per_slice = mask.sum(axis=(1, 2))
    return RoiFacts(
        kind="RTSTRUCT",
        numbers=(1,),
        combine="single",
        voxels=int(mask.sum()),
        volume_ml=float(mask.sum()) * 3.0 * 0.9 * 0.9 / 1000,
        slices=int((per_slice > 0).sum()),
        largest_slice=int(per_slice.argmax()),
    )


def score(endpoint: str, months: int, probability: float, lower: float, upper: float, **more: Any) -> RiskScore:
    return RiskScore(
        endpoint=endpoint,
        horizon_months=months,
        event_probability=probability,
        lower=lower,
        upper=upper,
        interval_level=0.9,
        **more,
    )


def curve(endpoint: str, at_12: tuple[float, ...], at_36: tuple[float, ...], **changes: Any) -> Curve:
    """A curve through (probability, lower, upper) at 12 and 36 months, constant hazard between them."""
    months = np.arange(37)

    def through(early: float, late: float) -> tuple[float, ...]:
        hazards = np.interp(months, [0, 12, 36], [0.0, -np.log1p(-early), -np.log1p(-late)])
        values = -np.expm1(-hazards)
        values[[12, 36]] = early, late
        return tuple(values.tolist())

    point, lower, upper = (through(*pair) for pair in zip(at_12, at_36, strict=True))
    population = tuple((-np.expm1(-0.04 * months)).tolist())
    values = {"event_probability": point, "lower": lower, "upper": upper, "population": population}
    return Curve(endpoint=endpoint, months=tuple(range(37)), **(values | changes))


def group(endpoint: str, risk: str) -> EndpointGroup:
    return EndpointGroup(endpoint=endpoint, group=risk, linear_predictor=0.42, lower=0.2, upper=0.7, cutoff=0.05)


def sub_model() -> SubModel:
    figures = (("OS", 12, 0.69, 95), ("OS", 36, 0.74, 163), ("PFS", 12, 0.66, 140), ("PFS", 36, None, 201))
    performance = tuple(
        Performance(
            endpoint=endpoint,
            horizon_months=months,
            auc=auc,
            auc_lower=None if auc is None else auc - 0.07,
            auc_upper=None if auc is None else auc + 0.07,
            observed_expected=1.02,
            patients=240,
            events=events,
        )
        for endpoint, months, auc, events in figures
    )
    return SubModel(modalities=("clinical", "radiomic"), missing=("deep",), performance=performance)


def contribution(endpoint: str, label: str, value: float | str, unit: str, share: float, **more: Any) -> Contribution:
    values = {"modality": "radiomic", "name": label.lower(), "label": label, "value": value, "unit": unit}
    return Contribution(endpoint=endpoint, contribution=share, **(values | more))


def contributions() -> tuple[Contribution, ...]:
    return (
        contribution("OS", "Volume", 358.1, "mL", 0.31, out_of_range=True),
        contribution("OS", "ECOG performance status", 1.0, "", 0.12, modality="clinical"),
        contribution("OS", "Zone size non-uniformity", 128.3, "", -0.09),
        contribution("OS", "Albumin", 38.0, "g/L", -0.05, modality="clinical", imputed=True),
        contribution("PFS", "Volume", 358.1, "mL", 0.21),
        contribution("PFS", "Liver metastases", "no", "", -0.16, modality="clinical"),
        contribution("PFS", "PD-L1", 50.0, "%", -0.11, modality="clinical", imputed=True),
    )


def measurements() -> tuple[Measurement, ...]:
    return (
        Measurement(
            name="original_shape_MeshVolume",
            family="Morphology",
            ibsi_id="RNU0",
            ibsi_name="Volume (mesh)",
            lifex_name="MORPHOLOGICAL_Volume",
            value=358080.1,
            unit="mm3",
        ),
        Measurement(
            name="original_firstorder_Mean",
            family="Intensity-based statistics",
            ibsi_id="Q4LE",
            ibsi_name="Mean intensity",
            lifex_name="INTENSITY-BASED_MeanIntensity",
            value=-46.9,
            unit="[hnsf'U]",
        ),
        Measurement(
            name="second_firstorder_Mean",
            family="Intensity-based statistics",
            ibsi_id="Q4LE",
            value=-47.0,
            unit="[hnsf'U]",
        ),
        Measurement(
            name="log-sigma-2-0-mm-3D_glszm_SmallAreaLowGrayLevelEmphasis",
            family="GLSZM",
            value=1.234567890123e-7,
        ),
    )
