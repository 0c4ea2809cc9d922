"""A lung lesion of given volume, texture and margin, set into a synthetic chest."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.train.synth import raster
from analysis.train.synth.anatomy import Body, Grid, depth_in_lung
from analysis.train.synth.grid import rise

Volume = NDArray[np.float32]
_CELL = 2.0  # mm: textures are drawn on this grid, whatever the matrix of the CT
_HALF = 52.0  # mm: half of the block that holds any lesion with its spicules

_RIM = 1.5  # mm of tumour outside the contour: a hand that draws keeps off the blurred margin

COVERED_MM = 140.0  # of the chest, at least, on any CT: the whole lesion lies inside


@dataclass(frozen=True)
class Lesion:
    """One lesion; `heterogeneity` and `roughness` are latents in SD."""

    volume_ml: float
    heterogeneity: float
    roughness: float

    @property
    def radius_mm(self) -> float:
        """Radius of the sphere of this volume."""
        return float((3000 * self.volume_ml / (4 * np.pi)) ** (1 / 3))


def place(build: Body, radius_mm: float, rng: np.random.Generator) -> tuple[float, float, float]:
    """A centre (mm; z, y, x) in the lung, as far from its border as the lesion wants and the lung allows.

    Found on a grid of its own, so that a patient's lesion lies in the same place on every matrix.
    """
    lung, grid = depth_in_lung(build)
    depth = raster.depth(np.pad(lung < -1.0, 1), grid.spacing_mm[0])
    depth = depth[1:-1, 1:-1, 1:-1]
    axes = [grid.axis(index) for index in range(3)]
    depth[np.abs(axes[0]) > min(COVERED_MM / 2 - 8 - 1.2 * radius_mm, 46.0)] = 0
    candidates = np.argwhere(depth >= min(0.85 * radius_mm + 3, 0.93 * float(depth.max())))
    z, y, x = candidates[rng.integers(len(candidates))]
    return float(axes[0][z]), float(axes[1][y]), float(axes[2][x])


def insert(
    hu: Volume, grid: Grid, lesion: Lesion, centre: tuple[float, float, float], rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Paint the lesion into `hu` (in place) and return its mask, of the grid's shape."""
    rough, fine, texture = _noise(3.0, rng), _noise(1.1, rng), _noise(1.6, rng)
    stretch = np.exp(rng.normal(0, 0.12, 3))
    spicules = _spicules(lesion, rng)
    axes = [grid.axis(index) - point for index, point in enumerate(centre)]
    box = tuple(slice(int(np.searchsorted(axis, -_HALF)), int(np.searchsorted(axis, _HALF))) for axis in axes)
    z, y, x = np.meshgrid(*[axis[part] for axis, part in zip(axes, box, strict=True)], indexing="ij")
    at = np.stack([(points + _HALF) / _CELL for points in (z, y, x)])
    stretch /= np.prod(stretch) ** (1 / 3)
    distance = np.sqrt((z / stretch[0]) ** 2 + (y / stretch[1]) ** 2 + (x / stretch[2]) ** 2)
    uneven = 2.2 * _sample(rough, at) + 0.55 * _sample(fine, at)
    distance = distance + np.exp(0.45 * lesion.roughness) * uneven
    voxel_ml = float(np.prod(grid.spacing_mm)) / 1000
    wanted = max(8, round(lesion.volume_ml / voxel_ml))
    edge = float(np.partition(distance, wanted, axis=None)[wanted])
    inside = _solid(distance < edge)
    view = hu[box]
    tissue = _tissue(lesion, _sample(texture, at), (edge - distance) / lesion.radius_mm)
    _paint_spicules(view, (z, y, x), spicules, distance - edge, grid)
    view += _cover(distance - edge, inside, grid) * (tissue - view)
    mask = np.zeros(hu.shape, np.bool_)
    mask[box] = inside
    return mask


def _cover(beyond: NDArray[np.floating], inside: NDArray[np.bool_], grid: Grid) -> Volume:
    """How much of a voxel is tumour; `beyond` is the distance from the contour, negative inside."""
    width = max(grid.spacing_mm[1], 1.2)
    near = raster.grown(inside, int(np.ceil((_RIM + width / 2) / grid.spacing_mm[1])))
    cover = np.clip(0.5 + (_RIM - beyond) / width, 0, 1) * near
    # The same along the body's axis, where voxels are long: the slices at either end are not contoured.
    above = raster.grown(inside, int(np.ceil(_RIM / grid.spacing_mm[0])), axes=[0])
    return np.asarray(np.maximum(cover, 0.85 * above), np.float32)


def _tissue(lesion: Lesion, texture: Volume, depth: Volume) -> Volume:
    """HU of enhancing tumour; one that is large and heterogeneous is hypodense, as if necrotic, at its core.

    `depth` is the distance from the margin as a share of the radius.
    """
    spread = float(np.exp(0.6 * lesion.heterogeneity))
    core = 14.0 * spread * min(1.0, lesion.radius_mm / 20) * rise(depth + 0.12 * texture, 0.30, 0.75)
    value = 52.0 + 24.0 * spread * texture - core
    return np.asarray(45 + 110 * np.tanh((value - 45) / 110), np.float32)


def _noise(sigma_cells: float, rng: np.random.Generator) -> Volume:
    size = int(2 * _HALF / _CELL) + 2
    field = raster.blurred(rng.standard_normal((size, size, size)), [sigma_cells] * 3)
    return np.asarray((field - field.mean()) / field.std(), np.float32)


def _sample(field: Volume, at: NDArray[np.float32]) -> Volume:
    return raster.sampled(field, at)


def _solid(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest piece, without holes in any slice: what a radiologist would contour."""
    return np.stack([raster.filled(plane) for plane in raster.largest(inside)])


def _spicules(lesion: Lesion, rng: np.random.Generator) -> NDArray[np.float64]:
    """Strands into the lung, shape (strands, 7): direction (unit; z, y, x), how it bends (mm), and length (mm)."""
    count = int(np.clip(round(16 * np.exp(0.6 * lesion.roughness)), 2, 48))
    directions = rng.normal(size=(count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    lengths = rng.uniform(5, 15, count) * np.exp(0.3 * lesion.roughness)
    return np.column_stack([directions, rng.normal(0, 2.0, (count, 3)), np.minimum(lengths, 24)])


def _paint_spicules(
    view: Volume,
    axes: tuple[Volume, Volume, Volume],
    spicules: NDArray[np.float64],
    beyond: NDArray[np.floating],
    grid: Grid,
) -> None:
    """Strands that taper from the margin outwards; `beyond` is the distance from the margin, negative inside."""
    near = (beyond > -4) & (beyond < 24)
    z, y, x = (axis[near] for axis in axes)
    out = beyond[near]
    width = max(grid.spacing_mm[1], 1.0)
    most = np.zeros(out.shape)
    for dz, dy, dx, bz, by, bx, length in spicules:
        run = np.clip((out + 2) / (length + 2), 0, 1)
        bend = run * run
        u, v, w = z - bz * bend, y - by * bend, x - bx * bend
        along = u * dz + v * dy + w * dx
        across = np.sqrt(np.maximum(u * u + v * v + w * w - along * along, 0))
        thin = np.where((run < 1) & (along > 0), 0.35 + 1.15 * (1 - run) + 2.2 * np.clip(1 - 6 * run, 0, 1), 0)
        most = np.maximum(most, np.clip(0.5 + (thin - across) / width, 0, 1) * np.minimum(1, thin / 0.8))
    view[near] += (most * np.maximum(25 - view[near], 0)).astype(np.float32)
