"""Grey levels of a ROI -> the counts of the texture matrices (IBSI 3.6 to 3.11), by the C code beside this module."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis._matrices import count

Mask = NDArray[np.bool_]
Levels = NDArray[np.int32]
Counts = NDArray[np.int32]
Floats = NDArray[np.float64]

_NEIGHBOURS = 27  # 0 to 26 of the same level
_LARGEST = np.iinfo(np.int32).max // _NEIGHBOURS  # the C code adds up the levels around a voxel in 32 bits


@dataclass(frozen=True, eq=False)
class Matrices:
    """Counts over the ROI; g is the number of grey levels that occur in it, a that of directions (13 or 4).

    Attributes
    ----------
    grey : (g,) the grey levels, ascending
    pairs : (a, g, g) neighbours along each direction, each pair once (GLCM before it is made symmetrical); a direction
        in which every line meets one voxel at most is left out
    runs : (a, g, longest run) runs; column 0 are runs of one voxel (GLRLM)
    zones : (n, 3) index of the level, size, number of such zones; 26-connected, in 2.5D 8-connected (GLSZM)
    dependence : (g, 27) voxels by the number of neighbours of the same level, from 0 (GLDM, IBSI's NGLDM)
    tones : (g, 2) number of voxels, sum of their differences from the mean of their neighbours in the ROI (NGTDM)
    voxels : of the ROI
    """

    grey: Levels
    pairs: Counts
    runs: Counts
    zones: NDArray[np.int64]
    dependence: Counts
    tones: Floats
    voxels: int


def matrices(levels: Levels, mask: Mask, *, flat: bool) -> Matrices:
    """Count everything once; `levels` from 1 inside `mask`, both (slices, rows, columns).

    `flat`: neighbours within slices alone, summed over the slices (IBSI's 2.5D).

    Raises
    ------
    ValueError
        The ROI is empty, or has more than 65,535 grey levels, one above 79,536,431, or an edge of more than 65,535.
    """
    within = levels[mask]
    if within.max(initial=0) > _LARGEST:
        raise ValueError(f"a grey level of {within.max()} in the ROI; the most is {_LARGEST}: use wider bins")
    grey = np.flatnonzero(np.bincount(within)).astype(np.int32)
    if not grey.size or grey[0] < 1 or grey.size > np.iinfo(np.uint16).max:
        raise ValueError(f"{grey.size} grey levels in the ROI")
    name = np.zeros(int(grey[-1]) + 1, dtype=np.uint16)  # number of each level that occurs
    name[grey] = np.arange(1, grey.size + 1)
    index = np.zeros(levels.shape, dtype=np.uint16)
    index[mask] = name[within]
    directions, size = 4 if flat else 13, grey.size + 1  # level 0 is outside
    pairs = np.zeros((directions, size, size), dtype=np.int32)
    runs = np.zeros((directions, size, max(levels.shape) + 1), dtype=np.int32)
    dependence = np.zeros((size, _NEIGHBOURS), dtype=np.int32)
    tones = np.zeros((size, 2))
    zones = np.empty((within.size, 2), dtype=np.int32)
    named = np.concatenate([np.zeros(1, np.int32), grey])
    slices, rows, columns = levels.shape
    found = count(index, slices, rows, columns, grey.size, named, flat, pairs, runs, dependence, tones, zones)
    pairs, runs = pairs[:, 1:, 1:], runs[:, 1:, 1:]
    ways = enumerate(_ways(flat))
    used = [number for number, way in ways if pairs[number].any() or _on_one_line(mask, way)]
    return Matrices(grey, pairs[used], runs[used], _histogram(zones[:found]), dependence[1:], tones[1:], within.size)


def _on_one_line(mask: Mask, way: tuple[int, int, int]) -> bool:
    """Whether a line in this direction meets two voxels of the ROI, with whatever between them."""
    voxels = np.argwhere(mask)
    axis = next(axis for axis, step in enumerate(way) if step)
    starts = voxels - voxels[:, axis : axis + 1] * way[axis] * np.array(way)
    return len(np.unique(starts, axis=0)) < len(voxels)


def _ways(flat: bool) -> list[tuple[int, int, int]]:
    """Steps (slice, row, column) that lead forward in memory, in the order of the C code's directions."""
    ways = [(z, y, x) for z in ((0,) if flat else (0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    return [way for way in ways if way > (0, 0, 0)]


def _histogram(zones: Counts) -> NDArray[np.int64]:
    """How often each level and size go together."""
    longest = int(zones[:, 1].max()) + 1
    keys = np.sort((zones[:, 0].astype(np.int64) - 1) * longest + zones[:, 1])
    first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    level, size = np.divmod(keys[first], longest)
    return np.column_stack([level, size, np.diff(first, append=keys.size)])
