"""The pages as PDF: the same marks in the same places, text as text (searchable, selectable), on white for paper.

The same pages give the same bytes: no clock, no random identifier. Fonts are embedded as subsets of what is used.
"""

import io
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from hashlib import sha256
from typing import Any, Final

from fontTools import subset
from fontTools.ttLib import TTFont
from fontTools.varLib import instancer
from PIL import Image
from reportlab.lib.pagesizes import A4, landscape
from reportlab.lib.utils import ImageReader
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont as EmbeddedFont
from reportlab.pdfgen.canvas import Canvas as Sheet

from config.identity import MANUFACTURER
from reports import shapes
from reports.drawing import Canvas
from reports.fonts import Face
from reports.shapes import BLACK, CONTOUR, GROUND, Box, Colour, Ink, Mark, Point

# The colours of the dark reading room, and what stands for each on paper.
PAPER: Final[Mapping[Colour, Colour]] = {
    GROUND: (255, 255, 255),
    shapes.PANEL: (238, 241, 244),
    shapes.RULE: (196, 203, 210),
    shapes.TEXT: (17, 20, 24),
    shapes.QUIET: (82, 92, 102),
    shapes.BAND: (56, 104, 142),
    shapes.SHADE: (208, 222, 233),
    shapes.RAISES: (178, 88, 24),
    shapes.LOWERS: (24, 106, 132),
}
_SIZE: Final = landscape(A4)
_SCALE: Final = min(_SIZE[0] / shapes.WIDTH, _SIZE[1] / shapes.HEIGHT)
_POSTSCRIPT_NAME: Final = 6
_LEFT: Final = (_SIZE[0] - shapes.WIDTH * _SCALE) / 2


def render(canvases: Sequence[Canvas], title: str, created: datetime) -> bytes:
    """The canvases as the pages of one PDF in landscape A4, in the language of the first."""
    stream = io.BytesIO()
    with _fonts([ink for canvas in canvases for ink in canvas.inks]) as names:
        sheet = Sheet(
            stream,
            pagesize=_SIZE,
            pageCompression=1,
            invariant=1,
            lang=canvases[0].voice.code,
            pdfVersion=(1, 7),
            initialFontName=next(iter(names.values())),  # else one that is not embedded
        )
        sheet.setTitle(title)
        sheet.setSubject(title)
        sheet.setAuthor(MANUFACTURER)
        sheet.setCreator(MANUFACTURER)
        sheet.setDateFormatter(lambda *_: f"D:{created:%Y%m%d%H%M%S}")  # of the report, never of a clock
        for canvas in canvases:
            for mark in canvas.marks:
                _draw(sheet, mark, names)
            sheet.showPage()
        sheet.save()
    return stream.getvalue()


def on_paper(colour: Colour, ground: Colour = GROUND) -> Colour:
    """A colour as printed; what stands on a picture or on the warning's bar stays as it is.

    >>> on_paper(shapes.TEXT), on_paper(shapes.TEXT, BLACK)
    ((17, 20, 24), (233, 237, 241))
    """
    return colour if ground in (BLACK, CONTOUR) else PAPER.get(colour, colour)


def _draw(sheet: Any, mark: Mark, names: Mapping[Face, str]) -> None:
    match mark:
        case Ink():
            _write(sheet, mark, names)
        case shapes.Fill(box, colour):
            _set(sheet.setFillColorRGB, on_paper(colour))
            sheet.rect(*_corner(box), box.width * _SCALE, box.height * _SCALE, stroke=0, fill=1)
        case shapes.Shape(points, colour):
            _set(sheet.setFillColorRGB, on_paper(colour))
            sheet.drawPath(_path(sheet, points, closed=True), stroke=0, fill=1)
        case shapes.Line(points, width, colour, dash):
            _set(sheet.setStrokeColorRGB, on_paper(colour))
            sheet.setLineWidth(width * _SCALE)
            sheet.setLineJoin(1)
            sheet.setDash([length * _SCALE for length in dash])
            sheet.drawPath(_path(sheet, points, closed=False), stroke=1, fill=0)
        case shapes.Picture(box, pixels):
            picture = ImageReader(Image.fromarray(pixels))
            sheet.drawImage(picture, *_corner(box), box.width * _SCALE, box.height * _SCALE)


def _write(sheet: Any, ink: Ink, names: Mapping[Face, str]) -> None:
    """A text in its runs, each as wide as on the page."""
    _set(sheet.setFillColorRGB, on_paper(ink.colour, ink.ground))
    pen = float(ink.x)
    for face, piece, width in ink.runs:
        size = ink.size * _SCALE
        natural = pdfmetrics.stringWidth(piece, names[face], size)
        text = sheet.beginText(*_place((pen, ink.baseline)))
        text.setFont(names[face], size)
        if natural > 0:
            text.setHorizScale(100 * width * _SCALE / natural)
        text.textOut(piece)
        sheet.drawText(text)
        pen += width


def _path(sheet: Any, points: Sequence[Point], closed: bool) -> Any:
    path = sheet.beginPath()
    path.moveTo(*_place(points[0]))
    for point in points[1:]:
        path.lineTo(*_place(point))
    if closed:
        path.close()
    return path


def _place(point: Point) -> Point:
    """Pixels from the top left to points from the bottom left."""
    return _LEFT + point[0] * _SCALE, (shapes.HEIGHT - point[1]) * _SCALE


def _corner(box: Box) -> Point:
    return _place((box.left, box.bottom))


def _set(setter: Any, colour: Colour) -> None:
    setter(*(round(part / 255, 4) for part in colour))


@contextmanager
def _fonts(inks: Sequence[Ink]) -> Any:
    """Names under which reportlab knows the fonts of these texts; they are forgotten afterwards."""
    used: dict[Face, set[str]] = {}
    for ink in inks:
        for face, piece, _ in ink.runs:
            used.setdefault(face, set()).update(piece)
    names = {}
    try:
        for face, characters in used.items():
            text = "".join(sorted(characters))
            kind = f"{face.path.stem.partition('[')[0]}-{face.weight or 'Static'}"
            # The font's own name, too: reportlab takes two fonts of one name for the same one.
            names[face] = f"{kind}-{sha256(text.encode()).hexdigest()[:12]}"
            pdfmetrics.registerFont(EmbeddedFont(names[face], io.BytesIO(_static(face, text, names[face]))))
        yield names
    finally:
        for name in names.values():  # registries of the process: a node would fill them for years
            pdfmetrics._fonts.pop(name, None)
            pdfmetrics._dynFaceNames.pop(name.encode(), None)  # a TrueType face is known by bytes


def _static(face: Face, characters: str, name: str) -> bytes:
    """A font as TrueType with one weight and these characters alone: reportlab embeds no variable font."""
    options = subset.Options(notdef_outline=True, layout_features=[], name_IDs=[0, 1, 2, 3, 4, 5, 6, 13, 14])
    options.drop_tables += ["FFTM"]
    with TTFont(face.path, recalcTimestamp=False) as font:
        chosen = subset.Subsetter(options)
        chosen.populate(text=characters)
        chosen.subset(font)
        if face.weight:
            instancer.instantiateVariableFont(font, {"wght": face.weight}, inplace=True)
        for record in font["name"].names:
            if record.nameID == _POSTSCRIPT_NAME:
                record.string = name
        stream = io.BytesIO()
        font.save(stream, reorderTables=None)
    return stream.getvalue()
