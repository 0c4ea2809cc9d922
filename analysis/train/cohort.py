"""Reads a cohort: COHORT.toml and its table. Everything that could spoil a training run is refused here.

Only columns on the allow-list become predictors; outcome columns can never be among them. Errors name the row
(as a spreadsheet counts, the header being row 1) or the column, and what to do; never a patient's identifier.
"""

import csv
import hashlib
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from analysis.clinical import Value, coerce
from analysis.contract import NotScorable
from models.manifest import EndpointName, Name, Predictor

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]
DAYS_PER_MONTH = 30.4375
MINIMUM_EVENTS = 20
MINIMUM_PATIENTS = 40


class CohortError(Exception):
    """The cohort cannot be trained on; the text names the row or column and the remedy."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class CohortSection(_Section):
    """[cohort]"""

    name: Name
    table: Path
    patient_id: str
    synthetic: bool = False
    seed: int = Field(default=0, ge=0)
    truth: Path | None = None


class OutcomeSection(_Section):
    """[outcomes.OS], [outcomes.PFS]"""

    time: str
    event: str
    unit: Literal["days", "months"]
    horizons_months: tuple[int, ...] | None = Field(default=None, min_length=1)


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


class ImagesSection(_Section):
    """[images]: columns that hold the folder of the CT and the file of the contour, relative to COHORT.toml."""

    ct: str
    roi: str
    roi_name: str = "GTV"


class RadiomicSection(_Section):
    """[radiomic]: ready feature columns instead of images, and what is always kept."""

    columns: tuple[str, ...] = ()
    always_keep: tuple[str, ...] = ("original_shape_MeshVolume",)


class TrainingSection(_Section):
    """[training]"""

    horizons_months: tuple[int, ...] = (12, 36)
    folds: int = Field(default=5, ge=3, le=10)
    repeats: int = Field(default=2, ge=1, le=20)
    bootstrap: int = Field(default=100, ge=20, le=1000)
    interval_level: float = Field(default=0.9, gt=0.5, lt=1)
    events_per_variable: int = Field(default=10, ge=5)
    largest_correlation: float = Field(default=0.9, gt=0.5, lt=1)


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
    extraction: dict[str, Any] = Field(default_factory=dict)
    training: TrainingSection = TrainingSection()
    bundle: BundleSection = BundleSection()


@dataclass(frozen=True)
class Outcome:
    """Time to event or censoring, months, and whether it was the event, shape (patients,); where risk is asked for."""

    time: Array
    event: Bools
    horizons: tuple[int, ...] = (12, 36)


@dataclass(frozen=True)
class Cohort:
    """A checked cohort, one row per patient in the table's order.

    `clinical[i]` holds the values that are present; `radiomic` is (patients, features) with NaN where unknown,
    empty until features are extracted.
    """

    folder: Path
    file: CohortFile
    digest: str
    patient_ids: tuple[str, ...]
    outcomes: Mapping[EndpointName, Outcome]
    clinical: tuple[Mapping[str, Value], ...]
    image_paths: tuple[tuple[Path, Path] | None, ...]
    radiomic_names: tuple[str, ...]
    radiomic: Array

    def __len__(self) -> int:
        return len(self.patient_ids)


def load(path: Path) -> Cohort:
    """Read COHORT.toml and its table.

    Raises
    ------
    CohortError
        Anything is wrong with either.
    FileNotFoundError
        One of the files is absent.
    """
    text = path.read_bytes()
    file = _parse(path, text)
    folder = path.resolve().parent
    table = folder / file.cohort.table
    rows = _read_table(table)
    _check_columns(file, table.name, list(rows[0]))
    ids = _patient_ids(file.cohort.patient_id, rows)
    horizons = file.training.horizons_months
    outcomes = {name: _outcome(name, section, rows, horizons) for name, section in sorted(file.outcomes.items())}
    _check_order(outcomes)
    names = file.radiomic.columns
    config = json.dumps(file.model_dump(mode="json"), sort_keys=True).encode()
    return Cohort(
        folder=folder,
        file=file,
        digest=hashlib.sha256(config + table.read_bytes()).hexdigest(),
        patient_ids=ids,
        outcomes=outcomes,
        clinical=tuple(_clinical(file, number, row) for number, row in rows_numbered(rows)),
        image_paths=tuple(_paths(file, folder, number, row) for number, row in rows_numbered(rows)),
        radiomic_names=names,
        radiomic=np.array([[_feature(name, number, row) for name in names] for number, row in rows_numbered(rows)]),
    )


def rows_numbered(rows: Sequence[dict[str, str]]) -> list[tuple[int, dict[str, str]]]:
    """Rows with their number as a spreadsheet shows it."""
    return list(enumerate(rows, start=2))


def _parse(path: Path, text: bytes) -> CohortFile:
    try:
        file = CohortFile.model_validate(tomllib.loads(text.decode()))
        for predictor in file.clinical.predictors:
            predictor.predictor()
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CohortError(f"{path.name}: not TOML: {error}; correct the file") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CohortError(f"{path.name}: {where}: {first['msg']}; correct this key") from None
    known = {predictor.name for predictor in file.clinical.predictors}
    stray = [name for name in file.clinical.minimum if name not in known]
    if stray:
        raise CohortError(f"{path.name}: clinical.minimum names {stray[0]!r}, which is no predictor; add or remove it")
    return file


def _read_table(table: Path) -> list[dict[str, str]]:
    with table.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream)
        names = list(reader.fieldnames or [])
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise CohortError(f"{table.name}: column {twice[0]!r} stands twice; rename or remove one")
        rows = list(reader)
    for number, row in rows_numbered(rows):
        if None in row or None in row.values():
            raise CohortError(f"{table.name}: row {number} has more or fewer cells than the header; correct the row")
    if len(rows) < MINIMUM_PATIENTS:
        raise CohortError(f"{table.name}: {len(rows)} patients; at least {MINIMUM_PATIENTS} are needed to train")
    return rows


def _check_columns(file: CohortFile, table: str, columns: list[str]) -> None:
    """Every column named is there, and no outcome is a predictor."""
    predictors = [(p.column or p.name, f"clinical predictor {p.name}") for p in file.clinical.predictors]
    predictors += [(name, "radiomic.columns") for name in file.radiomic.columns]
    outcomes = [
        (column, f"outcomes.{name}")
        for name, section in file.outcomes.items()
        for column in (section.time, section.event)
    ]
    images = [] if file.images is None else [(file.images.ct, "images.ct"), (file.images.roi, "images.roi")]
    for column, role in [(file.cohort.patient_id, "patient_id"), *outcomes, *images, *predictors]:
        if column not in columns:
            there = ", ".join(columns)
            raise CohortError(f"{table}: no column {column!r}, which is named as {role}; there are: {there}")
    taken = dict([*outcomes, (file.cohort.patient_id, "patient_id")])
    for column, role in predictors:
        if column in taken:
            raise CohortError(f"{table}: column {column!r} is {taken[column]} and cannot be {role}; remove it there")
    names = [p.name for p in file.clinical.predictors] + list(file.radiomic.columns)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise CohortError(f"{table}: predictor {twice[0]!r} is listed twice; remove one")
    if not predictors and file.images is None:
        raise CohortError(f"{table}: no predictors; list clinical.predictors, radiomic.columns or images")


def _patient_ids(column: str, rows: Sequence[dict[str, str]]) -> tuple[str, ...]:
    seen: dict[str, int] = {}
    for number, row in rows_numbered(rows):
        name = row[column].strip()
        if not name:
            raise CohortError(f"row {number}: column {column!r} is empty; every row needs a patient identifier")
        if name in seen:
            raise CohortError(
                f"rows {seen[name]} and {number} are the same patient ({column!r}); keep one row per patient"
            )
        seen[name] = number
    return tuple(seen)


def _outcome(name: str, section: OutcomeSection, rows: Sequence[dict[str, str]], horizons: tuple[int, ...]) -> Outcome:
    times, events = [], []
    for number, row in rows_numbered(rows):
        time = _number(row[section.time], number, section.time, "a time is needed for every patient")
        if time <= 0:
            raise CohortError(
                f"row {number}: column {section.time!r} is not above 0; correct it or leave the patient out"
            )
        event = row[section.event].strip()
        if event not in ("0", "1", "0.0", "1.0"):
            raise CohortError(f"row {number}: column {section.event!r} must be 0 (censored) or 1 (event); recode it")
        times.append(time / DAYS_PER_MONTH if section.unit == "days" else time)
        events.append(event.startswith("1"))
    outcome = Outcome(np.array(times), np.array(events), section.horizons_months or horizons)
    count = int(outcome.event.sum())
    if count < MINIMUM_EVENTS:
        raise CohortError(f"column {section.event!r}: {count} events of {name}; at least {MINIMUM_EVENTS} are needed")
    median = float(np.median(outcome.time))
    if not 1 <= median <= 240:
        raise CohortError(f"column {section.time!r}: the median is {median:.1f} months; is {section.unit!r} its unit?")
    return outcome


def _check_order(outcomes: Mapping[EndpointName, Outcome]) -> None:
    if "OS" not in outcomes or "PFS" not in outcomes:
        return
    late = np.flatnonzero(outcomes["PFS"].time > outcomes["OS"].time * 1.001 + 0.04)
    if late.size:
        raise CohortError(
            f"row {late[0] + 2}: time to progression or death is later than time to death or last contact "
            f"({late.size} rows); correct the times or their units"
        )


def _clinical(file: CohortFile, number: int, row: Mapping[str, str]) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for section in file.clinical.predictors:
        column = section.column or section.name
        try:
            value = coerce(section.predictor(), row[column])
        except NotScorable as error:
            raise CohortError(
                f"row {number}: column {column!r}: {error.detail}; correct the cell or leave it empty"
            ) from None
        if value is not None:
            values[section.name] = value
    return values


def _feature(name: str, number: int, row: Mapping[str, str]) -> float:
    return math.nan if not row[name].strip() else _number(row[name], number, name, "leave it empty if unknown")


def _paths(file: CohortFile, folder: Path, number: int, row: Mapping[str, str]) -> tuple[Path, Path] | None:
    if file.images is None or not (row[file.images.ct].strip() and row[file.images.roi].strip()):
        return None
    found = folder / row[file.images.ct].strip(), folder / row[file.images.roi].strip()
    for column, path in zip((file.images.ct, file.images.roi), found, strict=True):
        if not path.exists():
            raise CohortError(
                f"row {number}: column {column!r}: no such file or folder beside the cohort file; correct the path, "
                "or leave the cell empty if the patient has no images"
            )
    return found


def _number(text: str, number: int, column: str, remedy: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise CohortError(f"row {number}: column {column!r} is not a number; {remedy}")
    return value
