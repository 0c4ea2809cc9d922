"""The synthetic cohort is valid DICOM, says that it is synthetic, looks like a chest, and comes out the same again."""

import csv
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from scipy.stats import spearmanr

from analysis import radiomic
from analysis.contract import Combine
from analysis.quality import flags
from analysis.roi import mask_from_rtstruct
from analysis.settings import ExtractionSettings
from analysis.train.synth import outcomes
from analysis.train.synth.anatomy import Grid
from analysis.train.synth.lesion import Lesion, insert
from analysis.train.synth.synth import SCANNERS, SynthConfig, SynthError, make_cohort, make_patient, scan
from analysis.volume import read_ct
from tests.validators import dciodvfy
from tests.volumes import volume_of

SETTINGS = ExtractionSettings(spacing_mm=(2.0, 2.0, 2.0))
SMALL = SynthConfig(count=3, seed=11, matrix=128, slices=40, slice_mm=3.6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synth") / "cohort"
    make_cohort(SMALL, out, workers=1)
    return out


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def patients(folder: Path) -> list[Path]:
    return sorted((folder / "images").iterdir())


def test_the_same_seed_gives_the_same_bytes_however_many_processes(folder: Path, tmp_path: Path) -> None:
    make_cohort(SMALL, tmp_path / "again", workers=2)
    assert digests(tmp_path / "again") == digests(folder)
    assert len(digests(folder)) == 3 * 41 + 3


def test_another_seed_gives_other_patients(folder: Path, tmp_path: Path) -> None:
    make_patient(replace(SMALL, seed=12), 1, tmp_path / "other")
    first, other = (pydicom.dcmread(path / "ct" / "CT0001.dcm") for path in (patients(folder)[0], tmp_path / "other"))
    assert first.SOPInstanceUID != other.SOPInstanceUID
    assert first.PixelData != other.PixelData


def test_ct_and_rtstruct_pass_dciodvfy(folder: Path) -> None:
    patient = patients(folder)[0]
    for path in (patient / "ct" / "CT0001.dcm", patient / "ct" / "CT0040.dcm", patient / "rtstruct.dcm"):
        assert dciodvfy(path) == []


def test_every_object_says_that_it_is_synthetic(folder: Path) -> None:
    for path in folder.rglob("*.dcm"):
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        for text in (str(dataset.PatientName), dataset.StudyDescription, dataset.SeriesDescription):
            assert "SYNTHETIC" in text
    for name in ("truth.json", "cohort.toml"):
        assert "SYNTHETIC - NOT FOR CLINICAL USE" in (folder / name).read_text()


def test_contours_give_back_a_lesion_of_the_volume_asked_for(folder: Path) -> None:
    truth = json.loads((folder / "truth.json").read_text())["patients"]
    for patient in patients(folder):
        volume = read_ct(sorted((patient / "ct").iterdir()))
        roi = mask_from_rtstruct(patient / "rtstruct.dcm", (1,), Combine.SINGLE, volume)
        assert roi.facts(volume).volume_ml == pytest.approx(truth[patient.name]["volume_ml"], rel=0.1)
        assert {flag.code for flag in flags(volume, roi)} <= {"THICK_SLICES"}
        inside = volume.array[roi.array]
        assert 0 < inside.mean() < 90  # soft tissue, in contrast


def test_it_has_the_tissues_of_a_chest(folder: Path) -> None:
    """Air round the body, two lungs, fat, muscle, contrast-filled heart and vessels, bone; left as big as right."""
    for patient in patients(folder):
        hu = read_ct(sorted((patient / "ct").iterdir())).array
        middle = hu[12:28]
        share = {
            name: float(np.mean((middle >= low) & (middle < high)))
            for name, low, high in (
                ("lung", -920, -750),
                ("fat", -140, -60),
                ("muscle", 20, 90),
                ("blood", 130, 230),
                ("bone", 280, 3000),
            )
        }
        assert 0.08 < share["lung"] < 0.30
        assert share["fat"] > 0.04
        assert share["muscle"] > 0.03
        assert share["blood"] > 0.004
        assert 0.004 < share["bone"] < 0.06
        assert (hu[:, :4, :] < -900).mean() > 0.99
        lung = (middle > -920) & (middle < -750)
        right, left = lung[..., :64].sum(), lung[..., 64:].sum()
        assert 0.5 < left / right < 1.6


def test_lesions_give_back_their_volume_texture_and_margin() -> None:
    """24 lesions in plain lung under three scanners: what a model is to find is there to be measured."""
    drawn = outcomes.draw(24, 5)
    volumes = outcomes.volume_ml(drawn)
    grid = Grid((48, 72, 72), (3.0, 1.875, 1.875))
    found = []
    for index in range(len(drawn)):
        rng = np.random.default_rng(index)
        hu = np.full(grid.shape, -860, np.float32)
        lesion = Lesion(float(volumes[index]), float(drawn.heterogeneity[index]), float(drawn.roughness[index]))
        mask = insert(hu, grid, lesion, (0.0, 0.0, 0.0), rng)
        hu = np.rint(scan(hu, grid, SCANNERS[index % 3], rng))
        found.append(radiomic.features(volume_of(hu, grid.spacing_mm), mask, SETTINGS).values())
    for feature, latent, least in (
        ("original_shape_MeshVolume", volumes, 0.99),
        ("original_gldm_DependenceEntropy", drawn.heterogeneity, 0.85),
        ("original_firstorder_InterquartileRange", drawn.heterogeneity, 0.8),
        ("original_shape_Sphericity", -drawn.roughness, 0.8),
    ):
        assert spearmanr([values[feature] for values in found], latent)[0] >= least, feature


def test_one_patient_is_the_same_on_a_finer_matrix(tmp_path: Path) -> None:
    """So a demonstration patient can be finer than the training cohort: features agree, noise apart."""
    values, centres = [], []
    for name, matrix, slices, slice_mm in (("coarse", 192, 48, 3.0), ("fine", 256, 60, 2.4)):
        make_patient(replace(SMALL, matrix=matrix, slices=slices, slice_mm=slice_mm), 1, tmp_path / name)
        volume = read_ct(sorted((tmp_path / name / "ct").iterdir()))
        roi = mask_from_rtstruct(tmp_path / name / "rtstruct.dcm", (1,), Combine.SINGLE, volume)
        values.append(radiomic.features(volume, roi.array, SETTINGS).values())
        centres.append((np.argwhere(roi.array).mean(axis=0) * volume.spacing) + volume.origin[::-1])
    assert np.abs(centres[0] - centres[1]).max() < 2.0
    for feature in (
        "original_shape_MeshVolume",
        "original_firstorder_Median",
        "original_shape_Sphericity",
        "original_gldm_DependenceEntropy",
    ):
        assert values[0][feature] == pytest.approx(values[1][feature], rel=0.1), feature


def test_the_table_holds_the_dicom_headers_values_and_no_truth(folder: Path) -> None:
    with (folder / "patients.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row, patient in zip(rows, patients(folder), strict=True):
        header = pydicom.dcmread(patient / "rtstruct.dcm")
        assert (row["patient_id"], row["sex"]) == (header.PatientID, header.PatientSex)
        assert int(row["age"]) == int(header.PatientAge[:3])
        born, day = (int(header[name].value[:4]) for name in ("PatientBirthDate", "StudyDate"))
        assert 0 <= day - born - int(row["age"]) <= 1
    assert not {"log_hazard", "risk", "volume_ml", "heterogeneity"} & set(rows[0])


def test_the_planted_effect_is_the_one_stated_and_null_has_none() -> None:
    planted, null = outcomes.draw(40_000, 5), outcomes.draw(40_000, 5, "null")
    assert np.array_equal(planted.volume, null.volume)
    for months in (12, 36):
        for endpoint, time, event in (
            ("OS", planted.os_time, planted.os_event),
            ("PFS", planted.pfs_time, planted.pfs_event),
        ):
            risk = outcomes.oracle_risk(planted, months)[endpoint]
            known = event | (time > months)
            # Those censored early are few and at random before 12 months; at 36 compare through the curve.
            from analysis.train.judging.metrics import survival_curve

            observed = 1 - survival_curve(time, event, np.array([float(months)]))[0]
            assert risk.mean() == pytest.approx(observed, abs=0.01)
            assert known.mean() > 0.6
    assert np.ptp(outcomes.oracle_risk(null, 12)["OS"]) == 0
    assert abs(np.corrcoef(null.volume, null.os_time)[0, 1]) < 0.02
    assert np.corrcoef(planted.volume, planted.os_time)[0, 1] < -0.15
    assert np.mean(planted.pdl1_missing) == pytest.approx(0.30, abs=0.01)
    assert (planted.pfs_time <= planted.os_time).all()


def test_a_folder_with_files_or_a_senseless_size_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SynthError, match="not empty"):
        make_cohort(SMALL, folder)
    with pytest.raises(SynthError, match="matrix must lie between 64 and 1024"):
        make_cohort(replace(SMALL, matrix=8), tmp_path / "new")
    with pytest.raises(SynthError, match="must cover 140 mm"):
        make_cohort(replace(SMALL, slices=30), tmp_path / "new")
    assert not (tmp_path / "new").exists()
