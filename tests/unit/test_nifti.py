"""The mask's NIfTI against nibabel, in both directions."""

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest

from analysis import nifti

AFFINE = np.array([[-0.7, 0, 0, 120], [0, -0.7, 0, 80.5], [0, 0, 2.5, -300], [0, 0, 0, 1]])


def mask() -> np.ndarray:
    made = np.zeros((9, 31, 40), bool)
    made[3:5, 7:20, 11:30] = True
    made[7, 30, 39] = True
    return made


def test_nibabel_reads_what_is_written(tmp_path: Path) -> None:
    path = tmp_path / "mask.nii.gz"
    nifti.write(path, mask(), AFFINE)
    image = nibabel.load(path)
    assert image.get_data_dtype() == np.uint8
    assert (np.asarray(image.dataobj) == mask().transpose(2, 1, 0)).all()
    assert np.allclose(image.affine, AFFINE, atol=1e-6)
    assert np.allclose(image.header.get_zooms(), (0.7, 0.7, 2.5))
    assert image.header.get_xyzt_units()[0] == "mm"
    assert gzip.decompress(path.read_bytes())  # the sum and the size at its end are right
    assert (nifti.read(path, 1 << 20) == mask()).all()


def test_what_nibabel_writes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mask.nii.gz"
    nibabel.save(nibabel.Nifti1Image(mask().transpose(2, 1, 0).astype(np.uint8), AFFINE), path)
    assert (nifti.read(path, 1 << 20) == mask()).all()


def test_the_same_mask_makes_the_same_file(tmp_path: Path) -> None:
    for name in ("one", "two"):
        nifti.write(tmp_path / name, mask(), AFFINE)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("cut", [10, 60, -9, -5])
def test_a_file_that_is_cut_off_or_changed_is_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "mask.nii.gz"
    nifti.write(path, mask(), AFFINE)
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    with pytest.raises(nifti.NiftiInvalid):
        nifti.read(path, 1 << 20)
    path.write_bytes(whole[:-6] + bytes([whole[-6] ^ 1]) + whole[-5:])
    with pytest.raises(nifti.NiftiInvalid):
        nifti.read(path, 1 << 20)
