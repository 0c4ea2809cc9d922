"""Cases for pretraining are found in folders and cohort files, cut once, and refused by their place, never by name."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analysis.train.__main__ import main
from analysis.train.encoder import probes
from analysis.train.encoder.patches import Case, PretrainError, find_cases, load_patches
from analysis.train.synth.synth import SynthConfig, make_cohort
from tests import deep


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of three patients."""
    out = tmp_path_factory.mktemp("cases") / "cohort"
    make_cohort(SynthConfig(count=3, seed=23, matrix=96, slices=36, slice_mm=4.0), out, workers=2)
    return out


def test_a_folder_and_its_cohort_file_give_the_same_cases(folder: Path) -> None:
    by_folder, by_table = find_cases([folder]), find_cases([folder / "cohort.toml"])
    assert [case.ct for case in by_folder] == [case.ct for case in by_table]
    assert [case.roi for case in by_folder] == [case.roi for case in by_table]
    assert [case.name for case in by_table] == [f"patients.csv row {row}" for row in (2, 3, 4)]
    assert len(find_cases([folder / "images", folder])) == 6


def test_patches_are_cut_once_and_say_that_they_are_synthetic(folder: Path, tmp_path: Path) -> None:
    cases = find_cases([folder])
    done: list[int] = []
    first = load_patches(cases, deep.SMALL_PATCH, tmp_path / "cache", 2, done.append)
    assert done == [1, 2, 3]
    assert all(patch.synthetic for patch in first)
    assert all(patch.mask.max() == 1 and patch.hu.min() < -700 for patch in first)
    entries = {entry.name: entry.stat().st_mtime_ns for entry in (tmp_path / "cache").iterdir()}
    again = load_patches(cases, deep.SMALL_PATCH, tmp_path / "cache", 1)
    assert {entry.name: entry.stat().st_mtime_ns for entry in (tmp_path / "cache").iterdir()} == entries
    assert all(np.array_equal(one.hu, two.hu) for one, two in zip(first, again, strict=True))
    load_patches(cases[:1], replace(deep.SMALL_PATCH, spacing_mm=3.0), tmp_path / "cache", 1)
    assert len(list((tmp_path / "cache").iterdir())) == 4


def test_a_case_that_cannot_be_used_is_named_by_its_place(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere: not there"):
        find_cases([tmp_path / "nowhere"])
    with pytest.raises(PretrainError, match="no case in it"):
        find_cases([tmp_path])
    copy = tmp_path / "copy"
    shutil.copytree(folder / "images", copy)
    patient = sorted(copy.iterdir())[1]
    shutil.copy(patient / "rtstruct.dcm", patient / "second.dcm")
    with pytest.raises(PretrainError, match=r"case 2 of 3: 2 contour files") as error:
        find_cases([copy])
    assert patient.name not in str(error.value)
    (patient / "second.dcm").unlink()
    (patient / "rtstruct.dcm").write_bytes(b"no DICOM")
    with pytest.raises(PretrainError, match=r"case 2 of 3: .*; correct its images or leave it out"):
        load_patches(find_cases([copy]), deep.SMALL_PATCH, tmp_path / "cache", 1)


def test_a_cohort_file_without_images_or_with_a_wrong_column_is_refused(folder: Path, tmp_path: Path) -> None:
    text = (folder / "cohort.toml").read_text()
    table = (folder / "patients.csv").read_text()
    (tmp_path / "patients.csv").write_text(table)
    (tmp_path / "none.toml").write_text(text.replace("[images]", "[pictures]"))
    with pytest.raises(PretrainError, match=r"none\.toml: not a cohort file with"):
        find_cases([tmp_path / "none.toml"])
    (tmp_path / "wrong.toml").write_text(text.replace('ct = "ct"', 'ct = "scan"'))
    with pytest.raises(PretrainError, match=r"patients\.csv: no column 'scan'"):
        find_cases([tmp_path / "wrong.toml"])


def test_a_real_encoder_comes_out_of_dicom(folder: Path, tmp_path: Path) -> None:
    from analysis.deep import Encoder
    from analysis.train.encoder.pretrain import pretrain

    config = deep.config(steps=3)
    patches = load_patches(find_cases([folder]), config.training_patch(), tmp_path / "cache", 1)
    pretrain(patches, config, tmp_path / "encoder.onnx")
    assert Encoder.load(tmp_path / "encoder.onnx").training["synthetic_patches"] == 3


def test_the_command_refuses_an_encoder_that_has_learned_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "encoder.onnx"
    assert main(["pretrain", str(folder), "--out", str(out), "--steps", "1", "--cache", str(tmp_path / "cache")]) == 65
    assert "encoder.onnx was not written" in capsys.readouterr().err
    assert not out.exists()
    assert main(["pretrain", str(tmp_path / "nowhere"), "--out", str(out)]) == 66


def test_an_unknown_roi_name_is_refused_where_there_are_several(folder: Path, tmp_path: Path) -> None:
    import pydicom

    given = find_cases([folder])[0]
    dataset = pydicom.dcmread(given.roi)
    second = pydicom.Dataset()
    second.update(dataset.StructureSetROISequence[0])
    second.ROINumber, second.ROIName = 2, "Heart"
    dataset.StructureSetROISequence.append(second)
    dataset.save_as(tmp_path / "two.dcm")
    case = Case("row 2", given.ct, tmp_path / "two.dcm", "liver")
    with pytest.raises(PretrainError, match=r"row 2: none of 2 ROIs or segments has 'liver' in its name"):
        load_patches([case], deep.SMALL_PATCH, tmp_path / "cache", 1)
    (patch,) = load_patches([replace(case, roi_name="GTV")], deep.SMALL_PATCH, tmp_path / "cache", 1)
    (same,) = load_patches([given], deep.SMALL_PATCH, tmp_path / "cache", 1)
    assert np.array_equal(patch.mask, same.mask)


def test_probes_tell_signal_from_noise_and_odd_patients_do_not_decide(folder: Path) -> None:
    rng = np.random.default_rng(0)
    target = rng.normal(size=200)
    signal = np.column_stack([target + rng.normal(0, 0.5, 200), rng.normal(size=(200, 20))])
    assert probes.r_squared(signal, target) == pytest.approx(0.78, abs=0.1)
    noise = rng.standard_normal((200, 20))
    noise[0] = 1e6
    assert -0.2 < probes.r_squared(noise, target) < 0.1
    names, planted = probes.planted(folder / "truth.json")
    assert len(names) == 3
    assert set(planted) == set(probes.TARGETS)
