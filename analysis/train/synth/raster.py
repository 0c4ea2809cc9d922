"""Blurring, morphology and outlines for synthetic patients, to the bytes those of scipy.ndimage and scikit-image.

Written here because `prognode demo` draws a patient wherever the node runs, and a node has neither (160 MB).
"""

from collections.abc import Iterator, Sequence

import numpy as np
import SimpleITK
from numpy.typing import NDArray

Field = NDArray[np.float32]
Mask = NDArray[np.bool_]
Point = tuple[float, float]
_REACH = 4.0  # sigmas


def blurred(field: NDArray[np.floating], sigmas: Sequence[float]) -> NDArray[np.floating]:
    """Gaussian of these sigmas (voxels) along each axis; what lies beyond an end mirrors what lies before it."""
    for axis, sigma in enumerate(sigmas):
        reach = int(_REACH * sigma + 0.5)
        if not reach:
            continue
        kernel = np.exp(-0.5 / (sigma * sigma) * np.arange(-reach, reach + 1) ** 2)
        kernel /= kernel.sum()
        size = field.shape[axis]
        pads = [(reach, reach) if one == axis else (0, 0) for one in range(field.ndim)]
        padded = np.moveaxis(np.pad(field.astype(np.float64), pads, mode="symmetric"), axis, 0)
        made = padded[reach : reach + size] * kernel[reach]
        for away in range(reach, 0, -1):
            left, right = padded[reach - away :][:size], padded[reach + away :][:size]
            made += (left + right) * kernel[reach - away]
        field = np.ascontiguousarray(np.moveaxis(made, 0, axis), field.dtype)
    return field


def sampled(field: Field, at: NDArray[np.floating]) -> Field:
    """Linear interpolation at fractional indices `at` (3, ...); beyond its ends a field has its last value."""
    low = np.floor(at).astype(np.int64)
    near = 1 - (at - low).astype(np.float64)
    made = np.zeros(at.shape[1:])
    for corner in range(8):
        steps = [corner >> 2, corner >> 1 & 1, corner & 1]
        place = tuple(np.clip(low[axis] + step, 0, field.shape[axis] - 1) for axis, step in enumerate(steps))
        part = field[place].astype(np.float64)
        for axis, step in enumerate(steps):
            part *= 1 - near[axis] if step else near[axis]
        made += part
    return made.astype(np.float32)


def grown(mask: Mask, times: int, axes: Sequence[int] = (0, 1, 2)) -> Mask:
    """The mask and, so many times, the neighbours along these axes."""
    for _ in range(times):
        made = mask.copy()
        for axis in axes:
            new, old = np.moveaxis(made, axis, 0), np.moveaxis(mask, axis, 0)
            new[1:] |= old[:-1]
            new[:-1] |= old[1:]
        mask = made
    return mask


def depth(mask: Mask, spacing: float) -> NDArray[np.float64]:
    """Distance of each voxel of the mask to the nearest that is none, 0 there. `spacing` of all axes, a whole number.

    The mask is neither empty nor everything.
    """
    outside = SimpleITK.GetImageFromArray((~mask).astype(np.uint8))
    squared = SimpleITK.SignedMaurerDistanceMap(outside, insideIsPositive=False, squaredDistance=True)
    away = np.maximum(SimpleITK.GetArrayFromImage(squared).astype(np.float64), 0)
    return np.asarray(np.sqrt(away * spacing**2))


def pieces(mask: Mask, corners: bool) -> NDArray[np.uint32]:
    """A number, from 1 on, for each piece of the mask; neighbours share a face, or with `corners` a corner."""
    image = SimpleITK.GetImageFromArray(mask.astype(np.uint8))
    return np.asarray(SimpleITK.GetArrayFromImage(SimpleITK.ConnectedComponent(image, corners)))


def largest(mask: Mask) -> Mask:
    """The piece of most voxels."""
    number = pieces(mask, corners=False)
    sizes = np.bincount(number.ravel())[1:]
    return mask if len(sizes) < 2 else np.asarray(number == 1 + int(np.argmax(sizes)))


def inner(plane: Mask) -> Mask:
    """Without the pieces that touch the border."""
    number = pieces(plane, corners=True)
    border = np.concatenate([number[[0, -1]].ravel(), number[:, [0, -1]].ravel()])
    return plane & ~np.isin(number, border)


def filled(plane: Mask) -> Mask:
    """Without holes."""
    image = SimpleITK.BinaryFillhole(SimpleITK.GetImageFromArray(plane.astype(np.uint8)), False, 1)
    return np.asarray(SimpleITK.GetArrayFromImage(image) > 0)


def outlines(plane: Mask) -> list[NDArray[np.float64]]:
    """Closed lines half-way between what is in and what is out: (points, 2) of row and column, the first again last.

    `plane` has an empty border. Where two voxels meet at a corner alone, the line goes between them.
    """
    lines: dict[int, list[Point]] = {}
    starts: dict[Point, int] = {}
    ends: dict[Point, int] = {}
    for number, (start, end) in enumerate(_steps(plane)):
        before, after = ends.pop(start, None), starts.pop(end, None)
        first = [start] if before is None else lines.pop(before)
        if before is not None and before == after:
            lines[before] = [*first, end]
            continue
        then = [end] if after is None else lines.pop(after)
        name = min(one for one in (before, after, number) if one is not None)
        lines[name] = first + then
        starts[first[0]] = ends[then[-1]] = name
    return [np.array(lines[name]) for name in sorted(lines)]


def _steps(plane: Mask) -> Iterator[tuple[Point, Point]]:
    """The line's step through each square of four voxels, row by row: clockwise, from where the mask is left to where
    it was entered before.
    """
    squares = plane[:-1, :-1].astype(int) + plane[:-1, 1:] + plane[1:, :-1] + plane[1:, 1:]
    for row, column in np.argwhere((squares > 0) & (squares < 4)).tolist():
        sides = ((row, column + 0.5), (row + 0.5, column + 1), (row + 1, column + 0.5), (row + 0.5, column))
        corners = [plane[row + down, column + right] for down, right in ((0, 0), (0, 1), (1, 1), (1, 0))]
        for side in range(4):
            if corners[side] and not corners[(side + 1) % 4]:
                entered = next(one for one in (side - 1, side - 2, side - 3) if not corners[one])
                yield sides[side], sides[entered]
