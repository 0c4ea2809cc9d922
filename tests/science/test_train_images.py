"""Training from images: features are extracted once and cached by what went in; a bad image names its row."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from analysis.contract import Combine
from analysis.roi import mask_from_rtstruct
from analysis.train.data import cohort, features
from analysis.train.synth.synth import SynthConfig, make_cohort
from analysis.volume import read_ct
from tests.synthetic import seg


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of three patients in a table of sixty: the others have none."""
    folder = tmp_path_factory.mktemp("images")
    few = SynthConfig(count=3, seed=21, matrix=96, slices=36, slice_mm=4.0)
    make_cohort(few, folder / "few", workers=2)
    make_cohort(replace(few, count=60, images=False), folder / "many")
    with (folder / "few" / "patients.csv").open() as file:
        places = [(row["ct"], row["roi"]) for row in csv.DictReader(file)]
    table = folder / "many" / "patients.csv"
    with table.open() as file:
        rows = list(csv.DictReader(file))
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        for row, (ct, roi) in zip(rows, places + [("", "")] * 57, strict=True):
            writer.writerow(row | {"ct": f"../few/{ct}" if ct else "", "roi": f"../few/{roi}" if roi else ""})
    return folder / "many" / "cohort.toml"


def test_features_are_extracted_once_and_cached_by_content(path: Path, tmp_path: Path) -> None:
    loaded = cohort.load(path)
    what = features.of_cohort_file(loaded)
    first = features.extract(loaded, what, tmp_path / "cache", workers=2)
    assert np.isfinite(first.radiomic[:3]).all()
    assert np.isnan(first.radiomic[3:]).all()
    entries = {entry.name: entry.stat().st_mtime_ns for entry in (tmp_path / "cache").iterdir()}
    assert len(entries) == 3
    again = features.extract(loaded, what, tmp_path / "cache", workers=1)
    assert np.array_equal(first.radiomic, again.radiomic, equal_nan=True)
    assert {entry.name: entry.stat().st_mtime_ns for entry in (tmp_path / "cache").iterdir()} == entries
    other = cohort.load(path)
    finer = other.file.model_copy(update={"extraction": {"spacing_mm": [3.0, 3.0, 3.0]}})
    finer_cohort = replace(other, file=finer)
    changed = features.extract(finer_cohort, features.of_cohort_file(finer_cohort), tmp_path / "cache", workers=2)
    assert not np.array_equal(first.radiomic, changed.radiomic, equal_nan=True)
    assert len(list((tmp_path / "cache").iterdir())) == 6


def test_a_contour_that_cannot_be_used_names_the_row_and_not_the_patient(path: Path, tmp_path: Path) -> None:
    loaded = cohort.load(path)
    none = loaded.file.images.model_copy(update={"roi_name": "liver"})
    renamed = replace(loaded, file=loaded.file.model_copy(update={"images": none}))
    what = features.of_cohort_file(renamed)
    with pytest.raises(cohort.CohortError, match=r"row 2: no ROI or segment has 'liver' in its name") as refusal:
        features.extract(renamed, what, tmp_path, workers=1)
    assert "SYN-" not in str(refusal.value)


def test_a_missing_image_folder_names_the_row(path: Path) -> None:
    table = path.parent / "patients.csv"
    text = table.read_text()
    table.write_text(text.replace("../few/images", "../gone/images", 1))
    try:
        with pytest.raises(cohort.CohortError, match="row 2: column 'ct': no such file or folder"):
            cohort.load(path)
    finally:
        table.write_text(text)


def test_a_segmentation_object_gives_the_features_of_the_same_contour(path: Path, tmp_path: Path) -> None:
    loaded = cohort.load(path)
    ct, contour = loaded.image_paths[0]
    files = sorted(ct.iterdir())
    roi = mask_from_rtstruct(contour, (1,), Combine.SINGLE, read_ct(files))
    datasets = [pydicom.dcmread(file) for file in files]
    segmentation = seg(datasets, roi.array)
    segmentation.save_as(tmp_path / "seg.dcm", enforce_file_format=True)
    pairs = ((ct, tmp_path / "seg.dcm"), *loaded.image_paths[1:3], *loaded.image_paths[3:])
    what = features.of_cohort_file(loaded)
    drawn = features.extract(loaded, what, tmp_path / "cache", workers=1)
    segmented = features.extract(replace(loaded, image_paths=pairs), what, tmp_path / "cache", workers=1)
    assert np.array_equal(drawn.radiomic, segmented.radiomic, equal_nan=True)
    assert len(list((tmp_path / "cache").iterdir())) == 4


def test_unknown_extraction_settings_are_refused(path: Path, tmp_path: Path) -> None:
    path.write_text(path.read_text().replace("[extraction]", "[extraction]\nbinwidth = 25"))
    with pytest.raises(cohort.CohortError, match=r"\[extraction\]: unknown extraction settings: binwidth"):
        features.of_cohort_file(cohort.load(path))
