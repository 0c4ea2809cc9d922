"""Each mode of the synthetic cohort holds the trap it is named after, and nothing else; real chests as background."""

import csv
import json
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK

from analysis.contract import Combine
from analysis.roi import mask_from_rtstruct
from analysis.segment import mask_from_seg
from analysis.train.__main__ import main
from analysis.train.synth import outcomes
from analysis.train.synth.background import real_chest
from analysis.train.synth.synth import SynthConfig, SynthError, make_cohort
from analysis.volume import read_ct
from tests.paths import shared
from tests.validators import dciodvfy

TABLE = SynthConfig(count=60, seed=4, images=False)
IMAGES = SynthConfig(count=3, seed=11, matrix=96, slices=36, slice_mm=4.0)


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "patients.csv").open() as file:
        return list(csv.DictReader(file))


def truth(folder: Path) -> dict[str, object]:
    return json.loads((folder / "truth.json").read_text())


def made(config: SynthConfig, folder: Path) -> Path:
    make_cohort(config, folder, workers=1)
    return folder


def pixels(folder: Path) -> np.ndarray:
    return read_ct(sorted((folder / "ct").iterdir())).array


@pytest.mark.parametrize("mode", outcomes.MODES)
def test_a_mode_changes_outcomes_and_its_own_columns_and_nothing_else(mode: outcomes.Mode, tmp_path: Path) -> None:
    planted = table(made(TABLE, tmp_path / "planted"))
    other = table(made(replace(TABLE, mode=mode), tmp_path / "other"))
    own = {"leak": {"cycles_received"}, "site-shift": {"site"}}.get(mode, set())
    assert set(other[0]) - set(planted[0]) == own
    for before, after in zip(planted, other, strict=False):
        for column in ("patient_id", "age", "sex", "ecog", "nlr", "albumin", "pdl1", "liver_metastases"):
            assert before[column] == after[column]
    file = tomllib.loads((tmp_path / "other" / "cohort.toml").read_text())
    named = {predictor["name"] for predictor in file["clinical"]["predictors"]}
    assert named <= set(other[0])
    assert file["cohort"]["name"] == f"synthetic-60-{mode}"
    assert set(truth(tmp_path / "other")["patients"]) == {row["patient_id"] for row in other}


def test_volume_only_and_null_say_so_and_are_so(tmp_path: Path) -> None:
    assert truth(made(replace(TABLE, mode="null"), tmp_path / "null"))["effects"] == {}
    said = truth(made(replace(TABLE, mode="volume-only"), tmp_path / "volume"))
    assert set(said["effects"]) == {"volume"}
    assert said["progression"]["effects"] == {}
    many = outcomes.draw(20_000, 5, "volume-only")
    for latent in ("heterogeneity", "roughness", "pdl1", "ecog", "liver"):
        assert abs(np.corrcoef(getattr(many, latent), many.os_time)[0, 1]) < 0.03, latent
    assert np.corrcoef(many.volume, many.os_time)[0, 1] < -0.3


def test_the_leak_copies_the_outcome_with_a_little_noise_and_is_listed_as_a_predictor(tmp_path: Path) -> None:
    folder = made(replace(TABLE, mode="leak"), tmp_path / "leak")
    cycles, days = (np.array([float(row[name]) for row in table(folder)]) for name in ("cycles_received", "pfs_days"))
    file = tomllib.loads((folder / "cohort.toml").read_text())
    assert "cycles_received" in [predictor["name"] for predictor in file["clinical"]["predictors"]]
    assert np.corrcoef(np.log(cycles), np.log(np.maximum(days, 21)))[0, 1] > 0.98
    assert (cycles != np.maximum(1, np.rint(days / 21))).any()
    assert truth(folder)["leaks"] == ["cycles_received"]


def test_duplicates_have_other_identifiers_and_the_same_values_and_pixels(tmp_path: Path) -> None:
    folder = made(replace(IMAGES, count=2, mode="duplicates"), tmp_path / "twice")
    rows = {row.pop("patient_id"): row for row in table(folder)}
    twice = truth(folder)["duplicates"]
    assert len(rows) == 4
    assert len(twice) == 2
    for name, original in twice.items():
        assert name != original
        for column in set(rows[name]) - {"ct", "roi"}:
            assert rows[name][column] == rows[original][column]
        one, other = folder / "images" / name, folder / "images" / original
        assert np.array_equal(pixels(one), pixels(other))
        headers = [pydicom.dcmread(path / "ct" / "CT0001.dcm", stop_before_pixels=True) for path in (one, other)]
        for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            assert headers[0][keyword].value != headers[1][keyword].value


def test_about_one_patient_in_twenty_is_duplicated(tmp_path: Path) -> None:
    folder = made(replace(TABLE, mode="duplicates"), tmp_path / "twice")
    assert len(table(folder)) == 63
    assert len(set(truth(folder)["duplicates"].values())) == 3


def test_sites_differ_in_scanner_and_outcome_so_that_an_image_tells_the_site(tmp_path: Path) -> None:
    folder = made(replace(IMAGES, mode="site-shift"), tmp_path / "sites")
    assert tomllib.loads((folder / "cohort.toml").read_text())["cohort"]["site"] == "site"
    rows = table(folder)
    assert {row["site"] for row in rows} == {"A", "B"}
    noise: dict[str, list[float]] = {"A": [], "B": []}
    thickness = {"A": set(), "B": set()}
    for row in rows:
        files = sorted((folder / row["ct"]).iterdir())
        header = pydicom.dcmread(files[0], stop_before_pixels=True)
        thickness[row["site"]].add((float(header.SliceThickness), header.ConvolutionKernel, header.StationName))
        noise[row["site"]].append(float(read_ct(files).array[:, :4].std()))
    assert max(noise["A"]) < min(noise["B"])
    assert thickness == {"A": {(4.0, "SOFT", "SYN-CT-A")}, "B": {(5.0, "SHARP", "SYN-CT-D")}}
    many = outcomes.draw(10_000, 5, "site-shift")
    assert many.os_time[many.site_b].mean() < 0.8 * many.os_time[~many.site_b].mean()


def test_a_share_of_patients_can_be_without_images(tmp_path: Path) -> None:
    folder = made(replace(IMAGES, missing_images=0.34), tmp_path / "some")
    empty = [row for row in table(folder) if row["ct"] == row["roi"] == ""]
    assert len(empty) == 1
    assert len(list((folder / "images").iterdir())) == 2
    assert empty[0]["patient_id"] not in [path.name for path in (folder / "images").iterdir()]


def test_a_segmentation_holds_the_voxels_that_the_contours_enclose(tmp_path: Path) -> None:
    one = replace(IMAGES, count=1)
    drawn, filled = made(one, tmp_path / "rt"), made(replace(one, roi="seg"), tmp_path / "seg")
    again = made(replace(one, roi="seg"), tmp_path / "again")
    assert table(filled)[0]["roi"] == "images/SYN-11-0001/seg.dcm"
    path = filled / "images" / "SYN-11-0001"
    assert (path / "seg.dcm").read_bytes() == (again / "images" / "SYN-11-0001" / "seg.dcm").read_bytes()
    assert dciodvfy(path / "seg.dcm") == []
    segmented = pydicom.dcmread(path / "seg.dcm")
    for text in (str(segmented.PatientName), segmented.SeriesDescription, segmented.ContentDescription):
        assert "SYNTHETIC" in text
    masks = []
    for folder, name, read in ((drawn, "rtstruct.dcm", mask_from_rtstruct), (filled, "seg.dcm", mask_from_seg)):
        patient = folder / "images" / "SYN-11-0001"
        volume = read_ct(sorted((patient / "ct").iterdir()))
        masks.append(read(patient / name, (1,), Combine.SINGLE, volume).array)
    assert np.array_equal(*masks)


def test_a_lesion_is_set_into_the_lung_of_a_real_chest(tmp_path: Path) -> None:
    chests = shared("data", "pyradiomics_lung")
    config = replace(IMAGES, count=2, background=chests)
    folder = made(config, tmp_path / "real")
    assert str(chests.parent) not in (folder / "truth.json").read_text()
    truths = truth(folder)["patients"]
    for path in sorted((folder / "images").iterdir()):
        volume = read_ct(sorted((path / "ct").iterdir()))
        roi = mask_from_rtstruct(path / "rtstruct.dcm", (1,), Combine.SINGLE, volume)
        assert roi.facts(volume).volume_ml == pytest.approx(truths[path.name]["volume_ml"], rel=0.15)
        assert 10 < np.median(volume.array[roi.array]) < 80
        assert 0.08 < np.mean((volume.array > -950) & (volume.array < -700)) < 0.4  # lungs round it
        assert "SYNTHETIC" in pydicom.dcmread(path / "ct" / "CT0001.dcm").SeriesDescription
    assert dciodvfy(path / "ct" / "CT0001.dcm") == []
    again = made(config, tmp_path / "again")
    assert np.array_equal(pixels(path), pixels(again / "images" / path.name))


def test_a_lesion_keeps_away_from_what_is_labelled_as_the_real_tumour(tmp_path: Path) -> None:
    """Here all the back of the chest is, from 42 mm behind the middle on."""
    source = shared("data", "pyradiomics_lung", "lung1_image.nrrd")
    back = np.zeros((48, 512, 512), np.uint8)
    back[:, 330:] = 1
    tumour = SimpleITK.GetImageFromArray(back)
    tumour.CopyInformation(SimpleITK.ReadImage(str(source)))
    places = {}
    for name in ("without label", "with label"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "chest_image.nrrd").symlink_to(source)
        if name == "with label":
            SimpleITK.WriteImage(tumour, str(folder / "chest_label.nrrd"))
        rng = np.random.default_rng(1)
        places[name] = [real_chest(folder, IMAGES.grid(), 8.0, rng)[1][1] for _ in range(8)]
    assert max(places["without label"]) > 60
    assert max(places["with label"]) < 34


def test_a_background_that_cannot_be_used_is_named_before_anything_is_written(tmp_path: Path) -> None:
    chests, out = tmp_path / "chests", tmp_path / "new"
    with pytest.raises(SynthError, match="chests: no such folder"):
        make_cohort(replace(IMAGES, background=chests), out)
    chests.mkdir()
    with pytest.raises(SynthError, match=r"chests: no \*_image.nrrd here; put chest CTs there"):
        make_cohort(replace(IMAGES, background=chests), out)
    (chests / "a_image.nrrd").write_bytes(b"NRRD0004\nbroken")
    with pytest.raises(SynthError, match=r"a_image\.nrrd: cannot be read as NRRD; fetch the file again or remove it"):
        make_cohort(replace(IMAGES, background=chests), out)
    SimpleITK.WriteImage(SimpleITK.Image((64, 64, 40), SimpleITK.sitkInt16), str(chests / "b_image.nrrd"))
    (chests / "a_image.nrrd").unlink()
    with pytest.raises(SynthError, match=r"b_image\.nrrd: no lungs found; give a chest CT in HU or remove the file"):
        make_cohort(replace(IMAGES, background=chests), out)
    assert not out.exists()


def test_a_background_too_short_for_the_slices_asked_for_is_refused(tmp_path: Path) -> None:
    source = shared("data", "pyradiomics_lung", "lung1_image.nrrd")
    shutil.copy(source, tmp_path)
    with pytest.raises(SynthError, match="covers 240 mm and 300 are asked for; lower --slices"):
        make_cohort(replace(IMAGES, slices=75, background=tmp_path), tmp_path / "new")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["0"], "count must lie between 1 and 9000"),
        (["-1"], "count must lie between 1 and 9000"),
        (["3", "--missing-images", "1.5"], "missing_images must lie between 0 and 1"),
        (["3", "--workers", "0"], "workers must be 1 or more"),
        (["1", "--mode", "duplicates"], "count must be 2 or more in mode duplicates"),
        (["3", "--background", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_bad_arguments_are_refused_with_a_remedy_and_exit_status_64(
    arguments: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["synth", "--out", str(tmp_path / "new"), *arguments]) == 64
    assert text in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
