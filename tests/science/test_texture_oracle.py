"""Our texture matrices and features against stock pyradiomics 3.0.1, on random shapes and textures."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from analysis._matrices import count
from analysis.texture import textures
from tests.pyradiomics import oracle

NEARLY_NOTHING = 1e-11  # what is 0 but for rounding: the skewness of a symmetrical matrix, the variance of one level

Case = tuple[NDArray[np.int32], NDArray[np.bool_]]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Noise, blobs or stripes of 1 to 60 grey levels with gaps, in a ROI with holes, islands or ragged edges."""
    shape = tuple(draw(st.integers(low, 9)) for low in (1, 2, 2))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    grains = random.normal(size=shape)
    kind = draw(st.sampled_from(("noise", "blobs", "stripes")))
    if kind == "blobs":
        grains = ndimage.gaussian_filter(grains, 1.5)
    elif kind == "stripes":
        grains = grains * 0.05 + np.arange(shape[2]) % 3
    grains = (grains - grains.min()) / (np.ptp(grains) or 1)
    levels = np.rint(grains * (draw(st.integers(1, 60)) - 1)).astype(np.int32) + draw(st.integers(1, 40))
    mask = random.random(shape) < draw(st.sampled_from((0.15, 0.5, 0.9, 1.0)))
    mask[0, 0, :2] = True  # pyradiomics gives nothing at all for a ROI in which no voxel has a neighbour
    return np.where(mask, levels, 0).astype(np.int32), mask


def compare(case: Case, dimension: str, aggregation: str) -> None:
    ours, failed = textures(*case, dimension, aggregation)  # type: ignore[arg-type]
    theirs = oracle(*case, dimension, aggregation)
    assert not failed
    assert set(theirs) == set(ours)
    scale = {"glcm_ClusterShade": theirs["glcm_ClusterTendency"] ** 1.5}
    for name, expected in theirs.items():
        if name == "glcm_MCC" and (math.isnan(expected) or min(abs(expected), abs(ours[name])) < 1e-4):
            continue  # the root of an eigenvalue that is nothing but rounding, and may be below 0
        near = NEARLY_NOTHING * max(scale.get(name, 1.0), 1.0)
        assert ours[name] == pytest.approx(expected, rel=1e-9, abs=near, nan_ok=True), name


@given(cases(), st.sampled_from(("3D", "2.5D")), st.sampled_from(("avg", "merged")))
@settings(max_examples=40, deadline=None)
def test_every_texture_feature_is_that_of_stock_pyradiomics(case: Case, dimension: str, aggregation: str) -> None:
    compare(case, dimension, aggregation)


@pytest.mark.exhaustive
@given(cases(), st.sampled_from(("3D", "2.5D")), st.sampled_from(("avg", "merged")))
@settings(max_examples=3000, deadline=None)
def test_every_texture_feature_is_that_of_stock_pyradiomics_3000_times(
    case: Case, dimension: str, aggregation: str
) -> None:
    compare(case, dimension, aggregation)


def test_a_direction_without_two_voxels_on_a_line_does_not_count() -> None:
    """One column of voxels: of the 13 directions only its own has runs."""
    levels = np.array([1, 1, 2, 2, 2]).reshape(5, 1, 1).astype(np.int32)
    found, _ = textures(levels, np.ones(levels.shape, bool), "3D", "merged")
    assert found["glrlm_RunPercentage"] == pytest.approx(2 / 5)


def test_more_levels_than_can_be_numbered_are_refused_with_a_reason() -> None:
    levels = np.arange(1, 70_001, dtype=np.int32).reshape(7, 100, 100)
    found, failed = textures(levels, np.ones(levels.shape, bool), "3D", "avg")
    assert not found
    assert set(failed.values()) == {"ValueError: 70000 grey levels in the ROI"}


def test_a_level_so_high_that_a_sum_over_neighbours_would_overflow_is_refused_with_a_reason() -> None:
    mask = np.ones((3, 3, 3), bool)
    found, failed = textures(np.full(mask.shape, 2**31 // 27 + 1, np.int32), mask, "3D", "avg")
    assert not found
    assert set(failed) == {"glcm", "glrlm", "glszm", "gldm", "ngtdm"}
    assert "use wider bins" in failed["ngtdm"]


def test_arrays_that_do_not_fit_are_refused_before_anything_is_written() -> None:
    def call(level: int = 1, levels: int = 1, rows: int = 2, zones: int = 4) -> None:
        size = levels + 1
        count(
            np.full((1, 2, 2), level, np.uint16), 1, rows, 2, levels, np.ones(size, np.int32), False,
            np.zeros((13, size, size), np.int32), np.zeros((13, size, 3), np.int32), np.zeros((size, 27), np.int32),
            np.zeros((size, 2)), np.zeros((zones, 2), np.int32),
        )  # fmt: skip

    call()
    wrong: tuple[dict[str, int], ...] = ({"level": 2}, {"rows": 3}, {"rows": 0}, {"rows": 1 << 40}, {"zones": 3})
    for given_ in wrong:
        with pytest.raises(ValueError, match="do not fit"):
            call(**given_)
