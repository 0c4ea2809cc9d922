"""What every page has: header, footer, views, notes; and the page of a study without a score."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from numpy.typing import NDArray

from analysis.contract import VIEWS, BundleIdentity, JobResult, QualityFlag, Severity
from config.identity import MODEL_NAME
from reports import particulars, words
from reports.context import ReportContext
from reports.drawing import Canvas
from reports.language import Speaker
from reports.refusal import Refusal
from reports.shapes import BLACK, CONTOUR, GROUND, PANEL, QUIET, RULE, SMALL, TEXT, WIDTH, Box, Style

MARGIN: Final = 20
FOOT: Final = 710
GAP: Final = 13

SECTION: Final = Style(SMALL, bold=True, colour=QUIET)
BODY: Final = Style(SMALL)
FAINT: Final = Style(SMALL, colour=QUIET)
_TITLE: Final = Style(23, bold=True)


def population(voice: Speaker) -> str:
    """Whom the model is meant for."""
    return voice.say("Model for advanced non-small cell lung cancer, baseline CT")


def about(result: JobResult, image_number: str, frame: int | None, voice: Speaker) -> str:
    """The line below the headline; the image goes by the number that a viewer has for it, or by its frame's."""
    if result.roi is None:
        return population(voice)
    volume = particulars.volume(result.roi.volume_ml, voice.code)
    if frame is not None:
        shown = voice.say("Tumour {volume}, CT frame {number} shown.", volume=volume, number=frame)
    elif image_number:
        shown = voice.say("Tumour {volume}, CT image {number} shown.", volume=volume, number=image_number)
    else:
        number = result.roi.largest_slice + 1
        shown = voice.say("Tumour {volume}, CT slice {number} shown.", volume=volume, number=number)
    return voice.say("{population}. {shown}", population=population(voice), shown=shown)


def header(canvas: Canvas, headline: str, line: str, bundle: BundleIdentity | None) -> int:
    """Headline, a line about the input, and the banner of a synthetic bundle; returns the y of the content."""
    width = WIDTH - 2 * MARGIN
    canvas.text(MARGIN, 12, headline, _TITLE, width)
    canvas.text(MARGIN, 44, line, FAINT, width)
    if bundle is None or not bundle.synthetic:
        return 80
    canvas.fill(Box(MARGIN, 72, WIDTH - MARGIN, 100), CONTOUR)
    style = Style(18, bold=True, colour=GROUND, ground=CONTOUR)
    canvas.text(WIDTH // 2, 75, words.synthetic_warning(canvas.voice.code), style, width, "middle")
    return 112


def footer(canvas: Canvas, bundle: BundleIdentity | None, context: ReportContext, page: str = "") -> None:
    """Bundle with short digest, software and time, and the line that no page may lack; `page` is "1/2"."""
    voice = canvas.voice
    canvas.fill(Box(MARGIN, FOOT, WIDTH - MARGIN, FOOT + 1), RULE)
    width = WIDTH - 2 * MARGIN
    made = f"{context.created:%Y-%m-%d %H:%M}, {MODEL_NAME} {context.software_version}"
    if context.revision > 1:
        made = f"{voice.say('Revision {number}', number=context.revision)}, {made}"
    room = width - canvas.text(WIDTH - MARGIN, FOOT + 8, made, FAINT, width // 2, "right") - 24
    if bundle is not None:
        digest = f", SHA-256 {particulars.short_digest(bundle.digest)}"
        named = voice.say("Bundle {name}", name=f"{bundle.name} {bundle.version}")
        name = canvas.fit(named, room - canvas.length(digest, FAINT), FAINT)
        canvas.text(MARGIN, FOOT + 8, name + digest, FAINT)
    turned = canvas.text(WIDTH - MARGIN, FOOT + 32, page, FAINT, None, "right") if page else 0
    style = Style(SMALL, bold=True)
    canvas.text(MARGIN, FOOT + 32, words.research_use(voice.code), style, width - turned - 12)


def has_view(pictures: Mapping[str, Any]) -> bool:
    """Whether there is anything to show."""
    return any(view in pictures for view in VIEWS)


def views(
    canvas: Canvas, box: Box, pictures: Mapping[str, NDArray[Any]] | None, lettered: bool, notes: bool = False
) -> int:
    """Axial view above, coronal and sagittal below; returns the y below them. `notes`: leave more room below."""
    middle, edge = (box.left + box.right) // 2, box.top + (272 if notes else 320)
    places = {
        "axial": Box(box.left, box.top, box.right, edge),
        "coronal": Box(box.left, edge + 8, middle - 4, edge + 138),
        "sagittal": Box(middle + 4, edge + 8, box.right, edge + 138),
    }
    for name, place in places.items():
        _view(canvas, place, name, pictures or {}, lettered)
    return edge + 150


def _view(canvas: Canvas, box: Box, name: str, pictures: Mapping[str, NDArray[Any]], lettered: bool) -> None:
    """One view with its contour, its name, and the letters of its sides where they are known."""
    voice = canvas.voice
    canvas.fill(box, PANEL)
    names = {"axial": voice.say("Axial"), "coronal": voice.say("Coronal"), "sagittal": voice.say("Sagittal")}
    if name not in pictures:
        x, y = (box.left + box.right) // 2, (box.top + box.bottom) // 2 - 8
        absent = voice.say("{view}: no picture", view=names[name])
        canvas.text(x, y, absent, Style(SMALL, colour=QUIET, ground=PANEL), box.width - 8, "middle")
        return
    rows, columns = (float(mm) for mm in pictures.get(f"{name}_spacing", (1.0, 1.0)))
    canvas.picture(box, pictures[name], pictures.get(f"{name}_mask"), (rows, columns))
    label(canvas, box.left + 4, box.bottom - 24, names[name], Style(SMALL, colour=TEXT, ground=BLACK))
    if lettered:
        sides = ("A", "P") if name == "sagittal" else ("R", "L")
        style = Style(SMALL, colour=TEXT, ground=BLACK)
        label(canvas, box.left + 4, box.top + box.height // 2 - 10, sides[0], style)
        label(canvas, box.right - 20, box.top + box.height // 2 - 10, sides[1], style)


def label(canvas: Canvas, x: int, y: int, text: str, style: Style) -> None:
    """A text on a ground of its own, so that it reads on any picture."""
    canvas.fill(Box(x - 1, y - 1, x + canvas.length(text, style) + 3, y + style.size + 4), style.ground)
    canvas.text(x + 1, y, text, style)


def section(canvas: Canvas, x: int, y: int, width: int, title: str) -> int:
    """A section's title; returns the y below."""
    canvas.text(x, y, title, SECTION, width)
    return y + 24


def notes(canvas: Canvas, box: Box, flags: Sequence[QualityFlag], revision: str = "") -> None:
    """What has changed, then quality notes, warnings first; what does not fit is counted and left to the report."""
    voice = canvas.voice
    y = section(canvas, box.left, box.top, box.width, voice.say("Quality notes"))
    ordered = sorted(flags, key=lambda flag: flag.severity is not Severity.WARNING)
    lines = [*([revision] if revision else []), *(particulars.quality(flag, voice.code) for flag in ordered)]
    if not lines:
        canvas.text(box.left, y, voice.say("None."), BODY, box.width)
    for place, line in enumerate(lines):
        left = len(lines) - place
        room = (box.bottom - y) // BODY.line - (1 if left > 1 else 0)
        if room < 1:
            more = voice.count("{number} more in the structured report", "{number} more in the structured report", left)
            canvas.text(box.left, y, more, FAINT, box.width)
            return
        y = canvas.paragraph(box.left, y, box.width, line, BODY, min(3, room))


def refusal(canvas: Canvas, box: Box, item: Refusal) -> int:
    """Why there is no score and what would make one possible; returns the y below."""
    voice = canvas.voice
    wording = words.reason(item.reason, voice.code)
    canvas.text(box.left, box.top, words.not_scored(voice.code), Style(40, bold=True), box.width)
    y = canvas.paragraph(box.left, box.top + 62, box.width, wording.sentence, Style(24), 6) + 14
    if item.detail:
        y = section(canvas, box.left, y, box.width, voice.say("Detail"))
        y = canvas.paragraph(box.left, y, box.width, words.capital(voice.retell(item.detail)), Style(18), 5) + 14
    y = section(canvas, box.left, y, box.width, voice.say("What would make it scorable"))
    y = canvas.paragraph(box.left, y, box.width, wording.remedy, Style(18), 6) + 14
    canvas.text(box.left, y, voice.say("Reason code {code}", code=str(item.reason)), FAINT, box.width)
    return y + FAINT.line
