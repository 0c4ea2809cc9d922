"""Reads a cohort: COHORT.toml and its table. Everything that could spoil a training run is refused here.

Only columns on the allow-list become predictors; outcome columns can never be among them. Errors name the row
(as a spreadsheet counts, the header being row 1) or the column, and what to do; never a patient's identifier.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from analysis.clinical import Value
from analysis.reasons import Reason
from analysis.train.data.cohort_file import (
    CohortError,
    CohortFile,
    OutcomeSection,
    PredictorSection,
    TrainingSection,
    parse,
)
from analysis.train.data.cohort_table import Rows, clinical_values, feature, image_paths, number_in, read_table
from models.manifest import EndpointName, ModalityName

__all__ = ["Cohort", "CohortError", "CohortFile", "Outcome", "PredictorSection", "TrainingSection", "load"]

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]
DAYS_PER_MONTH = 30.4375
MINIMUM_EVENTS = 20
MINIMUM_PATIENTS = 40
LONGEST_MONTHS = 600


@dataclass(frozen=True)
class Outcome:
    """Time to event or censoring, months, and whether it was the event, shape (patients,); where risk is asked for."""

    time: Array
    event: Bools
    horizons: tuple[int, ...] = (12, 36)


@dataclass(frozen=True)
class Cohort:
    """A checked cohort, one row per patient in the table's order.

    Attributes
    ----------
    row_numbers : as a spreadsheet shows them
    clinical : for each patient the values that are present
    radiomic, deep : (patients, features), NaN where unknown; without columns until features are extracted
    control : (patients, deep features), of an encoder that has learned nothing; without columns where there is none
    repeats : by modality (patients, perturbations, features), NaN where a patient was not measured again
    sites : hospital of each patient; empty where the cohort file names no such column
    refused : by row, the reason why a patient's images could not be measured (external validation only)
    """

    folder: Path
    file: CohortFile
    digest: str
    row_numbers: tuple[int, ...]
    patient_ids: tuple[str, ...]
    outcomes: Mapping[EndpointName, Outcome]
    clinical: tuple[Mapping[str, Value], ...]
    image_paths: tuple[tuple[Path, Path] | None, ...]
    radiomic_names: tuple[str, ...]
    radiomic: Array
    deep_names: tuple[str, ...]
    deep: Array
    control: Array
    repeats: Mapping[ModalityName, Array] = field(default_factory=dict)
    sites: tuple[str, ...] = ()
    refused: Mapping[int, Reason] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.patient_ids)


def load(path: Path, training: bool = True) -> Cohort:
    """Read COHORT.toml and its table.

    Parameters
    ----------
    training : bool
        False for an external validation: a cohort of any size, and predictors may be absent.

    Raises
    ------
    CohortError
        Anything is wrong with either.
    FileNotFoundError
        One of the files is absent.
    """
    file = parse(path, path.read_bytes())
    folder = path.resolve().parent
    table = folder / file.cohort.table
    if not table.is_file():
        raise CohortError(
            f"cohort.table: {file.cohort.table.name!r} is no file beside the cohort file; correct the path"
        )
    columns, rows = read_table(table, file.cohort.filter)
    _check_columns(file, table.name, columns, training)
    if not rows:
        raise CohortError(f"{table.name}: no patient in it; give a table with a row for each")
    if training and len(rows) < MINIMUM_PATIENTS:
        raise CohortError(f"{table.name}: {len(rows)} patients; at least {MINIMUM_PATIENTS} are needed to train")
    outcomes = {
        name: _outcome(name, section, rows, file.training.horizons_months, training)
        for name, section in sorted(file.outcomes.items())
    }
    _check_order(outcomes, rows)
    radiomic, deep = (
        tuple(name for name in names if training or name in columns)
        for names in (file.radiomic.columns, file.deep.columns)
    )
    config = json.dumps(file.model_dump(mode="json"), sort_keys=True).encode()
    return Cohort(
        folder=folder,
        file=file,
        digest=hashlib.sha256(config + table.read_bytes()).hexdigest(),
        row_numbers=tuple(number for number, _ in rows),
        patient_ids=_patient_ids(file.cohort.patient_id, rows),
        outcomes=outcomes,
        clinical=tuple(clinical_values(file, number, row) for number, row in rows),
        image_paths=tuple(image_paths(file, folder, number, row) for number, row in rows),
        radiomic_names=radiomic,
        radiomic=_matrix(radiomic, rows),
        deep_names=deep,
        deep=_matrix(deep, rows),
        control=np.empty((len(rows), 0)),
        sites=tuple(row[file.cohort.site].strip() for _, row in rows) if file.cohort.site else (),
    )


def _matrix(names: tuple[str, ...], rows: Rows) -> Array:
    values = [[feature(name, number, row) for name in names] for number, row in rows]
    return np.array(values, np.float64).reshape(len(rows), len(names))


def _check_columns(file: CohortFile, table: str, columns: list[str], training: bool) -> None:
    """Every column named is there, and no outcome is a predictor."""
    predictors = [(p.column or p.name, f"clinical predictor {p.name}") for p in file.clinical.predictors]
    predictors += [(name, "radiomic.columns") for name in file.radiomic.columns]
    predictors += [(name, "deep.columns") for name in file.deep.columns]
    if not training:
        predictors = [(column, role) for column, role in predictors if column in columns]
    outcomes = [
        (column, f"outcomes.{name}")
        for name, section in file.outcomes.items()
        for column in (section.time, section.event)
    ]
    images = [] if file.images is None else [(file.images.ct, "images.ct"), (file.images.roi, "images.roi")]
    site = [] if file.cohort.site is None else [(file.cohort.site, "cohort.site")]
    for column, role in [(file.cohort.patient_id, "patient_id"), *outcomes, *site, *images, *predictors]:
        if column not in columns:
            there = ", ".join(columns)
            raise CohortError(f"{table}: no column {column!r}, which is named as {role}; there are: {there}")
    _check_roles(table, [*outcomes, *site, (file.cohort.patient_id, "patient_id")])
    taken = dict([*outcomes, (file.cohort.patient_id, "patient_id")])
    for column, role in predictors:
        if column in taken:
            raise CohortError(f"{table}: column {column!r} is {taken[column]} and cannot be {role}; remove it there")
    names = [p.name for p in file.clinical.predictors] + [*file.radiomic.columns, *file.deep.columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise CohortError(f"{table}: predictor {twice[0]!r} is listed twice; remove one")
    if file.deep.encoder is not None and file.images is None:
        raise CohortError("deep.encoder needs [images]: ready columns do not come from it; take one of them out")
    if not predictors and file.images is None:
        raise CohortError(f"{table}: no predictors; list clinical.predictors, radiomic.columns, deep.columns or images")


def _check_roles(table: str, roles: list[tuple[str, str]]) -> None:
    """One column is one thing: not the time of two endpoints, not the patient and the hospital."""
    seen: dict[str, str] = {}
    for column, role in roles:
        earlier = seen.setdefault(column, role)
        if earlier != role:
            raise CohortError(f"{table}: column {column!r} is named as {earlier} and as {role}; it can be one of them")


def _patient_ids(column: str, rows: Rows) -> tuple[str, ...]:
    seen: dict[str, int] = {}
    for number, row in rows:
        name = row[column].strip()
        if not name:
            raise CohortError(f"row {number}: column {column!r} is empty; every row needs a patient identifier")
        if name in seen:
            raise CohortError(
                f"rows {seen[name]} and {number} are the same patient ({column!r}); keep one row per patient"
            )
        seen[name] = number
    return tuple(seen)


def _outcome(name: str, section: OutcomeSection, rows: Rows, horizons: tuple[int, ...], training: bool) -> Outcome:
    times, events = [], []
    for number, row in rows:
        time = number_in(row[section.time], number, section.time, "a time is needed for every patient")
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
    if training and count < MINIMUM_EVENTS:
        raise CohortError(f"column {section.event!r}: {count} events of {name}; at least {MINIMUM_EVENTS} are needed")
    median = float(np.median(outcome.time))
    if not 1 <= median <= 240:
        raise CohortError(f"column {section.time!r}: the median is {median:.1f} months; is {section.unit!r} its unit?")
    late = np.flatnonzero(outcome.time > LONGEST_MONTHS)
    if late.size:
        too_long = f"is longer than {LONGEST_MONTHS} months; correct it"
        raise CohortError(f"row {rows[late[0]][0]}: column {section.time!r} {too_long}")
    return outcome


def _check_order(outcomes: Mapping[EndpointName, Outcome], rows: Rows) -> None:
    if "OS" not in outcomes or "PFS" not in outcomes:
        return
    late = np.flatnonzero(outcomes["PFS"].time > outcomes["OS"].time * 1.001 + 0.04)
    if late.size:
        raise CohortError(
            f"row {rows[late[0]][0]}: time to progression or death is later than time to death or last contact "
            f"({late.size} rows); correct the times or their units"
        )
