"""Scan lines against the test of each pixel (skimage.draw.polygon), and what it alone can do."""

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage.draw import polygon

from analysis.polygon import PolygonTooIntricate, polygon_mask
from tests import cpu

SHAPE = (14, 17)
Corners = list[tuple[float, float]]


def ours(points: object, shape: tuple[int, int] = SHAPE) -> NDArray[np.bool_]:
    plane = np.zeros(shape, bool)
    rows, columns, inside = polygon_mask(np.array(points, float), shape)
    plane[rows, columns] = inside
    return plane


def theirs(points: object, shape: tuple[int, int] = SHAPE) -> NDArray[np.bool_]:
    plane = np.zeros(shape, bool)
    corners = np.array(points, float)
    plane[polygon(corners[:, 0], corners[:, 1], shape=shape)] = True
    return plane


def simple(points: Corners) -> Corners:
    """The corners in order around their centre: no edge meets another. (Where edges cross at the very centre of a
    pixel, testing each pixel is of two minds.)"""
    distinct = sorted(set(points))
    assume(len(distinct) > 2)
    middle = np.add(np.mean(distinct, axis=0), (1e-4, 3e-4))
    turn = [float(np.arctan2(row - middle[0], column - middle[1])) for row, column in distinct]
    assume(np.diff(np.sort(turn)).min() > 1e-6)
    assume(np.ptp(turn) > np.pi)
    return [distinct[k] for k in np.argsort(turn)]


def corners(coordinate: st.SearchStrategy[float]) -> st.SearchStrategy[Corners]:
    return st.lists(st.tuples(coordinate, coordinate), min_size=3, max_size=12)


@settings(max_examples=400, deadline=None)
@given(corners(st.integers(-3, 20).map(float)).map(simple))
@example([(2.0, 2.0), (2.0, 8.0), (8.0, 8.0), (8.0, 2.0)])
@example([(1.0, 1.0), (1.0, 9.0), (5.0, 9.0), (5.0, 5.0), (9.0, 5.0), (9.0, 1.0)])
@example([(2.0, 2.0), (2.0, 2.0), (2.0, 2.0)])
def test_corners_at_pixel_centres_give_what_testing_each_pixel_gives(points: Corners) -> None:
    assert np.array_equal(ours(points), theirs(points))


@settings(max_examples=400, deadline=None)
@given(corners(st.integers(-6, 40).map(lambda value: value / 2)).map(simple))
def test_corners_halfway_between_pixels_give_what_testing_each_pixel_gives(points: Corners) -> None:
    assert np.array_equal(ours(points), theirs(points))


@settings(max_examples=400, deadline=None)
@given(corners(st.integers(-3000, 20000).map(lambda value: value / 1000 + 0.0003)))
def test_any_corners_give_what_testing_each_pixel_gives(points: Corners) -> None:
    points = [(5.1, 5.3), *points]  # off the grid for certain
    assert np.array_equal(ours(points), theirs(points))


@pytest.mark.parametrize("decimals", [2, 3, 6, 10])
@pytest.mark.parametrize("origin", [-174.394500732422, 0.1234567])
def test_a_contour_traced_on_the_grid_keeps_its_edges_whatever_decimals_it_was_written_with(
    decimals: int, origin: float
) -> None:
    """Testing each pixel loses whole edges here: the decimals move them to one side or the other."""
    spacing = 0.9769999980926514
    traced = np.array([(3, 4), (3, 11), (7, 11), (10, 8), (10, 4)], float)
    written = np.round(traced * spacing + origin, decimals)
    read = (written - origin) / spacing
    assert np.array_equal(ours(read), theirs(traced))
    assert not np.array_equal(theirs(read), theirs(traced))


def test_a_contour_of_fifty_thousand_points_takes_a_moment() -> None:
    turn = np.linspace(0, 2 * np.pi, 50_000, endpoint=False)
    radius = 200 + np.random.default_rng(0).random(50_000)
    points = np.stack([256 + radius * np.sin(turn), 256 + radius * np.cos(turn)], axis=1)
    taken, mask = cpu.seconds_of(lambda: ours(points, (512, 512)), enough=1.0)
    assert taken < 1
    assert np.count_nonzero(mask) == pytest.approx(np.pi * 200.5**2, rel=0.005)


def test_a_scribble_without_end_is_refused() -> None:
    zigzag = np.stack([np.tile([0.3, 511.7], 10_000), np.linspace(0, 511, 20_000)], axis=1)
    with pytest.raises(PolygonTooIntricate):
        polygon_mask(zigzag, (512, 512))


def test_corners_at_astronomic_distance_are_cut_off() -> None:
    assert ours([(-1e300, -1e300), (-1e300, 1e300), (1e300, 1e300), (1e300, -1e300)]).all()
