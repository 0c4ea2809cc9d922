"""What a bundle's files hold: the manifest, the model's numbers and the bootstrap rows, as frozen types.

Everything refuses unknown keys, NaN and infinity, so a file that loads is a file that was meant.
"""

import math
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

SCHEMA_VERSION: Literal[2] = 2

ModalityName = Literal["clinical", "radiomic", "deep"]
EndpointName = Literal["OS", "PFS"]
LearnerKind = Literal["cox", "ipcw-logistic", "survival-forest", "ipcw-forest"]
FORESTS: frozenset[LearnerKind] = frozenset({"survival-forest", "ipcw-forest"})
Modalities = Annotated[tuple[ModalityName, ...], Field(min_length=1)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z][0-9A-Za-z_.-]{0,63}$")]
Name = Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z][0-9A-Za-z_.+-]{0,99}$")]


def _rising(months: tuple[int, ...]) -> tuple[int, ...]:
    if any(later <= earlier for earlier, later in pairwise(months)):
        raise ValueError("horizons must be whole months in rising order, each once")
    return months


Horizons = Annotated[
    tuple[Annotated[int, Field(ge=1, le=600)], ...], Field(min_length=1, max_length=12), AfterValidator(_rising)
]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Predictor(_Frozen):
    """One clinical predictor: how it is written, what it may be, and what stands in when it is missing.

    `fill` is the training median (number) or the commonest value (category, boolean).
    """

    name: Name
    label: str
    type: Literal["number", "category", "boolean"]
    unit: str = ""  # UCUM
    transform: Literal["none", "log"] = "none"
    categories: tuple[str, ...] = ()
    minimum: float | None = None  # plausible, not typical: outside it the value is an error
    maximum: float | None = None
    fill: float | str

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.type == "category") != (len(self.categories) > 1):
            raise ValueError(f"predictor {self.name}: a category, and only a category, lists two or more categories")
        if len({category.lower() for category in self.categories}) < len(self.categories):
            raise ValueError(f"predictor {self.name}: two categories differ in case alone")
        if None not in (self.minimum, self.maximum) and self.minimum > self.maximum:  # type: ignore[operator]
            raise ValueError(f"predictor {self.name}: minimum lies above maximum")
        if self.type == "category" and self.fill not in self.categories:
            raise ValueError(f"predictor {self.name}: fill is not one of its categories")
        if self.type != "category" and not isinstance(self.fill, float):
            raise ValueError(f"predictor {self.name}: fill is not a number")
        if self.transform == "log" and (self.type != "number" or self.minimum is None or self.minimum <= 0):
            raise ValueError(f"predictor {self.name}: a log transform needs a number with a minimum above 0")
        return self


class EndpointFacts(_Frozen):
    """An endpoint and the horizons (months) at which the bundle states a probability."""

    name: EndpointName
    meaning: str
    horizons_months: Horizons


class PerformanceFacts(_Frozen):
    """Nested cross-validation of one sub-model: one endpoint, one horizon.

    `auc` is cumulative/dynamic with inverse-probability-of-censoring weights (Uno 2007), mean over outer folds;
    the limits are a 95 % bootstrap interval; None where too few patients remain to say.
    """

    endpoint: EndpointName
    horizon_months: int
    auc: float | None
    auc_lower: float | None = None
    auc_upper: float | None = None
    observed_expected: float | None = None
    calibration_slope: float | None = None
    hazard_ratio: float | None = None  # high v low risk, cut-off from the training folds
    patients: int
    events: int


class SubModelFacts(_Frozen):
    """A combination of modalities, its cut-offs (linear predictor, by endpoint) and how good it is."""

    modalities: Modalities
    cutoffs: dict[EndpointName, float]
    performance: tuple[PerformanceFacts, ...]


class Distribution(_Frozen):
    """Training distribution of one numeric feature, before any transform."""

    median: float
    p01: float
    p99: float
    mean: float
    sd: float = Field(ge=0)


class CohortFacts(_Frozen):
    """Who the bundle was trained on, as counts."""

    name: str
    patients: int
    events: dict[EndpointName, int]
    median_follow_up_months: float
    seed: int
    config_digest: Sha256


class Manifest(_Frozen):
    """`manifest.json`. The SHA-256 of its canonical form is the bundle's digest."""

    schema_version: Literal[2] = SCHEMA_VERSION
    name: Name
    version: Name
    synthetic: bool
    warning: str
    intended_use: str
    endpoints: tuple[EndpointFacts, ...] = Field(min_length=1)
    modalities: Modalities
    clinical: tuple[Predictor, ...] = ()
    minimum_clinical: tuple[str, ...] = ()
    radiomic: tuple[Name, ...] = ()
    deep: tuple[Name, ...] = ()
    encoder: FileName | None = None  # of the deep features; None where they come from elsewhere
    extraction: dict[str, Any] = Field(default_factory=dict)
    interval_level: float = Field(gt=0, lt=1)
    sub_models: tuple[SubModelFacts, ...]
    distribution: dict[Name, Distribution]
    cohort: CohortFacts
    files: dict[FileName, Sha256]


class Column(_Frozen):
    """One column of a design row: z = (x - mean) / sd, x the (transformed) number or 1 where the level holds.

    `limit` holds |z| of a number there, so that one wild value cannot carry the score alone.
    """

    feature: Name
    level: str | None = None
    transform: Literal["none", "log"] = "none"
    mean: float
    sd: float = Field(gt=0)
    limit: float | None = Field(default=None, gt=0)


class Learner(_Frozen):
    """What one modality says about one endpoint; `offset` and `scale`: mean and SD of its score out of fold.

    Linear kinds hold a coefficient per column; forests hold their trees in `forests.npz` under `forest`. A modality
    with several learners says the mean of their standardised scores.
    """

    modality: ModalityName
    endpoint: EndpointName
    kind: LearnerKind = "cox"
    columns: tuple[Column, ...] = Field(min_length=1)
    coefficients: tuple[float, ...] = ()
    forest: Name | None = None
    offset: float
    scale: float = Field(gt=0)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        expected = 0 if self.kind in FORESTS else len(self.columns)
        if len(self.coefficients) != expected:
            raise ValueError(f"{self.modality} {self.endpoint}: columns and coefficients differ in number")
        if (self.kind in FORESTS) != (self.forest is not None):
            raise ValueError(f"{self.modality} {self.endpoint}: a forest, and only a forest, names its trees")
        return self


class Recalibration(_Frozen):
    """Slope and Breslow baseline of one combination of modalities for one endpoint.

    `cumulative_hazard[k]` holds at `k` whole months, so it starts with 0 and never falls.
    """

    modalities: Modalities
    endpoint: EndpointName
    slope: float = Field(ge=0)
    cumulative_hazard: tuple[float, ...] = Field(min_length=2)

    @model_validator(mode="after")
    def _rising(self) -> Self:
        hazard = self.cumulative_hazard
        if hazard[0] != 0 or any(after < before for before, after in pairwise(hazard)):
            raise ValueError(f"{'+'.join(self.modalities)} {self.endpoint}: cumulative hazard does not rise from 0")
        return self


class Outliers(_Frozen):
    """How far a patient lies from the training cohort in one modality: Mahalanobis distance.

    `precision` is the inverse of a shrunken covariance (Ledoit and Wolf 2004) of the standardised columns;
    `limit` the quantile 1 - `nominal` of the distances of training patients left out of the fit.
    """

    modality: ModalityName
    columns: tuple[Column, ...] = Field(min_length=1)
    precision: tuple[tuple[float, ...], ...]
    limit: float = Field(gt=0)
    nominal: float = Field(gt=0, lt=1)

    @model_validator(mode="after")
    def _square(self) -> Self:
        if {len(self.columns)} != {len(self.precision), *(len(row) for row in self.precision)}:
            raise ValueError(f"{self.modality}: precision is not of the columns' size")
        return self


class Population(_Frozen):
    """What happened to the training cohort: 1 - Kaplan-Meier of an endpoint at 0, 1, 2 ... whole months.

    It ends at the endpoint's last horizon, or where nobody was followed any longer.
    """

    endpoint: EndpointName
    event_probability: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _rising(self) -> Self:
        risk = self.event_probability
        if risk[0] != 0 or any(after < before for before, after in pairwise(risk)):
            raise ValueError(f"population {self.endpoint}: the event probability does not rise from 0")
        return self


class Model(_Frozen):
    """`model.json`. `population` came later: a bundle without it is shown without the cohort's curve."""

    learners: tuple[Learner, ...]
    recalibration: tuple[Recalibration, ...]
    outliers: tuple[Outliers, ...] = ()
    population: tuple[Population, ...] = ()


class LearnerRows(_Frozen):
    """Bootstrap refits of one Learner: a row per refit; a forest's refits are trees of its own in `forests.npz`."""

    modality: ModalityName
    endpoint: EndpointName
    kind: LearnerKind = "cox"
    coefficients: tuple[tuple[float, ...], ...] = ()
    offset: tuple[float, ...]
    scale: tuple[Annotated[float, Field(gt=0)], ...]


class RecalibrationRows(_Frozen):
    """Bootstrap refits of one Recalibration; the hazard at the endpoint's horizons only."""

    modalities: Modalities
    endpoint: EndpointName
    slope: tuple[Annotated[float, Field(ge=0)], ...]
    cumulative_hazard: tuple[tuple[Annotated[float, Field(ge=0)], ...], ...]


class Bootstrap(_Frozen):
    """`bootstrap.json`: row b of every table comes from the same resample b of the patients."""

    rows: int = Field(ge=0)
    learners: tuple[LearnerRows, ...]
    recalibration: tuple[RecalibrationRows, ...]


def significant(value: float, digits: int = 8) -> float:
    """Round to significant digits, so that the last bits of a platform's arithmetic never reach a file.

    >>> significant(0.123456789012), significant(-12345678901.0), significant(0.0)
    (0.12345679, -12345679000.0, 0.0)
    """
    if value == 0 or not math.isfinite(value):
        return value
    return float(f"{value:.{digits - 1}e}")
