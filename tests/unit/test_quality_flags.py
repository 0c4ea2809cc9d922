"""Quality flags say what a reader should know about image and contour, and stay silent on a good one."""

from dataclasses import replace

import numpy as np
import pytest

from analysis.quality import contour_flags, image_flags
from analysis.volume import Volume


def volume(spacing: tuple[float, float, float] = (2.0, 1.0, 1.0), thickness: float | None = 2.0) -> Volume:
    array = np.full((30, 64, 64), -850.0, np.float32)
    array[:, :2], array[:, -2:] = 700.0, -1000.0
    array[8:22, 20:44, 20:44] = 40.0
    return Volume(
        array=array,
        spacing=spacing,
        origin=np.zeros(3),
        direction=np.eye(3),
        frame_of_reference_uid="1.2",
        sop_instance_uids=tuple(f"1.2.{k}" for k in range(30)),
        frame_numbers=(1,) * 30,
        slice_thickness=thickness,
    )


def box(*edges: tuple[int, int]) -> np.ndarray:
    mask = np.zeros((30, 64, 64), bool)
    mask[tuple(slice(*edge) for edge in edges)] = True
    return mask


GOOD = box((10, 20), (24, 40), (24, 40))


def codes(found: list) -> set[str]:
    return {flag.code for flag in found}


def test_a_good_contour_on_a_good_ct_raises_no_flag() -> None:
    assert codes(image_flags(volume())) == set()
    assert codes(contour_flags(volume(), GOOD)) == set()


def test_a_ct_that_was_compressed_with_loss_is_flagged() -> None:
    assert codes(image_flags(replace(volume(), lossy=True))) == {"CT_LOSSY"}


@pytest.mark.parametrize(
    ("mask", "code"),
    [
        (box((10, 12), (24, 40), (24, 40)), "ROI_FEW_SLICES"),
        (box((10, 13), (24, 30), (24, 30)), "ROI_SMALL"),
        (GOOD | box((10, 20), (2, 10), (24, 40)), "ROI_SEVERAL_PARTS"),
        (box((0, 20), (24, 40), (24, 40)), "ROI_AT_EDGE"),
        (box((10, 20), (24, 40), (24, 64)), "ROI_AT_EDGE"),
        (box((10, 20), (24, 60), (24, 40)), "ROI_HOLDS_AIR"),
        (GOOD | box((10, 20), (0, 4), (24, 40)), "ROI_HOLDS_BONE"),
    ],
)
def test_a_doubtful_contour_is_flagged(mask: np.ndarray, code: str) -> None:
    assert code in codes(contour_flags(volume(), mask))


def test_a_crumb_is_not_a_second_lesion() -> None:
    crumb = GOOD.copy()
    crumb[15, 50, 50] = True
    assert "ROI_SEVERAL_PARTS" not in codes(contour_flags(volume(), crumb))


def test_a_ct_without_air_or_bone_is_unusual() -> None:
    plain = volume()
    assert codes(image_flags(replace(plain, array=np.clip(plain.array, -100, 80)))) == {"HU_RANGE_UNUSUAL"}


@pytest.mark.parametrize(
    ("spacing", "thickness", "expected"),
    [
        (5.0, 5.0, {"THICK_SLICES"}),
        (3.0, 3.0, set()),
        (2.0, 5.0, {"SLICES_NOT_CONTIGUOUS"}),
        (2.0, 1.0, {"SLICES_NOT_CONTIGUOUS"}),
        (2.0, None, set()),
    ],
)
def test_slices_that_are_thick_overlap_or_leave_gaps_are_flagged(spacing, thickness, expected) -> None:
    assert codes(image_flags(volume((spacing, 1.0, 1.0), thickness))) == expected
