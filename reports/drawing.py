"""A canvas for the page: measured text that never overruns its place, bars, shapes and pictures with a contour."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT = 1024, 768
SMALL = 16  # no text is smaller (px)

Colour = tuple[int, int, int]

# Every pair of text and ground keeps a luminance contrast of at least 4.5 (WCAG AA), so it reads in grey too.
GROUND: Colour = (15, 18, 22)
PANEL: Colour = (26, 31, 37)
RULE: Colour = (58, 67, 77)
TEXT: Colour = (233, 237, 241)
QUIET: Colour = (166, 178, 190)
BAND: Colour = (104, 146, 178)
CONTOUR: Colour = (255, 200, 80)
RAISES: Colour = (232, 150, 92)
LOWERS: Colour = (112, 178, 196)

_OVERSAMPLING = 4


@dataclass(frozen=True)
class Box:
    """Pixels from (left, top) to (right, bottom), the latter not included."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def height(self) -> int:
        return self.bottom - self.top


@dataclass(frozen=True)
class Ink:
    """A text as drawn: where its pixels lie, and its size."""

    text: str
    box: Box
    size: int
    colour: Colour
    ground: Colour


@dataclass(frozen=True)
class Style:
    """Size in px, weight and colour of a text, and the ground that it stands on."""

    size: int = SMALL
    bold: bool = False
    colour: Colour = TEXT
    ground: Colour = GROUND

    @property
    def line(self) -> int:
        """Distance between base lines, px."""
        return round(self.size * 1.3)


class Canvas:
    """An RGB image and the list of the texts drawn on it."""

    def __init__(self) -> None:
        self.image = Image.new("RGB", (WIDTH, HEIGHT), GROUND)
        self.inks: list[Ink] = []
        self._draw = ImageDraw.Draw(self.image)
        self._fonts: dict[tuple[int, bool], ImageFont.FreeTypeFont] = {}

    def pixels(self) -> NDArray[np.uint8]:
        """(768, 1024, 3) uint8."""
        return np.asarray(self.image, dtype=np.uint8).copy()

    def length(self, text: str, style: Style) -> int:
        """Width of `text`, px."""
        return int(np.ceil(self._font(style).getlength(text)))

    def fit(self, text: str, width: int, style: Style) -> str:
        """`text`, or as much of its beginning as fits into `width`, with an ellipsis."""
        return text if self.length(text, style) <= width else self._cut(text, width, style)

    def _cut(self, text: str, width: int, style: Style) -> str:
        """As much of `text` as fits before an ellipsis."""
        low, high = 0, len(text)
        while low < high:
            middle = (low + high + 1) // 2
            if self.length(text[:middle].rstrip() + "…", style) <= width:
                low = middle
            else:
                high = middle - 1
        return text[:low].rstrip() + "…"

    def wrap(self, text: str, width: int, style: Style, lines: int) -> list[str]:
        """`text` in at most `lines` lines of `width`; what does not fit ends in an ellipsis."""
        wrapped: list[str] = []
        words = text.split()
        while words and len(wrapped) < lines:
            line = words.pop(0)
            while words and self.length(f"{line} {words[0]}", style) <= width:
                line += " " + words.pop(0)
            wrapped.append(self.fit(line, width, style))
        if words:
            wrapped[-1] = self._cut(wrapped[-1].rstrip("… "), width, style)
        return wrapped

    def text(self, x: int, y: int, text: str, style: Style, width: int | None = None, align: str = "left") -> int:
        """One line with its top at `y`; returns its width. `x` is the left, right or middle edge as `align` says."""
        shown = text if width is None else self.fit(text, width, style)
        length = self.length(shown, style)
        left = x - {"left": 0, "right": length, "middle": length // 2}[align]
        if not shown.strip():
            return length
        font = self._font(style)
        self._draw.text((left, y), shown, fill=style.colour, font=font, anchor="la")
        box = font.getbbox(shown, anchor="la")
        ink = Box(left + int(box[0]), y + int(box[1]), left + int(np.ceil(box[2])), y + int(np.ceil(box[3])))
        self.inks.append(Ink(shown, ink, style.size, style.colour, style.ground))
        return length

    def paragraph(self, x: int, y: int, width: int, text: str, style: Style, lines: int) -> int:
        """Wrapped lines; returns the y below the last."""
        for line in self.wrap(text, width, style, lines):
            self.text(x, y, line, style)
            y += style.line
        return y

    def fill(self, box: Box, colour: Colour) -> None:
        """A filled rectangle."""
        if box.width > 0 and box.height > 0:
            self._draw.rectangle((box.left, box.top, box.right - 1, box.bottom - 1), fill=colour)

    def frame(self, box: Box, colour: Colour) -> None:
        """A rectangle of one pixel."""
        self._draw.rectangle((box.left, box.top, box.right - 1, box.bottom - 1), outline=colour)

    def shape(self, points: list[tuple[float, float]], colour: Colour) -> None:
        """A filled polygon with smooth edges."""
        xs, ys = [p[0] for p in points], [p[1] for p in points]
        left, top = int(min(xs)) - 1, int(min(ys)) - 1
        size = (int(max(xs)) - left + 2, int(max(ys)) - top + 2)
        stencil = Image.new("L", (size[0] * _OVERSAMPLING, size[1] * _OVERSAMPLING))
        scaled = [((x - left) * _OVERSAMPLING, (y - top) * _OVERSAMPLING) for x, y in points]
        ImageDraw.Draw(stencil).polygon(scaled, fill=255)
        self.image.paste(colour, (left, top), stencil.resize(size, Image.Resampling.BOX))

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        """A filled circle with smooth edges."""
        angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        self.shape([(x + radius * float(np.cos(a)), y + radius * float(np.sin(a))) for a in angles], colour)

    def picture(self, box: Box, view: NDArray[Any], mask: NDArray[Any] | None, spacing: tuple[float, float]) -> None:
        """A view with its contour, in the right proportions, as large as the box allows."""
        self.fill(box, (0, 0, 0))
        window = _window(view.shape, mask, spacing, box)
        part = view[window.top : window.bottom, window.left : window.right]
        width = min(box.width, max(1, round(window.width * spacing[1] * _scale(window, spacing, box))))
        height = min(box.height, max(1, round(window.height * spacing[0] * _scale(window, spacing, box))))
        place = (box.left + (box.width - width) // 2, box.top + (box.height - height) // 2)
        grey = Image.fromarray(np.ascontiguousarray(part, np.uint8), "L").resize(
            (width, height), Image.Resampling.BICUBIC
        )
        self.image.paste(grey.convert("RGB"), place)
        if mask is not None:
            inside = mask[window.top : window.bottom, window.left : window.right]
            halo, line = _outline(inside, (width, height))
            self.image.paste((0, 0, 0), place, halo)
            self.image.paste(CONTOUR, place, line)

    def _font(self, style: Style) -> ImageFont.FreeTypeFont:
        key = (style.size, style.bold)
        if key not in self._fonts:
            name = "DejaVuSans-Bold.ttf" if style.bold else "DejaVuSans.ttf"
            # The basic layout draws the same pixels with and without libraqm.
            self._fonts[key] = ImageFont.truetype(
                str(font_folder() / name), style.size, layout_engine=ImageFont.Layout.BASIC
            )
        return self._fonts[key]


def font_folder() -> Path:
    """DejaVu as matplotlib brings it, found without importing matplotlib (half a second).

    Raises
    ------
    FileNotFoundError
        Where matplotlib is not installed.
    """
    found = importlib.util.find_spec("matplotlib")
    for folder in (found.submodule_search_locations or []) if found is not None else []:
        fonts = Path(folder) / "mpl-data" / "fonts" / "ttf"
        if fonts.is_dir():
            return fonts
    raise FileNotFoundError("the DejaVu fonts are not here; install matplotlib, whose data folder has them")


def contrast(one: Colour, other: Colour) -> float:
    """Contrast ratio of two colours by relative luminance (WCAG 2.1), 1 to 21.

    >>> contrast((255, 255, 255), (0, 0, 0))
    21.0
    """
    bright, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return round((bright + 0.05) / (dark + 0.05), 2)


def _luminance(colour: Colour) -> float:
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


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
