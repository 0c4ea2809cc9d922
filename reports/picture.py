"""A view of the CT with its contour as pixels: right proportions, the whole tumour, as large as its place allows."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from reports.shapes import CONTOUR, Box


def render(
    box: Box, view: NDArray[Any], mask: NDArray[Any] | None, spacing: tuple[float, float]
) -> tuple[Box, NDArray[np.uint8]]:
    """Where in `box` the picture lies, and its pixels, (height, width, 3) RGB.

    `view` is uint8 (rows, columns), `spacing` mm per row and per column.
    """
    window = _window(view.shape, mask, spacing, box)
    part = view[window.top : window.bottom, window.left : window.right]
    width = min(box.width, max(1, round(window.width * spacing[1] * _scale(window, spacing, box))))
    height = min(box.height, max(1, round(window.height * spacing[0] * _scale(window, spacing, box))))
    left, top = box.left + (box.width - width) // 2, box.top + (box.height - height) // 2
    grey = Image.fromarray(np.ascontiguousarray(part, np.uint8), "L")
    image = grey.resize((width, height), Image.Resampling.BICUBIC).convert("RGB")
    if mask is not None:
        halo, line = _outline(mask[window.top : window.bottom, window.left : window.right], (width, height))
        image.paste((0, 0, 0), (0, 0), halo)
        image.paste(CONTOUR, (0, 0), line)
    return Box(left, top, left + width, top + height), np.asarray(image, dtype=np.uint8)


def _scale(window: Box, spacing: tuple[float, float], box: Box) -> float:
    """Pixels of the page per mm at which the whole window fits into the box."""
    return min(box.width / (window.width * spacing[1]), box.height / (window.height * spacing[0]))


def _window(shape: tuple[int, ...], mask: NDArray[Any] | None, spacing: tuple[float, float], box: Box) -> Box:
    """The part of a view to show: all of it, or cut along its longer side towards the shape of the box.

    The cut is centred on the tumour, leaves it whole, and never enlarges more than 1.8-fold: few slices stay a strip.
    """
    rows, columns = shape[0], shape[1]
    whole = Box(0, 0, columns, rows)
    fit = _scale(whole, spacing, box)
    fill = max(box.width / (columns * spacing[1]), box.height / (rows * spacing[0]))
    scale = min(fill, 1.8 * fit)
    tumour = _extent(mask) if mask is not None and mask.any() else whole
    left, right = _cut(columns, round(box.width / (scale * spacing[1])), tumour.left, tumour.right)
    top, bottom = _cut(rows, round(box.height / (scale * spacing[0])), tumour.top, tumour.bottom)
    return Box(left, top, right, bottom)


def _cut(available: int, wanted: int, first: int, last: int) -> tuple[int, int]:
    """`wanted` of `available` places around first..last, never less than that range."""
    length = min(available, max(wanted, last - first, 1))
    start = min(max(0, (first + last - length) // 2), available - length)
    return start, start + length


def _extent(mask: NDArray[Any]) -> Box:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def _outline(mask: NDArray[Any], size: tuple[int, int]) -> tuple[Image.Image, Image.Image]:
    """Stencils of a dark halo and of a line around the mask: a small lesion stays visible inside it."""
    big = (size[0] * 2, size[1] * 2)
    grey = Image.fromarray(np.ascontiguousarray(mask, np.uint8) * 255, "L").resize(big, Image.Resampling.BILINEAR)
    solid = np.asarray(grey) >= 128
    line, halo = _grow(solid, 4) & ~solid, _grow(solid, 6) & ~solid
    return _stencil(halo, size), _stencil(line, size)


def _stencil(shape: NDArray[np.bool_], size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(shape.astype(np.uint8) * 255, "L").resize(size, Image.Resampling.BOX)


def _grow(shape: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    for _ in range(steps):
        grown = shape.copy()
        grown[1:] |= shape[:-1]
        grown[:-1] |= shape[1:]
        grown[:, 1:] |= shape[:, :-1]
        grown[:, :-1] |= shape[:, 1:]
        shape = grown
    return shape
