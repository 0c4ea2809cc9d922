"""Morphological features of the ROI (IBSI 3.1): pyradiomics' mesh, summed in linear time.

pyradiomics compares every mesh vertex with every other for the diameters: a minute for two litres at 1 mm. Here
its C code is asked once per cube configuration (256 of them), and the diameters come from the outermost vertices.
"""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray
from radiomics import cShape

from analysis._diameter import widest

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Steps = tuple[float, float, float]


@dataclass(frozen=True)
class Mesh:
    """Surface area mm2 and volume mm3 of the marching-cubes mesh around a mask."""

    area: float
    volume: float


def morphology(mask: Mask, spacing: Steps) -> dict[str, float]:
    """Features that need the mask alone, by their short name; `mask` (slices, rows, columns), `spacing` mm."""
    padded = np.pad(mask, 1)
    surface = mesh(padded, spacing)
    area, volume = surface.area, surface.volume
    ball = 36 * np.pi * volume**2
    voxels = int(np.count_nonzero(mask))
    return {
        "MeshVolume": volume,
        "VoxelVolume": voxels * float(np.prod(spacing)),
        "VoxelNumber": float(voxels),
        "SurfaceArea": area,
        "SurfaceVolumeRatio": area / volume,
        "Compactness1": volume / np.sqrt(np.pi * area**3),
        "Compactness2": ball / area**3,
        "Sphericity": np.cbrt(ball) / area,
        "SphericalDisproportion": area / np.cbrt(ball),
        "Asphericity": np.cbrt(area**3 / ball) - 1,
        **_axes(mask, spacing),
        **_diameters(padded, spacing),
    }


def mesh(padded: Mask, spacing: Steps) -> Mesh:
    """Area and volume exactly as pyradiomics' C code, whose cost is the diameters it computes besides.

    `padded` has an empty layer all round. A cube's share of the area depends on its configuration alone; its share
    of the volume, a sum of tetrahedra to the origin, also on its position times the vector area.
    """
    case = _cases(padded)
    areas, volumes, vectors = _case_tables(spacing)
    where = np.nonzero((case != 0) & (case != 255))
    cases = case[where]
    count = np.bincount(cases, minlength=256)
    total = float(count @ volumes)
    for axis in range(3):
        travelled = np.bincount(cases, weights=where[axis], minlength=256)
        total += float(travelled @ vectors[:, axis])
    return Mesh(float(count @ areas), total)


def _cases(padded: Mask) -> NDArray[np.uint8]:
    """Configuration of each 2x2x2 cube: bit 4i + 2j + k is the corner at (i, j, k)."""
    bits = padded.view(np.uint8)
    shape = tuple(size - 1 for size in padded.shape)
    case = np.zeros(shape, dtype=np.uint8)
    for corner in range(8):
        i, j, k = corner >> 2, corner >> 1 & 1, corner & 1
        case |= bits[i : i + shape[0], j : j + shape[1], k : k + shape[2]] << np.uint8(corner)
    return case


@cache
def _case_tables(spacing: Steps) -> tuple[Floats, Floats, Floats]:
    """Area, volume from the cube's own corner, and gain in volume per step along each axis, of each configuration.

    Volumes come from a table, as 48ths of a voxel (mesh_cases.csv beside this module, one row per configuration:
    volume, then gain along slices, rows and columns); the areas' dependence on the spacing is pyradiomics' to compute.
    """
    rows = files("analysis").joinpath("mesh_cases.csv").read_text(encoding="utf-8").splitlines()[1:]
    table = np.array([row.split(",") for row in rows], dtype=np.float64) / 48 * np.prod(spacing)
    step = np.asarray(spacing, dtype=np.float64)
    areas = np.array([cShape.calculate_coefficients(_cube(case), step)[0] for case in range(256)])
    return areas, table[:, 0], table[:, 1:]


def _cube(case: int) -> Mask:
    """The 2x2x2 voxels of a configuration."""
    return np.array([case >> corner & 1 for corner in range(8)], bool).reshape(2, 2, 2)


def _axes(mask: Mask, spacing: Steps) -> dict[str, float]:
    """Axis lengths from the eigenvalues of the voxel centres' covariance.

    Divided by N - 1, as the IBSI reference values are; pyradiomics divides by N (0.7 % at 74 voxels).
    """
    centres = np.argwhere(mask) * np.asarray(spacing)
    if len(centres) < 2:
        return dict.fromkeys(
            ("MajorAxisLength", "MinorAxisLength", "LeastAxisLength", "Elongation", "Flatness"), np.nan
        )
    least, minor, major = np.sqrt(np.maximum(np.linalg.eigvalsh(np.cov(centres, rowvar=False)), 0))
    return {
        "MajorAxisLength": 4 * float(major),
        "MinorAxisLength": 4 * float(minor),
        "LeastAxisLength": 4 * float(least),
        "Elongation": float(minor / major),
        "Flatness": float(least / major),
    }


def _diameters(padded: Mask, spacing: Steps) -> dict[str, float]:
    """Largest distances between mesh vertices: in space, and within slices, columns' and rows' planes."""
    doubled = _vertices(padded)
    step = np.asarray(spacing) / 2
    flat = [_widest_in_planes(doubled, axis, step) for axis in range(3)]
    return {
        "Maximum2DDiameterSlice": flat[0],
        "Maximum2DDiameterColumn": flat[1],
        "Maximum2DDiameterRow": flat[2],
        "Maximum3DDiameter": _widest(doubled, step),
    }


def _vertices(padded: Mask) -> NDArray[np.int64]:
    """Mesh vertices in half voxels: midway between each voxel of the ROI and a neighbour that is not."""
    found = []
    for axis in range(3):
        crossing = np.argwhere(np.diff(padded, axis=axis)) * 2
        crossing[:, axis] += 1
        found.append(crossing)
    return np.concatenate(found)


def _widest_in_planes(doubled: NDArray[np.int64], axis: int, step: Floats) -> float:
    """Widest first, by twice the radius around the middle of each plane's box: most planes are never looked at."""
    order = np.argsort(doubled[:, axis], kind="stable")
    plane = doubled[order, axis]
    others = [other for other in range(3) if other != axis]
    lattice = doubled[order][:, others]
    points = lattice * step[others]
    starts = np.flatnonzero(np.diff(plane, prepend=plane[0] - 1))
    ends = np.append(starts[1:], len(plane))
    middle = (np.minimum.reduceat(points, starts) + np.maximum.reduceat(points, starts)) / 2
    radius = np.sqrt(((points - np.repeat(middle, ends - starts, axis=0)) ** 2).sum(axis=1))
    reach = 2 * np.maximum.reduceat(radius, starts)
    best = 0.0
    for number in np.argsort(-reach):
        if reach[number] * (1 + 1e-9) < best:
            break
        best = max(best, _widest(lattice[starts[number] : ends[number]], step[others]))
    return best


def _widest(lattice: NDArray[np.int64], step: Floats) -> float:
    """Largest distance between two points given as whole steps along each axis."""
    return widest(np.ascontiguousarray(_outermost(lattice) * step), len(step))


def _outermost(lattice: NDArray[np.int64]) -> NDArray[np.int64]:
    """The points that are first or last on their line along every axis: between two others, none is the farthest."""
    size = lattice.max(axis=0) + 1
    for _ in size:
        lattice, size = np.roll(lattice, 1, axis=1), np.roll(size, 1)
        place = np.sort(np.ravel_multi_index(tuple(lattice.T), tuple(size)))
        ends = np.diff(place // size[-1], prepend=-1, append=-1) != 0
        lattice = np.stack(np.unravel_index(place[ends[:-1] | ends[1:]], tuple(size)), axis=1)
    return lattice
