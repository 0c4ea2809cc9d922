"""One line of voxels onto another grid by cubic splines (Unser, Aldroubi, Eden 1993), as a matrix (new, old)."""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_POLE = math.sqrt(3.0) - 2.0  # of the recursion that turns values into coefficients of cubic B-splines
_BEYOND = 12  # voxels that the ends are continued by; the pole to the power of 12 is 1e-7
_TRUNCATE = 4.0  # sigmas


def weights(size: int, ratio: float, offset: float, count: int, order: int) -> Floats:
    """What each of `size` old voxels adds to the value at `offset + ratio * i`, i of `count`, in old voxels.

    `order`: 1 linear, 3 cubic. Where the new voxels are larger, the line is smoothed first: what a voxel of the new
    size would have averaged. Beyond its ends a line goes on with its last value.
    """
    lines = _smoothed(np.eye(size), 0.5 * np.sqrt(max(ratio**2 - 1, 0.0)))
    at = (np.arange(count, dtype=np.float64) + offset / ratio) * ratio
    if order == 1:
        return _weighed(lines, at, 0, _linear)
    padded = np.pad(lines, ((_BEYOND, _BEYOND), (0, 0)), mode="edge")
    return _weighed(_coefficients(padded), at + _BEYOND, -1, _cubic)


def _weighed(lines: Floats, at: Floats, first: int, pieces: Callable[[Floats], tuple[Floats, ...]]) -> Floats:
    """Sum over the lines around each place; `first` of them, from the line at or before it."""
    low = np.floor(at).astype(np.int64)
    made = np.zeros((len(at), lines.shape[1]))
    for place, share in enumerate(pieces((at - low)[:, None]), start=first):
        made += share * lines[np.clip(low + place, 0, len(lines) - 1)]
    return made


def _linear(share: Floats) -> tuple[Floats, ...]:
    left = 1 - share
    return left, 1 - left


def _cubic(share: Floats) -> tuple[Floats, ...]:
    """The four cubic B-splines that reach a place, `share` of the way from one knot to the next."""
    left = 1 - share
    first, second, third = left**3 / 6, (share**2 * (share - 2) * 3 + 4) / 6, (left**2 * (left - 2) * 3 + 4) / 6
    return first, second, third, 1 - first - second - third


def _smoothed(lines: Floats, sigma: float) -> Floats:
    """Gaussian along the first axis, cut at 4 sigma; the ends go on with their last value."""
    reach = int(_TRUNCATE * sigma + 0.5)
    if not reach:
        return lines
    kernel: Floats = np.exp(-0.5 / (sigma * sigma) * np.arange(-reach, reach + 1) ** 2)
    kernel /= kernel.sum()
    here, last = np.arange(len(lines)), len(lines) - 1
    made: Floats = kernel[reach] * lines
    for away in range(reach, 0, -1):
        made += kernel[reach - away] * (lines[np.maximum(here - away, 0)] + lines[np.minimum(here + away, last)])
    return made


def _coefficients(lines: Floats) -> Floats:
    """Of the cubic B-splines through `lines` along the first axis, reflected at both ends."""
    made: Floats = lines * ((1 - _POLE) * (1 - 1 / _POLE))
    powers, there = _POLE ** np.arange(len(lines)), _POLE ** len(lines)
    made[0] += powers @ (made + there * made[::-1]) * _POLE / (1 - there**2)
    for i in range(1, len(lines)):
        made[i] += _POLE * made[i - 1]
    made[-1] *= _POLE / (_POLE - 1)
    for i in range(len(lines) - 2, -1, -1):
        made[i] = _POLE * (made[i + 1] - made[i])
    return made
