"""The table of a cohort: cells into values. Errors name the row and the column, and what to do; never a patient.

Rows are numbered as a spreadsheet shows them, the header being row 1, whatever the filter leaves out.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from analysis.clinical import Value, coerce
from analysis.contract import NotScorable
from analysis.train.data.cohort_file import CohortError, CohortFile

Cells = Mapping[str, str]
Rows = Sequence[tuple[int, Cells]]


def _no_table(table: Path, error: Exception) -> CohortError:
    return CohortError(f"{table.name}: not a CSV table in UTF-8 ({type(error).__name__}); save it as one")


def read_table(table: Path, keep: Mapping[str, Sequence[str]]) -> tuple[list[str], Rows]:
    """Column names, and the numbered rows that pass the filter.

    Raises
    ------
    CohortError
        A column stands twice, a row is of another length, the filter names no column or leaves nothing.
    """
    with table.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream)
        try:
            names = list(reader.fieldnames or [])
        except (csv.Error, UnicodeDecodeError) as error:
            raise _no_table(table, error) from None
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise CohortError(f"{table.name}: column {twice[0]!r} stands twice; rename or remove one")
        try:
            rows = list(enumerate(reader, start=2))
        except (csv.Error, UnicodeDecodeError) as error:
            raise _no_table(table, error) from None
    for number, row in rows:
        if None in row or None in row.values():
            raise CohortError(f"{table.name}: row {number} has more or fewer cells than the header; correct the row")
    for column, values in keep.items():
        if column not in names:
            raise CohortError(f"{table.name}: no column {column!r}, which cohort.filter names; correct the filter")
        rows = [(number, row) for number, row in rows if row[column].strip() in values]
        if not rows:
            raise CohortError(f"{table.name}: no row has {' or '.join(values)} in {column!r}; correct cohort.filter")
    return names, rows


def clinical_values(file: CohortFile, number: int, row: Cells) -> dict[str, Value]:
    """The clinical values that are present; a predictor whose column is absent has none."""
    values: dict[str, Value] = {}
    for section in file.clinical.predictors:
        column = section.column or section.name
        try:
            value = coerce(section.predictor(), row.get(column, ""))
        except NotScorable as error:
            raise CohortError(
                f"row {number}: column {column!r}: {error.detail}; correct the cell or leave it empty"
            ) from None
        if value is not None:
            values[section.name] = value
    return values


def feature(name: str, number: int, row: Cells) -> float:
    """A ready feature; NaN where the cell is empty."""
    return math.nan if not row[name].strip() else number_in(row[name], number, name, "leave it empty if unknown")


def image_paths(file: CohortFile, folder: Path, number: int, row: Cells) -> tuple[Path, Path] | None:
    """Folder of the CT and file of the contour; None where a cell is empty."""
    if file.images is None or not (row[file.images.ct].strip() and row[file.images.roi].strip()):
        return None
    found = folder / row[file.images.ct].strip(), folder / row[file.images.roi].strip()
    kinds = (("folder", found[0].is_dir()), ("file", found[1].is_file()))
    for column, (kind, there) in zip((file.images.ct, file.images.roi), kinds, strict=True):
        if not there:
            raise CohortError(
                f"row {number}: column {column!r}: no such file or folder beside the cohort file (a {kind} is wanted); "
                "correct the path, or leave the cell empty if the patient has no images"
            )
    return found


def number_in(text: str, number: int, column: str, remedy: str) -> float:
    """A finite number, or CohortError with the remedy."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise CohortError(f"row {number}: column {column!r} is not a number; {remedy}")
    return value
