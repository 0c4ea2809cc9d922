"""The largest distances of a mesh, to the last bit those of all pairs of its vertices."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from analysis import shape
from analysis._diameter import widest


def _all_pairs(mask: np.ndarray, spacing: tuple[float, float, float]) -> dict[str, float]:
    doubled, step = shape._vertices(mask), np.asarray(spacing) / 2
    found = {"Maximum3DDiameter": pdist(doubled * step).max()}
    for axis, name in enumerate(("Slice", "Column", "Row")):
        others = [other for other in range(3) if other != axis]
        planes = [doubled[doubled[:, axis] == plane][:, others] * step[others] for plane in np.unique(doubled[:, axis])]
        found[f"Maximum2DDiameter{name}"] = max(pdist(points).max(initial=0) for points in planes)
    return found


def test_diameters_are_those_of_all_pairs_of_vertices() -> None:
    rng = np.random.default_rng(21)
    for _ in range(150):
        mask = np.pad(rng.random(rng.integers(1, 11, 3)) < rng.random(), 1)
        if mask.any():
            spacing = tuple(float(step) for step in rng.choice([0.5, 0.7, 0.9765625, 1.25, 3.0], 3))
            assert shape._diameters(mask, spacing) == _all_pairs(mask, spacing)


def test_a_body_of_constant_width_has_its_width() -> None:
    """No point lies near the middle's far side: what the short cut leaves out is least here."""
    grid = np.indices((33, 33, 33)) - 16
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * 5.0
    near = [((grid - corner.reshape(3, 1, 1, 1)) ** 2).sum(axis=0) < 14**2 for corner in corners]
    mask = np.pad(np.logical_and.reduce(near), 1)
    assert shape._diameters(mask, (1.0, 1.0, 1.0)) == _all_pairs(mask, (1.0, 1.0, 1.0))


def test_points_without_coordinates_of_their_own_are_refused() -> None:
    assert widest(np.empty((0, 3)), 3) == 0.0
    assert widest(np.ones((1, 2)), 2) == 0.0
    for wrong in (0, 4):
        with pytest.raises(ValueError, match="1 to 3 coordinates"):
            widest(np.ones((4, 4)), wrong)
    with pytest.raises(ValueError, match="1 to 3 coordinates"):
        widest(np.ones(4), 3)


def test_other_numbers_than_doubles_and_no_numbers_are_refused() -> None:
    for kind in (np.float32, np.int64, np.uint8):
        with pytest.raises(ValueError, match="need to be doubles"):
            widest(np.ones((2, 3), kind), 3)
    for value in (np.nan, np.inf, -np.inf):
        with pytest.raises(ValueError, match="finite"):
            widest(np.array([[0.0, 0.0, 0.0], [1.0, value, 1.0]]), 3)
    with pytest.raises(ValueError, match="contiguous"):
        widest(np.ones((4, 6))[:, ::2], 3)
