"""A cohort that would spoil training is refused with the row or column and the remedy."""

import csv
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from analysis.train import pipeline
from analysis.train.__main__ import main
from analysis.train.data import cohort
from analysis.train.data.cohort import CohortError
from analysis.train.judging import validation
from tests import cohorts

Rows = list[dict[str, str]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return cohorts.write(tmp_path, cohorts.patients(60), folds=3)


def change(path: Path, edit: Callable[[Rows], object]) -> None:
    table = path.parent / "patients.csv"
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    edit(rows)
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def everywhere(column: str, value: str) -> Callable[[Rows], None]:
    def edit(rows: Rows) -> None:
        for row in rows:
            row[column] = value

    return edit


def cell(number: int, column: str, value: str) -> Callable[[Rows], None]:
    return lambda rows: rows[number - 2].update({column: value})


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (cell(7, "patient_id", "P000"), r"rows 2 and 7 are the same patient \('patient_id'\); keep one row"),
        (cell(7, "patient_id", " "), r"row 7: column 'patient_id' is empty"),
        (cell(5, "os_event", "2"), r"row 5: column 'os_event' must be 0 \(censored\) or 1 \(event\); recode"),
        (cell(5, "os_event", ""), r"row 5: column 'os_event' must be 0"),
        (cell(9, "pfs_days", "-4"), r"row 9: column 'pfs_days' is not above 0"),
        (cell(9, "pfs_days", "soon"), r"row 9: column 'pfs_days' is not a number; a time is needed"),
        (cell(9, "pfs_days", "nan"), r"row 9: column 'pfs_days' is not a number"),
        (cell(9, "pfs_days", "9999"), r"row 9: time to progression or death is later than time to death"),
        (everywhere("os_event", "0"), r"column 'os_event': 0 events of OS; at least 20"),
        (cell(4, "albumin", "3.9"), r"row 4: column 'albumin': albumin lies outside the plausible range 10 to 60 g/L"),
        (cell(4, "sex", "W"), r"row 4: column 'sex': sex must be one of F, M"),
        (cell(4, "nlr", "high"), r"row 4: column 'nlr': nlr is not a number; correct the cell or leave it empty"),
        (cell(4, "noise_0", "x"), r"row 4: column 'noise_0' is not a number; leave it empty"),
        (lambda rows: rows.__delitem__(slice(20, None)), r"20 patients; at least 40"),
    ],
)
def test_a_bad_cell_is_named_with_its_row_and_column(path: Path, edit, text: str) -> None:
    change(path, edit)
    with pytest.raises(CohortError, match=text):
        cohort.load(path)


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        (
            'name = "albumin"',
            'name = "albumine"',
            r"no column 'albumine', which is named as clinical predictor albumine",
        ),
        ('time = "os_days"', 'time = "os_dayz"', r"no column 'os_dayz', which is named as outcomes.OS"),
        ('name = "albumin"', 'name = "os_days"', r"column 'os_days' is outcomes.OS and cannot be clinical"),
        ('name = "albumin"', 'name = "a"\ncolumn = "pfs_event"', r"column 'pfs_event' is outcomes.PFS and cannot be"),
        ('"noise_0"', '"os_event"', r"column 'os_event' is outcomes.OS and cannot be radiomic.columns"),
        ('name = "albumin"', 'name = "age"', r"predictor 'age' is listed twice"),
        ('unit = "days"', 'unit = "weeks"', r"outcomes.OS.unit: Input should be 'days' or 'months'"),
        ('unit = "days"', 'unit = "months"', r"column 'os_days': the median is \d+\.\d months; is 'months' its unit"),
        (
            'minimum = ["age", "ecog", "nlr"]',
            'minimum = ["agee"]',
            r"clinical.minimum names 'agee', which is no predictor",
        ),
        ("[training]", "[trainings]", r"trainings: unknown key \(did you mean 'training'\?\)"),
        ('type = "category"', 'type = "number"', r"a category, and only a category, lists"),
        ("[cohort]", "[cohort", r"cohort.toml: not TOML"),
    ],
)
def test_a_bad_cohort_file_is_named_with_its_key(path: Path, old: str, new: str, text: str) -> None:
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new, 1))
    with pytest.raises(CohortError, match=text):
        cohort.load(path)


def test_a_horizon_beyond_the_follow_up_is_refused(path: Path) -> None:
    path.write_text(path.read_text().replace("horizons_months = [12, 36]", "horizons_months = [12, 96]"))
    with pytest.raises(CohortError, match=r"longest follow-up is \d+\.\d months.*96; set training.horizons_months"):
        pipeline.fit_all(cohort.load(path))


def test_a_row_of_another_length_is_named(path: Path) -> None:
    table = path.parent / "patients.csv"
    table.write_text(table.read_text() + "P999,1\n")
    with pytest.raises(CohortError, match="row 62 has more or fewer cells"):
        cohort.load(path)


def test_patients_without_features_or_clinical_values_still_teach_the_other_modality(path: Path) -> None:
    """10 % without a feature, 10 % below the minimum clinical set: each sub-model counts its own patients."""

    def edit(rows: Rows) -> None:
        for row in rows[:6]:
            row.update({name: "" for name in row if name.startswith(("copy_", "noise_", "original_", "constant"))})
        for row in rows[6:12]:
            row["ecog"] = ""

    change(path, edit)
    loaded = cohort.load(path)
    trained = pipeline.fit_all(loaded)
    found = [model for model in validation.metrics_of(trained)["models"] if model["kind"] == "model"]
    counts = {tuple(model["modalities"]): model["horizons"][0]["patients"] for model in found}
    assert counts[("clinical",)] == counts[("radiomic",)] == 54
    assert counts["clinical", "radiomic"] == counts["clinical", "radiomic", "deep"] == 48
    assert counts["deep",] == 60


def test_the_command_refuses_with_one_line_and_a_sysexit(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(path, cell(5, "os_event", "2"))
    command = [sys.executable, "-m", "analysis.train", "train", str(path), "--out", str(path.parent / "bundle")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == os.EX_DATAERR
    assert done.stderr.strip() == "row 5: column 'os_event' must be 0 (censored) or 1 (event); recode it"
    assert not (path.parent / "bundle").exists()
    assert main(["train", "no/such.toml", *command[5:]]) == os.EX_NOINPUT
    assert "no/such.toml: no such file; give the COHORT.toml" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("1", r"column 'ecog' holds the same value for every patient; take it off the list of predictors"),
        ("", r"column 'albumin' is empty for every patient; take it off"),
    ],
)
def test_a_predictor_that_says_nothing_is_named(path: Path, value: str, text: str) -> None:
    change(path, everywhere("ecog" if value else "albumin", value))
    with pytest.raises(CohortError, match=text):
        pipeline.fit_all(cohort.load(path))


def test_a_modality_without_one_usable_feature_is_named(path: Path) -> None:
    def edit(rows: Rows) -> None:
        for row in rows:
            row.update({name: "7" for name in row if name.startswith("deep_")})

    change(path, edit)
    with pytest.raises(CohortError, match=r"deep: not one of 6 features is complete, varies and repeats"):
        pipeline.fit_all(cohort.load(path))


def test_the_filter_keeps_rows_and_their_numbers(path: Path) -> None:
    change(path, lambda rows: [row.update({"arm": "a" if number % 5 else "b"}) for number, row in enumerate(rows)])
    path.write_text(
        path.read_text().replace('patient_id = "patient_id"', 'patient_id = "patient_id"\nfilter.arm = ["a"]')
    )
    loaded = cohort.load(path)
    assert len(loaded) == 48
    assert loaded.row_numbers[:5] == (3, 4, 5, 6, 8)
    change(path, cell(8, "os_event", "2"))
    with pytest.raises(CohortError, match="row 8: column 'os_event' must be"):
        cohort.load(path)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ('filter.arm = ["a"]', r"no column 'arm', which cohort.filter names"),
        ('filter.sex = ["W"]', r"no row has W in 'sex'; correct cohort.filter"),
        ('site = "hospital"', r"no column 'hospital', which is named as cohort.site"),
    ],
)
def test_a_filter_or_site_that_is_not_there_is_named(path: Path, line: str, text: str) -> None:
    path.write_text(path.read_text().replace('patient_id = "patient_id"', f'patient_id = "patient_id"\n{line}'))
    with pytest.raises(CohortError, match=text):
        cohort.load(path)


def test_each_endpoint_may_have_horizons_of_its_own(path: Path) -> None:
    path.write_text(path.read_text().replace("[outcomes.PFS]", "[outcomes.PFS]\nhorizons_months = [6]"))
    loaded = cohort.load(path)
    assert {name: outcome.horizons for name, outcome in loaded.outcomes.items()} == {"OS": (12, 36), "PFS": (6,)}


def test_a_size_that_is_no_predictor_is_named(path: Path) -> None:
    path.write_text(path.read_text().replace("[training]", '[training]\nsize = "diameter"'))
    with pytest.raises(CohortError, match=r"training.size names 'diameter', which is no predictor"):
        pipeline.fit_all(cohort.load(path))
