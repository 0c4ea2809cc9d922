"""What a page is made of: places, colours, styles, and the marks in the order in which they were drawn.

The list of marks is the page: the Secondary Capture draws them as pixels, the PDF as text and lines.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from reports.fonts import Face

WIDTH, HEIGHT = 1024, 768
SMALL = 16  # no text is smaller (px)

Colour = tuple[int, int, int]
Point = tuple[float, float]

# Every pair of text and ground keeps a luminance contrast of at least 4.5 (WCAG AA), so it reads in grey too.
BLACK: Final[Colour] = (0, 0, 0)
GROUND: Final[Colour] = (15, 18, 22)
PANEL: Final[Colour] = (26, 31, 37)
RULE: Final[Colour] = (58, 67, 77)
TEXT: Final[Colour] = (233, 237, 241)
QUIET: Final[Colour] = (166, 178, 190)
BAND: Final[Colour] = (104, 146, 178)
SHADE: Final[Colour] = (49, 66, 79)  # the band behind a curve: text and lines stand on it
CONTOUR: Final[Colour] = (255, 200, 80)
RAISES: Final[Colour] = (232, 150, 92)
LOWERS: Final[Colour] = (112, 178, 196)


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


@dataclass(frozen=True)
class Ink:
    """A text as drawn: where its pixels lie, how it looks; `x` and `baseline` are its pen position.

    `runs` are its pieces by font, each with its width in px.
    """

    text: str
    box: Box
    style: Style
    x: int
    baseline: int
    runs: tuple[tuple[Face, str, float], ...]

    @property
    def size(self) -> int:
        return self.style.size

    @property
    def colour(self) -> Colour:
        return self.style.colour

    @property
    def ground(self) -> Colour:
        return self.style.ground


@dataclass(frozen=True)
class Fill:
    """A filled rectangle."""

    box: Box
    colour: Colour


@dataclass(frozen=True)
class Shape:
    """A filled polygon."""

    points: tuple[Point, ...]
    colour: Colour


@dataclass(frozen=True)
class Line:
    """An open line through `points`; `dash` holds lengths on and off, px."""

    points: tuple[Point, ...]
    width: float
    colour: Colour
    dash: tuple[float, ...] = ()


@dataclass(frozen=True)
class Picture:
    """RGB pixels, (height, width, 3), with their top left corner at the box's."""

    box: Box
    pixels: NDArray[np.uint8]


Mark = Fill | Shape | Line | Picture | Ink


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
