"""The second page below its curves: what moved the score, how the sub-model did, which clinical values it had."""

from collections.abc import Sequence
from typing import Final

from analysis.contract import Contribution, Endpoint, JobResult, SubModel
from reports import particulars, words
from reports.drawing import Canvas
from reports.page_parts import BODY, FAINT, SECTION, section
from reports.shapes import LOWERS, QUIET, RAISES, Box

PER_ENDPOINT: Final = 4


def contributions(canvas: Canvas, box: Box, items: Sequence[Contribution]) -> None:
    """The strongest contributions of each endpoint as signed bars: to the right they raise the risk."""
    shown = [top for endpoint in Endpoint for top in _strongest(items, endpoint)]
    if not shown:
        return
    voice, x, y = canvas.voice, box.left, box.top
    bars = (box.right - 144, box.right - 62)
    zero = (bars[0] + bars[1]) // 2
    lowers, raises = voice.say("lowers"), voice.say("raises")
    section(canvas, x, y, zero - 6 - canvas.length(lowers, FAINT) - x - 10, voice.say("What moved the score"))
    canvas.text(zero - 6, y, lowers, FAINT, None, "right")
    canvas.text(zero + 6, y, raises, FAINT, box.right - zero - 6)
    y += 24
    top = y
    longest = max(abs(item.contribution) for item in shown) or 1.0
    named: set[Endpoint] = set()
    for item in shown:
        if item.endpoint not in named:
            canvas.text(x, y, str(item.endpoint), SECTION, 44)
            named.add(item.endpoint)
        _factor(canvas, x + 46, y, bars[0] - x - 58, item)
        length = round((bars[1] - bars[0]) / 2 * abs(item.contribution) / longest)
        raising = item.contribution > 0
        bar = Box(zero, y + 4, zero + length, y + 15) if raising else Box(zero - length, y + 4, zero, y + 15)
        canvas.fill(bar, RAISES if raising else LOWERS)
        canvas.text(box.right, y, particulars.signed(item.contribution, voice.code), FAINT, 58, "right")
        y += 21
    canvas.fill(Box(zero, top, zero + 1, y), QUIET)
    canvas.text(x, y + 4, voice.say("Share of each value in the score, on the log hazard scale."), FAINT, box.width)


def _strongest(items: Sequence[Contribution], endpoint: Endpoint) -> list[Contribution]:
    mine = [item for item in items if item.endpoint == endpoint]
    return sorted(mine, key=lambda item: -abs(item.contribution))[:PER_ENDPOINT]


def _factor(canvas: Canvas, x: int, y: int, width: int, item: Contribution) -> None:
    """Label and value; where there is no room for both, the label gives way."""
    code = canvas.voice.code
    whole = particulars.factor(item, code)
    bare = particulars.factor(item.model_copy(update={"unit": ""}), code)
    value = canvas.fit(whole if canvas.length(whole, FAINT) <= width // 3 else bare, width // 2, FAINT)
    room = width - canvas.length(value, FAINT) - 9
    used = canvas.text(x, y, canvas.voice.retell(item.label), BODY, room)
    canvas.text(x + used + 9, y, value, FAINT)


def validation(canvas: Canvas, box: Box, model: SubModel) -> None:
    """How the sub-model did in cross-validation, figure by figure."""
    voice = canvas.voice
    patients = max((item.patients for item in model.performance), default=0)
    title = voice.count(
        "Cross-validation of this sub-model, {number} patient",
        "Cross-validation of this sub-model, {number} patients",
        patients,
    )
    y = section(canvas, box.left, box.top, box.width, title)
    for item in model.performance[:4]:
        canvas.text(box.left, y, words.risk(item, voice.code), BODY, box.width)
        canvas.text(box.left + 16, y + 20, words.figures(item, voice.code), FAINT, box.width - 16)
        y += 43
    canvas.paragraph(box.left, y, box.width, words.intervals_are_narrow(voice.code), FAINT, 2)


def clinical(canvas: Canvas, box: Box, result: JobResult) -> None:
    """The clinical values given, by source and day; those that have no room are counted and left to the report."""
    voice = canvas.voice
    groups = particulars.clinical_values(result.clinical, result.contributions, voice.code)
    if not groups:
        return
    y = section(canvas, box.left, box.top, box.width, voice.say("Clinical values given"))
    lines = (box.bottom - y) // FAINT.line
    for shown in range(len(groups), 0, -1):
        left = len(groups) - shown
        more = voice.count("{number} more in the structured report", "{number} more in the structured report", left)
        text = " ".join([*groups[:shown], *([more] if left else [])])
        if shown == 1 or len(canvas.wrap(text, box.width, FAINT, lines + 1)) <= lines:
            canvas.paragraph(box.left, y, box.width, text, FAINT, lines)
            return
