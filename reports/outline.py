"""The outlines of a mask along the edges of its voxels: what is drawn is what was scored."""

from collections import defaultdict
from typing import Final

import numpy as np
from numpy.typing import NDArray

MAXIMUM_EDGES: Final = 20_000  # of one slice; a mask like a chess board would be no outline to anyone
# Right, down, left, up as (dx, dy) in image coordinates; +1 turns right.
_STEPS: Final = ((1, 0), (0, 1), (-1, 0), (0, -1))


def outlines(mask: NDArray[np.bool_]) -> list[list[tuple[int, int]]]:
    """Closed outlines of a slice, each as its corners (x, y) in pixel edges; voxels that touch by a corner are apart.

    (0, 0) is the outer corner of the first pixel, (1, 1) its opposite corner: the units of PS3.3 C.10.5.1.2. Outer
    outlines run clockwise on the screen, holes the other way. [] where there are more than MAXIMUM_EDGES edges.

    >>> outlines(np.array([[0, 1, 1], [0, 0, 0]], bool))
    [[(1, 0), (3, 0), (3, 1), (1, 1)]]
    """
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return []
    top, left = int(rows[0]), int(columns[0])
    edges = _edges(mask[top : rows[-1] + 1, left : columns[-1] + 1])
    if sum(map(len, edges.values())) > MAXIMUM_EDGES:
        return []
    loops = []
    while edges:
        start = next(iter(edges))
        loops.append([(left + x, top + y) for x, y in _follow(edges, start)])
    return loops


def _edges(mask: NDArray[np.bool_]) -> dict[tuple[int, int], list[int]]:
    """Directed unit edges with the mask on their right hand, by their start: the directions that leave there."""
    padded = np.pad(np.asarray(mask, bool), 1)
    inside = padded[1:-1, 1:-1]
    neighbours = (padded[:-2, 1:-1], padded[1:-1, 2:], padded[2:, 1:-1], padded[1:-1, :-2])  # above, right, below, left
    starts = ((0, 0), (1, 0), (1, 1), (0, 1))  # corner (x, y) of the pixel where its edge on that side begins
    edges: dict[tuple[int, int], list[int]] = defaultdict(list)
    for direction, (beside, (dx, dy)) in enumerate(zip(neighbours, starts, strict=True)):
        rows, columns = np.nonzero(inside & ~beside)
        for x, y in zip((columns + dx).tolist(), (rows + dy).tolist(), strict=True):
            edges[x, y].append(direction)
    return dict(edges)


def _follow(edges: dict[tuple[int, int], list[int]], start: tuple[int, int]) -> list[tuple[int, int]]:
    """Walk one loop and take its edges out; gives the corners where it turns."""
    corners: list[tuple[int, int]] = []
    at, before = start, -1
    while at in edges:
        leaving = edges[at]
        # The sharpest right turn stays with the same voxel where two touch by a corner.
        only = before < 0 or len(leaving) == 1
        direction = leaving[0] if only else min(leaving, key=lambda way: (before + 1 - way) % 4)
        leaving.remove(direction)
        if not leaving:
            del edges[at]
        if direction != before:
            corners.append(at)
        dx, dy = _STEPS[direction]
        at, before = (at[0] + dx, at[1] + dy), direction
    return corners
