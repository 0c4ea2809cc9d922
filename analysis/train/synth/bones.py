"""Ribs, spine, sternum, shoulder blades and collar bones of the synthetic chest."""

import numpy as np

from analysis.train.synth.build import CAVITY_Y, Measures
from analysis.train.synth.grid import Canvas, Field, Point, capsule, rise, rounded

CORTEX, MARROW, CARTILAGE = 620.0, 150.0, 105.0
_RIB_STEP = 25.0  # mm between ribs, along z
_RIB_DROP = 150.0  # mm that a rib descends on its way to the front
_VERTEBRA = 24.0  # mm, disc included
_DISC = 5.0


def paint_ribs(m: Measures, canvas: Canvas, cavity: Field) -> None:
    """Flat bars in the wall that descend to the front: a slice cuts each of them obliquely."""
    at = np.flatnonzero((cavity > 0) & (cavity < 13.5))
    slices, rows, columns = np.unravel_index(at, cavity.shape)
    z, y, x = (canvas.grid.axis(axis)[part] for axis, part in enumerate((slices, rows, columns)))
    angle = np.arctan2(np.abs(x), y - CAVITY_Y)  # 0 at the spine, pi at the sternum
    turn = angle / np.float32(np.pi)
    height = z + m.rib_phase + _RIB_DROP * turn**1.2 + np.where(x > 0, 2.0, 0.0)
    number = np.floor(height / _RIB_STEP)
    off = height - (number + 0.5) * _RIB_STEP + 1.8 * np.sin(5.3 * number)
    deep = (cavity.ravel()[at] - 6.6) / (4.0 - 0.6 * turn)
    bar = ((np.abs(deep) ** 2.5 + np.abs(off / 6.3) ** 2.5) ** 0.4 - 1) * 4.0
    bar = np.asarray(np.maximum(bar, 12 * (0.09 - turn) * 10), np.float32)
    values = canvas.hu.ravel()[at]
    ends = np.asarray((turn - 0.79) * 180, np.float32)
    canvas.fill(values, np.maximum(bar, -ends), CARTILAGE)
    bony = np.maximum(bar, ends)
    canvas.bone(values, bony, CORTEX, MARROW + 25, 1.3)
    canvas.hu.ravel()[at] = values


def paint_spine(m: Measures, canvas: Canvas, mottle: Field) -> None:
    """Vertebral bodies with end plates and discs, canal with cord, arches and processes."""
    centre = m.spine
    low, high = (-24.0, centre - 24, -1e4), (24.0, centre + 44, 1e4)
    part = canvas.box(low, high)
    if part is None:
        return
    view, axes = part
    z, y, x = axes
    off = np.mod(z + m.rib_phase, _VERTEBRA) - _DISC / 2 - _VERTEBRA / 2  # from the middle of the vertebra
    waist = 1.6 * (1 - np.clip(np.abs(off) / 9.5, 0, 1) ** 2)
    hollow = 3.5 * np.exp(-((x / 9) ** 2)) * (y > centre)
    body = rounded(x, y - centre, (17.5 - waist, 15.0 - waist), 2.4) + hollow
    body = np.asarray(body, np.float32)
    canvas.fill(view, np.asarray(body + 0.5, np.float32), 80.0)  # discs; what is no disc is painted over
    bony = np.maximum(body, np.asarray(np.abs(off) - (_VERTEBRA - _DISC) / 2, np.float32))
    canvas.bone(view, bony, CORTEX * 0.75, MARROW + 15 + 22 * mottle[canvas.parts(low, high)], 1.5)
    _arches(m, canvas)
    canal = rounded(x, y - centre - 22.5, (9.8, 8.2), 2) + 0 * z
    canvas.fill(view, canal, -25.0)
    canvas.fill(view, rounded(x, y - centre - 22.5, (6.2, 5.2), 2) + 0 * z, 38.0)


def _arches(m: Measures, canvas: Canvas) -> None:
    back = m.spine
    half = canvas.grid.shape[0] * canvas.grid.spacing_mm[0] / 2
    first = np.ceil((-half - 30 + m.rib_phase) / _VERTEBRA)
    last = np.floor((half + 30 + m.rib_phase) / _VERTEBRA)
    for number in np.arange(first, last + 1):
        z = float(number * _VERTEBRA - m.rib_phase + _DISC / 2 + _VERTEBRA / 2)
        pieces: list[tuple[Point, Point, float, float]] = [
            ((0, back + 34, z - 2), (0, back + 55, z - 20), 4.0, 3.4),  # spinous process
        ]
        for side in (-1.0, 1.0):
            pieces += [
                ((side * 10, back + 8, z + 4), (side * 13, back + 22, z + 4), 4.6, 4.6),  # pedicle
                ((side * 13, back + 24, z + 1), (side * 2, back + 34, z - 3), 4.4, 4.0),  # lamina
                ((side * 13, back + 25, z + 9), (side * 12, back + 29, z - 12), 4.2, 4.0),  # joints
                ((side * 13, back + 24, z + 3), (side * 33, back + 33, z + 6), 5.0, 4.6),  # transverse process
                ((side * 19, back + 12, z + 11), (side * 40, back + 24, z + 8), 4.2, 4.0),  # head and neck of the rib
            ]
        for start, end, radius, end_radius in pieces:
            low, high = (
                tuple(pick(a, b) + sign * radius for a, b in zip(start, end, strict=True))
                for pick, sign in ((min, -1), (max, 1))
            )
            part = canvas.box((low[0], low[1], low[2]), (high[0], high[1], high[2]))
            if part:
                canvas.bone(part[0], capsule(part[1], start, end, radius, end_radius), CORTEX * 0.8, MARROW + 40, 1.5)


def paint_front(m: Measures, canvas: Canvas) -> None:
    """Breast bone, broad above, and the collar bones."""
    front = m.front - 7.5
    part = canvas.box((-44, front - 14, -1e4), (44, front + 14, 1e4))
    if part:
        view, axes = part
        z, y, x = axes
        half = 15 + 5 * rise(-z, 10, 50) + 13 * rise(z, 28, 52)
        plate = rounded(x, y - front, (half, 6.0), 2.8) + np.asarray(30 * rise(z, 72, 80), np.float32)
        plate = plate + np.asarray(30 * rise(-z, 78, 88), np.float32)
        canvas.bone(view, np.asarray(plate, np.float32), CORTEX * 0.75, MARROW - 20, 1.4)
    for side in (-1.0, 1.0):
        points = (
            (side * 22, front + 2, 70.0), (side * 52, front + 4, 78.0), (side * 95, front + 40, 96.0),
            (side * 135, front + 66, 108.0),
        )  # fmt: skip
        canvas.tube(points, (9.0, 6.5, 6.0, 6.5), CORTEX * 0.9, MARROW)


def paint_shoulders(m: Measures, canvas: Canvas, cavity: Field) -> None:
    """Shoulder blades, which follow the wall, each with its spine."""
    at = np.flatnonzero((cavity > 16) & (cavity < 46))
    slices, rows, columns = np.unravel_index(at, cavity.shape)
    z, y, x = (canvas.grid.axis(axis)[part] for axis, part in enumerate((slices, rows, columns)))
    keep = (z > -32) & (y > -30)
    at, z, y, x = at[keep], z[keep], y[keep], x[keep]
    angle = np.arctan2(np.abs(x), y - CAVITY_Y)
    out = cavity.ravel()[at]
    reach = np.clip((z + 32) / 60, 0, 1) ** 0.7 * 0.36
    half = 1.7 + 2.2 * np.clip(np.abs(angle - 0.92) / 0.36, 0, 1) ** 4
    blade = np.maximum(np.abs(out - 23) - half, (np.abs(angle - 0.92) - reach) * 95)
    ridge = np.maximum(np.abs(angle - 0.86) * 95 - 2.4, np.abs(out - 31) - 9)
    ridge = np.maximum(ridge, np.abs(z - 52) - 16)
    values = canvas.hu.ravel()[at]
    canvas.bone(values, np.asarray(np.minimum(blade, ridge), np.float32), CORTEX * 0.85, MARROW + 60, 1.4)
    canvas.hu.ravel()[at] = values


def paint_table(m: Measures, canvas: Canvas) -> None:
    """The table's upper shell, and its lower one; the same in every slice."""
    part = canvas.box((-205, m.half_depth - 45, -1e4), (205, m.half_depth + 80, 1e4))
    if part is None:
        return
    view, (_, y, x) = part
    top = m.half_depth + 4 - 0.0008 * x**2
    for offset, value in ((0.0, -250.0), (26.0, -420.0)):
        shell = np.asarray(np.abs(y - top - offset) - 1.3, np.float32)
        share = canvas.cover(shell)
        view += share * (value - view)
