"""Branching lung vessels of the synthetic chest: drawn once in mm, painted on any grid."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from analysis.train.anatomy import Grid

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Segment:
    """A straight piece from `start` to `end` (mm; z, y, x) with its radius at either end."""

    start: tuple[float, float, float]
    end: tuple[float, float, float]
    radius: float
    end_radius: float


_HILA = ((0.0, 6.0, -40.0), (3.0, 8.0, 40.0))
# Main directions (z, y, sideways) from a hilum to the segments of a lung.
_SPREAD = (
    (1.0, 0.25, 0.45),
    (0.75, -0.7, 0.5),
    (0.3, 0.75, 0.8),
    (0.1, -0.55, 1.0),
    (-0.25, 0.3, 1.1),
    (-0.75, 0.75, 0.6),
    (-0.85, -0.25, 0.75),
    (-1.0, 0.35, 0.35),
    (0.5, 0.1, 1.1),
    (-0.45, -0.8, 0.8),
)


def tree(rng: np.random.Generator) -> Iterator[Segment]:
    """Vessels of both lungs."""
    for hilum in _HILA:
        side = np.sign(hilum[2])
        for z, y, outward in _SPREAD:
            direction = np.array([z, y, outward * side]) + rng.normal(0, 0.12, 3)
            radius = float(rng.uniform(3.2, 4.6))
            yield from _grow(np.array(hilum), direction / np.linalg.norm(direction), radius, rng)


def _grow(start: Vector, direction: Vector, radius: float, rng: np.random.Generator) -> Iterator[Segment]:
    """One branch and, by recursion, its daughters; Murray's law keeps r^3 over a fork."""
    if radius < 0.58:
        return
    length = float(rng.uniform(5.4, 8.2)) * radius**0.5 + 3.2
    bent = direction + rng.normal(0, 0.10, 3)
    end = start + bent / np.linalg.norm(bent) * length
    taper = radius * 0.93
    yield Segment(_triple(start), _triple(end), radius, taper)
    share = float(rng.uniform(0.52, 0.80))
    axis = np.cross(bent, rng.normal(0, 1, 3))
    axis /= np.linalg.norm(axis)
    for part, sign in ((share, 1.0), (1 - share, -1.0)):
        angle = sign * float(rng.uniform(0.55, 0.85)) * (1.35 - part)
        turned = bent * np.cos(angle) + np.cross(axis, bent) * np.sin(angle)
        yield from _grow(end, turned / np.linalg.norm(turned), taper * part ** (1 / 3), rng)


def _triple(point: Vector) -> tuple[float, float, float]:
    return float(point[0]), float(point[1]), float(point[2])


def paint(hu: NDArray[np.float32], lung: NDArray[np.bool_], segments: Sequence[Segment], grid: "Grid") -> None:
    """Paint the vessels into the lungs of `hu`, in place."""
    axes = [grid.axis(index) for index in range(3)]
    spacing = np.array(grid.spacing_mm)
    for segment in segments:
        low = np.minimum(segment.start, segment.end) - segment.radius - spacing
        high = np.maximum(segment.start, segment.end) + segment.radius + spacing
        box = tuple(
            slice(int(np.searchsorted(axis, a)), int(np.searchsorted(axis, b)))
            for axis, a, b in zip(axes, low, high, strict=True)
        )
        if all(part.stop > part.start for part in box):
            _stroke(hu[box], lung[box], segment, [axis[part] for axis, part in zip(axes, box, strict=True)], spacing)


def _stroke(
    view: NDArray[np.float32],
    lung: NDArray[np.bool_],
    segment: Segment,
    axes: Sequence[NDArray[np.float32]],
    spacing: Vector,
) -> None:
    """One segment; a vessel thinner than a voxel fills only part of it."""
    start = np.array(segment.start)
    along = np.array(segment.end) - start
    z, y, x = np.ix_(*[axis - point for axis, point in zip(axes, start, strict=True)])
    t = np.clip((z * along[0] + y * along[1] + x * along[2]) / float(along @ along), 0, 1)
    # Slices are thick: the distance across them counts for less.
    flat = min(1.0, float(spacing[1] / spacing[0]) * 1.3)
    distance = np.sqrt(((z - t * along[0]) * flat) ** 2 + (y - t * along[1]) ** 2 + (x - t * along[2]) ** 2)
    radius = segment.radius + (segment.end_radius - segment.radius) * t
    width = max(float(spacing[1]), 1.0)
    cover = np.clip(0.5 + (radius - distance) / width, 0, 1) * np.minimum(1.0, (2.4 * radius / width) ** 1.2)
    view += (np.where(lung, cover, 0.0) * np.maximum(60.0 - view, 0.0)).astype(np.float32)
