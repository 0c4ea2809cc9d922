"""Heart, great vessels, airways and what else lies between the lungs of the synthetic chest.

Courses are tables of points (x, y, z in mm); they are used twice: for the outline that the lungs lie against, and to
paint what is inside.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from analysis.train.synth.grid import Axes, Canvas, Field, Point, capsule, rise, rounded, union

if TYPE_CHECKING:
    from analysis.train.synth.build import Measures

Course = tuple[tuple[Point, ...], tuple[float, ...]]
OUTSIDE = 60.0  # mm: as far from the mediastinum as distances are told
_HALF_WIDTH = 92.0


def aorta(m: "Measures") -> Course:
    """From the valve over the arch to the diaphragm."""
    s, back = m.shift, m.spine - 16
    points = (
        (s + 2, -30, -30), (s - 8, -33, -12), (s - 13, -34, 8), (s - 13, -28, 26), (s - 6, -18, 41), (s + 6, -3, 47),
        (s + 17, 14, 42), (s + 23, back - 6, 27), (s + 24, back, 0), (s + 21, back, -60), (s + 8, back - 2, -115),
    )  # fmt: skip
    return points, (14.0, 16.0, 16.0, 15.0, 13.5, 12.5, 12.0, 11.5, 11.5, 11.0, 10.5)


def pulmonary_arteries(m: "Measures") -> tuple[Course, ...]:
    """Trunk, left, right, and the lower lobes' on either side."""
    s = m.shift
    return (
        (((s + 16, -52, -24), (s + 21, -44, -4), (s + 20, -32, 10)), (13, 13.5, 13)),
        (((s + 20, -32, 10), (s + 28, -10, 17), (40, 9, 14), (44, 18, 2), (46, 22, -26)), (12, 11, 9, 8, 5.5)),
        (((s + 18, -28, 5), (s - 2, -15, 6), (-26, -8, 3), (-40, 2, -4), (-46, 12, -30)), (10.5, 9.5, 9.5, 8, 5.5)),
        (((-28, -8, 4), (-40, -8, 18)), (7, 5)),
    )


def veins(m: "Measures") -> tuple[Course, ...]:
    """Superior and inferior vena cava, left brachiocephalic, azygos; the last is the thin one."""
    s, back = m.shift, m.spine - 17
    return (
        (((-27, -22, 100), (s - 30, -20, 50), (s - 30, -18, 0), (s - 26, -20, -26)), (6.5, 8.5, 8.5, 9)),
        (((s - 20, 10, -115), (s - 24, 0, -66), (s - 24, -12, -50)), (12, 12, 12)),
        (((30, -34, 84), (4, -46, 62), (s - 28, -24, 52)), (6, 6, 7)),
        (((-5, back, -115), (-6, back, 20), (-14, back - 10, 29), (s - 27, -10, 27)), (3, 3.5, 4, 4)),
    )


def branches(m: "Measures") -> tuple[Course, ...]:
    """Arteries that leave the arch."""
    s = m.shift
    return (
        (((s - 8, -20, 44), (s - 12, -16, 66), (-20, -14, 112)), (7, 6.5, 5)),
        (((s + 4, -8, 48), (s + 8, -8, 72), (16, -8, 112)), (4.5, 4.2, 4)),
        (((s + 15, 10, 46), (s + 20, 8, 70), (34, -2, 105)), (5.5, 5.2, 5)),
    )


def airways() -> tuple[Course, ...]:
    """Trachea, main bronchi and those of the lobes, outer radii."""
    return (
        (((-1, 2, 115), (-2, 4, 50), (0, 6, 6)), (9.6, 9.8, 9.6)),
        (((-2, 6, 6), (-22, 8, -6), (-36, 10, -16)), (8.4, 7.6, 6.4)),
        (((2, 6, 6), (24, 11, -9), (40, 14, -19)), (8, 6.9, 6)),
        (((-24, 8, -6), (-44, 4, 14)), (5.2, 3.4)),
        (((-36, 10, -16), (-42, 16, -40)), (5.8, 4)),
        (((-36, 8, -18), (-58, -16, -32)), (4.2, 2.6)),
        (((40, 13, -17), (54, -2, 4)), (5, 3)),
        (((40, 14, -19), (46, 22, -46)), (5.2, 3.6)),
    )


def outline(m: "Measures", axes: Axes) -> Field:
    """Signed distance to all that is no lung between the lungs: its organs in a few mm of fat, gaps filled."""
    near = np.abs(axes[2][0, 0]) <= _HALF_WIDTH
    z, y, x = part = axes[0], axes[1], axes[2][:, :, near]
    shape = rounded(x, y - m.spine - 4, (25, 27), 2.2) + 0 * z
    shape = union(shape, _heart_hull(m, part), 12)
    for points, radii, fat in _hull_courses(m):
        for i in range(len(points) - 1):
            shape = union(shape, capsule(part, points[i], points[i + 1], radii[i] + fat, radii[i + 1] + fat), 9)
    oesophagus = rounded(x - 5, y - m.spine + 25, (12, 9), 2) + 0 * z
    shape = union(shape, oesophagus, 8)
    # Where the lungs meet in front: fat behind the sternum, a thin seam below it.
    seam = np.maximum(np.abs(x - 2) - 2.0 - 10 * rise(-y, -m.front - 30, -m.front - 2), y + 20)
    shape = union(shape, np.asarray(seam + 0 * z, np.float32), 10)
    upper = rounded(x, y + 16, (26, 34), 2.3) + np.asarray(25 * (1 - rise(z, 20, 60)), np.float32)
    shape = union(shape, upper, 10)
    lower = rounded(x - 5, y - m.spine + 26, (15, 24), 2.3) + np.asarray(25 * rise(z, -70, -40), np.float32)
    shape = union(shape, lower, 10)
    out = np.full(np.broadcast_shapes(*(axis.shape for axis in axes)), OUTSIDE, np.float32)
    out[:, :, near] = np.minimum(shape, OUTSIDE)
    return out


def _hull_courses(m: "Measures") -> Iterator[tuple[tuple[Point, ...], tuple[float, ...], float]]:
    yield (*aorta(m), 2.5)
    for course in (*pulmonary_arteries(m), *veins(m)[:3]):
        yield (*course, 2.5)
    for course in branches(m):
        yield (*course, 3.5)
    for course in airways()[:3]:
        yield (*course, 2.0)


def _heart_hull(m: "Measures", axes: Axes) -> Field:
    hull = None
    for centre, radii in _chambers(m).values():
        part = _turned_ellipsoid(axes, centre, tuple(r + 5.0 for r in radii))
        hull = part if hull is None else union(hull, part, 16)
    assert hull is not None
    return hull


# The heart's long axis points to the left, forward and down.
_LONG = np.array([0.74, -0.50, -0.45])
_ACROSS = np.array([0.56, 0.83, 0.0])


def _frame() -> np.ndarray:
    long = _LONG / np.linalg.norm(_LONG)
    across = _ACROSS - long * (long @ _ACROSS)
    across /= np.linalg.norm(across)
    return np.stack([long, across, np.cross(long, across)])


_FRAME = _frame()


def _turned_ellipsoid(axes: Axes, centre: Point, radii: tuple[float, ...]) -> Field:
    """Radii are along the heart's axis, towards the back, and upwards."""
    z, y, x = axes[0] - centre[2], axes[1] - centre[1], axes[2] - centre[0]
    u, v, w = (np.asarray(x * row[0] + y * row[1] + z * row[2], np.float32) for row in _FRAME)
    squares = [(part / radius) ** 2 for part, radius in zip((u, v, w), radii, strict=True)]
    inner = np.sqrt(squares[0] + squares[1] + squares[2])
    slope = np.sqrt(sum(square / radius**2 for square, radius in zip(squares, radii, strict=True)))
    return np.asarray(inner * (inner - 1) / np.maximum(slope, 1e-3), np.float32)


def _chambers(m: "Measures") -> dict[str, tuple[Point, tuple[float, float, float]]]:
    """Centre and radii with walls: left and right ventricle, right and left atrium."""
    k, s = m.heart, m.shift
    return {
        "left": ((s + 36, -28, -52), (46 * k, 29 * k, 31 * k)),
        "right": ((s + 10, -52, -52), (44 * k, 22 * k, 30 * k)),
        "right atrium": ((s - 22, -24, -42), (25 * k, 21 * k, 27 * k)),
        "left atrium": ((s + 2, m.spine - 33 - 18 * k, -33), (24 * k, 18 * k, 18 * k)),
    }


def paint_heart(m: "Measures", canvas: Canvas) -> None:
    """Muscle, chambers with contrast, and fat in the grooves between; the fat is there already."""
    chambers = _chambers(m)
    reach = 78 * m.heart
    part = canvas.box((m.shift + 18 - reach, -30 - reach, -48 - reach), (m.shift + 18 + reach, -30 + reach, 2))
    if part is None:
        return
    view, axes = part
    hull = np.abs(_heart_hull(m, axes) - 0.6) - 0.7
    canvas.fill(view, hull, 35.0)  # pericardium
    walls = {"left": 10.5, "right": 3.2, "right atrium": 2.2, "left atrium": 2.2}
    shades = {"left": 0.0, "right": 14.0, "right atrium": 22.0, "left atrium": 4.0}
    left = _turned_ellipsoid(axes, *chambers["left"])
    for name in ("right atrium", "left atrium", "right", "left"):
        distance = left if name == "left" else _turned_ellipsoid(axes, *chambers[name])
        canvas.fill(view, distance, 98.0)
        cavity = distance + walls[name]
        if name != "left":
            cavity = np.maximum(cavity, 1.0 - left)
        canvas.fill(view, cavity, m.blood + shades[name])
    for course in (aorta(m), pulmonary_arteries(m)[0]):  # out of the ventricles
        canvas.tube(course[0][:2], course[1][:2], m.blood)


def paint_vessels(m: "Measures", canvas: Canvas, rng: np.random.Generator) -> None:
    """Great vessels, oesophagus and a few small lymph nodes."""
    for course in pulmonary_arteries(m):
        canvas.tube(*course, m.blood + 16)
    for side in (-1, 1):
        canvas.tube(((side * 18, 4, -28), (side * 34, 6, -22), (side * 42, 4, -24)), (7, 6, 4), m.blood + 4)
        canvas.tube(((side * 16, m.front + 4, -110), (side * 15, m.front + 4, 80)), (1.4, 1.6), m.blood)
    shades = (48.0, -18.0, 30.0, -20.0)
    for course, shade in zip(veins(m), shades, strict=True):
        canvas.tube(*course, m.blood + shade)
    for course in (aorta(m), *branches(m)):
        canvas.tube(*course, m.blood)
    _oesophagus(m, canvas)
    for x, y, z in ((-15, 0, 20), (16, 0, 16), (0, 18, -14), (-26, 16, -8), (-18, -6, 36), (10, -22, 30)):
        radius = float(rng.uniform(2.0, 5.0))
        right, back, up = (float(value + rng.normal(0, 1.5)) for value in (x, y, z))
        canvas.ellipsoid((right, back, up), (radius, 0.7 * radius, radius), 45.0)


def _oesophagus(m: "Measures", canvas: Canvas) -> None:
    back = m.spine - 24
    points = ((2, back, 115), (5, back, 20), (7, back - 1, -40), (18, back - 6, -115))
    canvas.tube(points, (6.5, 6.5, 7, 8), 48.0)
    canvas.tube(points[:3], (1.5, 1.5, 1.2), -350.0)


def paint_airways(canvas: Canvas) -> None:
    """Walls first, air inside."""
    courses = airways()
    for points, radii in courses:
        canvas.tube(points, radii, 25.0)
    for points, radii in courses:
        canvas.tube(points, [radius - (1.7 if radius > 5 else 1.3) for radius in radii], -985.0)
