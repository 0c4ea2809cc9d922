"""Mesh, axes and diameters: equal to pyradiomics' C code where that is right, and linear in the voxels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from radiomics import cShape

from analysis.shape import mesh, morphology
from tests import cpu

STEPS = (1.7, 0.6, 0.9)


def theirs(mask: np.ndarray, spacing: tuple[float, float, float]) -> tuple[float, float, list[float]]:
    area, volume, diameters = cShape.calculate_coefficients(np.pad(mask, 1), np.array(spacing))
    return area, volume, list(diameters)


def diameters(found: dict[str, float]) -> list[float]:
    names = ("2DDiameterSlice", "2DDiameterColumn", "2DDiameterRow", "3DDiameter")
    return [found[f"Maximum{name}"] for name in names]


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(bool, st.tuples(*[st.integers(1, 6)] * 3)).filter(np.any))
def test_mesh_and_diameters_equal_those_of_pyradiomics_for_any_mask(mask: np.ndarray) -> None:
    found = morphology(mask, STEPS)
    area, volume, longest = theirs(mask, STEPS)
    assert found["SurfaceArea"] == pytest.approx(area, rel=1e-9)
    assert found["MeshVolume"] == pytest.approx(volume, rel=1e-9)
    assert diameters(found) == pytest.approx(longest, rel=1e-9)


def test_all_256_cube_configurations_are_summed_as_pyradiomics_sums_them() -> None:
    mask = np.random.default_rng(8).random((18, 19, 20)) > 0.5
    found = mesh(np.pad(mask, 1), STEPS)
    area, volume, _ = theirs(mask, STEPS)
    assert (found.area, found.volume) == (pytest.approx(area, rel=1e-10), pytest.approx(volume, rel=1e-10))


def test_axis_lengths_divide_by_one_less_than_the_number_of_voxels() -> None:
    """IBSI's values do; dividing by N, as pyradiomics does, is 0.7 % less at 74 voxels."""
    mask = np.ones((2, 5, 9), bool)
    found = morphology(mask, (1.0, 1.0, 1.0))
    count = mask.sum()
    columns = np.var(np.tile(np.arange(9), 10)) * count / (count - 1)
    assert found["MajorAxisLength"] == pytest.approx(4 * np.sqrt(columns))
    assert found["Flatness"] == pytest.approx(np.sqrt(np.var([0, 1]) / np.var(np.arange(9))))


def test_a_ball_is_nearly_spherical() -> None:
    z, y, x = np.mgrid[-22:23, -22:23, -22:23] * 0.5
    found = morphology(z**2 + y**2 + x**2 <= 100, (0.5, 0.5, 0.5))
    assert found["MeshVolume"] == pytest.approx(4 / 3 * np.pi * 1000, rel=0.01)
    assert found["Maximum3DDiameter"] == pytest.approx(20.4, abs=0.3)
    assert 0.85 < found["Sphericity"] < 1
    assert found["Asphericity"] == pytest.approx(1 / found["Sphericity"] - 1)
    assert found["Elongation"] == pytest.approx(1)


def test_two_litres_at_one_millimetre_take_seconds_not_minutes() -> None:
    """Comparing all pairs of mesh vertices takes a minute here."""
    z, y, x = np.mgrid[-80:81, -80:81, -80:81]
    mask = z**2 + y**2 + x**2 + 40 * np.sin(y / 3) * x <= 78**2
    taken, found = cpu.seconds_of(lambda: morphology(mask, (1.0, 1.0, 1.0)), enough=10.0)
    assert taken < 10
    assert found["VoxelNumber"] > 1_900_000


def test_one_voxel_has_a_mesh_but_no_axes() -> None:
    found = morphology(np.ones((1, 1, 1), bool), (1.0, 1.0, 1.0))
    assert found["MeshVolume"] > 0
    assert np.isnan(found["MajorAxisLength"])
