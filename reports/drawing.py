"""A canvas for the page: measured text that never overruns its place, bars, shapes, lines and pictures."""

from collections.abc import Sequence
from itertools import pairwise
from math import hypot
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from reports import picture
from reports.flow import pieces
from reports.fonts import Face, faces, runs
from reports.language import ENGLISH, Speaker, speaker
from reports.shapes import (
    BLACK,
    GROUND,
    HEIGHT,
    WIDTH,
    Box,
    Colour,
    Fill,
    Ink,
    Line,
    Mark,
    Picture,
    Point,
    Shape,
    Style,
)

_OVERSAMPLING = 4
_ASCENT = 0.93  # of the size: how far below the top of a line its base line lies


class Canvas:
    """An RGB image in one language, and the list of the marks on it."""

    def __init__(self, language: str = ENGLISH) -> None:
        self.voice: Speaker = speaker(language)
        self.image = Image.new("RGB", (WIDTH, HEIGHT), GROUND)
        self.marks: list[Mark] = []
        self._draw = ImageDraw.Draw(self.image)
        self._fonts: dict[tuple[Face, int], ImageFont.FreeTypeFont] = {}
        self._measured: dict[tuple[str, int, bool], tuple[tuple[Face, str, float], ...]] = {}
        self._faces = {bold: faces(language, bold) for bold in (False, True)}

    @property
    def inks(self) -> list[Ink]:
        """The texts, in the order of reading."""
        return [mark for mark in self.marks if isinstance(mark, Ink)]

    def pixels(self) -> NDArray[np.uint8]:
        """(768, 1024, 3) uint8."""
        return np.asarray(self.image, dtype=np.uint8).copy()

    # -- text ------------------------------------------------------------------------------------------------

    def length(self, text: str, style: Style) -> int:
        """Width of `text`, px."""
        return int(np.ceil(sum(width for _, _, width in self._runs(text, style))))

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
        rest = pieces(text, self.voice.code)
        while rest and len(wrapped) < lines:
            line = rest.pop(0)
            while rest and self.length((line + rest[0]).rstrip(), style) <= width:
                line += rest.pop(0)
            wrapped.append(self.fit(line.rstrip(), width, style))
        if rest:
            wrapped[-1] = self._cut(wrapped[-1].rstrip("… "), width, style)
        return wrapped

    def text(self, x: int, y: int, text: str, style: Style, width: int | None = None, align: str = "left") -> int:
        """One line with its top at `y`; returns its width. `x` is the left, right or middle edge as `align` says."""
        shown = text if width is None else self.fit(text, width, style)
        parts = self._runs(shown, style)
        length = int(np.ceil(sum(part[2] for part in parts)))
        left = x - {"left": 0, "right": length, "middle": length // 2}[align]
        if not shown.strip():
            return length
        baseline, pen, edges = y + round(_ASCENT * style.size), float(left), []
        for face, piece, advance in parts:
            font = self._font(face, style.size)
            self._draw.text((pen, baseline), piece, fill=style.colour, font=font, anchor="ls")
            box = font.getbbox(piece, anchor="ls")
            edges.append((pen + box[0], baseline + box[1], pen + box[2], baseline + box[3]))
            pen += advance
        near, far = np.floor(np.min(edges, axis=0)), np.ceil(np.max(edges, axis=0))
        ink = Box(int(near[0]), int(near[1]), int(far[2]), int(far[3]))
        self.marks.append(Ink(shown, ink, style, left, baseline, parts))
        return length

    def paragraph(self, x: int, y: int, width: int, text: str, style: Style, lines: int) -> int:
        """Wrapped lines; returns the y below the last."""
        for line in self.wrap(text, width, style, lines):
            self.text(x, y, line, style)
            y += style.line
        return y

    # -- lines and areas -------------------------------------------------------------------------------------

    def fill(self, box: Box, colour: Colour) -> None:
        """A filled rectangle."""
        if box.width > 0 and box.height > 0:
            self._draw.rectangle((box.left, box.top, box.right - 1, box.bottom - 1), fill=colour)
            self.marks.append(Fill(box, colour))

    def shape(self, points: Sequence[Point], colour: Colour) -> None:
        """A filled polygon with smooth edges."""
        self._stencil(points, 1, colour, lambda draw, scaled: draw.polygon(scaled, fill=255))
        self.marks.append(Shape(tuple(points), colour))

    def line(self, points: Sequence[Point], width: float, colour: Colour, dash: tuple[float, ...] = ()) -> None:
        """An open line with smooth edges."""
        thick = round(width * _OVERSAMPLING)
        for part in _dashes(points, dash) if dash else [list(points)]:
            self._stencil(
                part, width, colour, lambda draw, scaled: draw.line(scaled, fill=255, width=thick, joint="curve")
            )
        self.marks.append(Line(tuple(points), width, colour, dash))

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        """A filled circle with smooth edges."""
        angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        self.shape([(x + radius * float(np.cos(a)), y + radius * float(np.sin(a))) for a in angles], colour)

    def picture(self, box: Box, view: NDArray[Any], mask: NDArray[Any] | None, spacing: tuple[float, float]) -> None:
        """A view with its contour, in the right proportions, as large as the box allows."""
        self.fill(box, BLACK)
        place, pixels = picture.render(box, view, mask, spacing)
        self.image.paste(Image.fromarray(pixels), (place.left, place.top))
        self.marks.append(Picture(place, pixels))

    def _stencil(self, points: Sequence[Point], margin: float, colour: Colour, draw: Any) -> None:
        xs, ys = [p[0] for p in points], [p[1] for p in points]
        left, top = int(min(xs) - margin) - 1, int(min(ys) - margin) - 1
        size = (int(max(xs) + margin) - left + 2, int(max(ys) + margin) - top + 2)
        stencil = Image.new("L", (size[0] * _OVERSAMPLING, size[1] * _OVERSAMPLING))
        scaled = [((x - left) * _OVERSAMPLING, (y - top) * _OVERSAMPLING) for x, y in points]
        draw(ImageDraw.Draw(stencil), scaled)
        self.image.paste(colour, (left, top), stencil.resize(size, Image.Resampling.BOX))

    # -- fonts -----------------------------------------------------------------------------------------------

    def _runs(self, text: str, style: Style) -> tuple[tuple[Face, str, float], ...]:
        """The pieces of a text by font, each with its width; most texts are measured before they are drawn."""
        asked = (text, style.size, style.bold)
        if asked not in self._measured:
            found = runs(text, self._faces[style.bold])
            widths = (self._font(face, style.size).getlength(piece) for face, piece in found)
            self._measured[asked] = tuple((*piece, width) for piece, width in zip(found, widths, strict=True))
        return self._measured[asked]

    def _font(self, face: Face, size: int) -> ImageFont.FreeTypeFont:
        if (face, size) not in self._fonts:
            # The basic layout draws the same pixels with and without libraqm.
            font = ImageFont.truetype(str(face.path), size, layout_engine=ImageFont.Layout.BASIC)
            if face.weight:
                font.set_variation_by_axes([face.weight])
            self._fonts[face, size] = font
        return self._fonts[face, size]


def _dashes(points: Sequence[Point], dash: tuple[float, ...]) -> list[list[Point]]:
    """The parts of a line that are drawn, `dash` holding lengths on and off in turn."""
    drawn: list[list[Point]] = [[points[0]]]
    left, step, on = dash[0], 0, True
    for start, end in pairwise(points):
        length, done = hypot(end[0] - start[0], end[1] - start[1]), 0.0
        while length - done > left:
            done += left
            share = done / length
            turn = (start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1]))
            if on:
                drawn[-1].append(turn)
            else:
                drawn.append([turn])
            on, step = not on, step + 1
            left = dash[step % len(dash)]
        left -= length - done
        if on:
            drawn[-1].append(end)
    return [part for part in drawn if len(part) > 1]
