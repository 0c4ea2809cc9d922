"""Real chest CTs as a background: the lesion is synthetic, the lungs are somebody's.

A folder holds `NAME_image.nrrd` (HU) and, optionally, `NAME_label.nrrd`, that CT's own tumour, from which the
synthetic lesion keeps away. No such file belongs to this project; two are published with pyradiomics (BSD-3).
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import SimpleITK
from numpy.typing import NDArray

from analysis.train.synth import raster
from analysis.train.synth.anatomy import AIR, Grid
from analysis.train.synth.synth_error import SynthError

Volume = NDArray[np.float32]
_COARSE_MM = 4.0  # the lungs are looked for on cubes of this size
_LUNG_BELOW_HU, _LEAST_LUNG_ML = -400.0, 300.0
_CLEAR_OF_TUMOUR_MM = 8.0
_OFF_CENTRE_MM = 40.0  # the volume cut out is not centred on the lesion


@dataclass(frozen=True)
class _Chest:
    """`hu` is (slices, rows, columns) from foot, front and right on; `spacing_mm` likewise (z, y, x).

    `depth_mm` is the distance to the border of the lung on cubes of _COARSE_MM, shortened near the CT's own tumour.
    """

    hu: NDArray[np.int16]
    spacing_mm: tuple[float, float, float]
    depth_mm: Volume

    @property
    def extent_mm(self) -> tuple[float, float, float]:
        slices, rows, columns = (count * step for count, step in zip(self.hu.shape, self.spacing_mm, strict=True))
        return slices, rows, columns


def fingerprint(folder: Path) -> dict[str, str]:
    """Name and SHA-256 of each CT found: what the digest of a cohort stands on."""
    try:
        return {path.name: _sha256(path, path.stat().st_mtime_ns) for path in _images(folder)}
    except OSError as error:
        raise SynthError(f"{folder}: cannot be read ({error.strerror}); correct its permissions") from None


def real_chest(
    folder: Path, grid: Grid, radius_mm: float, rng: np.random.Generator, every: bool = False
) -> tuple[Volume, tuple[float, float, float]]:
    """HU of one of the folder's CTs on the grid, and a place in its lungs (mm; z, y, x) for a lesion of that radius.

    Which CT, whether left and right are exchanged, where the lesion lies and how far from the volume's centre, is
    drawn. With `every`, all files are read, so that a bad one is found before the work begins.

    Raises
    ------
    SynthError
        The folder holds no CT, or one that cannot be read, has no lungs, or covers too little.
    """
    paths = _images(folder)
    if every:
        for path in paths:
            _place(_load(path), grid, radius_mm, path, rng)
    path = paths[int(rng.integers(len(paths)))]
    chest = _load(path)
    at, centre = _place(chest, grid, radius_mm, path, rng)
    hu = _resample(chest, grid, at)
    if rng.random() < 0.5:
        return np.ascontiguousarray(hu[:, :, ::-1]), (centre[0], centre[1], -centre[2])
    return hu, centre


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise SynthError(f"{folder}: no such folder; --background takes a folder of *_image.nrrd")
    paths = sorted(folder.glob("*_image.nrrd"))
    if not paths:
        raise SynthError(f"{folder}: no *_image.nrrd here; put chest CTs there under such names")
    return paths


@lru_cache(maxsize=64)
def _sha256(path: Path, _modified: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@lru_cache(maxsize=3)
def _load(path: Path) -> _Chest:
    image = _read(path)
    hu = SimpleITK.GetArrayFromImage(image).astype(np.int16)
    x, y, z = image.GetSpacing()
    own = path.with_name(path.name.replace("_image.nrrd", "_label.nrrd"))
    tumour = SimpleITK.GetArrayFromImage(_read(own)) > 0 if own.exists() else np.zeros(hu.shape, np.bool_)
    if tumour.shape != hu.shape:
        raise SynthError(f"{own}: not on the voxels of {path.name}; give the CT's own label or remove it")
    return _Chest(hu, (z, y, x), _depth(hu, tumour, (z, y, x), path))


def _read(path: Path) -> SimpleITK.Image:
    try:
        image = SimpleITK.ReadImage(str(path))
        if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
            raise SynthError(f"{path}: not one 3-D volume; give a chest CT in HU or remove the file")
        return SimpleITK.DICOMOrient(image, "LPS")
    except RuntimeError:
        raise SynthError(f"{path}: cannot be read as NRRD; fetch the file again or remove it") from None


def _depth(hu: NDArray[np.int16], tumour: NDArray[np.bool_], spacing: tuple[float, float, float], path: Path) -> Volume:
    """Distance to the border of the lungs, on coarse cubes; 0 outside."""
    shape = np.maximum(1, np.array(hu.shape) * spacing / _COARSE_MM).astype(int)
    axes = [
        np.minimum(((np.arange(count) + 0.5) * _COARSE_MM / step).astype(int), size - 1)
        for count, step, size in zip(shape, spacing, hu.shape, strict=True)
    ]
    coarse, own = hu[np.ix_(*axes)], tumour[np.ix_(*axes)]
    air = coarse < _LUNG_BELOW_HU
    # Air that touches the edge of a slice lies outside the body; at the ends of the scan, lungs may be cut.
    pieces = raster.pieces(np.stack([raster.inner(plane) for plane in air]), corners=True)
    millilitres = np.bincount(pieces.ravel()) * _COARSE_MM**3 / 1000
    millilitres[0] = 0
    lungs = np.isin(pieces, np.flatnonzero(millilitres > _LEAST_LUNG_ML))
    lungs = ~raster.grown(~raster.grown(np.pad(lungs, 2), 2), 2)[2:-2, 2:-2, 2:-2]  # vessels belong to the lung
    if not lungs.any():
        raise SynthError(f"{path}: no lungs found; give a chest CT in HU or remove the file")
    depth = raster.depth(lungs, _COARSE_MM)
    if own.any():
        away = raster.depth(~own, _COARSE_MM) - _CLEAR_OF_TUMOUR_MM
        depth = np.minimum(depth, np.maximum(away, 0))
    return np.asarray(depth, np.float32)


def _place(
    chest: _Chest, grid: Grid, radius_mm: float, path: Path, rng: np.random.Generator
) -> tuple[NDArray[np.float64], tuple[float, float, float]]:
    """Centre of the volume to cut out, in mm from the CT's first voxel's corner, and the lesion's place from there."""
    covered = grid.shape[0] * grid.spacing_mm[0]
    extent = chest.extent_mm
    if extent[0] < covered:
        raise SynthError(
            f"{path}: covers {extent[0]:.0f} mm and {covered:.0f} are asked for; lower --slices or remove the file"
        )
    depth = chest.depth_mm.copy()
    z = (np.arange(depth.shape[0]) + 0.5) * _COARSE_MM
    margin = min(radius_mm * 1.2 + 8, covered / 2)
    depth[(z < margin) | (z > extent[0] - margin)] = 0
    if not depth.any():
        raise SynthError(f"{path}: the lungs lie at the very ends of the scan; remove the file")
    wanted = min(0.85 * radius_mm + 3, 0.93 * float(depth.max()))
    candidates = np.argwhere(depth >= wanted)
    lesion = (candidates[rng.integers(len(candidates))] + 0.5) * _COARSE_MM
    shift = min(_OFF_CENTRE_MM, covered / 2 - margin)
    middle = np.clip(lesion[0] + rng.uniform(-1, 1) * shift, covered / 2, extent[0] - covered / 2)
    centre = np.array([middle, extent[1] / 2, extent[2] / 2])
    away = lesion - centre
    return centre, (float(away[0]), float(away[1]), float(away[2]))


def _resample(chest: _Chest, grid: Grid, centre: NDArray[np.float64]) -> Volume:
    """The CT on the grid: linear between voxels where they are coarser, their mean where they are finer."""
    out = chest.hu.astype(np.float32) - AIR
    for axis in range(3):
        step, target = chest.spacing_mm[axis], grid.spacing_mm[axis]
        source = (np.arange(chest.hu.shape[axis]) + 0.5) * step - centre[axis]
        reach = max(step, target)
        weights = np.clip(1 - np.abs(grid.axis(axis)[:, None] - source[None, :]) / reach, 0, None)
        weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-9)
        out = np.moveaxis(np.tensordot(weights.astype(np.float32), out, (1, axis)), 0, axis)
    return np.ascontiguousarray(np.clip(out + AIR, -1024, 3071), np.float32)
