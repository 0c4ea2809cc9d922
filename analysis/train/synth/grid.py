"""Where voxels lie, and how shapes given in mm are painted on them.

Distances in mm in the patient's frame: x to the left, y to the back, z to the head; 0 near the carina. A shape is a
signed distance, negative inside, and is painted with partial coverage at its edge, so that the same patient can be
drawn on any matrix. Large shapes are laid out once on MODEL and interpolated from there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.train.synth import raster

Field = NDArray[np.float32]
Point = tuple[float, float, float]  # x, y, z in mm
Axes = tuple[Field, Field, Field]  # z, y, x as open arrays, mm
AIR = -1000.0


@dataclass(frozen=True)
class Grid:
    """Where the voxels lie: shape (slices, rows, columns), spacing mm (slice, row, column).

    The centre of the volume is the patient's origin; slices run from foot to head.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]

    def axis(self, index: int) -> NDArray[np.float32]:
        """Centres of the voxels along one axis, mm."""
        count, spacing = self.shape[index], self.spacing_mm[index]
        return ((np.arange(count) - (count - 1) / 2) * spacing).astype(np.float32)

    def axes(self) -> Axes:
        """The three axes, ready to be broadcast against each other."""
        return self.axis(0)[:, None, None], self.axis(1)[None, :, None], self.axis(2)[None, None, :]


MODEL = Grid((57, 97, 97), (4.0, 4.0, 4.0))


def onto(field: Field, grid: Grid) -> Field:
    """A field on MODEL, interpolated linearly; beyond its ends its last value."""
    steps = [
        (grid.axis(axis) / MODEL.spacing_mm[axis] + (MODEL.shape[axis] - 1) / 2).clip(0, MODEL.shape[axis] - 1)
        for axis in range(3)
    ]
    return between(field, steps)


def between(field: Field, steps: Sequence[NDArray[np.floating]]) -> Field:
    """Linear interpolation at fractional indices along each axis; gather and weigh, so the same bytes anywhere."""
    out = field
    for axis, step in enumerate(steps):
        low = np.minimum(step.astype(int), out.shape[axis] - 2)
        weight = (step - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
        first = np.take(out, low, axis)
        out = np.take(out, low + 1, axis)
        out -= first
        out *= weight
        out += first
    return out


def noise(grid: Grid, length_mm: float, rng: np.random.Generator, smooth: float = 1.6) -> Field:
    """Random field of unit SD with about the given correlation length; the same in mm on every grid."""
    cell = length_mm / 2
    coarse = rng.standard_normal([int(np.ceil(mm / cell)) + 6 for mm in (150.0, 380.0, 380.0)], np.float32)
    if smooth:
        coarse = raster.blurred(coarse, [smooth] * 3)
    coarse /= coarse.std()
    steps = [
        (2 + (grid.axis(axis) + half) / cell).clip(0, size - 1)
        for axis, (half, size) in enumerate(zip((75.0, 190.0, 190.0), coarse.shape, strict=True))
    ]
    return between(coarse, steps)


def ellipsoid(axes: Axes, centre: Point, radii: Point) -> Field:
    """Signed distance, good near the surface."""
    squares = [((axis - at) / radius) ** 2 for axis, at, radius in zip(axes[::-1], centre, radii, strict=True)]
    inner = np.sqrt(squares[0] + squares[1] + squares[2])
    slope = np.sqrt(sum(square / radius**2 for square, radius in zip(squares, radii, strict=True)))
    return np.asarray(inner * (inner - 1) / np.maximum(slope, 1e-3), np.float32)


def rounded(x: Field, y: Field, half: tuple[Field | float, Field | float], power: float) -> Field:
    """Signed distance, good near the edge, to a superellipse round the origin of x and y."""
    u, v = np.abs(x) / half[0] + 1e-4, np.abs(y) / half[1] + 1e-4
    radius = (u**power + v**power) ** (1 / power)
    slope = np.hypot(u ** (power - 1) / half[0], v ** (power - 1) / half[1]) / radius ** (power - 1)
    return np.asarray((radius - 1) / slope, np.float32)


def capsule(axes: Axes, start: Point, end: Point, radius: float, end_radius: float | None = None) -> Field:
    """Signed distance to a thick line, thicker or thinner at its end."""
    along = [b - a for a, b in zip(start, end, strict=True)]
    x, y, z = (axis - at for axis, at in zip(axes[::-1], start, strict=True))
    length = along[0] ** 2 + along[1] ** 2 + along[2] ** 2 + 1e-9
    t = np.clip((x * along[0] + y * along[1] + z * along[2]) / length, 0, 1)
    far = np.sqrt((x - t * along[0]) ** 2 + (y - t * along[1]) ** 2 + (z - t * along[2]) ** 2)
    taper = radius if end_radius is None else radius + (end_radius - radius) * t
    return np.asarray(far - taper, np.float32)


def union(first: Field, second: Field, blend: float) -> Field:
    """Smooth union of two signed distances; the gap between shapes closer than `blend` mm is filled."""
    h = np.clip(0.5 + 0.5 * (second - first) / blend, 0, 1)
    return np.asarray(second + (first - second) * h - blend * h * (1 - h), np.float32)


def rise(value: Field, low: float, high: float) -> Field:
    """0 below `low`, 1 above `high`, smooth between."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float32)


class Canvas:
    """HU of a CT in the making, painted from the outside in."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.hu = np.full(grid.shape, AIR, np.float32)
        self.soft = max(grid.spacing_mm[1], 1.0)  # mm over which an edge goes from 0 to 1

    def parts(self, low: Point, high: Point) -> tuple[slice, slice, slice]:
        """Which voxels lie between two corners."""
        parts = []
        for index in range(3):
            axis = self.grid.axis(index)
            start, stop = np.searchsorted(axis, (low[2 - index] - self.soft, high[2 - index] + self.soft))
            parts.append(slice(int(start), int(stop)))
        return parts[0], parts[1], parts[2]

    def box(self, low: Point, high: Point) -> tuple[Field, Axes] | None:
        """The part of the volume between two corners, as a view, with its axes; None where that is empty."""
        parts = self.parts(low, high)
        view = self.hu[parts]
        if not view.size:
            return None
        z, y, x = (self.grid.axis(index)[part] for index, part in enumerate(parts))
        return view, (z[:, None, None], y[None, :, None], x[None, None, :])

    def cover(self, distance: Field) -> Field:
        """How much of a voxel lies inside."""
        share = distance * np.float32(-1 / self.soft)
        share += np.float32(0.5)
        return np.asarray(np.clip(share, 0, 1, out=share), np.float32)

    def fill(self, view: Field, distance: Field, value: Field | float) -> None:
        """Paint a shape of the view's size in place."""
        share = self.cover(distance)
        share *= value - view
        view += share

    def ellipsoid(self, centre: Point, radii: Point, value: float) -> None:
        """Paint an ellipsoid."""
        corners = [(at - r, at + r) for at, r in zip(centre, radii, strict=True)]
        part = self.box((corners[0][0], corners[1][0], corners[2][0]), (corners[0][1], corners[1][1], corners[2][1]))
        if part:
            self.fill(part[0], ellipsoid(part[1], centre, radii), value)

    def tube(self, points: Sequence[Point], radii: Sequence[float], value: float, inner: float | None = None) -> None:
        """Paint a bent tube; with `inner`, its core (all but the outer 1.6 mm) has another value."""
        for shrink, shade in ((0.0, value), (1.6, inner)):
            if shade is not None:
                for piece in range(len(points) - 1):
                    self._piece(
                        points[piece], points[piece + 1], radii[piece] - shrink, radii[piece + 1] - shrink, shade
                    )

    def _piece(self, start: Point, end: Point, radius: float, end_radius: float, value: float) -> None:
        most = max(radius, end_radius)
        if most <= 0:
            return
        low = tuple(min(a, b) - most for a, b in zip(start, end, strict=True))
        high = tuple(max(a, b) + most for a, b in zip(start, end, strict=True))
        part = self.box((low[0], low[1], low[2]), (high[0], high[1], high[2]))
        if part:
            self.fill(part[0], capsule(part[1], start, end, radius, end_radius), value)

    def bone(self, view: Field, distance: Field, cortex: float, marrow: Field | float, thickness: float = 1.4) -> None:
        """Paint cortex, and marrow inside it."""
        self.fill(view, distance, cortex)
        self.fill(view, distance + thickness, marrow)
