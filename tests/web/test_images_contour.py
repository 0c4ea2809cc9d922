"""Outlines of a mask: what is drawn over a slice encloses the voxels that were scored, and no other."""

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from dicom_node.web import contour


def filled(loops: list[list[tuple[int, int]]], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Voxels whose centre lies inside by the even-odd rule; another road than the tracing: crossings to the left."""
    inside = np.zeros(shape, bool)
    for loop in loops:
        for (x, y), (next_x, next_y) in zip(loop, loop[1:] + loop[:1], strict=True):
            if x == next_x:
                inside[min(y, next_y) : max(y, next_y), x:] ^= True
    return inside


@settings(max_examples=200, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_the_outlines_enclose_the_mask_and_nothing_else(mask: NDArray[np.bool_]) -> None:
    loops = contour.outlines(mask)
    assert (filled(loops, mask.shape) == mask).all()
    for loop in loops:
        steps = list(zip(loop, loop[1:] + loop[:1], strict=True))
        assert all((x == a) != (y == b) for (x, y), (a, b) in steps), "each step runs along a row or a column"
        turns = zip(steps, steps[1:] + steps[:1], strict=True)
        assert all((p[0] == q[0]) != (r[0] == s[0]) for (p, q), (r, s) in turns), "only corners are kept"


def test_a_hole_runs_the_other_way_and_voxels_that_touch_by_a_corner_are_apart() -> None:
    ring = np.ones((3, 3), bool)
    ring[1, 1] = False
    assert contour.outlines(ring) == [[(0, 0), (3, 0), (3, 3), (0, 3)], [(1, 2), (2, 2), (2, 1), (1, 1)]]
    assert len(contour.outlines(np.eye(2, dtype=bool))) == 2


def test_the_path_is_what_a_browser_fills(tmp_path: Path) -> None:
    """Path data through another reader: Pillow draws the corners, shifted to pixel centres."""
    mask = np.zeros((20, 30), bool)
    mask[4:12, 6:21] = True
    assert contour.svg_path(mask) == "M6 4H21V12H6Z"
    image = Image.new("1", (30, 20))
    ((corners),) = contour.outlines(mask)
    ImageDraw.Draw(image).polygon([(x - (x > 6), y - (y > 4)) for x, y in corners], fill=1)
    assert (np.asarray(image) == mask).all()


def test_a_mask_like_a_chess_board_is_not_traced() -> None:
    board = np.indices((200, 200)).sum(axis=0) % 2 == 0
    assert contour.outlines(board) == []
    assert contour.svg_path(board) == ""


def write_mask(path: Path, mask: NDArray[np.bool_]) -> Path:
    nibabel.save(nibabel.Nifti1Image(mask.transpose(2, 1, 0).astype(np.uint8), np.eye(4)), path)
    return path


def test_a_mask_file_gives_the_slices_that_bear_a_contour(tmp_path: Path) -> None:
    mask = np.zeros((5, 20, 30), bool)
    mask[1, 4:12, 6:21] = True
    mask[3, 0, 0] = True
    path = write_mask(tmp_path / "mask.nii.gz", mask)
    assert contour.read(path, (5, 20, 30)) == {1: "M6 4H21V12H6Z", 3: "M0 0H1V1H0Z"}


@pytest.mark.parametrize("shape", [(5, 30, 20), (4, 20, 30), (0, 20, 30), (5, 65535, 65535)])
def test_a_mask_of_another_size_is_refused(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    path = write_mask(tmp_path / "mask.nii.gz", np.zeros((5, 20, 30), bool))
    with pytest.raises(contour.MaskUnreadable):
        contour.read(path, shape)


def test_a_damaged_mask_is_refused_with_a_reason(tmp_path: Path) -> None:
    mask = np.random.default_rng(1).random((5, 200, 300)) > 0.5
    whole = write_mask(tmp_path / "mask.nii.gz", mask).read_bytes()
    plain = gzip.decompress(whole)
    spoiled = bytearray(whole)
    spoiled[len(whole) // 2] ^= 0xFF
    for number, data in enumerate(
        [b"", b"nothing of the kind", whole[: len(whole) // 2], bytes(spoiled), gzip.compress(plain[:1000])]
    ):
        path = tmp_path / f"{number}.nii.gz"
        path.write_bytes(data)
        with pytest.raises(contour.MaskUnreadable):
            contour.read(path, (5, 200, 300))
