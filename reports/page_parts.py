"""The parts of the page: each draws itself into the place it is given and returns where the next may begin."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from numpy.typing import NDArray

from analysis.contract import (
    REASONS,
    RESEARCH_USE,
    SYNTHETIC_WARNING,
    VIEWS,
    BundleIdentity,
    Contribution,
    Endpoint,
    EndpointGroup,
    JobResult,
    QualityFlag,
    RiskGroup,
    RiskScore,
    SubModel,
)
from config.identity import MODEL_NAME
from reports import particulars, words
from reports.context import ReportContext
from reports.drawing import (
    BAND,
    CONTOUR,
    GROUND,
    LOWERS,
    PANEL,
    QUIET,
    RAISES,
    RULE,
    SMALL,
    TEXT,
    WIDTH,
    Box,
    Canvas,
    Style,
)
from reports.refusal import Refusal

HEADLINE: Final = "Predicted survival before immune checkpoint therapy"
POPULATION: Final = "Model for advanced non-small cell lung cancer, baseline CT"
MAXIMUM_RISKS: Final = 4
CONTRIBUTIONS_PER_ENDPOINT: Final = 3

_TITLE: Final = Style(23, bold=True)
_SECTION: Final = Style(SMALL, bold=True, colour=QUIET)
_BODY: Final = Style(SMALL)
_QUIET: Final = Style(SMALL, colour=QUIET)
_GAP: Final = 13


def about(result: JobResult, image_number: str) -> str:
    """The line below the headline."""
    if result.roi is None:
        return POPULATION
    place = f"CT image {image_number}" if image_number else f"CT slice {result.roi.largest_slice + 1}"
    return f"{POPULATION}. Tumour {particulars.volume(result.roi.volume_ml)}, {place} shown."


def header(canvas: Canvas, headline: str, line: str, bundle: BundleIdentity | None, margin: int) -> int:
    """Headline, a line about the input, and the banner of a synthetic bundle; returns the y of the content."""
    width = WIDTH - 2 * margin
    canvas.text(margin, 12, headline, _TITLE, width)
    canvas.text(margin, 44, line, _QUIET, width)
    if bundle is None or not bundle.synthetic:
        return 80
    canvas.fill(Box(margin, 72, WIDTH - margin, 100), CONTOUR)
    style = Style(18, bold=True, colour=GROUND, ground=CONTOUR)
    canvas.text(WIDTH // 2, 75, SYNTHETIC_WARNING, style, width, "middle")
    return 112


def footer(canvas: Canvas, top: int, bundle: BundleIdentity | None, context: ReportContext, margin: int) -> None:
    """Bundle with short digest, software and time, and the line that no page may lack."""
    canvas.fill(Box(margin, top, WIDTH - margin, top + 1), RULE)
    width = WIDTH - 2 * margin
    made = f"{context.created:%Y-%m-%d %H:%M}, {MODEL_NAME} {context.software_version}"
    if context.revision > 1:
        made = f"Revision {context.revision}, {made}"
    room = width - canvas.text(WIDTH - margin, top + 8, made, _QUIET, width // 2, "right") - 24
    if bundle is not None:
        digest = f", SHA-256 {particulars.short_digest(bundle.digest)}"
        name = canvas.fit(f"Bundle {bundle.name} {bundle.version}", room - canvas.length(digest, _QUIET), _QUIET)
        canvas.text(margin, top + 8, name + digest, _QUIET)
    canvas.text(margin, top + 32, RESEARCH_USE, Style(SMALL, bold=True), width)


def has_view(pictures: Mapping[str, Any]) -> bool:
    """Whether there is anything to show."""
    return any(view in pictures for view in VIEWS)


def view(canvas: Canvas, box: Box, name: str, pictures: Mapping[str, NDArray[Any]], lettered: bool) -> None:
    """One view with its contour, its name, and the letters of its sides where they are known."""
    canvas.fill(box, PANEL)
    if name not in pictures:
        x, y = (box.left + box.right) // 2, (box.top + box.bottom) // 2 - 8
        canvas.text(x, y, f"No {name} view", Style(SMALL, colour=QUIET, ground=PANEL), None, "middle")
        return
    rows, columns = (float(mm) for mm in pictures.get(f"{name}_spacing", (1.0, 1.0)))
    canvas.picture(box, pictures[name], pictures.get(f"{name}_mask"), (rows, columns))
    style = Style(SMALL, colour=TEXT, ground=(0, 0, 0))
    label(canvas, box.left + 4, box.bottom - 24, words.capital(name), style)
    if lettered:
        sides = ("A", "P") if name == "sagittal" else ("R", "L")
        label(canvas, box.left + 4, box.top + box.height // 2 - 10, sides[0], style)
        label(canvas, box.right - 20, box.top + box.height // 2 - 10, sides[1], style)


def label(canvas: Canvas, x: int, y: int, text: str, style: Style) -> None:
    """A text on a ground of its own, so that it reads on any picture."""
    canvas.fill(Box(x - 1, y - 1, x + canvas.length(text, style) + 3, y + 20), style.ground)
    canvas.text(x + 1, y, text, style)


def section(canvas: Canvas, x: int, y: int, width: int, title: str) -> int:
    """A section's title; returns the y below."""
    canvas.text(x, y, title, _SECTION, width)
    return y + 24


def risks(canvas: Canvas, x: int, y: int, width: int, scores: Sequence[RiskScore]) -> int:
    """Each risk in words, its probability and interval, and both on a line from 0 to 100 %."""
    level = f", {words.level(scores[0].interval_level)} bootstrap interval" if scores else ""
    y = section(canvas, x, y, width, f"Predicted risk{level}")
    shown = scores[:MAXIMUM_RISKS]
    right = x + width - 10 - max((canvas.length(f"({words.interval(s)})", _QUIET) for s in shown), default=0)
    for score in shown:
        canvas.text(x + width, y + 2, f"({words.interval(score)})", _QUIET, None, "right")
        figure = words.percent(score.event_probability)
        used = canvas.text(right, y - 1, figure, Style(19, bold=True), None, "right")
        _risk_name(canvas, x, y, right - used - 12 - x, score)
        _track(canvas, x, y + 31, width, score)
        y += 42
    for share in (0, 25, 50, 75, 100):
        align = "left" if share == 0 else "right" if share == 100 else "middle"
        canvas.text(x + width * share // 100, y - 1, f"{share} %", _QUIET, None, align)
    return y + 20 + _GAP


def _risk_name(canvas: Canvas, x: int, y: int, width: int, score: RiskScore) -> None:
    """The event and its horizon, smaller or shorter where room is scarce: a horizon must never be cut off."""
    short = f"{score.endpoint} event within {score.horizon_months} months"
    for text, style in ((words.risk(score), Style(18)), (words.risk(score), _BODY), (short, _BODY)):
        if canvas.length(text, style) <= width:
            break
    canvas.text(x, y + 18 - style.size, text, style, width)


def _track(canvas: Canvas, x: int, y: int, width: int, score: RiskScore) -> None:
    canvas.fill(Box(x, y - 1, x + width, y + 1), RULE)
    for share in (0, 25, 50, 75, 100):
        tick = min(x + width * share // 100, x + width - 1)
        canvas.fill(Box(tick, y - 4, tick + 1, y + 4), RULE)
    lower, upper = x + round(width * score.lower), x + round(width * score.upper)
    canvas.fill(Box(lower, y - 2, upper, y + 2), BAND)
    canvas.fill(Box(lower, y - 5, lower + 2, y + 5), BAND)
    canvas.fill(Box(upper - 2, y - 5, upper, y + 5), BAND)
    canvas.disc(x + width * score.event_probability, y, 7, GROUND)
    canvas.disc(x + width * score.event_probability, y, 5.5, TEXT)


def groups(canvas: Canvas, x: int, y: int, width: int, items: Sequence[EndpointGroup]) -> int:
    """Risk group of each endpoint: a shape, a word, and the word again for those who see no shape."""
    uncertain = any(item.group == RiskGroup.UNCERTAIN for item in items)
    title = "Risk group v cohort median" + ("; uncertain: interval spans it" if uncertain else "")
    y = section(canvas, x, y, width, title)
    for item in items[:2]:
        _group_mark(canvas, x + 10, y + 10, item.group)
        used = canvas.text(x + 28, y, words.group(item.group), Style(18, bold=True), 170)
        note = f"{words.survival(item.endpoint)} ({item.endpoint})"
        canvas.text(x + 28 + used + 10, y + 2, note, _QUIET, width - used - 38)
        y += 26
    return y + _GAP - 4


def _group_mark(canvas: Canvas, x: int, y: int, group: RiskGroup) -> None:
    if group == RiskGroup.HIGH:
        canvas.shape([(x, y - 9), (x + 9, y + 7), (x - 9, y + 7)], RAISES)
    elif group == RiskGroup.LOW:
        canvas.shape([(x, y + 9), (x + 9, y - 7), (x - 9, y - 7)], LOWERS)
    else:
        canvas.shape([(x, y - 9), (x + 9, y), (x, y + 9), (x - 9, y)], QUIET)


def contributions(canvas: Canvas, x: int, y: int, width: int, items: Sequence[Contribution]) -> int:
    """The strongest contributions of each endpoint as signed bars: to the right they raise the risk."""
    shown = [top for endpoint in Endpoint for top in _strongest(items, endpoint)]
    if not shown:
        return y
    bars = (x + width - 176, x + width - 62)
    zero = (bars[0] + bars[1]) // 2
    section(canvas, x, y, bars[0] - x - 10, "What moved the score")
    canvas.text(zero - 6, y, "lowers", _QUIET, None, "right")
    canvas.text(zero + 6, y, "raises", _QUIET)
    y += 24
    top = y
    longest = max(abs(item.contribution) for item in shown) or 1.0
    named: set[Endpoint] = set()
    for item in shown:
        if item.endpoint not in named:
            canvas.text(x, y, str(item.endpoint), _SECTION, 44)
            named.add(item.endpoint)
        _factor(canvas, x + 46, y, bars[0] - x - 58, item)
        length = round((bars[1] - bars[0]) / 2 * abs(item.contribution) / longest)
        raises = item.contribution > 0
        bar = Box(zero, y + 4, zero + length, y + 15) if raises else Box(zero - length, y + 4, zero, y + 15)
        canvas.fill(bar, RAISES if raises else LOWERS)
        canvas.text(x + width, y, particulars.signed(item.contribution), _QUIET, 58, "right")
        y += 20
    canvas.fill(Box(zero, top, zero + 1, y), QUIET)
    return y + _GAP


def _strongest(items: Sequence[Contribution], endpoint: Endpoint) -> list[Contribution]:
    mine = [item for item in items if item.endpoint == endpoint]
    return sorted(mine, key=lambda item: -abs(item.contribution))[:CONTRIBUTIONS_PER_ENDPOINT]


def _factor(canvas: Canvas, x: int, y: int, width: int, item: Contribution) -> None:
    """Label and value; where there is no room for both, the label gives way."""
    whole = particulars.factor(item)
    bare = particulars.factor(item.model_copy(update={"unit": ""}))
    value = canvas.fit(whole if canvas.length(whole, _QUIET) <= width // 3 else bare, width // 2, _QUIET)
    room = width - canvas.length(value, _QUIET) - 9
    used = canvas.text(x, y, item.label, _BODY, room)
    canvas.text(x + used + 9, y, value, _QUIET)


def validation(canvas: Canvas, box: Box, model: SubModel) -> None:
    """Which sub-model spoke and how it did in cross-validation."""
    y = section(canvas, box.left, box.top, box.width, "Sub-model used, and its cross-validation")
    y = canvas.paragraph(box.left, y, box.width, words.sub_model(model), _BODY, 1)
    for performance in model.performance:
        if y + 20 > box.bottom:
            break
        canvas.text(box.left, y, f"{words.risk(performance)}: {words.ranking(performance)}", _BODY, box.width)
        y += 20


def notes(canvas: Canvas, box: Box, flags: Sequence[QualityFlag]) -> None:
    """Quality notes, warnings first; what does not fit is counted and left to the report."""
    y = section(canvas, box.left, box.top, box.width, "Quality notes")
    ordered = sorted(flags, key=lambda flag: flag.severity != "warning")
    if not ordered:
        canvas.text(box.left, y, "None.", _BODY, box.width)
    for place, flag in enumerate(ordered):
        left = len(ordered) - place
        room = (box.bottom - y) // _BODY.line - (1 if left > 1 else 0)
        if room < 1:
            canvas.text(box.left, y, f"{left} more in the structured report", _QUIET, box.width)
            return
        y = canvas.paragraph(box.left, y, box.width, particulars.quality(flag), _BODY, min(2, room))


def refusal(canvas: Canvas, box: Box, item: Refusal) -> int:
    """Why there is no score and what would make one possible; returns the y below."""
    wording = REASONS[item.reason]
    canvas.text(box.left, box.top, words.NOT_SCORED, Style(40, bold=True))
    y = canvas.paragraph(box.left, box.top + 62, box.width, wording.sentence, Style(24), 6) + 14
    if item.detail:
        y = section(canvas, box.left, y, box.width, "Detail")
        y = canvas.paragraph(box.left, y, box.width, words.capital(item.detail), Style(18), 5) + 14
    y = section(canvas, box.left, y, box.width, "What would make it scorable")
    y = canvas.paragraph(box.left, y, box.width, wording.remedy, Style(18), 6) + 14
    canvas.text(box.left, y, f"Reason code {item.reason}", _QUIET, box.width)
    return y + _QUIET.line
