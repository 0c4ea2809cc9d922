"""COHORT.toml: what a cohort file may say. Its table is read in `cohort`."""

import difflib
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.manifest import EndpointName, Horizons, LearnerKind, Name, Predictor


class CohortError(Exception):
    """The cohort cannot be trained on; the text names the row or column and the remedy."""


Learners = Annotated[tuple[LearnerKind, ...], Field(min_length=1)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class CohortSection(_Section):
    """[cohort]; `filter` keeps rows whose column holds one of the values, `site` names the column of the hospital."""

    name: Name
    table: Path
    patient_id: str
    filter: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]] = Field(default_factory=dict)
    site: str | None = None
    synthetic: bool = False
    seed: int = Field(default=0, ge=0)
    truth: Path | None = None
    licence: str = "not stated"


class OutcomeSection(_Section):
    """[outcomes.OS], [outcomes.PFS]"""

    time: str
    event: str
    unit: Literal["days", "months"]
    horizons_months: Horizons | None = None


class PredictorSection(_Section):
    """[[clinical.predictors]]: `column` is the table's, by default the name."""

    name: Name
    column: str | None = None
    label: str | None = None
    type: Literal["number", "category", "boolean"]
    unit: str = ""
    transform: Literal["none", "log"] = "none"
    categories: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None

    def predictor(self, fill: float | str | None = None) -> Predictor:
        """As the bundle knows it; `fill` is learned from training rows."""
        stand_in: float | str = self.categories[0] if self.type == "category" and self.categories else 0.0
        return Predictor(
            name=self.name,
            label=self.label or self.name,
            type=self.type,
            unit=self.unit,
            transform=self.transform,
            categories=self.categories,
            minimum=self.minimum,
            maximum=self.maximum,
            fill=stand_in if fill is None else fill,
        )


class ClinicalSection(_Section):
    """[clinical]"""

    predictors: tuple[PredictorSection, ...] = ()
    minimum: tuple[str, ...] = ()
    learners: Learners = ("cox",)


class ImagesSection(_Section):
    """[images]: columns that hold the folder of the CT and the file of the contour, relative to COHORT.toml."""

    ct: str
    roi: str
    roi_name: str = "GTV"


class RadiomicSection(_Section):
    """[radiomic]: ready feature columns instead of images, and what is always kept."""

    columns: tuple[str, ...] = ()
    always_keep: tuple[str, ...] = ("original_shape_MeshVolume",)
    learners: Learners = ("cox",)


class DeepSection(_Section):
    """[deep]: the encoder file that `prognode pretrain` wrote, relative to COHORT.toml, or ready feature columns."""

    encoder: Path | None = None
    columns: tuple[str, ...] = ()
    learners: Learners = ("cox",)
    random_control: bool = True


class TrainingSection(_Section):
    """[training]

    `choose`: a modality with several learners says their mean, or what the best of them in the inner folds says.
    `size`: predictor or feature that stands for the size of the tumour, alone the baseline beside every result.
    `permutations`: runs of the whole procedure on shuffled outcomes. `stability_*`: how many patients are measured
    again under how many perturbations of contour and noise, and the least ICC of a feature that may be used.
    """

    horizons_months: Horizons = (12, 36)
    folds: int = Field(default=5, ge=3, le=10)
    repeats: int = Field(default=5, ge=1, le=20)
    bootstrap: int = Field(default=100, ge=20, le=1000)
    interval_level: float = Field(default=0.9, gt=0.5, lt=1)
    events_per_variable: int = Field(default=10, ge=5)
    largest_correlation: float = Field(default=0.9, gt=0.5, lt=1)
    choose: Literal["mean", "best"] = "mean"
    size: str | None = None
    permutations: int = Field(default=20, ge=0, le=1000)
    stability_patients: int = Field(default=60, ge=0)
    stability_perturbations: int = Field(default=2, ge=1, le=20)
    least_icc: float = Field(default=0.75, ge=0, lt=1)


class BundleSection(_Section):
    """[bundle]: what the bundle is called and for whom it is meant."""

    name: Name | None = None
    version: Name = "1.0.0"
    intended_use: str = (
        "Research on the prognosis of adults with advanced non-small cell lung cancer about to start an immune "
        "checkpoint inhibitor. Prognostic, not predictive of benefit from treatment."
    )


class CohortFile(_Section):
    """COHORT.toml."""

    cohort: CohortSection
    outcomes: dict[EndpointName, OutcomeSection] = Field(min_length=1)
    clinical: ClinicalSection = ClinicalSection()
    images: ImagesSection | None = None
    radiomic: RadiomicSection = RadiomicSection()
    deep: DeepSection = DeepSection()
    extraction: dict[str, Any] = Field(default_factory=dict)
    training: TrainingSection = TrainingSection()
    bundle: BundleSection = BundleSection()


def _unknown(key: str) -> str:
    known = {name for section in _Section.__subclasses__() for name in section.model_fields}
    near = difflib.get_close_matches(key, sorted(known), 1)
    return "unknown key" + (f" (did you mean '{near[0]}'?)" if near else " (every key: docs/science.md)")


def parse(path: Path, text: bytes) -> CohortFile:
    """Read COHORT.toml.

    Raises
    ------
    CohortError
        It is no TOML, or a key is wrong; names the key.
    """
    try:
        file = CohortFile.model_validate(tomllib.loads(text.decode("utf-8-sig")))
        for predictor in file.clinical.predictors:
            predictor.predictor()
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CohortError(f"{path.name}: not TOML: {error}; correct the file") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "clinical.predictors"
        what = _unknown(str(first["loc"][-1])) if first["type"] == "extra_forbidden" else first["msg"]
        raise CohortError(f"{path.name}: {where}: {what}; correct this key") from None
    known = {predictor.name for predictor in file.clinical.predictors}
    stray = [name for name in file.clinical.minimum if name not in known]
    if stray:
        raise CohortError(f"{path.name}: clinical.minimum names {stray[0]!r}, which is no predictor; add or remove it")
    return file
